"""Commands for the competition's own offline machine: kaggle-bundle, predict-hidden."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    TrustOption,
    WorkspaceOption,
    open_workspace_of,
    require_number,
)
from gi2nnunet.cli.prediction import MirroringOption

HoursOption = Annotated[
    float,
    typer.Option(
        "--hours",
        help="Time budget; mirroring is given up first, then folds, then scans.",
        min=0.0001,
        max=1000,
        callback=require_number,
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command("predict-hidden")(predict_hidden)


def predict_hidden(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="The competition's folder; its test/ is used.")
    ],
    model: Annotated[
        Path, typer.Option("--model", help="A file that export-model wrote.", show_default=False)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The submission to write.", dir_okay=False)
    ] = Path("submission.csv"),
    hours: HoursOption = 8.5,
    mirroring: MirroringOption = True,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
) -> None:
    """Predict a hidden test set within a time budget; the CSV is valid at every moment.

    It is written with empty rows at once and replaced with every scan. Scans that cannot be read,
    and those that no time is left for, stay empty, with a warning.

    Example: gi2nnunet predict-hidden competition --model model.gi2nnunet --hours 8.5
    """
    from gi2nnunet.cli.show import count, print_notice, print_result, print_warnings, show_progress
    from gi2nnunet.offline import predict_hidden

    with show_progress() as report:
        done = predict_hidden(
            source,
            model,
            out,
            hours=hours,
            workspace=open_workspace_of(workspace),
            environ=os.environ,
            device=device,
            gpus=gpus,
            mirroring=mirroring,
            trust=trust,
            on_change=print_notice,
            on_scan=lambda n, total: report(n, total, "predicting scans"),
        )
    print_warnings(done.warnings)
    if done.outcome is None:
        print_notice("test/ holds no scan to predict: the submission has no masks.")
    else:
        predicted = len(done.outcome.used)
        print_notice(f"Predicted {predicted} of {count(done.scans, 'scan')}.")
    print_result(str(done.submission))
