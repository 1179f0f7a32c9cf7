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
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.nnunet.engine import Engine
    from gi2nnunet.nnunet.models import Ensemble
    from gi2nnunet.sharing.exchange import ExportedModel

_NOTEBOOK = "The notebook"
_IMAGE = "The competition's machine"
_LEAST_HOURS, _MOST_HOURS = 0.0001, 1000

HalfOption = Annotated[
    bool, typer.Option("--half", help="Store weights in half precision, at half the size.")
]


def predict_hidden(
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
    from gi2nnunet.sharing.hidden import predict_hidden as predict

    with show_progress() as report:
        done = predict(
            source, model, out, hours=hours, mirroring=mirroring, tuning=tuning,
            engine=api.open_engine(workspace, device=device, gpus=gpus, trust=trust),
            progress=report, on_notice=print_notice,
        )  # fmt: skip
    print_warnings(done.warnings)
    if as_json:
        print_json(
            {
                "submission": done.submission,
                "scans": done.scans,
                "predicted": len(done.outcome.used) if done.outcome else 0,
                "tuning": done.tuned.path if done.tuned else None,
                "warnings": done.warnings,
            }
        )
        return
    if done.outcome is None:
        print_notice("test/ holds no scan, so the submission has no masks.")
    else:
        predicted = len(done.outcome.used)
        print_notice(f"Predicted {predicted} of {count(done.scans, 'scan')}.")
        if done.tuned:
            print_notice(f"The tuned settings were applied: {done.tuned.path}")
    print_result(str(done.submission))


@takes_groups
def kaggle_bundle(
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
    from gi2nnunet.sharing.kaggle_bundle import Notebook, make_bundle
    from gi2nnunet.sharing.wheels import describe_image

    notebook = Notebook(user=user, name=name, hours=hours, mirroring=mirroring, tuning=tuning)
    image = describe_image(image_python, image_freeze)
    engine = api.open_engine(where.workspace, trust=trust)
    dataset, ensemble = _select_models(models, engine, where.dataset_id)
    with show_progress() as report:
        made = make_bundle(
            ensemble, out, notebook=notebook, image=image, dataset=dataset, engine=engine,
            half=half, replace=replace, progress=report,
        )  # fmt: skip
    _print_exported(made.model)
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "bytes": made.size,
                "models": made.model.ensemble.describe(),
                "tuning": made.model.tuned.path if made.model.tuned else None,
                "wheels": list(made.wheels),
                "commands": list(made.commands),
            }
        )
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


def _select_models(
    models: ModelOptions, engine: Engine, dataset_id: int | None
) -> tuple[Dataset | None, Ensemble]:
    from gi2nnunet.nnunet.models import warn_of_unrecorded
    from gi2nnunet.prediction.choose import select_models

    dataset, ensemble = select_models(engine.workspace, models.choose(dataset_id))
    print_notice(f"Models: {ensemble.describe()}")
    if warning := warn_of_unrecorded(ensemble):
        print_notice(warning)
    return dataset, ensemble


def _print_exported(done: ExportedModel) -> None:
    print_warnings(done.warnings)
    if done.tuned:
        print_notice(f"The tuned settings are included: {done.tuned.path}")


@takes_groups
def export_model(
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
    from gi2nnunet.sharing import exchange

    engine = api.open_engine(where.workspace, trust=trust)
    dataset, ensemble = _select_models(models, engine, where.dataset_id)
    made = exchange.export_model(ensemble, out, dataset=dataset, engine=engine, half=half)
    _print_exported(made)
    if as_json:
        print_json(
            {
                "file": made.path,
                "bytes": made.size,
                "models": made.ensemble.describe(),
                "tuning": made.tuned.path if made.tuned else None,
            }
        )
        return
    print_result(f"{made.path} ({made.size / 2**20:.1f} MiB)")


def import_model(
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
    from gi2nnunet.sharing import exchange

    done = exchange.import_model(
        model, engine=api.open_engine(workspace, trust=trust), replace=replace
    )
    if as_json:
        print_json(
            {
                "id": done.bundle.dataset_id,
                "written": done.written,
                "left_alone": done.kept,
                "tuning": done.tuning,
            }
        )
        return
    for folder in done.kept:
        print_result(f"{folder} (existed before, not changed)")
    for folder in done.written:
        print_result(str(folder))
    if done.tuning:
        print_result(f"{done.tuning} (tuned settings)")
    print_notice(f"Predict with: gi2nnunet predict SOURCE --id {done.bundle.dataset_id}")
