"""Score of a submission against the truth, row by row.

Rows are paired by slice and organ; memory holds the texts of both tables and a few scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, name_some, raise_problems
from gi2nnunet.core.workers import Progress, QuietPool, count_cores
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.rle import RleProblem, decode_rows
from gi2nnunet.formats.tables import (
    MaskTable,
    Size,
    find_sizes,
    group_rows,
    paint_runs,
    raise_refused,
    read_mask_table,
)
from gi2nnunet.scoring.conventions import CONVENTIONS, Metric
from gi2nnunet.scoring.medical import (
    DEFAULT_TOLERANCE_MM,
    OrganMeasures,
    Spacing,
    check_library,
    measure_label_maps,
)
from gi2nnunet.scoring.metric import Terms, score_label_maps
from gi2nnunet.scoring.misread import Counts, count_agreement, find_misreading
from gi2nnunet.scoring.record import read_truth
from gi2nnunet.scoring.result import Score, combine_terms

_HIGH_DICE = 0.98  # other readings of a scan that agrees better than this are not tried
_FEW_SCANS = 6  # below this, starting processes that import MONAI costs more than it saves


def score_submission(
    submission: Path | MaskTable,
    truth: Path | MaskTable,
    *,
    metric: Metric = "per-class",
    sizes: Mapping[str, Size] | None = None,
    medical: bool = False,
    spacing_mm: Mapping[str, Spacing] | None = None,
    tolerance_mm: float = DEFAULT_TOLERANCE_MM,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score a submission against the truth.

    Parameters
    ----------
    submission, truth
        CSV files of the competition's form, or tables read from them.
    metric
        The convention, one of :data:`~gi2nnunet.scoring.conventions.CONVENTIONS`.
    sizes
        Image size ``(height, width)`` in pixels by scan id; by default the ``image_height`` and
        ``image_width`` columns of the truth.
    medical
        Measure surface Dice, HD95 and volume error too (:mod:`gi2nnunet.scoring.medical`).
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm by scan id; needed for the medical measures.
    tolerance_mm
        Tolerance of the surface Dice.
    jobs
        Threads; by default one per core. With ``medical`` processes, which import the main script
        again, so a script needs ``if __name__ == "__main__":`` around its own calls. 1 computes
        in the caller's thread.
    progress
        Called with ``(done, total, what)`` in scans.

    Returns
    -------
    Score
        Two empty tables give NaN. Its ``warnings`` say if the submission looks column-major, or as
        if its starts counted from 0.

    Raises
    ------
    InputError
        If a file is not such a table; if the truth is not as it was recorded, see
        :func:`~gi2nnunet.scoring.record.read_truth`; if the submission has not exactly the rows of
        the truth; if ``mle-bench`` finds the rows in another order; if an image size, or a spacing
        that is needed, is unknown; if an RLE text is refused; if MONAI is needed and not installed.
    EngineError
        If a worker process died.
    ValueError
        For an unknown convention.
    """
    if metric not in CONVENTIONS:
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
    pred_table = submission
    if not isinstance(pred_table, MaskTable):
        pred_table = read_mask_table(pred_table, any_scan=True)
    true_table = truth if isinstance(truth, MaskTable) else read_truth(truth)
    _check_same_rows(pred_table, true_table, in_order=metric == "mle-bench")
    pairs = _pair_scans(pred_table, true_table, metric=metric, sizes=sizes)
    if medical:
        check_library()
        pairs = _add_spacing(pairs, spacing_mm, tolerance_mm, name=true_table.name)
    terms: dict[str, Terms] = {}
    measures: dict[str, Mapping[str, OrganMeasures]] = {}
    agreement: list[Counts] = []
    refused: tuple[list[RleProblem], list[RleProblem]] = [], []
    results = _run(pairs, jobs=jobs, medical=medical)
    for done, (pair, result) in enumerate(zip(pairs, results, strict=True), start=1):
        terms[pair.scan_id] = result.terms
        measures[pair.scan_id] = result.measures
        agreement += [] if result.agreement is None else [result.agreement]
        for all_refused, of_scan in zip(refused, result.refused, strict=True):
            all_refused.extend(of_scan)
        if progress is not None:
            progress(done, len(pairs), "scoring scans")
    raise_refused(pred_table, refused[0])
    raise_refused(true_table, refused[1])
    score = combine_terms(
        terms,
        metric=metric,
        measures=measures if medical else None,
        tolerance_mm=tolerance_mm,
    )
    misreading = find_misreading(agreement) if 2 * len(agreement) > len(pairs) else None
    return replace(score, warnings=(misreading,)) if misreading else score


def _check_same_rows(pred: MaskTable, truth: MaskTable, *, in_order: bool) -> None:
    """Refuse a submission with other rows than the truth."""
    codes = {scan_id: code for code, scan_id in enumerate((*truth.scan_ids, *pred.scan_ids))}
    keys = []
    for table in (pred, truth):
        code = np.array([codes[scan_id] for scan_id in table.scan_ids], np.int64)
        keys.append((code[table.scan] * 10**10 + table.number) * len(ORGANS) + table.organ)
    missing = np.flatnonzero(~np.isin(keys[1], keys[0]))
    extra = np.flatnonzero(~np.isin(keys[0], keys[1]))
    problems = [
        Problem(where=pred.name, found=f"no row for {truth.row_name(row)}", expected="one")
        for row in missing.tolist()
    ]
    problems += [
        Problem(
            where=pred.row_label(row),
            found="a row that the truth does not have",
            expected=f"the rows of {truth.name}",
        )
        for row in extra.tolist()
    ]
    raise_problems(
        problems,
        remedy=f"Give one row for each of the {len(truth)} rows of {truth.name} and no other.",
    )
    differ = np.flatnonzero(keys[0] != keys[1])
    if in_order and len(differ):
        row = int(differ[0])
        raise InputError(
            f"{pred.row_label(row)}: found in another order than {truth.row_label(row)}; "
            "expected the truth's order, because mle-bench pairs rows by position. Sort the "
            "submission like the truth, or choose another metric."
        )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One scan's rows and texts, of the submission and of the truth, ready for a worker."""

    scan_id: str
    size: Size
    metric: Metric
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    texts: tuple[tuple[str, ...], tuple[str, ...]]
    spacing_mm: Spacing | None = None
    tolerance_mm: float = DEFAULT_TOLERANCE_MM


@dataclass(frozen=True, kw_only=True)
class _Result:
    """The terms of a pair, and the RLE texts of either table that were refused.

    ``agreement`` is that of :func:`~gi2nnunet.scoring.misread.count_agreement`, of a low Dice only.
    """

    terms: Terms
    agreement: Counts | None
    measures: Mapping[str, OrganMeasures]
    refused: tuple[list[RleProblem], list[RleProblem]]


def _pair_scans(
    pred: MaskTable, truth: MaskTable, *, metric: Metric, sizes: Mapping[str, Size] | None
) -> list[_Pair]:
    scans = group_rows(truth)
    found = find_sizes(truth, scans, sizes=sizes)
    of_pred = {scan.scan_id: scan.rows for scan in group_rows(pred)}
    return [
        _Pair(
            scan_id=scan.scan_id,
            size=found[scan.scan_id],
            metric=metric,
            rows=(of_pred[scan.scan_id], scan.rows),
            texts=(_texts(pred, of_pred[scan.scan_id]), _texts(truth, scan.rows)),
        )
        for scan in scans
    ]


def _add_spacing(
    pairs: Sequence[_Pair],
    spacing_mm: Mapping[str, Spacing] | None,
    tolerance_mm: float,
    *,
    name: str,
) -> list[_Pair]:
    known = spacing_mm or {}
    if unknown := [pair.scan_id for pair in pairs if pair.scan_id not in known]:
        raise InputError(
            f"{name}: the voxel spacing of {name_some(unknown)} is not known; millimetres need it. "
            "Give the source that holds the images (--images SOURCE)."
        )
    return [
        replace(pair, spacing_mm=known[pair.scan_id], tolerance_mm=tolerance_mm) for pair in pairs
    ]


def _texts(table: MaskTable, rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(table.texts[row] if row >= 0 else "" for row in rows.reshape(-1).tolist())


def _score_pair(pair: _Pair) -> _Result:
    """Decode and compare one scan; runs in a worker."""
    height, width = pair.size
    volumes = []
    refused: tuple[list[RleProblem], list[RleProblem]] = [], []
    for rows, texts, of_table in zip(pair.rows, pair.texts, refused, strict=True):
        runs, problems = decode_rows(texts, pixels=height * width)
        index = np.arange(rows.size).reshape(rows.shape)
        volumes.append(paint_runs(runs, index, height=height, width=width))
        of_table += [replace(p, row=int(rows.reshape(-1)[p.row])) for p in problems]
    terms = score_label_maps(*volumes, metric=pair.metric)
    if pair.metric == "slice-2d":  # a row that neither table has is not a pair of empty masks
        terms.hausdorff[pair.rows[1].T < 0] = np.nan
    measures: dict[str, OrganMeasures] = {}
    if pair.spacing_mm is not None:
        measures = measure_label_maps(
            *volumes, spacing_mm=pair.spacing_mm, tolerance_mm=pair.tolerance_mm
        )
    counted = terms.dice[~np.isnan(terms.dice)]
    low = len(counted) > 0 and counted.mean() < _HIGH_DICE
    return _Result(
        terms=terms,
        agreement=count_agreement(*volumes) if low else None,
        measures=measures,
        refused=refused,
    )


def _run(pairs: Sequence[_Pair], *, jobs: int | None, medical: bool) -> Iterator[_Result]:
    """Return the result of each pair, in order."""
    if jobs is None:
        jobs = 1 if medical and len(pairs) < _FEW_SCANS else count_cores()
    if jobs <= 1 or len(pairs) <= 1:
        yield from map(_score_pair, pairs)
        return
    # Scoring spends its time in NumPy and SciPy, which let other threads run. Millimetres need
    # MONAI, which warns, and warnings can only be silenced for a whole process.
    size = min(jobs, len(pairs))
    pool: Executor = QuietPool(size) if medical else ThreadPoolExecutor(size)
    with pool:
        yield from pool.map(_score_pair, pairs)
