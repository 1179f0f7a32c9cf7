"""Folders of predictions: which ones a workspace holds, how far each is, and how it was made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from gi2nnunet.core.errors import OutputError, name_some
from gi2nnunet.core.files import find_record, is_being_removed
from gi2nnunet.core.locks import Holder, find_holders, lock_path
from gi2nnunet.core.seals import hash_file
from gi2nnunet.nnunet.engine import COST
from gi2nnunet.nnunet.postprocess import TuningNote
from gi2nnunet.scoring.record import PREDICTION, SCORE_FILES, SUBMISSION, TRUTH, find_scores

KEPT = ".predicting"
"""The folder of the scans that an unfinished prediction keeps."""
OUT_OF_FOLD = "out_of_fold"
LABEL_DESCRIPTIONS = "itk-snap-labels.txt"
_PLACE = "prediction"  # what a run locks in the folder
_OUTPUTS = ("labels", "organs", "probabilities", "dicom", "slicer")


class _Options(TypedDict):
    trained: NotRequired[list[str]]
    folds: NotRequired[list[int | str]]


class _Written(TypedDict):
    sha256: dict[str, str]


class PredictionRecord(TypedDict, total=False):
    """How a prediction was made, in ``prediction.json`` and beside each score."""

    standing: str
    command: str
    dataset: str
    scans: Any
    models: Any
    computing: dict[str, Any] | None
    checkpoints: dict[str, dict[str, str]]
    tuning: TuningNote | None
    options: _Options
    versions: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class PredictionFolder:
    """One folder of predictions, finished or not.

    Attributes
    ----------
    kept
        Number of scans that an unfinished run has kept; ``None`` if no run is unfinished.
    holders
        The processes that seem to be predicting into it.
    """

    folder: Path
    kept: int | None
    holders: tuple[Holder, ...]

    @property
    def submission(self) -> Path:
        """Return the path of the CSV, which an unfinished prediction does not have."""
        return self.folder / SUBMISSION


def lock_of(folder: Path) -> Path:
    """Return the place that a run locks while it predicts into a folder."""
    return folder / _PLACE


def read_written(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file, by its name in the folder, that its prediction has written.

    Scores are not among them. Empty without a finished prediction.
    """
    noted = find_record(folder / PREDICTION, _Written)
    return noted["sha256"] if noted else {}


def warn_of_replaced(name: str, replaced: Sequence[str], *, command: str) -> str:
    """Return a sentence on a prediction by checkpoints that the folds ``replaced`` no longer have.

    ``command`` predicts again; empty if it is not known.
    """
    again = f" Predict again with: {command}" if command else ""
    return (
        f"{name}: was predicted by former checkpoints, which were replaced since, of "
        f"{name_some(replaced)}.{again}"
    )


def check_foreign(folder: Path, names: Iterable[str], *, source: Path | None) -> None:
    """Check, before a prediction into a folder, that it replaces nothing that is not its own.

    Parameters
    ----------
    names
        Files within the folder that it writes beside the rows and scores.
    source
        Where the scans come from; ``None`` for a workspace's own.

    Raises
    ------
    OutputError
        If the folder is the source, or holds such files but no prediction, finished or not, that
        wrote them, or is a folder of the source that a prediction did not make.
    """
    if (folder / KEPT).is_dir() or not folder.is_dir():
        return
    if source is not None and source.is_dir() and folder.samefile(source):
        raise OutputError(
            f"{folder}: found the source; expected another folder, so that the source stays as it "
            "is. Give another place."
        )
    written = read_written(folder)
    found = [name for name in names if name not in written and (folder / name).exists()]
    own = (PREDICTION, COST, *SCORE_FILES[:-1], lock_path(lock_of(folder)).name)
    if not any((folder / name).exists() for name in own):
        found += [name for name in (SUBMISSION, TRUTH) if (folder / name).exists()]
        if source is not None and folder.resolve().is_relative_to(source.resolve()):
            found += [path.name for path in sorted(folder.iterdir())]
    if found:
        raise OutputError(
            f"{folder}: found {name_some(found)}, which no prediction seems to have written; "
            "expected a new folder or that of a prediction, so that no other file is replaced. "
            "Give another place."
        )


def check_unchanged(folder: Path, names: Iterable[str]) -> None:
    """Check that files are as the prediction in the folder wrote them, or are gone.

    Raises
    ------
    OutputError
        If one was changed, as a correction by hand does.
    """
    written = read_written(folder)
    there = (name for name in sorted(names) if name in written and (folder / name).is_file())
    changed = [name for name in there if hash_file(folder / name) != written[name]]
    if changed:
        raise OutputError(
            f"{folder}: found {name_some(changed)}, changed since the prediction wrote it; "
            "expected the file as it was, so that no correction is lost. Move it elsewhere, or "
            "give another folder with --out."
        )


def lock_of_stored(home: Path) -> Path:
    """Return the place that a run locks while it makes a dataset's out-of-fold predictions."""
    return home / "predictions"


def find_predictions(predictions: Path) -> tuple[PredictionFolder, ...]:
    """Return every folder of predictions in a workspace, in order of path.

    Out-of-fold predictions have folders of their own, and what is being removed does not count.
    """
    return tuple(
        PredictionFolder(
            folder=folder, kept=_count_kept(folder / KEPT), holders=find_holders(lock_of(folder))
        )
        for folder in _walk(predictions)
    )


def _walk(predictions: Path) -> Iterator[Path]:
    lock = lock_path(lock_of(predictions)).name
    for parent, folders, files in os.walk(predictions):
        if KEPT in folders or {SUBMISSION, PREDICTION, *SCORE_FILES[:-1], lock} & {*files}:
            yield Path(parent)
        own = {*_OUTPUTS, KEPT, OUT_OF_FOLD}
        folders[:] = sorted(f for f in folders if f not in own and not is_being_removed(Path(f)))


def _count_kept(kept: Path) -> int | None:
    return len(list(kept.glob("*.json"))) if kept.is_dir() else None


def read_prediction_record(folder: Path) -> PredictionRecord:
    """Return how a prediction was made; empty if nothing was recorded.

    Raises
    ------
    InputError
        If the file that says it is damaged.
    """
    path = folder / PREDICTION
    if not path.is_file():
        path = next(iter(find_scores(folder).values()), path)
    remedy = f"{path.name} is damaged, so its settings are not shown. Predict again to write it."
    return find_record(path, PredictionRecord, remedy=remedy) or {}
