"""The command that tells what trainings will cost: estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    DeviceOption,
    IdOption,
    JobsOption,
    JsonOption,
    WorkspaceOption,
    same_workspace,
)
from gi2nnunet.cli.output import (
    count,
    format_seconds,
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.training import ConfigOption, FoldOption, PresetOption
from gi2nnunet.nnunet.presets import (
    STOCK_TRAINER,
    PlanOptions,
    TrainingSettings,
    choose_configurations,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gi2nnunet.training.estimate import Check, Estimate

_MOST_GPUS = 1024


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("estimate")(estimate)


def estimate(
    fold: FoldOption = None,
    config: ConfigOption = None,
    preset: PresetOption = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(help="By default the preset's: 1000; tiny: 40.", min=1, show_default=False),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            help="Batches an epoch; by default the preset's: 250; tiny: 50.", min=1,
            show_default=False,
        ),
    ] = None,
    trainer: Annotated[
        str | None,
        typer.Option(
            help="One of nnU-Net's trainer classes; by default nnUNetTrainer.", show_default=False
        ),
    ] = None,
    nnunet_validation: Annotated[
        bool,
        typer.Option("--nnunet-validation", help="With nnU-Net's own final validation."),
    ] = False,
    gpus: Annotated[
        int | None,
        typer.Option(
            help="How many GPUs to reckon with, here or not; by default one.",
            min=1, max=_MOST_GPUS, show_default=False,
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            help="A GPU that is not here, from a table, such as A100, \"RTX 4090\", T4.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Train a few batches of each configuration here, time them, keep nothing.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Tell what trainings will cost before they start: hours, GPU-hours, disk, memory.

    Seconds a batch are from epochs that were trained here, else from --measure, else from a table
    of cards; which of these is told, and how well it would have predicted what was trained here.

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
            nnunet_validation=nnunet_validation,
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
        _print_estimate(result, workspace)


def _print_estimate(result: Estimate, workspace: Path | None) -> None:
    print_table(
        f"{result.preset} on {result.device}" + (f", {result.cards} at a time"
                                                 if result.cards > 1 else ""),
        ("configuration", "fold", "state", "epochs", "an epoch", "all of it", "left"),
        [
            (
                entry.configuration, entry.fold, entry.state,
                f"{entry.epochs_done} of {entry.epochs}",
                _duration(entry.epoch_seconds, seconds_until=600),
                _duration(entry.seconds), _duration(entry.seconds_left),
            )
            for entry in result.trainings
        ],
        text_columns=3,
    )  # fmt: skip
    print_table(
        "Where a batch's seconds are from",
        ("configuration", "source", "seconds a batch"),
        [
            (name, pace.described, f"{pace.train_seconds:.3g}")
            for name, pace in result.paces.items()
        ],
        text_columns=2,
    )
    print_table("Totals", ("", "left"), _list_totals(result))
    _print_checks(result.checks)
    print_result(f"Plan: {result.plan}")
    print_warnings(result.notes)
    if result.wall_seconds_longest_first < 0.99 * result.wall_seconds_left:
        print_notice(
            f"The longest first would take {_duration(result.wall_seconds_longest_first)} in all: "
            "give train the slowest --config first."
        )
    if any(entry.seconds_left for entry in result.trainings):
        print_notice("Next: " + same_workspace("gi2nnunet train", workspace))


def _list_totals(result: Estimate) -> list[tuple[str, str]]:
    unit = "GPU-hours" if result.on_cards else "hours of computing"
    hours = result.seconds_left / 3600
    rows = [
        ("planning and preprocessing", _duration(result.preparing_seconds)),
        (f"trainings, on the clock of {count(result.cards, 'device')}",
         _duration(result.wall_seconds_left)),
        (f"trainings, {unit}", f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"),
        ("prediction out of fold, on one (reckoned from passes)",
         _duration(result.predicting_seconds["out_of_fold"])),
        ("prediction of held-out and test scans, on one (the same)",
         _duration(result.predicting_seconds["held_out"])),
        *((f"disk: {name}", _size(size)) for name, size in result.disk_bytes.items()),
        *((f"memory to {name}", _size(size)) for name, size in result.memory_bytes.items()),
    ]  # fmt: skip
    if result.gpu_memory_gib is not None:
        rows.append(("memory of each GPU", f"{result.gpu_memory_gib:.0f} GiB"))
    return rows


def _print_checks(checks: tuple[Check, ...]) -> None:
    if not checks:
        print_result("Nothing was trained here that these figures could be held to.")
        return
    print_table(
        "How well it predicts the trainings here, seconds an epoch",
        ("configuration", "fold", "predicted from", "epochs", "was", "predicted", "error"),
        [
            (
                check.configuration, check.fold, check.described,
                check.epochs, f"{check.actual_seconds:.3g}", f"{check.predicted_seconds:.3g}",
                f"{check.error:+.0%}",
            )
            for check in checks
        ],
        text_columns=3,
    )  # fmt: skip


def _duration(seconds: float, *, seconds_until: float = 90) -> str:
    if not seconds:
        return "-"
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < seconds_until:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    return f"{hours / 24:.1f} days" if hours >= 72 else format_seconds(seconds)


def _size(amount: int) -> str:
    gib = amount / 2**30
    return f"{gib:.1f} GiB" if gib >= 1 else f"{amount / 2**20:.0f} MiB"
