"""Hidden test set: its submission within a time budget, valid at every moment."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import EngineError, GiError, InputError, count, name_some
from gi2nnunet.core.files import check_place
from gi2nnunet.core.workers import Notice, Progress, count_steps, ignore
from gi2nnunet.formats.ids import ORGANS, slice_id
from gi2nnunet.formats.submission import SUBMISSION_BEGINS, write_submission
from gi2nnunet.formats.tables import Row
from gi2nnunet.nnunet.cards import is_card_failure
from gi2nnunet.nnunet.engine import Engine, PredictionSettings, choose_hardware
from gi2nnunet.nnunet.models import Ensemble, Fold, choose_ensemble
from gi2nnunet.nnunet.postprocess import Tuned, find_tuning
from gi2nnunet.prediction.predict import PredictedScan, predict_scans
from gi2nnunet.sharing.exchange import import_model
from gi2nnunet.source.competition import SAMPLE
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import Scan, Source, SourceOptions

RESERVE = 0.02  # of the budget, kept for the last write and for ending
FIRST_SCANS = 3
# Reading, resampling and encoding take this part of a scan's time, whatever is given up. An
# assumption, corrected by the time of the next scans.
FIXED_PART = 0.2
MARGIN = 0.95
MIRRORED_PASSES = 4  # of a 2D network; a 3D one has 8, so that it gains more than is expected here


@dataclass(frozen=True, kw_only=True)
class HiddenPrediction:
    """A submission for the hidden test set, with the number of scans that ``test/`` holds.

    ``outcome`` is ``None`` if there were no scans to predict, ``tuned`` for masks as nnU-Net
    decides them.
    """

    submission: Path
    scans: int
    outcome: Outcome | None
    tuned: Tuned | None
    warnings: tuple[str, ...]

    @property
    def predicted(self) -> int:
        """Return how many scans were predicted."""
        return len(self.outcome.used) if self.outcome else 0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "submission": str(self.submission),
            "scans": self.scans,
            "predicted": self.predicted,
            "tuning": str(self.tuned.path) if self.tuned else None,
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True, kw_only=True)
class Step:
    """How scans are predicted: with or without mirroring, and with which folds."""

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
    """By scan id, the step it was predicted with or why it failed; ``late`` had no time left."""

    used: dict[str, Step]
    late: tuple[str, ...]
    failed: dict[str, str]


class _Submission:
    """The submission as it grows, with empty rows for scans that are not predicted yet."""

    def __init__(self, out: Path, found: Source) -> None:
        self._out, self._sample = out, found.sample
        numbers = {scan_id: scan.numbers for scan_id, scan in found.scans.items()}
        numbers.update(found.unreadable)
        self.scans = len(numbers)
        self._texts: dict[tuple[str, str], str] = {
            (slice_id(scan_id, number), organ): ""
            for scan_id in numbers
            for number in numbers[scan_id]
            for organ in ORGANS
        }

    def take(self, scan: PredictedScan) -> None:
        self._texts.update({(row_id, organ): text for row_id, organ, text in scan.rows})
        self.write()

    def write(self) -> tuple[str, ...]:
        rows: list[Row] = [(row_id, organ, text) for (row_id, organ), text in self._texts.items()]
        return write_submission(self._out, rows, sample=self._sample)


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

    It is written with empty rows before a model is opened, and replaced with every scan. The
    ``hours`` count from this call on. The model is unpacked into the engine's workspace; the
    settings that tuning chose for it are applied with ``tuning``. Every card that works is used,
    unless the engine has a number of its own; if all of them fail, the CPU goes on.

    Raises
    ------
    InputError
        If the source or the model cannot be read at all, or no scan can. One that cannot is a
        warning.
    EngineError
        If there are scans and none was predicted; ``out`` then holds empty rows.
    OutputError
        If ``out`` cannot be written.
    """
    deadline = time.monotonic() + hours * 3600 * (1 - RESERVE)
    samples = [*source.glob(SAMPLE), *source.glob(f"*/{SAMPLE}")]
    out = check_place(out, begins=SUBMISSION_BEGINS, reads=samples)
    found = open_source(source, SourceOptions(scope="hidden"))
    written = _Submission(out, found)
    notes = written.write()
    outcome, tuned = None, None
    doubts: list[str] = []
    if found.scans:
        bundle = import_model(model, engine=engine).bundle
        ensemble = choose_ensemble(
            engine.workspace.results / bundle.dataset,
            n_folds=bundle.n_folds,
            configurations=tuple(bundle.folds),
            folds=tuple(next(iter(bundle.folds.values()))),
        )
        tuned, doubts = find_tuning(ensemble) if tuning else (None, [])
        # The hardware is looked for before a scan is timed.
        predictor = _Predictor(ensemble, engine.use_every_card(), tuned, on_notice or ignore)
        report = count_steps(progress, len(found.scans), "predicting scans")

        def take(scan: PredictedScan) -> None:
            written.take(scan)
            report(scan)

        outcome = predict_within(
            tuple(found.scans.values()),
            list_steps(ensemble.folds, mirroring=mirroring),
            deadline=deadline,
            predict=predictor.predict,
            on_scan=take,
            on_change=on_notice,
        )
        if tuned and tuned.decision.organs:
            for mirrored in sorted({step.mirroring for step in outcome.used.values()}):
                doubts += tuned.list_differences({"mirroring": mirrored})
        notes = written.write()
    empty = _list_empty(outcome, hours)
    if written.scans and not (outcome and outcome.used):
        _refuse(out, written.scans, [*found.warnings, *empty], failed=outcome is not None)
    return HiddenPrediction(
        submission=out,
        scans=written.scans,
        outcome=outcome,
        tuned=tuned,
        warnings=(*found.warnings, *doubts, *notes, *empty),
    )


def _refuse(out: Path, scans: int, why: Sequence[str], *, failed: bool) -> None:
    """Raise the error of a submission with nothing but empty rows."""
    text = (
        f"{out}: nothing was predicted of {count(scans, 'scan')}, so it has only empty rows.\n"
        f"{name_some(why, most=20, separator=chr(10))}\n"
        "Correct this, or give more --hours if there was too little time, and run the same again."
    )
    raise (EngineError if failed else InputError)(text)


@dataclass(kw_only=False)
class _Predictor:
    """Predicts scans on the engine's hardware and, if its cards fail, on the CPU from then on."""

    ensemble: Ensemble
    engine: Engine
    tuned: Tuned | None
    on_notice: Notice

    def __post_init__(self) -> None:
        self.on_notice(self.engine.hardware.describe())

    def predict(self, part: Sequence[Scan], step: Step, on_scan: OnScan) -> None:
        """Predict the scans of a part; see :data:`PredictPart`."""
        done: set[str] = set()

        def take(scan: PredictedScan) -> None:
            done.add(scan.scan_id)
            on_scan(scan)

        try:
            self._predict(part, step, take)
        except EngineError as error:
            if self.engine.hardware.device != "cuda" or not is_card_failure(str(error)):
                raise
            on_cpu = choose_hardware(None, device="cpu", gpus=None)
            self.on_notice(f"{on_cpu.describe()}, as no GPU goes on: {str(error).splitlines()[0]}")
            self.engine = replace(self.engine, found=on_cpu)
            self._predict([scan for scan in part if scan.scan_id not in done], step, take)

    def _predict(self, part: Sequence[Scan], step: Step, on_scan: OnScan) -> None:
        predict_scans(
            self.ensemble,
            part,
            engine=self.engine,
            settings=PredictionSettings(mirroring=step.mirroring),
            folds={scan.scan_id: step.folds for scan in part},
            decision=self.tuned.decision if self.tuned else None,
            on_scan=on_scan,
        )


def _list_empty(outcome: Outcome | None, hours: float) -> list[str]:
    """Return a warning for what the submission has no masks of."""
    if outcome is None:
        return []
    warnings = [f"{name} is left empty: {text}" for name, text in outcome.failed.items()]
    if late := outcome.late:
        total = len(outcome.used) + len(outcome.failed) + len(late)
        warnings.append(
            f"the time budget of {hours:g} h was too short for {len(late)} of "
            f"{count(total, 'scan')}, left empty: {name_some(late)}"
        )
    return warnings


OnScan = Callable[[PredictedScan], None]
PredictPart = Callable[[Sequence[Scan], Step, OnScan], None]
RunUntil = Callable[[Callable[[], None], float], bool]


def list_steps(folds: Sequence[Fold], *, mirroring: bool = True) -> tuple[Step, ...]:
    """Return the steps in order: mirroring is given up first, then one fold after another."""
    whole = tuple(folds)
    steps = [Step(mirroring=True, folds=whole)] if mirroring else []
    steps += [Step(mirroring=False, folds=whole[:n]) for n in range(len(whole), 0, -1)]
    return tuple(steps)


def choose_step(
    steps: Sequence[Step], now: int, *, scan_seconds: float, scans: int, seconds_left: float
) -> int:
    """Return the first step, from ``now`` on, with which the scans fit; else the last.

    ``scan_seconds`` is the time of one scan with the step ``now``.
    """
    for index in range(now, len(steps)):
        ratio = steps[index].passes / steps[now].passes
        expected = scan_seconds * (FIXED_PART + (1 - FIXED_PART) * ratio)
        if scans * expected <= seconds_left * MARGIN:
            return index
    return len(steps) - 1


def run_until(work: Callable[[], None], seconds: float) -> bool:
    """Run ``work`` for at most so long; return whether it ended.

    What is given up goes on in a daemon thread, and ends with this process.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised again in the caller's thread
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
    """The scans of one part as they are finished; none is taken after the deadline."""

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

    ``predict`` calls back with each scan. If it raises a :class:`GiError`, its scans are tried
    again one by one, so that a bad scan costs only itself. ``on_change`` is called with each
    sentence about what is given up; ``run`` ends a part at the deadline, which is in seconds of
    ``clock``.
    """
    todo = list(scans)
    used: dict[str, Step] = {}
    failed: dict[str, str] = {}
    now, size = 0, min(FIRST_SCANS, len(todo))
    start_seconds = 0.0
    singly = 0  # how many of the next scans are predicted one by one
    while todo and clock() < deadline:
        part, step, start = todo[: 1 if singly else size], steps[now], clock()
        clocked = _Clocked(deadline=deadline, clock=clock, on_scan=on_scan)
        ended, error = True, None
        try:
            ended = run(partial(predict, part, step, clocked.take), deadline - start)
        except GiError as raised:
            error = raised
        clocked.close()
        used |= dict.fromkeys(clocked.at, step)
        left = [scan for scan in part if scan.scan_id not in clocked.at]
        if ended and len(part) == 1 and left and clock() < deadline:
            failed[part[0].scan_id] = str(error or "nnU-Net gave nothing for it")
            left = []
        todo = left + todo[len(part) :]
        if not ended:
            break
        singly = singly - 1 if singly else len(left)
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
            (on_change or ignore)(
                f"{count(len(todo), 'scan')} at {scan_seconds:.1f} s each cannot fit into the "
                f"{max(0.0, seconds_left):.0f} s left: going on with {steps[chosen].describe()}."
            )
            now = chosen
        # Several parts, so that a wrong estimate is noticed in time.
        fitting = int(seconds_left / 3 / max(scan_seconds, 1e-9))
        size = max(1, min(math.ceil(len(scans) / 4), fitting))
    return Outcome(used=used, late=tuple(scan.scan_id for scan in todo), failed=failed)


def _measure(start: float, at: Sequence[float], end: float, *, known: float) -> tuple[float, float]:
    """Return the seconds of one scan and of starting, from the times when scans were finished.

    One scan is not enough to separate them: then the known seconds of starting are kept.
    """
    if len(at) == 1:
        took = end - start
        return max(took - known, took / 10), known
    scan_seconds = (max(at) - min(at)) / (len(at) - 1)
    return scan_seconds, max(0.0, end - start - scan_seconds * len(at))
