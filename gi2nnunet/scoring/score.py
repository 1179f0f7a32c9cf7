"""Score of a submission against the truth, row by row.

Rows are paired by slice and organ; memory holds the texts of both tables and a few scans.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, name_some, raise_problems
from gi2nnunet.core.workers import Progress, count_cores
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.rle import RleProblem, decode_rows
from gi2nnunet.formats.tables import (
    MaskTable,
    Size,
    find_sizes,
    group_rows,
    paint_runs,
    raise_refused,
)
from gi2nnunet.scoring.conventions import Metric, ScanChoice, require_convention
from gi2nnunet.scoring.masks import read_masks
from gi2nnunet.scoring.medical import (
    DEFAULT_TOLERANCE_MM,
    OrganMeasures,
    Spacing,
    measure_label_maps,
    silence_library,
)
from gi2nnunet.scoring.metric import Terms, score_label_maps
from gi2nnunet.scoring.misread import Counts, count_agreement, find_misreading
from gi2nnunet.scoring.result import Place, Score, combine_terms

_SAME_SPACING = 1e-3  # relative; what programs round when they write a volume
_HIGH_DICE = 0.98  # other readings of a scan that agrees better than this are not tried


def score_submission(
    submission: Path | MaskTable,
    truth: Path | MaskTable,
    *,
    metric: Metric = "per-class",
    scans: ScanChoice = "all",
    beside: Sequence[MaskTable] = (),
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
        What :func:`~gi2nnunet.scoring.masks.read_masks` takes.
    metric
        The convention, one of :data:`~gi2nnunet.scoring.conventions.CONVENTIONS`.
    scans
        ``"all"``: both must have the same. ``"common"``: those that both have, and each table in
        ``beside`` too; then the score's ``scope`` says how many these are.
    beside
        Tables that must also have a scan for it to be common.
    sizes
        Image size ``(height, width)`` in pixels by scan id; by default the ``image_height`` and
        ``image_width`` columns of the truth.
    medical
        Measure surface Dice, HD95 and volume error too (:mod:`gi2nnunet.scoring.medical`).
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm by scan id; the medical measures need it, and areas of
        slices.
    jobs
        Threads; by default one per core. 1 computes in the caller's thread.

    Returns
    -------
    Score
        Two empty tables give NaN. Its ``warnings`` say if submission or truth look column-major, or
        as if starts counted from 0; ``misread`` names that.

    Raises
    ------
    InputError
        If a file is not such a table; if the truth is not as it was recorded, see
        :func:`~gi2nnunet.scoring.record.read_truth`; if the submission has not exactly the rows of
        the truth; if ``mle-bench`` finds the rows in another order; if an image size, or a spacing
        that is needed, is unknown; if an RLE text is refused.
    ValueError
        For an unknown convention.
    """
    require_convention(metric)
    pred_table, true_table = read_masks(submission), read_masks(truth, truth=True)
    chosen, scope = None, ""
    if scans == "common":
        chosen, scope = _choose_common((pred_table, *beside, true_table))
    _check_same_rows(pred_table, true_table, chosen=chosen, in_order=metric == "mle-bench")
    if medical:
        _check_same_spacing(pred_table, true_table)
    pairs = _pair_scans(pred_table, true_table, chosen=chosen, metric=metric, sizes=sizes)
    pairs = [replace(pair, spacing_mm=(spacing_mm or {}).get(pair.scan_id)) for pair in pairs]
    if medical:
        _require_spacing(pairs, name=true_table.name)
    results: list[_Result] = []
    with silence_library() if medical else nullcontext():
        for result in _run(pairs, jobs=jobs, tolerance_mm=tolerance_mm if medical else None):
            results.append(result)
            if progress is not None:
                progress(len(results), len(pairs), "scoring scans")
    for side, table in enumerate((pred_table, true_table)):
        raise_refused(table, [problem for result in results for problem in result.refused[side]])
    by_scan = {pair.scan_id: result for pair, result in zip(pairs, results, strict=True)}
    score = combine_terms(
        {scan_id: result.terms for scan_id, result in by_scan.items()},
        metric=metric,
        places={pair.scan_id: Place(numbers=pair.numbers, spacing_mm=pair.spacing_mm)
                for pair in pairs},
        measures={scan_id: result.measures for scan_id, result in by_scan.items()}
        if medical else None,
        tolerance_mm=tolerance_mm,
    )  # fmt: skip
    agreement = [result.agreement for result in results if result.agreement is not None]
    misreading = find_misreading(agreement) if 2 * len(agreement) > len(pairs) else None
    warnings = [*pred_table.warnings, *true_table.warnings]
    warnings += [misreading.warning] if misreading else []
    warnings += _describe_gaps(true_table.name, pairs)
    return replace(
        score, scope=scope, misread=misreading.meant if misreading else "",
        warnings=tuple(dict.fromkeys(warnings)),
    )  # fmt: skip


def _describe_gaps(name: str, pairs: Sequence[_Pair]) -> list[str]:
    gaps = [
        pair.scan_id for pair in pairs if pair.numbers[-1] - pair.numbers[0] >= len(pair.numbers)
    ]
    if not gaps:
        return []
    return [
        f"{name}: {count(len(gaps), 'scan')} with gaps between the slices ({name_some(gaps)}). "
        "Only the slices in it are scored, and the distance in 3D takes them for neighbours."
    ]


def _choose_common(tables: Sequence[MaskTable]) -> tuple[set[str], str]:
    """Return the scans that every table has, and what to say of them if these are not all."""
    common = set(tables[0].scan_ids).intersection(*(table.scan_ids for table in tables[1:]))
    if not common:
        raise InputError(
            f"{tables[0].name}: found no scan that {' and '.join(t.name for t in tables[1:])} "
            f"has too; expected some, such as {name_some(tables[-1].scan_ids, most=3)}. Give "
            "files of the same scans."
        )
    if all(len(table.scan_ids) == len(common) for table in tables):
        return common, ""
    sizes = {table.name: len(table.scan_ids) for table in tables}
    held = ", ".join(f"{size} in {name}" for name, size in sizes.items())
    return common, f"only {count(len(common), 'scan')} common to all files ({held})"


def _check_same_spacing(pred: MaskTable, truth: MaskTable) -> None:
    """Refuse label volumes with other voxel sizes than those of the truth."""
    in_both = sorted(pred.spacing_mm.keys() & truth.spacing_mm.keys())
    sides = ((scan_id, pred.spacing_mm[scan_id], truth.spacing_mm[scan_id]) for scan_id in in_both)
    raise_problems(
        [
            Problem(
                where=f"{pred.name}: {scan_id}",
                found=f"voxels of {_name_spacing(found)}",
                expected=f"{_name_spacing(wanted)}, as {truth.name} has",
            )
            for scan_id, found, wanted in sides
            if not np.allclose(found, wanted, rtol=_SAME_SPACING, atol=0)
        ],
        remedy="Give label volumes of the same scans. If only the voxel size is wrong, score the "
        f"CSV that this makes: gi2nnunet encode {shlex.quote(pred.name)} --out labels.csv",
    )


def _name_spacing(spacing_mm: Spacing) -> str:
    return f"{' x '.join(f'{side:.4g}' for side in spacing_mm)} mm (z, y, x)"


def _check_same_rows(
    pred: MaskTable, truth: MaskTable, *, chosen: Collection[str] | None, in_order: bool
) -> None:
    """Refuse a submission with other rows than the truth; ``chosen`` limits both to some scans."""
    in_both = set(truth.scan_ids) & set(pred.scan_ids)
    codes = {scan_id: code for code, scan_id in enumerate((*truth.scan_ids, *pred.scan_ids))}
    keys, rows = [], []
    for table in (pred, truth):
        code = np.array([codes[scan_id] for scan_id in table.scan_ids], np.int64)
        keep = np.isin(table.scan_ids, list(in_both if chosen is None else chosen))
        rows.append(np.flatnonzero(keep[table.scan]) if len(table) else table.scan)
        key = (code[table.scan] * 10**10 + table.number) * len(ORGANS) + table.organ
        keys.append(key[rows[-1]])
    missing = rows[1][~np.isin(keys[1], keys[0])]
    extra = rows[0][~np.isin(keys[0], keys[1])]
    problems = _compare_scans(pred, truth) if chosen is None else []
    hint = ", or score only the scans that both have by --scans common" if problems else ""
    problems += [
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
        remedy=f"Give one row for each of the {count(len(truth), 'row')} of {truth.name} and no "
        f"other{hint if in_both else ''}.",
    )
    differ = np.flatnonzero(keys[0] != keys[1])
    if in_order and len(differ):
        at = int(differ[0])
        raise InputError(
            f"{pred.row_label(rows[0][at])}: found in another order than "
            f"{truth.row_label(rows[1][at])}; "
            "expected the truth's order, because mle-bench pairs rows by position. Sort the "
            "submission like the truth, or choose another metric."
        )


def _compare_scans(pred: MaskTable, truth: MaskTable) -> list[Problem]:
    """Return a problem for the scans that only the truth has, and one for those only predicted."""
    problems = []
    for where, found, table, other in (
        (pred.name, f"no row of {{}} of the {count(len(truth.scan_ids), 'scan')}", truth, pred),
        (pred.name, "rows of {}", pred, truth),
    ):
        single = [scan_id for scan_id in table.scan_ids if scan_id not in other.scan_ids]
        n_rows = int(np.isin(table.scan_ids, single)[table.scan].sum()) if single else 0
        what = f" in {truth.name}" if table is truth else f" that {truth.name} does not have"
        number = f"{len(single)}" if table is truth else count(len(single), "scan")
        if single:
            problems.append(
                Problem(
                    where=where,
                    found=f"{found.format(number)}{what} ({count(n_rows, 'row')}): "
                    f"{name_some(single)}",
                    expected="the same scans",
                )
            )
    return problems


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One scan's rows and texts, of the submission and of the truth, ready for a worker."""

    scan_id: str
    size: Size
    metric: Metric
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    texts: tuple[tuple[str, ...], tuple[str, ...]]
    numbers: tuple[int, ...]
    spacing_mm: Spacing | None = None


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
    pred: MaskTable,
    truth: MaskTable,
    *,
    chosen: Collection[str] | None,
    metric: Metric,
    sizes: Mapping[str, Size] | None,
) -> list[_Pair]:
    scans = [scan for scan in group_rows(truth) if chosen is None or scan.scan_id in chosen]
    found = find_sizes(truth, scans, sizes=sizes)
    of_pred = {scan.scan_id: scan.rows for scan in group_rows(pred)}
    return [
        _Pair(
            scan_id=scan.scan_id,
            size=found[scan.scan_id],
            metric=metric,
            rows=(of_pred[scan.scan_id], scan.rows),
            texts=(_texts(pred, of_pred[scan.scan_id]), _texts(truth, scan.rows)),
            numbers=scan.numbers,
        )
        for scan in scans
    ]


def _require_spacing(pairs: Sequence[_Pair], *, name: str) -> None:
    if unknown := [pair.scan_id for pair in pairs if pair.spacing_mm is None]:
        raise InputError(
            f"{name}: the voxel spacing of {name_some(unknown)} is not known; millimetres need it. "
            "Give the source that holds the images (--images SOURCE)."
        )


def _texts(table: MaskTable, rows: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(table.texts[row] if row >= 0 else "" for row in rows.reshape(-1).tolist())


def _score_pair(pair: _Pair, *, tolerance_mm: float | None) -> _Result:
    """Decode and compare one scan; with a tolerance in mm and ml too."""
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
    if pair.spacing_mm is not None and tolerance_mm is not None:
        measures = measure_label_maps(
            *volumes, spacing_mm=pair.spacing_mm, tolerance_mm=tolerance_mm
        )
    counted = terms.dice[~np.isnan(terms.dice)]
    low = len(counted) > 0 and counted.mean() < _HIGH_DICE
    return _Result(
        terms=terms,
        agreement=count_agreement(*volumes) if low else None,
        measures=measures,
        refused=refused,
    )


def _run(
    pairs: Sequence[_Pair], *, jobs: int | None, tolerance_mm: float | None
) -> Iterator[_Result]:
    """Return the result of each pair, in order."""
    jobs = count_cores() if jobs is None else jobs
    score_pair = partial(_score_pair, tolerance_mm=tolerance_mm)
    if jobs <= 1 or len(pairs) <= 1:
        yield from map(score_pair, pairs)
        return
    # Scoring spends its time in NumPy, SciPy and PyTorch, which let other threads run.
    with ThreadPoolExecutor(min(jobs, len(pairs))) as pool:
        yield from pool.map(score_pair, pairs)
