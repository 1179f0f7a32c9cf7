"""Commands that predict: predict, predict-and-score."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    AllowMissingOption,
    DeviceOption,
    GpusOption,
    IdOption,
    JsonOption,
    MetricOption,
    SourceLabelsOption,
    ThreadsOption,
    TrustOption,
    WorkspaceOption,
    require_number,
)
from gi2nnunet.cli.output import (
    count,
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
    ProfileOption,
    ShardsOption,
    SlurmOption,
    parse_part,
    require_slurm,
    submit_prediction,
)
from gi2nnunet.core.command import spell_call
from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
from gi2nnunet.nnunet.models import ModelChoice
from gi2nnunet.scoring.conventions import Metric

if TYPE_CHECKING:
    from gi2nnunet.nnunet.postprocess import Tuned
    from gi2nnunet.prediction.evaluate import Evaluation

_MODELS = "Which models: by default the newest complete set"

ConfigOption = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        "-c",
        help="Configuration to use; may be repeated.",
        show_default=False,
        rich_help_panel=_MODELS,
    ),
]
FoldOption = Annotated[
    list[str] | None,
    typer.Option(
        "--fold",
        "-f",
        help="Fold to use: a number, cv for every fold of the split, or all; may be repeated.",
        show_default=False,
        rich_help_panel=_MODELS,
    ),
]
PresetOption = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="The preset they were trained with, or nnU-Net's name of the plans.",
        show_default=False,
        rich_help_panel=_MODELS,
    ),
]
TrainerOption = Annotated[
    str | None,
    typer.Option(
        "--trainer",
        help="The trainer class they were trained with.",
        show_default=False,
        rich_help_panel=_MODELS,
    ),
]
MirroringOption = Annotated[
    bool,
    typer.Option(
        "--mirroring/--no-mirroring", help="Average over mirrored images as nnU-Net does."
    ),
]
StepSizeOption = Annotated[
    float,
    typer.Option(
        "--step-size",
        help="Sliding-window step, as a part of the patch.",
        min=0.1,
        max=1,
        callback=require_number,
    ),
]
TuningOption = Annotated[
    bool,
    typer.Option(
        "--tuning/--no-tuning",
        help="Decide as gi2nnunet tune chose for these models, where it did.",
    ),
]
ProbabilitiesOption = Annotated[
    bool,
    typer.Option(
        "--save-probabilities",
        help="Write each configuration's probabilities too, in eight bits (a few MB a scan).",
    ),
]
NiftiOption = Annotated[
    bool,
    typer.Option("--nifti", help="Write label volumes too: bit-coded, and one an organ."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the results; by default one in the workspace.",
        file_okay=False,
        show_default=False,
    ),
]


def choose_models(
    *,
    config: list[str] | None = None,
    fold: list[str] | None = None,
    preset: str | None,
    trainer: str | None,
    dataset_id: int | None,
) -> ModelChoice:
    """Return which models the options of that name choose."""
    return ModelChoice(
        configurations=tuple(config or ()),
        folds=tuple(fold or ()),
        preset=preset,
        trainer=trainer,
        dataset_id=dataset_id,
    )


def predict_and_score(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="A source (its test/ if there is one, else its train/), or NIfTI files; by "
            "default the workspace's held-out scans.",
            show_default=False,
        ),
    ] = None,
    metric: MetricOption = "per-class",
    source_labels: SourceLabelsOption = None,
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    mirroring: MirroringOption = True,
    step_size: StepSizeOption = 0.5,
    threads: ThreadsOption = None,
    nifti: NiftiOption = False,
    save_probabilities: ProbabilitiesOption = False,
    tuning: TuningOption = True,
    out: OutOption = None,
    allow_missing: AllowMissingOption = False,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
    on: OnOption = "here",
    profile: ProfileOption = None,
    slurm: SlurmOption = None,
    dry_run: DryRunOption = False,
    shards: ShardsOption = None,
) -> None:
    """Predict, write submission.csv, and score it where the truth is known.

    Without a source: the held-out test scans; where there are none, every training scan by the
    model that did not see its patient; else the training scans, the score marked in-sample.

    Example: gi2nnunet predict-and-score --preset tiny
    """
    _predict(
        context,
        source=source,
        models=choose_models(
            config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
        ),
        engine=api.open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust),
        settings=PredictionSettings(mirroring=mirroring, step_size=step_size),
        options=PredictionOptions(
            nifti=nifti, save_probabilities=save_probabilities, tuning=tuning
        ),
        metric=metric,
    )


def predict(
    context: typer.Context,
    source: Annotated[
        Path | None,
        typer.Argument(
            metavar="SOURCE",
            help="A source (its test/ if there is one, else its train/), or NIfTI files; by "
            "default the workspace's own scans, as predict-and-score takes them.",
            show_default=False,
        ),
    ] = None,
    config: ConfigOption = None,
    fold: FoldOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    mirroring: MirroringOption = True,
    step_size: StepSizeOption = 0.5,
    threads: ThreadsOption = None,
    nifti: NiftiOption = False,
    save_probabilities: ProbabilitiesOption = False,
    tuning: TuningOption = True,
    out: OutOption = None,
    allow_missing: AllowMissingOption = False,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
    on: OnOption = "here",
    profile: ProfileOption = None,
    slurm: SlurmOption = None,
    dry_run: DryRunOption = False,
    shards: ShardsOption = None,
    part: PartOption = None,
) -> None:
    """Predict a source and write submission.csv; no truth is looked for.

    Example: gi2nnunet predict uw-madison-gi-tract-image-segmentation.zip --out results --nifti
    """
    _predict(
        context,
        source=source,
        models=choose_models(
            config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
        ),
        engine=api.open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust),
        settings=PredictionSettings(mirroring=mirroring, step_size=step_size),
        options=PredictionOptions(
            nifti=nifti, save_probabilities=save_probabilities, tuning=tuning
        ),
        part=parse_part(part),
    )


def _predict(
    context: typer.Context,
    *,
    source: Path | None,
    models: ModelChoice,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions,
    metric: Metric | None = None,
    part: tuple[int, int] | None = None,
) -> None:
    """Predict, as jobs on a cluster, or in part, or here; score by a metric if there is one."""
    asked = context.params
    if asked["on"] == "slurm" and (part or asked["as_json"]):
        raise typer.BadParameter("--part and --json do not go together with --on slurm")
    require_slurm(context)
    work = api.choose_work(
        source,
        models=models,
        out=asked["out"],
        truth=metric is not None,
        source_labels=asked.get("source_labels"),
        allow_missing=asked["allow_missing"],
        workspace=engine.workspace,
    )
    if asked["on"] == "slurm":
        submit_prediction(context, work, source=source, space=engine.workspace)
        return
    with show_progress() as report:
        how: dict[str, Any] = {
            "engine": engine,
            "settings": settings,
            "options": options,
            "progress": report,
            "on_notice": print_notice,
        }
        if part:
            scans = api.predict_part(work, part, **how)
        else:
            scored = {} if metric is None else {"metric": metric}
            call = api.predict if metric is None else api.predict_and_score
            command = spell_call(call, asked)
            made = api.run_prediction(
                work, score=metric is not None, command=command, **scored, **how
            )
    if part:
        print_result(f"part {asked['part']}: {count(scans, 'scan')} kept in {work.out}")
        print_notice("The same command without --part joins all parts.")
        return
    print_warnings(made.warnings)
    _print_evaluation(made, as_json=asked["as_json"], scored=metric is not None)


def _print_evaluation(done: Evaluation, *, as_json: bool, scored: bool) -> None:

    if as_json:
        content: dict[str, Any] = {
            "submission": str(done.submission),
            "standing": done.standing,
            "files": [str(file) for file in done.files],
            "seconds_per_scan": done.seconds_per_scan,
            "computing": dict(done.computing),
            "tuning": done.tuned.describe() if done.tuned else None,
        }
        if done.score is not None:
            content |= done.score.to_json()
        print_json(content)
        return
    if done.score is not None:
        print_score(done.score, standing=done.standing)
    elif scored:
        print_notice("The truth of these scans is not known, so there is no score.")
    print_notice(_describe_tuning(done.tuned))
    print_notice(f"{done.seconds_per_scan:.1f} s a scan")
    for file in done.files:
        print_result(str(file))


def _describe_tuning(tuned: Tuned | None) -> str:
    if tuned is None:
        return "Tuning: none (gi2nnunet tune chooses thresholds on out-of-fold predictions)"
    gain = tuned.content["gains"].get("all", {})
    if not tuned.decision.organs:
        return f"Tuning: nothing gained, so masks are plain ({tuned.path})"
    organs = ", ".join(organ.replace("_", " ") for organ in tuned.decision.organs)
    return (
        f"Tuning: {organs}; cross-fitted gain {gain.get('gain') or 0:+.4f} on the training scans "
        f"({tuned.path})"
    )
