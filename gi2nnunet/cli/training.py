"""Commands that make models: plan, train."""

from __future__ import annotations

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
)
from gi2nnunet.cli.output import (
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warning,
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
from gi2nnunet.nnunet.presets import PlanOptions, PresetChoice, choose_configurations

if TYPE_CHECKING:
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
