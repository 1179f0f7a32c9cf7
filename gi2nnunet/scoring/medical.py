"""Medical measures beside the competition's score: surface Dice, HD95 and volume error.

Surface Dice at a tolerance, the 95th percentile of the surface distances (HD95), and the volume
error, per organ of one scan. The surface measures are MONAI's, which is imported at the first use,
because that takes seconds.

References
----------
Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy,
J Med Internet Res 23(7), e26151, 2021 (surface Dice).
https://docs.monai.io/en/stable/metrics.html
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.files import FloatOrNan
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, find_box

Spacing = tuple[float, float, float]

DEFAULT_TOLERANCE_MM = 3.0  # one slice's thickness
_MM3_PER_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class OrganMeasures:
    """Measures of one organ in one scan.

    Attributes
    ----------
    surface_dice
        Share of both surfaces, by area, that lies within the tolerance of the other, in [0, 1];
        0 if one mask is empty, NaN if both are.
    hd95_mm
        The larger of the two directions' 95th percentile of distances between surface voxels, in
        mm; NaN if either mask is empty.
    volume_error_ml
        Predicted minus true volume in ml.
    """

    surface_dice: FloatOrNan
    hd95_mm: FloatOrNan
    volume_error_ml: FloatOrNan
    volume_true_ml: FloatOrNan

    @property
    def counted_error_ml(self) -> float:
        """Return the volume error as a mean counts it: NaN if neither mask has the organ."""
        return math.nan if math.isnan(self.surface_dice) else self.volume_error_ml


@contextmanager
def silence_library() -> Iterator[None]:
    """Ignore a warning of MONAI 1.6 about its own code, in the whole process.

    Threads that measure share one such context, because each would end that of the others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def measure_label_maps(
    pred: LabelMap,
    truth: LabelMap,
    *,
    spacing_mm: Spacing,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
) -> dict[str, OrganMeasures]:
    """Measure two bit-coded label maps of one scan; inside :func:`silence_library`.

    Parameters
    ----------
    pred, truth
        ``(z, y, x)`` uint8 of one shape, bit-coded.
    tolerance_mm
        The distance up to which two surfaces count as the same.

    Raises
    ------
    ValueError
        For arrays that are not 3D or differ in shape.
    """
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(f"label maps of shapes {pred.shape} and {truth.shape}: need one 3D shape")
    return {
        organ: _measure_masks(
            (pred & bit) != 0, (truth & bit) != 0, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm
        )
        for organ, bit in zip(ORGANS, ORGAN_BITS, strict=True)
    }


def _measure_masks(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], *, spacing_mm: Spacing, tolerance_mm: float
) -> OrganMeasures:
    voxel_ml = math.prod(spacing_mm) / _MM3_PER_ML
    n_pred, n_true = int(np.count_nonzero(pred)), int(np.count_nonzero(truth))
    surface_dice = hd95_mm = math.nan
    if n_pred and n_true:
        surface_dice, hd95_mm = _measure_surfaces(
            pred, truth, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm
        )
    elif n_pred or n_true:
        surface_dice = 0.0
    return OrganMeasures(
        surface_dice=surface_dice,
        hd95_mm=hd95_mm,
        volume_error_ml=(n_pred - n_true) * voxel_ml,
        volume_true_ml=n_true * voxel_ml,
    )


def _measure_surfaces(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], *, spacing_mm: Spacing, tolerance_mm: float
) -> tuple[float, float]:
    torch, surface_dice, hausdorff = _load()
    box = find_box(pred, truth)
    # A rim of background, so that a surface at the box's face is a surface to MONAI too.
    batch = [torch.from_numpy(np.pad(mask[box], 2))[None, None] for mask in (pred, truth)]
    common = {"include_background": True, "spacing": tuple(map(float, spacing_mm))}
    dice = surface_dice(*batch, class_thresholds=[tolerance_mm], use_subvoxels=True, **common)
    hd95 = hausdorff(*batch, percentile=95, **common)
    return float(dice), float(hd95)


def _load() -> tuple[Any, Callable[..., Any], Callable[..., Any]]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tqdm, in a notebook without ipywidgets
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice
    return torch, compute_surface_dice, compute_hausdorff_distance
