"""SimpleITK's LabelOverlapMeasures and HausdorffDistance filters, an organ at a time."""

import numpy as np
import SimpleITK
from cases import mean_over_organs, run


def to_images(truth, pred, spacing):
    images = [SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (truth, pred)]
    for image in images:
        image.SetSpacing(spacing[::-1])  # x, y, z
    return images


def dice(truth, pred, spacing):
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*to_images(truth, pred, spacing))
    return overlap.GetDiceCoefficient()


def hausdorff(truth, pred, spacing):
    distance = SimpleITK.HausdorffDistanceImageFilter()
    distance.Execute(*to_images(truth, pred, spacing))
    return distance.GetHausdorffDistance()


run({"dice": mean_over_organs(dice), "hausdorff": mean_over_organs(hausdorff)})
