"""medpy's dc, hd and hd95, an organ at a time."""

from cases import mean_over_organs, run
from medpy.metric.binary import dc, hd, hd95

run(
    {
        "dice": mean_over_organs(lambda truth, pred, spacing: dc(pred, truth)),
        "hausdorff": mean_over_organs(lambda truth, pred, spacing: hd(pred, truth, spacing)),
        "hd95": mean_over_organs(lambda truth, pred, spacing: hd95(pred, truth, spacing)),
    }
)
