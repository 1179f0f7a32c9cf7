"""Comparison of two submissions: differences of their scores, with bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.formats.tables import MaskTable, Size
from gi2nnunet.scoring.bootstrap import (
    CONFIDENCE,
    SCORE_RESAMPLES,
    draw_patients,
    find_bounds,
    list_patients,
    weigh_patients,
)
from gi2nnunet.scoring.conventions import Metric, ScanChoice
from gi2nnunet.scoring.masks import read_masks
from gi2nnunet.scoring.result import Score, to_plain
from gi2nnunet.scoring.score import score_submission


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
    """Two submissions scored against the same truth, paired by patient.

    Attributes
    ----------
    differences
        By quantity: ``score``, ``dice``, ``hausdorff``, and the same of each organ as
        ``stomach.dice``; a positive difference of ``score`` means that ``b`` is better.
    scans
        All scans, the largest change of score first; scans without a score in one of them last.
    n_patients, n_resamples, confidence, seed
        Settings of the intervals.
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
        content = {name: to_plain(v) for name, v in vars(self).items() if name not in ("a", "b")}
        return content | ({"scope": self.a.scope} if self.a.scope else {})


def compare_scores(
    a: Score,
    b: Score,
    *,
    n_resamples: int = SCORE_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Comparison:
    """Compare two scores of the same scans.

    The options are those of :func:`~gi2nnunet.scoring.bootstrap.estimate_intervals`.

    Raises
    ------
    ValueError
        If the scores are of different scans or conventions.
    """
    scan_ids = [scan.scan_id for scan in a.per_scan]
    if a.metric != b.metric or scan_ids != [scan.scan_id for scan in b.per_scan]:
        raise ValueError("the two scores are not of the same scans and convention")
    n_patients = len(list_patients(a))
    weights = draw_patients(n_patients, n_resamples=n_resamples, seed=seed)
    once = np.ones((1, n_patients))
    observed_a, observed_b = weigh_patients(a, once), weigh_patients(b, once)
    drawn_a, drawn_b = weigh_patients(a, weights), weigh_patients(b, weights)
    differences = {}
    for name in observed_a:
        before, after = float(observed_a[name][0]), float(observed_b[name][0])
        moved = drawn_b[name] - drawn_a[name]
        low, high = find_bounds(moved, n_patients=n_patients, confidence=confidence)
        differences[name] = Difference(
            a=before, b=after, difference=after - before, low=low, high=high
        )
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
        n_patients=n_patients,
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
    scans: ScanChoice = "all",
    sizes: Mapping[str, Size] | None = None,
    n_resamples: int = SCORE_RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Score two submissions against one truth and compare them.

    Parameters and errors are those of :func:`~gi2nnunet.scoring.score.score_submission` and
    :func:`compare_scores`; ``progress`` counts the scans of both submissions.
    """
    report = progress or ignore
    table, first, second = read_masks(truth, truth=True), read_masks(a), read_masks(b)
    score = partial(
        score_submission, truth=table, metric=metric, scans=scans, beside=[first, second],
        sizes=sizes, jobs=jobs,
    )  # fmt: skip
    return compare_scores(
        score(first, progress=lambda done, total, what: report(done, 2 * total, what)),
        score(second, progress=lambda done, total, what: report(total + done, 2 * total, what)),
        n_resamples=n_resamples,
        confidence=confidence,
        seed=seed,
    )
