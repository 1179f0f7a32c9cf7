"""The commands that make a workspace's results again, from what was recorded of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gi2nnunet.core.files import take_list, take_mapping
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.engine import spell_settings
from gi2nnunet.nnunet.models import order_of
from gi2nnunet.nnunet.presets import CONFIGURATIONS, read_plans_name
from gi2nnunet.training.record import TrainedFold

# Option by key of the record, and the value that need not be given.
_CONVERT = {
    "dataset_id": ("--id", 501), "name": ("--name", "UWGI"), "labels": ("--labels", "regions"),
    "folds": ("--folds", None), "holdout": ("--holdout", None),
    "keep_known_bad": ("--keep-known-bad", False), "allow_missing": ("--allow-missing", False),
    "source_labels": ("--source-labels", None), "seed": ("--seed", 0),
}  # fmt: skip
_SETTINGS = {
    "learning_rate": ("--lr", None), "pretrained_weights": ("--pretrained-weights", None),
}  # fmt: skip
_STOCK_TRAINER = "nnUNetTrainer"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes
    ----------
    words
        It, word by word.
    note
        What is not known of it, or has to be given by hand; empty for nothing.
    """

    words: tuple[str, ...]
    note: str = ""

    @property
    def text(self) -> str:
        """Return it as it is typed into a shell."""
        return shlex.join(self.words)


def list_commands(
    dataset: Dataset,
    trainings: Sequence[TrainedFold],
    *,
    tunings: Iterable[Mapping[str, Any]] = (),
    about: Mapping[str, Any] | None = None,
) -> tuple[Command, ...]:
    """Return the commands that lead to what is there, in order.

    Parameters
    ----------
    dataset, trainings
        What was converted and trained.
    tunings
        Contents of the files that :func:`~gi2nnunet.nnunet.saved_postprocess.save_tuning` wrote.
    about
        ``prediction.json``; ``None`` where nothing was predicted.
    """
    return (
        _convert(dataset),
        *_train(trainings, dataset),
        *(_tune(content) for content in tunings),
        *([_predict(about, dataset)] if about is not None else []),
    )


def _options(values: Mapping[str, Any], flags: Mapping[str, tuple[str, Any]]) -> list[str]:
    words: list[str] = []
    for key, (option, default) in flags.items():
        value = values.get(key, default)
        if value == default or value is None:
            continue
        words += [option] if value is True else [option, f"{value}"]
    return words


def _convert(dataset: Dataset) -> Command:
    manifest = dataset.manifest
    source = str(take_mapping(manifest, "source").get("path") or "SOURCE")
    words = ("gi2nnunet", "convert", source, *_options(take_mapping(manifest, "options"), _CONVERT))
    return Command(words=words)


def _train(trainings: Sequence[TrainedFold], dataset: Dataset) -> list[Command]:
    """Return one command for all configurations that have the same options and folds."""
    commands: list[Command] = []
    grouped: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for training in trainings:
        if training.imported:
            command = Command(
                words=("gi2nnunet", "import-model", training.imported),
                note="how it was trained stands where it came from",
            )
            if command not in commands:
                commands.append(command)
        elif not training.settings:
            plain = (
                "nnUNetv2_train", f"{dataset.dataset_id}", training.configuration, training.fold,
                "-p", training.plans_name, "-tr", training.trainer,
            )  # fmt: skip
            commands.append(Command(words=plain, note="begun by nnU-Net itself"))
        else:
            group = grouped.setdefault(tuple(_train_options(training)), {})
            group.setdefault(training.configuration, []).append(training.fold)
    for options, folds_of in grouped.items():
        together: dict[tuple[str, ...], list[str]] = {}
        for configuration, its_folds in folds_of.items():
            together.setdefault(tuple(sorted(its_folds, key=order_of)), []).append(configuration)
        for folds, configurations in together.items():
            words = (
                "gi2nnunet", "train", *_fold_words(folds, len(dataset.splits)),
                *_config_words(configurations), *options,
            )  # fmt: skip
            commands.append(Command(words=words))
    return commands


def _train_options(training: TrainedFold) -> list[str]:
    settings, record = training.settings, training.record
    known = read_plans_name(training.plans_name)
    preset = str(record.get("preset") or (known[0].name if known else training.plans_name))
    words = ["--preset", preset]
    if known and known[1]:
        words += ["--batch-size", f"{known[1]}"]
    for size in known[2] if known else ():
        words += ["--patch-size", size]
    if training.trainer != _STOCK_TRAINER:
        words += ["--trainer", training.trainer]
    for key in ("epochs", "iterations"):
        # Those of the preset are recorded as well, where none were given.
        if settings.get(key) is not None and not (known and settings[key] == vars(known[0])[key]):
            words += [f"--{key}", f"{settings[key]}"]
    words += _options(settings, _SETTINGS)
    return words + spell_settings(training.runs[-1] if training.runs else {})


def _fold_words(folds: Sequence[str], n_folds: int) -> list[str]:
    """Return ``--fold``; every fold of the split is ``cv``."""
    numbers = {str(number) for number in range(n_folds)}
    if numbers and numbers <= set(folds):
        folds = ["cv", *(fold for fold in folds if fold not in numbers)]
    return [word for fold in folds for word in ("--fold", fold)]


def _config_words(configurations: Sequence[str]) -> list[str]:
    if set(configurations) == set(CONFIGURATIONS):
        return []
    return [word for name in configurations for word in ("--config", name)]


def _model_words(folders: Sequence[str]) -> tuple[list[str], str]:
    """Return the options that choose models by their folders' names, and a note."""
    parts = [folder.split("__", 2) for folder in folders if folder.count("__") >= 2]
    if not parts:
        return [], "which models is not recorded"
    words = _config_words([configuration for _, _, configuration in parts])
    kinds = {(trainer, plans_name) for trainer, plans_name, _ in parts}
    if len(kinds) > 1:
        return words, "its configurations are of several plans: the newest of each was taken"
    ((trainer, plans_name),) = kinds
    # A preset's name would stand for its plans with other batch and patch sizes, too.
    return [*words, "--preset", plans_name, "--trainer", trainer], ""


def _tune(content: Mapping[str, Any]) -> Command:
    chosen, note = _model_words([str(name) for name in take_list(content, "models")])
    words = ["gi2nnunet", "tune", *chosen]
    words += _options(content, {"metric": ("--metric", "per-class"), "seed": ("--seed", 0)})
    words += spell_settings(take_mapping(content, "computing"))
    return Command(words=tuple(words), note=note)


def _predict(about: Mapping[str, Any], dataset: Dataset) -> Command:
    options = take_mapping(about, "options")
    if not options:
        words = [
            "gi2nnunet",
            "predict-and-score",
            *spell_settings(take_mapping(about, "computing")),
        ]
        return Command(
            words=tuple(words), note="an earlier version recorded neither models nor source"
        )
    words = ["gi2nnunet", "predict-and-score" if options.get("score", True) else "predict"]
    if options.get("source"):
        words.append(str(options["source"]))
    chosen, note = _model_words([str(name) for name in take_list(options, "trained")])
    words += _fold_words([str(fold) for fold in take_list(options, "folds")], len(dataset.splits))
    words += chosen
    flags: dict[str, tuple[str, Any]] = {
        "source_labels": ("--source-labels", None),
        "allow_missing": ("--allow-missing", False),
        "nifti": ("--nifti", False),
        "save_probabilities": ("--save-probabilities", False),
    }
    if options.get("score", True):
        flags["metric"] = ("--metric", "per-class")
    words += _options(options, flags)
    words += ["--no-tuning"] if options.get("tuning") is False else []
    return Command(words=(*words, *spell_settings(take_mapping(about, "computing"))), note=note)
