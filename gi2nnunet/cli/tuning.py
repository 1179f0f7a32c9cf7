"""Commands around out-of-fold predictions: out-of-fold, tune, compare-models."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gi2nnunet import api
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
    same_workspace,
    spell_options,
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
from gi2nnunet.cli.prediction import (
    ConfigOption,
    MirroringOption,
    PresetOption,
    StepSizeOption,
    TrainerOption,
    choose_models,
)
from gi2nnunet.core.command import spell_call
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.engine import PredictionSettings
from gi2nnunet.nnunet.models import ModelChoice, spell_models
from gi2nnunet.scoring.conventions import TunedMetric

if TYPE_CHECKING:
    from gi2nnunet.nnunet.postprocess import OrganDecision, Tuning
    from gi2nnunet.scoring.bootstrap import Gain
    from gi2nnunet.tuning.compare_models import ModelComparison, ModelEntry

_Result = TypeVar("_Result")

TunedMetricOption = Annotated[
    TunedMetric,
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
    predicted = _with_progress(
        api.predict_out_of_fold,
        choose_models(config=config, preset=preset, trainer=trainer, dataset_id=dataset_id),
        engine=api.open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust),
        settings=PredictionSettings(mirroring=mirroring, step_size=step_size),
    )
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
    found, path, ensemble = _with_progress(
        api.tune,
        choose_models(config=config, preset=preset, trainer=trainer, dataset_id=dataset_id),
        engine=api.open_engine(
            workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
        ),
        settings=PredictionSettings(mirroring=mirroring, step_size=step_size),
        metric=metric,
        seed=seed,
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
    compared = _with_progress(
        api.compare_models,
        choose_models(preset=preset, trainer=trainer, dataset_id=dataset_id),
        engine=api.open_engine(
            workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
        ),
        settings=PredictionSettings(mirroring=mirroring, step_size=step_size),
        metric=metric,
        seed=seed,
    )
    words = [compared.command, *spell_options(context, _OF_COMPUTING)]
    command = same_workspace(" ".join(words), workspace)
    print_warnings(compared.warnings)
    if as_json:
        print_json({**compared.to_json(), "command": command})
        return
    _print_models(compared)
    print_result(command)


def _with_progress(call: Callable[..., _Result], models: ModelChoice, **how: Any) -> _Result:
    """Call the API, its progress drawn and its notices printed."""
    with show_progress() as report:
        return call(models, progress=report, on_notice=print_notice, **how)


def _print_tuning(found: Tuning) -> None:
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
    if found.n_patients < found.fewest_patients:
        print_result(
            f"{count(found.n_patients, 'patient')}: fewer than {found.fewest_patients} are too few "
            "to tell a gain from chance, so masks stay plain (mean above one half)."
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
