"""Workspace: nnU-Net's three folders, our logs and our predictions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.core.files import find_kind

DEFAULT_WORKSPACE = Path("gi2nnunet-workspace")
_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """The folders of one project.

    Attributes
    ----------
    raw, preprocessed, results
        nnU-Net's own three folders.
    logs
        Log files of every engine run.
    predictions
        Submissions, scores and label volumes.
    chosen_by
        How the workspace was found, for the screen.
    """

    raw: Path
    preprocessed: Path
    results: Path
    logs: Path
    predictions: Path
    chosen_by: str

    @property
    def plain_commands(self) -> str:
        """Return the shell line that lets nnU-Net's own commands find this workspace."""
        folders = (self.raw, self.preprocessed, self.results)
        return "export " + " ".join(
            f"{name}={folder}" for name, folder in zip(_VARIABLES, folders, strict=True)
        )


def open_workspace(folder: Path | None, *, environ: Mapping[str, str]) -> Workspace:
    """Find the workspace; nothing is created.

    Parameters
    ----------
    folder
        What ``--workspace`` said, or ``None``.
    environ
        The environment, for nnU-Net's three variables, which count where all three are set.

    Returns
    -------
    Workspace
        Of ``folder``, else of nnU-Net's variables, else of ``./gi2nnunet-workspace``. Where it
        cannot be written to, logs go into the system's temporary folder.

    Raises
    ------
    InputError
        Where it cannot be looked at: a name that is too long, no right.
    """
    if folder is None and all(environ.get(name) for name in _VARIABLES):
        raw, preprocessed, results = (Path(environ[name]).absolute() for name in _VARIABLES)
        home, chosen_by = results / "gi2nnunet", "nnU-Net's environment variables"
    else:
        root = (folder or DEFAULT_WORKSPACE).absolute()
        raw, preprocessed, results = root / "raw", root / "preprocessed", root / "results"
        home, chosen_by = root, "--workspace" if folder else "the default"
    for place in (raw, preprocessed, results):
        find_kind(place)  # refuses what cannot even be looked at
    logs = home / "logs"
    if not os.access(next(path for path in (logs, *logs.parents) if path.exists()), os.W_OK):
        # A workspace that is only read, such as a data set attached to a notebook.
        logs = Path(tempfile.gettempdir()) / "gi2nnunet-logs"
    return Workspace(
        raw=raw,
        preprocessed=preprocessed,
        results=results,
        logs=logs,
        predictions=home / "predictions",
        chosen_by=chosen_by,
    )
