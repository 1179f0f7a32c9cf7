"""Which trained models a workspace holds, and which of them to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.errors import InputError
from gi2nnunet.files import read_json
from gi2nnunet.nnunet.presets import CONFIGURATIONS, PRESETS

Fold = int | str  # a fold's number, or "all"

FINAL_CHECKPOINT = "checkpoint_final.pth"
TRAINING_RECORD = "gi2nnunet_training.json"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One configuration with the folds of it that are trained to the end.

    Attributes
    ----------
    folder
        nnU-Net's model folder, ``<trainer>__<plans>__<configuration>``.
    trainer, plans_name, configuration
        nnU-Net's names.
    folds
        Finished folds, numbers first.
    newest
        When the newest of them was finished, seconds since the epoch.
    """

    folder: Path
    trainer: str
    plans_name: str
    configuration: str
    folds: tuple[Fold, ...]
    newest: float


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Models whose probabilities are averaged; they share trainer, plans and folds.

    Attributes
    ----------
    models
        One a configuration.
    folds
        The folds in use, of every model.
    chosen_by
        Why these, for the screen.
    """

    models: tuple[TrainedModel, ...]
    folds: tuple[Fold, ...]
    chosen_by: str

    @property
    def name(self) -> str:
        """Return a name fit for a folder."""
        first = self.models[0]
        configurations = "+".join(model.configuration for model in self.models)
        folds = "".join(map(str, self.folds))
        return f"{first.trainer}__{first.plans_name}__{configurations}__fold_{folds}"

    def describe(self) -> str:
        """Return what is used, for the screen."""
        first = self.models[0]
        configurations = " + ".join(model.configuration for model in self.models)
        folds = ", ".join(map(str, self.folds))
        return (
            f"{configurations}, fold {folds}, {first.trainer}, {first.plans_name} "
            f"({self.chosen_by})"
        )


def fold_folder(model_folder: Path, fold: Fold) -> Path:
    """Return the folder of one fold."""
    return model_folder / f"fold_{fold}"


def is_fold_number(text: str) -> bool:
    """Return whether a text is the number of a fold."""
    return text.isascii() and text.isdecimal() and len(text) <= 4


def list_models(results: Path) -> tuple[TrainedModel, ...]:
    """Return the finished models under nnU-Net's results folder of one dataset."""
    found: list[TrainedModel] = []
    for folder in sorted(results.glob("*__*__*")):
        trainer, plans_name, configuration = folder.name.split("__", 2)
        finals = {
            path.parent.name.removeprefix("fold_"): path.stat().st_mtime
            for path in folder.glob(f"fold_*/{FINAL_CHECKPOINT}")
        }
        folds: list[Fold] = sorted(int(fold) for fold in finals if fold.isdigit())
        folds += ["all"] if "all" in finals else []
        if folds:
            found.append(
                TrainedModel(
                    folder=folder,
                    trainer=trainer,
                    plans_name=plans_name,
                    configuration=configuration,
                    folds=tuple(folds),
                    newest=max(finals.values()),
                )
            )
    return tuple(found)


def choose_ensemble(
    results: Path,
    *,
    n_folds: int,
    configurations: Sequence[str] = (),
    folds: Sequence[Fold | str] = (),
    preset: str | None = None,
    trainer: str | None = None,
) -> Ensemble:
    """Choose the models to predict with.

    Parameters
    ----------
    results
        nnU-Net's results folder of the dataset.
    n_folds
        Folds of the dataset's split; 0 where it has none.
    configurations, folds, preset, trainer
        What the user asked for; ``folds`` may hold ``"cv"`` for every fold of the split. What is
        left open is filled by the newest complete set: every configuration of one trainer and
        plan that has ``fold_all``, or every fold of the split.

    Raises
    ------
    InputError
        Where nothing is trained, or not what was asked for.
    """
    models = list_models(results)
    if not models:
        raise InputError(
            f"{results}: holds no finished model. Train one with gi2nnunet train --fold all."
        )
    wanted_plans = PRESETS[preset].plans_name if preset in PRESETS else preset
    fitting = [
        model
        for model in models
        if (not configurations or model.configuration in configurations)
        and (trainer is None or model.trainer == trainer)
        and (wanted_plans is None or _is_of(model.plans_name, wanted_plans))
    ]
    candidates: list[tuple[bool, float, Ensemble]] = []
    split = tuple(range(n_folds))
    asked = _expand(folds, split)
    for key in dict.fromkeys((model.trainer, model.plans_name) for model in fitting):
        group = sorted(
            (model for model in fitting if (model.trainer, model.plans_name) == key),
            key=lambda model: _order(model.configuration),
        )
        choices: list[tuple[Fold, ...]] = (
            [asked] if asked else [("all",), *([split] if split else [])]
        )
        if not asked and not any(set(c) <= set(m.folds) for c in choices for m in group):
            # Nothing is complete: what is trained so far, in every configuration alike.
            common = set.intersection(*(set(model.folds) for model in group))
            choices = [tuple(sorted(common, key=str))] if common else []
        for choice in choices:
            having = [model for model in group if choice and set(choice) <= set(model.folds)]
            if not having or (configurations and len(having) < len(set(configurations))):
                continue
            complete = choice in (("all",), split)
            newest = max(_finished(model, fold) for model in having for fold in choice)
            why = "as asked" if asked or configurations or preset else "the newest complete set"
            if not complete and not asked:
                why = "no set is complete: the folds finished so far"
            candidates.append(
                (
                    complete,
                    newest,
                    Ensemble(models=tuple(having), folds=choice, chosen_by=why),
                )
            )
    if not candidates:
        trained = "; ".join(
            f"{m.configuration} fold {', '.join(map(str, m.folds))} ({m.trainer}, {m.plans_name})"
            for m in models
        )
        raise InputError(
            f"{results}: has no finished model for what was asked "
            f"(--config {' '.join(configurations) or 'any'}, "
            f"--fold {' '.join(map(str, folds)) or 'any'}, --preset {preset or 'any'}). "
            f"Finished: {trained}. Train what is missing with gi2nnunet train."
        )
    return max(candidates, key=lambda candidate: candidate[:2])[2]


def _expand(folds: Sequence[Fold | str], split: tuple[int, ...]) -> tuple[Fold, ...]:
    chosen: list[Fold] = []
    for fold in folds:
        if fold == "cv":
            if not split:
                raise InputError(
                    "--fold cv: the dataset has no split. Use --fold all, or convert a source "
                    "of two or more patients."
                )
            chosen += split
        else:
            chosen.append(fold)
    return tuple(dict.fromkeys(chosen))


def _is_of(plans_name: str, wanted: str) -> bool:
    """Return whether plans are those of a preset, be it with other batch or patch sizes."""
    return plans_name == wanted or plans_name.startswith((f"{wanted}_b", f"{wanted}_p"))


def _order(configuration: str) -> int:
    known = (*CONFIGURATIONS, configuration)
    return known.index(configuration)


def _finished(model: TrainedModel, fold: Fold) -> float:
    return (fold_folder(model.folder, fold) / FINAL_CHECKPOINT).stat().st_mtime


def read_training_record(model: TrainedModel, fold: Fold) -> dict[str, object]:
    """Return what was recorded beside a fold: settings, dataset digest, versions."""
    return read_json(fold_folder(model.folder, fold) / TRAINING_RECORD)
