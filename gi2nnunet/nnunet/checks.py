"""What the engine reads, looked at before it is started: it fails late, and not in plain words."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, shorten
from gi2nnunet.core.files import find_kind, read_json_object
from gi2nnunet.dataset.manifest import SPLITS, Dataset, find_damaged
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Fold, TrainedModel, fold_folder
from gi2nnunet.source.nifti import DATASET_JSON

CONFIGURATION_NAMES = ("2d", "3d_fullres", "3d_lowres")
"""Every configuration that nnU-Net's planners know, but the cascade.

That takes another configuration's segmentation as input, which nothing here makes for it.
"""

_RESTORE_MODEL = "Restore it, or train again with --restart."


def check_configurations(names: Iterable[str]) -> None:
    """Refuse a configuration that no planner of nnU-Net makes, and the cascade.

    Raises
    ------
    InputError
        Naming those there are.
    """
    for name in names:
        if name not in CONFIGURATION_NAMES:
            raise InputError(
                f"--config: found {name!r}; expected {', '.join(CONFIGURATION_NAMES)}. "
                "Give one of these."
            )


def check_dataset(dataset: Dataset, *, names: Container[str] | None = None) -> None:
    """Refuse a raw dataset of which a file is missing or cut off.

    Parameters
    ----------
    dataset
        The dataset.
    names
        Paths of the files to look at, inside its folder; by default all.

    Raises
    ------
    InputError
        Naming the first five.
    """
    damaged = find_damaged(dataset.folder, dataset.manifest)
    if names is not None:
        damaged = [name for name in damaged if name in names]
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        raise InputError(
            f"{dataset.folder}: found {', '.join(damaged[:5])}{more} missing or of another size; "
            "expected the files that manifest.json tells. Mend it with: gi2nnunet convert SOURCE"
        )


def require_own_split(dataset: Dataset, preprocessed: Path) -> None:
    """Refuse a split other than the dataset's: nnU-Net would follow it, or draw one of its own.

    Parameters
    ----------
    dataset
        What is to be trained on.
    preprocessed
        nnU-Net's preprocessed folder of it, whose ``splits_final.json`` training reads.

    Raises
    ------
    InputError
        Where the file is missing, damaged, or holds other folds than the manifest.
    """
    path = preprocessed / SPLITS
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if found == [dict(fold) for fold in dataset.splits]:
        return
    what = "missing or damaged" if found is None else "found another split"
    known = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    if unknown := sorted(_scans_in(found) - known):
        what += f" (with the scan {unknown[0]!r}, which the dataset does not train on)"
    raise InputError(
        f"{path}: {what}; expected that of {dataset.folder}. "
        "Restore it by running the same gi2nnunet convert again."
    )


def _scans_in(splits: object) -> set[str]:
    folds = splits if isinstance(splits, list) else []
    lists = [part for fold in folds if isinstance(fold, dict) for part in fold.values()]
    return {str(scan) for part in lists if isinstance(part, list) for scan in part}


def check_model(model: TrainedModel, folds: Sequence[Fold]) -> None:
    """Refuse a model whose plans, dataset description or checkpoints are missing or cut off.

    So is a cascade, whose network takes another model's segmentation as well as the image.

    Raises
    ------
    InputError
        Naming the file.
    """
    plans = read_json_object(model.folder / "plans.json", remedy=_RESTORE_MODEL)
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or model.configuration not in configurations:
        raise InputError(
            f"{model.folder / 'plans.json'}: found no configuration {model.configuration}; "
            f"expected the plans that the model was trained with. {_RESTORE_MODEL}"
        )
    before = _find_previous_stage(configurations, model.configuration)
    if before is not None:
        raise InputError(
            f"{model.folder}: found a cascade, which takes the segmentation of {shorten(before)} "
            "as input; expected a model that takes the image alone. "
            f"Choose others with --config: {', '.join(CONFIGURATION_NAMES)}."
        )
    described = read_json_object(model.folder / "dataset.json", remedy=_RESTORE_MODEL)
    for key in ("labels", "channel_names", "file_ending"):
        if key not in described:
            raise InputError(
                f"{model.folder / 'dataset.json'}: found no {key}; expected nnU-Net's description "
                f"of the dataset. {_RESTORE_MODEL}"
            )
    for fold in folds:
        check_checkpoint_file(fold_folder(model.folder, fold) / FINAL_CHECKPOINT)


def _find_previous_stage(configurations: Mapping[str, Any], name: str) -> str | None:
    """Return the configuration that one needs the segmentation of; be it by inheritance."""
    seen = set()
    while name not in seen:
        seen.add(name)
        values = configurations.get(name)
        if not isinstance(values, dict):
            break
        if "previous_stage" in values:  # one that is null takes back what is inherited
            before = values["previous_stage"]
            return None if before is None else str(before)
        name = str(values.get("inherits_from"))
    return None


def check_same_labels(models: Sequence[TrainedModel]) -> None:
    """Refuse models whose labels mean different things: their probabilities cannot be averaged.

    Raises
    ------
    InputError
        Naming two of them.
    """
    if len(models) < 2:
        return
    found = {
        model.folder: read_json_object(model.folder / "dataset.json", remedy=_RESTORE_MODEL)
        for model in models
    }
    first, *others = found.items()
    for folder, described in others:
        if described.get("labels") != first[1].get("labels"):
            raise InputError(
                f"{folder}: found labels {described.get('labels')}; expected those of {first[0]}, "
                f"{first[1].get('labels')}. Choose models of one label scheme with --config, "
                "--preset or --trainer."
            )


def check_labels_of(models: Sequence[TrainedModel], dataset: Dataset) -> None:
    """Refuse models whose labels mean something else than the dataset's.

    Raises
    ------
    InputError
        Naming the first such model.
    """
    path = dataset.folder / DATASET_JSON
    expected = read_json_object(path, remedy="Restore it with: gi2nnunet convert SOURCE")
    for model in models:
        described = read_json_object(model.folder / DATASET_JSON, remedy=_RESTORE_MODEL)
        if described.get("labels") != expected.get("labels"):
            raise InputError(
                f"{model.folder}: found labels {described.get('labels')}; expected those of "
                f"{path}, {expected.get('labels')}. Choose models of this dataset with --config, "
                "--preset or --trainer, or move that folder elsewhere."
            )


def check_checkpoint_file(path: Path) -> None:
    """Refuse a file that is no whole checkpoint, by its outside: PyTorch writes a zip.

    Nothing in it is loaded.

    Raises
    ------
    InputError
        Where it is missing, empty, cut off, or something else.
    """
    if find_kind(path) != "file":
        raise InputError(f"{path}: no such file; expected a checkpoint. {_RESTORE_MODEL}")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if not start:
            found = "an empty file"
        elif start != b"PK\x03\x04":
            found = "no checkpoint of PyTorch"
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return
            found = "a zip that is no checkpoint of PyTorch"
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile) as error:
        found = f"a truncated or damaged file ({error})"
    raise InputError(f"{path}: found {found}; expected a whole checkpoint. {_RESTORE_MODEL}")
