"""Train configurations and folds, each in its own child process; resume what was interrupted."""

from __future__ import annotations

import hashlib
import queue
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.errors import EngineError, InputError
from gi2nnunet.files import read_json, write_json
from gi2nnunet.kaggle import ORGANS
from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.checking import check_split, check_trainer
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    TRAINING_RECORD,
    Fold,
    fold_folder,
    is_fold_number,
)
from gi2nnunet.nnunet.plan import Plan, digest_dataset
from gi2nnunet.nnunet.process import Event, new_log, run_engine
from gi2nnunet.nnunet.workspace import Workspace, count_cores, engine_environment

STOCK_TRAINER = "nnUNetTrainer"
_MOST_AUGMENTATION_PROCESSES = 12  # nnU-Net's own number


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What a training is made with; recorded beside each fold, and the same when it resumes.

    Attributes
    ----------
    trainer
        nnU-Net's trainer class.
    epochs, iterations
        Length of the training; ``None`` leaves the trainer's own.
    learning_rate
        Initial learning rate; ``None`` leaves the trainer's own.
    pretrained_weights
        Checkpoint whose weights to start from.
    """

    trainer: str = STOCK_TRAINER
    epochs: int | None = None
    iterations: int | None = None
    learning_rate: float | None = None
    pretrained_weights: str | None = None


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


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How one training ended.

    Attributes
    ----------
    configuration, fold
        Which training.
    folder
        Where its checkpoints lie.
    outcome
        ``trained``, ``resumed`` (and finished), or ``kept``: it was finished before.
    log
        nnU-Net's output; ``None`` where nothing ran.
    """

    configuration: str
    fold: Fold
    folder: Path
    outcome: Literal["trained", "resumed", "kept"]
    log: Path | None


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


def train_folds(
    dataset: Dataset,
    plan: Plan,
    *,
    workspace: Workspace,
    environ: Mapping[str, str],
    hardware: Hardware,
    folds: Sequence[Fold],
    settings: TrainingSettings,
    jobs: int | None = None,
    restart: bool = False,
    nnunet_validation: bool = False,
    on_start: Callable[[str, Fold, Path], None] | None = None,
    on_epoch: Callable[[TrainingProgress], None] | None = None,
) -> tuple[TrainingResult, ...]:
    """Train every planned configuration on every given fold.

    A finished training is left alone, an interrupted one goes on from its last checkpoint. With
    several GPUs each takes one training at a time; one that fails does not stop the others.

    Parameters
    ----------
    dataset, plan
        What to train on; the plan's configurations are trained.
    workspace, environ, hardware
        Where and on what.
    folds
        From :func:`expand_folds`.
    settings
        How to train.
    jobs
        Worker processes.
    restart
        Throw away what was trained of these before.
    nnunet_validation
        Run nnU-Net's own final validation too.
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
    """
    check_trainer(settings.trainer)
    if any(fold != "all" for fold in folds):
        check_split(dataset, workspace.preprocessed / dataset.name)
    settings = _fill_in(settings, plan)
    todo: list[_Training] = []
    results: list[TrainingResult] = []
    for configuration in plan.configurations:
        for fold in folds:
            training = _Training(
                configuration=configuration,
                fold=fold,
                folder=fold_folder(
                    workspace.results
                    / dataset.name
                    / f"{settings.trainer}__{plan.plans_name}__{configuration}",
                    fold,
                ),
                record=_make_record(dataset, plan, settings),
            )
            state = _find_state(training, restart=restart)
            if state == "finished" and not nnunet_validation:
                results.append(training.result("kept", None))
            else:
                todo.append(training)

    def run(training: _Training, gpu: int | None) -> TrainingResult:
        log = new_log(workspace.logs, f"train_{training.configuration}_fold_{training.fold}")
        if on_start:
            on_start(training.configuration, training.fold, log.path)
        if restart and training.folder.exists():
            _remove(training.folder)
        resume_from = training.last_checkpoint()
        write_json(training.folder / TRAINING_RECORD, training.record)
        # A CPU training gains nothing from augmenting beside it on the same cores.
        helpers = 0 if hardware.device == "cpu" else max(1, (jobs or count_cores()) - 1)
        environment = engine_environment(
            workspace,
            environ=environ,
            processes=min(8, jobs or count_cores()),
            augmentation_processes=min(helpers, _MOST_AUGMENTATION_PROCESSES),
            threads=count_cores() if hardware.device == "cpu" else 1,
            gpu=gpu,
        )
        run_engine(
            "train",
            {
                "dataset_folder": str(workspace.preprocessed / dataset.name),
                "plans_name": plan.plans_name,
                "configuration": training.configuration,
                "fold": training.fold,
                "device": hardware.device,
                **asdict(settings),
                "resume_from": str(resume_from) if resume_from else None,
                "nnunet_validation": nnunet_validation,
                "threads": count_cores() if hardware.device == "cpu" else 1,
            },
            environment=environment,
            log=log,
            on_event=lambda event: _pass_on(event, training, on_epoch),
        )
        return training.result("resumed" if resume_from else "trained", log.path)

    results += _run_all(todo, hardware.slots, run)
    order = [(name, fold) for name in plan.configurations for fold in folds]
    return tuple(sorted(results, key=lambda r: order.index((r.configuration, r.fold))))


@dataclass(frozen=True, kw_only=True)
class _Training:
    configuration: str
    fold: Fold
    folder: Path
    record: Mapping[str, Any]

    def last_checkpoint(self) -> Path | None:
        for name in (FINAL_CHECKPOINT, "checkpoint_latest.pth", "checkpoint_best.pth"):
            if (self.folder / name).is_file():
                return self.folder / name
        return None

    def result(
        self, outcome: Literal["trained", "resumed", "kept"], log: Path | None
    ) -> TrainingResult:
        return TrainingResult(
            configuration=self.configuration,
            fold=self.fold,
            folder=self.folder,
            outcome=outcome,
            log=log,
        )


def _fill_in(settings: TrainingSettings, plan: Plan) -> TrainingSettings:
    """Give a preset's length to a training by the stock trainer; a variant keeps its own."""
    if settings.trainer != STOCK_TRAINER:
        return settings
    values = asdict(settings)
    values["epochs"] = settings.epochs or plan.preset.epochs
    values["iterations"] = settings.iterations or plan.preset.iterations
    return TrainingSettings(**values)


def _make_record(dataset: Dataset, plan: Plan, settings: TrainingSettings) -> dict[str, Any]:
    return {
        "settings": asdict(settings),
        "preset": plan.preset.name,
        "plans": hashlib.sha256(plan.plans_file.read_bytes()).hexdigest()[:16],
        "dataset": digest_dataset(dataset),
        "label_scheme": dataset.label_scheme,
        "versions": {name: version(name) for name in ("gi2nnunet", "nnunetv2", "torch")},
    }


def _find_state(training: _Training, *, restart: bool) -> Literal["new", "begun", "finished"]:
    """Return how far a training is; refuse to go on with one of other settings."""
    if restart or training.last_checkpoint() is None:
        return "new"
    finished = (training.folder / FINAL_CHECKPOINT).is_file()
    before = read_json(training.folder / TRAINING_RECORD)
    if not isinstance(before.get("settings"), dict):  # none, or a damaged one
        if finished:
            return "finished"
        raise InputError(
            f"{training.folder}: holds a training that nnU-Net itself began. "
            "Finish it with nnUNetv2_train --c, or start anew with --restart."
        )
    changed = [
        f"{key}: found {found!r}, now {value!r}"
        for key, value in _settings_of(training.record).items()
        if (found := _settings_of(before).get(key)) != value
    ]
    if changed:
        state = "finished" if finished else "begun"
        raise InputError(
            f"{training.folder}: this training was {state} with other settings "
            f"({'; '.join(changed)}). Give the settings it has, or start anew with --restart."
        )
    return "finished" if finished else "begun"


def _settings_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what must not change between the runs of one training."""
    return {**record["settings"], "plans": record.get("plans"), "dataset": record.get("dataset")}


def _remove(folder: Path) -> None:
    """Delete a fold; its final checkpoint goes first, so that no half of it looks finished."""
    (folder / FINAL_CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _pass_on(
    event: Event, training: _Training, on_epoch: Callable[[TrainingProgress], None] | None
) -> None:
    if event["event"] != "epoch" or on_epoch is None:
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
    todo: Sequence[_Training],
    slots: Sequence[int | None],
    run: Callable[[_Training, int | None], TrainingResult],
) -> list[TrainingResult]:
    """Run the trainings, as many at a time as there are slots."""
    if len(slots) == 1 or len(todo) <= 1:
        return [run(training, slots[0]) for training in todo]
    waiting: queue.SimpleQueue[_Training] = queue.SimpleQueue()
    for training in todo:
        waiting.put(training)
    ended: queue.SimpleQueue[tuple[_Training, TrainingResult | Exception]] = queue.SimpleQueue()

    def work(gpu: int | None) -> None:
        while True:
            try:
                training = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ended.put((training, run(training, gpu)))
            except Exception as error:  # told below, after the others are done
                ended.put((training, error))

    # Daemons: on Ctrl-C this process ends at once, and its children with it.
    for gpu in slots:
        threading.Thread(target=work, args=(gpu,), daemon=True).start()
    outcomes = [ended.get() for _ in todo]
    failures = [
        f"{training.configuration} fold {training.fold}: {outcome}"
        for training, outcome in outcomes
        if isinstance(outcome, Exception)
    ]
    if failures:
        raise EngineError(
            f"{len(failures)} of {len(todo)} trainings failed; the others are done. "
            "Run the same command again to go on.\n" + "\n".join(failures)
        )
    return [outcome for _, outcome in outcomes if isinstance(outcome, TrainingResult)]
