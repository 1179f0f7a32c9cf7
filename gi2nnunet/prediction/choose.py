"""Choice of models and scans to predict, and what a score of them means.

Whether a score is honest depends on what the models were trained on: this is its standing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gi2nnunet.core.errors import InputError, count
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.checks import warn_of_leaking_folds
from gi2nnunet.dataset.manifest import (
    TRUTH,
    Dataset,
    find_datasets,
    image_name_of,
    read_dataset,
    require_unaltered,
)
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import patient_of
from gi2nnunet.formats.tables import MaskTable, read_mask_table, take_rows
from gi2nnunet.nnunet.models import (
    Ensemble,
    Fold,
    ModelChoice,
    TrainedModel,
    count_folds,
    find_import_record,
    fold_folder,
)
from gi2nnunet.nnunet.postprocess import find_tuning
from gi2nnunet.prediction.folders import KEPT
from gi2nnunet.prediction.predict import describe_checkpoints, describe_files
from gi2nnunet.scoring.masks import read_rows
from gi2nnunet.source.open import open_source
from gi2nnunet.source.prints import (
    Prints,
    find_originals,
    find_twins,
    take_mirrored_prints,
    unpack_prints,
)
from gi2nnunet.source.scan import Scan, SourceOptions


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Scans to predict, under a name fit for a folder and a description for the screen.

    ``truth`` holds their true rows with image sizes, if known, and ``standing`` says what a score
    means. The submission has the rows of ``sample`` in their order. ``folds`` are the folds to use
    by scan id, for out-of-fold prediction. ``source`` is where they come from, if not the dataset.
    ``labels`` say how label volumes are read, and ``volumes`` whether masks are wanted as label
    volumes, unless refused.
    """

    name: str
    described: str
    scans: tuple[Scan, ...]
    truth: MaskTable | None
    sample: MaskTable | None
    standing: Standing
    folds: Mapping[str, tuple[Fold, ...]] | None = None
    warnings: tuple[str, ...] = ()
    source: Path | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    volumes: bool = False

    @property
    def has_series(self) -> bool:
        """Return whether the scans are DICOM series."""
        return any(scan.has_series for scan in self.scans)

    @property
    def recorded(self) -> str:
        """Return :attr:`described` without the source's path, which can hold a patient's name."""
        if self.source is None:
            return self.described
        return self.described.replace(str(self.source), "SOURCE", 1)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Scans to predict, the models that predict them, and the folder for the results."""

    selection: Selection
    ensemble: Ensemble
    out: Path

    @property
    def submission(self) -> Path:
        """Return the path of the CSV."""
        return self.out / "submission.csv"

    @property
    def kept(self) -> Path:
        """Return the folder in which the rows of single scans are kept until all are there."""
        return self.out / KEPT

    def digest(self) -> str:
        """Return a digest of the models, their tuning and the scans."""
        models = self.ensemble.models
        plans = describe_files(model.folder / "plans.json" for model in models)
        checkpoints = describe_checkpoints(models, self.ensemble.folds)
        scans = [
            [scan.scan_id, list(scan.numbers), describe_files(scan.files)]
            for scan in self.selection.scans
        ]
        tuned = find_tuning(self.ensemble)[0]
        decision = tuned.decision.to_json() if tuned else None
        orientation = self.selection.options.get("orientation", "affine")
        content = json.dumps([plans, checkpoints, scans, decision, orientation])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def choose_work(
    source: Path | None,
    *,
    models: ModelChoice,
    workspace: Workspace,
    out: Path | None = None,
    options: SourceOptions | None = None,
) -> Work:
    """Choose scans, models, and the folder for the results; by default one in the workspace.

    Without a source, the workspace's own scans are chosen.

    Raises
    ------
    InputError
        If there are no such models, or no such scans.
    """
    dataset, ensemble = select_models(workspace, models)
    if source is None:
        dataset = dataset or read_dataset(workspace.raw, dataset_id=models.dataset_id)
        selection = select_own_scans(dataset, ensemble)
    else:
        options = (options or SourceOptions()).name_patients(workspace.patients)
        selection = select_source(source, options, dataset=dataset, ensemble=ensemble)
    if dataset and set(ensemble.folds) != {"all"}:
        warnings = (*selection.warnings, *warn_of_leaking_folds(dataset))
        selection = replace(selection, warnings=warnings)
    place = out or workspace.predictions / selection.name / ensemble.name
    return Work(selection=selection, ensemble=ensemble, out=place)


def select_models(
    workspace: Workspace, choice: ModelChoice | None = None
) -> tuple[Dataset | None, Ensemble]:
    """Find the models to predict with, and the dataset they were trained on if it is available.

    A workspace may hold only models, as on a machine that only predicts. By default the newest
    complete set is chosen.

    Raises
    ------
    InputError
        If there are no such models.
    """
    choice = choice or ModelChoice()
    dataset, dataset_id = None, choice.dataset_id
    if _holds_dataset(workspace, dataset_id) or not workspace.results.is_dir():
        dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
        name, n_folds = dataset.name, len(dataset.splits)
    else:
        name = _find_results(workspace, dataset_id)
        n_folds = count_folds(workspace.results / name)
    return dataset, choice.choose(workspace.results / name, n_folds=n_folds)


def _holds_dataset(workspace: Workspace, dataset_id: int | None) -> bool:
    """Return whether the raw folder holds the dataset; one only in the results was imported."""
    imported = (
        dataset_id is not None
        and not find_datasets(workspace.raw, dataset_id)
        and find_datasets(workspace.results, dataset_id)
    )
    return any(workspace.raw.glob("Dataset*")) and not imported


def _find_results(workspace: Workspace, dataset_id: int | None) -> str:
    pattern = f"Dataset{dataset_id:03d}_*" if dataset_id else "Dataset[0-9][0-9][0-9]_*"
    names = sorted(folder.name for folder in workspace.results.glob(pattern))
    if len(names) != 1:
        raise InputError(
            f"{workspace.results}: found {', '.join(names) or 'no model of a dataset'}; expected "
            "one. "
            + (
                "Choose one with --id."
                if names
                else "Take one in with: gi2nnunet import-model MODEL; or, to train one, begin "
                "with: gi2nnunet convert SOURCE"
            )
        )
    return names[0]


def select_own_scans(dataset: Dataset, ensemble: Ensemble) -> Selection:
    """Choose among a dataset's own scans.

    The held-out scans if there are any; else, with models of single folds, every training scan by
    the model of its own fold; else the training scans, in-sample.
    """
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    if held_out:
        standing: Standing = find_standing(
            held_out, dataset=dataset, ensemble=ensemble,
            prints={s: [prints] for s, prints in dataset.prints.items() if s in held_out},
        )  # fmt: skip
        return _of_dataset(dataset, held_out, "held-out", "the held-out test scans", standing)
    train = [scan.scan_id for scan in dataset.scans if scan.part == "train"]
    if not train:
        raise InputError(
            f"{dataset.folder}: holds no scan with truth. Name a source to predict instead."
        )
    trained_on = find_trained_on(ensemble, dataset=dataset)
    if trained_on is None:
        described = "the dataset's training scans; what the models trained on is not known"
        return _of_dataset(dataset, train, "training-scans", described, "unknown")
    # In the dataset's order: mle-bench pairs rows by their position.
    leaking = dataset.leaking_patients
    folds = find_unseen_folds(train, trained_on, leaking=leaking)
    if set(ensemble.folds) - {fold for unseen in folds.values() for fold in unseen}:
        described = "the training scans themselves"
        return _of_dataset(dataset, train, "in-sample", described, "in-sample")
    what = "the scan itself (its patient was seen)" if leaking else "its patient"
    described = f"all training scans, each by the model that did not see {what}"
    if len(folds) < len(train):
        numbers = ", ".join(map(str, ensemble.folds))
        described = f"the validation scans of fold {numbers}, by that fold's model"
    seen = {scan_id: {s for f in some for s in trained_on[f]} for scan_id, some in folds.items()}
    standing = judge_out_of_fold(dataset, seen)
    chosen = _of_dataset(dataset, list(folds), "out-of-fold", described, standing)
    return replace(chosen, folds=folds)


def _of_dataset(
    dataset: Dataset, scan_ids: Sequence[str], name: str, described: str, standing: Standing
) -> Selection:
    images = [image_name_of(scan_id, dataset.scan(scan_id).part) for scan_id in scan_ids]
    require_unaltered(dataset, [TRUTH, *images])
    return Selection(
        name=name,
        described=described,
        scans=tuple(map(dataset.open_scan, scan_ids)),
        truth=take_rows(read_mask_table(dataset.truth_path, any_scan=True), scan_ids),
        sample=None,
        standing=standing,
    )


def select_source(
    path: Path,
    options: SourceOptions | None = None,
    *,
    dataset: Dataset | None,
    ensemble: Ensemble,
) -> Selection:
    """Take the scans of a source, and their truth if all have some and it is asked for.

    Of the competition, these are the scans of ``test/``, or those of ``train/`` if it has none.
    """
    options = replace(options or SourceOptions(), scope="predicted")
    source = open_source(path, options)
    warnings = list(source.warnings)
    labelled = [scan for scan in source.scans.values() if scan.labelled and options.truth]
    if 0 < len(labelled) < len(source.scans):
        warnings.append(
            f"{source.path}: {len(labelled)} of {count(len(source.scans), 'scan')} have labels, so "
            "nothing is scored; give a source of labelled ones only"
        )
        labelled = []
    standing = find_standing(
        list(source.scans),
        dataset=dataset,
        ensemble=ensemble,
        prints=_read_prints([*source.scans.values()]),
    )
    source.keep_ids()
    return Selection(
        name=source.name,
        described="; ".join((source.described, *source.label_notes)),
        labels=source.label_notes,
        volumes=source.volumes,
        scans=tuple(scan.without_truth() for scan in source.scans.values()),
        truth=read_rows(source.truth_name, labelled),
        sample=source.sample,
        standing=standing,
        warnings=tuple(warnings),
        source=source.path,
        options=source.options,
    )


def _read_prints(scans: Sequence[Scan]) -> dict[str, tuple[Prints, ...]]:
    """Return the prints of scans' images and of their mirror images; not of damaged ones."""

    def read(scan: Scan) -> tuple[Prints, ...]:
        try:
            loaded = scan.without_truth().load()
        except InputError:
            return ()
        return () if loaded.problems else take_mirrored_prints(loaded.image)

    with ThreadPoolExecutor(count_cores(), thread_name_prefix="prints") as pool:
        found = zip(scans, pool.map(read, scans), strict=True)
        return {scan.scan_id: prints for scan, prints in found if prints}


Standing = Literal[
    "held-out", "out-of-fold", "seen-patient", "in-sample", "unknown", "unknown (judged by name)"
]


def find_trained_scans(
    model: TrainedModel, fold: Fold, *, dataset: Dataset | None
) -> frozenset[str] | None:
    """Return the scans that a fold was trained on; ``None`` if unknown.

    Imported folds record this; folds trained here used the given dataset.
    """
    record = find_import_record(fold_folder(model.folder, fold))
    if record is not None:
        scans = record.get("trained_on")
        return None if scans is None else frozenset(scans)
    if dataset is None:
        return None
    if fold != "all" and int(fold) < len(dataset.splits):
        return frozenset(dataset.splits[int(fold)]["train"])
    # ``all`` was trained on everything; any other number, on a split that nnU-Net drew itself.
    return frozenset(scan.scan_id for scan in dataset.scans if scan.part == "train")


def find_trained_on(
    ensemble: Ensemble, *, dataset: Dataset | None
) -> dict[Fold, frozenset[str]] | None:
    """Return by fold the scans that its models were trained on; ``None`` if any is unknown."""
    trained: dict[Fold, frozenset[str]] = {}
    for fold in ensemble.folds:
        for model in ensemble.models:
            scans = find_trained_scans(model, fold, dataset=dataset)
            if scans is None:
                return None
            trained[fold] = trained.get(fold, frozenset()) | scans
    return trained


def find_trained_prints(
    model: TrainedModel, fold: Fold, *, dataset: Dataset | None
) -> dict[str, Prints]:
    """Return the prints, by scan id, of the images that a fold was trained on; none if unknown."""
    record = find_import_record(fold_folder(model.folder, fold))
    if record is not None:
        return {name: unpack_prints(text) for name, text in record.get("prints", {}).items()}
    scans = find_trained_scans(model, fold, dataset=dataset)
    if scans is None or dataset is None:
        return {}
    return {name: prints for name, prints in dataset.prints.items() if name in scans}


def find_standing(
    scan_ids: Sequence[str],
    *,
    dataset: Dataset | None,
    ensemble: Ensemble,
    prints: Mapping[str, Sequence[Prints]],
) -> Standing:
    """Return what a score of these scans means, from what the models were trained on.

    Ids and contents are compared: ``prints`` are those of the scans' images, or of all their mirror
    images, by scan id. Without the prints of every scan, here and there, or with ids that do not
    name the patient, nothing shows that no patient was trained on.
    """
    trained_on = find_trained_on(ensemble, dataset=dataset)
    if trained_on is None:
        return "unknown"
    trained = frozenset().union(*trained_on.values())
    known: dict[str, Prints] = {}
    for fold in ensemble.folds:
        for model in ensemble.models:
            known |= find_trained_prints(model, fold, dataset=dataset)
    if trained & set(scan_ids) or find_originals(prints, known):
        return "in-sample"
    if {patient_of(s) for s in trained} & {patient_of(s) for s in scan_ids}:
        return "seen-patient"
    nameless = any(patient_of(s) == s for s in (*trained, *scan_ids))
    if nameless or trained - known.keys() or set(scan_ids) - prints.keys():
        return "unknown (judged by name)"
    return "held-out"


def judge_out_of_fold(dataset: Dataset, seen: Mapping[str, Collection[str]]) -> Standing:
    """Return what a score of training scans means if their models saw only ``seen``, by scan."""
    if any(
        other in seen.get(one, ()) or one in seen.get(other, ())
        for one, other in find_twins(dataset.prints)
    ):
        return "in-sample"
    if dataset.leaking_patients:
        return "seen-patient"
    nameless = any(
        scan.part == "train" and patient_of(scan.scan_id) == scan.scan_id for scan in dataset.scans
    )
    return "unknown (judged by name)" if nameless else "out-of-fold"


def find_unseen_folds(
    scan_ids: Sequence[str],
    trained_on: Mapping[Fold, frozenset[str]],
    *,
    leaking: Collection[str] = (),
) -> dict[str, tuple[Fold, ...]]:
    """Return by scan the folds that saw no day of its patient; scans without any are left out.

    Of ``leaking`` patients, only the scan itself must not have been seen.
    """

    def name(scan_id: str) -> str:
        return scan_id if patient_of(scan_id) in leaking else patient_of(scan_id)

    names = {fold: set(map(name, scans)) for fold, scans in trained_on.items()}
    unseen = {
        scan_id: tuple(fold for fold, seen in names.items() if name(scan_id) not in seen)
        for scan_id in scan_ids
    }
    return {scan_id: folds for scan_id, folds in unseen.items() if folds}
