"""Models that a workspace holds, and the choice of those to use."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import PositiveFloat, PositiveInt, StringConstraints
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, name_some
from gi2nnunet.core.files import Count, find_record, write_json
from gi2nnunet.core.seals import hash_file
from gi2nnunet.nnunet.presets import (
    CONFIGURATIONS,
    PRESETS,
    STOCK_TRAINER,
    Augment,
    read_plans_name,
    spell_preset,
)

Fold = int | str  # a fold's number, or "all"

FINAL_CHECKPOINT = "checkpoint_final.pth"
TRAINING_RECORD = "gi2nnunet_training.json"
IMPORT_RECORD = "gi2nnunet_imported.json"
DIGESTS = "gi2nnunet_digests.json"
"""The SHA-256 of each checkpoint beside it; while one is being replaced, that of the former too."""


class TrainingLength(TypedDict, total=False):
    """What is read of the settings in a :class:`TrainingRecord`; the others are only compared."""

    epochs: Count | None
    iterations: Count | None
    augment: Augment | None


class TrainingRun(TypedDict, total=False):
    """One run of a training, from its start or a checkpoint."""

    device: str
    threads: int
    command: str
    peak_memory_bytes: Count
    peak_gpu_bytes: Count


class TrainingRecord(TypedDict, total=False):
    """What is recorded beside a fold that was trained here."""

    settings: TrainingLength
    batch_size: Count
    patch_size: list[Count]
    folds: Count
    preset: str
    plans: str
    dataset: str
    label_scheme: str
    versions: dict[str, str]
    runs: list[TrainingRun]


class PlansConfiguration(TypedDict, total=False):
    """What is read of a configuration in nnU-Net's plans; one that inherits names only changes."""

    data_identifier: str
    batch_size: PositiveInt
    patch_size: list[PositiveInt]
    spacing: list[PositiveFloat]
    previous_stage: str | None
    inherits_from: str | None


class Plans(TypedDict):
    """What is read of nnU-Net's plans."""

    configurations: dict[str, PlansConfiguration]


class ImportRecord(TypedDict, total=False):
    """What is recorded beside an imported fold.

    ``trained_on`` holds scan ids, or ``None`` if they are not known, and ``prints`` the prints of
    these scans' images; ``n_folds`` is the number of folds of their split.
    """

    trained_on: list[str] | None
    prints: dict[str, str]
    file: str
    model: str
    half: bool
    n_folds: Count


@dataclass(frozen=True, kw_only=True)
class FoldFolder:
    """One fold of a model in nnU-Net's results folder, trained to the end or not.

    Its ``folder``, with the checkpoints, is ``<trainer>__<plans>__<configuration>/fold_<fold>``.
    """

    folder: Path
    trainer: str
    plans_name: str
    configuration: str
    fold: str

    @property
    def finished(self) -> bool:
        """Return whether there is a final checkpoint."""
        return (self.folder / FINAL_CHECKPOINT).is_file()

    @property
    def order(self) -> tuple[str, str, str, tuple[int, str]]:
        """Return a key to sort by: the names, then the fold."""
        return self.trainer, self.plans_name, self.configuration, order_of(self.fold)


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """One configuration with the folds of it that are trained to the end.

    Its ``folder`` is nnU-Net's, ``<trainer>__<plans>__<configuration>``; numbered folds come first.
    ``newest`` is when the newest of them was finished, seconds since 1970.
    """

    folder: Path
    trainer: str
    plans_name: str
    configuration: str
    folds: tuple[Fold, ...]
    newest: float

    def describe_missing(self, n_folds: int) -> str:
        """Return a sentence on the folds of a split that are not trained; empty if all are."""
        missing = [number for number in range(n_folds) if number not in self.folds]
        numbers = ", ".join(map(str, missing))
        return f"{self.folder.name}: left out, as fold {numbers} is not trained" if missing else ""


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Models of different configurations; the probabilities of their common folds are averaged.

    ``chosen_by`` says why these, for the screen.
    """

    models: tuple[TrainedModel, ...]
    folds: tuple[Fold, ...]
    chosen_by: str

    @property
    def name(self) -> str:
        """Return a name that a folder can have."""
        folds = "".join(map(str, self.folds))
        parts = [
            f"{trainer}__{plans_name}__{'+'.join(configurations)}"
            for (trainer, plans_name), configurations in self._by_plan().items()
        ]
        return f"{'+'.join(parts)}__fold_{folds}"

    def describe(self) -> str:
        """Return the models in use, for the screen."""
        folds = ", ".join(map(str, self.folds))
        parts = [
            f"{' + '.join(configurations)}, fold {folds}, {trainer}, {plans_name}"
            for (trainer, plans_name), configurations in self._by_plan().items()
        ]
        return f"{' + '.join(parts)} ({self.chosen_by})"

    def digest(self) -> str:
        """Return a digest of all checkpoints; raises :class:`InputError` if one cannot be read."""
        digests = [digest_checkpoint(model, fold) for model in self.models for fold in self.folds]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16]

    def _by_plan(self) -> dict[tuple[str, str], list[str]]:
        grouped: dict[tuple[str, str], list[str]] = {}
        for model in self.models:
            grouped.setdefault((model.trainer, model.plans_name), []).append(model.configuration)
        return grouped


def fold_folder(model_folder: Path, fold: Fold) -> Path:
    """Return the folder of one fold."""
    return model_folder / f"fold_{fold}"


def is_fold_number(text: str) -> bool:
    """Return whether a text is the number of a fold."""
    return text.isascii() and text.isdecimal() and len(text) <= 4


def order_of(fold: str) -> tuple[int, str]:
    """Return a key to sort folds by: numbers first."""
    return (int(fold), "") if is_fold_number(fold) else (1 << 20, fold)


def list_folds(results: Path) -> tuple[FoldFolder, ...]:
    """Return every fold under nnU-Net's results folder of one dataset, begun or finished."""
    found = [name_fold(folder) for folder in results.glob("*__*__*/fold_*") if folder.is_dir()]
    return tuple(sorted(found, key=lambda fold: fold.order))


def name_fold(folder: Path) -> FoldFolder:
    """Return a fold with the names that are in those of its folders."""
    trainer, plans_name, configuration = folder.parent.name.split("__", 2)
    return FoldFolder(
        folder=folder,
        trainer=trainer,
        plans_name=plans_name,
        configuration=configuration,
        fold=folder.name.removeprefix("fold_"),
    )


def list_models(results: Path) -> tuple[TrainedModel, ...]:
    """Return the finished models under nnU-Net's results folder of one dataset."""
    finished: dict[Path, list[FoldFolder]] = {}
    for found in list_folds(results):
        if found.finished and (found.fold == "all" or is_fold_number(found.fold)):
            finished.setdefault(found.folder.parent, []).append(found)
    return tuple(
        TrainedModel(
            folder=folder,
            trainer=some[0].trainer,
            plans_name=some[0].plans_name,
            configuration=some[0].configuration,
            folds=tuple("all" if one.fold == "all" else int(one.fold) for one in some),
            newest=max((one.folder / FINAL_CHECKPOINT).stat().st_mtime for one in some),
        )
        for folder, some in finished.items()
    )


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """Which models to use; whatever is not given comes from the newest complete set.

    Attributes
    ----------
    folds
        Numbers, ``"cv"`` for every fold of the split, or ``"all"``.
    preset
        The preset they were trained with, or nnU-Net's name of the plans.
    dataset_id
        The dataset they were trained on, if the workspace holds several.
    """

    configurations: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    preset: str | None = None
    trainer: str | None = None
    dataset_id: int | None = None

    def choose(self, results: Path, *, n_folds: int) -> Ensemble:
        """Choose the models, as :func:`choose_ensemble` does."""
        return choose_ensemble(
            results,
            n_folds=n_folds,
            configurations=self.configurations,
            folds=[int(fold) if is_fold_number(fold) else fold for fold in self.folds],
            preset=None if self.preset == "auto" else self.preset,
            trainer=self.trainer,
        )


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
    n_folds
        Folds of the dataset's split; 0 if it has none.
    configurations, folds, preset, trainer
        The user's choice; ``folds`` may hold ``"cv"`` for every fold of the split. Whatever is not
        given comes from the newest complete set: every configuration of one trainer and plan that
        has ``fold_all``, or every fold of the split.

    Raises
    ------
    InputError
        If nothing is trained, or not what the user chose.
    """
    models = list_models(results)
    if not models:
        raise InputError(
            f"{results}: holds no finished model. Train one with gi2nnunet train --fold all."
        )
    fitting = [
        model
        for model in models
        if (not configurations or model.configuration in configurations)
        and is_asked_for(model, preset=preset, trainer=trainer)
    ]
    split = tuple(range(n_folds))
    asked = _expand(folds, split)
    candidates: list[tuple[bool, float, Ensemble]] = []
    for group in _group(fitting, across=len(set(configurations)) > 1):
        for choice in [asked] if asked else _list_choices(group, split):
            having = [model for model in group if set(choice) <= set(model.folds)]
            if not having or (configurations and len(having) < len(set(configurations))):
                continue
            complete = choice in (("all",), split)
            newest = max(_finished(model, fold) for model in having for fold in choice)
            why = "as asked" if asked or configurations or preset else "the newest complete set"
            if not complete and not asked:
                why = "no set is complete: the folds finished so far"
            ensemble = Ensemble(models=tuple(having), folds=choice, chosen_by=why)
            candidates.append((complete, newest, ensemble))
    if not candidates:
        trained = "; ".join(
            f"{m.configuration} fold {', '.join(map(str, m.folds))} ({m.trainer}, {m.plans_name})"
            for m in models
        )
        raise InputError(
            f"{results}: has no finished model with these options "
            f"(--config {' '.join(configurations) or 'any'}, "
            f"--fold {' '.join(map(str, folds)) or 'any'}, --preset {preset or 'any'}). "
            f"Finished: {trained}.\n"
            + "\n".join(
                _spell_missing(
                    fitting or models, configurations, folds, split, preset=preset, trainer=trainer
                )
                or ["Choose among these with --config, --fold, --preset and --trainer."]
            )
        )
    return max(candidates, key=lambda candidate: candidate[:2])[2]


def _spell_missing(
    models: Sequence[TrainedModel],
    configurations: Sequence[str],
    folds: Sequence[Fold | str],
    split: tuple[int, ...],
    *,
    preset: str | None,
    trainer: str | None,
) -> list[str]:
    """Return how to train what is asked for; what is not asked for is as of the newest model."""
    like = max(models, key=lambda model: model.newest)
    trainer = trainer or like.trainer
    plans_name = like.plans_name
    if preset and not is_asked_for(like, preset=preset, trainer=None):
        plans_name = PRESETS[preset].plans_name if preset in PRESETS else preset
    wanted = _expand(folds, split) or like.folds
    lines = []
    for configuration in dict.fromkeys(configurations or [like.configuration]):
        name = f"{trainer}__{plans_name}__{configuration}"
        trained = next((m.folds for m in models if m.folder.name == name), ())
        missing = [fold for fold in wanted if fold not in trained and fold in ("all", *split)]
        if missing:
            every = "cv" in folds or missing == list(split)
            folder = like.folder.with_name(name)
            alike = (trainer, plans_name) == (like.trainer, like.plans_name)
            own = fold_folder(like.folder if alike else folder, like.folds[0])
            options = spell_options(folder, ["cv"] if every else missing, settings_of=own)
            lines.append(
                f"Train what is missing with: gi2nnunet train {options}"
                if spell_preset(plans_name)
                else f"Train what is missing with nnUNetv2_train, with the plans {plans_name}."
            )
    return lines


def _list_choices(group: Sequence[TrainedModel], split: tuple[int, ...]) -> list[tuple[Fold, ...]]:
    """Return the complete sets of folds; if there is none, the finished folds that all have."""
    choices: list[tuple[Fold, ...]] = [("all",), *([split] if split else [])]
    if any(set(choice) <= set(model.folds) for choice in choices for model in group):
        return choices
    common = set.intersection(*(set(model.folds) for model in group))
    return [tuple(sorted(common, key=str))] if common else []


def _group(models: Sequence[TrainedModel], *, across: bool) -> list[list[TrainedModel]]:
    """Return the models of each trainer and plan, in order of configuration.

    With ``across``, last the newest of each configuration, of any trainer and plan: so 2d and
    3d_fullres with different batch sizes come together.
    """
    keys = dict.fromkeys((model.trainer, model.plans_name) for model in models)
    groups = [[m for m in models if (m.trainer, m.plans_name) == key] for key in keys]
    if across:
        newest = {m.configuration: m for m in sorted(models, key=lambda model: model.newest)}
        groups += [list(newest.values())] if list(newest.values()) not in groups else []
    return [sorted(group, key=lambda model: _order(model.configuration)) for group in groups]


def count_folds(results: Path) -> int:
    """Return how many folds the split had that a dataset's models were trained on; 0 if unknown."""
    folders = [found.folder for found in list_folds(results)]
    trained = [find_training_record(folder).get("folds", 0) for folder in folders]
    imported = [record.get("n_folds", 0) for f in folders if (record := find_import_record(f))]
    return max([*trained, *imported], default=0)


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


def is_asked_for(model: TrainedModel, *, preset: str | None, trainer: str | None) -> bool:
    """Return whether a model is of the given ``--preset`` and ``--trainer``; ``None`` fits all.

    A preset's name fits its plans with any batch and patch sizes; nnU-Net's name of plans only
    those.
    """
    if trainer is not None and model.trainer != trainer:
        return False
    if preset in PRESETS:
        known = read_plans_name(model.plans_name)
        return known is not None and known[0].name == preset
    return preset is None or model.plans_name == preset


def spell_models(models: Sequence[TrainedModel], *, folds: Sequence[Fold | str] = ()) -> list[str]:
    """Return the options that choose these models; those of one trainer and plan, and no others."""
    words = [word for model in models for word in ("--config", model.configuration)]
    words += [word for fold in folds for word in ("--fold", str(fold))]
    for option, names in (
        ("--preset", {model.plans_name for model in models}),
        ("--trainer", {model.trainer for model in models}),
    ):
        words += [option, *names] if len(names) == 1 else []
    return words


def _order(configuration: str) -> int:
    known = (*CONFIGURATIONS, configuration)
    return known.index(configuration)


def _finished(model: TrainedModel, fold: Fold) -> float:
    return (fold_folder(model.folder, fold) / FINAL_CHECKPOINT).stat().st_mtime


def find_training_record(folder: Path) -> TrainingRecord:
    """Return what was recorded beside a fold.

    It is empty for a fold that nnU-Net itself trained, and if the record is damaged.
    """
    return find_record(folder / TRAINING_RECORD, TrainingRecord) or {}


def find_import_record(folder: Path) -> ImportRecord | None:
    """Return what was recorded beside a fold when it was imported; ``None`` if it was not.

    Raises
    ------
    InputError
        If the record is damaged: without it, nobody knows which scans the fold has seen.
    """
    remedy = "Import the model again: gi2nnunet import-model MODEL --replace"
    return find_record(folder / IMPORT_RECORD, ImportRecord, remedy=remedy)


_CheckpointName = Literal["checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth"]
_Digests = dict[_CheckpointName, list[Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]]]


def record_digest(path: Path, written: Path) -> None:
    """Record the SHA-256 of a checkpoint that is about to be put in its place.

    Until it is there, that of the checkpoint before it counts too.
    """
    recorded = path.with_name(DIGESTS)
    known: Any = find_record(recorded, _Digests) or {}
    write_json(recorded, {**known, path.name: [hash_file(written), *known.get(path.name, [])[:1]]})


def check_digest(path: Path) -> str:
    """Return the SHA-256 of a checkpoint, and compare it with the recorded one, if there is one.

    A checkpoint that plain nnU-Net saved has none.

    Raises
    ------
    InputError
        If the checkpoint cannot be read, or is not the one that was recorded.
    """
    remedy = spell_restore(path.parent)
    try:
        digest = hash_once(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected a checkpoint. {remedy}") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot be read ({reason}). {remedy}") from error
    recorded = find_digests(path)
    if recorded and digest not in recorded:
        raise InputError(
            f"{path}: found other content than was saved (SHA-256 {digest[:16]}); expected "
            f"{recorded[0][:16]}, as recorded in {DIGESTS} beside it. {remedy}"
        )
    return digest


def hash_once(path: Path) -> str:
    """Return the SHA-256 of a file, which is read once in a process while it is unchanged."""
    found = path.stat()
    return _hash_unchanged(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1024)
def _hash_unchanged(path: Path, size: int, modified_ns: int) -> str:
    return hash_file(path)


def find_digests(path: Path) -> list[str]:
    """Return the recorded SHA-256 of a checkpoint; none if plain nnU-Net saved it.

    Raises :class:`InputError` if the record is damaged.
    """
    remedy = "Delete it; then only PyTorch's own checksums are compared."
    recorded: Any = find_record(path.with_name(DIGESTS), _Digests, remedy=remedy) or {}
    return list(recorded.get(path.name, []))


def warn_of_unrecorded(ensemble: Ensemble) -> str | None:
    """Return a sentence on checkpoints without a recorded digest, if there are any."""
    paths = [
        fold_folder(model.folder, fold) / FINAL_CHECKPOINT
        for model in ensemble.models
        for fold in ensemble.folds
    ]
    bare = [path for path in paths if path.is_file() and not find_digests(path)]
    if not bare:
        return None
    return (
        f"{name_some([str(path) for path in bare], most=1)}: has no recorded "
        "SHA-256, as plain nnU-Net saved it; only PyTorch's own checksums are compared"
    )


def spell_restore(folder: Path) -> str:
    """Return the sentence that says how to get the checkpoint of a fold's folder again."""
    imported = find_record(folder / IMPORT_RECORD, ImportRecord)
    if imported is not None or (folder / IMPORT_RECORD).is_file():
        file = shlex.quote((imported or {}).get("file", "MODEL"))
        return f"Import it again: gi2nnunet import-model {file} --replace"
    command = spell_training(folder)
    return f"Restore it, or train it again{f': {command} --restart' if command else '.'}"


def spell_training(folder: Path) -> str | None:
    """Return the command that trains a fold, by its folder and its record.

    ``None`` if its plans are not those of a preset.
    """
    _, plans_name, _ = _split_name(folder.parent)
    if not spell_preset(plans_name):
        return None
    fold = folder.name.removeprefix("fold_")
    return f"gi2nnunet train {spell_options(folder.parent, [fold], settings_of=folder)}"


def _split_name(folder: Path) -> tuple[str, str, str]:
    """Return trainer, plans and configuration, which nnU-Net's name of a model folder has."""
    trainer, _, names = folder.name.partition("__")
    plans_name, _, configuration = names.partition("__")
    return trainer, plans_name, configuration


def spell_options(folder: Path, folds: Sequence[Fold | str], *, settings_of: Path) -> str:
    """Return the options of ``train`` for folds of a model, with the settings of a fold."""
    trainer, plans_name, configuration = _split_name(folder)
    settings: Mapping[str, Any] = find_training_record(settings_of).get("settings", {})
    words = [f"--config {configuration}", *(f"--fold {fold}" for fold in folds)]
    words += spell_preset(plans_name)
    words += [f"--trainer {trainer}"] if trainer != STOCK_TRAINER else []
    for option, key in _SETTINGS.items():
        if settings.get(key) is not None:
            words.append(f"{option} {shlex.quote(str(settings[key]))}")
    return " ".join(words)


_SETTINGS = {
    "--epochs": "epochs", "--iterations": "iterations", "--lr": "learning_rate",
    "--augment": "augment", "--pretrained-weights": "pretrained_weights",
}  # fmt: skip


def spell_restore_model(folder: Path) -> str:
    """Return the sentence that says how to get the files of a model folder again."""
    return spell_restore(next(iter(sorted(folder.glob("fold_*"))), folder / "fold_all"))


def is_replaced(folder: Path, digest: str, *, read: bool = False) -> bool:
    """Return whether a fold's final checkpoint is known to be another one than a short digest says.

    The recorded digest is compared. A checkpoint that plain nnU-Net saved has none and counts as
    the same, unless it is ``read``. Raises :class:`InputError` if the record is damaged.
    """
    path = folder / FINAL_CHECKPOINT
    known = find_digests(path)
    if read and not known and path.is_file():
        known = [check_digest(path)]
    return bool(known) and not any(one.startswith(digest) for one in known)


def list_replaced(results: Path, checkpoints: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Name the folds that have other checkpoints now, as :func:`is_replaced` says.

    ``checkpoints`` are short digests by model folder and fold. ``results`` is nnU-Net's folder of a
    dataset.
    """
    return [
        f"{model}/fold_{fold}"
        for model, folds in checkpoints.items()
        for fold, digest in folds.items()
        if is_replaced(fold_folder(results / model, fold), digest)
    ]


def digest_checkpoint(model: TrainedModel, fold: Fold) -> str:
    """Return a short digest of a fold's final checkpoint; raises as :func:`check_digest`."""
    return check_digest(fold_folder(model.folder, fold) / FINAL_CHECKPOINT)[:16]
