"""Pass models on, and take in those of others, in one file that runs no code."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import read_json, replace_file, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset, find_datasets
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.model_file import DATASET_JSON, Bundle, notes_part, open_bundle, plans_part
from gi2nnunet.nnunet.models import (
    IMPORT_RECORD,
    TRAINING_RECORD,
    Ensemble,
    Fold,
    TrainedModel,
    count_folds,
    fold_folder,
    list_folds,
    list_models,
    read_training_record,
)
from gi2nnunet.nnunet.postprocess import Tuned, adopt_tuning, find_tuning
from gi2nnunet.prediction.choose import find_trained_scans

FindScans = Callable[[TrainedModel, Fold], frozenset[str] | None]


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model file that was written.

    Attributes
    ----------
    path
        The file.
    size
        In bytes.
    """

    path: Path
    size: int


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model file that was taken in.

    Attributes
    ----------
    bundle
        What it holds.
    written
        Model folders that were written.
    kept
        Model folders that held the very same before.
    """

    bundle: Bundle
    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def export_model(
    ensemble: Ensemble,
    out: Path,
    *,
    find_scans: FindScans,
    n_folds: int,
    engine: Engine,
    tuning: Mapping[str, Any] | None = None,
    half: bool = False,
) -> ExportedModel:
    """Write models into one file: weights, plans, dataset.json, and what each fold was trained on.

    Parameters
    ----------
    ensemble
        The models.
    out
        The file; one that is there is replaced.
    find_scans
        Tells which scans a fold was trained on; ``None`` where that is not known.
    n_folds
        Folds of the split that the numbered folds are of; 0 where there is none.
    engine
        What writes it. One that trusts loads checkpoints and plans that could run code.
    tuning
        What was chosen for these models, to go along.
    half
        Write the weights in half precision: half the size, and predictions that may differ in
        single voxels.

    Raises
    ------
    InputError
        Where a checkpoint or a plan is damaged or could run code.
    OutputError
        Where the file cannot be written.
    """
    if out.is_dir():
        raise OutputError(f"{out}: is a folder; expected the name of a file to write.")
    first = ensemble.models[0]
    _run(
        engine,
        "export",
        {
            "out": str(out.absolute()),
            "models": [
                {
                    "folder": str(model.folder),
                    "configuration": model.configuration,
                    "folds": [
                        {
                            "fold": fold,
                            "trained_on": None if scans is None else sorted(scans),
                            "training": read_training_record(model, fold),
                        }
                        for fold in ensemble.folds
                        for scans in [find_scans(model, fold)]
                    ],
                }
                for model in ensemble.models
            ],
            "about": {
                "dataset": first.folder.parent.name,
                "trainer": first.trainer,
                "plans_name": first.plans_name,
                "n_folds": n_folds,
                "tuning": dict(tuning) if tuning else None,
                "models": {model.configuration: list(ensemble.folds) for model in ensemble.models},
            },
            "half": half,
            "trust": engine.trust,
        },
    )
    return ExportedModel(path=out, size=out.stat().st_size)


def import_model(path: Path, *, engine: Engine, replace: bool = False) -> ImportedModel:
    """Take a model file into the workspace, as nnU-Net's own model folders.

    Each model folder appears whole or not at all; the same file again writes what is missing.

    Parameters
    ----------
    path
        A file of :func:`export_model`.
    engine
        Where it goes. One that trusts accepts plans that name what nnU-Net does not ship.
    replace
        Replace models that are there under the same names.

    Raises
    ------
    InputError
        Where the file is damaged, was altered, or names what nnU-Net does not ship, or the
        workspace holds other models or another dataset under its names.
    OutputError
        Where there is no space for it, it cannot be written, or another run works there.
    """
    workspace = engine.workspace
    bundle = open_bundle(path, trust=engine.trust)
    home = workspace.results / bundle.dataset
    for root in (workspace.raw, workspace.preprocessed, workspace.results):
        for other in find_datasets(root, bundle.dataset_id):
            if other.name != bundle.dataset:
                raise InputError(
                    f"{path}: is of {bundle.dataset}, and {other} is another dataset of that "
                    "number. nnU-Net finds datasets by number: choose another --workspace."
                )
    with hold(home, purpose="importing a model"):
        folders = {name: home / bundle.folder_name(name) for name in bundle.folds}
        kept = {name for name, folder in folders.items() if _is_same(bundle, name, folder)}
        todo = {name: folder for name, folder in folders.items() if name not in kept}
        there = [folder for folder in todo.values() if folder.exists()]
        if there and not replace:
            raise InputError(
                f"{there[0]}: there is another model of that name. Replace it with --replace, or "
                "choose another --workspace."
            )
        for fold in list_folds(home):
            if fold.folder.parent in there:
                with hold(fold.folder, purpose="importing"):  # nobody trains what is replaced
                    pass
        _check_space(bundle, workspace.results)
        hidden = workspace.results / f".import-{bundle.digest[:16]}.part"
        try:
            if todo:
                shutil.rmtree(hidden, ignore_errors=True)
                _run(
                    engine,
                    "import",
                    {
                        "file": str(path.absolute()),
                        "into": str(hidden),
                        "configurations": list(todo),
                        "trust": engine.trust,
                    },
                )
            for name, folder in todo.items():
                _write_notes(bundle, name, hidden / folder.name)
                _swap(hidden / folder.name, folder, old=hidden / f"{folder.name}.old")
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        return ImportedModel(
            bundle=bundle,
            written=tuple(todo.values()),
            kept=tuple(folders[name] for name in folders if name in kept),
        )


def _is_same(bundle: Bundle, configuration: str, folder: Path) -> bool:
    """Return whether a model folder holds just what a file holds of it."""
    found = [fold for fold in list_folds(folder.parent) if fold.folder.parent == folder]
    return {fold.fold for fold in found} == set(map(str, bundle.folds[configuration])) and all(
        read_json(fold.folder / IMPORT_RECORD).get("model") == bundle.digest and fold.finished
        for fold in found
    )


def _check_space(bundle: Bundle, results: Path) -> None:
    stored = sum(size for size, _ in bundle.parts.values())
    needed = stored * 2 if bundle.half else stored
    standing = next(folder for folder in (results, *results.parents) if folder.exists())
    free = shutil.disk_usage(standing).free
    if needed > free:
        raise OutputError(
            f"{results}: {bundle.path} needs {needed / 2**20:.0f} MiB there; free are "
            f"{free / 2**20:.0f} MiB. Free some space, or choose another --workspace."
        )


def _write_notes(bundle: Bundle, configuration: str, folder: Path) -> None:
    """Write what a model folder holds beside its checkpoints."""
    for name, part in (("plans.json", plans_part(configuration)), (DATASET_JSON, DATASET_JSON)):
        replace_file(folder / name, bundle.read(part))
    for fold in bundle.folds[configuration]:
        notes = bundle.read_json(notes_part(configuration, fold))
        if notes["training"]:
            write_json(fold_folder(folder, fold) / TRAINING_RECORD, notes["training"])
        write_json(
            fold_folder(folder, fold) / IMPORT_RECORD,
            {
                "file": bundle.path.name,
                "model": bundle.digest,
                "half": bundle.half,
                "n_folds": bundle.n_folds,
                "trained_on": notes["trained_on"],
            },
        )


def _swap(new: Path, place: Path, *, old: Path) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            place.replace(old)
        try:
            new.replace(place)
        except BaseException:
            if old.exists():
                old.replace(place)
            raise
    except OSError as error:
        raise OutputError(
            f"{place}: cannot be written ({error.strerror or error}). "
            "Check the rights of its folder, then run the same again."
        ) from error


def _run(engine: Engine, task: str, options: Mapping[str, Any]) -> None:
    engine.run(task, options, log=engine.new_log(task), threads=count_cores())


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """A model file.

    Attributes
    ----------
    model
        The file.
    ensemble
        The models in it.
    tuned
        What tuning chose and went along; ``None`` where there is nothing.
    warnings
        One sentence each.
    """

    model: ExportedModel
    ensemble: Ensemble
    tuned: Tuned | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """Models taken in.

    Attributes
    ----------
    model
        What was written.
    models
        The models of the file, now in the workspace.
    tuning
        The file of what tuning chose, where the models brought one.
    """

    model: ImportedModel
    models: tuple[TrainedModel, ...]
    tuning: Path | None


def hand_over(
    ensemble: Ensemble,
    out: Path,
    *,
    dataset: Dataset | None,
    engine: Engine,
    half: bool = False,
) -> HandedOver:
    """Write models, what they were trained on and what tuning chose for them, into one file.

    Parameters
    ----------
    ensemble
        The models.
    out
        The file; one that is there is replaced.
    dataset
        What they were trained on, where it is at hand.
    engine, half
        As :func:`~gi2nnunet.sharing.exchange.export_model` has them.

    Raises
    ------
    InputError
        Where a checkpoint, a plan or the tuning is damaged, or could run code.
    OutputError
        Where the file cannot be written.
    """
    tuned, warnings = find_tuning(ensemble)
    made = export_model(
        ensemble,
        out,
        find_scans=partial(find_trained_scans, dataset=dataset),
        n_folds=len(dataset.splits) if dataset else count_folds(ensemble.models[0].folder.parent),
        engine=engine,
        tuning=tuned.pack() if tuned else None,
        half=half,
    )
    return HandedOver(model=made, ensemble=ensemble, tuned=tuned, warnings=tuple(warnings))


def take_over(file: Path, *, engine: Engine, replace: bool = False) -> TakenOver:
    """Take a model file into the workspace, and what tuning chose with it.

    Parameters and errors are those of :func:`~gi2nnunet.sharing.exchange.import_model`.
    """
    done = import_model(file, engine=engine, replace=replace)
    names = {folder.name for folder in (*done.kept, *done.written)}
    models = tuple(
        model
        for model in list_models(engine.workspace.results / done.bundle.dataset)
        if model.folder.name in names
    )
    tuning = None if done.bundle.tuning is None else adopt_tuning(done.bundle.tuning, models)
    return TakenOver(model=done, models=models, tuning=tuning)
