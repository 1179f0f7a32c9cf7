"""What nnU-Net plans for the competition's own scans, known before anything is planned.

Made by ``python scripts/stock_plans.py`` with nnU-Net 2.8.1, from the scans' sizes alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.plan import PlannedConfiguration
from gi2nnunet.nnunet.presets import CONFIGURATIONS, Preset, PresetName

# Shape and spacing (mm), ``(z, y, x)``, and how many of the 274 scans have them.
GEOMETRIES = (
    ((144, 266, 266), (3.0, 1.5, 1.5), 180),
    ((144, 310, 360), (3.0, 1.5, 1.5), 78),
    ((80, 276, 276), (3.0, 1.63, 1.63), 15),
    ((144, 234, 234), (3.0, 1.5, 1.5), 1),
)
_MEDIAN_SHAPE, _MEDIAN_SPACING_MM = GEOMETRIES[0][:2]

# Batch, patch, spacing in mm; 10^9 operations of one patch forward; millions of parameters.
_PLANS: dict[
    tuple[PresetName, str], tuple[int, tuple[int, ...], tuple[float, ...], float, float]
] = {
    ("default", "2d"): (31, (320, 320), (1.5, 1.5), 46.2, 33.47),
    ("default", "3d_fullres"): (2, (80, 160, 160), (3.0, 1.5, 1.5), 1095.1, 31.11),
    ("resenc-m", "2d"): (32, (320, 320), (1.5, 1.5), 101.1, 105.92),
    ("resenc-m", "3d_fullres"): (2, (80, 160, 128), (3.0, 1.5, 1.5), 1626.6, 102.27),
    ("resenc-l", "2d"): (90, (320, 320), (1.5, 1.5), 101.1, 105.92),
    ("resenc-l", "3d_fullres"): (2, (112, 224, 224), (3.0, 1.5, 1.5), 5579.2, 102.27),
    ("resenc-xl", "2d"): (133, (320, 320), (1.5, 1.5), 101.1, 105.92),
    ("resenc-xl", "3d_fullres"): (2, (128, 256, 256), (3.0, 1.5, 1.5), 8338.1, 141.81),
    ("tiny", "2d"): (8, (192, 192), (1.5, 1.5), 0.5, 0.32),
    ("tiny", "3d_fullres"): (2, (32, 80, 80), (3.0, 1.5, 1.5), 3.8, 0.53),
}
_UNKNOWN_PARAMETERS = 1e8


def is_stock(dataset: Dataset) -> bool:
    """Return whether the training scans are, by their medians, those that the plans are for."""
    scans = [scan for scan in dataset.scans if scan.part == "train"]
    return bool(scans) and (
        _median([scan.shape for scan in scans]) == _MEDIAN_SHAPE
        and _median([scan.spacing_mm for scan in scans]) == _MEDIAN_SPACING_MM
    )


def stock_plan(preset: Preset, *, folder: Path) -> dict[str, PlannedConfiguration]:
    """Return what would be planned, by configuration.

    Parameters
    ----------
    preset
        How it would be planned.
    folder
        nnU-Net's preprocessed folder of the dataset.
    """
    return {
        name: PlannedConfiguration(
            name=name,
            data_folder=folder / f"{preset.plans_name}_{name}",
            batch_size=_PLANS[preset.name, name][0],
            patch_size=_PLANS[preset.name, name][1],
            spacing_mm=_PLANS[preset.name, name][2],
        )
        for name in CONFIGURATIONS
    }


def stock_flops(preset: Preset, configuration: str) -> float:
    """Return the floating-point operations of one patch on its way forward."""
    return _PLANS[preset.name, configuration][3] * 1e9


def stock_parameters(preset: Preset, configuration: str) -> float:
    """Return the number of parameters of the network; a large one's for other configurations."""
    known = _PLANS.get((preset.name, configuration))
    return known[4] * 1e6 if known else _UNKNOWN_PARAMETERS


def batch_voxels(preset: Preset, configuration: str) -> int:
    """Return the voxels of one batch; 0 for configurations that are not planned for these data."""
    known = _PLANS.get((preset.name, configuration))
    return known[0] * math.prod(known[1]) if known else 0


def _median(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(np.median(np.array(values), axis=0).tolist())
