"""Training of configurations and folds in child processes; interrupted ones continue."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Queue
from threading import Thread

from gi2nnunet.core.errors import EngineError, InputError, OutputError, StoppedError, count
from gi2nnunet.core.files import check_place, write_json
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.core.workers import Notice
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.cards import is_card_failure
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    TRAINING_RECORD,
    Fold,
    TrainingLength,
    TrainingRun,
    find_training_record,
    fold_folder,
    is_fold_number,
)
from gi2nnunet.nnunet.presets import TrainingSettings
from gi2nnunet.nnunet.process import Event
from gi2nnunet.training.plan import Plan
from gi2nnunet.training.prepared import require_prepared
from gi2nnunet.training.record import (
    Training,
    TrainingResult,
    choose_augment,
    fill_in,
    find_state,
    make_record,
    remove_fold,
)


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """Progress of one training after an epoch.

    Attributes
    ----------
    epoch, epochs
        Finished epochs and how many there will be.
    pseudo_dice
        Dice per organ over random validation patches, nnU-Net's "pseudo Dice"; NaN if no patch
        held the organ.
    seconds_left
        Wall-clock time of the remaining epochs at the pace of this one.
    """

    configuration: str
    fold: Fold
    epoch: int
    epochs: int
    train_loss: float
    val_loss: float
    pseudo_dice: Mapping[str, float]
    epoch_seconds: float
    seconds_left: float


def expand_folds(folds: Sequence[str], *, n_folds: int) -> tuple[Fold, ...]:
    """Turn values of ``--fold`` into folds: numbers, ``all`` or ``cv`` (every fold of the split).

    Raises
    ------
    InputError
        For a fold that the split does not have: nnU-Net would train it on a random split.
    """
    chosen: list[Fold] = []
    for fold in folds:
        if fold == "all":
            chosen.append("all")
        elif fold == "cv" and n_folds:
            chosen += range(n_folds)
        elif is_fold_number(fold) and int(fold) < n_folds:
            chosen.append(int(fold))
        elif n_folds:
            raise InputError(
                f"--fold {fold}: the split has the folds 0 to {n_folds - 1}. "
                "Give one of these, cv for all of them, or all for one model on every scan."
            )
        else:
            raise InputError(
                f"--fold {fold}: the dataset has no split (one patient cannot be split). "
                "Use --fold all."
            )
    return tuple(dict.fromkeys(chosen))


def describe_folds(folds: Sequence[Fold], dataset: Dataset) -> list[str]:
    """Return sentences on what is going to be trained."""
    scans = sum(scan.part == "train" for scan in dataset.scans)
    lines = []
    if "all" in folds:
        lines.append(
            f"Training one model on all {count(scans, 'training scan')} (fold all); nnU-Net's "
            "pseudo Dice is then in-sample."
        )
    numbered = [fold for fold in folds if fold != "all"]
    if numbered and len(numbered) == len(dataset.splits):
        lines.append(f"Training every one of the split's {count(len(numbered), 'fold')} (cv).")
    elif numbered:
        lines.append(
            f"Training fold {', '.join(map(str, numbered))} of the split's {len(dataset.splits)}."
        )
    return lines


@dataclass(frozen=True, kw_only=True)
class TrainingOrder:
    """What is the same for all trainings of one call of :func:`train_folds`.

    Attributes
    ----------
    restart
        Delete earlier training of these folds first.
    nnunet_validation
        Run nnU-Net's own final validation too.
    stop
        If it is set, each running training ends after its epoch with a checkpoint, and no other
        one begins.
    on_start
        Called with configuration, fold and log path when a training starts.
    on_notice
        Called with a sentence if patches are augmented in another way than asked for.
    """

    dataset: Dataset
    plan: Plan
    engine: Engine
    settings: TrainingSettings
    restart: bool = False
    nnunet_validation: bool = False
    command: str = ""
    stop: threading.Event | None = None
    on_start: Callable[[str, Fold, Path], None] | None = None
    on_epoch: Callable[[TrainingProgress], None] | None = None
    on_notice: Notice | None = None

    @property
    def folder(self) -> Path:
        """Return nnU-Net's folder of the preprocessed dataset."""
        return self.engine.workspace.preprocessed / self.dataset.name

    def describe(self, configuration: str, fold: Fold) -> Training:
        """Return where a training is, and what is recorded of it."""
        model = f"{self.settings.trainer}__{self.plan.plans_name}__{configuration}"
        return Training(
            configuration=configuration,
            fold=fold,
            folder=fold_folder(self.engine.workspace.results / self.dataset.name / model, fold),
            record=make_record(self.dataset, self.plan, self.settings, configuration),
        )

    def is_done(self, training: Training) -> bool:
        """Return whether there is nothing left to train; raises for other settings."""
        state = find_state(training, restart=self.restart)
        return state == "finished" and not self.nnunet_validation

    def train(self, training: Training, gpu: int | None) -> TrainingResult:
        """Run one training, which no other process may work on meanwhile."""
        name = f"training {training.configuration}, fold {training.fold}"
        with hold(training.folder, purpose=name):
            if self.is_done(training):  # by another run since
                return training.result("kept", None)
            require_prepared(
                self.dataset, self.folder, self.plan.plans_name, training.configuration
            )
            check_place(training.folder / FINAL_CHECKPOINT)
            if self.stop is not None and self.stop.is_set():
                raise _stopped(training, "before it began")
            return self._train(training, gpu)

    def _train(self, training: Training, gpu: int | None) -> TrainingResult:
        engine = self.engine
        device, n_threads = engine.hardware.device, engine.choose_threads(training=True)
        log = engine.new_log(f"train_{training.configuration}_fold_{training.fold}")
        if self.on_start:
            self.on_start(training.configuration, training.fold, log.path)
        if self.restart and training.folder.exists():
            remove_fold(training.folder)
        resume_from = training.last_checkpoint()
        runs = find_training_record(training.folder).get("runs", []) if resume_from else []
        this_run: TrainingRun = {"device": device, "threads": n_threads}
        this_run |= {"command": self.command} if self.command else {}
        augment = choose_augment(training)
        chosen: TrainingLength = {**training.record["settings"], "augment": augment}
        training = replace(
            training, record={**training.record, "settings": chosen, "runs": [*runs, this_run]}
        )
        done = engine.run(
            "train",
            {
                "dataset_folder": str(self.folder),
                "plans_name": self.plan.plans_name,
                "configuration": training.configuration,
                "fold": training.fold,
                "device": device,
                **asdict(self.settings),
                "augment": augment,
                "resume_from": str(resume_from) if resume_from else None,
                "nnunet_validation": self.nnunet_validation,
                "trust": engine.trust,
                "threads": n_threads,
            },
            log=log,
            processes=min(8, engine.workers),
            helpers=engine.choose_helpers(),
            threads=n_threads,
            gpu=gpu,
            on_event=lambda event: _take(event, training, this_run, self),
            stop=self.stop,
        )
        if (epoch := done.get("stopped_after")) is not None:
            raise _stopped(training, f"after epoch {epoch}, which is saved")
        return training.result("resumed" if resume_from else "trained", log.path)


def train_folds(order: TrainingOrder, folds: Sequence[Fold]) -> tuple[TrainingResult, ...]:
    """Train every planned configuration on every given fold.

    A finished training is not touched; an interrupted one continues from its last checkpoint. With
    several GPUs each takes one training at a time. If one training fails, the others are still
    trained; if its card failed, it continues on another card, once.

    Raises
    ------
    InputError
        If a training was begun with other settings and ``restart`` is off, or if what nnU-Net
        reads is not whole: preprocessed scans, plans, the dataset's split.
    EngineError
        If trainings failed, after all others were done.
    OutputError
        If another run works on one of them.
    StoppedError
        If ``stop`` was set before all were finished.
    """
    order = replace(order, settings=fill_in(order.settings, order.plan.preset))
    trainings = [order.describe(name, fold) for name in order.plan.configurations for fold in folds]
    todo = [training for training in trainings if not order.is_done(training)]
    engine = order.engine
    with hold_dataset(engine.workspace.raw, order.dataset.dataset_id, purpose="training"):
        trained = _run_all(todo, engine.hardware.slots, order.train)
    results = {(result.configuration, result.fold): result for result in trained}
    return tuple(
        results.get((training.configuration, training.fold)) or training.result("kept", None)
        for training in trainings
    )


def _stopped(training: Training, when: str) -> StoppedError:
    return StoppedError(
        f"{training.configuration}, fold {training.fold}: stopped as asked {when}. "
        "Run the same command again to continue."
    )


def _take(
    event: Event,
    training: Training,
    this_run: TrainingRun,
    order: TrainingOrder,
) -> None:
    """Take an event; ``this_run`` is the last of the record's runs."""
    if event["event"] == "notice" and order.on_notice is not None:
        order.on_notice(f"{training.configuration}, fold {training.fold}: {event['message']}")
    if event["event"] == "start" and not (training.folder / FINAL_CHECKPOINT).is_file():
        # Not before the engine begins: a refused start is not a training.
        write_json(training.folder / TRAINING_RECORD, training.record)
    if event["event"] != "epoch":
        return
    for key in ("peak_memory_bytes", "peak_gpu_bytes"):
        if key in event:
            this_run[key] = event[key]
    # Not worth ending a training for.
    with contextlib.suppress(OutputError):
        write_json(training.folder / TRAINING_RECORD, training.record)
    if order.on_epoch is not None:
        same = {key: event[key] for key in ("epoch", "epochs", "train_loss", "val_loss")}
        order.on_epoch(
            TrainingProgress(
                configuration=training.configuration,
                fold=training.fold,
                **same,
                pseudo_dice=dict(zip(ORGANS, event["dice"], strict=True)),
                epoch_seconds=event["seconds"],
                seconds_left=event["seconds"] * (event["epochs"] - event["epoch"]),
            )
        )


def _run_all(
    todo: Sequence[Training],
    slots: Sequence[int | None],
    run: Callable[[Training, int | None], TrainingResult],
) -> list[TrainingResult]:
    """Run the trainings, as many at a time as there are slots."""
    if len(slots) == 1:
        return [run(training, slots[0]) for training in todo]
    ended: Queue[tuple[Training, int | None, TrainingResult | Exception]] = Queue()

    def work(training: Training, gpu: int | None) -> None:
        try:
            ended.put((training, gpu, run(training, gpu)))
        except Exception as error:  # raised below, after the others are done
            ended.put((training, gpu, error))

    waiting, free, running = deque(todo), list(slots), 0
    outcomes: list[tuple[Training, TrainingResult | Exception]] = []
    failed_once: set[Path] = set()
    while running or waiting:
        while waiting and free:
            # Daemons: on Ctrl-C this process ends at once, and its children with it.
            Thread(target=work, args=(waiting.popleft(), free.pop(0)), daemon=True).start()
            running += 1
        training, gpu, outcome = ended.get()
        running -= 1
        failed = isinstance(outcome, EngineError) and is_card_failure(str(outcome))
        if failed and (free or running) and training.folder not in failed_once:
            failed_once.add(training.folder)
            waiting.append(training)  # for another card: this one gets no more
        else:
            outcomes.append((training, outcome))
            free.append(gpu)
    failures = [
        f"{training.configuration} fold {training.fold}: {outcome}"
        for training, outcome in outcomes
        if isinstance(outcome, Exception)
    ]
    if failures:
        errors = [outcome for _, outcome in outcomes if isinstance(outcome, Exception)]
        if len(todo) == 1 or all(isinstance(error, StoppedError) for error in errors):
            raise errors[0]
        kind = InputError if all(isinstance(e, InputError) for e in errors) else EngineError
        raise kind(
            f"{len(failures)} of {count(len(todo), 'training')} failed; the others are done. "
            "Run the same command again to continue.\n" + "\n".join(failures)
        )
    return [outcome for _, outcome in outcomes if isinstance(outcome, TrainingResult)]
