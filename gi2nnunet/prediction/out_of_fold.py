"""Out-of-fold predictions: every training scan by the models that did not see its patient.

They are kept in eight bits, a file a configuration and scan, under
``predictions/<dataset>/out_of_fold/<model folder>/``; what is there and was made by the same
checkpoint in the same way is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import read_json, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Notice, Progress, count_steps, ignore
from gi2nnunet.dataset.manifest import Dataset, image_name_of, label_name_of, read_dataset
from gi2nnunet.formats.ids import patient_of
from gi2nnunet.formats.probabilities import SUFFIX, read_about
from gi2nnunet.nnunet.checks import check_dataset, check_labels_of, check_same_labels
from gi2nnunet.nnunet.engine import Engine, PredictionSettings
from gi2nnunet.nnunet.models import Ensemble, Fold, ModelChoice, TrainedModel, digest_checkpoint
from gi2nnunet.prediction.choose import find_trained_on, find_unseen_folds
from gi2nnunet.prediction.predict import predict_scans
from gi2nnunet.source.dataset import MANIFEST

COST = "cost.json"


@dataclass(frozen=True, kw_only=True)
class OutOfFold:
    """Out-of-fold predictions of some models.

    Attributes
    ----------
    models
        The models, one a configuration.
    fold_of
        By scan the fold whose models predicted it.
    folders
        By model folder's name, where its files lie.
    costs
        By model folder's name: ``seconds_per_scan``, ``peak_memory_bytes`` and, on CUDA,
        ``peak_gpu_bytes`` of the run that predicted most of them; empty where it is not known.
    settings
        Device, threads, mirroring and step of all of them.
    """

    models: tuple[TrainedModel, ...]
    fold_of: Mapping[str, int]
    folders: Mapping[str, Path]
    costs: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def path(self, model: TrainedModel, scan_id: str) -> Path:
        """Return the file of one scan's probabilities."""
        return self.folders[model.folder.name] / f"{scan_id}{SUFFIX}"


def choose_every_fold(
    models: ModelChoice, *, engine: Engine, on_notice: Notice | None = None
) -> tuple[Dataset, Ensemble]:
    """Choose models of every fold of the split; say which, and what they are computed on."""
    workspace, tell = engine.workspace, on_notice or ignore
    dataset = read_dataset(workspace.raw, dataset_id=models.dataset_id)
    every = replace(models, folds=("cv",))
    ensemble = every.choose(workspace.results / dataset.name, n_folds=len(dataset.splits))
    tell(f"Computing on: {engine.hardware.name}")
    tell(f"Models: {ensemble.describe()}")
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
    """Predict every training scan by its own fold's models, where that has not been done.

    Parameters
    ----------
    dataset
        What the models were trained on.
    ensemble
        Models of every fold of its split.
    engine, settings
        Where, on what and how.
    truth
        Refuse at once where the truth is not at hand that :func:`list_tuning_scans` reads later.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        Where a fold is missing, a patient is in two folds, the labels exclude one another or are
        others than the dataset's, or files of the dataset are missing.
    EngineError
        Where nnU-Net fails; what is predicted by then is kept.
    """
    check_training_scans(dataset, truth=truth)
    check_same_labels(ensemble.models)
    check_labels_of(ensemble.models, dataset)
    fold_of = assign_folds(dataset, ensemble)
    home = engine.workspace.predictions / dataset.name / "out_of_fold"
    folders = {model.folder.name: home / model.folder.name for model in ensemble.models}
    described = settings.describe(engine)
    total, done = len(fold_of) * len(ensemble.models), 0
    with hold(home / "predictions", purpose="predicting out of fold"):
        for model in ensemble.models:
            digests = {fold: digest_checkpoint(model, fold) for fold in set(fold_of.values())}
            about = {
                scan_id: {
                    **described,
                    "fold": fold,
                    "checkpoint": digests[fold],
                    "image": _describe_image(dataset, scan_id),
                }
                for scan_id, fold in fold_of.items()
            }
            folder = folders[model.folder.name]
            missing = [
                scan_id
                for scan_id in fold_of
                if read_about(folder / f"{scan_id}{SUFFIX}") != about[scan_id]
            ]
            done += len(fold_of) - len(missing)
            what = f"predicting out of fold: {model.configuration}"
            if missing:
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
        costs={name: read_json(folder / COST) for name, folder in folders.items()},
        settings=described,
    )


def check_training_scans(dataset: Dataset, *, truth: bool) -> None:
    """Refuse a dataset whose training scans cannot be predicted, or not be held to their truth.

    Parameters
    ----------
    dataset
        The dataset.
    truth
        Whether their truth is needed.

    Raises
    ------
    InputError
        Where its labels exclude one another; naming files that are missing or cut off, and scans
        that are marked as not labelled.
    """
    if dataset.label_scheme != "regions":
        raise InputError(
            f"{dataset.folder}: its labels exclude one another; expected one region an organ, "
            "whose probabilities can be decided one by one. Convert it with --labels regions."
        )
    train = [scan for scan in dataset.scans if scan.part == "train"]
    unlabelled = [scan.scan_id for scan in train if not scan.labelled]
    if truth and unlabelled:
        more = f" and {len(unlabelled) - 5} more" if len(unlabelled) > 5 else ""
        raise InputError(
            f"{dataset.folder / MANIFEST}: found {', '.join(unlabelled[:5])}{more} marked as not "
            "labelled; expected the truth of every training scan. Make the dataset again from a "
            "source with rows of each: gi2nnunet convert SOURCE"
        )
    names = {image_name_of(scan.scan_id, scan.part) for scan in train}
    if truth:
        names |= {label_name_of(scan.scan_id, scan.part) for scan in train}
    check_dataset(dataset, names=names)


def assign_folds(dataset: Dataset, ensemble: Ensemble) -> dict[str, int]:
    """Return by training scan the one fold whose models did not see its patient.

    Raises
    ------
    InputError
        Where it is not known what the models were trained on, a fold is missing, or a patient is
        in two folds.
    """
    train = [scan.scan_id for scan in dataset.scans if scan.part == "train"]
    trained_on = find_trained_on(ensemble, dataset=dataset)
    if trained_on is None:
        raise InputError(
            f"{ensemble.describe()}: it is not known which scans the models were trained on; "
            "expected that, as no model may predict what it saw. Train them here with "
            "gi2nnunet train --fold cv."
        )
    unseen = find_unseen_folds(train, trained_on)
    numbered = [fold for fold in ensemble.folds if fold != "all"]
    if lacking := [scan_id for scan_id in train if scan_id not in unseen]:
        missing = sorted(set(range(len(dataset.splits))) - {int(fold) for fold in numbered})
        raise InputError(
            f"{ensemble.describe()}: no model is there that did not see {lacking[0]}"
            + (f" and {len(lacking) - 1} more scans" if len(lacking) > 1 else "")
            + f" (missing folds: {', '.join(map(str, missing)) or 'none of the split'}). "
            "Train them with gi2nnunet train --fold cv."
        )
    fold_of: dict[str, int] = {}
    patients: dict[str, int] = {}
    for scan_id in train:
        folds = [fold for fold in unseen[scan_id] if fold != "all"]
        if len(folds) != 1:
            raise InputError(
                f"{scan_id}: {len(folds)} folds did not see its patient; expected one, as in a "
                "split by patients. Convert the source again."
            )
        fold_of[scan_id] = int(folds[0])
        if patients.setdefault(patient_of(scan_id), fold_of[scan_id]) != fold_of[scan_id]:
            raise InputError(
                f"{patient_of(scan_id)}: found in two folds; expected one. "
                "Convert the source again: its split is grouped by patient."
            )
    return fold_of


def _describe_image(dataset: Dataset, scan_id: str) -> list[int]:
    found = dataset.image_path(scan_id).stat()
    return [found.st_size, len(dataset.scan(scan_id).numbers)]


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
    before = read_json(folder / COST)
    if len(missing) >= int(before.get("scans", 0)):
        seconds = (time.monotonic() - began) / len(missing)
        cost = {"scans": len(missing), "seconds_per_scan": seconds}
        here = {"device": engine.hardware.device, "hardware": engine.hardware.name}
        write_json(folder / COST, {**cost, **here, **predicted.peaks})
