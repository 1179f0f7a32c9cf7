"""Command that estimates trainings before they start: estimate."""

from __future__ import annotations

import shlex
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
    spell_options,
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
from gi2nnunet.cli.training import (
    ConfigOption,
    EpochsOption,
    FoldOption,
    IterationsOption,
    PresetOption,
    TrainerOption,
)
from gi2nnunet.nnunet.presets import (
    STOCK_TRAINER,
    PlanOptions,
    TrainingSettings,
    choose_configurations,
)

if TYPE_CHECKING:
    from gi2nnunet.training.estimate import Estimate

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
