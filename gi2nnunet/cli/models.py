"""Commands around models: plan, train, predict, predict-and-score."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gi2nnunet.cli.options import (
    ConfigOption,
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    TrainerOption,
    WorkspaceOption,
    open_workspace_of,
)

if TYPE_CHECKING:
    from gi2nnunet.evaluation import Evaluation
    from gi2nnunet.manifest import Dataset
    from gi2nnunet.nnunet.hardware import Hardware
    from gi2nnunet.nnunet.plan import Plan
    from gi2nnunet.nnunet.train import TrainingProgress
    from gi2nnunet.nnunet.workspace import Workspace

_TRAINING = "What to train"
_SETTINGS = "Settings of a training"
_MACHINE = "Machine"

PresetOption = Annotated[
    str,
    typer.Option(
        "--preset",
        help="default, resenc-m, resenc-l, resenc-xl, tiny (small network, for CPUs and smoke "
        "tests), or auto (by GPU memory).",
        rich_help_panel=_TRAINING,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", help="In place of the plan's.", min=1, rich_help_panel=_SETTINGS),
]
PatchSizeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--patch-size",
        help="In place of the plan's, in voxels: 192x192 for 2d, 48x128x128 (slices first) for "
        "3d_fullres; may be repeated.",
        rich_help_panel=_SETTINGS,
    ),
]
FoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fold",
        "-f",
        help="A fold's number; cv for every fold of the split; all for one model on every "
        "training scan. May be repeated.",
        rich_help_panel=_TRAINING,
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("plan")(plan)
    app.command("train")(train)
    app.command("predict-and-score")(predict_and_score)
    app.command("predict")(predict)


def plan(
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    batch_size: BatchSizeOption = None,
    patch_size: PatchSizeOption = None,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
) -> None:
    """Plan and preprocess the dataset: the first half of train.

    Example: gi2nnunet plan --preset resenc-m --config 2d
    """
    space = open_workspace_of(workspace)
    dataset = _read_dataset(space, dataset_id)
    hardware = _find_hardware(space, device=device, gpus=None)
    made = _plan(
        space, dataset, hardware, preset=preset, config=config,
        batch_size=batch_size, patch_size=patch_size, jobs=jobs,
    )  # fmt: skip
    _print_plan(made)


def train(
    fold: FoldOption = None,
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Default: the preset's (1000; tiny: 40).", min=1, rich_help_panel=_SETTINGS
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="Batches an epoch; default: the preset's (250; tiny: 50).",
            min=1,
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Initial learning rate.", min=1e-9, rich_help_panel=_SETTINGS),
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
            rich_help_panel=_SETTINGS,
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what was trained of these before.")
    ] = False,
    nnunet_validation: Annotated[
        bool,
        typer.Option(
            "--nnunet-validation",
            help="Run nnU-Net's own final validation too (its find_best_configuration needs it).",
        ),
    ] = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
) -> None:
    """Train nnU-Net; plan and preprocess first where that has not been done.

    An interrupted training goes on where it stopped; a finished one is left alone.

    Example: gi2nnunet train --fold all --preset tiny
    """
    from gi2nnunet.cli.show import print_notice, print_result
    from gi2nnunet.nnunet.train import (
        STOCK_TRAINER,
        TrainingSettings,
        expand_folds,
        train_folds,
    )

    space = open_workspace_of(workspace)
    dataset = _read_dataset(space, dataset_id)
    folds = expand_folds(fold or ["all"], n_folds=len(dataset.splits))
    hardware = _find_hardware(space, device=device, gpus=gpus)
    planned = _plan(
        space, dataset, hardware, preset=preset, config=config,
        batch_size=batch_size, patch_size=patch_size, jobs=jobs,
    )  # fmt: skip
    for line in _describe_folds(folds, dataset):
        print_notice(line)
    with _LiveTraining() as live:
        results = train_folds(
            dataset,
            planned,
            workspace=space,
            environ=os.environ,
            hardware=hardware,
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
            jobs=jobs,
            restart=restart,
            nnunet_validation=nnunet_validation,
            on_start=live.start,
            on_epoch=live.update,
        )
    said = {"kept": "was finished before, left alone", "resumed": "resumed and finished"}
    for result in results:
        outcome = said.get(result.outcome, "trained")
        print_result(f"{result.configuration}, fold {result.fold}: {outcome}: {result.folder}")
    print_notice("Next: gi2nnunet predict-and-score")


def predict_and_score(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="A source (its test/ if there is one, else its train/), or NIfTI files; by "
            "default the workspace's held-out scans.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(help="per-class, joined, mle-bench or slice-2d (see the documentation)."),
    ] = "per-class",
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: Annotated[str | None, typer.Option(help="Of which preset to use models.")] = None,
    trainer: TrainerOption = None,
    mirroring: Annotated[
        bool, typer.Option(help="Average over mirrored images, as nnU-Net does.")
    ] = True,
    step_size: Annotated[
        float, typer.Option(help="Sliding-window step, as a part of the patch.", min=0.1, max=1)
    ] = 0.5,
    nifti: Annotated[
        bool, typer.Option("--nifti", help="Write label volumes too: bit-coded, and one an organ.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the results; by default in the workspace.",
            show_default=False,
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass over rows without image and images "
                           "without rows."),
    ] = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Predict, write submission.csv, and score it where the truth is known.

    Without a source: the held-out test scans; where there are none, every training scan by the
    model that did not see its patient; else the training scans, the score marked in-sample.

    Example: gi2nnunet predict-and-score --preset tiny
    """
    _predict(
        source, metric=metric, config=config, fold=fold, preset=preset, trainer=trainer,
        mirroring=mirroring, step_size=step_size, nifti=nifti, out=out,
        allow_missing=allow_missing, device=device, gpus=gpus, workspace=workspace,
        dataset_id=dataset_id, as_json=as_json, score=True,
    )  # fmt: skip


def predict(
    source: Annotated[
        Path,
        typer.Argument(
            help="A source (its test/ if there is one, else its train/), or NIfTI files."
        ),
    ],
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: Annotated[str | None, typer.Option(help="Of which preset to use models.")] = None,
    trainer: TrainerOption = None,
    mirroring: Annotated[
        bool, typer.Option(help="Average over mirrored images, as nnU-Net does.")
    ] = True,
    step_size: Annotated[
        float, typer.Option(help="Sliding-window step, as a part of the patch.", min=0.1, max=1)
    ] = 0.5,
    nifti: Annotated[
        bool, typer.Option("--nifti", help="Write label volumes too: bit-coded, and one an organ.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the results; by default in the workspace.",
            show_default=False,
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Pass over rows without image and images "
                           "without rows."),
    ] = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Predict a source and write submission.csv; no truth is looked for.

    Example: gi2nnunet predict uw-madison-gi-tract-image-segmentation.zip --out results --nifti
    """
    _predict(
        source, metric="per-class", config=config, fold=fold, preset=preset, trainer=trainer,
        mirroring=mirroring, step_size=step_size, nifti=nifti, out=out,
        allow_missing=allow_missing, device=device, gpus=gpus, workspace=workspace,
        dataset_id=dataset_id, as_json=as_json, score=False,
    )  # fmt: skip


def _predict(
    source: Path | None,
    *,
    metric: str,
    config: list[str] | None,
    fold: list[str] | None,
    preset: str | None,
    trainer: str | None,
    mirroring: bool,
    step_size: float,
    nifti: bool,
    out: Path | None,
    allow_missing: bool,
    device: str,
    gpus: int | None,
    workspace: Path | None,
    dataset_id: int | None,
    as_json: bool,
    score: bool,
) -> None:
    from gi2nnunet.cli.show import print_notice, print_warnings, show_progress
    from gi2nnunet.evaluation import evaluate, select_models, select_own_scans, select_source

    _check_metric(metric)
    space = open_workspace_of(workspace)
    dataset, ensemble = select_models(
        space,
        dataset_id=dataset_id,
        configurations=config or (),
        folds=fold or (),
        preset=None if preset == "auto" else preset,
        trainer=trainer,
    )
    if source is None:
        if dataset is None:
            dataset = _read_dataset(space, dataset_id)
        selection = select_own_scans(dataset, ensemble)
    else:
        selection = select_source(
            source, dataset=dataset, ensemble=ensemble, allow_missing=allow_missing
        )
    hardware = _find_hardware(space, device=device, gpus=gpus)
    print_notice(f"Models: {ensemble.describe()}")
    print_notice(f"Predicting {len(selection.scans)} scans: {selection.described}")
    with show_progress() as report:
        report(0, len(selection.scans), "predicting scans")
        done = evaluate(
            selection,
            ensemble,
            out=out or space.predictions / selection.name / ensemble.name,
            workspace=space,
            environ=os.environ,
            hardware=hardware,
            metric=metric,
            mirroring=mirroring,
            step_size=step_size,
            nifti=nifti,
            score=score,
            on_scan=lambda count, total, scan: report(count, total, "predicting scans"),
        )
    print_warnings(done.warnings)
    _print_evaluation(done, as_json=as_json, scored=score)


def _check_metric(metric: str) -> None:
    from gi2nnunet.errors import InputError
    from gi2nnunet.metric import CONVENTIONS

    if metric not in CONVENTIONS:
        raise InputError(f"--metric: found {metric!r}; expected {', '.join(CONVENTIONS)}.")


def _print_evaluation(done: Evaluation, *, as_json: bool, scored: bool) -> None:
    from gi2nnunet.cli.scores import print_score
    from gi2nnunet.cli.show import print_json, print_notice, print_result

    if as_json:
        content: dict[str, Any] = {
            "submission": str(done.submission),
            "standing": done.standing,
            "files": [str(file) for file in done.files],
            "seconds_per_scan": done.seconds_per_scan,
        }
        if done.score is not None:
            content |= done.score.to_json()
        print_json(content)
        return
    if done.score is not None:
        print_score(done.score, standing=done.standing)
    elif scored:
        print_notice("The truth of these scans is not known, so there is no score.")
    print_notice(f"{done.seconds_per_scan:.1f} s a scan")
    for file in done.files:
        print_result(str(file))


def _read_dataset(space: Workspace, dataset_id: int | None) -> Dataset:
    from gi2nnunet.manifest import read_dataset

    return read_dataset(space.raw, dataset_id=dataset_id)


def _find_hardware(space: Workspace, *, device: str, gpus: int | None) -> Hardware:
    from gi2nnunet.cli.show import print_notice
    from gi2nnunet.nnunet.hardware import find_hardware

    hardware = find_hardware(device=device, gpus=gpus, workspace=space, environ=os.environ)
    print_notice(f"Computing on: {hardware.name}")
    return hardware


def _plan(
    space: Workspace,
    dataset: Dataset,
    hardware: Hardware,
    *,
    preset: str,
    config: list[str] | None,
    batch_size: int | None,
    patch_size: list[str] | None,
    jobs: int | None,
) -> Plan:
    from gi2nnunet.cli.show import print_notice, show_progress
    from gi2nnunet.nnunet.plan import plan_dataset
    from gi2nnunet.nnunet.presets import CONFIGURATIONS, choose_preset

    chosen = choose_preset(preset, memory_gib=hardware.memory_gib)
    print_notice(f"Dataset: {dataset.folder}; preset: {chosen.name}")
    with show_progress() as report:
        return plan_dataset(
            dataset,
            workspace=space,
            environ=os.environ,
            preset=chosen,
            configurations=tuple(dict.fromkeys(config or CONFIGURATIONS)),
            batch_size=batch_size,
            patch_sizes=_parse_patch_sizes(patch_size or []),
            jobs=jobs,
            progress=report,
        )


def _parse_patch_sizes(texts: Sequence[str]) -> list[list[int]]:
    sizes = []
    for text in texts:
        parts = text.lower().split("x")
        if len(parts) not in (2, 3) or not all(p.isdecimal() and int(p) > 0 for p in parts):
            raise typer.BadParameter(
                f"found {text!r}; expected a size such as 192x192 or 48x128x128",
                param_hint="--patch-size",
            )
        sizes.append([int(part) for part in parts])
    return sizes


def _print_plan(made: Plan) -> None:
    from gi2nnunet.cli.show import print_notice, print_result, print_table

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


class _LiveTraining:
    """The live line of each running training; plain lines off a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live("", console=self._console, auto_refresh=False)
        self._lines: dict[tuple[str, int | str], str] = {}

    def __enter__(self) -> _LiveTraining:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def start(self, configuration: str, fold: int | str, log: Path) -> None:
        self._console.print(f"{configuration}, fold {fold}: log {log}", markup=False)

    def update(self, progress: TrainingProgress) -> None:
        from gi2nnunet.cli.show import format_seconds

        dice = ", ".join(
            f"{organ.replace('_', ' ')} {value:.2f}"
            for organ, value in progress.pseudo_dice.items()
        )
        line = (
            f"{progress.configuration}, fold {progress.fold}: epoch {progress.epoch} of "
            f"{progress.epochs}, loss {progress.train_loss:.3f}, pseudo Dice {dice}, "
            f"{format_seconds(progress.seconds_left)} left"
        )
        if not self._console.is_terminal:
            self._console.print(line, markup=False)
            return
        key = (progress.configuration, progress.fold)
        self._lines[key] = line
        if progress.epoch == progress.epochs:
            self._console.print(self._lines.pop(key), markup=False)
        self._live.update("\n".join(self._lines.values()), refresh=True)
