"""Commands that check and show a workspace: verify, doctor, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    JobsOption,
    JsonOption,
    WorkspaceOptions,
    call_api,
    takes_groups,
)
from gi2nnunet.cli.output import (
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.training import TrainingOptions
from gi2nnunet.core.errors import count

if TYPE_CHECKING:
    from gi2nnunet.training.doctor import Diagnosis
    from gi2nnunet.upkeep.verify import Verification

_NOT_WELL = 3  # like an input error


@takes_groups
def verify(
    context: typer.Context,
    where: WorkspaceOptions,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Check names, sizes, splits and marks, but read no voxels."),
    ] = False,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the workspace's files against what was recorded about them.

    It looks for missing, altered, outdated, unfinished and unneeded files, and for patients in
    more than one part. It changes nothing. The exit code is 0 if all is well, otherwise 3.

    Example: gi2nnunet verify --quick
    """
    with show_progress() as report:
        result = call_api(context, api.verify, progress=report)
    if as_json:
        print_json(result.to_json())
    else:
        _print_verification(result)
    if not result.sound:
        raise typer.Exit(_NOT_WELL)


def _print_verification(result: Verification) -> None:
    print_warnings(result.notes)
    for finding in result.findings:
        print_result(str(finding))
    looked = "names and sizes" if result.quick else "names, content and geometry"
    outcome = count(len(result.findings), "finding") if result.findings else "all is well"
    print_result(
        f"{', '.join(result.datasets)}: {count(result.checks, 'check')} ({looked}): {outcome}"
    )


@takes_groups
def doctor(
    context: typer.Context,
    training: TrainingOptions,
    where: WorkspaceOptions,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether this machine can do a training.

    It checks versions, GPU, cores, memory, shared memory, disk space and permissions, and shows
    what was found and what is needed. Without a dataset, it checks the installation only. The exit
    code is 0 if a training can start, otherwise 3.

    Example: gi2nnunet doctor --preset resenc-l --fold cv
    """
    result = call_api(context, api.doctor)
    if as_json:
        print_json(result.to_json())
    else:
        _print_diagnosis(result)
    if not result.fit:
        raise typer.Exit(_NOT_WELL)


def _print_diagnosis(result: Diagnosis) -> None:
    print_table(
        "Installation" if result.dataset is None else f"Installation and {result.dataset}",
        ("check", "", "found", "expected"),
        [(v.name, v.level, v.found, v.expected) for v in result.verdicts],
        text_columns=4,
    )
    for verdict in result.verdicts:
        if verdict.remedy:
            print_result(f"{verdict.level.capitalize()}: {verdict.name}: {verdict.remedy}")
    print_result(
        "Ready to train." if result.fit else "Training cannot start; see the errors above."
    )


@takes_groups
def report(
    context: typer.Context,
    where: WorkspaceOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="What to write: the page; by default report.html in the workspace.",
            dir_okay=False,
        ),
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(
            "--prediction", "-p", help="Folder of predict or predict-and-score, or its name in the "
            "workspace; by default the newest there.", file_okay=False,
        ),
    ] = None,
    scan: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Scan to show slices of; may be repeated. By default some of the worst, middle "
            "and best scans.",
        ),
    ] = None,
    show_all: Annotated[
        bool,
        typer.Option("--all", help="Show all: slices of every predicted scan, on a large page."),
    ] = False,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write one HTML page: data, folds, curves, scores and slices.

    It works without a network. The page also lists what is still missing.

    Example: gi2nnunet report --out report.html --scan case12_day22
    """
    with show_progress() as progress:
        made = call_api(context, api.report, progress=progress)
    shown, missing = made.report.shown, made.report.missing
    for line in missing:
        print_notice(line)
    if made.report.prediction and made.report.prediction.note:
        print_notice(made.report.prediction.note)
    if as_json:
        print_json(made.to_json())
    else:
        shown_scans = count(len(shown), "scan")
        print_result(f"{made.path} ({made.size / 1e6:.1f} MB, slices of {shown_scans})")
