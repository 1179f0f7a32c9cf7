"""surface-distance (DeepMind), an organ at a time."""

import surface_distance as sd
from cases import TOLERANCE_MM, mean_over_organs, run


def hausdorff(percent):
    return mean_over_organs(
        lambda truth, pred, spacing: sd.compute_robust_hausdorff(
            sd.compute_surface_distances(truth, pred, spacing), percent
        )
    )


run(
    {
        "dice": mean_over_organs(
            lambda truth, pred, spacing: sd.compute_dice_coefficient(truth, pred)
        ),
        "hausdorff": hausdorff(100),
        "hd95": hausdorff(95),
        "surface_dice": mean_over_organs(
            lambda truth, pred, spacing: sd.compute_surface_dice_at_tolerance(
                sd.compute_surface_distances(truth, pred, spacing), TOLERANCE_MM
            )
        ),
    }
)
