"""Comparison of two submissions: differences of their scores, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.formats.tables import MaskTable, Size
from gi2nnunet.scoring.bootstrap import (
    CONFIDENCE,
    SCORE_RESAMPLES,
    find_interval,
    list_patients,
    resample_means,
)
from gi2nnunet.scoring.conventions import Metric, ScanChoice
from gi2nnunet.scoring.masks import read_masks
from gi2nnunet.scoring.medical import DEFAULT_TOLERANCE_MM, OrganMeasures, Spacing
from gi2nnunet.scoring.metric import average_organs, dice_of_counts
from gi2nnunet.scoring.result import ScanScore, Score, to_plain
from gi2nnunet.scoring.score import score_submission

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_SLICES = 3
"""Slices that are named of each scan."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One quantity of two submissions: ``difference`` is ``b - a``, with its interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SliceChange:
    """Mean Dice of the organs of one slice in two submissions; ``change`` is ``b - a``.

    The mean is over the organs that the truth or a submission has; one that is rightly empty
    counts as 1. It is the same for every convention.
    """

    slice_number: int
    a: float
    b: float
    change: float


@dataclass(frozen=True, kw_only=True)
class ScanChange:
    """The score of one scan in two submissions; ``change`` is ``b - a``.

    ``slices`` are those with the largest changes of Dice, the largest first.
    """

    scan_id: str
    patient_id: str
    a: float
    b: float
    change: float
    slices: tuple[SliceChange, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PatientChange:
    """The mean score of a patient's scans in two submissions; ``change`` is ``b - a``.

    ``n_scans`` counts those with a score in both; without any, the others are NaN.
    """

    patient_id: str
    n_scans: int
    a: float
    b: float
    change: float


@dataclass(frozen=True, kw_only=True)
class Side:
    """What was compared.

    Attributes
    ----------
    name
        As it was given: a path, or a name in the workspace.
    taken
        What was taken for it, in words.
    standing
        What its score means, ``held-out`` and so on; empty if nothing was recorded.
    """

    name: str
    taken: str
    standing: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two submissions scored against the same truth, paired by patient.

    Attributes
    ----------
    differences
        By quantity as :func:`~gi2nnunet.scoring.bootstrap.estimate_intervals` names them; a
        positive difference of ``score`` means that ``b`` is better. Of HD95, the means are over the
        organs that both submissions and the truth have; those of surface Dice and volume error over
        the organs that one of the three has. An organ that only one submission has beside the
        truth's empty mask counts there with the surface Dice 0 and its volume, and in the other
        with 1 and 0 ml.
    patients, scans
        All of them, the largest change of score first; those without a score in one submission
        last.
    n_patients, n_resamples, confidence, seed
        Settings of the intervals.
    sides
        What ``a`` and ``b`` are; empty for two scores.
    truth
        Where the truth was read from.
    """

    metric: Metric
    a: Score
    b: Score
    differences: Mapping[str, Difference] = field(repr=False)
    patients: tuple[PatientChange, ...] = field(repr=False)
    scans: tuple[ScanChange, ...] = field(repr=False)
    n_patients: int
    n_resamples: int
    confidence: float
    seed: int
    sides: tuple[Side, ...] = ()
    truth: str = ""

    @property
    def better(self) -> Literal["a", "b"] | None:
        """Return which one is better; ``None`` if the interval of the score includes zero."""
        score = self.differences["score"]
        if score.low > 0 or score.high < 0:
            return "b" if score.difference > 0 else "a"
        return None

    def count_patients(self) -> dict[Literal["b", "a", "same"], int]:
        """Return how many patients have the better score in ``b``, in ``a``, or the same."""
        known = [p.change for p in self.patients if not math.isnan(p.change)]
        n_b, n_a = sum(change > 0 for change in known), sum(change < 0 for change in known)
        return {"b": n_b, "a": n_a, "same": len(known) - n_b - n_a}

    def describe(self) -> str:
        """Return in a sentence which one is better, and by how much."""
        score = self.differences["score"]
        if math.isnan(score.difference):
            return "Nothing was counted, so neither is better."
        if not any(change.change for change in self.scans):
            return "A and B have the same score in every scan."
        size, interval = abs(score.difference), f"{self.confidence:.0%} interval"
        higher = self._name("b" if score.difference > 0 else "a")
        if math.isnan(score.low):
            return f"{higher} scores {size:.4f} higher; a single patient has no interval."
        if (better := self.better) is None:
            return (
                f"No clear difference: B - A is {score.difference:+.4f}, and its {interval}, "
                f"{score.low:+.4f} to {score.high:+.4f}, includes zero."
            )
        low, high = sorted((abs(score.low), abs(score.high)))
        return (
            f"{self._name(better)} is better: it scores {size:.4f} higher "
            f"({interval} {low:.4f} to {high:.4f})."
        )

    def _name(self, which: Literal["a", "b"]) -> str:
        named = f" ({self.sides['ab'.index(which)].name})" if self.sides else ""
        return which.upper() + named

    def describe_patients(self) -> str:
        """Return in a sentence how many patients each one is better in."""
        found = self.count_patients()
        b, a, same = found.values()
        return f"Patients: {b} better in B, {a} better in A, {same} the same."

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values for a JSON file; NaN becomes ``None``."""
        content = {name: to_plain(v) for name, v in vars(self).items()}
        sides = content.pop("sides")
        for name in ("a", "b"):
            content[name] = sides["ab".index(name)] if sides else None
        content |= {"better": self.better, "patients_better": self.count_patients()}
        return content | ({"scope": self.a.scope} if self.a.scope else {})

    def to_frame(self, by: Literal["patient", "scan", "quantity"] = "patient") -> DataFrame:
        """Return the comparison as a table; NaN if nothing was counted.

        Parameters
        ----------
        by
            ``"patient"`` or ``"scan"``: a row for each, indexed by its id, with ``a``, ``b`` and
            ``change``, the largest change first. ``"quantity"``: a row for each quantity with
            ``difference``, ``low`` and ``high``.
        """
        import pandas as pd

        if by == "quantity":
            rows = {name: vars(found) for name, found in self.differences.items()}
            return pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity")
        if by == "patient":
            return pd.DataFrame(map(vars, self.patients)).set_index("patient_id")
        if by == "scan":
            table = pd.DataFrame(map(vars, self.scans)).set_index("scan_id")
            return table.drop(columns="slices")
        raise ValueError(f"by {by!r} is none of 'patient', 'scan' and 'quantity'")

    def __str__(self) -> str:
        """Return in two sentences which one is better."""
        return f"{self.describe()} {self.describe_patients()}"

    def _repr_html_(self) -> str:
        table = self.to_frame("quantity").to_html(float_format="{:.4f}".format, na_rep="-")
        return f"<p>{self}</p>{table}"


def compare_scores(a: Score, b: Score, *, seed: int = 0) -> Comparison:
    """Compare two scores of the same scans.

    The option is that of :func:`~gi2nnunet.scoring.bootstrap.estimate_intervals`.

    Raises
    ------
    ValueError
        If the scores are of different scans or conventions.
    """
    scan_ids = [scan.scan_id for scan in a.per_scan]
    if a.metric != b.metric or scan_ids != [scan.scan_id for scan in b.per_scan]:
        raise ValueError("the two scores are not of the same scans and convention")
    n_patients = len(list_patients(a))
    means_a, means_b = (
        resample_means(_pair_measures(one, other), n_resamples=SCORE_RESAMPLES, seed=seed)
        for one, other in ((a, b), (b, a))
    )
    differences = {}
    for name, before in means_a.items():
        after = means_b[name]
        moved = find_interval(after - before, n_patients=n_patients, confidence=CONFIDENCE)
        differences[name] = Difference(
            a=float(before[0]), b=float(after[0]), difference=moved.value,
            low=moved.low, high=moved.high,
        )  # fmt: skip
    changes = [_compare_scan(*scans) for scans in zip(a.per_scan, b.per_scan, strict=True)]
    return Comparison(
        metric=a.metric,
        a=a,
        b=b,
        differences=differences,
        patients=tuple(sorted(_average_patients(changes), key=_rank)),
        scans=tuple(sorted(changes, key=_rank)),
        n_patients=n_patients,
        n_resamples=SCORE_RESAMPLES,
        confidence=CONFIDENCE,
        seed=seed,
    )


def _pair_measures(score: Score, other: Score) -> Score:
    """Return a score with medical measures of the same organs and scans as the other's.

    An organ that either one misses has no HD95, so that of the other is left out too. One that is
    rightly empty here and predicted there has the surface Dice 1, and its volume error of 0 counts.
    """
    scans = list(score.per_scan)
    for at, (scan, beside) in enumerate(zip(score.per_scan, other.per_scan, strict=True)):
        if scan.measures is not None and beside.measures is not None:
            measures = {
                organ: _pair(found, beside.measures[organ])
                for organ, found in scan.measures.items()
            }
            scans[at] = replace(scan, measures=measures)
    return replace(score, per_scan=tuple(scans))


def _pair(found: OrganMeasures, beside: OrganMeasures) -> OrganMeasures:
    only_beside = math.isnan(found.surface_dice) and not math.isnan(beside.surface_dice)
    return replace(
        found,
        hd95_mm=math.nan if math.isnan(beside.hd95_mm) else found.hd95_mm,
        surface_dice=1.0 if only_beside else found.surface_dice,
    )


def _rank(changed: ScanChange | PatientChange) -> float:
    return math.inf if math.isnan(changed.change) else -abs(changed.change)


def _compare_scan(a: ScanScore, b: ScanScore) -> ScanChange:
    return ScanChange(
        scan_id=a.scan_id,
        patient_id=a.patient_id,
        a=a.score,
        b=b.score,
        change=b.score - a.score,
        slices=_find_moved_slices(a, b),
    )


def _find_moved_slices(a: ScanScore, b: ScanScore) -> tuple[SliceChange, ...]:
    """Return the slices with the largest changes of mean Dice, equal ones by the wrong area."""
    counts = [scan.terms.counts for scan in (a, b) if scan.terms and scan.terms.counts is not None]
    if len(counts) < 2 or not a.numbers:
        return ()
    # Not the Dice of the terms: a convention can leave out organs that are only predicted.
    means = np.nan_to_num(average_organs(np.stack([dice_of_counts(*of) for of in counts])), nan=1.0)
    change = means[1] - means[0]
    both, *areas = np.sum(counts, axis=(0, 2))
    wrong = sum(areas) - 2 * both
    largest = np.lexsort((-wrong, -np.abs(change)))[:MOST_SLICES]
    return tuple(
        SliceChange(
            slice_number=a.numbers[at],
            a=float(means[0, at]),
            b=float(means[1, at]),
            change=float(change[at]),
        )
        for at in largest.tolist()
        if change[at] != 0
    )


def _average_patients(scans: Sequence[ScanChange]) -> list[PatientChange]:
    """Return the mean of each patient's scans that have a score in both submissions."""
    of_patient: dict[str, list[tuple[float, float]]] = {scan.patient_id: [] for scan in scans}
    for scan in scans:
        if not math.isnan(scan.change):
            of_patient[scan.patient_id].append((scan.a, scan.b))
    found = []
    for patient_id, values in of_patient.items():
        a, b = np.mean(values, axis=0).tolist() if values else (math.nan, math.nan)
        found.append(
            PatientChange(patient_id=patient_id, n_scans=len(values), a=a, b=b, change=b - a)
        )
    return found


def compare_submissions(
    a: Path | MaskTable,
    b: Path | MaskTable,
    truth: Path | MaskTable,
    *,
    metric: Metric = "per-class",
    scans: ScanChoice = "all",
    sizes: Mapping[str, Size] | None = None,
    spacing_mm: Mapping[str, Spacing] | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Score two submissions against one truth and compare them.

    Parameters and errors are those of :func:`~gi2nnunet.scoring.score.score_submission` and
    :func:`compare_scores`; with ``spacing_mm``, the medical measures are compared too.
    ``progress`` counts the scans of both submissions.
    """
    report = progress or ignore
    table, first, second = read_masks(truth, truth=True), read_masks(a), read_masks(b)
    score = partial(
        score_submission, truth=table, metric=metric, scans=scans, beside=[first, second],
        sizes=sizes, medical=spacing_mm is not None, spacing_mm=spacing_mm,
        tolerance_mm=tolerance_mm, jobs=jobs,
    )  # fmt: skip
    return compare_scores(
        score(first, progress=lambda done, total, what: report(done, 2 * total, what)),
        score(second, progress=lambda done, total, what: report(total + done, 2 * total, what)),
        seed=seed,
    )
