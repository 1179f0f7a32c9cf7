"""Search of the post-processing on out-of-fold predictions, for the metric itself.

Each organ is searched on its own, one property after another, on the grids below, for the score of
all organs with the others plain. Scores are cross-fitted: each fold's scans use the settings that
were chosen without them. A property is kept only if the cross-fitted score is higher with it than
without; an organ's settings are used only if the interval of their gain over patients lies above
zero. For the total gain that is reported, both are decided on the other folds only, fold by fold:
a scan never influences whether its own setting is used.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.frames import ShownAsTable
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.ids import ORGANS, patient_of
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, find_box
from gi2nnunet.formats.probabilities import EightBits, TuningScan
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.models import Ensemble
from gi2nnunet.nnunet.postprocess import PLAIN, Decision, OrganDecision, Tuning, decide_organ
from gi2nnunet.prediction.out_of_fold import OutOfFold, read_stored
from gi2nnunet.scoring.bootstrap import (
    CONFIDENCE_OF_EACH,
    Gain,
    Sums,
    measure_gain,
    rank_score,
    score_of_sums,
)
from gi2nnunet.scoring.conventions import TunedMetric
from gi2nnunet.scoring.metric import dice_of_counts, normalised_hausdorff, slice_hausdorff

if TYPE_CHECKING:
    from pandas import DataFrame

THRESHOLDS = tuple(round(0.5 + step * 0.05, 2) for step in (0, -1, 1, -2, 2, -3, 3, -4, 4, -5, 5))
GATES = (0.0, 0.6, 0.7, 0.8, 0.9, 0.95)
SMALLEST_ML = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)
FILL_SLICES = (0, 1, 2, 4)
_EVERY_ORGAN = range(len(ORGANS))
_PROPERTIES = ("weights", "threshold", "gate", "smallest_ml", "fill_slices")


@dataclass(frozen=True, kw_only=True)
class TunedModels(ShownAsTable):
    """Models, the tuning that was chosen for them, and the file that it was saved in."""

    tuning: Tuning
    path: Path
    ensemble: Ensemble

    def to_frame(self) -> DataFrame:
        """Return a table of the gains of each organ and, as ``all``, of all together."""
        import pandas as pd

        gains = self.tuning.gains.items()
        rows = [{"organ": name, **vars(gain), "gain": gain.gain} for name, gain in gains]
        return pd.DataFrame(rows).set_index("organ")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"file": str(self.path), **self.tuning.to_json()}


def tune_decision(
    scans: Sequence[TuningScan],
    *,
    configurations: Sequence[str],
    metric: TunedMetric = "per-class",
    seed: int = 0,
    leaking: Collection[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Choose the settings that make masks of probabilities, organ by organ, for a metric.

    The scans are of at least two folds, each patient in one, except for ``leaking`` patients. The
    result does not depend on ``jobs``, the scans in work at once.

    Raises
    ------
    ValueError
        For fewer than two folds, or a patient in two of them.
    """
    folds = _list_folds(scans, leaking)
    table = ChoiceTable(scans, metric=metric, jobs=jobs, progress=progress)
    # Without a fold's scans, and (None) on all of them.
    subsets = {
        left_out: [n for n, scan in enumerate(scans) if scan.fold != left_out]
        for left_out in (None, *folds)
    }
    best = _search(table, subsets, configurations, n_scans=len(scans))
    wanted = [
        {o: [_keep(best[o, scan.fold], names) for names in _list_kept()] for o in _EVERY_ORGAN}
        for scan in scans
    ]
    table.fill(wanted, what="weighing what gains")
    fit = _CrossFit(scans, table, best, seed=seed)
    everyone = range(len(scans))
    gains = {
        name: fit.measure(organ, fit.list_gaining(organ, everyone), everyone)
        for organ, name in enumerate(ORGANS)
    }
    total = measure_gain(fit.plain, fit.list_mixed(folds, subsets), fit.patients, seed=seed)
    return Tuning(
        metric=metric,
        decision=Decision(
            organs={
                ORGANS[o]: _keep(best[o, None], kept) for o, kept in fit.settle(everyone).items()
            }
        ),
        found=Decision(organs={name: best[organ, None] for organ, name in enumerate(ORGANS)}),
        gains={**gains, "all": total},
        n_scans=len(scans),
        n_patients=len(set(fit.patients)),
        n_folds=len(folds),
        seed=seed,
        standing="seen-patient" if leaking else "out-of-fold",
    )


def _list_folds(scans: Sequence[TuningScan], leaking: Collection[str]) -> list[int]:
    """Return the folds, two or more; each patient that does not leak must be in one."""
    fold_of: dict[str, int] = {}
    for scan in scans:
        if (
            patient_of(scan.scan_id) not in leaking
            and fold_of.setdefault(patient_of(scan.scan_id), scan.fold) != scan.fold
        ):
            raise ValueError(f"{patient_of(scan.scan_id)} is in two folds")
    folds = sorted({scan.fold for scan in scans})
    if len(folds) < 2:
        raise ValueError("cross-fitting needs two folds")
    return folds


def _list_stages(configurations: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the options that are tried one stage after another, the plain way first."""
    return {
        "blend and threshold": [
            {"weights": weights, "threshold": threshold}
            for weights in list_blends(configurations)
            for threshold in THRESHOLDS
        ],
        "empty-slice gate": [{"gate": value} for value in GATES],
        "smallest component": [{"smallest_ml": value} for value in SMALLEST_ML],
        "gaps between slices": [{"fill_slices": value} for value in FILL_SLICES],
    }


def _search(
    table: ChoiceTable,
    subsets: Mapping[int | None, Sequence[int]],
    configurations: Sequence[str],
    *,
    n_scans: int,
) -> dict[tuple[int, int | None], OrganDecision]:
    """Return the best choice by organ and subset of the scans, the other organs plain."""
    best = {(organ, subset): PLAIN for organ in _EVERY_ORGAN for subset in subsets}
    for name, options in _list_stages(configurations).items():
        candidates = {
            key: [replace(choice, **option) for option in options] for key, choice in best.items()
        }
        wanted: dict[int, list[OrganDecision]] = {organ: [] for organ in _EVERY_ORGAN}
        for (organ, _), some in candidates.items():
            wanted[organ] += some
        table.fill([wanted] * n_scans, what=f"choosing: {name}")
        for (organ, subset), some in candidates.items():
            numbers = subsets[subset]
            others = np.sum(
                [table.add_up(o, PLAIN, numbers) for o in _EVERY_ORGAN if o != organ], axis=0
            )
            totals = [others + table.add_up(organ, choice, numbers) for choice in some]
            scores = [rank_score(score) for score in score_of_sums(np.stack(totals))]
            best[organ, subset] = some[scores.index(max(scores))]  # the first of equals
    return best


def list_blends(configurations: Sequence[str]) -> list[tuple[tuple[str, float], ...]]:
    """Return the blends that are tried: the mean, each by itself, and quarters between two."""
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
    """Return the plain score of several blends by name, best first, each against the best."""
    table = ChoiceTable(scans, metric=metric, jobs=jobs, progress=progress)
    choices = {name: replace(PLAIN, weights=weights) for name, weights in blends.items()}
    wanted = {organ: list(choices.values()) for organ in _EVERY_ORGAN}
    table.fill([wanted] * len(scans), what="scoring models")
    sums = {
        name: np.stack([table.list_sums(organ, [choice] * len(scans)) for organ in _EVERY_ORGAN])
        for name, choice in choices.items()
    }
    scores = {name: score_of_sums(values.sum(axis=(0, 1))) for name, values in sums.items()}
    order = sorted(sums, key=lambda name: -rank_score(scores[name]))
    patients = [patient_of(scan.scan_id) for scan in scans]
    return {name: measure_gain(sums[order[0]], sums[name], patients, seed=seed) for name in order}


class _CrossFit:
    """Each scan with the settings that were chosen without its fold, and what they gain."""

    def __init__(
        self,
        scans: Sequence[TuningScan],
        table: ChoiceTable,
        best: Mapping[tuple[int, int | None], OrganDecision],
        *,
        seed: int,
    ) -> None:
        self.patients = [patient_of(scan.scan_id) for scan in scans]
        self._scans = scans
        self._table = table
        self._best = best
        self._seed = seed
        plain = [table.list_sums(organ, [PLAIN] * len(scans)) for organ in _EVERY_ORGAN]
        self.plain: NDArray[np.float64] = np.stack(plain)

    def list_sums(self, organ: int, kept: Sequence[str]) -> NDArray[np.float64]:
        """Return the sums of every scan, with only these properties of its choices."""
        choices = [_keep(self._best[organ, scan.fold], kept) for scan in self._scans]
        return self._table.list_sums(organ, choices)

    def list_gaining(self, organ: int, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return the properties with which these scans score higher than without.

        The property that was searched last is tried first, as it builds on all before it.
        """
        kept: tuple[str, ...] = _PROPERTIES
        score = self._score(self._decide(organ, kept), numbers)
        for name in reversed(_PROPERTIES):
            fewer = tuple(other for other in kept if other != name)
            without = self._score(self._decide(organ, fewer), numbers)
            if without >= score:
                kept, score = fewer, without
        return kept

    def measure(self, organ: int, kept: Sequence[str], numbers: Sequence[int]) -> Gain:
        """Return the gain of an organ's choices on these scans, the other organs plain."""
        some, tuned = list(numbers), self._decide(organ, kept)
        plain, tuned = self.plain[:, some], tuned[:, some]
        patients = [self.patients[n] for n in some]
        return measure_gain(plain, tuned, patients, seed=self._seed, confidence=CONFIDENCE_OF_EACH)

    def settle(self, numbers: Sequence[int]) -> dict[int, tuple[str, ...]]:
        """Return the organs with choices that gain on these scans, and the properties that gain."""
        if len(set(self.patients)) < Tuning.fewest_patients:
            return {}
        made = {}
        together = self.plain.copy()
        for organ in _EVERY_ORGAN:
            kept = self.list_gaining(organ, numbers)
            gain = self.measure(organ, kept, numbers)
            if gain.gain > 0 and gain.low > 0:
                made[organ] = kept
                together[organ] = self.list_sums(organ, kept)
        return made if self._score(together, numbers) > self._score(self.plain, numbers) else {}

    def list_mixed(
        self, folds: Sequence[int], subsets: Mapping[int | None, Sequence[int]]
    ) -> NDArray[np.float64]:
        """Return the sums of all organs, each fold's by what gains on the other folds."""
        mixed = self.plain.copy()
        for left_out in folds:
            here = [n for n, scan in enumerate(self._scans) if scan.fold == left_out]
            for organ, names in self.settle(subsets[left_out]).items():
                mixed[organ, here] = self.list_sums(organ, names)[here]
        return mixed

    def _decide(self, organ: int, kept: Sequence[str]) -> NDArray[np.float64]:
        """Return the sums of all organs, one decided by its choices, the others plain."""
        sums = self.plain.copy()
        sums[organ] = self.list_sums(organ, kept)
        return sums

    def _score(self, sums: NDArray[np.float64], numbers: Sequence[int]) -> float:
        return rank_score(score_of_sums(sums[:, list(numbers)].sum(axis=(0, 1))))


def _list_kept() -> list[tuple[str, ...]]:
    """Return every set of properties, in their order."""
    return [some for n in range(len(_PROPERTIES) + 1) for some in combinations(_PROPERTIES, n)]


def _keep(choice: OrganDecision, names: Sequence[str]) -> OrganDecision:
    """Return a choice with only these properties, the others plain."""
    return replace(PLAIN, **{name: getattr(choice, name) for name in names})


class ChoiceTable:
    """Metric sums by scan, organ and choice; filled scan by scan, as only a few fit in memory."""

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
        """Measure the choices that are wanted of each scan, by organ, and not measured yet."""
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
        # A blend only exceeds the lowest threshold if one of its parts does.
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
    """Return the scans with their truth and predictions, which are read when they are needed.

    ``by_folder`` names the probabilities by model folder instead of configuration.
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
    found = {name: read_stored(path, truth.array.shape) for name, path in paths.items()}
    return found, truth.array.astype(np.uint8), truth.spacing_mm
