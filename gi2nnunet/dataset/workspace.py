"""Workspace: nnU-Net's three folders, our logs and our predictions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_kind

DEFAULT_WORKSPACE = Path("gi2nnunet-workspace")
_FOLDERS = ("raw", "preprocessed", "results")
_VARIABLES = tuple(f"nnUNet_{name}" for name in _FOLDERS)


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one project, and how they were chosen, for the screen."""

    raw: Path
    preprocessed: Path
    results: Path
    logs: Path
    predictions: Path
    chosen_by: str

    @property
    def patients(self) -> Path:
        """Return the table of the ids that patients of DICOM sources have here."""
        return self.predictions.parent / "dicom-patients.json"

    def list_datasets(self, dataset_id: int | None = None) -> list[str]:
        """Return the names of all datasets, or those of a number, of which any folder is there."""
        number = "[0-9][0-9][0-9]" if dataset_id is None else f"{dataset_id:03d}"
        roots = (self.raw, self.preprocessed, self.results)
        found = (path for root in roots for path in root.glob(f"Dataset{number}_*"))
        return sorted({path.name for path in found if path.is_dir()})


def open_workspace(folder: Path | None, *, environ: Mapping[str, str]) -> Workspace:
    """Find the workspace; nothing is created.

    It is ``folder`` (from ``--workspace``), else that of nnU-Net's variables in ``environ`` if all
    three are set, else ``./gi2nnunet-workspace``; ``~`` is the home folder. With variables that do
    not name the three folders of one workspace, logs and predictions are in ``gi2nnunet`` in the
    results. If it cannot be written to, logs go to the system's temporary folder.

    Raises
    ------
    InputError
        If it cannot be read: a name that is too long, missing rights; if one of nnU-Net's folders
        is another one, or in another one's folder of a dataset.
    """
    if folder is None and all(environ.get(name) for name in _VARIABLES):
        raw, preprocessed, results = (_locate(Path(environ[name])) for name in _VARIABLES)
        root, chosen_by = results.parent, "nnU-Net's environment variables"
        whole = (raw, preprocessed, results) == tuple(root / name for name in _FOLDERS)
        home = root if whole else results / "gi2nnunet"
    else:
        root = _locate(folder or DEFAULT_WORKSPACE)
        raw, preprocessed, results = (root / name for name in _FOLDERS)
        home, chosen_by = root, "--workspace" if folder else "the default"
    for place in (raw, preprocessed, results):
        find_kind(place)  # raises if it cannot be read
    _check_apart(raw, preprocessed, results)
    logs = home / "logs"
    if not os.access(next(path for path in (logs, *logs.parents) if path.exists()), os.W_OK):
        # A read-only workspace, such as a data set attached to a notebook.
        logs = Path(tempfile.gettempdir()) / "gi2nnunet-logs"
    return Workspace(
        raw=raw,
        preprocessed=preprocessed,
        results=results,
        logs=logs,
        predictions=home / "predictions",
        chosen_by=chosen_by,
    )


def _check_apart(*folders: Path) -> None:
    """Refuse folders of which one would be removed with a dataset of another."""
    for one, other in permutations((folder.resolve() for folder in folders), 2):
        inside = (place for place in (one, *one.parents) if place.parent == other)
        if one == other or any(place.match("Dataset[0-9][0-9][0-9]_*") for place in inside):
            raise InputError(
                f"{one}: found one folder for two of nnU-Net's three, or one inside another's "
                f"dataset; expected three that are apart. Give {', '.join(_VARIABLES)} "
                "a folder each, or a workspace with --workspace."
            )


def _locate(folder: Path) -> Path:
    return Path(os.path.expanduser(folder)).absolute()  # noqa: PTH111  Path's raises without a home
