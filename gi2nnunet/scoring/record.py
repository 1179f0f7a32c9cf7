"""Files of a score: ``score-CONVENTION.json`` and ``.csv`` for each convention, ``truth.csv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import FloatOrNan, find_record, read_record, replace_file, write_json
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.tables import MaskTable, format_rows, read_mask_table
from gi2nnunet.scoring.bootstrap import (
    CONFIDENCE,
    SCORE_RESAMPLES,
    estimate_intervals,
)
from gi2nnunet.scoring.conventions import CONVENTIONS, Metric
from gi2nnunet.scoring.medical import DEFAULT_TOLERANCE_MM, OrganMeasures
from gi2nnunet.scoring.result import Interval, Score

SUBMISSION, TRUTH, PREDICTION = "submission.csv", "truth.csv", "prediction.json"
SCORE_FILES = (*(f"score-{m}{ending}" for m in CONVENTIONS for ending in (".json", ".csv")), TRUTH)
"""All files that a score can have."""
_SEED = 0


class _Digests(TypedDict):
    sha256: dict[str, str]


class _Predicted(_Digests):
    standing: str


class _Beside(_Digests):
    intervals: dict[str, tuple[FloatOrNan, FloatOrNan, FloatOrNan]]


@dataclass(frozen=True, kw_only=True)
class ScoreRecord:
    """A recorded score, without the values of its rows, and its intervals by quantity."""

    score: Score
    intervals: Mapping[str, Interval]


def write_score(
    score: Score, folder: Path, *, truth: MaskTable, about: Mapping[str, Any]
) -> list[Path]:
    """Write the score's JSON, its CSV (one row per scan) and ``truth.csv``; return their paths.

    ``score`` is that of the ``submission.csv`` in the folder against ``truth``; ``about``, how the
    prediction was made, goes into the JSON. The scores of other conventions stay, unless the truth
    has changed.
    """
    path = _locate(folder, score.metric)
    table = path.with_suffix(".csv")
    text = _format_truth(truth)
    if not (folder / TRUTH).is_file() or (folder / TRUTH).read_bytes() != text.encode():
        for old in find_scores(folder).values():  # of another truth
            old.unlink()
            old.with_suffix(".csv").unlink(missing_ok=True)
        replace_file(folder / TRUTH, text)
    replace_file(table, _format_scans(score))
    found = estimate_intervals(score, n_resamples=SCORE_RESAMPLES, seed=_SEED)
    content = {
        **replace(score, intervals=found).to_json(),
        "bootstrap": {"n_resamples": SCORE_RESAMPLES, "confidence": CONFIDENCE, "seed": _SEED},
        "sha256": {name: hash_file(folder / name) for name in (SUBMISSION, TRUTH, table.name)},
    }
    write_json(path, {**content, **about})
    return [path, table, folder / TRUTH]


def _locate(folder: Path, metric: Metric) -> Path:
    return folder / f"score-{metric}.json"


def find_scores(folder: Path) -> dict[Metric, Path]:
    """Return the recorded scores of a folder's submission by convention, the newest first."""
    paths = {metric: _locate(folder, metric) for metric in CONVENTIONS}
    found = [(path.stat().st_mtime_ns, metric) for metric, path in paths.items() if path.is_file()]
    return {metric: paths[metric] for _, metric in sorted(found, reverse=True)}


SLICES_BEGIN = "scan_id,slice,organ,"
"""How the text of :func:`format_slices` begins."""


def format_slices(score: Score) -> str:
    """Return a score as CSV text, one row per slice and organ; see :meth:`Score.list_slices`."""
    return _format_rows(score.list_slices())


def _format_scans(score: Score) -> str:
    """Return a score as CSV text, one row per scan."""
    return _format_rows(score.list_scans()) or "scan_id\n"


def _format_rows(rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for at, row in enumerate(rows):
        if at == 0:
            writer.writerow(row)
        # An empty cell says that nothing was counted, or that it is not known.
        writer.writerow("" if value != value else value for value in row.values())
    return text.getvalue()


def read_truth(path: Path) -> MaskTable:
    """Read a truth, if it is as it was recorded.

    A converted dataset records its ``truth.csv``, and so does the folder of a scored prediction.

    Raises
    ------
    InputError
        If it is another file than recorded, or :func:`~gi2nnunet.formats.tables.read_mask_table`
        refuses it.
    """
    expected, remedy = None, "Restore it with: gi2nnunet convert SOURCE"
    if (path.parent / "manifest.json").is_file():
        # Most truths have none, and this import takes as long as a small score.
        from gi2nnunet.source.dataset import find_manifest, list_files

        manifest = find_manifest(path)
        described = list_files(manifest.content).get(path.name) if manifest else None
        expected = described.get("sha256") if described else None
    elif path.name == TRUTH:
        notes = [
            find_record(record, _Digests) for record in list(find_scores(path.parent).values())[:1]
        ]
        expected = next((noted["sha256"].get(TRUTH) for noted in notes if noted), None)
        remedy = "Make it again with: gi2nnunet predict-and-score"
    if expected and path.is_file() and hash_file(path) != expected:
        raise InputError(
            f"{path}: found a file that was changed after it was written; expected SHA-256 "
            f"{expected[:16]}. {remedy}. To use it as it is, copy it elsewhere."
        )
    return read_mask_table(path, any_scan=True)


def find_standing(submission: Path) -> str | None:
    """Return the standing that was recorded of a submission when it was predicted, if it was.

    ``submission`` is the file or its folder; one that was changed since has none.
    """
    path = submission / SUBMISSION if submission.is_dir() else submission
    noted = find_record(path.parent / PREDICTION, _Predicted)
    same = noted and path.is_file() and noted["sha256"].get(path.name) == hash_file(path)
    return noted["standing"] if noted and same else None


def read_score(folder: Path, metric: Metric | None = None) -> ScoreRecord:
    """Read a recorded score of a folder's ``submission.csv``; by default the newest.

    Raises
    ------
    InputError
        If there is none, it is damaged or of an earlier version, or a file that it is about
        changed after it was written.
    """
    path = _locate(folder, metric or CONVENTIONS[0])
    if metric is None:
        path = next(iter(find_scores(folder).values()), path)
    remedy = "Run the same gi2nnunet predict-and-score again to write it."
    beside = read_record(path, _Beside, remedy=remedy)
    for name in (SUBMISSION, TRUTH, path.with_suffix(".csv").name):
        given = folder / name
        if given.is_file() and beside["sha256"].get(name) != hash_file(given):
            raise InputError(f"{given}: found another file than {path.name} is about.")
    intervals = {
        name: Interval(value=value, low=low, high=high)
        for name, (value, low, high) in beside["intervals"].items()
    }
    return ScoreRecord(score=read_record(path, Score, remedy=remedy), intervals=intervals)


def find_measures(folder: Path, truth: MaskTable) -> dict[str, Mapping[str, OrganMeasures]] | None:
    """Return the recorded medical measures of a folder's submission by scan id, if there are any.

    They are the same for every convention. ``None`` if the truth was another, or another tolerance
    than the default.
    """
    try:
        score = read_score(folder).score
    except InputError:
        return None
    same = score.tolerance_mm == DEFAULT_TOLERANCE_MM and (folder / TRUTH).is_file()
    if not same or (folder / TRUTH).read_bytes() != _format_truth(truth).encode():
        return None
    found = {scan.scan_id: scan.measures for scan in score.per_scan if scan.measures}
    return found if set(found) == set(truth.scan_ids) else None


def _format_truth(table: MaskTable) -> str:
    """Return a table of the truth as CSV text, so that its score can be computed again."""
    if table.height is None or table.width is None:
        raise ValueError(f"{table.name}: the truth has no image sizes")
    sizes = zip(table.height.tolist(), table.width.tolist(), strict=True)
    return format_rows(table.list_rows(), "segmentation", sizes=sizes)
