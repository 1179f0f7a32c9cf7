"""The command that writes the page: report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gi2nnunet.cli.options import IdOption, JsonOption, WorkspaceOption, open_workspace_of


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    app.command("report")(report)


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
    from gi2nnunet.cli.show import print_json, print_notice, print_result, show_progress
    from gi2nnunet.report.gather import gather_report
    from gi2nnunet.report.page import write_report

    space = open_workspace_of(workspace)
    with show_progress() as progress:
        content = gather_report(
            space,
            dataset_id=dataset_id,
            prediction=prediction,
            scans=scans or (),
            show_all=show_all,
            progress=progress,
        )
    path = out or space.predictions.parent / "report.html"
    size = write_report(content, path)
    for line in content.missing:
        print_notice(line)
    if as_json:
        print_json(
            {
                "report": str(path),
                "bytes": size,
                "scans": [scan.scan_id for scan in content.shown],
                "missing": list(content.missing),
            }
        )
    else:
        print_result(f"{path} ({size / 1e6:.1f} MB, slices of {len(content.shown)} scans)")
