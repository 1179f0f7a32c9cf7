"""What is asked of an estimate, and what it tells: hours, disk, memory, and how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gi2nnunet.nnunet.cards import Card
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.pace import Pace, Source
from gi2nnunet.nnunet.presets import Preset
from gi2nnunet.nnunet.schedule import wall_seconds

State = Literal["new", "begun", "finished"]

MEASURE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What one training takes.

    Attributes
    ----------
    configuration, fold, state
        Which, and how far it is.
    epochs_done, epochs
        Of its length.
    epoch_seconds
        Expected of one epoch, with validation batches and what follows it.
    seconds
        Expected of all of it, from its start.
    seconds_left
        Expected of what is left.
    """

    configuration: str
    fold: Fold
    state: State
    epochs_done: int
    epochs: int
    epoch_seconds: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One training here, held to what would have been predicted of it.

    Attributes
    ----------
    configuration, fold, epochs
        Which, and how many epochs of it are finished.
    actual_seconds, predicted_seconds
        Of an epoch.
    source, described
        Where the prediction is from.
    """

    configuration: str
    fold: Fold
    epochs: int
    actual_seconds: float
    predicted_seconds: float
    source: Source
    described: str

    @property
    def error(self) -> float:
        """Return the error, relative to what was; positive where too much was predicted."""
        return self.predicted_seconds / self.actual_seconds - 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a matrix of trainings takes.

    Attributes
    ----------
    dataset, preset
        Names.
    plan
        Where patch and batch sizes are from, in words.
    device
        On what, in words.
    on_cards, cards
        Whether it computes on CUDA cards, and how many trainings run at a time.
    paces
        By configuration, how long a batch takes and from where that is known.
    trainings
        One a configuration and fold, in the order in which ``train`` takes them.
    checks
        What predictions of trainings here came to.
    preparing_seconds
        Of planning and preprocessing what is not preprocessed.
    predicting_seconds
        Of prediction on one card: ``out_of_fold`` (each training scan once) and ``held_out`` (the
        others, averaged over the folds); 0 where there is nothing of it.
    disk_bytes
        Still to be taken: ``preprocessed``, ``results``, ``predictions``.
    memory_bytes
        Of the machine: ``preprocess`` and ``train``, with all workers and cards.
    gpu_memory_gib
        What the preset was planned for, or what was measured; ``None`` on a CPU, and where it is
        next to nothing.
    notes
        What should be known of it.
    """

    dataset: str
    preset: str
    plan: str
    device: str
    on_cards: bool
    cards: int
    paces: Mapping[str, Pace]
    trainings: tuple[TrainingCost, ...]
    checks: tuple[Check, ...]
    preparing_seconds: float
    predicting_seconds: Mapping[str, float]
    disk_bytes: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    gpu_memory_gib: float | None
    notes: tuple[str, ...]

    @property
    def seconds_left(self) -> float:
        """Return what all trainings together still take on their cards."""
        return sum(entry.seconds_left for entry in self.trainings)

    @property
    def wall_seconds_left(self) -> float:
        """Return how long all that takes on the clock."""
        return wall_seconds([e.seconds_left for e in self.trainings], cards=self.cards)

    @property
    def wall_seconds_longest_first(self) -> float:
        """Return the same were the longest trainings given out first."""
        return wall_seconds(
            [e.seconds_left for e in self.trainings], cards=self.cards, longest_first=True
        )

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain values; seconds and bytes throughout."""
        return {
            **{
                name: getattr(self, name)
                for name in (
                    "dataset",
                    "preset",
                    "plan",
                    "device",
                    "on_cards",
                    "cards",
                    "preparing_seconds",
                )
            },
            "paces": {name: asdict(pace) for name, pace in self.paces.items()},
            "trainings": [asdict(entry) for entry in self.trainings],
            "total": {
                "device_seconds": sum(entry.seconds for entry in self.trainings),
                "device_seconds_left": self.seconds_left,
                "wall_seconds_left": self.wall_seconds_left,
                "wall_seconds_left_longest_first": self.wall_seconds_longest_first,
            },
            "predicting_seconds": dict(self.predicting_seconds),
            "disk_bytes": dict(self.disk_bytes),
            "memory_bytes": dict(self.memory_bytes),
            "gpu_memory_gib": self.gpu_memory_gib,
            "checks": [{**asdict(check), "error": check.error} for check in self.checks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be estimated.

    Attributes
    ----------
    preset, configurations, folds, trainer, epochs, iterations, nnunet_validation, jobs
        As ``train`` takes them.
    hardware
        What is here; ``None`` where a card is named instead.
    card
        A card of the table, in place of what is here.
    cards
        How many of them.
    measure, measure_seconds
        Whether to time a few batches here, and for how long.
    """

    preset: Preset
    configurations: Sequence[str]
    folds: Sequence[Fold]
    hardware: Hardware | None
    card: Card | None = None
    cards: int = 1
    measure: bool = False
    measure_seconds: float = MEASURE_SECONDS
    trainer: str = "nnUNetTrainer"
    epochs: int | None = None
    iterations: int | None = None
    nnunet_validation: bool = False
    jobs: int | None = None

    @property
    def length(self) -> tuple[int, int]:
        """Return epochs, and batches in an epoch."""
        return (
            self.epochs or self.preset.epochs,
            self.iterations or self.preset.iterations,
        )

    @property
    def uses_cards(self) -> bool:
        """Return whether it computes on CUDA cards."""
        return self.card is not None or (
            self.hardware is not None and self.hardware.device == "cuda"
        )
