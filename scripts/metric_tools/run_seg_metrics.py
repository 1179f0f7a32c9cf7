"""seg-metrics' write_metrics on label maps, an image at a time; the mean of its values by label."""

import numpy as np
from cases import Case, run, to_labels
from seg_metrics.seg_metrics import write_metrics


def measure(case: Case, name: str) -> float:
    found = write_metrics(
        labels=list(range(1, len(case.truth) + 1)),
        gdth_img=to_labels(case.truth),
        pred_img=to_labels(case.pred),
        spacing=np.array(case.spacing_mm),
        metrics=[name],
    )
    return float(np.mean(found[0][name]))


run(
    {
        "dice": lambda case: measure(case, "dice"),
        "hausdorff": lambda case: measure(case, "hd"),
        "hd95": lambda case: measure(case, "hd95"),
    }
)
