"""Status of a workspace: its pieces, how far each is, what runs in it, and disk space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import TypeAdapter

from gi2nnunet.core.errors import InputError, name_some
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.locks import Holder
from gi2nnunet.prediction.folders import OUT_OF_FOLD, warn_of_replaced

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """A dataset by the name of its folders.

    Attributes
    ----------
    state
        Of an ``absent`` one, only preprocessed files or models are here. A ``foreign`` one was not
        converted by gi2nnunet.
    patients, training, held_out, test
        Number of patients, and of scans of each part; 0 if unknown.
    folds
        Folds of the split.
    raw_bytes, preprocessed_bytes, results_bytes
        Disk space in each of nnU-Net's three folders.
    preprocessed
        Its folder of preprocessed files, which need not exist.
    holders
        The processes that use it: conversion, planning, training.
    """

    name: str
    dataset_id: int
    folder: Path
    state: Literal["whole", "converting", "interrupted", "damaged", "foreign", "absent"]
    patients: int = 0
    training: int = 0
    held_out: int = 0
    test: int = 0
    folds: int = 0
    raw_bytes: int
    preprocessed: Path
    preprocessed_bytes: int
    results_bytes: int
    holders: tuple[Holder, ...]


@dataclass(frozen=True, kw_only=True)
class PlanStatus:
    """A plan, and which of its configurations are preprocessed."""

    dataset: str
    plans: str
    configurations: tuple[str, ...]
    preprocessed: tuple[str, ...]
    holders: tuple[Holder, ...]


@dataclass(frozen=True, kw_only=True)
class TrainingStatus:
    """One fold of a configuration.

    Attributes
    ----------
    name, full_name
        The shortest name that no other piece of the workspace has, and the whole one.
    epoch, epochs
        Finished epochs, and how many there will be, if known.
    pseudo_dice
        Of the last epoch by organ, in [0, 1]; ``None`` if no patch held the organ.
    seconds_left
        Of a running training, at the pace of its last epoch.
    changed
        When its log or checkpoint was last written, UTC.
    imported_from
        The file it was imported from.
    command
        The command that trains it and, if it has stopped, goes on; ``None`` if it was imported.
    """

    name: str
    full_name: str
    dataset: str
    folder: Path
    trainer: str
    plans: str
    configuration: str
    fold: str
    state: Literal["finished", "imported", "running", "stopped"]
    epoch: int
    epochs: int | None
    pseudo_dice: Mapping[str, float | None]
    seconds_left: float | None
    device: str
    imported_from: str
    changed: str | None
    holders: tuple[Holder, ...]
    command: str | None
    bytes: int


@dataclass(frozen=True, kw_only=True)
class RecordedScore:
    """A prediction's score by one convention of the metric, with its interval if it is known."""

    metric: str
    score: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class PredictionStatus:
    """A folder of predictions.

    Attributes
    ----------
    scans
        What was predicted, in words; of an unfinished prediction, empty.
    kept
        Scans that an unfinished prediction has kept.
    standing
        What its scores mean: ``held-out``, ``in-sample`` and so on.
    scores
        Its recorded scores, one for each convention, the newest first.
    outdated
        The folds with other checkpoints now than those that predicted.
    command
        The command that predicts again; empty if it was not recorded.
    """

    name: str
    full_name: str
    folder: Path
    state: Literal["finished", "running", "interrupted", "damaged"]
    dataset: str
    trained: tuple[str, ...]
    folds: tuple[str, ...]
    scans: str
    kept: int | None
    standing: str
    scores: tuple[RecordedScore, ...]
    outdated: tuple[str, ...]
    command: str
    changed: str | None
    holders: tuple[Holder, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class OutOfFoldStatus:
    """Stored out-of-fold predictions of one model: how many of the training scans there are.

    ``outdated`` names the folds with other checkpoints now than those that predicted, ``command``
    predicts again; it is empty if the model is gone.
    """

    name: str
    full_name: str
    dataset: str
    model: str
    folder: Path
    stored: int
    training: int
    outdated: tuple[str, ...]
    command: str
    holders: tuple[Holder, ...]
    bytes: int


@dataclass(frozen=True, kw_only=True)
class TuningStatus:
    """Settings that ``tune`` chose.

    ``organs`` are those whose settings are used, ``gain`` is that of all organs together, and
    ``outdated`` names the folds that were trained again since.
    """

    name: str
    full_name: str
    dataset: str
    file: Path
    models: tuple[str, ...]
    folds: tuple[str, ...]
    metric: str | None
    organs: tuple[str, ...]
    gain: float | None
    outdated: tuple[str, ...]
    bytes: int


_KINDS: dict[str, type[Any]] = {
    "datasets": DatasetStatus,
    "plans": PlanStatus,
    "trainings": TrainingStatus,
    "predictions": PredictionStatus,
    "out_of_fold": OutOfFoldStatus,
    "tunings": TuningStatus,
}
Piece = DatasetStatus | TrainingStatus | PredictionStatus | OutOfFoldStatus | TuningStatus
_Named = TypeVar("_Named", TrainingStatus, PredictionStatus, OutOfFoldStatus, TuningStatus)


@dataclass(frozen=True, kw_only=True)
class NextStep:
    """A sensible next command and why; the command is empty if nothing is left to do."""

    command: str
    why: str


@dataclass(frozen=True, kw_only=True)
class WorkspaceStatus(ShownAsTable):
    """Everything that a workspace holds.

    Attributes
    ----------
    problems
        Pieces that could not be read, one sentence each.
    leftovers
        What interrupted removals left.
    report
        When the report in the workspace was written, UTC.
    bytes, free_bytes
        Disk space that is used here, and that is free.
    """

    folder: Path
    chosen_by: str
    datasets: tuple[DatasetStatus, ...] = field(repr=False)
    plans: tuple[PlanStatus, ...] = field(repr=False)
    trainings: tuple[TrainingStatus, ...] = field(repr=False)
    predictions: tuple[PredictionStatus, ...] = field(repr=False)
    out_of_fold: tuple[OutOfFoldStatus, ...] = field(repr=False)
    tunings: tuple[TuningStatus, ...] = field(repr=False)
    leftovers: tuple[Path, ...]
    problems: tuple[str, ...]
    report: str | None
    bytes: int
    free_bytes: int | None
    next_step: NextStep

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return the problems, and a sentence on each prediction by replaced checkpoints."""
        some: tuple[PredictionStatus | OutOfFoldStatus, ...]
        some = (*self.predictions, *self.out_of_fold)
        outdated = (
            warn_of_replaced(one.name, one.outdated, command=one.command)
            for one in some
            if one.outdated
        )
        return (*self.problems, *outdated)

    @property
    def running(self) -> tuple[Holder, ...]:
        """Return the processes that work here."""
        some = (self.datasets, self.plans, self.trainings, self.predictions, self.out_of_fold)
        return tuple(dict.fromkeys(h for pieces in some for one in pieces for h in one.holders))

    def to_frame(
        self,
        of: Literal[
            "datasets", "plans", "trainings", "predictions", "out_of_fold", "tunings"
        ] = "trainings",
    ) -> DataFrame:
        """Return a table of one kind of pieces; of predictions, a row for each score."""
        if of not in _KINDS:
            raise ValueError(f"of {of!r} is none of {', '.join(map(repr, _KINDS))}")
        frame = make_frame(_KINDS[of], getattr(self, of))
        if of == "predictions":
            frame = frame.explode("scores", ignore_index=True)
            scores = [one if isinstance(one, dict) else {} for one in frame.pop("scores")]
            for name in (one.name for one in fields(RecordedScore)):
                frame[name] = [one.get(name) for one in scores]
        return frame

    def to_json(self) -> dict[str, Any]:
        """Return the status as plain values."""
        content: dict[str, Any] = TypeAdapter(WorkspaceStatus).dump_python(self, mode="json")
        return content


def list_names(piece: Piece) -> tuple[str, ...]:
    """Return the names that a piece goes by; the last one is that of no other piece."""
    if isinstance(piece, DatasetStatus):
        return (str(piece.dataset_id), f"{piece.dataset_id:03d}", piece.name)
    parts = piece.full_name.split("/")
    if isinstance(piece, PredictionStatus):
        models = "+".join(trained.split("__", 2)[-1] for trained in piece.trained)
        short = (f"{parts[0]}/{models}",) if models else ()
        return tuple(dict.fromkeys((parts[0], *short, parts[-1], piece.full_name)))
    if isinstance(piece, TuningStatus):
        return parts[-1], piece.full_name
    model = piece.folder.parent.name if isinstance(piece, TrainingStatus) else piece.model
    _, plans, configuration = model.split("__", 2)
    ends = (configuration, f"{plans}__{configuration}", model)
    if isinstance(piece, TrainingStatus):
        return *(f"{end}/{piece.folder.name}" for end in ends), piece.full_name
    return *(f"{OUT_OF_FOLD}/{end}" for end in ends), piece.full_name


def find_short_name(piece: Piece, others: Sequence[Piece]) -> str:
    """Return the first name of a piece that is of no other piece."""
    taken = {name for other in others if other is not piece for name in list_names(other)}
    return next((name for name in list_names(piece) if name not in taken), piece.name)


def refuse_several(name: str, names: Sequence[str]) -> InputError:
    """Return the error to raise for a name of several pieces; ``names`` are their longer ones."""
    hint = " Choose the dataset with --id." if len(set(names)) < len(names) else ""
    return InputError(
        f"{name}: found several of that name ({name_some(list(dict.fromkeys(names)), most=10)}); "
        f"expected one. Give the longer name.{hint}"
    )


def list_pieces(status: WorkspaceStatus) -> tuple[Piece, ...]:
    """Return everything that has a name of its own."""
    named = (status.trainings, status.predictions, status.out_of_fold, status.tunings)
    return *status.datasets, *(piece for pieces in named for piece in pieces)


def shorten_names(status: WorkspaceStatus) -> WorkspaceStatus:
    """Give each piece the shortest name that no other piece has."""
    uses = Counter(name for piece in list_pieces(status) for name in list_names(piece))

    def shorten(pieces: Iterable[_Named]) -> tuple[_Named, ...]:
        return tuple(
            replace(piece, name=next((n for n in list_names(piece) if uses[n] == 1), piece.name))
            for piece in pieces
        )

    return replace(
        status,
        trainings=shorten(status.trainings),
        predictions=shorten(status.predictions),
        out_of_fold=shorten(status.out_of_fold),
        tunings=shorten(status.tunings),
    )
