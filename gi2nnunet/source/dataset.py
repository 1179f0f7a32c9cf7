"""Converted dataset as a source: its manifest gives slice numbers and the coding of labels.

The manifest is read in this package, which is below :mod:`gi2nnunet.dataset`, because volumes of a
dataset keep their slice numbers when they are opened as a source. Splits, truth and checks of a
dataset are in :mod:`gi2nnunet.dataset`, which uses this reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, Self

from pydantic import PositiveFloat
from typing_extensions import TypedDict  # pydantic needs it until Python 3.12

from gi2nnunet.core.errors import InputError, Problem, name_some, raise_problems
from gi2nnunet.core.files import Count, find_record, read_record
from gi2nnunet.formats.coding import CODINGS
from gi2nnunet.formats.ids import LabelScheme, Orientation
from gi2nnunet.source.nifti import DATASET_JSON, NiftiSource, list_folders_around
from gi2nnunet.source.nifti_files import is_nifti
from gi2nnunet.source.scan import SourceOptions

MANIFEST = "manifest.json"
FORMAT = 1

DatasetPart = Literal["train", "holdout", "test"]


@dataclass(frozen=True, kw_only=True)
class DatasetScan:
    """One scan of a converted dataset.

    Attributes
    ----------
    part
        ``"train"``: trained on and cross-validated. ``"holdout"``: labelled, kept apart.
        ``"test"``: the source's own test scan.
    first_number
        The competition's number of slice z = 0.
    """

    scan_id: str
    patient_id: str
    part: DatasetPart
    first_number: int
    depth: int
    height: int
    width: int
    spacing_mm: tuple[float, float, float]
    labelled: bool

    @property
    def numbers(self) -> tuple[int, ...]:
        """Return the slice numbers in slice order."""
        return tuple(range(self.first_number, self.first_number + self.depth))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return ``(slices, height, width)``."""
        return self.depth, self.height, self.width


class Fold(TypedDict):
    """One entry of nnU-Net's ``splits_final.json``: scan ids to train on and to validate on."""

    train: list[str]
    val: list[str]


class FileEntry(TypedDict):
    """What a manifest says of a file: its size and, for those that were written, its SHA-256."""

    bytes: Count
    sha256: NotRequired[str]


class ScanEntry(TypedDict):
    """What a manifest says of a scan: :class:`DatasetScan`, and its files by their paths.

    ``stamp`` is that of the source's files (:meth:`~gi2nnunet.source.scan.Scan.take_stamp`),
    ``prints`` are those of the image (:mod:`~gi2nnunet.source.prints`).
    """

    scan_id: str
    patient_id: str
    part: DatasetPart
    first_number: Count
    shape: tuple[Count, Count, Count]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    labelled: bool
    files: dict[str, FileEntry]
    stamp: NotRequired[str]
    prints: str


class SourceEntry(TypedDict):
    """From what a dataset was made."""

    path: str
    kind: str
    labels: NotRequired[list[str]]


class Recipe(TypedDict):
    """From what and how a dataset was made; the same recipe makes the same dataset."""

    source: dict[str, Any]
    labels: LabelScheme
    parts: dict[str, DatasetPart]
    splits: list[Fold]


class Options(TypedDict, total=False):
    """How a source was opened."""

    allow_missing: bool
    source_labels: LabelScheme | None
    label_map: str | None
    orientation: Orientation


class ManifestContent(TypedDict):
    """The content of manifest.json."""

    format: Literal[1]
    dataset_id: Count
    source: SourceEntry
    recipe: Recipe
    warnings: list[str]
    scans: list[ScanEntry]
    files: dict[str, FileEntry]
    options: Options
    command: NotRequired[str]
    made_by: NotRequired[dict[str, str]]
    shared_patients: NotRequired[list[str]]
    leaking_patients: NotRequired[list[str]]


class _Versioned(TypedDict):
    format: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says of a converted dataset, and all of its content.

    The scans are in numeric order of patient and day.
    """

    path: Path
    label_scheme: LabelScheme
    scans: tuple[DatasetScan, ...] = field(repr=False)
    content: ManifestContent = field(repr=False)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of one dataset folder.

    Raises
    ------
    InputError
        If there is none, or it is damaged or of another format than this version's.
    """
    path = folder / MANIFEST
    remedy = "Make the dataset again with: gi2nnunet convert SOURCE"
    found = read_record(path, _Versioned, remedy=remedy)["format"]
    if found > FORMAT:
        raise InputError(
            f"{path}: found format {found}; expected at most {FORMAT}. A newer version wrote it: "
            f"update gi2nnunet, or convert into another workspace. {remedy}"
        )
    content = read_record(path, ManifestContent, remedy=remedy)
    _require_consistent(content, path, remedy=remedy)
    scans = tuple(
        DatasetScan(
            scan_id=scan["scan_id"],
            patient_id=scan["patient_id"],
            part=scan["part"],
            first_number=scan["first_number"],
            depth=scan["shape"][0],
            height=scan["shape"][1],
            width=scan["shape"][2],
            spacing_mm=scan["spacing_mm"],
            labelled=scan["labelled"],
        )
        for scan in content["scans"]
    )
    scheme = content["recipe"]["labels"]
    return Manifest(path=path, label_scheme=scheme, scans=scans, content=content)


def _require_consistent(content: ManifestContent, path: Path, *, remedy: str) -> None:
    """Refuse a manifest that names a scan in one place and not in the others."""
    parts = {scan["scan_id"]: scan["part"] for scan in content["scans"]}
    folds = [{*fold["train"], *fold["val"]} for fold in content["recipe"]["splits"]]
    strangers = {scan_id for fold in folds for scan_id in fold if parts.get(scan_id) != "train"}
    strangers |= {scan_id for scan_id, _ in parts.items() ^ content["recipe"]["parts"].items()}
    strangers |= {
        scan["scan_id"]
        for scan in content["scans"]
        if not any(f"/{scan['scan_id']}_0000." in name for name in scan["files"])
    }
    if strangers:
        raise InputError(
            f"{path}: found {name_some(sorted(strangers))} only in some of its lists; expected the "
            f"same scans in scans, files, recipe.parts and recipe.splits. {remedy}"
        )


def is_of_newer_format(path: Path) -> bool:
    """Return whether a later version than this one wrote a manifest."""
    found = find_record(path, _Versioned)
    return found is not None and found["format"] > FORMAT


def list_files(manifest: ManifestContent) -> dict[str, FileEntry]:
    """Return the size and digest of every file of a dataset by its path inside it."""
    files = dict(manifest["files"])
    for scan in manifest["scans"]:
        files.update(scan["files"])
    return files


class DatasetSource(NiftiSource):
    """A converted dataset, a folder in it, or one of its volumes.

    A volume that the manifest does not list is opened like any other.
    """

    @classmethod
    def open(cls, path: Path, options: SourceOptions) -> Self | None:
        """Open volumes that a manifest in their folder or one folder up describes.

        Raises
        ------
        InputError
            As :meth:`NiftiSource.open`; if the manifest is damaged or of another format; if a
            volume has another number of slices than it says.
        """
        manifest = find_manifest(path) if is_nifti(path, options) else None
        if manifest is None:
            return None
        described = {scan.scan_id: scan for scan in manifest.scans}
        first_numbers = {scan_id: scan.first_number for scan_id, scan in described.items()}
        source = cls._open(
            path,
            options,
            declared=(CODINGS[manifest.label_scheme], str(manifest.path)),
            first_numbers=first_numbers,
        )
        raise_problems(
            (
                Problem(
                    where=str(scan.image),
                    found=f"{scan.shape[0]} slices",
                    expected=f"{described[scan_id].depth}, as the manifest {manifest.path} says of "
                    f"{scan_id}",
                )
                for scan_id, scan in source.scans.items()
                if scan_id in described and described[scan_id].depth != scan.shape[0]
            ),
            remedy="Give volumes of these scans, or keep them apart from that dataset.",
        )
        return source


def find_manifest(path: Path) -> Manifest | None:
    """Return the manifest in the folder of a file or one folder up, if any.

    One of another program is passed over. Raises as :func:`read_manifest`.
    """
    for folder in list_folders_around(path):
        if (folder / MANIFEST).is_file() and _is_own_manifest(folder / MANIFEST):
            return read_manifest(folder)
    return None


def _is_own_manifest(path: Path) -> bool:
    """Return whether a manifest is this tool's: whole, cut off, or beside its dataset.json."""
    beside = find_record(path.parent / DATASET_JSON, dict[str, Any]) or {}
    if find_record(path, _Versioned) or beside.get("converted_by") == "gi2nnunet":
        return True
    try:
        return bool(re.match(rb'\s*\{\s*"format"\s*:\s*\d', path.read_bytes()[:100]))
    except OSError:
        return False
