"""Comparison of models: every configuration and ensemble, scored out of fold, with its cost.

The best is chosen on the scans it is scored on, so its score is a little too optimistic.
"""

from __future__ import annotations

import shlex
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.workers import Progress
from gi2nnunet.dataset.checks import warn_of_leaking_folds
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.checks import check_labels_of
from gi2nnunet.nnunet.engine import Engine, PredictionCost, PredictionSettings
from gi2nnunet.nnunet.models import Ensemble, TrainedModel, is_asked_for, list_models, spell_models
from gi2nnunet.prediction.out_of_fold import (
    OutOfFold,
    assign_folds,
    check_training_scans,
    predict_out_of_fold,
)
from gi2nnunet.scoring.bootstrap import Gain
from gi2nnunet.scoring.conventions import TunedMetric
from gi2nnunet.scoring.result import to_plain
from gi2nnunet.tuning.search import list_tuning_scans, measure_plain

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One configuration or ensemble, scored out of fold at the plain threshold.

    ``difference`` is the score minus the best's; both have a 95 % interval over patients, NaN for
    fewer than two. Seconds and bytes are those of the out-of-fold predictions, summed over the
    configurations, so that an ensemble needs at most that; ``None`` if unknown.
    """

    name: str
    folders: tuple[str, ...]
    score: float
    score_low: float
    score_high: float
    difference: float
    low: float
    high: float
    seconds_per_scan: float | None
    peak_memory_bytes: int | None
    peak_gpu_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ModelComparison(ShownAsTable):
    """All models, best first, and the command that predicts with the best.

    ``advice`` gives the reason, and a cheaper model if its difference may be chance; ``warnings``
    say what was left out and why.
    """

    metric: str
    entries: tuple[ModelEntry, ...]
    command: str
    advice: str
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> ModelEntry:
        """Return the one with the highest score."""
        return self.entries[0]

    def to_frame(self) -> DataFrame:
        """Return a table of the models, indexed by their names."""
        return make_frame(ModelEntry, self.entries, index="name")

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "entries": to_plain(self.entries),
            "recommended": self.best.name,
            "command": self.command,
            "advice": self.advice,
            "warnings": list(self.warnings),
        }


def compare_all_models(
    dataset: Dataset,
    *,
    engine: Engine,
    settings: PredictionSettings,
    preset: str | None = None,
    trainer: str | None = None,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Score every configuration with all folds, and the ensembles of one trainer and plan.

    A configuration is left out with a warning if a fold is missing, or if the scans that it was
    trained on are unknown.

    Raises
    ------
    InputError
        If no configuration is left, or one has other labels than the dataset.
    """
    check_training_scans(dataset, truth=True)
    results = engine.workspace.results / dataset.name
    models, warnings = _list_complete(dataset, results, preset=preset, trainer=trainer)
    warnings += warn_of_leaking_folds(dataset)
    check_labels_of(models, dataset)
    predicted = [
        predict_out_of_fold(
            dataset, _every_fold(model, dataset), engine=engine, settings=settings, truth=True,
            progress=progress,
        )
        for model in models
    ]  # fmt: skip
    everything = OutOfFold(
        models=tuple(models),
        fold_of=predicted[0].fold_of,
        folders=ChainMap(*(dict(found.folders) for found in predicted)),
        costs=ChainMap(*(dict(found.costs) for found in predicted)),
    )
    groups = _group(models)
    blends = {
        name: tuple((model.folder.name, 1 / len(group)) for model in group)
        for name, group in groups.items()
    }
    scans = list_tuning_scans(dataset, everything, by_folder=True)
    gains = measure_plain(scans, blends, metric=metric, seed=seed, jobs=jobs, progress=progress)
    entries = [
        _make_entry(name, gain, [model.folder.name for model in groups[name]], everything.costs)
        for name, gain in gains.items()
    ]
    return ModelComparison(
        metric=metric,
        entries=tuple(entries),
        command=_spell(groups[entries[0].name], dataset=dataset, metric=metric),
        advice=_advise(entries),
        warnings=tuple(warnings),
    )


def _make_entry(
    name: str, gain: Gain, folders: Sequence[str], costs: Mapping[str, PredictionCost]
) -> ModelEntry:
    some = [costs[folder] for folder in folders]
    return ModelEntry(
        name=name,
        folders=tuple(folders),
        score=gain.tuned,
        score_low=gain.tuned_low,
        score_high=gain.tuned_high,
        difference=gain.gain,
        low=gain.low,
        high=gain.high,
        seconds_per_scan=_add_up(some, "seconds_per_scan"),
        peak_memory_bytes=_add_up(some, "peak_memory_bytes"),
        peak_gpu_bytes=_add_up(some, "peak_gpu_bytes"),
    )


def _every_fold(model: TrainedModel, dataset: Dataset) -> Ensemble:
    folds = tuple(range(len(dataset.splits)))
    return Ensemble(models=(model,), folds=folds, chosen_by="every fold")


def _list_complete(
    dataset: Dataset, results: Path, *, preset: str | None, trainer: str | None
) -> tuple[list[TrainedModel], list[str]]:
    """Return the models that can be compared, and why the others cannot."""
    models: list[TrainedModel] = []
    warnings: list[str] = []
    for model in list_models(results):
        if not is_asked_for(model, preset=preset, trainer=trainer):
            continue
        if missing := model.describe_missing(len(dataset.splits)):
            warnings.append(missing)
            continue
        try:
            assign_folds(dataset, _every_fold(model, dataset))
        except InputError as error:
            warnings.append(f"{model.folder.name}: left out. {error}")
            continue
        models.append(model)
    if not models:
        raise InputError(
            "\n".join(
                [
                    f"{results}: found no configuration with every fold of the split; expected one "
                    "or more to compare. Train them with gi2nnunet train --fold cv.",
                    *warnings,
                ]
            )
        )
    return models, warnings


def _group(models: Sequence[TrainedModel]) -> dict[str, tuple[TrainedModel, ...]]:
    """Return by name each single model, then every two or more of one trainer and plan."""
    keys = dict.fromkeys((model.trainer, model.plans_name) for model in models)
    together = [
        group
        for key in keys
        for alike in [[m for m in models if (m.trainer, m.plans_name) == key]]
        for size in range(2, len(alike) + 1)
        for group in combinations(alike, size)
    ]
    groups: dict[str, tuple[TrainedModel, ...]] = {}
    for group in [*((model,) for model in models), *together]:
        suffix = f" ({group[0].trainer}, {group[0].plans_name})" if len(keys) > 1 else ""
        groups[" + ".join(model.configuration for model in group) + suffix] = group
    return groups


def _add_up(
    costs: Sequence[PredictionCost],
    key: Literal["seconds_per_scan", "peak_memory_bytes", "peak_gpu_bytes"],
) -> Any:
    return sum(cost[key] for cost in costs) if all(key in cost for cost in costs) else None


def _advise(entries: Sequence[ModelEntry]) -> str:
    best = entries[0]
    advice = f"Recommended: {best.name}, the best score."
    cheaper = [
        entry
        for entry in entries[1:]
        if entry.high >= 0
        and best.seconds_per_scan is not None
        and (entry.seconds_per_scan or best.seconds_per_scan) < best.seconds_per_scan
    ]
    if cheaper:
        other = min(cheaper, key=lambda entry: entry.seconds_per_scan or 0.0)
        advice += (
            f" If time matters: {other.name} takes {other.seconds_per_scan:.1f} s a scan instead "
            f"of {best.seconds_per_scan:.1f}, and the difference ({other.difference:+.4f}, "
            f"interval {other.low:+.4f} to {other.high:+.4f}) may be chance."
        )
    return advice


def _spell(models: Sequence[TrainedModel], *, dataset: Dataset, metric: TunedMetric) -> str:
    """Return the command that uses these models and no others."""
    words = ["gi2nnunet", "predict-and-score", *spell_models(models, folds=["cv"])]
    # Always given, as a second dataset may come later.
    words += ["--id", str(dataset.dataset_id)]
    words += [] if metric == "per-class" else ["--metric", metric]
    return shlex.join(words)
