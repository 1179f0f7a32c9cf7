"""Commands that only look: verify, doctor, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    WorkspaceOption,
)
from gi2nnunet.cli.output import (
    count,
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.training import ConfigOption, FoldOption, PresetOption
from gi2nnunet.nnunet.presets import PlanOptions, choose_configurations

if TYPE_CHECKING:
    from gi2nnunet.training.doctor import Diagnosis
    from gi2nnunet.upkeep.verify import Verification

_NOT_WELL = 3  # as bad input


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
    with show_progress() as report:
        result = api.verify(
            workspace=workspace,
            dataset_id=dataset_id,
            quick=quick,
            jobs=jobs,
            progress=report,
            on_notice=print_notice,
        )
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
    result = api.diagnose(
        PlanOptions(preset=preset, configurations=choose_configurations(config)),
        fold=fold,
        engine=api.open_engine(workspace, device=device, gpus=gpus, jobs=jobs),
        dataset_id=dataset_id,
        on_notice=print_notice,
    )
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
            print_result(f"{verdict.level}: {verdict.name}: {verdict.remedy}")
    print_result("Nothing here would stop a run." if result.fit else "This would stop a run.")


def report(
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The page; by default report.html in the workspace.",
            dir_okay=False, show_default=False,
        ),
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(
            "--prediction", "-p", help="Folder of predict or predict-and-score; by default the "
            "workspace's newest.", file_okay=False, show_default=False,
        ),
    ] = None,
    scans: Annotated[
        list[str] | None,
        typer.Option(
            "--scans", help="Scan to show slices of; may be repeated. By default some of the "
            "worst, middle and best.", show_default=False,
        ),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="Show slices of every predicted scan: a large page.")
    ] = False,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    """Write one HTML page: data, folds, training curves, scores, and slices with contours.

    It needs no network. What is not trained or predicted yet is said on it.

    Example: gi2nnunet report --out report.html --scans case12_day22
    """
    with show_progress() as progress:
        made = api.make_report(
            out,
            prediction=prediction,
            scans=scans,
            show_all=show_all,
            workspace=workspace,
            dataset_id=dataset_id,
            progress=progress,
        )
    shown, missing = made.report.shown, made.report.missing
    for line in missing:
        print_notice(line)
    if made.report.prediction and made.report.prediction.note:
        print_notice(made.report.prediction.note)
    if as_json:
        print_json(
            {
                "report": str(made.path),
                "bytes": made.size,
                "scans": [scan.scan_id for scan in shown],
                "missing": list(missing),
            }
        )
    else:
        print_result(f"{made.path} ({made.size / 1e6:.1f} MB, slices of {len(shown)} scans)")
