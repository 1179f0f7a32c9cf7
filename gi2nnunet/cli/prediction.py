"""Commands for prediction: predict, predict-and-score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    FOLD_HELP,
    EngineOptions,
    ImageOptions,
    JsonOption,
    MetricOption,
    RoiNameOption,
    SourceOptions,
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
from gi2nnunet.cli.scores import print_score
from gi2nnunet.cli.slurm.commands import (
    DryRunOption,
    OnOption,
    PartOption,
    PartsOption,
    ProfileOption,
    SlurmOption,
    parse_part,
    require_slurm,
    submit_prediction,
)
from gi2nnunet.core.errors import count

if TYPE_CHECKING:
    from gi2nnunet.nnunet.postprocess import Tuned
    from gi2nnunet.prediction.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class TrainedOptions:
    """Which trained models: those of a preset and a trainer."""

    PANEL: ClassVar = "Which models: by default the newest complete set"

    preset: Annotated[
        str | None,
        typer.Option(
            help="Which network: the preset that the models were trained with, or nnU-Net's name "
            "of the plans."
        ),
    ] = None
    trainer: Annotated[
        str | None,
        typer.Option(help="nnU-Net's trainer class. By default that of the newest models."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ConfiguredOptions(TrainedOptions):
    """Which trained models, also by configuration."""

    config: Annotated[
        list[str] | None,
        typer.Option("--config", "-c", help="nnU-Net configuration; may be repeated."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ConfiguredOptions):
    """Which trained models, also by configuration and fold."""

    fold: Annotated[
        list[str] | None,
        typer.Option(
            "--fold",
            "-f",
            help=FOLD_HELP,
        ),
    ] = None


MirroringOption = Annotated[
    bool,
    typer.Option(
        "--mirroring/--no-mirroring",
        help="Average the predictions of mirrored images, as nnU-Net does.",
    ),
]
TuningOption = Annotated[
    bool,
    typer.Option(
        "--tuning/--no-tuning",
        help="Apply the settings that gi2nnunet tune saved for these models, if any.",
    ),
]


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How a network is applied to an image."""

    mirroring: MirroringOption = True
    step_size: Annotated[
        float,
        typer.Option(
            help="Step of the sliding window, as a fraction of the patch.",
            min=0.1,
            max=1,
            callback=require_number,
        ),
    ] = 0.5


@dataclass(frozen=True, kw_only=True)
class ResultOptions:
    """What is written, and where."""

    nifti: Annotated[
        bool | None,
        typer.Option(
            "--nifti/--no-nifti",
            help="Also write label volumes: one bit-coded, and one for each organ. By default if "
            "the source is NIfTI or DICOM.",
            show_default=False,
        ),
    ] = None
    slicer: Annotated[
        bool,
        typer.Option(
            "--slicer",
            help="Also write a segmentation (.seg.nrrd) of each scan for 3D Slicer, with names, "
            "colours and overlaps. Needs pynrrd: pip install 'gi2nnunet[slicer]'",
        ),
    ] = False
    save_probabilities: Annotated[
        bool,
        typer.Option(
            "--save-probabilities",
            help="Also write each configuration's probabilities, in eight bits (a few MB per "
            "scan).",
        ),
    ] = False
    rtstruct: Annotated[
        bool,
        typer.Option(
            "--rtstruct",
            help="Also write an RTSTRUCT for each scan, on the DICOM series that was given.",
        ),
    ] = False
    seg: Annotated[
        bool,
        typer.Option(
            "--seg", help="Also write a DICOM SEG for each scan, on the series that was given."
        ),
    ] = False
    roi_name: RoiNameOption = None
    tuning: TuningOption = True
    again: Annotated[
        bool,
        typer.Option(
            "--again",
            help="Predict again, also if the folder holds the same prediction, finished.",
        ),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write: a folder of results; by default one in the workspace.",
            file_okay=False,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Whether it runs here or as jobs of a cluster."""

    on: OnOption = "here"
    profile: ProfileOption = None
    slurm: SlurmOption = None
    dry_run: DryRunOption = False
    parts: PartsOption = None


SourceArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="SOURCE",
        help="A source: the competition's (its test/ if there is one, otherwise its train/), NIfTI "
        "files or DICOM series. By default the workspace's held-out scans.",
    ),
]


@takes_groups
def predict_and_score(
    context: typer.Context,
    models: ModelOptions,
    window: WindowOptions,
    result: ResultOptions,
    how: EngineOptions,
    cluster: JobOptions,
    opening: SourceOptions,
    source: SourceArgument = None,
    metric: MetricOption = "per-class",
    as_json: JsonOption = False,
) -> None:
    """Predict, write submission.csv, and score it if the truth is known.

    Without a source, the held-out scans are predicted. If there are none, every training scan is
    predicted by the model that did not see its patient; without such models, the training scans
    are predicted and the score is marked in-sample.

    Example: gi2nnunet predict-and-score --preset tiny
    """
    _predict(context, api.ScoredPrediction)


@takes_groups
def predict(
    context: typer.Context,
    models: ModelOptions,
    window: WindowOptions,
    result: ResultOptions,
    how: EngineOptions,
    cluster: JobOptions,
    opening: ImageOptions,
    source: SourceArgument = None,
    part: PartOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict a source and write submission.csv, without scoring it.

    Example: gi2nnunet predict uw-madison-gi-tract-image-segmentation.zip --out results --nifti
    """
    _predict(context, api.Prediction)


def _predict(context: typer.Context, kind: type[api.Prediction]) -> None:
    """Predict, as jobs on a cluster, or a part, or all of it here."""
    given = context.params
    part = parse_part(given.get("part"))
    if given["on"] == "slurm" and (part or given["as_json"]):
        raise typer.BadParameter("--part and --json cannot be combined with --on slurm")
    require_slurm(context)
    asked = call_api(context, kind)
    engine = asked.open_engine()
    work = asked.choose_work(engine)
    if given["on"] == "slurm":
        from gi2nnunet.prediction.evaluate import check_structures

        check_structures(work, asked.make_options(work))
        submit_prediction(context, work, source=given["source"], space=engine.workspace)
        return
    with show_progress() as report:
        asked = replace(asked, progress=report)
        if part is None:
            made = api.evaluate_work(asked, work, engine)
        else:
            scans = api.predict_part(asked, work, engine, part=part)
    if part is None:
        print_warnings(made.warnings)
        _print_evaluation(made, as_json=given["as_json"], scored="metric" in given)
        return
    print_result(f"part {part[0]}/{part[1]}: {count(scans, 'scan')} predicted, kept in {work.out}")
    print_notice("When all parts are done, run the same command without --part to combine them.")


def _print_evaluation(done: Evaluation, *, as_json: bool, scored: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    if done.score is not None:
        print_score(done.score, standing=done.standing)
    elif scored:
        print_notice("The truth of these scans is not known, so they are not scored.")
    print_notice(_describe_tuning(done.tuned))
    print_notice(f"{done.seconds_per_scan:.1f} s per scan")
    for file in done.files:
        print_result(str(file))


def _describe_tuning(tuned: Tuned | None) -> str:
    if tuned is None:
        return (
            "Tuning: none (if every fold is trained, gi2nnunet tune chooses settings from "
            "out-of-fold predictions)"
        )
    gain = tuned.content["gains"].get("all", {})
    if not tuned.decision.organs:
        return f"Tuning: no setting improved the score, so none is used ({tuned.path})"
    organs = ", ".join(organ.replace("_", " ") for organ in tuned.decision.organs)
    return (
        f"Tuning: {organs}; cross-fitted gain {gain.get('gain') or 0:+.4f} on the training scans "
        f"({tuned.path})"
    )
