"""Commands that only look: verify, doctor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    WorkspaceOption,
    open_workspace_of,
)
from gi2nnunet.cli.training import ConfigOption, FoldOption, PresetOption

if TYPE_CHECKING:
    from gi2nnunet.nnunet.start import Diagnosis
    from gi2nnunet.verify import Verification

_NOT_WELL = 3  # as bad input


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("verify")(verify)
    app.command("doctor")(doctor)


def verify(
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Names, sizes, splits and marks; read no voxels.")
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a workspace: what is missing, altered, stale, leaking, half-made or left behind.

    Changes nothing. Exit code 0 where all is well, 3 where something is not.

    Example: gi2nnunet verify --quick
    """
    from gi2nnunet.cli.show import print_json, print_notice, show_progress
    from gi2nnunet.verify import verify_workspace

    space = open_workspace_of(workspace)
    print_notice(f"Workspace: {space.raw.parent} ({space.chosen_by})")
    with show_progress() as report:
        result = verify_workspace(
            space, dataset_id=dataset_id, quick=quick, jobs=jobs, progress=report
        )
    if as_json:
        print_json(result.to_json())
    else:
        _print_verification(result)
    if not result.sound:
        raise typer.Exit(_NOT_WELL)


def _print_verification(result: Verification) -> None:
    from gi2nnunet.cli.show import count, print_result, print_warnings

    print_warnings(result.notes)
    for finding in result.findings:
        print_result(str(finding))
    looked = "names and sizes" if result.quick else "names, content and geometry"
    outcome = count(len(result.findings), "finding") if result.findings else "all is well"
    print_result(
        f"{', '.join(result.datasets)}: {count(result.checks, 'check')} ({looked}): {outcome}"
    )


def doctor(
    preset: PresetOption = "auto",
    config: ConfigOption = None,
    fold: FoldOption = None,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the installation and, where there is a dataset, whether this machine can train on it.

    Versions, GPU, cores, memory, shared memory, disk, rights: each with its number and what is
    needed. Exit code 0 where nothing would stop a training, 3 where something would.

    Example: gi2nnunet doctor --preset resenc-l --fold cv
    """
    from gi2nnunet.cli.show import print_json, print_notice
    from gi2nnunet.manifest import read_dataset
    from gi2nnunet.nnunet.presets import CONFIGURATIONS
    from gi2nnunet.nnunet.start import diagnose
    from gi2nnunet.nnunet.train import expand_folds

    space = open_workspace_of(workspace)
    dataset = None
    if dataset_id is not None or any(space.raw.glob("Dataset[0-9][0-9][0-9]_*")):
        dataset = read_dataset(space.raw, dataset_id=dataset_id)
        print_notice(f"Dataset: {dataset.folder}")
    else:
        print_notice(f"{space.raw} holds no dataset: checking the installation alone.")
    result = diagnose(
        dataset,
        workspace=space,
        environ=os.environ,
        device=device,
        gpus=gpus,
        preset=preset,
        configurations=tuple(dict.fromkeys(config or CONFIGURATIONS)),
        folds=expand_folds(fold or ["all"], n_folds=len(dataset.splits)) if dataset else (),
        jobs=jobs,
    )
    if as_json:
        print_json(result.to_json())
    else:
        _print_diagnosis(result)
    if not result.fit:
        raise typer.Exit(_NOT_WELL)


def _print_diagnosis(result: Diagnosis) -> None:
    from gi2nnunet.cli.show import print_result, print_table

    print_table(
        "Installation" if result.dataset is None else f"Installation and {result.dataset}",
        ("check", "", "found", "expected"),
        [(v.name, v.level, v.found, v.expected) for v in result.verdicts],
        text_columns=4,
    )
    for verdict in result.verdicts:
        if verdict.remedy:
            print_result(f"{verdict.level}: {verdict.name}: {verdict.remedy}")
    print_result("Nothing here would stop a run." if result.fit else "This would stop a run.")
