"""Commands for training: plan, train, and estimate, which says how long it will take."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from gi2nnunet import api
from gi2nnunet.cli.live import TrainingView, stop_when_warned
from gi2nnunet.cli.options import (
    FOLD_HELP,
    DeviceOption,
    EngineOptions,
    JobsOption,
    JsonOption,
    WorkspaceOptions,
    call_api,
    require_number,
    spell_options,
    takes_groups,
)
from gi2nnunet.cli.output import (
    format_seconds,
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warning,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.slurm.commands import (
    DryRunOption,
    OnOption,
    ProfileOption,
    SlurmOption,
    require_slurm,
    submit_training,
)
from gi2nnunet.core.errors import count
from gi2nnunet.nnunet.presets import (
    Augment,
    PresetChoice,
)

if TYPE_CHECKING:
    from gi2nnunet.training.estimate import Estimate
    from gi2nnunet.training.plan import Plan

_TRAINING = "What to train"
# Options of train by which the next command finds its models and computes alike.
_OF_PREDICTION = ("config", "fold", "trainer", "trust", "device", "gpus", "threads")
_SETTINGS = "Settings of a training"


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Which networks."""

    PANEL: ClassVar = _TRAINING

    config: Annotated[
        list[str] | None,
        typer.Option(
            "--config",
            "-c",
            help="nnU-Net configuration; may be repeated. By default 2d and 3d_fullres.",
        ),
    ] = None
    preset: Annotated[
        PresetChoice,
        typer.Option(
            help="Which network: nnU-Net's default, its residual encoders, or a small one for CPUs "
            "and quick tests. auto chooses by the GPU's memory.",
        ),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(NetworkOptions):
    """Which networks on which folds."""

    fold: Annotated[
        list[str] | None,
        typer.Option(
            "--fold",
            "-f",
            help=f"{FOLD_HELP} By default all.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """Sizes that replace nnU-Net's choice."""

    PANEL: ClassVar = _SETTINGS

    batch_size: Annotated[
        int | None,
        typer.Option(help="Batch size instead of the plan's.", min=1),
    ] = None
    patch_size: Annotated[
        list[str] | None,
        typer.Option(
            help="Patch size instead of the plan's, in voxels: 192x192 for 2d, 48x128x128 (slices "
            "first) for 3d_fullres; may be repeated."
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """Length and trainer of a training."""

    PANEL: ClassVar = _SETTINGS

    epochs: Annotated[
        int | None,
        typer.Option(help="Number of epochs. By default 1000; 40 for the preset tiny.", min=1),
    ] = None
    iterations: Annotated[
        int | None,
        typer.Option(help="Batches per epoch. By default 250; 50 for the preset tiny.", min=1),
    ] = None
    trainer: Annotated[
        str | None,
        typer.Option(help="nnU-Net's trainer class. By default nnUNetTrainer."),
    ] = None


ChecksOption = Annotated[
    bool,
    typer.Option(
        "--checks/--no-checks",
        help="Stop before the start if versions, memory or disk space are not sufficient (see "
        "gi2nnunet doctor).",
    ),
]


@takes_groups
def plan(
    context: typer.Context,
    network: NetworkOptions,
    sizes: SizeOptions,
    where: WorkspaceOptions,
    device: DeviceOption = "auto",
    jobs: JobsOption = None,
    checks: ChecksOption = True,
    as_json: JsonOption = False,
) -> None:
    """Plan and preprocess the dataset; train does this too, if needed.

    Example: gi2nnunet plan --preset resenc-m --config 2d
    """
    patch_sizes = _parse_patch_sizes(sizes.patch_size or [])
    with show_progress() as report:
        made = call_api(
            context, api.plan, patch_size=patch_sizes, progress=report, on_warning=print_warning
        )
    if as_json:
        print_json(made.to_json())
    else:
        _print_plan(made)


@takes_groups
def train(
    context: typer.Context,
    training: TrainingOptions,
    schedule: ScheduleOptions,
    sizes: SizeOptions,
    how: EngineOptions,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Initial learning rate; by default the trainer's.",
            min=1e-9,
            callback=require_number,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    pretrained_weights: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this checkpoint.",
            exists=True,
            dir_okay=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    augment: Annotated[
        Augment | None,
        typer.Option(
            help="Where patches are augmented: on the processors or on the device, in both cases "
            "as nnU-Net does it but faster; nnunet uses nnU-Net's own data pipeline. By default as "
            "a training was begun; a new one on the processors.",
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Delete earlier training of these folds and start over.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    nnunet_validation: Annotated[
        bool,
        typer.Option(
            "--nnunet-validation",
            help="Also run nnU-Net's own final validation (its find_best_configuration needs it).",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    jobs: JobsOption = None,
    checks: ChecksOption = True,
    on: OnOption = "here",
    profile: ProfileOption = None,
    slurm: SlurmOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train nnU-Net; plan and preprocess first if that was not done.

    An interrupted training continues where it stopped; a finished one is kept. On the signal
    SIGUSR2, it saves a checkpoint at the end of the epoch and stops.

    Example: gi2nnunet train --fold all --preset tiny
    """
    require_slurm(context)
    patch_sizes = _parse_patch_sizes(sizes.patch_size or [])
    if on == "slurm":
        submit_training(context, patch_sizes)
        return
    with stop_when_warned() as stop, TrainingView() as view:
        results = call_api(
            context, api.train, patch_size=patch_sizes, progress=view.report,
            on_epoch=view.update, on_warning=print_warning, on_plan=view.begin,
            on_start=view.start, stop=stop,
        )  # fmt: skip
    if as_json:
        trainings = [result.to_json() | view.describe_last(result) for result in results]
        print_json({"plan": view.plan.to_json(), "trainings": trainings})
        return
    said = {"kept": "was finished before and is kept", "resumed": "resumed and finished"}
    for result in results:
        outcome = said.get(result.outcome, "trained")
        print_result(f"{result.configuration}, fold {result.fold}: {outcome}: {result.folder}")
    words = spell_options(context, _OF_PREDICTION)
    if training.preset != "auto" or sizes.batch_size or sizes.patch_size:
        words += ["--preset", view.plan.plans_name]
    print_notice("Next: " + shlex.join(("gi2nnunet", "predict-and-score", *words)))


def _parse_patch_sizes(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    sizes = []
    for text in texts:
        parts = text.lower().split("x")
        if len(parts) not in (2, 3) or not all(_is_size(p) for p in parts):
            raise typer.BadParameter(
                f"found {text!r}; expected a size such as 192x192 or 48x128x128",
                param_hint="--patch-size",
            )
        sizes.append(tuple(int(part) for part in parts))
    return tuple(sizes)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4 and int(text) > 0


def _print_plan(made: Plan) -> None:
    print_table(
        f"{made.preset.name}: {made.plans_name}",
        ("configuration", "patch (voxels)", "batch", "spacing (mm)", "data"),
        [
            (
                name,
                " x ".join(map(str, planned.patch_size)),
                planned.batch_size,
                " x ".join(f"{value:.2f}" for value in planned.spacing_mm),
                planned.data_folder.name,
            )
            for name, planned in made.configurations.items()
        ],
    )
    print_result(str(made.plans_file))
    print_notice(f"Log: {made.log}" if made.log else "This was planned and preprocessed before.")


_MOST_GPUS = 1024
# Options of the command that trains what was estimated.
_SHARED_OPTIONS = (
    "fold", "config", "preset", "epochs", "iterations", "trainer", "gpus", "device", "jobs",
)  # fmt: skip


@takes_groups
def estimate(
    context: typer.Context,
    training: TrainingOptions,
    schedule: ScheduleOptions,
    where: WorkspaceOptions,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="How many GPUs to use; by default one. With --card, of another machine.",
            min=1, max=_MOST_GPUS,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            help='A GPU of another machine, from a table, such as A100, "RTX 4090" or T4.'
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Train a few batches of each configuration here and time them; nothing is kept.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Estimate the hours, disk space and memory that trainings will need.

    With --measure, the time of an epoch is measured. Otherwise it is taken from trainings in this
    workspace, or from a table of GPUs. The output says which one was used.

    Example: gi2nnunet estimate --fold cv --preset resenc-m --gpus 4 --card A100
    """
    if card is not None and (measure or device != "auto"):
        raise typer.BadParameter(
            "cannot be combined with --card, which names a GPU of another machine",
            param_hint="--measure" if measure else "--device",
        )
    if card is None and gpus:
        hardware = api.open_engine(where.workspace, device=device).hardware
        if hardware.device != "cuda":
            raise typer.BadParameter(
                f"this machine computes on {hardware.name}; name a GPU with --card",
                param_hint="--gpus",
            )
    with show_progress() as report:
        result = call_api(context, api.estimate, progress=report)
    if as_json:
        print_json(result.to_json())
        return
    words = shlex.join(("gi2nnunet", "train", *spell_options(context, _SHARED_OPTIONS)))
    _print_estimate(result, words)


def _print_estimate(result: Estimate, next_command: str) -> None:
    at_once = f", {result.cards} at a time" if result.cards > 1 else ""
    print_table(
        f"{result.preset} on {result.device}{at_once}",
        ("configuration", "fold", "state", "epochs", "per epoch", "all epochs", "left"),
        [
            (
                entry.configuration, entry.fold, entry.state,
                f"{entry.epochs_done} of {entry.epochs}",
                *map(_duration, (entry.epoch_seconds, entry.seconds, entry.seconds_left)),
            )
            for entry in result.trainings
        ],
        text_columns=3,
    )  # fmt: skip
    print_table("Totals", ("", "left"), _list_totals(result))
    for name, pace in result.paces.items():
        print_result(f"Time of {name}: {pace.described}")
    print_result(f"Plan: {result.plan}")
    print_warnings(result.notes)
    if any(entry.seconds_left for entry in result.trainings):
        print_notice(f"Next: {next_command}")


def _list_totals(result: Estimate) -> list[tuple[str, str]]:
    unit = "GPU-hours" if result.on_cards else "hours of computing"
    hours = result.seconds_left / 3600
    rows = [
        ("planning and preprocessing", _duration(result.preparing_seconds)),
        (f"trainings, with {count(result.cards, 'device')}",
         _duration(result.wall_seconds_left)),
        (f"trainings, {unit}", f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"),
        *((f"prediction {name.replace('_', ' ')}, from earlier runs", _duration(seconds))
          for name, seconds in result.predicting_seconds.items() if seconds is not None),
        *((f"disk: {name}", _size(size)) for name, size in result.disk_bytes.items()),
        *((f"memory to {name}", _size(size)) for name, size in result.memory_bytes.items()),
    ]  # fmt: skip
    if result.gpu_memory_gib is not None:
        rows.append(("memory of each GPU", f"{result.gpu_memory_gib:.0f} GiB"))
    return rows


def _duration(seconds: float) -> str:
    if not seconds:
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s"
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 72 else format_seconds(seconds)


def _size(amount: int) -> str:
    if not amount:
        return "-"
    gib = amount / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{amount / 2**20:.0f} MiB"
