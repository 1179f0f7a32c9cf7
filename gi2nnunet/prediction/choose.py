"""What to predict and with which models, and what a score of it will mean.

Whether a score is honest depends on what the models were trained on. Each selection therefore has a
:mod:`~gi2nnunet.prediction.leakage`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from gi2nnunet.core.errors import InputError, raise_problems
from gi2nnunet.core.files import find_kind
from gi2nnunet.dataset.encode import find_dataset_of, scan_id_of
from gi2nnunet.dataset.manifest import Dataset, find_datasets, read_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.labels import ALL_BITS, LabelScheme
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.tables import (
    MaskTable,
    Row,
    Size,
    _tabulate,
    read_mask_table,
    tabulate_rows,
    take_rows,
)
from gi2nnunet.nnunet.models import Ensemble, Fold, choose_ensemble, count_folds, is_fold_number
from gi2nnunet.prediction.leakage import Standing, find_standing, find_trained_on, find_unseen_folds
from gi2nnunet.prediction.predict import InputScan
from gi2nnunet.source.competition import Scan, read_index
from gi2nnunet.source.nifti import (
    NiftiIndex,
    NiftiScan,
    choose_scheme,
    is_nifti_source,
    read_labels,
    read_nifti_index,
    read_scan,
)
from gi2nnunet.source.slices import decode_label_map


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to predict, and what is known of it.

    Attributes
    ----------
    name
        Short, fit for a folder.
    described
        For the screen.
    scans
        The scans.
    truth
        Their true rows, where known, with image sizes.
    sample
        The sample submission whose rows and order to follow.
    standing
        What a score on them means.
    folds
        Folds to use by scan id, for out-of-fold prediction.
    warnings
        What was passed over.
    source
        Where the scans lie, unless they are the dataset's own.
    options
        How it was read, where that was said.
    """

    name: str
    described: str
    scans: tuple[InputScan, ...]
    truth: MaskTable | None
    sample: MaskTable | None
    standing: Standing
    folds: Mapping[str, tuple[Fold, ...]] | None = None
    warnings: tuple[str, ...] = ()
    source: Path | None = None
    options: Mapping[str, str | bool] = field(default_factory=dict)


def select_models(
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
    preset: str | None = None,
    trainer: str | None = None,
) -> tuple[Dataset | None, Ensemble]:
    """Find the models to predict with, and the dataset they were trained on where it is at hand.

    A workspace that holds models alone, as on a machine that only predicts, will do.

    Raises
    ------
    InputError
        Where there are no such models.
    """
    dataset = None
    if _holds_dataset(workspace, dataset_id) or not workspace.results.is_dir():
        dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
        name, n_folds = dataset.name, len(dataset.splits)
    else:
        name = _find_results(workspace, dataset_id)
        n_folds = count_folds(workspace.results / name)
    return dataset, choose_ensemble(
        workspace.results / name,
        n_folds=n_folds,
        configurations=configurations,
        folds=[int(fold) if is_fold_number(fold) else fold for fold in folds],
        preset=preset,
        trainer=trainer,
    )


def _holds_dataset(workspace: Workspace, dataset_id: int | None) -> bool:
    """Return whether the dataset is to be looked for in the raw folder.

    One whose number stands in the results alone was imported.
    """
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
            "one. " + ("Choose one with --id." if names else "Train it with gi2nnunet train.")
        )
    return names[0]


def select_own_scans(dataset: Dataset, ensemble: Ensemble) -> Selection:
    """Choose among a dataset's own scans.

    The held-out scans where there are any; else, with models of single folds, every training scan
    by the model of its own fold; else the training scans, in-sample.

    Raises
    ------
    InputError
        Where the dataset holds no scan with truth.
    """
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    if held_out:
        standing = find_standing(held_out, dataset=dataset, ensemble=ensemble)
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
    folds = find_unseen_folds(train, trained_on)
    if set(ensemble.folds) - {fold for unseen in folds.values() for fold in unseen}:
        described = "the training scans themselves"
        return _of_dataset(dataset, train, "in-sample", described, "in-sample")
    described = "all training scans, each by the model that did not see its patient"
    if len(folds) < len(train):
        numbers = ", ".join(map(str, ensemble.folds))
        described = f"the validation scans of fold {numbers}, by that fold's model"
    chosen = _of_dataset(dataset, list(folds), "out-of-fold", described, "out-of-fold")
    return replace(chosen, folds=folds)


def _of_dataset(
    dataset: Dataset, scan_ids: Sequence[str], name: str, described: str, standing: Standing
) -> Selection:
    by_id = {scan.scan_id: scan for scan in dataset.scans}
    scans = tuple(
        InputScan(
            scan_id=scan_id,
            numbers=tuple(by_id[scan_id].numbers),
            volume=dataset.image_path(scan_id),
        )
        for scan_id in scan_ids
    )
    return Selection(
        name=name,
        described=described,
        scans=scans,
        truth=take_rows(read_mask_table(dataset.truth_path, any_scan=True), scan_ids),
        sample=None,
        standing=standing,
    )


def select_source(
    path: Path,
    *,
    dataset: Dataset | None,
    ensemble: Ensemble,
    truth: bool = True,
    source_labels: LabelScheme | None = None,
    allow_missing: bool = False,
) -> Selection:
    """Take the scans of a competition source: its ``test/`` if it has one, else its ``train/``.

    Parameters
    ----------
    path
        The source, or a NIfTI file or folder of such.
    dataset
        What the models were trained on, to tell what a score means.
    ensemble
        The models.
    truth
        Whether to look for the truth.
    source_labels
        How label volumes are coded, where neither a dataset.json nor their values tell.
    allow_missing
        As in :func:`~gi2nnunet.source.competition.read_index`.

    Raises
    ------
    InputError
        Where it is neither, or its truth cannot be used.
    """
    if path.name.endswith((".nii", ".nii.gz")) or is_nifti_source(path):
        return _select_volumes(
            path, dataset=dataset, ensemble=ensemble, truth=truth, source_labels=source_labels
        )
    index = read_index(path, allow_missing=allow_missing)
    part = index.test or index.train
    return Selection(
        name=path.resolve().name.removesuffix(".zip"),
        described=f"{path} ({'test' if index.test else 'train'}, {len(part)} scans)",
        scans=tuple(
            InputScan(scan_id=scan_id, numbers=scan.numbers, source=path.absolute(), scan=scan)
            for scan_id, scan in part.items()
        ),
        truth=_truth_of_scans(f"{path}/train.csv", part.values()) if truth else None,
        # Its rows are the test scans'; a source without these is predicted as it is.
        sample=index.sample if index.test and index.sample and len(index.sample) else None,
        standing=find_standing(list(part), dataset=dataset, ensemble=ensemble),
        warnings=index.warnings,
        source=path.absolute(),
        options={"allow_missing": True} if allow_missing else {},
    )


def _truth_of_scans(name: str, scans: Iterable[Scan]) -> MaskTable | None:
    """Return the true rows of the scans that have them, with their image sizes.

    They are decoded once here, so that a row that cannot be scored is told before hours of
    prediction.
    """
    labelled = [scan for scan in scans if scan.texts is not None]
    raise_problems(
        (problem for scan in labelled for problem in decode_label_map(scan)[1]),
        remedy=f"Correct these rows of {name}.",
    )
    return _tabulate(
        name,
        (
            (scan.scan_id, number, organ, text, scan.height, scan.width)
            for scan in labelled
            for number, texts in zip(scan.numbers, scan.texts or (), strict=True)
            for organ, text in enumerate(texts)
        ),
    )


def _select_volumes(
    path: Path,
    *,
    dataset: Dataset | None,
    ensemble: Ensemble,
    truth: bool,
    source_labels: LabelScheme | None,
) -> Selection:
    """Take NIfTI files: one, or a folder of them with their labels where there are any."""
    kind = find_kind(path)
    if kind == "folder":
        index = read_nifti_index(path)
    elif kind == "file":
        scan_id = scan_id_of(path)
        alone = NiftiScan(scan_id=scan_id, part="test", image=path, label=None)
        index = NiftiIndex(path=path, scans={scan_id: alone}, declared_labels=None)
    else:
        raise InputError(f"{path}: no such file. Give a NIfTI volume or a folder of such.")
    scheme: LabelScheme | None = None
    if truth and any(scan.label for scan in index.scans.values()):
        values = {
            scan_id: np.bincount(read_labels(scan).array.reshape(-1), minlength=ALL_BITS + 1) > 0
            for scan_id, scan in index.scans.items()
            if scan.label
        }
        scheme = choose_scheme(index, values, asked=source_labels)
    beside = find_dataset_of(path)
    numbers_of = {scan.scan_id: scan.numbers for scan in beside.scans} if beside else {}
    scans: list[InputScan] = []
    rows: dict[str, list[Row]] = {}
    sizes: dict[str, Size] = {}
    for scan_id, scan in index.scans.items():
        volume, label_map, problems = read_scan(
            scan if scheme else replace(scan, label=None), scheme=scheme
        )
        raise_problems(problems, remedy=f"Correct these in {path}.")
        depth, height, width = volume.array.shape
        numbers = numbers_of.get(scan_id, tuple(range(1, depth + 1)))
        if len(numbers) != depth:
            raise InputError(
                f"{scan.image}: found {depth} slices; expected {len(numbers)}, as the manifest "
                "beside it says. Take the volume away from that manifest, or restore it."
            )
        if label_map is not None:
            rows[scan_id] = encode_scan(scan_id, numbers, label_map)
        sizes[scan_id] = (height, width)
        scans.append(InputScan(scan_id=scan_id, numbers=numbers, volume=scan.image.absolute()))
    warnings = []
    if 0 < len(rows) < len(scans):
        warnings.append(
            f"{path}: {len(rows)} of {len(scans)} volumes have labels, so nothing is scored; give "
            "a folder of labelled ones alone"
        )
    return Selection(
        name=path.resolve().name.removesuffix(".gz").removesuffix(".nii"),
        described=f"{path} ({len(scans)} NIfTI volumes)",
        scans=tuple(scans),
        truth=tabulate_rows(str(path), rows, sizes) if len(rows) == len(scans) else None,
        sample=None,
        standing=find_standing(list(index.scans), dataset=dataset, ensemble=ensemble),
        warnings=tuple(warnings),
        source=path.absolute(),
        options={"source_labels": source_labels} if source_labels else {},
    )
