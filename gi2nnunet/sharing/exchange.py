"""Model files: trained models written into one file for others, and taken in; it runs no code."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import (
    PART_SUFFIX,
    cannot_write,
    check_place,
    find_record,
    replace_file,
    write_json,
)
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset, dataset_id_of, find_datasets
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.model_file import (
    DATASET_JSON,
    MODEL_FILE_BEGINS,
    Bundle,
    open_bundle,
    plans_part,
)
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    IMPORT_RECORD,
    TRAINING_RECORD,
    Ensemble,
    ImportRecord,
    TrainedModel,
    check_digest,
    count_folds,
    find_digests,
    find_training_record,
    fold_folder,
    list_folds,
    list_models,
)
from gi2nnunet.nnunet.postprocess import Tuned, adopt_tuning, find_tuning
from gi2nnunet.prediction.choose import find_trained_prints, find_trained_scans
from gi2nnunet.sharing.nnunet_export import NnunetExport, find_export, unpack_export
from gi2nnunet.source.prints import pack_prints


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """A model file that was written: its size in bytes, its models, and their tuning if any."""

    path: Path
    size: int
    ensemble: Ensemble
    tuned: Tuned | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "file": str(self.path),
            "bytes": self.size,
            "models": self.ensemble.describe(),
            "tuning": str(self.tuned.path) if self.tuned else None,
        }


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model file that was taken into the workspace.

    Its model folders are new (``written``), or held the same before (``kept``). ``tuning`` is the
    file of the settings that tuning chose for the models, if they brought one.
    """

    bundle: Bundle
    written: tuple[Path, ...]
    kept: tuple[Path, ...]
    models: tuple[TrainedModel, ...]
    tuning: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "id": self.bundle.dataset_id,
            "written": [str(folder) for folder in self.written],
            "left_alone": [str(folder) for folder in self.kept],
            "tuning": str(self.tuning) if self.tuning else None,
        }


def export_model(
    ensemble: Ensemble, out: Path, *, dataset: Dataset | None, engine: Engine, half: bool = False
) -> ExportedModel:
    """Write models, the scans they were trained on, and their tuning into one file, or replace it.

    The dataset is the one that the models were trained on, if it is in the workspace. ``half``
    writes the weights in half precision: half the size, and predictions that may differ in single
    voxels.

    Raises
    ------
    InputError
        For a checkpoint, plans or tuning that are damaged or could run code.
    OutputError
        If the file cannot be written.
    """
    out = check_place(out, begins=MODEL_FILE_BEGINS)
    tuned, warnings = find_tuning(ensemble)
    first = ensemble.models[0]
    about = {
        "dataset": first.folder.parent.name,
        "trainer": first.trainer,
        "plans_name": first.plans_name,
        "n_folds": len(dataset.splits) if dataset else count_folds(first.folder.parent),
        "tuning": tuned.pack() if tuned else None,
        "models": {model.configuration: list(ensemble.folds) for model in ensemble.models},
    }
    models = [
        {
            "folder": str(model.folder),
            "configuration": model.configuration,
            "folds": [
                {
                    "fold": fold,
                    "trained_on": None if scans is None else sorted(scans),
                    "prints": {
                        scan_id: pack_prints(prints)
                        for scan_id, prints in sorted(
                            find_trained_prints(model, fold, dataset=dataset).items()
                        )
                    },
                    "training": find_training_record(fold_folder(model.folder, fold)),
                }
                for fold in ensemble.folds
                for scans in [find_trained_scans(model, fold, dataset=dataset)]
            ],
        }
        for model in ensemble.models
    ]
    options = {"out": str(out.absolute()), "models": models, "about": about, "half": half}
    _run(engine, "export", {**options, "trust": engine.trust})
    return ExportedModel(
        path=out, size=out.stat().st_size, ensemble=ensemble, tuned=tuned, warnings=tuple(warnings)
    )


def import_model(path: Path, *, engine: Engine, replace: bool = False) -> ImportedModel:
    """Take a model file and its tuning into the workspace, as nnU-Net's own model folders.

    A zip of ``nnUNetv2_export_model_to_zip`` is made into a model file first.

    Each model folder appears whole or not at all; the same file again writes what is missing. Other
    models of the same names are only replaced with ``replace``, and only if the file holds each of
    their folds. An engine that trusts accepts plans that name code which nnU-Net does not ship.

    Raises
    ------
    InputError
        If the file is damaged, was altered, or names code that nnU-Net does not ship, or the
        workspace holds other models, more folds or another dataset under its names.
    OutputError
        If there is not enough space, it cannot be written, or another run is active there.
    """
    results = engine.workspace.results
    export = find_export(path)
    given = open_bundle(path, trust=engine.trust) if export is None else export
    _check_number(path, given.dataset, engine)
    home = results / given.dataset
    with hold(home, purpose="importing a model"):
        # The hidden folder is one of the dataset, so that the next import removes a killed one's.
        hidden = results / f".{given.dataset}{PART_SUFFIX}"
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            bundle = given if isinstance(given, Bundle) else _pack(given, hidden, engine)
            folders = {name: home / bundle.folder_name(name) for name in bundle.folds}
            kept = {name for name, folder in folders.items() if _is_same(bundle, name, folder)}
            todo = {name: folder for name, folder in folders.items() if name not in kept}
            _check_places(path, bundle, todo, replace=replace)
            _check_space(bundle, results)
            _unpack(bundle, todo, engine, hidden=hidden)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
    names = {folder.name for folder in folders.values()}
    models = tuple(model for model in list_models(home) if model.folder.name in names)
    return ImportedModel(
        bundle=dataclasses.replace(bundle, path=path),
        written=tuple(todo.values()),
        kept=tuple(folders[name] for name in folders if name in kept),
        models=models,
        tuning=None if bundle.tuning is None else adopt_tuning(bundle.tuning, models),
    )


def _pack(export: NnunetExport, hidden: Path, engine: Engine) -> Bundle:
    """Make nnU-Net's own export into a model file, which leaves its pickles behind."""
    _require_space(export.path, 3 * export.size, engine.workspace.results)
    unpacked, packed = hidden / "unpacked", hidden / export.path.name
    try:
        export_model(unpack_export(export, unpacked), packed, dataset=None, engine=engine)
        shutil.rmtree(unpacked, ignore_errors=True)
        return open_bundle(packed, trust=engine.trust)
    except InputError as error:
        found = str(error).replace(f"{unpacked.absolute()}/", f"{export.path}, ")
        raise InputError(found.replace(f"{unpacked}/", f"{export.path}, ")) from error


def _check_number(path: Path, dataset: str, engine: Engine) -> None:
    """Refuse a file if its dataset's number belongs to another dataset of the workspace."""
    workspace = engine.workspace
    for root in (workspace.raw, workspace.preprocessed, workspace.results):
        for other in find_datasets(root, dataset_id_of(dataset)):
            if other.name != dataset:
                raise InputError(
                    f"{path}: is of {dataset}, and {other} is another dataset with "
                    "that number. nnU-Net finds datasets by number: choose another --workspace."
                )


def _check_places(path: Path, bundle: Bundle, todo: Mapping[str, Path], *, replace: bool) -> None:
    """Refuse to replace models unasked, those in training, and folds not in the file."""
    there = [folder for folder in todo.values() if folder.exists()]
    if there and not replace:
        raise InputError(
            f"{there[0]}: another model has that name. Replace it with --replace, or choose "
            "another --workspace."
        )
    lost = []
    for name, folder in todo.items():
        with hold(folder, purpose="importing"):  # no prediction uses it
            pass
        for fold in list_folds(folder.parent):
            if fold.folder.parent == folder:
                with hold(fold.folder, purpose="importing"):
                    pass
                if fold.fold not in map(str, bundle.folds[name]):
                    lost.append(fold)
    if lost:
        named = ", ".join(f"{fold.configuration}/{fold.folder.name}" for fold in lost)
        raise InputError(
            f"{path}: does not hold {named}, which replacing the model would delete. Choose "
            "another --workspace, or remove what you do not need with: gi2nnunet remove "
            f"{shlex.join(str(fold.folder) for fold in lost)}"
        )


def _unpack(bundle: Bundle, todo: Mapping[str, Path], engine: Engine, *, hidden: Path) -> None:
    """Write model folders into a hidden one, and move each to its place when it is whole."""
    if not todo:
        return
    options = {"bundle": bundle.to_json(), "into": str(hidden)}
    _run(engine, "import", {**options, "configurations": list(todo)})
    for name, folder in todo.items():
        _write_notes(bundle, name, hidden / folder.name)
        swap_folder(hidden / folder.name, folder, old=hidden / f"{folder.name}.old")


def _is_same(bundle: Bundle, configuration: str, folder: Path) -> bool:
    """Return whether a model folder holds just what a file holds of it."""
    found = [fold for fold in list_folds(folder.parent) if fold.folder.parent == folder]
    if {fold.fold for fold in found} != set(map(str, bundle.folds[configuration])):
        return False
    try:
        for name, part in _list_model_files(configuration):
            if (folder / name).read_bytes() != bundle.read(part):
                return False
        for fold in found:
            path = fold.folder / FINAL_CHECKPOINT
            check_digest(path)
            record = find_record(fold.folder / IMPORT_RECORD, ImportRecord) or {}
            if record.get("model") != bundle.digest or not find_digests(path):
                return False
    except (OSError, InputError):  # missing or damaged
        return False
    return True


def _list_model_files(configuration: str) -> tuple[tuple[str, str], ...]:
    """Return the files of a model folder beside its checkpoints, and what parts they are."""
    return ("plans.json", plans_part(configuration)), (DATASET_JSON, DATASET_JSON)


def _check_space(bundle: Bundle, results: Path) -> None:
    stored = sum(size for size, _ in bundle.parts.values())
    _require_space(bundle.path, stored * 2 if bundle.half else stored, results)


def _require_space(path: Path, needed: int, results: Path) -> None:
    free = shutil.disk_usage(next(p for p in (results, *results.parents) if p.exists())).free
    if needed > free:
        raise OutputError(
            f"{results}: {path} needs {needed / 2**20:.0f} MiB; only "
            f"{free / 2**20:.0f} MiB are free. Free some space, or choose another --workspace."
        )


def _write_notes(bundle: Bundle, configuration: str, folder: Path) -> None:
    """Write the files of a model folder beside its checkpoints."""
    for name, part in _list_model_files(configuration):
        replace_file(folder / name, bundle.read(part))
    for fold in bundle.folds[configuration]:
        notes = bundle.read_notes(configuration, fold)
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
                "prints": notes.get("prints", {}),
            },
        )


def swap_folder(new: Path, place: Path, *, old: Path) -> None:
    """Put a folder in the place of another, which is moved to ``old``; both or neither happens.

    Raises
    ------
    OutputError
        If it cannot be moved there.
    """
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
        raise cannot_write(place, error) from error


def _run(engine: Engine, task: str, options: Mapping[str, Any]) -> None:
    log = engine.new_log(task)
    engine.run(task, options, log=log, threads=count_cores())
