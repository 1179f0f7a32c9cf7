"""Out-of-fold predictions: every training scan by the models that did not see its patient.

They are stored in eight bits, one file for each configuration and scan, under
``predictions/<dataset>/out_of_fold/<model folder>/``; a file that the same checkpoint made in the
same way is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, count, name_some
from gi2nnunet.core.files import find_record
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Notice, Progress, count_cores, count_steps, ignore
from gi2nnunet.dataset.checks import warn_of_leaking_folds
from gi2nnunet.dataset.manifest import (
    Dataset,
    image_name_of,
    label_name_of,
    read_dataset,
    require_unaltered,
)
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import patient_of
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, split_organs
from gi2nnunet.formats.probabilities import SUFFIX, EightBits, read_about, read_probabilities
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.tables import MaskTable, Row, tabulate_rows
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.checks import check_dataset, check_labels_of, check_same_labels
from gi2nnunet.nnunet.engine import COST, Engine, PredictionCost, PredictionSettings
from gi2nnunet.nnunet.models import (
    Ensemble,
    Fold,
    ModelChoice,
    TrainedModel,
    digest_checkpoint,
    fold_folder,
    is_replaced,
    list_models,
    warn_of_unrecorded,
)
from gi2nnunet.prediction.choose import (
    Standing,
    find_trained_on,
    find_unseen_folds,
    judge_out_of_fold,
)
from gi2nnunet.prediction.folders import OUT_OF_FOLD, lock_of_stored
from gi2nnunet.prediction.predict import predict_scans, write_cost
from gi2nnunet.source.check.in_models import ScanAgreement
from gi2nnunet.source.dataset import MANIFEST, list_files
from gi2nnunet.source.prints import find_twins

_HALF = 127.5  # of probabilities in eight bits


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Out-of-fold predictions of some models.

    By scan, the fold that predicted it. By the name of a model folder, where its files are, and its
    costs: ``seconds_per_scan``, ``peak_memory_bytes`` and, on CUDA, ``peak_gpu_bytes`` of the run
    that predicted most of them, empty if unknown. ``settings`` are device, threads, mirroring and
    step.
    """

    models: tuple[TrainedModel, ...]
    fold_of: Mapping[str, int]
    folders: Mapping[str, Path]
    costs: Mapping[str, PredictionCost]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return folders, folds and costs as plain values."""
        return {
            "folders": {name: str(folder) for name, folder in self.folders.items()},
            "folds": dict(self.fold_of),
            "costs": {name: dict(cost) for name, cost in self.costs.items()},
        }

    def path(self, model: TrainedModel, scan_id: str) -> Path:
        """Return the file of one scan's probabilities."""
        return self.folders[model.folder.name] / f"{scan_id}{SUFFIX}"


def choose_every_fold(
    models: ModelChoice, *, engine: Engine, on_notice: Notice | None = None
) -> tuple[Dataset, Ensemble]:
    """Choose models of every fold of the split; report which, and what they are computed on.

    A configuration of the same trainer and plans that is left out for a missing fold is
    reported too.
    """
    workspace, notice = engine.workspace, on_notice or ignore
    dataset = read_dataset(workspace.raw, dataset_id=models.dataset_id)
    if not dataset.splits:
        raise InputError(
            f"{dataset.folder}: has no folds; expected some, as each scan is predicted by the "
            "models that did not see its patient. Convert a source of two or more patients."
        )
    every = replace(models, folds=("cv",))
    results, n_folds = workspace.results / dataset.name, len(dataset.splits)
    ensemble = every.choose(results, n_folds=n_folds)
    if not (models.configurations or models.preset):
        ensemble = replace(ensemble, chosen_by="the newest with every fold")
    notice(engine.hardware.describe())
    notice(f"Models: {ensemble.describe()}")
    if not models.configurations:
        alike = {(model.trainer, model.plans_name) for model in ensemble.models}
        for model in list_models(results):
            missing = model.describe_missing(n_folds)
            if missing and (model.trainer, model.plans_name) in alike:
                notice(missing)
    for one, other in find_twins(dataset.prints):
        notice(
            f"{one} and {other} have the same image, or nearly so: if they are in different folds, "
            "the models have seen what they are scored on"
        )
    for warning in (*warn_of_leaking_folds(dataset), warn_of_unrecorded(ensemble)):
        if warning:
            notice(warning)
    return dataset, ensemble


def predict_out_of_fold(
    dataset: Dataset,
    ensemble: Ensemble,
    *,
    engine: Engine,
    settings: PredictionSettings,
    truth: bool = False,
    progress: Progress | None = None,
) -> OutOfFold:
    """Predict every training scan by its own fold's models, unless that has been done.

    With ``truth``, it is refused at once if the truth, which tuning reads later, is missing.

    Raises
    ------
    InputError
        If a fold is missing, a patient is in two folds, labels are exclusive or not the dataset's,
        or files of the dataset are missing.
    EngineError
        If nnU-Net fails; what is predicted by then is kept.
    """
    check_training_scans(dataset, truth=truth)
    check_same_labels(ensemble.models)
    check_labels_of(ensemble.models, dataset)
    fold_of = assign_folds(dataset, ensemble)
    home = engine.workspace.predictions / dataset.name / OUT_OF_FOLD
    folders = {model.folder.name: home / model.folder.name for model in ensemble.models}
    described = settings.describe(engine)
    total, done = len(fold_of) * len(ensemble.models), 0
    with hold(lock_of_stored(home), purpose="predicting out of fold"):
        for model in ensemble.models:
            folder = folders[model.folder.name]
            about = _describe_each(dataset, model, fold_of, described)
            missing = [s for s in fold_of if read_about(folder / f"{s}{SUFFIX}") != about[s]]
            done += len(fold_of) - len(missing)
            if missing:
                what = f"predicting out of fold: {model.configuration}"
                _predict_missing(
                    dataset, model, missing, fold_of=fold_of, about=about, folder=folder,
                    engine=engine, settings=settings,
                    on_scan=count_steps(progress, total, what, first=done),
                )  # fmt: skip
                done += len(missing)
    return OutOfFold(
        models=ensemble.models,
        fold_of=fold_of,
        folders=folders,
        costs={
            name: find_record(folder / COST, PredictionCost) or {}
            for name, folder in folders.items()
        },
        settings=described,
    )


def check_training_scans(dataset: Dataset, *, truth: bool) -> None:
    """Refuse a dataset with exclusive labels, missing files or, if needed, scans without truth.

    Raises
    ------
    InputError
        It names the files and the scans.
    """
    if dataset.label_scheme != "regions":
        raise InputError(
            f"{dataset.folder}: its labels are exclusive; expected one region per organ, which "
            "tuning needs. Convert it with --labels regions."
        )
    train = [scan for scan in dataset.scans if scan.part == "train"]
    unlabelled = [scan.scan_id for scan in train if not scan.labelled]
    if truth and unlabelled:
        raise InputError(
            f"{dataset.folder / MANIFEST}: found {name_some(unlabelled)} marked as not labelled; "
            "expected the truth of every training scan. Make the dataset again from a source with "
            "rows of each: gi2nnunet convert SOURCE"
        )
    check_dataset(dataset, names={image_name_of(scan.scan_id, scan.part) for scan in train})
    if truth:
        require_unaltered(dataset, [label_name_of(scan.scan_id, scan.part) for scan in train])


def assign_folds(dataset: Dataset, ensemble: Ensemble) -> dict[str, int]:
    """Return by training scan the one fold that did not train on its patient.

    Raises
    ------
    InputError
        If it is unknown what the models were trained on, or no fold or several are left.
    """
    train = [scan.scan_id for scan in dataset.scans if scan.part == "train"]
    trained_on = find_trained_on(ensemble, dataset=dataset)
    if trained_on is None:
        raise InputError(
            f"{ensemble.describe()}: it is not known which scans the models were trained on, and "
            "no model may predict those. Train others in their place with gi2nnunet train --fold "
            "cv --restart."
        )
    leaking = dataset.leaking_patients
    unseen = find_unseen_folds(train, trained_on, leaking=leaking)
    numbered = [fold for fold in ensemble.folds if fold != "all"]
    if seen := [scan_id for scan_id in train if scan_id not in unseen]:
        missing = sorted(set(range(len(dataset.splits))) - {int(fold) for fold in numbered})
        raise InputError(
            f"{ensemble.describe()}: every model was trained on {seen[0]}"
            + (f" and {count(len(seen) - 1, 'more scan')}" if len(seen) > 1 else "")
            + f" (missing folds: {', '.join(map(str, missing)) or 'none of the split'}). "
            "Train them with gi2nnunet train --fold cv."
        )
    fold_of: dict[str, int] = {}
    patients: dict[str, int] = {}
    own = {s: number for number, fold in enumerate(dataset.splits) for s in fold["val"]}
    for scan_id in train:
        folds = [fold for fold in unseen[scan_id] if fold != "all"]
        if own.get(scan_id) in folds:  # others may have left the scan out
            folds = [own[scan_id]]
        if len(folds) != 1:
            raise InputError(
                f"{scan_id}: {count(len(folds), 'fold')} did not train on its patient; expected "
                "one, as in a split by patients. Convert the source again."
            )
        fold_of[scan_id] = int(folds[0])
        if patient_of(scan_id) in leaking:
            continue
        if patients.setdefault(patient_of(scan_id), fold_of[scan_id]) != fold_of[scan_id]:
            raise InputError(
                f"{patient_of(scan_id)}: found in two folds; expected one. "
                "Convert the source again: its split is grouped by patient."
            )
    return fold_of


def _describe_each(
    dataset: Dataset,
    model: TrainedModel,
    fold_of: Mapping[str, int],
    computing: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return by scan what its stored probabilities depend on."""
    digests = {fold: digest_checkpoint(model, fold) for fold in set(fold_of.values())}
    return {
        scan_id: {
            **computing,
            "fold": fold,
            "checkpoint": digests[fold],
            "image": _describe_image(dataset, scan_id),
        }
        for scan_id, fold in fold_of.items()
    }


def _describe_image(dataset: Dataset, scan_id: str) -> str:
    """Return the start of the digest of a training scan's image, as it was converted."""
    described = list_files(dataset.manifest)[image_name_of(scan_id, "train")]
    return described.get("sha256", "")[:16]


def read_stored(path: Path, shape: tuple[int, ...]) -> EightBits:
    """Read one scan's probabilities ``(organ, z, y, x)``, uint8, for its shape ``(z, y, x)``.

    Raises
    ------
    InputError
        If the file is damaged, or has another shape.
    """
    array = read_probabilities(path).array
    if array.shape[1:] != shape:
        raise InputError(
            f"{path}: found {array.shape[1:]} voxels; expected {shape}, as the scan has. Delete it "
            "and run gi2nnunet out-of-fold again."
        )
    return array


def _predict_missing(
    dataset: Dataset,
    model: TrainedModel,
    missing: Sequence[str],
    *,
    fold_of: Mapping[str, int],
    about: Mapping[str, Mapping[str, Any]],
    folder: Path,
    engine: Engine,
    settings: PredictionSettings,
    on_scan: Callable[[object], None],
) -> None:
    require_unaltered(dataset, [image_name_of(scan_id, "train") for scan_id in missing])
    folds: dict[str, tuple[Fold, ...]] = {scan_id: (fold_of[scan_id],) for scan_id in missing}
    ensemble = Ensemble(
        models=(model,), folds=tuple(sorted({f for (f,) in folds.values()}, key=str)), chosen_by=""
    )
    began = time.monotonic()
    predicted = predict_scans(
        ensemble,
        [dataset.open_scan(scan_id) for scan_id in missing],
        engine=engine,
        settings=settings,
        folds=folds,
        probability_folders={model.folder.name: folder},
        about=about,
        on_scan=on_scan,
    )
    before = find_record(folder / COST, PredictionCost) or {}
    if len(missing) >= before.get("scans", 0):
        seconds = (time.monotonic() - began) / len(missing)
        write_cost(folder, predicted, engine, seconds_per_scan=seconds)


@dataclass(frozen=True, kw_only=True)
class StoredPredictions:
    """Stored out-of-fold predictions of a dataset as it is now: by scan a file of each model.

    ``replaced`` names the folds that have other checkpoints now than those that predicted; what
    these predicted is not among ``paths``.
    """

    dataset: Dataset
    paths: dict[str, tuple[Path, ...]]
    replaced: tuple[str, ...] = ()

    def predict(self, scan_id: str) -> LabelMap:
        """Return one scan's label map ``(z, y, x)``: where the models' mean is above a half."""
        return self._predict(scan_id, self.dataset.scan(scan_id).shape)

    def _predict(self, scan_id: str, shape: tuple[int, ...]) -> LabelMap:
        arrays = [read_stored(path, shape) for path in self.paths[scan_id]]
        total: NDArray[np.uint16] = np.sum(arrays, axis=0, dtype=np.uint16)
        label_map = np.zeros(shape, np.uint8)
        for organ, bit in enumerate(ORGAN_BITS):
            label_map |= (total[organ] > _HALF * len(arrays)) * np.uint8(bit)
        return label_map

    @property
    def standing(self) -> Standing:
        """Return what a score of them means."""
        folds = self.dataset.splits
        seen = {scan_id: set(fold["train"]) for fold in folds for scan_id in fold["val"]}
        return judge_out_of_fold(self.dataset, seen)

    def tabulate(
        self, name: str, *, jobs: int | None = None, progress: Progress = ignore
    ) -> MaskTable:
        """Return the rows of the label maps, ``jobs`` scans at once, under a name for messages.

        Raises :class:`InputError` if a file is damaged.
        """

        def encode(scan_id: str) -> list[Row]:
            scan = self.dataset.scan(scan_id)
            return encode_scan(scan_id, scan.numbers, self.predict(scan_id))

        # In the dataset's order: mle-bench pairs rows by their position.
        scan_ids = [s.scan_id for s in self.dataset.scans if s.scan_id in self.paths]
        rows: dict[str, list[Row]] = {}
        with ThreadPoolExecutor(jobs or count_cores(), thread_name_prefix="rows") as pool:
            for scan_id, encoded in zip(scan_ids, pool.map(encode, scan_ids), strict=True):
                rows[scan_id] = encoded
                progress(len(rows), len(scan_ids), "reading out-of-fold predictions")
        table = tabulate_rows(name, rows)
        if table is None:
            raise ValueError("no scan to tabulate")
        return table

    def measure(
        self, scan_ids: Collection[str], *, jobs: int | None = None, progress: Progress = ignore
    ) -> tuple[ScanAgreement, ...]:
        """Compare scans with their truth, ``jobs`` at once; those not predicted are passed over."""
        chosen = [scan_id for scan_id in self.paths if scan_id in scan_ids]
        require_unaltered(self.dataset, [label_name_of(scan_id, "train") for scan_id in chosen])
        found = []
        with ThreadPoolExecutor(jobs or count_cores(), thread_name_prefix="agreement") as pool:
            try:
                for done, agreement in enumerate(pool.map(self._measure, chosen), 1):
                    found.append(agreement)
                    progress(done, len(chosen), "comparing with predictions")
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return tuple(found)

    def _measure(self, scan_id: str) -> ScanAgreement:
        truth_map = read_volume(self.dataset.label_path(scan_id)).array.astype(np.uint8)
        truth = split_organs(truth_map)
        predicted = split_organs(self._predict(scan_id, truth_map.shape))
        return ScanAgreement(
            scan_id=scan_id,
            first_number=self.dataset.scan(scan_id).numbers[0],
            truth=truth.sum(axis=(2, 3)),
            predicted=predicted.sum(axis=(2, 3)),
            shared=(truth & predicted).sum(axis=(2, 3)),
        )


def describe_stored(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return by training scan what is said of its stored probabilities, however they were made."""
    return {
        scan_id: {"fold": number, "image": _describe_image(dataset, scan_id)}
        for number, fold in enumerate(dataset.splits)
        for scan_id in fold["val"]
    }


def find_stored_predictions(dataset: Dataset, *, workspace: Workspace) -> StoredPredictions:
    """Find the out-of-fold predictions of a dataset's training scans; nothing is predicted.

    Those of all models count. Raises :class:`InputError` if there are none.
    """
    home = workspace.predictions / dataset.name / OUT_OF_FOLD
    results = workspace.results / dataset.name
    stored = list_stored_predictions(dataset, sorted(home.glob("*")), results=results)
    if not stored.paths:
        former = f" (only by former checkpoints of {name_some(stored.replaced)})"
        raise InputError(
            f"{home}: found no out-of-fold prediction of {dataset.name} to compare the truth with"
            f"{former if stored.replaced else ''}. "
            "Make them with: gi2nnunet out-of-fold"
        )
    return stored


def list_stored_predictions(
    dataset: Dataset, folders: Sequence[Path], *, results: Path, every: bool = False
) -> StoredPredictions:
    """List the predictions of a dataset's labelled training scans in folders, one of each model.

    A file counts if its fold is the one that validates the scan, and if it was made from the image
    and by the checkpoint that are there now, in nnU-Net's folder of ``results``. With ``every``, a
    scan counts only if each folder has it.
    """
    paths: dict[str, tuple[Path, ...]] = {}
    replaced: dict[str, None] = {}
    is_former = cache(partial(is_replaced, read=True))
    for scan_id, expected in describe_stored(dataset).items():
        if not dataset.scan(scan_id).labelled:
            continue
        found = []
        for path in (folder / f"{scan_id}{SUFFIX}" for folder in folders):
            about = read_about(path) if path.is_file() else {}
            if not expected.items() <= about.items():
                continue
            fold = fold_folder(results / path.parent.name, expected["fold"])
            if "checkpoint" in about and is_former(fold, about["checkpoint"]):
                replaced[f"{fold.parent.name}/{fold.name}"] = None
            else:
                found.append(path)
        if found and (len(found) == len(folders) or not every):
            paths[scan_id] = tuple(found)
    return StoredPredictions(dataset=dataset, paths=paths, replaced=tuple(replaced))
