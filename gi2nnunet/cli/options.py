"""Options that several commands share."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gi2nnunet.formats.ids import LabelScheme
from gi2nnunet.nnunet.presets import DeviceChoice
from gi2nnunet.scoring.conventions import Metric

if TYPE_CHECKING:
    pass

MOST_JOBS = 1024


def require_number(value: float | None) -> float | None:
    """Refuse what passes every bound without being a number; a callback of options."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"found {value}; expected a finite number")
    return value


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
    typer.Option(
        "--jobs", "-j", help="Workers; by default one a core.", min=1, max=MOST_JOBS,
        show_default=False,
    ),
]  # fmt: skip
SeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of everything random.", min=0, max=2**32 - 1)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
MetricOption = Annotated[
    Metric,
    typer.Option(
        "--metric", help="Convention: how what the competition leaves open is taken."
    ),
]  # fmt: skip
AllowMissingOption = Annotated[
    bool,
    typer.Option("--allow-missing", help="Pass over rows without image and images without rows."),
]
SourceLabelsOption = Annotated[
    LabelScheme | None,
    typer.Option(
        "--source-labels",
        help="How given NIfTI labels are coded, where their values or a dataset.json do not tell.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    DeviceChoice,
    typer.Option("--device", help="What to compute on; auto: a GPU where there is one."),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust", help="Load checkpoints and plans as they are: they can run any code."
    ),
]  # fmt: skip
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", help="How many GPUs to use; by default one.", min=1),
]

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        "--threads",
        help="Threads of the network's operations: recorded, as they change the last bits of its "
        "output. By default one a core on a CPU; on a GPU, half as many to predict, one to train.",
        min=1,
        show_default=False,
    ),
]


def same_workspace(command: str, folder: Path | None) -> str:
    """Return a command with the ``--workspace`` that this one was given."""
    return command if folder is None else f"{command} --workspace {shlex.quote(str(folder))}"


def spell_options(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return the options of the running command that were given, as words; paths absolute."""
    words: list[str] = []
    for option in context.command.params:
        name = str(option.name)
        source = context.get_parameter_source(name)
        if name not in names or source is None or source.name == "DEFAULT":
            continue
        value: Any = context.params[name]
        if isinstance(value, bool):
            words.append(option.opts[0] if value else option.secondary_opts[0])
            continue
        for one in value if isinstance(value, (list, tuple)) else (value,):
            text = str(one.absolute()) if isinstance(one, Path) else str(one)
            words += [option.opts[0], text]
    return words
