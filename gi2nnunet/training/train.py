"""Train configurations and folds, each in its own child process; resume what was interrupted."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import EngineError, InputError, OutputError, StoppedError
from gi2nnunet.core.files import check_place, read_json, write_json
from gi2nnunet.core.locks import hold, hold_dataset
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.checks import check_split, check_trainer
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    TRAINING_RECORD,
    Fold,
    fold_folder,
    is_fold_number,
)
from gi2nnunet.nnunet.presets import TrainingSettings
from gi2nnunet.nnunet.process import Event
from gi2nnunet.training.plan import Plan
from gi2nnunet.training.record import (
    Training,
    TrainingResult,
    fill_in,
    find_state,
    make_record,
    remove_fold,
)

_MOST_AUGMENTATION_PROCESSES = 12  # nnU-Net's own number
# What PyTorch prints where a card, its driver or a library on it gives up.
_CARD_FAILURES = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "cudaError", "NVML")


@dataclass(frozen=True, kw_only=True)
class TrainingProgress:
    """What one training tells after an epoch.

    Attributes
    ----------
    configuration, fold
        Which training.
    epoch, epochs
        Finished epochs and how many there will be.
    train_loss, val_loss
        nnU-Net's losses of the epoch.
    pseudo_dice
        Dice per organ over random validation patches, nnU-Net's "pseudo Dice"; NaN where no
        patch held the organ.
    epoch_seconds, seconds_left
        Wall-clock time of the epoch, and of what is left at that pace.
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
    """Turn what ``--fold`` said into folds.

    Parameters
    ----------
    folds
        Numbers, ``all`` (one model on every training scan) or ``cv`` (every fold of the split).
    n_folds
        Folds of the dataset's split.

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
    """Say in words what is going to be trained."""
    scans = sum(scan.part == "train" for scan in dataset.scans)
    lines = []
    if "all" in folds:
        lines.append(
            f"Training one model on all {scans} training scans (fold all); nnU-Net's pseudo Dice "
            "is then in-sample."
        )
    numbered = [fold for fold in folds if fold != "all"]
    if numbered and len(numbered) == len(dataset.splits):
        lines.append(f"Training every one of the split's {len(numbered)} folds (cv).")
    elif numbered:
        lines.append(
            f"Training fold {', '.join(map(str, numbered))} of the split's {len(dataset.splits)}."
        )
    return lines


def train_folds(
    dataset: Dataset,
    plan: Plan,
    *,
    engine: Engine,
    folds: Sequence[Fold],
    settings: TrainingSettings,
    restart: bool = False,
    nnunet_validation: bool = False,
    command: str = "",
    stop: threading.Event | None = None,
    on_start: Callable[[str, Fold, Path], None] | None = None,
    on_epoch: Callable[[TrainingProgress], None] | None = None,
) -> tuple[TrainingResult, ...]:
    """Train every planned configuration on every given fold.

    A finished training is left alone, an interrupted one goes on from its last checkpoint. With
    several GPUs each takes one training at a time; one that fails does not stop the others, and one
    whose card failed goes on from its last checkpoint on another card, once.

    Parameters
    ----------
    dataset, plan
        What to train on; the plan's configurations are trained.
    engine
        Where, on what and with how many workers and threads.
    folds
        From :func:`expand_folds`.
    settings
        How to train.
    restart
        Throw away what was trained of these before.
    nnunet_validation
        Run nnU-Net's own final validation too.
    command
        The command line to record.
    stop
        Where it is set, each running training ends after its epoch with a checkpoint, and no
        further one begins.
    on_start
        Called with configuration, fold and log path when a training starts.
    on_epoch
        Called after each epoch.

    Raises
    ------
    InputError
        Where a training was begun with other settings and ``restart`` is off; where nnU-Net would
        read another split than the dataset's.
    EngineError
        Where trainings failed, after all others were done.
    OutputError
        Where another run works on one of them.
    StoppedError
        Where ``stop`` was set before all were finished.
    """
    check_trainer(settings.trainer)
    settings = fill_in(settings, plan.preset)
    device, n_threads = engine.hardware.device, engine.choose_threads(training=True)
    workspace = engine.workspace
    if any(fold != "all" for fold in folds):
        check_split(dataset, workspace.preprocessed / dataset.name)
    todo: list[Training] = []
    results: list[TrainingResult] = []
    for configuration in plan.configurations:
        for fold in folds:
            training = Training(
                configuration=configuration,
                fold=fold,
                folder=fold_folder(
                    workspace.results
                    / dataset.name
                    / f"{settings.trainer}__{plan.plans_name}__{configuration}",
                    fold,
                ),
                record=make_record(dataset, plan, settings, configuration),
            )
            state = find_state(training, restart=restart)
            if state == "finished" and not nnunet_validation:
                results.append(training.result("kept", None))
            else:
                todo.append(training)

    def run_alone(training: Training, gpu: int | None) -> TrainingResult:
        name = f"training {training.configuration}, fold {training.fold}"
        with hold(training.folder, purpose=name):
            # Another run may have finished it since.
            state = find_state(training, restart=restart)
            if state == "finished" and not nnunet_validation:
                return training.result("kept", None)
            check_place(training.folder / FINAL_CHECKPOINT)
            if stop is not None and stop.is_set():
                raise _stopped(training, "before it began")
            return run(training, gpu)

    def run(training: Training, gpu: int | None) -> TrainingResult:
        log = engine.new_log(f"train_{training.configuration}_fold_{training.fold}")
        if on_start:
            on_start(training.configuration, training.fold, log.path)
        if restart and training.folder.exists():
            remove_fold(training.folder)
        resume_from = training.last_checkpoint()
        runs = read_json(training.folder / TRAINING_RECORD).get("runs", []) if resume_from else []
        this_run: dict[str, Any] = {"device": device, "threads": n_threads}
        this_run |= {"command": command} if command else {}
        training = replace(training, record={**training.record, "runs": [*runs, this_run]})
        # A CPU training gains nothing from augmenting beside it on the same cores.
        helpers = 0 if device == "cpu" else max(1, engine.workers - 1)
        done = engine.run(
            "train",
            {
                "dataset_folder": str(workspace.preprocessed / dataset.name),
                "plans_name": plan.plans_name,
                "configuration": training.configuration,
                "fold": training.fold,
                "device": device,
                **asdict(settings),
                "resume_from": str(resume_from) if resume_from else None,
                "nnunet_validation": nnunet_validation,
                "trust": engine.trust,
                "threads": n_threads,
            },
            log=log,
            processes=min(8, engine.workers),
            helpers=min(helpers, _MOST_AUGMENTATION_PROCESSES),
            threads=n_threads,
            gpu=gpu,
            on_event=lambda event: _take(event, training, this_run, on_epoch),
            stop=stop,
        )
        if (epoch := done.get("stopped_after")) is not None:
            raise _stopped(training, f"after epoch {epoch}, which is saved")
        return training.result("resumed" if resume_from else "trained", log.path)

    with hold_dataset(workspace.raw, dataset.dataset_id, purpose="training"):
        results += _run_all(todo, engine.hardware.slots, run_alone)
    order = [(name, fold) for name in plan.configurations for fold in folds]
    return tuple(sorted(results, key=lambda r: order.index((r.configuration, r.fold))))


def _stopped(training: Training, when: str) -> StoppedError:
    return StoppedError(
        f"{training.configuration}, fold {training.fold}: stopped as asked {when}. "
        "Run the same command again to go on."
    )


def _take(
    event: Event,
    training: Training,
    this_run: dict[str, Any],
    on_epoch: Callable[[TrainingProgress], None] | None,
) -> None:
    """Take an event; ``this_run`` is the last of the record's runs."""
    if event["event"] == "start" and not (training.folder / FINAL_CHECKPOINT).is_file():
        # Not before the engine begins: a refused start is no training.
        write_json(training.folder / TRAINING_RECORD, training.record)
    if event["event"] != "epoch":
        return
    this_run.update({key: value for key, value in event.items() if key.startswith("peak_")})
    # Not worth ending a training for.
    with contextlib.suppress(OutputError):
        write_json(training.folder / TRAINING_RECORD, training.record)
    if on_epoch is None:
        return
    on_epoch(
        TrainingProgress(
            configuration=training.configuration,
            fold=training.fold,
            epoch=event["epoch"],
            epochs=event["epochs"],
            train_loss=event["train_loss"],
            val_loss=event["val_loss"],
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
    spread = _Spread(todo, slots)

    def work(gpu: int | None) -> None:
        while (training := spread.take(gpu)) is not None:
            try:
                spread.end(training, gpu, run(training, gpu))
            except Exception as error:  # told below, after the others are done
                spread.end(training, gpu, error)

    # Daemons: on Ctrl-C this process ends at once, and its children with it.
    for gpu in slots:
        threading.Thread(target=work, args=(gpu,), daemon=True).start()
    outcomes = spread.wait()
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
            f"{len(failures)} of {len(todo)} trainings failed; the others are done. "
            "Run the same command again to go on.\n" + "\n".join(failures)
        )
    return [outcome for _, outcome in outcomes if isinstance(outcome, TrainingResult)]


class _Spread:
    """Hands trainings to cards; one whose card failed goes to another card, once.

    A card that failed two trainings in a row gets no more, unless it is the last one: a dead card
    fails fast and would else take every training first.
    """

    def __init__(self, todo: Sequence[Training], slots: Sequence[int | None]) -> None:
        self._total = len(todo)
        self._waiting: list[tuple[Training, int | None]] = [(training, None) for training in todo]
        self._cards = set(slots)
        self._failed_in_a_row = dict.fromkeys(slots, 0)
        self._again: set[tuple[str, Fold]] = set()
        self._ended: list[tuple[Training, TrainingResult | Exception]] = []
        self._changed = threading.Condition()

    def take(self, gpu: int | None) -> Training | None:
        """Wait for a training that this card may take; ``None`` where there will be none."""
        with self._changed:
            while len(self._ended) < self._total and gpu in self._cards:
                for index, (training, failed_on) in enumerate(self._waiting):
                    if failed_on is None or failed_on != gpu:
                        del self._waiting[index]
                        return training
                self._changed.wait()
            return None

    def end(self, training: Training, gpu: int | None, outcome: TrainingResult | Exception) -> None:
        with self._changed:
            key = (training.configuration, training.fold)
            if not (isinstance(outcome, EngineError) and is_card_failure(str(outcome))):
                self._failed_in_a_row[gpu] = 0
                self._ended.append((training, outcome))
            else:
                self._failed_in_a_row[gpu] += 1
                if self._failed_in_a_row[gpu] > 1 and len(self._cards) > 1:
                    self._cards.discard(gpu)
                others = self._cards - {gpu}
                if key in self._again or not others:
                    self._ended.append((training, outcome))
                else:
                    self._again.add(key)
                    self._waiting.append((training, gpu))
                self._give_up_the_stranded(outcome)
            self._changed.notify_all()

    def _give_up_the_stranded(self, outcome: Exception) -> None:
        """End what waits for another card than the only one left."""
        stranded = [
            entry
            for entry in self._waiting
            if entry[1] is not None and not self._cards - {entry[1]}
        ]
        for entry in stranded:
            self._waiting.remove(entry)
            self._ended.append((entry[0], outcome))

    def wait(self) -> list[tuple[Training, TrainingResult | Exception]]:
        """Wait until every training has ended."""
        with self._changed:
            while len(self._ended) < self._total:
                self._changed.wait()
            return list(self._ended)


def is_card_failure(message: str) -> bool:
    """Whether an engine's failure is a card's; memory that does not suffice is none."""
    return any(sign in message for sign in _CARD_FAILURES)
