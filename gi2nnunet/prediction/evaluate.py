"""Predict a selection of scans, write the submission, and score it where the truth is known."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.files import check_place, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Notice, Progress, count_steps, ignore
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.tables import MaskTable, decode_table, read_mask_table, take_rows
from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
from gi2nnunet.nnunet.postprocess import Tuned, find_tuning
from gi2nnunet.prediction.choose import Standing, Work
from gi2nnunet.prediction.parts import predict_kept, tell_work
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.record import SCORE_FILES, write_score
from gi2nnunet.scoring.result import Score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.scan import Scan

COST = "cost.json"


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
        The results, the submission first; how they were made stands beside them in
        ``prediction.json``.
    warnings
        What was passed over, one sentence each.
    seconds_per_scan
        Mean wall-clock time of a scan.
    computing
        Device, threads, mirroring and step, as recorded.
    tuned
        What masks were decided by, where tuning chose it.
    scans
        What was predicted.
    """

    submission: Path
    standing: Standing
    score: Score | None
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    seconds_per_scan: float
    computing: Mapping[str, Any]
    tuned: Tuned | None
    scans: tuple[Scan, ...] = field(repr=False)

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Return the scans that were predicted."""
        return tuple(scan.scan_id for scan in self.scans)

    def read_image(self, scan_id: str) -> NDArray[Any]:
        """Return a scan's image ``(z, y, x)``, cranial slice first.

        Raises
        ------
        KeyError
            For a scan that was not predicted.
        InputError
            Where its files are gone or changed.
        """
        return self._find(scan_id).read().image

    def read_masks(self, scan_id: str) -> dict[str, NDArray[np.bool_]]:
        """Return a scan's predicted masks ``(z, y, x)`` by organ, as the submission holds them.

        A slice that the submission has no row for is empty. Raises as :meth:`read_image`.
        """
        scan = self._find(scan_id)
        label_map = np.zeros(scan.shape, np.uint8)
        rows = take_rows(self._table, [scan_id])
        if rows is not None:
            for _, numbers, planes in decode_table(rows, sizes={scan_id: scan.size}):
                label_map[[scan.numbers.index(number) for number in numbers]] = planes
        return dict(zip(ORGANS, split_organs(label_map), strict=True))

    @cached_property
    def _table(self) -> MaskTable:
        return read_mask_table(self.submission, any_scan=True)

    def _find(self, scan_id: str) -> Scan:
        for scan in self.scans:
            if scan.scan_id == scan_id:
                return scan
        raise KeyError(scan_id)


def evaluate(
    work: Work,
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions | None = None,
    metric: Metric = "per-class",
    score: bool = True,
    command: str = "",
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Evaluation:
    """Predict, write ``submission.csv`` and, where truth is known, the score.

    Parameters
    ----------
    work
        What to predict, with which models. Its folder gets ``submission.csv``, ``prediction.json``
        (how it was made), ``cost.json`` (its time and memory), where scored ``score.json``,
        ``score.csv`` (one row a scan) and ``truth.csv`` (the rows it was held to), and, if asked
        for, ``labels/``, ``organs/`` and ``probabilities/``. Until all of it is there, what an
        interrupted run leaves is in a hidden folder, and the next one goes on from it.
    engine, settings
        Where, on what and how.
    options
        What is made of it.
    metric
        Convention of :mod:`gi2nnunet.scoring.metric`.
    score
        Score where truth is known.
    command
        The command line to record.
    progress
        Called with ``(done, total, what)`` in scans.
    on_notice
        Called with sentences: what is computed on, which models, what is predicted.
    """
    selection, ensemble, out, submission = work.selection, work.ensemble, work.out, work.submission
    options = options or PredictionOptions()
    tell_work(work, selection.scans, engine=engine, on_notice=on_notice)
    check_place(submission)
    tuned, told = find_tuning(ensemble) if options.tuning else (None, [])
    if tuned and tuned.decision.organs and selection.standing in ("out-of-fold", "in-sample"):
        told.append(
            "what tuning chose was chosen on these very scans, so their score flatters it; its "
            f"honest gain is in {tuned.path}, and --no-tuning leaves it out"
        )
    told += (
        tuned.list_differences(settings.describe(engine)) if tuned and tuned.decision.organs else []
    )
    total, what = len(selection.scans), "predicting scans"
    with hold(out / "prediction", purpose="predicting"):
        (progress or ignore)(0, total, what)
        predicted = predict_kept(
            work,
            selection.scans,
            engine=engine,
            settings=settings,
            options=options,
            tuned=tuned,
            on_scan=count_steps(progress, total, what),
        )
        rows = [row for scan in predicted.scans for row in scan.rows]
        warnings = [*selection.warnings, *told]
        warnings += write_submission(submission, rows, sample=selection.sample)
        about = {
            "standing": selection.standing,
            "command": command,
            "scans": selection.recorded,
            "models": ensemble.describe(),
            "computing": settings.describe(engine),
            "tuning": tuned.describe() if tuned else None,
            "options": {
                "source": "SOURCE" if selection.source else None,
                **selection.options,
                "trained": [model.folder.name for model in ensemble.models],
                "folds": list(ensemble.folds),
                "metric": metric,
                "score": score,
                "tuning": options.tuning,
                "nifti": options.nifti,
                "save_probabilities": options.save_probabilities,
            },
            "versions": {name: version(name) for name in ("gi2nnunet", "nnunetv2", "torch")},
        }
        write_json(out / "prediction.json", about)
        seconds_per_scan = float(np.mean([scan.seconds for scan in predicted.scans]))
        # Apart from the rest, which is the same whenever the same is predicted again.
        cost = {"scans": total, "seconds_per_scan": seconds_per_scan}
        here = {"device": engine.hardware.device, "hardware": engine.hardware.name}
        write_json(out / COST, {**cost, **here, **predicted.peaks})
        files = [submission]
        result = None
        for name in SCORE_FILES:  # of an earlier run, whose submission is gone
            (out / name).unlink(missing_ok=True)
        if score and selection.truth is not None:
            # The file itself is scored, as anyone else would.
            result = score_submission(submission, selection.truth, metric=metric)
            files += write_score(result, out, truth=selection.truth, about=about)
        if options.nifti:
            files += [out / "labels", out / "organs"]
        if options.save_probabilities:
            files.append(out / "probabilities")
        shutil.rmtree(work.kept, ignore_errors=True)
        return Evaluation(
            submission=submission,
            standing=selection.standing,
            score=result,
            files=tuple(files),
            warnings=tuple(warnings),
            seconds_per_scan=seconds_per_scan,
            computing=settings.describe(engine),
            tuned=tuned,
            scans=selection.scans,
        )
