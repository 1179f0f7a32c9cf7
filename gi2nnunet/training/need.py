"""What a plan and a training are going to take: disk, memory, shared memory.

Estimates, rounded up: they are to tell a run that cannot succeed, not to fill a disk to the brim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gi2nnunet.core.files import read_json
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.presets import CONFIGURATIONS, Preset, PresetName
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.training.plan import PlannedConfiguration, completion_mark

GIB = 1 << 30
MIB = 1 << 20

# Preprocessed scans are float32 images and int8 labels, compressed without loss. Measured on
# made-up scans: 0.53 of the image where nothing was resampled; resampled voxels have more digits.
_IMAGE_BYTES, _IMAGE_COMPRESSED = 4, 0.9
_LABEL_BYTES, _LABEL_COMPRESSED = 1, 0.1
_PROPERTIES_BYTES = MIB  # sampled places of each label, beside each scan

# A checkpoint holds each parameter twice in float32 (weight, momentum).
CHECKPOINT_BYTES = 8
_CHECKPOINTS_KEPT = 2  # the last and the best; one more while it is written

# A process that has imported nnU-Net's trainer holds 0.52 GiB of its own and 0.4 GiB that processes
# share, as measured with PyTorch 2.15; a training also holds the network and its optimiser. Workers
# that augment are forked and share most of that.
_PROCESS_BYTES = int(0.6 * GIB)
_WORKER_BYTES = int(0.25 * GIB)
_TRAINING_BYTES = 3 * GIB
_COPIES_OF_A_SCAN = 8  # of its float32 voxels, at the height of resampling

# What nnU-Net's augmentation keeps ready beside one batch a worker.
_CACHED_TRAINING, _CACHED_VALIDATION = 6, 3
# Of each voxel of a batch: the image in float32, the labels as three masks in int16, in full size
# and, for deep supervision, in halves of it.
_BATCH_VOXEL_BYTES = 4 + 3 * 2 * 4 / 3


@dataclass(frozen=True, kw_only=True)
class Need:
    """What is going to be taken, in bytes.

    Attributes
    ----------
    preprocessed
        Of disk, by what is not preprocessed yet.
    results
        Of disk, by checkpoints.
    process_memory
        Of memory, by one worker that preprocesses.
    training_memory
        Of memory, by one training without its workers.
    worker_memory
        Of memory, by one worker that augments.
    batch
        Of shared memory, by one batch of the largest configuration.
    """

    preprocessed: int
    results: int
    process_memory: int
    training_memory: int
    worker_memory: int
    batch: int

    def shared_memory(self, *, workers: int) -> tuple[int, int]:
        """Return what a training's workers fill in shared memory: the least, and at most."""
        if not workers:
            return 0, 0
        validation = max(1, workers // 2)
        ready = max(_CACHED_TRAINING, workers // 2) + max(_CACHED_VALIDATION, workers // 4)
        return 2 * self.batch, (ready + workers + validation) * self.batch


def estimate_need(
    dataset: Dataset,
    *,
    preprocessed: Path,
    preset: Preset,
    configurations: Sequence[str],
    planned: Mapping[str, PlannedConfiguration] | None = None,
    trainings: int = 0,
) -> Need:
    """Estimate what planning, preprocessing and training are going to take.

    Parameters
    ----------
    dataset
        A converted dataset.
    preprocessed
        nnU-Net's preprocessed folder of it.
    preset
        How it is planned.
    configurations
        Which ones.
    planned
        What nnU-Net planned, where it has; else its usual plan for such data is taken.
    trainings
        How many folds of each configuration are to be trained.
    """
    known = planned or {}
    scans = [scan for scan in dataset.scans if scan.part == "train"]
    median = _median_spacing(scans)
    disk, results, batch, largest = 0.0, 0.0, 0.0, 0
    for name in configurations:
        of_plan = known.get(name)
        spacing = of_plan.spacing_mm if of_plan else median
        voxels = [_count_voxels(scan, spacing) for scan in scans]
        largest = max([largest, *voxels])
        folder = of_plan.data_folder if of_plan else preprocessed / f"{preset.plans_name}_{name}"
        if not _is_whole(folder, dataset):
            disk += sum(voxels) * _IMAGE_BYTES * _IMAGE_COMPRESSED
            disk += sum(voxels) * _LABEL_BYTES * _LABEL_COMPRESSED
            disk += len(scans) * _PROPERTIES_BYTES
        one = stock_parameters(preset, name) * CHECKPOINT_BYTES
        results += (trainings * _CHECKPOINTS_KEPT + 1) * one if trainings else 0
        of_batch = (
            of_plan.batch_size * math.prod(of_plan.patch_size)
            if of_plan
            else batch_voxels(preset, name)
        )
        batch = max(batch, of_batch * _BATCH_VOXEL_BYTES)
    if disk and not (preprocessed / "gt_segmentations").is_dir():
        disk += _label_bytes(dataset)
    return Need(
        preprocessed=math.ceil(disk),
        results=math.ceil(results),
        process_memory=_PROCESS_BYTES + _COPIES_OF_A_SCAN * largest * _IMAGE_BYTES,
        training_memory=_TRAINING_BYTES if preset.name != "tiny" else GIB,
        worker_memory=_WORKER_BYTES + math.ceil(2 * batch),
        batch=math.ceil(batch),
    )


def _median_spacing(scans: Sequence[DatasetScan]) -> tuple[float, ...]:
    """Return the spacing that nnU-Net plans for by default, ``(z, y, x)`` in mm."""
    if not scans:
        return (1.0, 1.0, 1.0)
    return tuple(np.median([scan.spacing_mm for scan in scans], axis=0).tolist())


def _count_voxels(scan: DatasetScan, spacing_mm: Sequence[float]) -> int:
    """Return a scan's voxels at a target spacing; a 2D one leaves the slices as they are."""
    target = (scan.spacing_mm[0], *spacing_mm) if len(spacing_mm) == 2 else spacing_mm
    return math.prod(
        max(1, round(size * own / wanted))
        for size, own, wanted in zip(scan.shape, scan.spacing_mm, target, strict=True)
    )


def _is_whole(folder: Path, dataset: Dataset) -> bool:
    mark = read_json(completion_mark(folder))
    return bool(mark) and mark.get("dataset") == dataset.digest


def _label_bytes(dataset: Dataset) -> int:
    """Return the size of the training labels, which nnU-Net copies."""
    return sum(
        int(described["bytes"])
        for scan in dataset.manifest["scans"]
        for name, described in scan["files"].items()
        if name.startswith("labelsTr/")
    )


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
