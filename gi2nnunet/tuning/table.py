"""What each choice of how to decide an organ comes to on each scan: sums that add up to scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.progress import Progress, ignore
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, find_box
from gi2nnunet.formats.probabilities import EightBits, TuningScan, read_probabilities
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.postprocess import OrganDecision, decide_organ
from gi2nnunet.prediction.out_of_fold import OutOfFold
from gi2nnunet.scoring.bootstrap import Sums
from gi2nnunet.scoring.conventions import TunedMetric
from gi2nnunet.scoring.metric import dice_of_counts, normalised_hausdorff, slice_hausdorff


class ChoiceTable:
    """Sums by scan, organ and choice; filled scan by scan, as no more than a few fit in memory."""

    def __init__(
        self,
        scans: Sequence[TuningScan],
        *,
        metric: TunedMetric,
        jobs: int | None,
        progress: Progress | None,
    ) -> None:
        self._scans = scans
        self._metric: TunedMetric = metric
        self._jobs = jobs or count_cores()
        self._progress = progress or ignore
        self._sums: dict[tuple[int, int, OrganDecision], Sums] = {}

    def fill(self, wanted: Sequence[Mapping[int, Sequence[OrganDecision]]], *, what: str) -> None:
        """Measure what is wanted of each scan, by organ, and not there yet."""
        missing = [
            {
                organ: list(dict.fromkeys(c for c in choices if (n, organ, c) not in self._sums))
                for organ, choices in some.items()
            }
            for n, some in enumerate(wanted)
        ]
        if not any(any(some.values()) for some in missing):
            return
        measure = partial(_measure_scan, metric=self._metric)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="tune") as pool:
            for number, sums in enumerate(pool.map(measure, self._scans, missing)):
                for (organ, choice), values in sums.items():
                    self._sums[number, organ, choice] = values
                self._progress(number + 1, len(self._scans), what)

    def add_up(self, organ: int, choice: OrganDecision, numbers: Iterable[int]) -> Sums:
        """Return the sums of several scans together."""
        total: Sums = np.sum([self._sums[number, organ, choice] for number in numbers], axis=0)
        return total

    def list_sums(self, organ: int, choices: Sequence[OrganDecision]) -> NDArray[np.float64]:
        """Return each scan's own sums ``(scans, 4)``, of one choice a scan."""
        return np.stack([self._sums[n, organ, choice] for n, choice in enumerate(choices)])


def _measure_scan(
    scan: TuningScan, wanted: Mapping[int, Sequence[OrganDecision]], *, metric: TunedMetric
) -> dict[tuple[int, OrganDecision], Sums]:
    if not any(wanted.values()):
        return {}
    probabilities, truth_map, spacing_mm = scan.load()
    voxel_ml = math.prod(spacing_mm) / 1000
    found = {}
    for organ, choices in wanted.items():
        if not choices:
            continue
        truth = (truth_map & ORGAN_BITS[organ]) != 0
        volumes = {name: array[organ] for name, array in probabilities.items()}
        # No blend exceeds the lowest threshold where none of its parts does.
        lowest = min(choice.threshold for choice in choices) * 255
        box = find_box(truth, *(volume > lowest for volume in volumes.values()))
        inside = {name: volume[box] for name, volume in volumes.items()}
        for choice in choices:
            mask = decide_organ(inside, choice, voxel_ml=voxel_ml, scale=255.0)
            found[organ, choice] = _add_scan(mask, truth[box], shape=truth.shape, metric=metric)
    return found


def _add_scan(
    mask: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    *,
    shape: tuple[int, ...],
    metric: TunedMetric,
) -> Sums:
    """Return what one organ of one scan adds; slices outside the crop are empty in both."""
    depth, height, width = shape
    dice = dice_of_counts(
        np.count_nonzero(mask & truth, axis=(1, 2)),
        np.count_nonzero(mask, axis=(1, 2)),
        np.count_nonzero(truth, axis=(1, 2)),
    )
    if metric == "per-class":
        distances = np.array([normalised_hausdorff(mask, truth, shape=(depth, height, width))])
    else:
        dice[~truth.any(axis=(1, 2))] = np.nan
        inside = slice_hausdorff(mask, truth, shape=(height, width))
        distances = np.concatenate([inside, np.zeros(depth - len(inside))])
    return np.array(
        [
            np.nansum(dice),
            np.count_nonzero(~np.isnan(dice)),
            np.nansum(distances),
            np.count_nonzero(~np.isnan(distances)),
        ]
    )


def list_tuning_scans(
    dataset: Dataset, predicted: OutOfFold, *, by_folder: bool = False
) -> list[TuningScan]:
    """Return the scans with their truth and predictions, read when they are needed.

    ``by_folder`` names the probabilities by model folder in place of configuration.
    """
    names = {
        model.folder.name if by_folder else model.configuration: model for model in predicted.models
    }
    return [
        TuningScan(
            scan_id=scan_id,
            fold=fold,
            load=partial(
                _load,
                dataset,
                scan_id,
                {name: predicted.path(model, scan_id) for name, model in names.items()},
            ),
        )
        for scan_id, fold in predicted.fold_of.items()
    ]


def _load(
    dataset: Dataset, scan_id: str, paths: Mapping[str, Path]
) -> tuple[dict[str, EightBits], LabelMap, tuple[float, float, float]]:
    truth = read_volume(dataset.label_path(scan_id))
    found = {name: read_probabilities(path).array for name, path in paths.items()}
    for name, array in found.items():
        if array.shape[1:] != truth.array.shape:
            raise InputError(
                f"{paths[name]}: found {array.shape[1:]} voxels; expected {truth.array.shape}, as "
                "the scan has. Delete it and run gi2nnunet out-of-fold again."
            )
    return found, truth.array.astype(np.uint8), truth.spacing_mm
