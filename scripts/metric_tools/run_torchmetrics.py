"""torchmetrics' DiceScore of the volume, and HausdorffDistance of a batch of slices.

HausdorffDistance refuses volumes, and slices on which an organ is empty in both masks.
"""

import torch
from cases import Case, run
from torchmetrics.segmentation import DiceScore, HausdorffDistance


def dice(case: Case) -> float:
    pred, truth = (torch.from_numpy(masks)[None].int() for masks in (case.pred, case.truth))
    return DiceScore(num_classes=len(case.truth))(pred, truth).item()


def hausdorff(case: Case) -> float:
    used = (case.pred | case.truth).any(axis=(0, 2, 3))
    pred, truth = (
        torch.from_numpy(masks[:, used]).transpose(0, 1).int() for masks in (case.pred, case.truth)
    )
    metric = HausdorffDistance(num_classes=len(case.truth), spacing=list(case.spacing_mm[1:]))
    return metric(pred, truth).item()


run({"dice": dice, "hausdorff": hausdorff})
