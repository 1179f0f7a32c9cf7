"""Which models to use: every configuration and ensemble at hand, scored out of fold, with cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gi2nnunet.choice_table import Progress, TunedMetric
from gi2nnunet.errors import InputError
from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.computing import Computing
from gi2nnunet.nnunet.models import Ensemble, TrainedModel, list_models
from gi2nnunet.nnunet.presets import PRESETS
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.out_of_fold import OutOfFold, list_tuning_scans, predict_out_of_fold
from gi2nnunet.tuning import measure_plain


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One configuration, or one ensemble of configurations.

    Attributes
    ----------
    name
        For the screen.
    folders
        Its model folders' names.
    score
        Out of fold, at the plain threshold.
    difference, low, high
        Score less the best's, with its 95 % interval over patients.
    seconds_per_scan, peak_memory_bytes, peak_gpu_bytes
        What the out-of-fold predictions took: sums of seconds, the largest memory; ``None`` where
        that is not known.
    """

    name: str
    folders: tuple[str, ...]
    score: float
    difference: float
    low: float
    high: float
    seconds_per_scan: float | None
    peak_memory_bytes: int | None
    peak_gpu_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class ModelComparison:
    """All of them, best first, and what to use.

    Attributes
    ----------
    metric
        The convention.
    entries
        Best score first.
    recommended
        The one of the highest score.
    command
        The command that uses it.
    advice
        Why, and a cheaper one whose difference may be chance.
    """

    metric: str
    entries: tuple[ModelEntry, ...]
    recommended: ModelEntry
    command: str
    advice: str

    @property
    def best(self) -> ModelEntry:
        """Return the one of the highest score."""
        return self.entries[0]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values; NaN becomes ``None``."""
        return {
            "metric": self.metric,
            "entries": [
                {k: None if v != v else v for k, v in asdict(entry).items()}
                for entry in self.entries
            ],
            "recommended": self.recommended.name,
            "command": self.command,
            "advice": self.advice,
        }


def compare_all_models(
    dataset: Dataset,
    *,
    computing: Computing,
    preset: str | None = None,
    trainer: str | None = None,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ModelComparison:
    """Score every configuration with all folds, and the ensembles of one trainer and plan.

    Parameters
    ----------
    dataset
        What they were trained on.
    computing
        Where, on what and how :func:`~gi2nnunet.out_of_fold.predict_out_of_fold` predicts what is
        missing.
    preset, trainer
        Only models of these.
    metric
        The convention.
    seed
        Of the bootstrap's draws.
    jobs
        Scans in work at once while scoring.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        Where no configuration has every fold.
    """
    models = _list_complete(dataset, computing.workspace, preset=preset, trainer=trainer)
    predicted: dict[str, OutOfFold] = {}
    for model in models:
        predicted[model.folder.name] = predict_out_of_fold(
            dataset,
            Ensemble(models=(model,), folds=tuple(range(len(dataset.splits))), chosen_by="all"),
            computing=computing,
            on_scan=progress,
        )
    everything = OutOfFold(
        models=tuple(models),
        fold_of=next(iter(predicted.values())).fold_of,
        folders={name: found.folders[name] for name, found in predicted.items()},
        costs={name: found.costs[name] for name, found in predicted.items()},
    )
    groups = _group(models)
    blends = {
        name: tuple((model.folder.name, 1 / len(group)) for model in group)
        for name, group in groups.items()
    }
    scans = list_tuning_scans(dataset, everything, by_folder=True)
    options: dict[str, Any] = {"metric": metric, "seed": seed, "jobs": jobs, "progress": progress}
    scores = {name: gain.tuned for name, gain in measure_plain(scans, blends, **options).items()}
    order = sorted(scores, key=lambda name: -scores[name] if scores[name] == scores[name] else 1)
    gains = measure_plain(scans, {name: blends[name] for name in order}, **options)
    entries = []
    for name in order:
        gain, cost = gains[name], [everything.costs[m.folder.name] for m in groups[name]]
        entries.append(
            ModelEntry(
                name=name,
                folders=tuple(model.folder.name for model in groups[name]),
                score=gain.tuned,
                difference=gain.gain,
                low=gain.low,
                high=gain.high,
                seconds_per_scan=_combine(cost, "seconds_per_scan", add=True),
                peak_memory_bytes=_combine(cost, "peak_memory_bytes", add=False),
                peak_gpu_bytes=_combine(cost, "peak_gpu_bytes", add=False),
            )
        )
    return _recommend(entries, groups, metric=metric)


def _list_complete(
    dataset: Dataset, workspace: Workspace, *, preset: str | None, trainer: str | None
) -> list[TrainedModel]:
    split = set(range(len(dataset.splits)))
    wanted = PRESETS[preset].plans_name if preset in PRESETS else preset
    results = workspace.results / dataset.name
    models = [
        model
        for model in list_models(results)
        if split
        and split <= set(model.folds)
        and (trainer is None or model.trainer == trainer)
        and (wanted is None or model.plans_name == wanted)
    ]
    if not models:
        raise InputError(
            f"{results}: found no configuration with every fold of the split; expected one or more "
            "to compare. Train them with gi2nnunet train --fold cv."
        )
    return models


def _group(models: Sequence[TrainedModel]) -> dict[str, tuple[TrainedModel, ...]]:
    """Return each model alone, then those of one trainer and plan together, by name."""
    several = len({(model.trainer, model.plans_name) for model in models}) > 1
    groups: dict[str, tuple[TrainedModel, ...]] = {}

    def add(group: Sequence[TrainedModel]) -> None:
        first = group[0]
        suffix = f" ({first.trainer}, {first.plans_name})" if several else ""
        groups[" + ".join(m.configuration for m in group) + suffix] = tuple(group)

    for model in models:
        add([model])
    for key in dict.fromkeys((model.trainer, model.plans_name) for model in models):
        together = [m for m in models if (m.trainer, m.plans_name) == key]
        if len(together) > 1:
            add(together)
    return groups


def _combine(costs: Sequence[Mapping[str, Any]], key: str, *, add: bool) -> Any:
    values = [cost.get(key) for cost in costs]
    known = [value for value in values if isinstance(value, (int, float))]
    if len(known) < len(values):
        return None
    return sum(known) if add else max(known)


def _recommend(
    entries: Sequence[ModelEntry],
    groups: Mapping[str, tuple[TrainedModel, ...]],
    *,
    metric: str,
) -> ModelComparison:
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
            f" Where time matters: {other.name} takes {other.seconds_per_scan:.1f} s a scan in "
            f"place of {best.seconds_per_scan:.1f}, and the difference ({other.difference:+.4f}, "
            f"interval {other.low:+.4f} to {other.high:+.4f}) may be chance."
        )
    first = groups[best.name][0]
    words = ["gi2nnunet", "predict-and-score", "--fold", "cv"]
    words += [word for model in groups[best.name] for word in ("--config", model.configuration)]
    words += ["--preset", first.plans_name, "--trainer", first.trainer]
    return ModelComparison(
        metric=metric,
        entries=tuple(entries),
        recommended=best,
        command=" ".join(words),
        advice=advice,
    )
