"""What an interrupted prediction leaves for the next one: each scan's rows, as soon as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.files import read_json, replace_file
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, TrainedModel, fold_folder
from gi2nnunet.source.scan import Scan


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the engine is told of one scan.

    Attributes
    ----------
    scan
        The scan, without its truth.
    folds
        Whose logits are averaged.
    about
        Kept with its probabilities.
    """

    scan: Scan
    folds: tuple[Fold, ...]
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the task for the engine's process."""
        return {
            "scan": self.scan.to_json(),
            "folds": list(self.folds),
            "about": dict(self.about),
        }


class Kept:
    """A folder of rows by scan, each with a digest of all that they depend on.

    Parameters
    ----------
    folder
        Where; made with the first scan.
    settings
        What the engine is told of how to predict.
    models, folds
        The models, and those of their folds that are used.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        models: Sequence[TrainedModel],
        folds: Sequence[Fold],
    ) -> None:
        self._folder = folder
        self._settings = dict(settings)
        self._plans = _describe(model.folder / "plans.json" for model in models)
        self._checkpoints = {
            fold: _describe(fold_folder(model.folder, fold) / FINAL_CHECKPOINT for model in models)
            for fold in folds
        }

    def find(self, task: Task) -> dict[str, Any] | None:
        """Return what is kept of a scan; ``None`` where nothing is, or it was made otherwise."""
        entry = read_json(self._path(task))
        rows = entry.get("rows")
        fits = entry.get("digest") == self._digest(task) and isinstance(rows, list)
        return entry if fits and all(Path(name).is_file() for name in self._beside(task)) else None

    def keep(self, task: Task, entry: Mapping[str, Any]) -> None:
        """Keep a scan's rows.

        Raises
        ------
        OutputError
            Where they cannot be written.
        """
        content = {**entry, "digest": self._digest(task)}
        replace_file(self._path(task), json.dumps(content) + "\n")

    def _path(self, task: Task) -> Path:
        return self._folder / f"{task.scan.scan_id}.json"

    def _digest(self, task: Task) -> str:
        # Of its own folds alone: what is kept of a scan does not hang on what else is predicted.
        models = [self._plans, *(self._checkpoints[fold] for fold in task.folds)]
        content = [self._settings, models, task.to_json(), _describe(task.scan.files)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _beside(self, task: Task) -> list[str]:
        """Return the other files that the engine wrote of the scan."""
        settings, scan_id = self._settings, task.scan.scan_id
        volumes = settings.get("nifti_folder")
        folders = settings.get("probability_folders") or ()
        files = [f"{volumes}/labels/{scan_id}.nii.gz"] if volumes else []
        return [*files, *(f"{folder}/{scan_id}{SUFFIX}" for folder in folders)]


def _describe(paths: Iterable[Path]) -> dict[str, list[int]]:
    return {str(path): describe_file(path) for path in paths}


def describe_file(path: Path) -> list[int]:
    """Return a file's size in bytes and time of change in ns; empty where it is missing."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
