"""Disk, memory and shared memory that a plan and a training take, estimated and rounded up.

The estimates are made to stop a run that cannot succeed, not to fill a disk to the last byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from gi2nnunet.core.files import find_record
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.presets import CONFIGURATIONS, Preset, PresetName
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.training.prepared import DataMark, PlannedConfiguration, completion_mark

GIB = 1 << 30
MIB = 1 << 20

# Preprocessed scans are float32 images and int8 labels, compressed without loss. Measured on
# made-up scans: 0.53 of the image if nothing was resampled; resampled voxels have more digits.
_IMAGE_BYTES = 4
_VOXEL_BYTES = _IMAGE_BYTES * 0.9 + 1 * 0.1
_PROPERTIES_BYTES = MIB  # sampled places of each label, beside each scan

# A checkpoint holds each parameter twice in float32 (weight, momentum).
_CHECKPOINT_BYTES = 8
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
    """Disk and memory, in bytes.

    Attributes
    ----------
    preprocessed, results
        Disk for scans that are not preprocessed yet, and for checkpoints.
    process_memory
        Memory of one worker that preprocesses.
    training_memory, worker_memory
        Memory of one training without its workers, and of one worker that augments.
    batch
        Shared memory of one batch of the largest configuration.
    """

    preprocessed: int
    results: int
    process_memory: int
    training_memory: int
    worker_memory: int
    batch: int

    def memory_of_training(self, *, workers: int) -> int:
        """Return the memory of one training with its workers, those for validation included."""
        everyone = workers + max(1, workers // 2) if workers else 0
        return self.training_memory + everyone * self.worker_memory

    def shared_memory(self, *, workers: int) -> tuple[int, int]:
        """Return the least and the most shared memory that a training's workers fill."""
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
    """Estimate disk and memory of planning, preprocessing and training.

    ``preprocessed`` is nnU-Net's folder of the dataset; a configuration that is not ``planned``
    there is taken from the plan for the competition's scans. ``trainings`` counts the folds to be
    trained.
    """
    known = planned or {}
    scans = [scan for scan in dataset.scans if scan.part == "train"]
    median = _median(scans, "spacing_mm") if scans else (1.0, 1.0, 1.0)
    disk, results, batch, largest = 0.0, 0.0, 0.0, 0
    for name in configurations:
        of_plan = known.get(name)
        spacing = of_plan.spacing_mm if of_plan else median
        voxels = [_count_voxels(scan, spacing) for scan in scans]
        largest = max([largest, *voxels])
        folder = of_plan.data_folder if of_plan else preprocessed / f"{preset.plans_name}_{name}"
        if not _is_whole(folder, dataset):
            disk += sum(voxels) * _VOXEL_BYTES + len(scans) * _PROPERTIES_BYTES
        stock = STOCK_PLANS.get((preset.name, name), _UNKNOWN)
        one = stock.parameters * _CHECKPOINT_BYTES
        results += (trainings * _CHECKPOINTS_KEPT + 1) * one if trainings else 0
        sizes = of_plan or stock
        batch = max(batch, sizes.batch_size * math.prod(sizes.patch_size) * _BATCH_VOXEL_BYTES)
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


def _median(
    scans: Sequence[DatasetScan], name: Literal["shape", "spacing_mm"]
) -> tuple[float, ...]:
    """Return the median of an attribute, axis by axis; nnU-Net plans for that spacing."""
    return tuple(np.median([getattr(scan, name) for scan in scans], axis=0).tolist())


def _count_voxels(scan: DatasetScan, spacing_mm: Sequence[float]) -> int:
    """Return a scan's voxels at a target spacing; a 2D one leaves the slices as they are."""
    target = (scan.spacing_mm[0], *spacing_mm) if len(spacing_mm) == 2 else spacing_mm
    return math.prod(
        max(1, round(size * own / wanted))
        for size, own, wanted in zip(scan.shape, scan.spacing_mm, target, strict=True)
    )


def _is_whole(folder: Path, dataset: Dataset) -> bool:
    mark = find_record(completion_mark(folder), DataMark)
    return mark is not None and mark["dataset"] == dataset.digest


def _label_bytes(dataset: Dataset) -> int:
    """Return the size of the training labels, which nnU-Net copies."""
    return sum(
        int(described["bytes"])
        for scan in dataset.manifest["scans"]
        for name, described in scan["files"].items()
        if name.startswith("labelsTr/")
    )


class StockPlan(NamedTuple):
    """nnU-Net's plan for the competition's scans.

    ``operations`` are floating-point operations of one patch on its way forward; ``parameters`` are
    those of the network.
    """

    batch_size: int
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    operations: float
    parameters: float


_MEDIAN_SHAPE, _IN_PLANE, _IN_SPACE = (144, 266, 266), (1.5, 1.5), (3.0, 1.5, 1.5)
STOCK_PLANS: Mapping[tuple[PresetName, str], StockPlan] = {
    ("default", "2d"): StockPlan(31, (320, 320), _IN_PLANE, 46.2e9, 33.47e6),
    ("default", "3d_fullres"): StockPlan(2, (80, 160, 160), _IN_SPACE, 1095.1e9, 31.11e6),
    ("resenc-m", "2d"): StockPlan(32, (320, 320), _IN_PLANE, 101.1e9, 105.92e6),
    ("resenc-m", "3d_fullres"): StockPlan(2, (80, 160, 128), _IN_SPACE, 1626.6e9, 102.27e6),
    ("resenc-l", "2d"): StockPlan(90, (320, 320), _IN_PLANE, 101.1e9, 105.92e6),
    ("resenc-l", "3d_fullres"): StockPlan(2, (112, 224, 224), _IN_SPACE, 5579.2e9, 102.27e6),
    ("resenc-xl", "2d"): StockPlan(133, (320, 320), _IN_PLANE, 101.1e9, 105.92e6),
    ("resenc-xl", "3d_fullres"): StockPlan(2, (128, 256, 256), _IN_SPACE, 8338.1e9, 141.81e6),
    ("tiny", "2d"): StockPlan(8, (192, 192), _IN_PLANE, 0.481e9, 0.32e6),
    ("tiny", "3d_fullres"): StockPlan(2, (32, 80, 80), _IN_SPACE, 3.774e9, 0.53e6),
}
_UNKNOWN = StockPlan(0, (), (), 0, 1e8)  # other configurations: a large network


def is_stock(dataset: Dataset) -> bool:
    """Return whether the training scans have the competition's median shape and spacing."""
    scans = [scan for scan in dataset.scans if scan.part == "train"]
    return (
        bool(scans)
        and _median(scans, "shape") == _MEDIAN_SHAPE
        and _median(scans, "spacing_mm") == _IN_SPACE
    )


def stock_plan(preset: Preset, *, folder: Path) -> dict[str, PlannedConfiguration]:
    """Return by configuration what would be planned in nnU-Net's preprocessed folder."""
    return {
        name: PlannedConfiguration(
            name=name,
            data_folder=folder / f"{preset.plans_name}_{name}",
            batch_size=stock.batch_size,
            patch_size=stock.patch_size,
            spacing_mm=stock.spacing_mm,
        )
        for name in CONFIGURATIONS
        for stock in [STOCK_PLANS[preset.name, name]]
    }


def count_operations(preset: Preset, planned: PlannedConfiguration) -> float | None:
    """Return the floating-point operations of one batch on its way forward.

    Those of the competition's plan, in proportion to the voxels of the batch; ``None`` for a
    configuration that is not planned there.
    """
    stock = STOCK_PLANS.get((preset.name, planned.name))
    if stock is None:
        return None
    of_voxel = stock.operations / math.prod(stock.patch_size)
    return of_voxel * planned.batch_size * math.prod(planned.patch_size)
