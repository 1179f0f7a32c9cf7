"""Commands that make models: plan, train, and estimate, which says what they take."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gi2nnunet import api
from gi2nnunet.cli.live import TrainingView, stop_when_warned
from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    ThreadsOption,
    TrustOption,
    WorkspaceOption,
    require_number,
    same_workspace,
    spell_options,
)
from gi2nnunet.cli.output import (
    count,
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
from gi2nnunet.nnunet.presets import (
    STOCK_TRAINER,
    PlanOptions,
    PresetChoice,
    TrainingSettings,
    choose_configurations,
)

if TYPE_CHECKING:
    from gi2nnunet.training.estimate import Estimate
    from gi2nnunet.training.plan import Plan

_TRAINING = "What to train"
_SETTINGS = "Settings of a training"

FoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fold",
        "-f",
        help="A fold's number, cv for every fold of the split, or all for one model on every "
        "training scan; may be repeated. By default all.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        help="nnU-Net configuration; may be repeated. By default 2d and 3d_fullres.",
        show_default=False,
        rich_help_panel=_TRAINING,
    ),
]
PresetOption = Annotated[
    PresetChoice,
    typer.Option(
        "--preset",
        help="Which network: nnU-Net's default planner, its residual encoders, or a small one for "
        "CPUs and smoke tests; auto chooses by GPU memory.",
        rich_help_panel=_TRAINING,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        help="By default the preset's: 1000; tiny: 40.",
        min=1,
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
IterationsOption = Annotated[
    int | None,
    typer.Option(
        help="Batches an epoch; by default the preset's: 250; tiny: 50.",
        min=1,
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        help="One of nnU-Net's trainer classes; by default nnUNetTrainer.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        help="In place of the plan's.",
        min=1,
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]
PatchSizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--patch-size",
        help="In place of the plan's, in voxels: 192x192 for 2d, 48x128x128 (slices first) for "
        "3d_fullres; may be repeated.",
        show_default=False,
        rich_help_panel=_SETTINGS,
    ),
]

ChecksOption = Annotated[
    bool,
    typer.Option(
        "--checks/--no-checks",
        help="Stop before the start where versions, memory or disk will not do (gi2nnunet doctor).",
    ),
]


def plan(
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    batch_size: BatchSizeOption = None,
    patch_size: PatchSizeOption = None,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    checks: ChecksOption = True,
    as_json: JsonOption = False,
) -> None:
    """Plan and preprocess the dataset: the first half of train.

    Example: gi2nnunet plan --preset resenc-m --config 2d
    """
    options = PlanOptions(
        preset=preset,
        configurations=choose_configurations(config),
        batch_size=batch_size,
        patch_sizes=_parse_patch_sizes(patch_size or []),
    )
    with show_progress() as report:
        made = api.plan(
            options,
            engine=api.open_engine(workspace, device=device, jobs=jobs),
            dataset_id=dataset_id,
            checks=checks,
            progress=report,
            on_notice=print_notice,
            on_warning=print_warning,
        )
    if as_json:
        print_json(_describe_plan(made))
    else:
        _print_plan(made)


def train(
    context: typer.Context,
    fold: FoldOption = None,
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    epochs: EpochsOption = None,
    iterations: IterationsOption = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Initial learning rate; by default the trainer's.",
            min=1e-9,
            callback=require_number,
            show_default=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    batch_size: BatchSizeOption = None,
    patch_size: PatchSizeOption = None,
    trainer: TrainerOption = None,
    pretrained_weights: Annotated[
        Path | None,
        typer.Option(
            help="A checkpoint whose weights to start from.",
            exists=True,
            dir_okay=False,
            show_default=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Throw away what was trained of these before.",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    nnunet_validation: Annotated[
        bool,
        typer.Option(
            "--nnunet-validation",
            help="Run nnU-Net's own final validation too (its find_best_configuration needs it).",
            rich_help_panel=_TRAINING,
        ),
    ] = False,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    threads: ThreadsOption = None,
    checks: ChecksOption = True,
    on: OnOption = "here",
    profile: ProfileOption = None,
    slurm: SlurmOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train nnU-Net; plan and preprocess first where that has not been done.

    An interrupted training goes on where it stopped; a finished one is left alone. On SIGUSR2 it
    saves at the end of its epoch and stops.

    Example: gi2nnunet train --fold all --preset tiny
    """
    require_slurm(context)
    patch_sizes = _parse_patch_sizes(patch_size or [])
    if on == "slurm":
        submit_training(context)
        return
    with stop_when_warned() as stop, TrainingView() as view:
        results = api.train(
            fold=fold, config=config, preset=preset, epochs=epochs, iterations=iterations, lr=lr,
            batch_size=batch_size, patch_size=patch_sizes, trainer=trainer,
            pretrained_weights=pretrained_weights, restart=restart,
            nnunet_validation=nnunet_validation, trust=trust, device=device, gpus=gpus,
            workspace=workspace, dataset_id=dataset_id, jobs=jobs, threads=threads, checks=checks,
            progress=view.report, on_epoch=view.update, on_notice=print_notice,
            on_warning=print_warning, on_plan=view.begin, on_start=view.start, stop=stop,
        )  # fmt: skip
    if as_json:
        trainings = [asdict(result) | view.describe_last(result) for result in results]
        print_json({"plan": _describe_plan(view.plan), "trainings": trainings})
        return
    said = {"kept": "was finished before, left alone", "resumed": "resumed and finished"}
    for result in results:
        outcome = said.get(result.outcome, "trained")
        print_result(f"{result.configuration}, fold {result.fold}: {outcome}: {result.folder}")
    print_notice("Next: " + same_workspace("gi2nnunet predict-and-score", workspace))


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


def _describe_plan(made: Plan) -> dict[str, Any]:
    return {
        "preset": made.preset.name,
        "plans": made.plans_name,
        "file": made.plans_file,
        "configurations": {
            name: {
                "patch_size": planned.patch_size,
                "batch_size": planned.batch_size,
                "spacing_mm": planned.spacing_mm,
                "folder": planned.data_folder,
            }
            for name, planned in made.configurations.items()
        },
        "log": made.log,
    }


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
    print_notice(f"Log: {made.log}" if made.log else "Everything was there already.")


_MOST_GPUS = 1024
# Of the command that trains what was estimated.
_SHARED_OPTIONS = (
    "fold", "config", "preset", "epochs", "iterations", "trainer", "gpus", "device", "dataset_id",
    "jobs",
)  # fmt: skip


def estimate(
    context: typer.Context,
    fold: FoldOption = None,
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    epochs: EpochsOption = None,
    iterations: IterationsOption = None,
    trainer: TrainerOption = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="Number of GPUs, of this machine or another; by default one.",
            min=1, max=_MOST_GPUS, show_default=False,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            help="A GPU of another machine, from a table, such as A100, \"RTX 4090\", T4.",
            show_default=False,
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
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Estimate what trainings take before they start: hours, GPU-hours, disk, memory.

    The time of an epoch is measured with --measure; else it is taken from trainings in this
    workspace, else from a table of GPUs. The output says which.

    Example: gi2nnunet estimate --fold cv --preset resenc-m --gpus 4 --card A100
    """
    if card is not None and (measure or device != "auto"):
        raise typer.BadParameter(
            "--card asks for another machine's card: leave the other out",
            param_hint="--measure, --device" if measure else "--device",
        )
    engine = api.open_engine(workspace, device=device, jobs=jobs)
    if card is None and gpus and engine.hardware.device != "cuda":
        raise typer.BadParameter(
            f"found {engine.hardware.name} here; name the GPU with --card", param_hint="--gpus"
        )
    with show_progress() as report:
        result = api.estimate(
            PlanOptions(preset=preset, configurations=choose_configurations(config)),
            TrainingSettings(
                trainer=trainer or STOCK_TRAINER, epochs=epochs, iterations=iterations
            ),
            fold=fold,
            gpus=gpus,
            card=card,
            measure=measure,
            engine=engine,
            dataset_id=dataset_id,
            progress=report,
            on_notice=print_notice,
        )
    if as_json:
        print_json(result.to_json())
    else:
        words = spell_options(context, _SHARED_OPTIONS)
        _print_estimate(
            result, same_workspace(shlex.join(("gi2nnunet", "train", *words)), workspace)
        )


def _print_estimate(result: Estimate, next_command: str) -> None:
    at_once = f", {result.cards} at a time" if result.cards > 1 else ""
    print_table(
        f"{result.preset} on {result.device}{at_once}",
        ("configuration", "fold", "state", "epochs", "an epoch", "all of it", "left"),
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
        (f"trainings, on the clock of {count(result.cards, 'device')}",
         _duration(result.wall_seconds_left)),
        (f"trainings, {unit}", f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"),
        *((f"prediction {name.replace('_', ' ')}, as before here", _duration(seconds))
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
