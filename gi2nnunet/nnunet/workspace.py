"""Where everything lies: nnU-Net's three folders, our logs and predictions, and the environment."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_kind
from gi2nnunet.core.workers import count_cores

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


def engine_environment(
    workspace: Workspace,
    *,
    environ: Mapping[str, str],
    processes: int,
    augmentation_processes: int,
    threads: int,
    gpu: int | None = None,
) -> dict[str, str]:
    """Build the whole environment of one engine process.

    Parameters
    ----------
    workspace
        Where the engine reads and writes.
    environ
        What to start from (``PATH`` and the like).
    processes
        nnU-Net's worker processes for preprocessing and export.
    augmentation_processes
        Workers that augment while training; 0 augments in the training process.
    threads
        Threads of the numerical libraries.
    gpu
        The one card the process may see, counted among those that ``environ`` lets us see;
        ``None`` leaves them all.
    """
    built = dict(environ)
    built.update(
        {
            "nnUNet_raw": str(workspace.raw),
            "nnUNet_preprocessed": str(workspace.preprocessed),
            "nnUNet_results": str(workspace.results),
            "nnUNet_def_n_proc": str(processes),
            "nnUNet_n_proc_DA": str(augmentation_processes),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # Threads that spin while they wait take the cores from whatever else runs: beside
            # one busy neighbour on two cores an iteration took forty times as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            # A torch.py in the folder where a command runs is not PyTorch (Python 3.11 and later).
            "PYTHONSAFEPATH": "1",
            "MPLBACKEND": "Agg",
        }
    )
    if gpu is not None:
        # Cards are counted among those the user lets us see, which may be ids of another form.
        visible = [card for card in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
        built["CUDA_VISIBLE_DEVICES"] = visible[gpu].strip() if visible else str(gpu)
    return built


def choose_threads(
    threads: int | None, *, device: str, training: bool, cores: int | None = None
) -> int:
    """Return how many threads the network's operations get; they change its output's last bits.

    Parameters
    ----------
    threads
        What the user asked for.
    device
        ``cuda``, ``cpu`` or ``mps``.
    training
        Whether it is to train, or else to predict.
    cores
        Of the machine it is for; by default those of this process.

    Returns
    -------
    int
        ``threads``; where that is ``None``: on a CPU every core, else one for training (whose
        augmentation runs beside it) and half of the cores for prediction (whose resampling is on
        the CPU).

    Raises
    ------
    InputError
        For a number below 1.
    """
    if threads is not None:
        if threads < 1:
            raise InputError(f"--threads: found {threads}; expected at least 1. Leave it out.")
        return threads
    known = cores or count_cores()
    if device == "cpu":
        return known
    return 1 if training else max(1, known // 2)
