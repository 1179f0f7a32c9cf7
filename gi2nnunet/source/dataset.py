"""Converted dataset as a source: its manifest gives slice numbers and the coding of labels.

The manifest is read in this package, which is below :mod:`gi2nnunet.dataset`, because volumes of a
dataset keep their slice numbers when they are opened as a source. Splits, truth and checks of a
dataset are in :mod:`gi2nnunet.dataset`, which uses this reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from gi2nnunet.core.errors import InputError, Problem, raise_problems, shorten
from gi2nnunet.core.files import read_json, read_json_object
from gi2nnunet.formats.ids import LabelScheme
from gi2nnunet.source.nifti import DATASET_JSON, NiftiSource, is_nifti, list_folders_around
from gi2nnunet.source.scan import SourceOptions

MANIFEST = "manifest.json"
FORMAT = 1
_LARGEST_NUMBER = 2**53

DatasetPart = Literal["train", "holdout", "test"]


@dataclass(frozen=True, kw_only=True)
class DatasetScan:
    """One scan of a converted dataset.

    Attributes
    ----------
    scan_id, patient_id
        Who and when.
    part
        ``"train"``: trained on and cross-validated. ``"holdout"``: labelled, kept apart.
        ``"test"``: the source's own test scan.
    first_number
        The competition's number of slice z = 0.
    depth, height, width
        Slices, rows, columns.
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm.
    labelled
        Whether truth is known.
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


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What manifest.json says of a converted dataset.

    Attributes
    ----------
    path
        The file.
    label_scheme
        How the label volumes are coded.
    scans
        In numeric order of patient and day.
    content
        All of it, its types checked.
    """

    path: Path
    label_scheme: LabelScheme
    scans: tuple[DatasetScan, ...] = field(repr=False)
    content: Mapping[str, Any] = field(repr=False)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of one dataset folder.

    Raises
    ------
    InputError
        Where there is none, or it is of another format than this version's.
    """
    path = folder / MANIFEST
    content = read_json_object(path, remedy="Make the dataset again with: gi2nnunet convert SOURCE")
    if content.get("format") != FORMAT:
        newer = is_of_newer_format(content)
        raise InputError(
            f"{path}: found format {content.get('format')!r}; expected {FORMAT}. "
            + ("A newer version wrote it: update gi2nnunet, or make" if newer else "Make")
            + " the dataset again with: gi2nnunet convert SOURCE"
        )
    try:
        _check_types(content)
        return Manifest(
            path=path,
            label_scheme=content["recipe"]["labels"],
            scans=tuple(
                DatasetScan(
                    scan_id=scan["scan_id"],
                    patient_id=scan["patient_id"],
                    part=scan["part"],
                    first_number=scan["first_number"],
                    depth=scan["shape"][0],
                    height=scan["shape"][1],
                    width=scan["shape"][2],
                    spacing_mm=(
                        scan["spacing_mm"][0], scan["spacing_mm"][1], scan["spacing_mm"][2],
                    ),
                    labelled=scan["labelled"],
                )
                for scan in content["scans"]
            ),
            content=content,
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path}: is damaged ({shorten(repr(error))}). "
            "Make the dataset again with: gi2nnunet convert SOURCE"
        ) from error


def is_of_newer_format(manifest: Mapping[str, Any]) -> bool:
    """Return whether a later version than this one wrote a manifest."""
    found = manifest.get("format")
    return isinstance(found, int) and found > FORMAT


def _check_types(manifest: Mapping[str, Any]) -> None:
    """Raise a :class:`TypeError` or its like where a manifest is not of its own shape."""
    recipe = manifest["recipe"]
    lists = [manifest["warnings"], manifest["scans"], recipe["splits"]]
    lists += [fold[part] for fold in recipe["splits"] for part in ("train", "val")]
    tables = [manifest["files"], manifest["source"], recipe["source"], recipe["parts"]]
    tables += [scan["files"] for scan in manifest["scans"]]
    texts = [manifest["source"]["path"], recipe["labels"]]
    texts += [scan[key] for scan in manifest["scans"] for key in ("scan_id", "patient_id", "part")]
    numbers = [manifest["dataset_id"]]
    for scan in manifest["scans"]:
        numbers += [scan["first_number"], *scan["shape"]]
    numbers += [file["bytes"] for file in list_files(manifest).values()]
    for kind, values in ((list, lists), (dict, tables), (str, texts), (int, numbers)):
        for value in values:
            if not isinstance(value, kind):
                raise TypeError(f"{value!r} is no {kind.__name__}")
    spacings = [float(value) for scan in manifest["scans"] for value in scan["spacing_mm"]]
    if min([*numbers, *spacings], default=0) < 0 or max(numbers) > _LARGEST_NUMBER:
        raise ValueError("a number out of range")


def list_files(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
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
            As :meth:`NiftiSource.open`; where the manifest is damaged or of another format; where a
            volume has another number of slices than it says.
        """
        manifest = _find_manifest(path) if is_nifti(path, options) else None
        if manifest is None:
            return None
        described = {scan.scan_id: scan for scan in manifest.scans}
        first_numbers = {scan_id: scan.first_number for scan_id, scan in described.items()}
        source = cls._open(
            path, options, declared=manifest.label_scheme, first_numbers=first_numbers
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


def _find_manifest(path: Path) -> Manifest | None:
    """Return the manifest in a volume's folder or one folder up, if any.

    One of another program is passed over.
    """
    for folder in list_folders_around(path):
        if (folder / MANIFEST).is_file() and _is_own_manifest(folder / MANIFEST):
            return read_manifest(folder)
    return None


def _is_own_manifest(path: Path) -> bool:
    content = read_json(path)
    if content:
        return isinstance(content.get("format"), int)
    # No JSON object: own if it starts like one that was cut off, or lies in a dataset of this tool.
    try:
        start = path.read_bytes()[:100]
    except OSError:
        return False
    beside = read_json(path.parent / DATASET_JSON).get("converted_by")
    return bool(re.match(rb'\s*\{\s*"format"\s*:\s*\d', start)) or beside == "gi2nnunet"
