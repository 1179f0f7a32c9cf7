"""Hidden test set: its submission within a time budget, valid at every moment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gi2nnunet.core.errors import GiError
from gi2nnunet.core.workers import Notice, Progress, count_steps
from gi2nnunet.formats.ids import ORGANS, slice_id
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.tables import Row
from gi2nnunet.nnunet.engine import Engine, PredictionSettings
from gi2nnunet.nnunet.models import Fold, choose_ensemble
from gi2nnunet.nnunet.postprocess import Tuned, find_tuning
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


FIRST_SCANS = 3
# Of a scan's time, the part that reading, resampling and encoding take: it shrinks with nothing.
# An assumption, put right by the time of the next scans.
FIXED_PART = 0.2
MARGIN = 0.95
MIRRORED_PASSES = 4  # of a 2D network; a 3D one has 8, so that it gains more than is counted on


@dataclass(frozen=True, kw_only=True)
class Step:
    """How scans are predicted.

    Attributes
    ----------
    mirroring
        Whether to average over mirrored images.
    folds
        With which folds.
    """

    mirroring: bool
    folds: tuple[Fold, ...]

    @property
    def passes(self) -> int:
        """Return the passes of the network, relative to one."""
        return (MIRRORED_PASSES if self.mirroring else 1) * len(self.folds)

    def describe(self) -> str:
        """Return it for the screen."""
        folds = ", ".join(map(str, self.folds))
        return f"fold {folds}, {'with' if self.mirroring else 'without'} mirroring"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the scans.

    Attributes
    ----------
    used
        The step each predicted scan was predicted with, by scan id.
    late
        Scans for which no time was left.
    failed
        Message by scan id, of scans that could not be predicted.
    changes
        What was given up, one sentence each.
    """

    used: dict[str, Step]
    late: tuple[str, ...]
    failed: dict[str, str]
    changes: tuple[str, ...]


OnScan = Callable[[PredictedScan], None]
PredictPart = Callable[[Sequence[Scan], Step, OnScan], None]
RunUntil = Callable[[Callable[[], None], float], bool]


def list_steps(folds: Sequence[Fold], *, mirroring: bool = True) -> tuple[Step, ...]:
    """Return the steps in the order in which they are taken: mirroring goes, then fold by fold."""
    whole = tuple(folds)
    steps = [Step(mirroring=True, folds=whole)] if mirroring else []
    steps += [Step(mirroring=False, folds=whole[:n]) for n in range(len(whole), 0, -1)]
    return tuple(steps)


def choose_step(
    steps: Sequence[Step], now: int, *, scan_seconds: float, scans: int, seconds_left: float
) -> int:
    """Return the first step, from ``now`` on, with which the scans fit; the last where none does.

    Parameters
    ----------
    steps
        As :func:`list_steps` gives them.
    now
        The step in use.
    scan_seconds
        Time of one scan with it.
    scans, seconds_left
        What is left to do and the time for it.
    """
    for index in range(now, len(steps)):
        ratio = steps[index].passes / steps[now].passes
        expected = scan_seconds * (FIXED_PART + (1 - FIXED_PART) * ratio)
        if scans * expected <= seconds_left * MARGIN:
            return index
    return len(steps) - 1


def run_until(work: Callable[[], None], seconds: float) -> bool:
    """Run ``work`` for at most so long; return whether it came to its end.

    What is given up goes on in a daemon thread, and ends with this process.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # told by the caller's own thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if thread.is_alive():
        return False
    if failures:
        raise failures[0]
    return True


@dataclass(kw_only=True)
class _Clocked:
    """The scans of one part as they come in; nothing is taken after the end."""

    deadline: float
    clock: Callable[[], float]
    on_scan: OnScan
    at: dict[str, float] = field(default_factory=dict)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, scan: PredictedScan) -> None:
        with self.lock:
            if not self.closed and self.clock() <= self.deadline:
                self.at[scan.scan_id] = self.clock()
                self.on_scan(scan)

    def close(self) -> None:
        with self.lock:
            self.closed = True


def predict_within(
    scans: Sequence[Scan],
    steps: Sequence[Step],
    *,
    deadline: float,
    predict: PredictPart,
    on_scan: OnScan,
    on_change: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    run: RunUntil = run_until,
) -> Outcome:
    """Predict scans until the deadline, giving up quality rather than scans.

    Parameters
    ----------
    scans
        What to predict.
    steps
        As :func:`list_steps` gives them.
    deadline
        By ``clock``, in seconds.
    predict
        Predicts some scans with a step and calls back with each as it is there. One that raises
        a :class:`GiError` is tried again scan by scan, so that a bad scan costs only itself.
    on_scan
        Called with each scan.
    on_change
        Called with each sentence about what is given up.
    clock, run
        The time, and what ends a part at the deadline.
    """
    todo = list(scans)
    used: dict[str, Step] = {}
    failed: dict[str, str] = {}
    changes: list[str] = []
    now, size = 0, min(FIRST_SCANS, len(todo))
    start_seconds = 0.0
    alone = 0  # how many of the next scans are taken one by one
    while todo and clock() < deadline:
        part = todo[: 1 if alone else size]
        clocked = _Clocked(deadline=deadline, clock=clock, on_scan=on_scan)
        step, start = steps[now], clock()

        def work(
            part: Sequence[Scan] = part, step: Step = step, clocked: _Clocked = clocked
        ) -> None:
            predict(part, step, clocked.take)

        error: GiError | None = None
        try:
            ended = run(work, deadline - clock())
        except GiError as raised:
            ended, error = True, raised
        clocked.close()
        used |= dict.fromkeys(clocked.at, step)
        left = [scan for scan in part if scan.scan_id not in clocked.at]
        if ended and len(part) == 1 and left and clock() < deadline:
            failed[part[0].scan_id] = str(error or "nnU-Net gave nothing for it")
            left = []
        todo = left + todo[len(part) :]
        if not ended:
            break
        alone = max(0, alone - 1) if alone else len(left)
        if not clocked.at or not todo:
            continue
        scan_seconds, start_seconds = _measure(
            start, list(clocked.at.values()), clock(), known=start_seconds
        )
        seconds_left = deadline - clock() - start_seconds
        chosen = choose_step(
            steps, now, scan_seconds=scan_seconds, scans=len(todo), seconds_left=seconds_left
        )
        if chosen != now:
            changes.append(
                f"{len(todo)} scans at {scan_seconds:.1f} s each do not fit into the "
                f"{max(0.0, seconds_left):.0f} s left: going on with {steps[chosen].describe()}."
            )
            if on_change:
                on_change(changes[-1])
            now = chosen
        # A few parts, so that a wrong estimate is found out in time.
        fitting = int(seconds_left / 3 / max(scan_seconds, 1e-9))
        size = max(1, min(math.ceil(len(scans) / 4), fitting))
    return Outcome(
        used=used,
        late=tuple(scan.scan_id for scan in todo),
        failed=failed,
        changes=tuple(changes),
    )


def _measure(start: float, at: Sequence[float], end: float, *, known: float) -> tuple[float, float]:
    """Return the seconds of one scan and of starting, from when each scan of a part was there.

    One scan alone does not tell them apart: what is known of starting is then kept.
    """
    if len(at) == 1:
        alone = end - start
        return max(alone - known, alone / 10), known
    scan_seconds = (max(at) - min(at)) / (len(at) - 1)
    return scan_seconds, max(0.0, end - start - scan_seconds * len(at))
