"""Commands to pass models on: model files, Kaggle's bundle and its hidden test set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    JsonOption,
    TrustOption,
    WorkspaceOption,
    WorkspaceOptions,
    call_api,
    require_number,
    takes_groups,
)
from gi2nnunet.cli.output import (
    print_json,
    print_notice,
    print_result,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.prediction import MirroringOption, ModelOptions, TuningOption
from gi2nnunet.core.errors import count

if TYPE_CHECKING:
    from gi2nnunet.sharing.exchange import ExportedModel

_NOTEBOOK = "The notebook"
_IMAGE = "The competition's machine"
_LEAST_HOURS, _MOST_HOURS = 0.0001, 1000

HalfOption = Annotated[
    bool, typer.Option("--half", help="Store weights in half precision, at half the size.")
]


def predict_hidden(
    context: typer.Context,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A source: the competition's folder; its test/ is used."
        ),
    ],
    model: Annotated[Path, typer.Option(help="A model file: one that export-model wrote.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="What to write: the submission.", dir_okay=False)
    ] = Path("submission.csv"),
    hours: Annotated[
        float,
        typer.Option(
            help="Time budget. If it gets short, mirroring is dropped first, then folds, then "
            "scans.",
            min=_LEAST_HOURS,
            max=_MOST_HOURS,
            callback=require_number,
        ),
    ] = 8.5,
    mirroring: MirroringOption = True,
    tuning: TuningOption = True,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict a hidden test set within a time budget.

    The submission is written with empty rows first and is replaced after every scan, so it is
    valid all the time. Scans that cannot be read, or that come too late, keep empty rows, with a
    warning.

    Example: gi2nnunet predict-hidden competition --model model.gi2nnunet --hours 8.5
    """
    with show_progress() as report:
        done = call_api(context, api.predict_hidden, progress=report)
    print_warnings(done.warnings)
    if as_json:
        print_json(done.to_json())
        return
    if done.outcome is None:
        print_notice("test/ holds no scan, so the submission has no masks.")
    else:
        print_notice(f"Predicted {done.predicted} of {count(done.scans, 'scan')}.")
        if done.tuned:
            print_notice(f"The tuned settings were applied: {done.tuned.path}")
    print_result(str(done.submission))


@takes_groups
def kaggle_bundle(
    context: typer.Context,
    models: ModelOptions,
    where: WorkspaceOptions,
    user: Annotated[
        str, typer.Option(envvar="KAGGLE_USERNAME", help="Name of your Kaggle account.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write: a folder.")] = Path(
        "kaggle-bundle"
    ),
    name: Annotated[
        str,
        typer.Option(
            help="Name of the dataset that is made: of Kaggle's. The notebook is called the same, "
            "with -notebook added."
        ),
    ] = "gi2nnunet-bundle",
    image_python: Annotated[
        str,
        typer.Option(help="Its Python version, as python --version shows.", rich_help_panel=_IMAGE),
    ] = "3.12",
    image_freeze: Annotated[
        Path | None,
        typer.Option(
            help="Output of pip freeze on the Kaggle image. Packages that it already has are left "
            "out. Without this file, all packages but torch are included.",
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    hours: Annotated[
        float,
        typer.Option(
            help="Time budget. The competition allows nine hours.",
            min=_LEAST_HOURS,
            max=_MOST_HOURS,
            callback=require_number,
            rich_help_panel=_NOTEBOOK,
        ),
    ] = 8.5,
    mirroring: MirroringOption = True,
    tuning: TuningOption = True,
    half: HalfOption = False,
    trust: TrustOption = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what is there: an earlier bundle.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Pack models, wheels and a notebook for a submission on Kaggle.

    They are written to one folder, with the metadata that Kaggle's own client expects. The
    commands that upload it, run it and submit are printed.

    Example: gi2nnunet kaggle-bundle --user jane --image-freeze freeze.txt
    """
    with show_progress() as report:
        made = call_api(context, api.kaggle_bundle, progress=report)
    _print_exported(made.model)
    if as_json:
        print_json(made.to_json())
        return
    print_result(
        f"{made.folder}: {count(len(made.wheels), 'wheel')}, the models and the notebook, "
        f"{made.size / 2**20:.0f} MiB"
    )
    print_notice("With Kaggle's client (pip install kaggle) upload it, run it, and submit:")
    for command in made.commands:
        print_result(f"  {command}")
    print_notice(
        "To upload a new version, use kaggle datasets version -m MESSAGE instead of create."
    )


def _print_exported(done: ExportedModel) -> None:
    print_warnings(done.warnings)
    if done.tuned:
        print_notice(f"The tuned settings are included: {done.tuned.path}")


@takes_groups
def export_model(
    context: typer.Context,
    models: ModelOptions,
    where: WorkspaceOptions,
    out: Annotated[Path, typer.Option("--out", "-o", help="What to write: a model file.")] = Path(
        "model.gi2nnunet"
    ),
    half: HalfOption = False,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write trained models into one file that runs no code when it is read.

    Example: gi2nnunet export-model --out stomach-and-bowels.gi2nnunet --half
    """
    made = call_api(context, api.export_model)
    _print_exported(made)
    if as_json:
        print_json(made.to_json())
        return
    print_result(f"{made.path} ({made.size / 2**20:.1f} MiB)")


def import_model(
    context: typer.Context,
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A model file: one that export-model or nnUNetv2_export_model_to_zip wrote.",
        ),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what is there: models of the same names.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add the models of an exported file to the workspace.

    No code from the file is run. Checksums detect damaged files; they do not prove who made the
    file.

    Example: gi2nnunet import-model stomach-and-bowels.gi2nnunet --workspace theirs
    """
    done = call_api(context, api.import_model)
    if as_json:
        print_json(done.to_json())
        return
    for folder in done.kept:
        print_result(f"{folder} (existed before, not changed)")
    for folder in done.written:
        print_result(str(folder))
    if done.tuning:
        print_result(f"{done.tuning} (tuned settings)")
    print_notice(f"Predict with: gi2nnunet predict SOURCE --id {done.bundle.dataset_id}")
