"""Fill in a submission for hidden scans: within a time budget, and valid at every moment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gi2nnunet.core.progress import Notice, Progress, count_steps
from gi2nnunet.formats.ids import ORGANS, slice_id
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.tables import Row
from gi2nnunet.nnunet.engine import Engine, PredictionSettings
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.nnunet.saved_postprocess import Tuned, find_tuning
from gi2nnunet.prediction.budget import OnScan, Outcome, Step, list_steps, predict_within
from gi2nnunet.prediction.predict import PredictedScan, predict_scans
from gi2nnunet.sharing.exchange import take_over
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import Scan

RESERVE = 0.02  # of the budget, kept for the last write and for ending


@dataclass(frozen=True, kw_only=True)
class HiddenPrediction:
    """What was done.

    Attributes
    ----------
    submission
        The CSV.
    scans
        How many ``test/`` holds.
    outcome
        What became of them; ``None`` where there were none to predict.
    tuned
        What decided; ``None`` for masks as nnU-Net decides them.
    warnings
        One sentence each.
    """

    submission: Path
    scans: int
    outcome: Outcome | None
    tuned: Tuned | None
    warnings: tuple[str, ...]


def predict_hidden(
    source: Path,
    model: Path,
    out: Path,
    *,
    hours: float,
    engine: Engine,
    mirroring: bool = True,
    tuning: bool = True,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> HiddenPrediction:
    """Predict what ``test/`` holds; ``out`` is a valid submission from the first second on.

    It is written with empty rows before a model is opened, and replaced with every scan.

    Parameters
    ----------
    source
        The competition's folder.
    model
        A file of :func:`~gi2nnunet.sharing.exchange.export_model`.
    out
        The submission CSV.
    hours
        The budget, from this call on.
    engine
        Where the model is unpacked to, and what it is computed on.
    mirroring
        Whether to begin with mirroring.
    tuning
        Decide as what tuning chose for these models has it, where they brought that along.
    progress
        Called with ``(done, total, what)`` in scans.
    on_notice
        Called with each sentence about what is given up.

    Raises
    ------
    InputError
        Where the source or the model cannot be read at all. A scan that cannot is a warning.
    OutputError
        Where ``out`` cannot be written.
    """
    start = time.monotonic()
    found = open_source(source, scope="hidden")
    numbers_of = {scan_id: scan.numbers for scan_id, scan in found.scans.items()}
    numbers_of.update(found.unreadable)
    texts: dict[tuple[str, str], str] = {
        (slice_id(scan_id, number), organ): ""
        for scan_id, numbers in numbers_of.items()
        for number in numbers
        for organ in ORGANS
    }

    def write() -> tuple[str, ...]:
        rows: list[Row] = [(row_id, organ, text) for (row_id, organ), text in texts.items()]
        return write_submission(out, rows, sample=found.sample)

    notes = write()
    if not found.scans:
        return HiddenPrediction(
            submission=out,
            scans=len(numbers_of),
            outcome=None,
            tuned=None,
            warnings=(*found.warnings, *notes),
        )
    bundle = take_over(model, engine=engine).model.bundle
    ensemble = choose_ensemble(
        engine.workspace.results / bundle.dataset,
        n_folds=bundle.n_folds,
        configurations=tuple(bundle.folds),
        folds=tuple(next(iter(bundle.folds.values()))),
    )
    tuned, told = find_tuning(ensemble) if tuning else (None, [])
    engine = replace(engine, found=engine.hardware)  # found before a scan is timed
    report = count_steps(progress, len(found.scans), "predicting scans")

    def take(scan: PredictedScan) -> None:
        texts.update({(row_id, organ): text for row_id, organ, text in scan.rows})
        write()
        report(scan)

    def predict(part: Sequence[Scan], step: Step, tell: OnScan) -> None:
        predict_scans(
            ensemble,
            part,
            engine=engine,
            settings=PredictionSettings(mirroring=step.mirroring),
            folds={scan.scan_id: step.folds for scan in part},
            decision=tuned.decision if tuned else None,
            on_scan=tell,
        )

    outcome = predict_within(
        tuple(found.scans.values()),
        list_steps(ensemble.folds, mirroring=mirroring),
        deadline=start + hours * 3600 * (1 - RESERVE),
        predict=predict,
        on_scan=take,
        on_change=on_notice,
    )
    if tuned and tuned.decision.organs:
        for mirroring in sorted({step.mirroring for step in outcome.used.values()}):
            told += tuned.list_differences({"mirroring": mirroring})
    warnings = [*found.warnings, *told, *write()]
    warnings += [f"{name} is left empty: {text}" for name, text in outcome.failed.items()]
    if outcome.late:
        warnings.append(
            f"the time budget of {hours:g} hours was too short for {len(outcome.late)} of "
            f"{len(found.scans)} scans, which are left empty: {', '.join(outcome.late[:5])}"
        )
    return HiddenPrediction(
        submission=out,
        scans=len(numbers_of),
        outcome=outcome,
        tuned=tuned,
        warnings=tuple(warnings),
    )
