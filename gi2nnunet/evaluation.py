"""Predict a selection of scans, write the submission, and score it where the truth is known."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gi2nnunet.files import check_place, replace_file, write_json
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Ensemble
from gi2nnunet.nnunet.predict import PredictedScan, predict_scans
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.scoring import Score, score_submission
from gi2nnunet.selection import Selection, Standing, tabulate_rows
from gi2nnunet.submission import write_submission


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was predicted, and how well.

    Attributes
    ----------
    submission
        The CSV.
    standing
        What the score means.
    score
        ``None`` where no truth is known.
    files
        Everything written, the submission first.
    warnings
        What was passed over, one sentence each.
    seconds_per_scan
        Mean wall-clock time of a scan.
    """

    submission: Path
    standing: Standing
    score: Score | None
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    seconds_per_scan: float


def evaluate(
    selection: Selection,
    ensemble: Ensemble,
    *,
    out: Path,
    workspace: Workspace,
    environ: Mapping[str, str],
    hardware: Hardware,
    metric: str = "per-class",
    mirroring: bool = True,
    step_size: float = 0.5,
    nifti: bool = False,
    score: bool = True,
    on_scan: Callable[[int, int, PredictedScan], None] | None = None,
) -> Evaluation:
    """Predict, write ``submission.csv`` and, where truth is known, the score.

    Parameters
    ----------
    selection
        What to predict.
    ensemble
        With which models.
    out
        Folder for ``submission.csv``, ``score.json``, ``score.csv`` (one row a scan) and, with
        ``nifti``, ``labels/`` and ``organs/``.
    workspace, environ, hardware
        Where and on what.
    metric
        Convention of :mod:`gi2nnunet.metric`.
    mirroring, step_size
        As nnU-Net has them.
    nifti
        Write label volumes too: the bit-coded map and a binary mask an organ.
    score
        Score where truth is known.
    on_scan
        Called with ``(done, total, scan)``.
    """
    check_place(out / "submission.csv")
    predicted = predict_scans(
        ensemble,
        selection.scans,
        workspace=workspace,
        environ=environ,
        hardware=hardware,
        folds=selection.folds,
        mirroring=mirroring,
        step_size=step_size,
        nifti_folder=out if nifti else None,
        on_scan=on_scan,
    )
    submission = out / "submission.csv"
    rows = [row for scan in predicted for row in scan.rows]
    warnings = [*selection.warnings]
    warnings += write_submission(submission, rows, sample=selection.sample)
    files = [submission]
    result = None
    if score and selection.truth is not None:
        predictions = tabulate_rows(str(submission), {s.scan_id: s.rows for s in predicted})
        result = score_submission(
            predictions or submission,
            selection.truth,
            metric=metric,  # type: ignore[arg-type]
        )
        files += write_score(
            result,
            out,
            about={
                "standing": selection.standing,
                "scans": selection.described,
                "models": ensemble.describe(),
            },
        )
    if nifti:
        files += [out / "labels", out / "organs"]
    return Evaluation(
        submission=submission,
        standing=selection.standing,
        score=result,
        files=tuple(files),
        warnings=tuple(warnings),
        seconds_per_scan=float(np.mean([scan.seconds for scan in predicted])),
    )


def write_score(score: Score, out: Path, *, about: Mapping[str, Any]) -> list[Path]:
    """Write ``score.json`` and ``score.csv`` (a row a scan) into a folder; return their paths."""
    write_json(out / "score.json", {**score.to_json(), **about})
    text = io.StringIO()
    fields = ["scan_id", "patient_id", "score", "dice", "hausdorff"]
    fields += [f"{organ}_{term}" for organ in ORGANS for term in ("dice", "hausdorff")]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for scan in score.per_scan:
        row: dict[str, object] = {name: getattr(scan, name) for name in fields[:5]}
        for organ, terms in scan.per_organ.items():
            row |= {f"{organ}_dice": terms.dice, f"{organ}_hausdorff": terms.hausdorff}
        # An empty cell says that nothing was counted.
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    replace_file(out / "score.csv", text.getvalue())
    return [out / "score.json", out / "score.csv"]
