"""The trainings of a dataset, finished or not, and what is lacking among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.files import read_json
from gi2nnunet.locks import find_holder
from gi2nnunet.nnunet.curves import Epoch, read_curves
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    IMPORT_RECORD,
    TRAINING_RECORD,
    is_fold_number,
)
from gi2nnunet.report.records import take_list, take_mapping, take_number


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """One training: which, with what settings, and its epochs.

    Attributes
    ----------
    configuration, fold, trainer, plans_name
        nnU-Net's names.
    finished
        Whether there is a final checkpoint.
    running
        Whether a run seems to work on it.
    record
        What was recorded beside it; empty for a training of plain nnU-Net.
    imported
        The file it was imported from; empty for one that was trained here.
    epochs
        From its logs; empty for none.
    """

    configuration: str
    fold: str
    trainer: str
    plans_name: str
    finished: bool
    running: bool
    record: Mapping[str, Any]
    imported: str
    epochs: tuple[Epoch, ...]

    @property
    def name(self) -> str:
        """Return which one it is, for a heading."""
        return f"{self.configuration}, fold {self.fold}"

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return the settings it was begun with; empty where they are not known."""
        return take_mapping(self.record, "settings")

    @property
    def runs(self) -> tuple[Mapping[str, Any], ...]:
        """Return what is known of each run of it, the first one first."""
        return tuple(run for run in take_list(self.record, "runs") if isinstance(run, dict))

    @property
    def state(self) -> str:
        """Return how far it is."""
        if self.imported:
            return f"imported from {self.imported}"
        if self.finished:
            return "finished"
        wanted = take_number(self.settings, "epochs")
        reached = f"after epoch {len(self.epochs)}" + (f" of {wanted}" if wanted else "")
        return f"running, {reached}" if self.running else f"stopped {reached}"

    @property
    def device(self) -> str:
        """Return what it was trained on; empty where that is not known."""
        return ", ".join(dict.fromkeys(str(run["device"]) for run in self.runs if "device" in run))

    @property
    def batch(self) -> str:
        """Return its batch and patch size, for a table."""
        patch = "\u00a0×\u00a0".join(map(str, take_list(self.record, "patch_size")))  # noqa: RUF001
        return f"{self.record.get('batch_size')} of {patch}" if patch else ""

    @property
    def seconds(self) -> float:
        """Return the time of its epochs."""
        return sum(epoch.seconds for epoch in self.epochs)

    def peak(self, key: str) -> int | None:
        """Return the largest ``peak_memory_bytes`` or ``peak_gpu_bytes`` of its runs."""
        known = [peak for run in self.runs if (peak := take_number(run, key)) is not None]
        return int(max(known)) if known else None


def find_trainings(results: Path) -> tuple[TrainedFold, ...]:
    """Return every training under nnU-Net's results folder of one dataset, in order of name."""
    found = []
    for folder in results.glob("*__*__*/fold_*"):
        if not folder.is_dir():
            continue
        trainer, plans_name, configuration = folder.parent.name.split("__", 2)
        found.append(
            TrainedFold(
                configuration=configuration,
                fold=folder.name.removeprefix("fold_"),
                trainer=trainer,
                plans_name=plans_name,
                finished=(folder / FINAL_CHECKPOINT).is_file(),
                running=find_holder(folder) is not None,
                record=read_json(folder / TRAINING_RECORD),
                imported=str(read_json(folder / IMPORT_RECORD).get("file") or ""),
                epochs=read_curves(folder),
            )
        )
    return tuple(
        sorted(found, key=lambda t: (t.trainer, t.plans_name, t.configuration, order_of(t.fold)))
    )


def order_of(fold: str) -> tuple[int, str]:
    """Return what to sort folds by: numbers first."""
    return (int(fold), "") if is_fold_number(fold) else (1 << 20, fold)


def find_lacking(trainings: Sequence[TrainedFold], *, n_folds: int) -> list[str]:
    """Return what is begun and not finished, and folds of the split that others have."""
    lines = []
    for training in trainings:
        if not training.finished:
            then = "" if training.running else " The same gi2nnunet train again goes on with it."
            lines.append(f"{training.name} ({training.plans_name}): {training.state}.{then}")
    models: dict[tuple[str, str, str], set[str]] = {}
    for training in trainings:
        key = (training.configuration, training.plans_name, training.trainer)
        models.setdefault(key, set()).add(training.fold)
    for (configuration, plans_name, _), folds in models.items():
        numbers = {int(fold) for fold in folds if is_fold_number(fold)}
        lacking = sorted(set(range(n_folds)) - numbers)
        if numbers and lacking:
            some = f"fold {lacking[0]}" if len(lacking) == 1 else f"folds {_join(lacking)}"
            lines.append(
                f"{configuration} ({plans_name}): {some} of the split's {n_folds} not begun; "
                "gi2nnunet train --fold cv with the same options trains the rest."
            )
    return lines


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
