"""Commands around out-of-fold predictions: out-of-fold, tune, compare-models."""

from __future__ import annotations

import math
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gi2nnunet import api
from gi2nnunet.cli.options import (
    EngineOptions,
    JobsOption,
    JsonOption,
    SeedOption,
    call_api,
    spell_options,
    takes_groups,
)
from gi2nnunet.cli.output import (
    print_json,
    print_notice,
    print_result,
    print_table,
    print_warning,
    print_warnings,
    show_progress,
)
from gi2nnunet.cli.prediction import ConfiguredOptions, TrainedOptions, WindowOptions
from gi2nnunet.cli.scores import STANDINGS
from gi2nnunet.core.errors import count
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.nnunet.models import spell_models
from gi2nnunet.scoring.conventions import TunedMetric

if TYPE_CHECKING:
    from gi2nnunet.nnunet.postprocess import OrganDecision, Tuning
    from gi2nnunet.scoring.bootstrap import Gain
    from gi2nnunet.tuning.compare_models import ModelComparison, ModelEntry

TunedMetricOption = Annotated[
    TunedMetric,
    typer.Option(
        "--metric",
        help="Which reading of the unpublished metric to use (see docs/metric.md). Only those "
        "computed separately for each organ.",
    ),
]

# Options that tune shares with out-of-fold, and those that a prediction takes too.
_OF_MODELS = ("config", "preset", "trainer")
_OF_COMPUTING = ("mirroring", "step_size", "threads", "trust", "device", "gpus")


@takes_groups
def out_of_fold(
    context: typer.Context,
    models: ConfiguredOptions,
    window: WindowOptions,
    how: EngineOptions,
    as_json: JsonOption = False,
) -> None:
    """Predict each training scan with the models that did not see its patient.

    The probabilities are stored in eight bits. Scans that were predicted before are not predicted
    again.

    Example: gi2nnunet out-of-fold --config 2d
    """
    with show_progress() as report:
        predicted = call_api(context, api.out_of_fold, progress=report)
    if as_json:
        print_json(predicted.to_json())
        return
    for folder in predicted.folders.values():
        print_result(str(folder))
    words = ["gi2nnunet", "tune"]
    words += spell_options(context, (*_OF_MODELS, *_OF_COMPUTING))
    print_notice("Next: " + shlex.join(words))


@takes_groups
def tune(
    context: typer.Context,
    models: ConfiguredOptions,
    window: WindowOptions,
    how: EngineOptions,
    metric: TunedMetricOption = "per-class",
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Choose thresholds and other post-processing for each organ.

    The settings are a threshold, weights of the models, a gate for empty slices, a smallest
    component and a gap to fill. They are chosen on out-of-fold predictions; missing ones are made
    first. A setting is kept only if it improves the score on folds that were not used to choose
    it.

    Example: gi2nnunet tune
    """
    with show_progress() as report:
        made = call_api(context, api.tune, progress=report)
    if as_json:
        print_json(made.to_json())
        return
    _print_tuning(made.tuning)
    print_result(str(made.path))
    if made.tuning.decision.organs:
        print_notice(
            "predict and predict-and-score apply these settings, unless --no-tuning is given."
        )
    words = ["gi2nnunet", "predict-and-score", *spell_models(made.ensemble.models, folds=["cv"])]
    words += spell_options(context, (*_OF_COMPUTING, "metric"))
    print_notice("Next: " + shlex.join(words))


@takes_groups
def compare_models(
    context: typer.Context,
    models: TrainedOptions,
    window: WindowOptions,
    how: EngineOptions,
    metric: TunedMetricOption = "per-class",
    seed: SeedOption = 0,
    jobs: JobsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score each configuration and ensemble, and recommend one.

    The scores are of out-of-fold predictions, which are made first if they are missing. Time and
    memory per scan are shown too.

    Example: gi2nnunet compare-models
    """
    with show_progress() as report:
        compared = call_api(context, api.compare_models, progress=report)
    command = " ".join((compared.command, *spell_options(context, _OF_COMPUTING)))
    print_warnings(compared.warnings)
    if as_json:
        print_json({**compared.to_json(), "command": command})
        return
    _print_models(compared)
    print_result(command)


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
    if found.standing != "out-of-fold":
        print_warning(f"Standing: {STANDINGS[found.standing]}")
    print_table(
        "Mean score on the folds that were not used to choose (95 % interval; the organs' three "
        "hold together)",
        ("settings of", "default", "chosen", "gain", "interval"),
        [(name.replace("_", " "), *_gain_cells(gain)) for name, gain in found.gains.items()],
    )
    if found.n_patients < found.fewest_patients:
        print_result(
            f"{count(found.n_patients, 'patient')}: with fewer than {found.fewest_patients}, a "
            "gain may be chance, so no setting is changed."
        )
    elif not found.decision.organs:
        print_result("No gain is larger than chance, so no setting is changed.")


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
        f"Out-of-fold predictions without tuning ({compared.metric}), 95 % intervals over patients",
        (
            "models",
            "score",
            "difference\nto the best",
            "s per\nscan",
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
