"""How sure a score is, and how two submissions differ: bootstrap over patients.

Slices of a scan, and scans of a patient, resemble each other, so what is drawn anew is the
patient, with all its scans.

References
----------
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13 (percentile interval).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.tables import MaskTable, Size, read_mask_table
from gi2nnunet.scoring.bootstrap import FloatArray, _bounds, _draw
from gi2nnunet.scoring.metric import DICE_WEIGHT, HAUSDORFF_WEIGHT, Metric
from gi2nnunet.scoring.result import ScanScore, Score
from gi2nnunet.scoring.score import Progress, score_submission

DEFAULT_RESAMPLES = 5000
DEFAULT_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its bootstrap interval; the bounds are NaN where there is but one patient."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One quantity of two submissions: ``difference`` is ``b - a``, with its interval."""

    a: float
    b: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ScanChange:
    """The score of one scan in two submissions; ``change`` is ``b - a``."""

    scan_id: str
    patient_id: str
    a: float
    b: float
    change: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two submissions held to the same truth, paired by patient.

    Attributes
    ----------
    metric
        The convention.
    a, b
        Their scores.
    differences
        By quantity: ``score``, ``dice``, ``hausdorff``, and the same of each organ as
        ``stomach.dice``; a positive difference of ``score`` means that ``b`` is better.
    scans
        All scans, the one whose score moved most first; scans without a score in one of them last.
    n_patients, n_resamples, confidence, seed
        What the intervals rest on.
    """

    metric: Metric
    a: Score
    b: Score
    differences: Mapping[str, Difference]
    scans: tuple[ScanChange, ...]
    n_patients: int
    n_resamples: int
    confidence: float
    seed: int

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain values for a JSON file; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "differences": {name: _plain(asdict(d)) for name, d in self.differences.items()},
            "scans": [_plain(asdict(scan)) for scan in self.scans],
            "n_patients": self.n_patients,
            "n_resamples": self.n_resamples,
            "confidence": self.confidence,
            "seed": self.seed,
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def estimate_intervals(
    score: Score,
    *,
    n_resamples: int = DEFAULT_RESAMPLES,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return a bootstrap interval over patients for every mean of a score.

    Parameters
    ----------
    score
        The score.
    n_resamples
        How often the patients are drawn anew.
    confidence
        Share of the resamples between the bounds (percentile interval), in (0, 1).
    seed
        Of the draws; the same seed gives the same bounds.

    Returns
    -------
    dict
        By quantity, as in :class:`Comparison`; with the medical measures, where the score has
        them, as ``stomach.hd95_mm``.
    """
    patients = _list_patients(score)
    weights = _draw(len(patients), n_resamples=n_resamples, seed=seed)
    observed = _evaluate(score, patients, np.ones((1, len(patients))))
    drawn = _evaluate(score, patients, weights)
    return {
        name: Interval(
            value=float(observed[name][0]), **_bounds(drawn[name], len(patients), confidence)
        )
        for name in observed
    }


def compare_scores(
    a: Score,
    b: Score,
    *,
    n_resamples: int = DEFAULT_RESAMPLES,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two scores of the same scans; parameters as in :func:`estimate_intervals`.

    Raises
    ------
    ValueError
        Where the scores are of other scans or conventions.
    """
    scan_ids = [scan.scan_id for scan in a.per_scan]
    if a.metric != b.metric or scan_ids != [scan.scan_id for scan in b.per_scan]:
        raise ValueError("the two scores are not of the same scans and convention")
    patients = _list_patients(a)
    weights = _draw(len(patients), n_resamples=n_resamples, seed=seed)
    once = np.ones((1, len(patients)))
    values = [_evaluate(score, patients, once) for score in (a, b)]
    drawn = [_evaluate(score, patients, weights) for score in (a, b)]
    differences = {
        name: Difference(
            a=float(values[0][name][0]),
            b=float(values[1][name][0]),
            difference=float(values[1][name][0] - values[0][name][0]),
            **_bounds(drawn[1][name] - drawn[0][name], len(patients), confidence),
        )
        for name in values[0]
    }
    changes = [
        ScanChange(
            scan_id=mine.scan_id,
            patient_id=mine.patient_id,
            a=mine.score,
            b=other.score,
            change=other.score - mine.score,
        )
        for mine, other in zip(a.per_scan, b.per_scan, strict=True)
    ]
    changes.sort(key=lambda scan: math.inf if math.isnan(scan.change) else -abs(scan.change))
    return Comparison(
        metric=a.metric,
        a=a,
        b=b,
        differences=differences,
        scans=tuple(changes),
        n_patients=len(patients),
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )


def compare_submissions(
    a: Path | MaskTable,
    b: Path | MaskTable,
    truth: Path | MaskTable,
    *,
    metric: Metric = "per-class",
    sizes: Mapping[str, Size] | None = None,
    n_resamples: int = DEFAULT_RESAMPLES,
    confidence: float = DEFAULT_CONFIDENCE,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Score two submissions against one truth and compare them.

    Parameters
    ----------
    a, b, truth
        As in :func:`~gi2nnunet.scoring.score.score_submission`.
    metric, sizes, jobs
        The same.
    n_resamples, confidence, seed
        As in :func:`estimate_intervals`.
    progress
        Called with scans done, scans in all (of both submissions), and the scan's id.

    Raises
    ------
    InputError
        As :func:`~gi2nnunet.scoring.score.score_submission`.
    """
    table = truth if isinstance(truth, MaskTable) else read_mask_table(truth, any_scan=True)
    scores = []
    for index, submission in enumerate((a, b)):
        scores.append(
            score_submission(
                submission,
                table,
                metric=metric,
                sizes=sizes,
                jobs=jobs,
                progress=_shift(progress, index),
            )
        )
    return compare_scores(
        *scores, n_resamples=n_resamples, confidence=confidence, seed=seed
    )  # fmt: skip


def _shift(progress: Progress | None, index: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, total, what: progress(done + index * total, 2 * total, what)


def _list_patients(score: Score) -> tuple[str, ...]:
    return tuple(dict.fromkeys(scan.patient_id for scan in score.per_scan))


def _evaluate(
    score: Score, patients: tuple[str, ...], weights: FloatArray
) -> dict[str, FloatArray]:
    """Return every mean of a score under each weighting of the patients, ``(weightings,)``."""
    row_of = {patient_id: index for index, patient_id in enumerate(patients)}
    sums: dict[str, FloatArray] = {}
    for scan in score.per_scan:
        for name, values in _values(scan).items():
            counted = values[~np.isnan(values)]
            entry = sums.setdefault(name, np.zeros((len(patients), 2)))
            entry[row_of[scan.patient_id]] += counted.sum(), counted.size
    means = {name: _divide(weights @ entry) for name, entry in sums.items()}
    for prefix in ("", *(f"{organ}." for organ in ORGANS)):
        if f"{prefix}dice" in means and f"{prefix}hausdorff" in means:
            means[f"{prefix}score"] = DICE_WEIGHT * means[f"{prefix}dice"] + HAUSDORFF_WEIGHT * (
                1 - means[f"{prefix}hausdorff"]
            )
    return dict(sorted(means.items(), key=lambda item: _rank(item[0])))


def _divide(pairs: FloatArray) -> FloatArray:
    mean = np.full(len(pairs), np.nan)
    np.divide(pairs[:, 0], pairs[:, 1], out=mean, where=pairs[:, 1] > 0)
    return mean


def _rank(name: str) -> tuple[int, int]:
    organ, _, quantity = name.rpartition(".")
    order = ("score", "dice", "hausdorff")
    return (
        ORGANS.index(organ) + 1 if organ else 0,
        order.index(quantity) if quantity in order else len(order),
    )


def _values(scan: ScanScore) -> dict[str, FloatArray]:
    """Return the values each mean is made of, as far as this scan goes."""
    terms = scan.terms
    values = {"dice": terms.dice.reshape(-1), "hausdorff": terms.hausdorff.reshape(-1)}
    for index, organ in enumerate(ORGANS):
        values[f"{organ}.dice"] = terms.dice[index]
        if len(terms.hausdorff) == len(ORGANS):
            values[f"{organ}.hausdorff"] = terms.hausdorff[index]
        if scan.measures is not None:
            measures = scan.measures[organ]
            values[f"{organ}.surface_dice"] = np.array([measures.surface_dice])
            values[f"{organ}.hd95_mm"] = np.array([measures.hd95_mm])
            values[f"{organ}.volume_error_ml"] = np.array([measures.volume_error_ml])
    return values
