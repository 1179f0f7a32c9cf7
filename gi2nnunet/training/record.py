"""Trainings on disk: settings, records, curves, how far each is, and whether it may continue."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.locks import Holder, find_holders
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    Fold,
    FoldFolder,
    TrainingLength,
    TrainingRecord,
    TrainingRun,
    find_import_record,
    find_training_record,
    list_folds,
)
from gi2nnunet.nnunet.presets import (
    DEFAULT_AUGMENT,
    STOCK_EPOCHS,
    STOCK_ITERATIONS,
    Augment,
    Preset,
    TrainingSettings,
)
from gi2nnunet.training.prepared import digest_file

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.training.plan import Plan


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How one training ended: ``trained``, ``resumed`` (and finished) or ``kept`` from before."""

    configuration: str
    fold: Fold
    folder: Path
    outcome: Literal["trained", "resumed", "kept"]
    log: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        log = str(self.log) if self.log else None
        return {**asdict(self), "folder": str(self.folder), "log": log}


@dataclass(frozen=True, kw_only=True)
class Training:
    """One configuration and fold to train, with nnU-Net's fold folder and its record."""

    configuration: str
    fold: Fold
    folder: Path
    record: TrainingRecord

    def last_checkpoint(self) -> Path | None:
        """Return the final checkpoint, else the newest: the best may be newer than the latest."""
        if (self.folder / FINAL_CHECKPOINT).is_file():
            return self.folder / FINAL_CHECKPOINT
        begun = [
            path
            for name in ("checkpoint_latest.pth", "checkpoint_best.pth")
            if (path := self.folder / name).is_file()
        ]
        return max(begun, key=lambda path: path.stat().st_mtime_ns, default=None)

    def result(
        self, outcome: Literal["trained", "resumed", "kept"], log: Path | None
    ) -> TrainingResult:
        """Return how it ended."""
        return TrainingResult(
            configuration=self.configuration,
            fold=self.fold,
            folder=self.folder,
            outcome=outcome,
            log=log,
        )


_NAMED_LENGTH = re.compile(r"_(\d+)ep")  # as in nnUNetTrainer_250epochs


def fill_in(settings: TrainingSettings, preset: Preset) -> TrainingSettings:
    """Give a training its preset's length; a trainer that is named by its epochs keeps its own."""
    if _NAMED_LENGTH.search(settings.trainer):
        return settings
    return replace(
        settings,
        epochs=settings.epochs or preset.epochs,
        iterations=settings.iterations or preset.iterations,
    )


def read_length(settings: TrainingSettings) -> tuple[int, int]:
    """Return the epochs of a training, and the batches in one, of settings that are filled in."""
    named = _NAMED_LENGTH.search(settings.trainer)
    epochs = settings.epochs or (int(named[1]) if named else STOCK_EPOCHS)
    return epochs, settings.iterations or STOCK_ITERATIONS


def make_record(
    dataset: Dataset, plan: Plan, settings: TrainingSettings, configuration: str
) -> TrainingRecord:
    """Return what is recorded beside a fold: settings, sizes, digests of plan and dataset."""
    planned = plan.configurations[configuration]
    return {
        "settings": cast("TrainingLength", asdict(settings)),
        "batch_size": planned.batch_size,
        "patch_size": list(planned.patch_size),
        "folds": len(dataset.splits),
        "preset": plan.preset.name,
        "plans": digest_file(plan.plans_file) or "",
        "dataset": dataset.digest,
        "label_scheme": dataset.label_scheme,
        "versions": {name: version(name) for name in ("gi2nnunet", "nnunetv2", "torch")},
    }


def choose_augment(training: Training) -> Augment:
    """Return how a training augments: as asked, else as it was begun, else by default.

    Those without a word of it in their record were begun with nnU-Net's own data pipeline.
    """
    if asked := training.record["settings"].get("augment"):
        return asked
    if training.last_checkpoint() is None:
        return DEFAULT_AUGMENT
    return find_training_record(training.folder).get("settings", {}).get("augment") or "nnunet"


def find_state(training: Training, *, restart: bool) -> Literal["new", "begun", "finished"]:
    """Return how far a training is; refuse to continue one of other settings."""
    if restart or training.last_checkpoint() is None:
        return "new"
    finished = (training.folder / FINAL_CHECKPOINT).is_file()
    before = find_training_record(training.folder)
    if "settings" not in before:  # none, or a damaged one
        if finished:
            return "finished"
        raise InputError(
            f"{training.folder}: holds a training that nnU-Net itself began. "
            "Finish it with nnUNetv2_train --c, or start again with --restart."
        )
    had, now = _settings_of(before), _settings_of(training.record)
    had["augment"] = had.get("augment") or "nnunet"
    now["augment"] = choose_augment(training)
    changed = [
        f"{key}: found {had.get(key)!r}, now {value!r}"
        for key, value in now.items()
        if had.get(key) != value and {had.get(key), value} != {"processor", "device"}
    ]
    if changed:
        state = "finished" if finished else "begun"
        raise InputError(
            f"{training.folder}: this training was {state} with other settings "
            f"({'; '.join(changed)}). Give the settings it has, or start again with --restart."
        )
    return "finished" if finished else "begun"


def _settings_of(record: TrainingRecord) -> dict[str, Any]:
    """Return what must not change between the runs of one training."""
    return {**record["settings"], "plans": record.get("plans"), "dataset": record.get("dataset")}


def remove_fold(folder: Path) -> None:
    """Delete a fold; its final checkpoint goes first, as a sign of a finished one."""
    (folder / FINAL_CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(folder)


@dataclass(frozen=True, kw_only=True)
class TrainedFold(FoldFolder):
    """A training in the results folder: its settings and its epochs.

    Attributes
    ----------
    holders
        The processes that seem to be working on it.
    record
        Empty for a training of plain nnU-Net.
    imported
        The file it was imported from; empty for one that was trained here.
    epochs
        Finished epochs, from nnU-Net's logs.
    """

    holders: tuple[Holder, ...]
    record: TrainingRecord
    imported: str
    epochs: tuple[Epoch, ...]

    @property
    def running(self) -> bool:
        """Return whether another process seems to be working on it."""
        return bool(self.holders)

    @property
    def name(self) -> str:
        """Return configuration and fold, for a heading."""
        return f"{self.configuration}, fold {self.fold}"

    @property
    def settings(self) -> TrainingLength:
        """Return the settings it was begun with; empty if they are not known."""
        return self.record.get("settings", {})

    @property
    def runs(self) -> tuple[TrainingRun, ...]:
        """Return what was recorded of each run of it, the first one first."""
        return tuple(self.record.get("runs", ()))

    @property
    def state(self) -> str:
        """Return its progress, in words."""
        if self.imported:
            return f"imported from {self.imported}"
        if self.finished:
            return "finished"
        wanted = self.settings.get("epochs")
        reached = f"after epoch {len(self.epochs)}" + (f" of {wanted}" if wanted else "")
        return f"running, {reached}" if self.running else f"stopped {reached}"

    @property
    def device(self) -> str:
        """Return the devices it was trained on; empty if they are not known."""
        return ", ".join(dict.fromkeys(run["device"] for run in self.runs if "device" in run))

    @property
    def batch(self) -> str:
        """Return its batch and patch size, for a table."""
        patch = "\u00a0×\u00a0".join(map(str, self.record.get("patch_size", ())))  # noqa: RUF001
        return f"{self.record.get('batch_size')} of {patch}" if patch else ""

    @property
    def sizes(self) -> tuple[int | None, tuple[int, ...]]:
        """Return its batch and patch size, as they were recorded."""
        return self.record.get("batch_size"), tuple(self.record.get("patch_size", ()))

    @property
    def seconds(self) -> float:
        """Return the time of its epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    def peak(self, key: Literal["peak_memory_bytes", "peak_gpu_bytes"]) -> int | None:
        """Return the largest ``peak_memory_bytes`` or ``peak_gpu_bytes`` of its runs."""
        return max((run[key] for run in self.runs if key in run), default=None)


def find_trainings(results: Path) -> tuple[TrainedFold, ...]:
    """Return every training under nnU-Net's results folder of one dataset, in order of name."""
    return tuple(map(read_training, list_folds(results)))


def read_training(found: FoldFolder) -> TrainedFold:
    """Read what is known of one training.

    Raises
    ------
    InputError
        If the record of its import is damaged.
    OSError
        If a log cannot be read.
    """
    return TrainedFold(
        **vars(found),
        holders=find_holders(found.folder),
        record=find_training_record(found.folder),
        imported=_name_import(found.folder),
        epochs=read_curves(found.folder),
    )


def _name_import(folder: Path) -> str:
    record = find_import_record(folder)
    return record.get("file", "") if record else ""


_LINE = re.compile(
    r"^(?P<when>\S+ \S+): "
    r"(?P<key>Epoch time:|Epoch|Current learning rate:|train_loss|val_loss|Pseudo dice)"
    r" (?P<value>.+?) *$"
)
_NUMBER = re.compile(r"(?<![\w.])(?:nan|-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)(?![\w.])")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch of a training, numbered from 0; the learning rate is that at its start.

    Attributes
    ----------
    pseudo_dice
        Dice for each organ over random validation patches, in [0, 1]; NaN if no patch held it.
    seconds
        Wall-clock time of its batches, as nnU-Net logs it.
    begun
        Start in seconds of the logging machine's local clock; NaN if it is not logged.
    """

    number: int
    learning_rate: float
    train_loss: float
    val_loss: float
    pseudo_dice: tuple[float, ...]
    seconds: float
    begun: float = math.nan


def read_curves(fold_folder: Path) -> tuple[Epoch, ...]:
    """Read the finished epochs of one fold from its ``training_log_*.txt``; empty for none.

    A resumed training has several logs. If an epoch is in more than one (it was done again after an
    interruption), the later log counts.
    """
    epochs: dict[int, Epoch] = {}
    # The names hold the time in a form that sorts except for months and days without a zero.
    logs = sorted(
        fold_folder.glob("training_log_*.txt"),
        key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)],
    )
    for path in logs:
        text = path.read_text(encoding="utf-8", errors="replace")
        epochs.update({epoch.number: epoch for epoch in parse_log(text.splitlines())})
    return tuple(epochs[number] for number in sorted(epochs))


def parse_log(lines: Iterable[str]) -> list[Epoch]:
    """Return the finished epochs of one log; an epoch without its last line is left out."""
    found: list[Epoch] = []
    current: dict[str, list[float]] = {}
    begun = math.nan
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        # np.float32(0.5) and plain numbers alike; "10.38 s" has its unit after a space.
        value = match["value"].replace("np.float32(", "").replace("np.float64(", "")
        numbers = [float(number) for number in _NUMBER.findall(value)]
        if match["key"] == "Epoch":
            current, begun = {}, _parse_time(match["when"])
        if not numbers:
            continue
        current[match["key"]] = numbers
        if match["key"] == "Epoch time:" and "Epoch" in current:
            missing = [math.nan]
            found.append(
                Epoch(
                    number=int(current["Epoch"][0]),
                    learning_rate=current.get("Current learning rate:", missing)[0],
                    train_loss=current.get("train_loss", missing)[0],
                    val_loss=current.get("val_loss", missing)[0],
                    pseudo_dice=tuple(current.get("Pseudo dice", [])),
                    seconds=numbers[0],
                    begun=begun,
                )
            )
            current = {}
    return found


def _parse_time(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError:
        return math.nan
    return moment.timestamp()
