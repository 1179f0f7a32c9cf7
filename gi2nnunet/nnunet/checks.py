"""Checks of nnU-Net's inputs before it starts: its own errors come late and are hard to read."""

from __future__ import annotations

import shlex
import zipfile
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from gi2nnunet.core.errors import InputError, name_some, shorten
from gi2nnunet.core.files import find_kind, read_record
from gi2nnunet.dataset.manifest import SPLITS, Dataset, find_damaged
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    Fold,
    Plans,
    PlansConfiguration,
    TrainedModel,
    fold_folder,
    spell_restore,
    spell_restore_model,
)
from gi2nnunet.source.dataset import Fold as SplitFold
from gi2nnunet.source.nifti import DATASET_JSON, DatasetDescription, LabelTable, LabelValues

CONFIGURATION_NAMES = ("2d", "3d_fullres", "3d_lowres")
"""Every configuration that nnU-Net's planners know, but the cascade.

That takes another configuration's segmentation as input, which nothing here makes for it.
"""


def check_configurations(names: Iterable[str]) -> None:
    """Refuse (:class:`InputError`) a cascade, and what no planner of nnU-Net makes."""
    for name in names:
        if name not in CONFIGURATION_NAMES:
            raise InputError(
                f"--config: found {name!r}; expected {', '.join(CONFIGURATION_NAMES)}. "
                "Give one of these."
            )


def check_dataset(dataset: Dataset, *, names: Container[str] | None = None) -> None:
    """Refuse a raw dataset with missing or truncated files.

    ``names`` limits the check to some files, by their paths inside the dataset's folder.

    Raises
    ------
    InputError
        Naming the first five.
    """
    damaged = find_damaged(dataset.folder, dataset.manifest)
    if names is not None:
        damaged = [name for name in damaged if name in names]
    if damaged:
        raise InputError(
            f"{dataset.folder}: found {name_some(damaged)} missing or of another size; "
            "expected the files listed in manifest.json. Repair it with: gi2nnunet convert SOURCE"
        )


def require_own_split(dataset: Dataset, preprocessed: Path) -> None:
    """Refuse a split other than the dataset's: nnU-Net would use it, or draw one of its own.

    ``preprocessed`` is nnU-Net's folder of the dataset, with the file that training reads.

    Raises
    ------
    InputError
        If the file is missing, damaged, or has other folds than the manifest.
    """
    path = preprocessed / SPLITS
    remedy = "Restore it by running the same gi2nnunet convert again."
    found = read_record(path, list[SplitFold], remedy=remedy)
    if found == list(dataset.splits):
        return
    known = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    unknown = sorted({scan for fold in found for scan in (*fold["train"], *fold["val"])} - known)
    what = (
        f" (with the scan {unknown[0]!r}, which the dataset does not train on)" if unknown else ""
    )
    raise InputError(
        f"{path}: found another split{what}; expected that of {dataset.folder}. {remedy} To use "
        f"these folds, add to that command: --splits {shlex.quote(str(path))}"
    )


def check_model(model: TrainedModel, folds: Sequence[Fold]) -> None:
    """Refuse a model with missing or truncated files, and a cascade.

    A cascade's network takes another model's segmentation as well as the image.

    Raises
    ------
    InputError
        Naming the file.
    """
    remedy = spell_restore_model(model.folder)
    plans = read_record(model.folder / "plans.json", Plans, remedy=remedy)
    configurations = plans["configurations"]
    if model.configuration not in configurations:
        raise InputError(
            f"{model.folder / 'plans.json'}: found no configuration {model.configuration}; "
            f"expected the plans that the model was trained with. {remedy}"
        )
    before = _find_previous_stage(configurations, model.configuration)
    if before is not None:
        raise InputError(
            f"{model.folder}: found a cascade, which takes the segmentation of {shorten(before)} "
            "as input; expected a model that takes only the image. "
            f"Choose others with --config: {', '.join(CONFIGURATION_NAMES)}."
        )
    read_record(model.folder / DATASET_JSON, DatasetDescription, remedy=remedy)
    for fold in folds:
        check_checkpoint_file(fold_folder(model.folder, fold) / FINAL_CHECKPOINT)


def _find_previous_stage(configurations: Mapping[str, PlansConfiguration], name: str) -> str | None:
    """Return the configuration that one needs the segmentation of, possibly by inheritance."""
    seen = set()
    while name not in seen:
        seen.add(name)
        values = configurations.get(name, {})
        if "previous_stage" in values:  # one that is null takes back what is inherited
            return values["previous_stage"]
        name = values.get("inherits_from") or name
    return None


def check_same_labels(models: Sequence[TrainedModel]) -> None:
    """Refuse (:class:`InputError`) models of different labels: probabilities cannot be averaged."""
    if len(models) > 1:
        remedy = "Choose models of one label scheme with --config, --preset or --trainer."
        expected = _read_labels(models[0])
        _compare_labels(models[1:], expected, of=models[0].folder, remedy=remedy)


def check_labels_of(models: Sequence[TrainedModel], dataset: Dataset) -> None:
    """Refuse (:class:`InputError`) models with other labels than the dataset's."""
    path = dataset.folder / DATASET_JSON
    convert_again = "Restore it with: gi2nnunet convert SOURCE"
    expected = read_record(path, LabelTable, remedy=convert_again)["labels"]
    remedy = (
        "Choose models of this dataset with --config, --preset or --trainer, or move that folder "
        "elsewhere."
    )
    _compare_labels(models, expected, of=path, remedy=remedy)


def _compare_labels(
    models: Sequence[TrainedModel], expected: LabelValues, *, of: Path, remedy: str
) -> None:
    for model in models:
        if (found := _read_labels(model)) != expected:
            raise InputError(
                f"{model.folder}: found labels {found}; expected those of {of}, {expected}. "
                f"{remedy}"
            )


def _read_labels(model: TrainedModel) -> LabelValues:
    path = model.folder / DATASET_JSON
    return read_record(path, LabelTable, remedy=spell_restore_model(model.folder))["labels"]


def check_checkpoint_file(path: Path) -> None:
    """Refuse (:class:`InputError`) a file that is not a whole zip of PyTorch; nothing is loaded."""
    remedy = spell_restore(path.parent)
    if find_kind(path) != "file":
        raise InputError(f"{path}: no such file; expected a checkpoint. {remedy}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            found = "an empty file"
        elif start != b"PK\x03\x04":
            found = "a file that PyTorch did not write"
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return
            found = "a zip that is not a checkpoint of PyTorch"
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        found = f"a truncated or damaged file ({error})"
    raise InputError(f"{path}: found {found}; expected a whole checkpoint. {remedy}")
