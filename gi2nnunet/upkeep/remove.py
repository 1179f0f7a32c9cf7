"""Removal of datasets, trainings, predictions and tunings from a workspace."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gi2nnunet.core.errors import InputError, OutputError, name_some
from gi2nnunet.core.files import PART_SUFFIX, hidden_name, remove_whole, show_name
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.locks import Holder, find_holders, hold, hold_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.prediction.folders import lock_of, lock_of_stored
from gi2nnunet.source.dataset import MANIFEST
from gi2nnunet.upkeep.reading import read_status
from gi2nnunet.upkeep.status import (
    DatasetStatus,
    OutOfFoldStatus,
    Piece,
    PredictionStatus,
    TrainingStatus,
    TuningStatus,
    WorkspaceStatus,
    list_names,
    list_pieces,
    refuse_several,
)

if TYPE_CHECKING:
    from pandas import DataFrame

_PURPOSE = "removing"
Kind = Literal["dataset", "training", "prediction", "out-of-fold", "tuning", "leftover"]
_KINDS: dict[type[Piece], Kind] = {
    DatasetStatus: "dataset",
    TrainingStatus: "training",
    PredictionStatus: "prediction",
    OutOfFoldStatus: "out-of-fold",
    TuningStatus: "tuning",
}


@dataclass(frozen=True, kw_only=True)
class RemovedPiece:
    """A piece of a workspace to remove.

    Attributes
    ----------
    kind
        ``leftover`` is what an interrupted removal left.
    places
        The folders and files that go.
    made_from_it
        Names of what was made from it and stays.
    """

    kind: Kind
    name: str
    places: tuple[Path, ...]
    bytes: int
    made_from_it: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Removal(ShownAsTable):
    """What goes, and whether it is gone: ``removed`` is false if it was only looked at."""

    removed: bool
    pieces: tuple[RemovedPiece, ...]

    @property
    def bytes(self) -> int:
        """Return the disk space that becomes free."""
        return sum(piece.bytes for piece in self.pieces)

    def to_frame(self) -> DataFrame:
        """Return a table of the pieces, indexed by their names."""
        return make_frame(RemovedPiece, self.pieces, index="name")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        pieces = [{**asdict(p), "places": list(map(str, p.places))} for p in self.pieces]
        return {**asdict(self), "bytes": self.bytes, "pieces": pieces}


def remove_pieces(workspace: Workspace, names: Sequence[str], *, dry_run: bool = False) -> Removal:
    """Remove pieces of a workspace by their names or paths.

    If the process is killed midway, nothing is left that looks whole, and the same call finishes
    the removal.

    Parameters
    ----------
    names
        As ``status`` shows them: ``2d/fold_0``, ``held-out``, ``Dataset501_UWGI`` or ``501``; and
        ``2d`` for all folds of a model.
    dry_run
        Only find out what would go.

    Raises
    ------
    InputError
        If a name fits nothing, or several pieces; for a dataset that gi2nnunet did not make.
    OutputError
        If something runs in a piece or may read it; if it cannot be deleted.
    """
    status = read_status(workspace)
    chosen = [piece for name in dict.fromkeys(names) for piece in _find(status, name)]
    named = {list_names(piece)[-1]: piece for piece in chosen if not isinstance(piece, Path)}
    pieces = list(named.values())
    paths = [path for path in chosen if isinstance(path, Path)]
    for piece in pieces:
        if _place_of(piece) == workspace.predictions:
            raise InputError(
                f"{workspace.predictions}: found a prediction right in the folder of all "
                "predictions; expected one in a folder of its own. Delete its files yourself."
            )
        _refuse_running(piece, status)
    described = [_describe(piece, status, pieces) for piece in pieces]
    described += [
        RemovedPiece(
            kind="leftover", name=str(path),
            places=_list_fold_places(path, status.leftovers, gone=paths), bytes=0,
        )
        for path in paths
    ]  # fmt: skip
    removal = Removal(removed=False, pieces=tuple(described))
    if dry_run:
        return removal
    with ExitStack() as stack:
        for piece in pieces:
            stack.enter_context(_hold(piece, workspace))
        for model in {one.folder.parent for one in pieces if isinstance(one, TrainingStatus)}:
            stack.enter_context(hold(model, purpose=_PURPOSE))
        remove_whole(*(place for one in described for place in one.places))
    for place in (place for one in described for place in one.places):
        _remove_empty(place.parent, workspace)
    return replace(removal, removed=True)


def _find(status: WorkspaceStatus, name: str) -> Sequence[Piece | Path]:
    """Return the piece of a name or path, or all folds of a model; the path of a leftover."""
    pieces = list_pieces(status)
    path = _locate(Path(name).expanduser())
    for leftover in map(show_name, status.leftovers):
        if _locate(leftover) == path and not path.exists():
            return [leftover]
    asked = name.rstrip("/")
    for found in (
        [
            piece
            for piece in pieces
            if asked == list_names(piece)[-1] or path == _locate(_place_of(piece))
        ],
        [piece for piece in pieces if asked in list_names(piece)],
    ):
        if len(found) == 1:
            return found
        if found:
            raise refuse_several(name, [list_names(piece)[-1] for piece in found])
    folds = [one for one in status.trainings if _is_fold_of(one, asked, path)]
    if models := {one.folder.parent: list_names(one)[-1].rpartition("/")[0] for one in folds}:
        if len(models) > 1:
            raise refuse_several(name, list(models.values()))
        return folds
    known = [name for piece in pieces for name in list_names(piece)]
    near = get_close_matches(name, known, n=3) or [piece.name for piece in pieces]
    expected = f"one of {name_some(near)}" if near else "a piece, and the workspace holds none"
    raise InputError(
        f"{name}: found nothing of that name in {status.folder}; expected {expected}. "
        "gi2nnunet status shows the names."
    )


def _is_fold_of(training: TrainingStatus, name: str, path: Path) -> bool:
    """Return whether a training is a fold of the model of a name or path."""
    models = {one.rpartition("/")[0] for one in list_names(training)}
    return name in models or path == _locate(training.folder.parent)


def _locate(path: Path) -> Path:
    """Return the one spelling of a path; of a link, that of the link itself."""
    return Path(os.path.realpath(path.parent)) / path.name


def _place_of(piece: Piece) -> Path:
    return piece.file if isinstance(piece, TuningStatus) else piece.folder


def _refuse_running(piece: Piece, status: WorkspaceStatus) -> None:
    """Refuse while something runs in a piece, or may read it."""
    if not isinstance(piece, TuningStatus):
        _refuse(_place_of(piece), piece.holders, "is in use")
    if isinstance(piece, DatasetStatus | TrainingStatus):
        predicting: tuple[PredictionStatus | OutOfFoldStatus, ...]
        predicting = (*status.predictions, *status.out_of_fold)
        for one in predicting:
            _refuse(_place_of(piece), one.holders, f"may be in use by the prediction {one.name}")
        for training in status.trainings:  # a prediction outside the workspace holds its models
            if piece == training or piece.name == training.dataset:
                holders = find_holders(training.folder.parent)
                _refuse(_place_of(piece), holders, "may be in use by a prediction")


def _refuse(place: Path, holders: Sequence[Holder], what: str) -> None:
    if holders:
        raise OutputError(
            f"{place}: {what}: {'; '.join(map(str, holders))}. "
            "Wait for it to end or stop it, then run the same again."
        )


def _hold(piece: Piece, workspace: Workspace) -> AbstractContextManager[None]:
    """Hold a piece, so that nothing begins in it while it goes."""
    if isinstance(piece, DatasetStatus):
        number = piece.dataset_id
        return hold_dataset(workspace.raw, number, purpose=_PURPOSE, shared=False)
    if isinstance(piece, PredictionStatus):
        return hold(lock_of(piece.folder), purpose=_PURPOSE)
    if isinstance(piece, OutOfFoldStatus):
        return hold(lock_of_stored(piece.folder.parent), purpose=_PURPOSE)
    return hold(_place_of(piece), purpose=_PURPOSE)


def _describe(piece: Piece, status: WorkspaceStatus, others: Sequence[Piece]) -> RemovedPiece:
    """Return what goes with a piece, and what was made from it; ``others`` go too."""
    bytes_of = piece.bytes if not isinstance(piece, DatasetStatus) else 0
    if isinstance(piece, DatasetStatus):
        places = _list_places(piece)
        bytes_of = piece.raw_bytes + piece.preprocessed_bytes
    elif isinstance(piece, TrainingStatus):
        gone = {one.folder for one in others if isinstance(one, TrainingStatus)}
        places = _list_fold_places(piece.folder, status.leftovers, gone=gone)
    else:
        places = (_place_of(piece),)
        inside = [o.name for o in list_pieces(status) if _place_of(piece) in _place_of(o).parents]
        if inside:
            raise InputError(
                f"{_place_of(piece)}: holds other pieces ({name_some(inside)}); expected none. "
                "Remove them first."
            )
    return RemovedPiece(
        kind=_KINDS[type(piece)],
        name=piece.name,
        places=places,
        bytes=bytes_of,
        made_from_it=tuple(o.name for o in _list_made(piece, status) if o not in others),
    )


def _list_fold_places(
    folder: Path, leftovers: Iterable[Path], *, gone: Collection[Path]
) -> tuple[Path, ...]:
    """Return a fold's folder and, if it has no other fold, the model's; else the folder itself."""
    is_fold = folder.name.startswith("fold_") and "__" in folder.parent.name
    begun = {show_name(path) for path in leftovers if path.parent == folder.parent}
    left = {*folder.parent.glob("fold_*"), *begun} - {folder, *gone}
    return (folder, folder.parent) if is_fold and not left else (folder,)


def _list_places(dataset: DatasetStatus) -> tuple[Path, ...]:
    """Return the folders of a dataset; refuse one that was not made here."""
    begun = dataset.folder.with_name(f".{dataset.name}{PART_SUFFIX}")
    marked = any(dataset.preprocessed.glob("gi2nnunet_*"))
    if dataset.state == "foreign" or (dataset.state == "absent" and not marked):
        what = dataset.folder if dataset.state == "foreign" else dataset.preprocessed
        raise InputError(
            f"{what}: found no sign that gi2nnunet made this dataset ({MANIFEST}); expected one of "
            "its own. Delete it yourself if it is no longer needed. Its trainings can be named."
        )
    found = (begun, dataset.folder, dataset.preprocessed)
    return tuple(path for path in found if path.exists() or hidden_name(path).exists())


def _list_made(piece: Piece, status: WorkspaceStatus) -> Iterator[Piece]:
    """Give what was made from a piece."""
    if isinstance(piece, DatasetStatus):
        made = (status.trainings, status.predictions, status.out_of_fold, status.tunings)
        yield from (one for some in made for one in some if one.dataset == piece.name)
    elif isinstance(piece, TrainingStatus):
        model = piece.folder.parent.name
        for done in status.predictions:
            if done.dataset == piece.dataset and model in done.trained and piece.fold in done.folds:
                yield done
        for stored in status.out_of_fold:
            if (stored.dataset, stored.model) == (piece.dataset, model):
                yield stored
        for tuning in status.tunings:
            if tuning.dataset == piece.dataset and model in tuning.models:
                yield tuning
    elif isinstance(piece, OutOfFoldStatus):
        for tuning in status.tunings:
            if tuning.dataset == piece.dataset and piece.model in tuning.models:
                yield tuning


def _remove_empty(folder: Path, workspace: Workspace) -> None:
    """Delete folders that became empty, up to those of the workspace itself."""
    roots = (workspace.raw, workspace.preprocessed, workspace.results, workspace.predictions)
    with suppress(OSError):  # one that is not empty
        while any(root in folder.parents for root in roots):
            folder.rmdir()
            folder = folder.parent
