"""Commands around out-of-fold predictions: out-of-fold, tune, compare-models."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gi2nnunet.cli.options import (
    DeviceOption,
    GpusOption,
    IdOption,
    JobsOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    TrustOption,
    WorkspaceOption,
    choose_hardware,
    same_workspace,
    spell_options,
)
from gi2nnunet.cli.prediction import (
    ConfigOption,
    MirroringOption,
    PresetOption,
    StepSizeOption,
    TrainerOption,
)

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.nnunet.engine import Engine, PredictionSettings
    from gi2nnunet.nnunet.models import Ensemble
    from gi2nnunet.nnunet.postprocess import OrganDecision
    from gi2nnunet.nnunet.saved_postprocess import Tuning
    from gi2nnunet.prediction.out_of_fold import OutOfFold
    from gi2nnunet.scoring.bootstrap import Gain
    from gi2nnunet.tuning.compare_models import ModelComparison, ModelEntry

TunedMetricOption = Annotated[
    Literal["per-class", "slice-2d"],
    typer.Option("--metric", help="Convention: one whose means fall apart by organ."),
]

# What tune shares with out-of-fold, and what of it a prediction takes besides its models.
_OF_MODELS = ("config", "preset", "trainer")
_OF_COMPUTING = ("mirroring", "step_size", "threads", "trust", "device", "gpus")


def out_of_fold(
    context: typer.Context,
    config: ConfigOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    mirroring: MirroringOption = True,
    step_size: StepSizeOption = 0.5,
    threads: ThreadsOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict every training scan by the models that did not see its patient.

    The probabilities are kept in eight bits; what is there already is not made again.

    Example: gi2nnunet out-of-fold --config 2d
    """
    from gi2nnunet.api import open_engine
    from gi2nnunet.cli.output import print_json, print_notice, print_result
    from gi2nnunet.nnunet.engine import PredictionSettings

    engine = open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust)
    dataset, ensemble = _select(engine.workspace, dataset_id, config, preset, trainer)
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    choose_hardware(engine)
    predicted = _predict(dataset, ensemble, engine, settings, truth=False)
    if as_json:
        print_json(
            {
                "folders": {name: str(folder) for name, folder in predicted.folders.items()},
                "folds": dict(predicted.fold_of),
                "costs": {name: dict(cost) for name, cost in predicted.costs.items()},
            }
        )
        return
    for folder in predicted.folders.values():
        print_result(str(folder))
    words = ["gi2nnunet", "tune"]
    words += spell_options(context, (*_OF_MODELS, *_OF_COMPUTING, "dataset_id"))
    print_notice("Next: " + same_workspace(shlex.join(words), workspace))


def tune(
    context: typer.Context,
    config: ConfigOption = None,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    metric: TunedMetricOption = "per-class",
    mirroring: MirroringOption = True,
    step_size: StepSizeOption = 0.5,
    threads: ThreadsOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose thresholds, blend, gate, components and gaps for the metric, organ by organ.

    Chosen on out-of-fold predictions, which are made where they are missing. The gain is measured
    on folds that the choice did not see; what does not gain is not used.

    Example: gi2nnunet tune
    """
    from gi2nnunet.api import open_engine
    from gi2nnunet.cli.output import print_json, print_notice, print_result, show_progress
    from gi2nnunet.core.command import spell_call
    from gi2nnunet.core.files import check_place
    from gi2nnunet.nnunet.engine import PredictionSettings
    from gi2nnunet.nnunet.models import spell_models
    from gi2nnunet.nnunet.saved_postprocess import save_tuning, tuning_path
    from gi2nnunet.tuning.search import tune_decision
    from gi2nnunet.tuning.table import list_tuning_scans

    engine = open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust)
    dataset, ensemble = _select(engine.workspace, dataset_id, config, preset, trainer)
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    choose_hardware(engine)
    check_place(tuning_path(ensemble.models))
    predicted = _predict(dataset, ensemble, engine, settings, truth=True)
    with show_progress() as report:
        found = tune_decision(
            list_tuning_scans(dataset, predicted),
            configurations=[model.configuration for model in ensemble.models],
            metric=metric,
            seed=seed,
            jobs=jobs,
            progress=report,
        )
    path = save_tuning(
        found,
        ensemble.models,
        sorted(set(predicted.fold_of.values())),
        computing=predicted.settings,
        command=spell_call(tune, context.params),
    )
    if as_json:
        print_json({"file": str(path), **found.to_json()})
        return
    _print_tuning(found)
    print_result(str(path))
    print_notice("predict and predict-and-score use it with these models; --no-tuning does not.")
    words = ["gi2nnunet", "predict-and-score", *spell_models(ensemble.models, folds=["cv"])]
    words += spell_options(context, (*_OF_COMPUTING, "metric", "dataset_id"))
    print_notice("Next: " + same_workspace(shlex.join(words), workspace))


def compare_models(
    context: typer.Context,
    preset: PresetOption = None,
    trainer: TrainerOption = None,
    metric: TunedMetricOption = "per-class",
    mirroring: MirroringOption = True,
    step_size: StepSizeOption = 0.5,
    threads: ThreadsOption = None,
    trust: TrustOption = False,
    device: DeviceOption = "auto",
    gpus: GpusOption = None,
    workspace: WorkspaceOption = None,
    dataset_id: IdOption = None,
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every configuration and ensemble out of fold, with cost, and recommend one.

    Example: gi2nnunet compare-models
    """
    from gi2nnunet.api import open_engine
    from gi2nnunet.cli.output import print_json, print_result, print_warnings, show_progress
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.engine import PredictionSettings
    from gi2nnunet.tuning.compare_models import compare_all_models

    engine = open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust)
    dataset = read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    choose_hardware(engine)
    with show_progress() as report:
        compared = compare_all_models(
            dataset,
            engine=engine,
            settings=settings,
            preset=None if preset == "auto" else preset,
            trainer=trainer,
            metric=metric,
            seed=seed,
            jobs=jobs,
            progress=report,
        )
    words = [compared.command, *spell_options(context, _OF_COMPUTING)]
    command = same_workspace(" ".join(words), workspace)
    print_warnings(compared.warnings)
    if as_json:
        print_json({**compared.to_json(), "command": command})
        return
    _print_models(compared)
    print_result(command)


def _select(
    space: Workspace,
    dataset_id: int | None,
    config: list[str] | None,
    preset: str | None,
    trainer: str | None,
) -> tuple[Dataset, Ensemble]:
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.models import choose_ensemble

    dataset = read_dataset(space.raw, dataset_id=dataset_id)
    ensemble = choose_ensemble(
        space.results / dataset.name,
        n_folds=len(dataset.splits),
        configurations=config or (),
        folds=["cv"],
        preset=None if preset == "auto" else preset,
        trainer=trainer,
    )
    return dataset, ensemble


def _predict(
    dataset: Dataset,
    ensemble: Ensemble,
    engine: Engine,
    settings: PredictionSettings,
    *,
    truth: bool,
) -> OutOfFold:
    from gi2nnunet.cli.output import print_notice, show_progress
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold

    print_notice(f"Models: {ensemble.describe()}")
    with show_progress() as report:
        return predict_out_of_fold(
            dataset, ensemble, engine=engine, settings=settings, truth=truth, on_scan=report
        )


def _print_tuning(found: Tuning) -> None:
    from gi2nnunet.cli.output import count, print_result, print_table
    from gi2nnunet.formats.ids import ORGANS
    from gi2nnunet.tuning.search import FEWEST_PATIENTS

    print_table(
        f"Chosen on {count(found.n_scans, 'scan')} of {count(found.n_patients, 'patient')} in "
        f"{count(found.n_folds, 'fold')} ({found.metric})",
        ("organ", "used", "blend", "threshold", "gate", "smallest (ml)", "gaps filled"),
        [
            (
                organ.replace("_", " "),
                "yes" if organ in found.decision.organs else "no",
                *_cells(found.decision.organs.get(organ, found.found.organs[organ])),
            )
            for organ in ORGANS
        ],
        text_columns=3,
    )
    print_table(
        "Score of all organs on the folds that the choice did not see",
        ("choice of", "plain", "chosen", "gain", "95 % interval"),
        [(name.replace("_", " "), *_gain_cells(gain)) for name, gain in found.gains.items()],
    )
    if found.n_patients < FEWEST_PATIENTS:
        print_result(
            f"{count(found.n_patients, 'patient')}: fewer than {FEWEST_PATIENTS} are too few to "
            "tell a gain from chance, so masks stay plain (mean above one half)."
        )
    elif not found.decision.organs:
        print_result("Nothing gains beyond chance: masks stay plain (mean above one half).")


def _cells(choice: OrganDecision) -> tuple[str, ...]:
    weights = ", ".join(f"{name} {weight:g}" for name, weight in choice.weights)
    return (
        weights or "mean",
        f"{choice.threshold:g}",
        f"{choice.gate:g}" if choice.gate else "-",
        f"{choice.smallest_ml:g}" if choice.smallest_ml else "-",
        str(choice.fill_slices) if choice.fill_slices else "-",
    )


def _gain_cells(gain: Gain) -> tuple[str, ...]:
    return (
        f"{gain.plain:.4f}",
        f"{gain.tuned:.4f}",
        f"{gain.gain:+.4f}",
        f"{gain.low:+.4f} to {gain.high:+.4f}",
    )


def _print_models(compared: ModelComparison) -> None:
    from gi2nnunet.cli.output import print_result, print_table

    def gigabytes(value: Any) -> str:
        return "-" if value is None else f"{value / 2**30:.2f}"

    def score(entry: ModelEntry) -> str:
        if math.isnan(entry.score_low):
            return f"{entry.score:.4f}"
        return f"{entry.score:.4f} ({entry.score_low:.2f} to {entry.score_high:.2f})"

    print_table(
        f"Out of fold, plain threshold ({compared.metric}), 95 % intervals over patients",
        (
            "models",
            "score",
            "difference\nto the best",
            "s a\nscan",
            "GiB\nat most",
            "GPU GiB\nat most",
        ),
        [
            (
                entry.name,
                score(entry),
                "-"
                if entry.name == compared.best.name
                else f"{entry.difference:+.4f} ({entry.low:+.4f} to {entry.high:+.4f})",
                "-" if entry.seconds_per_scan is None else f"{entry.seconds_per_scan:.1f}",
                gigabytes(entry.peak_memory_bytes),
                gigabytes(entry.peak_gpu_bytes),
            )
            for entry in compared.entries
        ],
    )
    print_result(compared.advice)
