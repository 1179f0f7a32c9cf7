"""Destination of a dataset: what is there already, whether it may be replaced, and replacing it.

A dataset that a model was trained on is never changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, count, name_some
from gi2nnunet.core.files import cannot_write, find_record, is_stray, replace_file
from gi2nnunet.dataset.manifest import SPLITS, find_datasets
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.labels import nnunet_labels
from gi2nnunet.source.dataset import (
    MANIFEST,
    Fold,
    ManifestContent,
    is_of_newer_format,
    list_files,
    read_manifest,
)
from gi2nnunet.source.nifti import DATASET_JSON

_PREPROCESSED_ENDINGS = {".b2nd", ".npz", ".npy", ".pkl"}
_WAY_OUT = (
    "Convert into another workspace or under another number (--id, --name), or delete the results "
    "if they are no longer needed."
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """The place of one dataset.

    Attributes
    ----------
    hidden
        The folder beside it that is filled first.
    manifest
        The manifest that is there already; ``None`` for none.
    same_recipe
        Whether it was made from the same files in the same way.
    keep_preprocessed
        Whether nnU-Net's preprocessed files may stay.
    missing
        The folders around ``hidden`` that did not exist, innermost first.
    trained_on
        By the folder of each training, the digest of its dataset, if the manifest is gone.
    """

    folder: Path
    hidden: Path
    preprocessed: Path
    manifest: ManifestContent | None
    same_recipe: bool
    keep_preprocessed: bool
    missing: tuple[Path, ...]
    trained_on: Mapping[Path, str]

    def check_trained(self, digest: str) -> None:
        """Refuse a dataset of another digest than one that models were trained on.

        Raises
        ------
        InputError
            It names the training.
        """
        others = [folder for folder, known in self.trained_on.items() if known != digest]
        if others:
            raise InputError(
                f"{others[0]}: a model was trained on {self.folder.name} of digest "
                f"{self.trained_on[others[0]]}, which is gone, and this conversion makes another "
                f"one ({digest}): other images, masks or folds. {_WAY_OUT}"
            )

    def write_split(self, splits: Sequence[Fold]) -> None:
        """Write the split into nnU-Net's preprocessed folder, or delete it if there is none."""
        path = self.preprocessed / SPLITS
        text = json.dumps(list(splits), indent=2) + "\n"
        try:
            if not splits:
                path.unlink(missing_ok=True)
            elif not path.is_file() or path.read_text(encoding="utf-8") != text:
                replace_file(path, text)
        except OSError as error:
            raise cannot_write(path, error) from error

    def put_in_place(self, splits: Sequence[Fold], *, notes: str) -> list[str]:
        """Make the filled hidden folder the dataset; return warnings."""
        warnings = []
        try:
            if not self.keep_preprocessed:
                removed = _remove_preprocessed(self.preprocessed)
                if removed:
                    warnings.append(
                        f"{self.preprocessed}: removed what nnU-Net had preprocessed from the "
                        f"former dataset ({', '.join(removed)})"
                    )
            self.write_split(splits)
            if self.folder.exists():
                shutil.rmtree(self.folder)
            shutil.rmtree(self.hidden / notes)
            self.hidden.replace(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        return warnings

    def move_back(self, *, notes: str) -> None:
        """Undo a repair: put the dataset back as it was found, its manifest last."""
        try:
            manifest = (self.hidden / notes / MANIFEST).read_bytes()
            shutil.rmtree(self.hidden / notes, ignore_errors=True)
            self.hidden.replace(self.folder)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        replace_file(self.folder / MANIFEST, manifest)

    def discard(self) -> None:
        """Delete the hidden folder and, if they are empty, the folders made for it."""
        shutil.rmtree(self.hidden, ignore_errors=True)
        with suppress(OSError):
            for folder in self.missing:
                folder.rmdir()


def _remove_preprocessed(folder: Path) -> list[str]:
    """Delete nnU-Net's own files of a dataset; return their names. Other files stay."""
    if not folder.is_dir():
        return []
    removed = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            derived = path.name == "gt_segmentations" or any(
                file.suffix in _PREPROCESSED_ENDINGS for file in path.iterdir()
            )
            if derived:
                shutil.rmtree(path)
                removed.append(path.name)
        elif path.suffix == ".json":
            path.unlink()
            if path.name != SPLITS:
                removed.append(path.name)
    return removed


def inspect_target(
    workspace: Workspace,
    *,
    dataset_id: int,
    folder_name: str,
    recipe: Mapping[str, Any],
    find_changed: Callable[[ManifestContent], list[str]],
    reads: Iterable[Path],
) -> Target:
    """Look at what is already there for a dataset number, a folder and a recipe.

    ``find_changed`` gives the scans of a manifest of the same recipe that the source now has
    other data of; ``reads`` are the source and its files.

    Raises
    ------
    InputError
        If another dataset has the number, or the folder holds something else; if a model was
        trained on the dataset that would be replaced, or if it holds the source or other files.
    """
    raw = workspace.raw
    for root in (raw, workspace.preprocessed, workspace.results):
        for other in find_datasets(root, dataset_id):
            if other.name != folder_name:
                raise InputError(
                    f"{other}: found another dataset of number {dataset_id}; expected only "
                    f"{folder_name}, as nnU-Net finds datasets by number. "
                    "Take another number or that name (--id, --name), or remove it."
                )
    folder = raw / folder_name
    manifest = _find_manifest(folder)
    if not manifest and folder.exists():
        described = find_record(folder / DATASET_JSON, dict[str, Any]) or {}
        made_here = described.get("converted_by") == "gi2nnunet"
        if not made_here and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(
                f"{folder}: found files that gi2nnunet did not write; expected a dataset of its "
                "own or nothing. Take another number or name (--id, --name), or remove it."
            )
    trained = _find_trained(workspace.results / folder_name)
    differences = _find_differences(manifest, recipe, workspace.preprocessed / folder_name)
    if manifest and not differences and (changed := find_changed(manifest)):
        differences.append(f"the source's files of {name_some(changed)}, which were changed")
    if trained and differences:
        raise InputError(
            f"{trained}: a model was trained on {folder_name} as it is, and this conversion would "
            f"change it: {'; '.join(differences)}. {_WAY_OUT}"
        )
    if folder.exists() and (differences or not manifest):
        _check_replaced(folder, workspace.preprocessed / folder_name, manifest, reads)
    return Target(
        folder=folder,
        hidden=raw / f".{folder_name}.part",
        preprocessed=workspace.preprocessed / folder_name,
        manifest=manifest,
        same_recipe=bool(manifest) and not differences,
        keep_preprocessed=not differences and bool(manifest or trained),
        missing=tuple(path for path in (raw, *raw.parents) if not path.exists()),
        trained_on={} if manifest else _find_trained_on(workspace.results / folder_name),
    )


def _check_replaced(
    folder: Path, preprocessed: Path, manifest: ManifestContent | None, reads: Iterable[Path]
) -> None:
    """Refuse to replace a dataset that holds the source or files that gi2nnunet did not write."""
    replaced = {folder.resolve(), preprocessed.resolve()}
    for path in reads:
        if replaced & {path.resolve(), *path.resolve().parents}:
            raise InputError(
                f"{path}: is read, and this conversion would replace {folder}, which holds it; "
                "expected a source outside it. Convert into another workspace or under another "
                "number (--id, --name)."
            )
    own = {MANIFEST, *list_files(manifest)} if manifest else set()
    names = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    others = sorted(str(name) for name in names if str(name) not in own and not is_stray(str(name)))
    if own and others:
        raise InputError(
            f"{folder}: found {name_some(others)}, which gi2nnunet did not write; expected only "
            "files of its own, as this conversion would replace them. Move what you need to "
            "another place, or take another number or name (--id, --name)."
        )


def _find_manifest(folder: Path) -> ManifestContent | None:
    """Return the manifest in a folder; ``None`` if it is missing or damaged."""
    try:
        return read_manifest(folder).content
    except InputError:
        if is_of_newer_format(folder / MANIFEST):
            raise
        return None


def _find_trained(results: Path) -> Path | None:
    """Return a checkpoint in nnU-Net's results folder of a dataset."""
    for pattern in ("**/checkpoint*.pth", "**/checkpoint*.safetensors"):
        for found in sorted(results.glob(pattern)):
            return found
    return None


def _find_trained_on(results: Path) -> dict[Path, str]:
    """Return the digest of the dataset that each training in a results folder has recorded.

    Imported models and those of plain nnU-Net have none.
    """
    found: dict[Path, str] = {}
    for path in sorted(results.glob("*/fold_*/gi2nnunet_training.json")):
        digest = (find_record(path, dict[str, Any]) or {}).get("dataset")
        if digest and any(path.parent.glob("checkpoint*.pth")):
            found[path.parent] = digest
    return found


def _find_differences(
    manifest: ManifestContent | None, recipe: Mapping[str, Any], preprocessed: Path
) -> list[str]:
    """Return the differences of the dataset that is there from the new one."""
    wanted = json.loads(json.dumps(recipe))
    if not manifest:
        # The raw dataset is gone; the preprocessed files show how it was split and coded.
        splits = find_record(preprocessed / SPLITS, list[Fold]) or []
        described = find_record(preprocessed / DATASET_JSON, dict[str, Any]) or {}
        labels = nnunet_labels(wanted["labels"])[0]
        same = splits == wanted["splits"] and described.get("labels") == labels
        return [] if same else ["the data that it was trained on is gone and cannot be compared"]
    former, found = manifest["recipe"], []
    old, new = former["source"], wanted["source"]
    if any(old[key] != new[key] for key in old.keys() & new.keys()):
        found.append(
            f"the source's files (made from {manifest['source']['path']}: "
            f"{count(old.get('scans') or 0, 'scan')}, now {new.get('scans')})"
        )
    if former["labels"] != wanted["labels"]:
        found.append(f"labels {former['labels']}, now {wanted['labels']}")
    if former["parts"] != wanted["parts"]:
        moved = [
            f"{scan_id} {former['parts'].get(scan_id, 'left out')}, "
            f"now {wanted['parts'].get(scan_id, 'left out')}"
            for scan_id in {**former["parts"], **wanted["parts"]}
            if former["parts"].get(scan_id) != wanted["parts"].get(scan_id)
        ]
        found.append(f"the part of {name_some(moved, most=3, separator='; ')}")
    if former["splits"] != wanted["splits"]:
        found.append(
            f"{count(len(former['splits']), 'fold')}, now {len(wanted['splits'])} other ones"
        )
    return found
