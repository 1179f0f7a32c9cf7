"""Commands for other machines: model files, Kaggle's bundle and its hidden test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JsonOption,
    TrustOption,
    WorkspaceOption,
    require_number,
    same_workspace,
)
from gi2nnunet.cli.output import (
    count,
    print_json,
    print_notice,
    print_result,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.prediction import (
    ConfigOption,
    FoldOption,
    MirroringOption,
    PresetOption,
    TrainerOption,
    TuningOption,
    choose_models,
)
from gi2nnunet.sharing.wheels import describe_image

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
    tuning: TuningOption = True,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict a hidden test set within a time budget; the CSV is valid at every moment.

    It is written with empty rows at once and replaced with every scan. Scans that cannot be read,
    and those that no time is left for, stay empty, with a warning.

    Example: gi2nnunet predict-hidden competition --model model.gi2nnunet --hours 8.5
    """
    with show_progress() as report:
        done = api.predict_hidden(
            source,
            model,
            out,
            hours=hours,
            mirroring=mirroring,
            tuning=tuning,
            engine=api.open_engine(workspace, device=device, gpus=gpus, trust=trust),
            progress=report,
            on_notice=print_notice,
        )
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
        print_notice("test/ holds no scan to predict: the submission has no masks.")
    else:
        predicted = len(done.outcome.used)
        print_notice(f"Predicted {predicted} of {count(done.scans, 'scan')}.")
        if done.tuned:
            print_notice(f"Masks decided as tuning chose: {done.tuned.path}")
    print_result(str(done.submission))


_NOTEBOOK = "The notebook"
_IMAGE = "The competition's machine"


def kaggle_bundle(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    user: Annotated[
        str,
        typer.Option(
            "--user",
            envvar="KAGGLE_USERNAME",
            help="Name of your Kaggle account.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str,
        typer.Option(
            "--name", help="Name of the Kaggle dataset; the notebook's has -notebook after it."
        ),
    ] = "gi2nnunet-bundle",
    image_python: Annotated[
        str,
        typer.Option(
            "--image-python",
            help="Its Python, as python --version tells it there.",
            rich_help_panel=_IMAGE,
        ),
    ] = "3.12",
    image_freeze: Annotated[
        Path | None,
        typer.Option(
            "--image-freeze",
            help="What pip freeze writes there; wheels that it suits stay out of the bundle. "
            "Without it, everything but torch goes in.",
            show_default=False,
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    hours: Annotated[
        float,
        typer.Option(
            "--hours",
            help="Its time budget; the competition gives nine.",
            min=0.0001,
            max=1000,
            callback=require_number,
            rich_help_panel=_NOTEBOOK,
        ),
    ] = 8.5,
    mirroring: MirroringOption = True,
    tuning: TuningOption = True,
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    half: Annotated[
        bool, typer.Option("--half", help="Weights in half precision: half the size.")
    ] = False,
    trust: TrustOption = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a former bundle.")] = False,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write models, wheels and a notebook for the competition's offline machine.

    One flat folder, with the metadata that Kaggle's own client expects, and the commands that
    upload it, run it and submit.

    Example: gi2nnunet kaggle-bundle bundle --user jane --image-freeze freeze.txt
    """
    image = describe_image(image_python, image_freeze)
    with show_progress() as report:
        made = api.make_kaggle_bundle(
            out,
            models=choose_models(
                config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
            ),
            image=image,
            engine=api.open_engine(workspace, trust=trust),
            half=half,
            replace=replace,
            progress=report,
            on_notice=print_notice,
            user=user,
            name=name,
            hours=hours,
            mirroring=mirroring,
            tuning=tuning,
        )
    print_warnings(made.model.warnings)
    if made.model.tuned:
        print_notice(f"With what tuning chose: {made.model.tuned.path}")
    if as_json:
        print_json(
            {
                "folder": str(made.folder),
                "bytes": made.size,
                "models": made.model.ensemble.describe(),
                "tuning": made.model.tuned is not None,
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
        "A bundle made anew goes up with kaggle datasets version -m WHY in place of create."
    )


def export_model(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    half: Annotated[
        bool, typer.Option("--half", help="Weights in half precision: half the size.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write trained models into one file without pickles, for others to import.

    Example: gi2nnunet export-model stomach-and-bowels.gi2nnunet --half
    """
    made = api.export_model(
        out,
        models=choose_models(
            config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
        ),
        engine=api.open_engine(workspace, trust=trust),
        half=half,
        on_notice=print_notice,
    )
    print_warnings(made.warnings)
    if made.tuned:
        print_notice(f"With what tuning chose: {made.tuned.path}")
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
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that export-model wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace models of the same names.")
    ] = False,
    trust: TrustOption = False,
    workspace: WorkspaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take models of export-model into the workspace; predict and nnU-Net find them there.

    Nothing of the file is run. Its checksums tell damage; they do not tell who made it.

    Example: gi2nnunet import-model stomach-and-bowels.gi2nnunet --workspace theirs
    """
    done = api.import_model(file, engine=api.open_engine(workspace, trust=trust), replace=replace)
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
        print_result(f"{folder} (was there, left alone)")
    for folder in done.written:
        print_result(str(folder))
    if done.tuning:
        print_result(f"{done.tuning} (what tuning chose)")
    print_notice(
        "Predict with: "
        + same_workspace(f"gi2nnunet predict SOURCE --id {done.bundle.dataset_id}", workspace)
    )
