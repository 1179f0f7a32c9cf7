"""Commands that make models: plan, train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    ThreadsOption,
    TrustOption,
    WorkspaceOption,
    choose_hardware,
    require_number,
    same_workspace,
)
from gi2nnunet.cli.slurm.commands import (
    DryRunOption,
    OnOption,
    ProfileOption,
    SlurmOption,
    require_slurm,
    submit_training,
)

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.nnunet.engine import Engine
    from gi2nnunet.nnunet.presets import Preset
    from gi2nnunet.training.plan import Plan

_TRAINING = "What to train"
_SETTINGS = "Settings of a training"

PresetChoice = Literal["auto", "default", "resenc-m", "resenc-l", "resenc-xl", "tiny"]
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


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("plan")(plan)
    app.command("train")(train)


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
    from gi2nnunet.api import open_engine
    from gi2nnunet.cli.output import print_json
    from gi2nnunet.dataset.manifest import read_dataset

    patch_sizes = _parse_patch_sizes(patch_size or [])
    engine = open_engine(workspace, device=device, jobs=jobs)
    dataset = read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    check_versions(checks)
    choose_hardware(engine)
    made = _plan(
        engine, dataset, preset=preset, config=config,
        batch_size=batch_size, patch_sizes=patch_sizes, checks=checks,
    )  # fmt: skip
    if as_json:
        print_json(_describe_plan(made))
    else:
        _print_plan(made)


def train(
    context: typer.Context,
    fold: FoldOption = None,
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="By default the preset's: 1000; tiny: 40.",
            min=1,
            show_default=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="Batches an epoch; by default the preset's: 250; tiny: 50.",
            min=1,
            show_default=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
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
    trainer: Annotated[
        str | None,
        typer.Option(
            help="One of nnU-Net's trainer classes; by default nnUNetTrainer.",
            show_default=False,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
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
    from gi2nnunet.api import open_engine
    from gi2nnunet.cli.live import TrainingView, stop_when_warned
    from gi2nnunet.cli.output import print_json, print_notice, print_result
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.checks import check_checkpoint_file, check_trainer
    from gi2nnunet.training.record import STOCK_TRAINER, TrainingSettings
    from gi2nnunet.training.train import expand_folds, train_folds

    require_slurm(context)
    patch_sizes = _parse_patch_sizes(patch_size or [])
    engine = open_engine(
        workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
    )
    dataset = read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    folds = expand_folds(fold or ["all"], n_folds=len(dataset.splits))
    check_trainer(trainer or STOCK_TRAINER)  # before planning, which takes minutes
    if pretrained_weights:
        check_checkpoint_file(pretrained_weights)
    if on == "slurm":
        submit_training(context, engine.workspace, dataset, folds=folds, config=config or ())
        return
    check_versions(checks)
    choose_hardware(engine)
    planned = _plan(
        engine, dataset, preset=preset, config=config,
        batch_size=batch_size, patch_sizes=patch_sizes, checks=checks,
        folds=folds, trainer=trainer or STOCK_TRAINER,
    )  # fmt: skip
    for line in _describe_folds(folds, dataset):
        print_notice(line)
    with stop_when_warned() as stop, TrainingView() as view:
        results = train_folds(
            dataset,
            planned,
            engine=engine,
            folds=folds,
            settings=TrainingSettings(
                trainer=trainer or STOCK_TRAINER,
                epochs=epochs,
                iterations=iterations,
                learning_rate=lr,
                pretrained_weights=str(pretrained_weights.absolute())
                if pretrained_weights
                else None,
            ),
            restart=restart,
            nnunet_validation=nnunet_validation,
            stop=stop,
            on_start=view.start,
            on_epoch=view.update,
        )
    if as_json:
        print_json(
            {
                "plan": _describe_plan(planned),
                "trainings": [asdict(result) | view.describe_last(result) for result in results],
            }
        )
        return
    said = {"kept": "was finished before, left alone", "resumed": "resumed and finished"}
    for result in results:
        outcome = said.get(result.outcome, "trained")
        print_result(f"{result.configuration}, fold {result.fold}: {outcome}: {result.folder}")
    print_notice("Next: " + same_workspace("gi2nnunet predict-and-score", workspace))


def _plan(
    engine: Engine,
    dataset: Dataset,
    *,
    preset: str,
    config: list[str] | None,
    batch_size: int | None,
    patch_sizes: list[list[int]],
    checks: bool,
    folds: Sequence[int | str] = (),
    trainer: str = "",
) -> Plan:
    from gi2nnunet.cli.output import print_notice, show_progress
    from gi2nnunet.nnunet.presets import CONFIGURATIONS, choose_preset
    from gi2nnunet.training.plan import plan_dataset

    chosen = choose_preset(preset, memory_gib=engine.hardware.memory_gib)
    print_notice(f"Dataset: {dataset.folder}; preset: {chosen.name}")
    configurations = tuple(dict.fromkeys(config or CONFIGURATIONS))
    check_machine(
        checks, engine, dataset, chosen, configurations=configurations, folds=folds,
        trainer=trainer, resized=batch_size is not None or bool(patch_sizes),
    )  # fmt: skip
    with show_progress() as report:
        return plan_dataset(
            dataset,
            engine=engine,
            preset=chosen,
            configurations=configurations,
            batch_size=batch_size,
            patch_sizes=patch_sizes,
            progress=report,
        )


def _parse_patch_sizes(texts: Sequence[str]) -> list[list[int]]:
    sizes = []
    for text in texts:
        parts = text.lower().split("x")
        if len(parts) not in (2, 3) or not all(_is_size(p) for p in parts):
            raise typer.BadParameter(
                f"found {text!r}; expected a size such as 192x192 or 48x128x128",
                param_hint="--patch-size",
            )
        sizes.append([int(part) for part in parts])
    return sizes


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
    from gi2nnunet.cli.output import print_notice, print_result, print_table

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


def _describe_folds(folds: Sequence[int | str], dataset: Dataset) -> list[str]:
    """Say in words what is going to be trained."""
    scans = sum(scan.part == "train" for scan in dataset.scans)
    lines = []
    if "all" in folds:
        lines.append(
            f"Training one model on all {scans} training scans (fold all); nnU-Net's pseudo Dice "
            "is then in-sample."
        )
    numbered = [fold for fold in folds if fold != "all"]
    if numbered and len(numbered) == len(dataset.splits):
        lines.append(f"Training every one of the split's {len(numbered)} folds (cv).")
    elif numbered:
        lines.append(
            f"Training fold {', '.join(map(str, numbered))} of the split's {len(dataset.splits)}."
        )
    return lines


ChecksOption = Annotated[
    bool,
    typer.Option(
        "--checks/--no-checks",
        help="Stop before the start where versions, memory or disk will not do (gi2nnunet doctor).",
    ),
]


def check_versions(checks: bool) -> None:
    """Stop where the installed packages do not fit together, before one of them is loaded."""
    from gi2nnunet.training.doctor import judge_installation, raise_errors
    from gi2nnunet.training.machine import read_installation

    if checks:
        raise_errors(judge_installation(read_installation()))


def check_machine(
    checks: bool,
    engine: Engine,
    dataset: Dataset,
    preset: Preset,
    *,
    configurations: Sequence[str],
    folds: Sequence[int | str],
    trainer: str,
    resized: bool,
) -> None:
    """Warn of what is scarce on this machine, and stop where it cannot do."""
    from gi2nnunet.cli.output import print_warnings
    from gi2nnunet.training.doctor import examine_start, list_warnings, raise_errors

    if not checks:
        return
    verdicts = examine_start(
        dataset,
        engine=engine,
        preset=preset,
        configurations=configurations,
        folds=folds,
        trainer=trainer,
        resized=resized,
    )
    print_warnings(list_warnings(verdicts))
    raise_errors(verdicts)
