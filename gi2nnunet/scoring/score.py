"""Scoring of a submission against the truth: tables in, one ``Score`` out.

Rows are paired by slice and organ; memory is bounded by the two tables' texts and a few scans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.workers import Progress, QuietPool, count_cores
from gi2nnunet.formats.ids import ORGANS, slice_id
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
from gi2nnunet.scoring.result import Score, combine_terms

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
        CSV files of the competition's form, or tables read from such.
    metric
        The convention, one of :data:`~gi2nnunet.scoring.conventions.CONVENTIONS`.
    sizes
        Image size ``(height, width)`` in pixels by scan id; by default the ``image_height`` and
        ``image_width`` columns of the truth.
    medical
        Measure surface Dice, HD95 and volume error too (:mod:`gi2nnunet.scoring.medical`).
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm by scan id, which these need.
    tolerance_mm
        Tolerance of the surface Dice.
    jobs
        Threads; by default one a core. With ``medical`` processes, which import the main script
        anew, so that a script keeps its own calls under ``if __name__ == "__main__":``. 1 computes
        in the caller's thread.
    progress
        Called with ``(done, total, what)`` in scans.

    Returns
    -------
    Score
        Two empty tables give NaN.

    Raises
    ------
    InputError
        Where a file is no such table; the submission lacks rows of the truth, has others, or has
        one twice; ``mle-bench`` meets rows in another order; an image size, or a spacing that is
        needed, is unknown; an RLE text of either is refused; MONAI is needed and not installed.
    EngineError
        Where a worker process died.
    ValueError
        For an unknown convention.
    """
    if metric not in CONVENTIONS:
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
    pred_table = (
        submission
        if isinstance(submission, MaskTable)
        else read_mask_table(submission, any_scan=True)
    )
    true_table = truth if isinstance(truth, MaskTable) else read_mask_table(truth, any_scan=True)
    _check_same_rows(pred_table, true_table, in_order=metric == "mle-bench")
    pairs = list(_pair_scans(pred_table, true_table, metric=metric, sizes=sizes))
    if medical:
        check_library()
        pairs = _add_spacing(pairs, spacing_mm, tolerance_mm, name=true_table.name)
    terms: dict[str, Terms] = {}
    measures: dict[str, Mapping[str, OrganMeasures]] = {}
    refused: dict[str, list[RleProblem]] = {"pred": [], "truth": []}
    for done, result in enumerate(_run(pairs, jobs=jobs), start=1):
        terms[result.scan_id] = result.terms
        measures[result.scan_id] = result.measures
        refused["pred"] += result.refused_pred
        refused["truth"] += result.refused_truth
        if progress is not None:
            progress(done, len(pairs), "scoring scans")
    raise_refused(pred_table, refused["pred"])
    raise_refused(true_table, refused["truth"])
    return combine_terms(
        {pair.scan_id: terms[pair.scan_id] for pair in pairs},
        metric=metric,
        measures={pair.scan_id: measures[pair.scan_id] for pair in pairs} if medical else None,
        tolerance_mm=tolerance_mm,
    )


def _check_same_rows(pred: MaskTable, truth: MaskTable, *, in_order: bool) -> None:
    """Refuse a submission whose rows are not the truth's."""
    codes = {scan_id: index for index, scan_id in enumerate(truth.scan_ids)}
    for scan_id in pred.scan_ids:
        codes.setdefault(scan_id, len(codes))
    to_code = np.array([codes[scan_id] for scan_id in pred.scan_ids], np.int64)
    keys = [
        (scan * 10**10 + table.number) * len(ORGANS) + table.organ
        for table, scan in (
            (pred, to_code[pred.scan] if len(pred) else pred.scan),
            (truth, truth.scan),
        )
    ]
    missing = np.flatnonzero(~np.isin(keys[1], keys[0]))
    extra = np.flatnonzero(~np.isin(keys[0], keys[1]))
    problems = [
        Problem(where=pred.name, found=f"no row for {_row_name(truth, row)}", expected="one")
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
    if in_order:
        differ = np.flatnonzero(keys[0] != keys[1])
        if len(differ):
            row = int(differ[0])
            raise InputError(
                f"{pred.row_label(row)}: found in another order than {truth.row_label(row)}; "
                "expected the truth's order, because mle-bench pairs rows by position. Sort the "
                "submission like the truth, or choose another metric."
            )


def _row_name(table: MaskTable, row: int) -> str:
    scan_id = table.scan_ids[int(table.scan[row])]
    return f"{slice_id(scan_id, int(table.number[row]))}, {ORGANS[int(table.organ[row])]}"


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One scan's rows of both tables, ready for a worker."""

    scan_id: str
    size: Size
    metric: Metric
    rows_pred: NDArray[np.int64]
    rows_truth: NDArray[np.int64]
    texts_pred: tuple[str, ...]
    texts_truth: tuple[str, ...]
    spacing_mm: Spacing | None = None
    tolerance_mm: float = DEFAULT_TOLERANCE_MM


@dataclass(frozen=True, kw_only=True)
class _Result:
    scan_id: str
    terms: Terms
    measures: Mapping[str, OrganMeasures]
    refused_pred: tuple[RleProblem, ...]
    refused_truth: tuple[RleProblem, ...]


def _pair_scans(
    pred: MaskTable, truth: MaskTable, *, metric: Metric, sizes: Mapping[str, Size] | None
) -> Iterator[_Pair]:
    scans = group_rows(truth)
    found = find_sizes(truth, scans, sizes=sizes)
    of_pred = {scan.scan_id: scan for scan in group_rows(pred)}
    for scan in scans:
        rows_pred = of_pred[scan.scan_id].rows
        yield _Pair(
            scan_id=scan.scan_id,
            size=found[scan.scan_id],
            metric=metric,
            rows_pred=rows_pred,
            rows_truth=scan.rows,
            texts_pred=_texts(pred, rows_pred),
            texts_truth=_texts(truth, scan.rows),
        )


def _add_spacing(
    pairs: Sequence[_Pair],
    spacing_mm: Mapping[str, Spacing] | None,
    tolerance_mm: float,
    *,
    name: str,
) -> list[_Pair]:
    known = spacing_mm or {}
    unknown = [pair.scan_id for pair in pairs if pair.scan_id not in known]
    if unknown:
        raise InputError(
            f"{name}: the voxel spacing of {unknown[0]} is not known"
            + (f" (nor of {len(unknown) - 1} more scans)" if len(unknown) > 1 else "")
            + "; millimetres need it. Give the source that holds the images (--images SOURCE)."
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
    refused = []
    for rows, texts in ((pair.rows_pred, pair.texts_pred), (pair.rows_truth, pair.texts_truth)):
        runs, problems = decode_rows(texts, pixels=height * width)
        index = np.arange(rows.size).reshape(rows.shape)
        volumes.append(paint_runs(runs, index, height=height, width=width))
        flat = rows.reshape(-1)
        refused.append(
            tuple(
                RleProblem(row=int(flat[p.row]), found=p.found, expected=p.expected)
                for p in problems
            )
        )
    terms = score_label_maps(*volumes, metric=pair.metric)
    if pair.metric == "slice-2d":  # a row that is in neither table is no pair of empty masks
        terms.hausdorff[pair.rows_truth.T < 0] = np.nan
    measures: dict[str, OrganMeasures] = {}
    if pair.spacing_mm is not None:
        measures = measure_label_maps(
            *volumes, spacing_mm=pair.spacing_mm, tolerance_mm=pair.tolerance_mm
        )
    return _Result(
        scan_id=pair.scan_id,
        terms=terms,
        measures=measures,
        refused_pred=refused[0],
        refused_truth=refused[1],
    )


def _run(pairs: Sequence[_Pair], *, jobs: int | None) -> Iterator[_Result]:
    """Score the pairs, in any order."""
    # Scoring spends its time in NumPy and SciPy, which let other threads run. Millimetres take
    # MONAI, whose warnings can only be silenced for a whole process.
    medical = any(pair.spacing_mm is not None for pair in pairs)
    if jobs is None:
        jobs = 1 if medical and len(pairs) < _FEW_SCANS else count_cores()
    if jobs <= 1 or len(pairs) <= 1:
        yield from map(_score_pair, pairs)
        return
    pool: Executor
    if medical:
        pool = QuietPool(min(jobs, len(pairs)))
    else:
        pool = ThreadPoolExecutor(max_workers=min(jobs, len(pairs)))
    with pool:
        waiting = iter(pairs)
        running: set[Future[_Result]] = {
            pool.submit(_score_pair, pair) for pair in islice(waiting, 2 * jobs)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            running |= {pool.submit(_score_pair, pair) for pair in islice(waiting, len(done))}
