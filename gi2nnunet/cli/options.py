"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gi2nnunet.nnunet.workspace import Workspace

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of all data and models; by default nnU-Net's three environment variables "
        "where all are set, else ./gi2nnunet-workspace.",
        show_default=False,
        file_okay=False,
    ),
]
IdOption = Annotated[
    int | None,
    typer.Option(
        "--id", help="Dataset id, where the workspace holds several.", min=1, max=999,
        show_default=False,
    ),
]  # fmt: skip
JobsOption = Annotated[
    int | None,
    typer.Option("--jobs", "-j", help="Worker processes; by default one a core.", min=1),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of everything random.", min=0)]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
DeviceOption = Annotated[
    str, typer.Option("--device", help="auto (a GPU where there is one), cuda, cpu or mps.")
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", help="How many GPUs to use; by default one.", min=1),
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", help="nnU-Net configuration; may be repeated."),
]
TrainerOption = Annotated[
    str | None,
    typer.Option("--trainer", help="One of nnU-Net's trainer classes; default nnUNetTrainer."),
]


def open_workspace_of(folder: Path | None) -> Workspace:
    """Open the workspace that ``--workspace`` or the environment names."""
    from gi2nnunet.nnunet.workspace import open_workspace

    return open_workspace(folder, environ=os.environ)
