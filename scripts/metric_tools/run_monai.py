"""MONAI's DiceMetric, HausdorffDistanceMetric and SurfaceDiceMetric, defaults as they are."""

import torch
from cases import TOLERANCE_MM, Case, run
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDiceMetric


def aggregate(metric, case: Case, **given) -> float:
    pred, truth = (torch.from_numpy(masks)[None].float() for masks in (case.pred, case.truth))
    metric(pred, truth, **given)
    return metric.aggregate().item()


def surface_dice(case: Case) -> float:
    # The default leaves the first of several channels out; a threshold for each that is left.
    thresholds = [TOLERANCE_MM] * max(len(case.truth) - 1, 1)
    return aggregate(SurfaceDiceMetric(thresholds), case, spacing=case.spacing_mm)


run(
    {
        "dice": lambda case: aggregate(DiceMetric(), case),
        "hausdorff": lambda case: aggregate(
            HausdorffDistanceMetric(), case, spacing=case.spacing_mm
        ),
        "hd95": lambda case: aggregate(
            HausdorffDistanceMetric(percentile=95), case, spacing=case.spacing_mm
        ),
        "surface_dice": surface_dice,
    }
)
