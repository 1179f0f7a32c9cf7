"""Options that several commands share, in groups that a command takes as one parameter."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from gi2nnunet.cli.output import print_notice
from gi2nnunet.formats.ids import LabelScheme, Orientation
from gi2nnunet.nnunet.presets import DeviceChoice
from gi2nnunet.scoring.conventions import Metric

MOST_JOBS = 1024
_DICOM = "DICOM"

_Result = TypeVar("_Result")


def require_number(value: float | None) -> float | None:
    """Refuse infinity and NaN, which pass the bounds of an option; a callback of options."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"found {value}; expected a finite number")
    return value


FOLD_HELP = (
    "A fold's number, cv for every fold of the split, or all for one model on every training "
    "scan; may be repeated."
)
LABELS_HELP = (
    "How labels are coded. regions keeps overlaps (bit-coded: 1, 2, 4). exclusive: 1, 2, 3."
)

WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        "--workspace",
        "-w",
        help="Folder of all data and models. By default nnU-Net's three environment variables "
        "if all are set, otherwise ./gi2nnunet-workspace.",
        file_okay=False,
    ),
]
IdOption = Annotated[
    int | None,
    typer.Option(
        "--id", help="nnU-Net's dataset id. Needed if the workspace holds several.", min=1, max=999
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", help="Number of workers; by default one per core.", min=1, max=MOST_JOBS
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", help="Seed of everything random.", min=0, max=2**32 - 1)
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output.")
]
MetricOption = Annotated[
    Metric,
    typer.Option(help="Which reading of the unpublished metric to use (see docs/metric.md)."),
]
LabelMapOption = Annotated[
    str | None,
    typer.Option(
        metavar="ORGAN=LABEL,...",
        help="Which label means which organ in NIfTI labels: "
        "stomach=1,small_bowel=2,large_bowel=3. Several labels of an organ: 2+4. Labels of other "
        "structures: others=5+6. Of masks of single organs, names of files: "
        "small_bowel=small_bowel+duodenum.",
    ),
]
OrientationOption = Annotated[
    Orientation,
    typer.Option(
        help="Axes of NIfTI volumes. affine: as the files say. as-stored: the arrays are columns, "
        "rows and slices in their order, whatever the files say.",
    ),
]
DeviceOption = Annotated[
    DeviceChoice,
    typer.Option(
        help="What to compute on; auto uses a GPU if one works, and says why others do not."
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option("--trust", help="Load checkpoints and plans unchecked. They can run any code."),
]
GpusOption = Annotated[
    int | None, typer.Option(help="How many GPUs to use; by default one.", min=1)
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="Threads of the network's operations. They are recorded, because they change the "
        "last bits of the output. By default one per core on a CPU; on a GPU half as many to "
        "predict, and one to train.",
        min=1,
    ),
]


SeriesOption = Annotated[
    str | None,
    typer.Option(
        "--series",
        help="Which series of a study: its number, UID or description; 3/2 is the second echo or "
        "phase of series 3. Needed if several fit.",
        rich_help_panel=_DICOM,
    ),
]
AnyModalityOption = Annotated[
    bool,
    typer.Option(
        "--any-modality",
        help="Also take CT, PET and others. The models are trained on MR.",
        rich_help_panel=_DICOM,
    ),
]
ShowPathsOption = Annotated[
    bool,
    typer.Option(
        "--show-paths",
        help="Show paths of files in messages. They can hold a patient's name.",
        rich_help_panel=_DICOM,
    ),
]


@dataclass(frozen=True, kw_only=True)
class WorkspaceOptions:
    """Folder of the data and models, and the dataset."""

    workspace: WorkspaceOption = None
    dataset_id: IdOption = None


@dataclass(frozen=True, kw_only=True)
class EngineOptions(WorkspaceOptions):
    """Folder of the data and models, the dataset, and what to compute with."""

    trust: TrustOption = False
    device: DeviceOption = "auto"
    gpus: GpusOption = None
    threads: ThreadsOption = None


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How the images of a source are opened."""

    allow_missing: Annotated[
        bool,
        typer.Option(
            "--allow-missing",
            help="Take masks without a row in train.csv as empty, skip rows without an image, and "
            "leave out scans that miss a slice; of NIfTI, labels without an image; of DICOM, files "
            "and series that cannot be used.",
        ),
    ] = False
    orientation: OrientationOption = "affine"
    series: SeriesOption = None
    any_modality: AnyModalityOption = False
    show_paths: ShowPathsOption = False


@dataclass(frozen=True, kw_only=True)
class SourceOptions(ImageOptions):
    """How a source is opened with its truth."""

    source_labels: Annotated[
        LabelScheme | None,
        typer.Option(
            help="How the source's NIfTI labels are coded, if dataset.json and the values do not "
            "show it.",
        ),
    ] = None
    label_map: LabelMapOption = None
    structures: Annotated[
        Path | None,
        typer.Option(
            help="RTSTRUCT or SEG file with the truth, or a folder or zip of them. By default "
            "those beside the series.",
            rich_help_panel=_DICOM,
        ),
    ] = None
    roi: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORGAN=NAME",
            help="Name of an organ's structure, if it is not a usual one; may be repeated.",
            rich_help_panel=_DICOM,
        ),
    ] = None


RoiNameOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORGAN=NAME",
        help="Name of an organ's structure in RTSTRUCT and SEG; by default that of TG-263. May be "
        "repeated.",
        rich_help_panel=_DICOM,
    ),
]


def takes_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: each field of a dataclass becomes an option.

    ``PANEL`` of a group is the title above its options in the help.
    """
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        n: p.annotation for n, p in signature.parameters.items() if is_dataclass(p.annotation)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name not in groups:
            flat.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(parameter.annotation, include_extras=True)
        panel = getattr(parameter.annotation, "PANEL", None)
        for field in fields(parameter.annotation):
            kind = hints[field.name]
            if panel is not None:
                kind.__metadata__[0].rich_help_panel = panel
            keyword = inspect.Parameter.KEYWORD_ONLY
            flat.append(
                inspect.Parameter(field.name, keyword, default=field.default, annotation=kind)
            )

    @wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__signature__ = signature.replace(parameters=flat)  # type: ignore[attr-defined]
    return run


def call_api(context: typer.Context, call: Callable[..., _Result], **own: Any) -> _Result:
    """Make a call with the options of the running command that it takes, and print its notices.

    Parameters
    ----------
    call
        One of :mod:`gi2nnunet.api`; its keywords are named like the options.
    **own
        Further arguments, and those that replace an option's value.
    """
    names = inspect.signature(call).parameters
    given = {name: value for name, value in context.params.items() if name in names}
    if "on_notice" in names:
        given["on_notice"] = print_notice
    return call(**given | own)


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
