"""What is chosen on out-of-fold predictions: thresholds and the like, for the metric itself.

Each organ is searched on its own, one property after another, on the grids below; the metric's mean
over rows and its mean over distances both fall apart by organ. What is reported is cross-fitted:
each fold's scans are decided by what was chosen without them. An organ's choice is made only where
that gain's interval over patients lies above zero; else the organ keeps the plain threshold.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.decision import PLAIN, Decision, OrganDecision, decide_organ
from gi2nnunet.kaggle import ORGANS, patient_of
from gi2nnunet.labels import ORGAN_BITS, LabelMap
from gi2nnunet.metric import combine, dice_of_counts, normalised_hausdorff, slice_hausdorff
from gi2nnunet.probabilities import EightBits

TunedMetric = Literal["per-class", "slice-2d"]
"""Conventions whose means fall apart by organ."""

THRESHOLDS = tuple(round(0.5 + step * 0.05, 2) for step in (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5))
GATES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95)
SMALLEST_ML = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
FILL_SLICES = (0, 1, 2, 4)
N_RESAMPLES = 2000
CONFIDENCE = 0.95

Sums = NDArray[np.float64]
"""Sum of Dice, number of rows, sum of distances, number of distances: ``(4,)``."""
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TuningScan:
    """A scan with its truth and out-of-fold probabilities.

    Attributes
    ----------
    scan_id
        The scan.
    fold
        The fold whose models did not see it.
    load
        Gives the probabilities by configuration, the truth (bit-coded) and the voxel spacing in mm.
    """

    scan_id: str
    fold: int
    load: Callable[[], tuple[Mapping[str, EightBits], LabelMap, tuple[float, float, float]]]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A cross-fitted gain over the plain threshold, with its interval over patients.

    Attributes
    ----------
    plain, tuned
        Scores; NaN where nothing was counted.
    low, high
        Interval of ``tuned - plain``; NaN of fewer than two patients.
    tuned_low, tuned_high
        Interval of ``tuned`` itself, likewise.
    """

    plain: float
    tuned: float
    low: float = math.nan
    high: float = math.nan
    tuned_low: float = math.nan
    tuned_high: float = math.nan

    @property
    def gain(self) -> float:
        """Return ``tuned - plain``."""
        return self.tuned - self.plain


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was chosen, and what it gains.

    Attributes
    ----------
    metric
        The convention.
    decision
        What to decide by: the organs whose choice gains.
    found
        What the search found for every organ, made or not.
    gains
        Cross-fitted, by organ and for ``all`` (with what was made alone).
    n_scans, n_patients, n_folds
        What it was chosen on.
    seed
        Of the intervals' draws.
    """

    metric: TunedMetric
    decision: Decision
    found: Decision
    gains: Mapping[str, Gain]
    n_scans: int
    n_patients: int
    n_folds: int
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "decision": self.decision.to_json(),
            "found": self.found.to_json(),
            "gains": {
                name: {
                    key: None if math.isnan(value) else value
                    for key, value in (*vars(gain).items(), ("gain", gain.gain))
                }
                for name, gain in self.gains.items()
            },
            "n_scans": self.n_scans,
            "n_patients": self.n_patients,
            "n_folds": self.n_folds,
            "seed": self.seed,
        }


def tune_decision(
    scans: Sequence[TuningScan],
    *,
    configurations: Sequence[str],
    metric: TunedMetric = "per-class",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Choose how to decide, for the competition's metric and organ by organ.

    Parameters
    ----------
    scans
        Of at least two folds, each patient in one.
    configurations
        Their names, in the order of the ensemble.
    metric
        The convention.
    seed
        Of the bootstrap's draws.
    jobs
        Scans in work at once; by default one a core. The result does not depend on it.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    ValueError
        For fewer than two folds, or a patient in two of them.
    """
    folds = sorted({scan.fold for scan in scans})
    fold_of: dict[str, int] = {}
    for scan in scans:
        if fold_of.setdefault(patient_of(scan.scan_id), scan.fold) != scan.fold:
            raise ValueError(f"{patient_of(scan.scan_id)} is in two folds")
    if len(folds) < 2:
        raise ValueError("cross-fitting needs two folds")
    table = _Table(scans, metric=metric, jobs=jobs, progress=progress)
    # Without a fold's scans, and (None) on all of them.
    subsets: dict[int | None, list[int]] = {
        left_out: [n for n, scan in enumerate(scans) if scan.fold != left_out]
        for left_out in (None, *folds)
    }
    stages: list[tuple[str, list[dict[str, Any]]]] = [
        (
            "blend and threshold",
            [
                {"weights": weights, "threshold": threshold}
                for weights in list_blends(configurations)
                for threshold in THRESHOLDS
            ],
        ),
        ("empty-slice gate", [{"gate": value} for value in GATES]),
        ("smallest component", [{"smallest_ml": value} for value in SMALLEST_ML]),
        ("gaps between slices", [{"fill_slices": value} for value in FILL_SLICES]),
    ]
    best = {(organ, subset): PLAIN for organ in range(len(ORGANS)) for subset in subsets}
    for name, options in stages:
        candidates = {
            key: [replace(choice, **option) for option in options] for key, choice in best.items()
        }
        wanted: dict[int, list[OrganDecision]] = {organ: [] for organ in range(len(ORGANS))}
        for (organ, _), some in candidates.items():
            wanted[organ] += [choice for choice in some if choice not in wanted[organ]]
        table.fill(wanted, what=f"choosing: {name}")
        for (organ, subset), some in candidates.items():
            totals = [table.add_up(organ, choice, subsets[subset]) for choice in some]
            scores = [-1.0 if math.isnan(s := _score(total)) else s for total in totals]
            # The first of equals: the grids begin with the plain way.
            best[organ, subset] = some[scores.index(max(scores))]
    plain = np.stack([table.list_sums(organ, [PLAIN] * len(scans)) for organ in range(len(ORGANS))])
    tuned = np.stack(
        [
            table.list_sums(organ, [best[organ, scan.fold] for scan in scans])
            for organ in range(len(ORGANS))
        ]
    )
    patients = [patient_of(scan.scan_id) for scan in scans]
    gains = {
        name: _gain(plain[[organ]], tuned[[organ]], patients, seed=seed)
        for organ, name in enumerate(ORGANS)
    }
    made = [gains[name].gain > 0 and gains[name].low > 0 for name in ORGANS]
    mixed = np.where(np.array(made)[:, None, None], tuned, plain)
    found = {name: best[organ, None] for organ, name in enumerate(ORGANS)}
    return Tuning(
        metric=metric,
        decision=Decision(
            organs={
                name: found[name] for name, is_made in zip(ORGANS, made, strict=True) if is_made
            }
        ),
        found=Decision(organs=found),
        gains={**gains, "all": _gain(plain, mixed, patients, seed=seed)},
        n_scans=len(scans),
        n_patients=len(set(patients)),
        n_folds=len(folds),
        seed=seed,
    )


def list_blends(configurations: Sequence[str]) -> list[tuple[tuple[str, float], ...]]:
    """Return the blends that are tried: the mean, each alone, and quarters between two of them."""
    blends: list[tuple[tuple[str, float], ...]] = [()]
    if len(configurations) < 2:
        return blends
    blends += [((name, 1.0),) for name in configurations]
    for first, second in combinations(configurations, 2):
        shares = (0.25, 0.75) if len(configurations) == 2 else (0.25, 0.5, 0.75)
        blends += [((first, share), (second, 1 - share)) for share in shares]
    return blends


def measure_plain(
    scans: Sequence[TuningScan],
    blends: Mapping[str, tuple[tuple[str, float], ...]],
    *,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Gain]:
    """Return the plain score of several blends, by name, each against the first of them."""
    table = _Table(scans, metric=metric, jobs=jobs, progress=progress)
    choices = {name: replace(PLAIN, weights=weights) for name, weights in blends.items()}
    table.fill(
        {organ: list(choices.values()) for organ in range(len(ORGANS))}, what="scoring models"
    )
    sums = {
        name: np.stack(
            [table.list_sums(organ, [choice] * len(scans)) for organ in range(len(ORGANS))]
        )
        for name, choice in choices.items()
    }
    first = next(iter(sums.values()))
    patients = [patient_of(scan.scan_id) for scan in scans]
    return {name: _gain(first, values, patients, seed=seed) for name, values in sums.items()}


class _Table:
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
        self._jobs = jobs or os.cpu_count() or 1
        self._progress = progress or (lambda done, total, what: None)
        self._sums: dict[tuple[int, int, OrganDecision], Sums] = {}

    def fill(self, wanted: Mapping[int, Sequence[OrganDecision]], *, what: str) -> None:
        """Measure what is not there yet."""
        missing = {
            organ: [c for c in choices if (0, organ, c) not in self._sums]
            for organ, choices in wanted.items()
        }
        if not any(missing.values()):
            return
        measure = partial(_measure_scan, wanted=missing, metric=self._metric)
        with ThreadPoolExecutor(self._jobs, thread_name_prefix="tune") as pool:
            for number, sums in enumerate(pool.map(measure, self._scans)):
                for (organ, choice), values in sums.items():
                    self._sums[number, organ, choice] = values
                self._progress(number + 1, len(self._scans), what)

    def add_up(self, organ: int, choice: OrganDecision, numbers: Iterable[int]) -> Sums:
        total: Sums = np.sum([self._sums[number, organ, choice] for number in numbers], axis=0)
        return total

    def list_sums(self, organ: int, choices: Sequence[OrganDecision]) -> NDArray[np.float64]:
        return np.stack([self._sums[n, organ, choice] for n, choice in enumerate(choices)])


def _measure_scan(
    scan: TuningScan, *, wanted: Mapping[int, Sequence[OrganDecision]], metric: TunedMetric
) -> dict[tuple[int, OrganDecision], Sums]:
    probabilities, truth_map, spacing_mm = scan.load()
    voxel_ml = math.prod(spacing_mm) / 1000
    found = {}
    lowest = min(THRESHOLDS) * 255
    for organ, choices in wanted.items():
        if not choices:
            continue
        truth = (truth_map & ORGAN_BITS[organ]) != 0
        volumes = {name: array[organ] for name, array in probabilities.items()}
        # No blend exceeds the lowest threshold where none of its parts does.
        box = _find_box([truth, *(volume > lowest for volume in volumes.values())])
        inside = {name: volume[box] for name, volume in volumes.items()}
        for choice in choices:
            mask = decide_organ(inside, choice, voxel_ml=voxel_ml, scale=255.0)
            found[organ, choice] = _add_scan(mask, truth[box], shape=truth.shape, metric=metric)
    return found


def _find_box(masks: Sequence[NDArray[np.bool_]]) -> tuple[slice, ...]:
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        line = np.logical_or.reduce([mask.any(axis=others) for mask in masks])
        places = np.flatnonzero(line)
        spans.append(slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1))
    return tuple(spans)


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


def _score(sums: Sums) -> float:
    """Return the score of sums; NaN where a mean has nothing."""
    if sums[1] == 0 or sums[3] == 0:
        return math.nan
    return combine(float(sums[0] / sums[1]), float(sums[2] / sums[3]))


def _gain(
    plain: NDArray[np.float64], tuned: NDArray[np.float64], patients: Sequence[str], *, seed: int
) -> Gain:
    """Compare ``(organs, scans, 4)`` sums; the same patients are drawn on both sides."""
    names = list(dict.fromkeys(patients))
    rows = np.zeros((len(names), len(patients)))
    for number, patient in enumerate(patients):
        rows[names.index(patient), number] = 1
    both = [rows @ side.sum(axis=0) for side in (plain, tuned)]
    before, after = (_score(side.sum(axis=0)) for side in both)
    if len(names) < 2:
        return Gain(plain=before, tuned=after)
    chance = np.random.default_rng(seed)
    share = np.full(len(names), 1 / len(names))
    drawn = chance.multinomial(len(names), share, size=N_RESAMPLES).astype(np.float64)
    scores = np.array([[_score(sums) for sums in drawn @ side] for side in both])
    scores = scores[:, ~np.isnan(scores).any(axis=0)]
    if not scores.size:
        return Gain(plain=before, tuned=after)
    quantiles = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(scores[1] - scores[0], quantiles).tolist()
    tuned_low, tuned_high = np.quantile(scores[1], quantiles).tolist()
    return Gain(
        plain=before, tuned=after, low=low, high=high, tuned_low=tuned_low, tuned_high=tuned_high
    )
