"""How long a prediction takes, reckoned from the patches that go through the network."""

from __future__ import annotations

import math

from gi2nnunet.manifest import DatasetScan
from gi2nnunet.nnunet.plan import PlannedConfiguration

_STEP = 0.5  # of a patch, nnU-Net's own
# Reading, resampling and writing, a million voxels: about 3 s for a scan of the usual size.
_SECONDS_PER_MILLION_VOXELS = 0.3


def count_passes(scan: DatasetScan, planned: PlannedConfiguration) -> int:
    """Return how many patches a prediction with mirroring sends through one network."""
    axes = len(planned.patch_size)
    size = [
        max(1, round(voxels * own / wanted))
        for voxels, own, wanted in zip(
            scan.shape[-axes:], scan.spacing_mm[-axes:], planned.spacing_mm, strict=True
        )
    ]
    tiles = math.prod(
        1 if voxels <= patch else math.ceil((voxels - patch) / (patch * _STEP)) + 1
        for voxels, patch in zip(size, planned.patch_size, strict=True)
    )
    slices = scan.depth if axes == 2 else 1
    return tiles * slices * (1 << axes)


def prediction_seconds(
    scan: DatasetScan,
    planned: PlannedConfiguration,
    *,
    patch_seconds: float,
    models: int,
) -> float:
    """Return the seconds that one configuration takes for a scan.

    Parameters
    ----------
    scan
        What to predict.
    planned
        With which configuration.
    patch_seconds
        Of one patch on its way forward.
    models
        Folds that are averaged.
    """
    fixed = _SECONDS_PER_MILLION_VOXELS * math.prod(scan.shape) / 1e6
    return fixed + models * count_passes(scan, planned) * patch_seconds
