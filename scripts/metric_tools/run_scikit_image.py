"""scikit-image's hausdorff_distance, an organ at a time: it takes no spacing."""

from cases import mean_over_organs, run
from skimage.metrics import hausdorff_distance

run({"hausdorff": mean_over_organs(lambda truth, pred, spacing: hausdorff_distance(truth, pred))})
