"""Converted dataset: its scans, folds and files, as recorded in its manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, raise_problems
from gi2nnunet.core.frames import make_frame
from gi2nnunet.core.seals import Seal, find_changed
from gi2nnunet.formats.ids import ORGANS, LabelScheme
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.source.arrays import ScanArrays, ScansById, name_near
from gi2nnunet.source.dataset import (
    MANIFEST,
    DatasetPart,
    DatasetScan,
    FileEntry,
    Fold,
    ManifestContent,
    list_files,
    read_manifest,
)
from gi2nnunet.source.nifti import NiftiScan
from gi2nnunet.source.prints import Prints, unpack_prints

if TYPE_CHECKING:
    from pandas import DataFrame

SPLITS, TRUTH, SAMPLE = "splits_final.json", "truth.csv", "sample_submission.csv"


@dataclass(frozen=True, kw_only=True)
class Dataset(ScansById):
    """A whole nnU-Net raw dataset.

    Read like a mapping, it gives the scans by their ids: ``dataset["case1_day0"].image`` and the
    true ``.masks``.

    Attributes
    ----------
    folder
        Its folder, for example ``raw/Dataset501_UWGI``; the name is nnU-Net's name.
    scans
        In numeric order of patient and day.
    splits
        Folds of the training scans; empty for a single patient.
    warnings
        What the conversion skipped or changed, one sentence each.
    """

    folder: Path
    name: str
    dataset_id: int
    label_scheme: LabelScheme
    scans: tuple[DatasetScan, ...] = field(repr=False)
    splits: tuple[Fold, ...] = field(repr=False)
    manifest: ManifestContent = field(repr=False)
    warnings: tuple[str, ...] = field(repr=False)

    @property
    def truth_path(self) -> Path:
        """Return the CSV with the rows of every labelled scan."""
        return self.folder / TRUTH

    @property
    def leaking_patients(self) -> tuple[str, ...]:
        """Return the patients that ``--allow-leaks`` left in training and validation of a fold."""
        return tuple(self.manifest.get("leaking_patients", ()))

    @cached_property
    def digest(self) -> str:
        """Return a short digest of the files and splits, not of how they were made."""
        content = {
            "files": list_files(self.manifest),
            "labels": self.label_scheme,
            "parts": {scan.scan_id: scan.part for scan in self.scans},
            "splits": self.splits,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def prints(self) -> Mapping[str, Prints]:
        """Return the prints of the scans' images by scan id, as they were when converted."""
        return {s["scan_id"]: unpack_prints(s["prints"]) for s in self.manifest["scans"]}

    @cached_property
    def _scan_of(self) -> Mapping[str, DatasetScan]:
        return {scan.scan_id: scan for scan in self.scans}

    def scan(self, scan_id: str) -> DatasetScan:
        """Return one scan; :class:`KeyError` for an unknown id."""
        if scan_id not in self._scan_of:
            raise KeyError(name_near(scan_id, self._scan_of))
        return self._scan_of[scan_id]

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Return the ids of the scans."""
        return tuple(self._scan_of)

    def __getitem__(self, scan_id: str) -> ScanArrays:
        scan = self.scan(scan_id)
        return ScanArrays(
            scan_id=scan_id, numbers=scan.numbers, shape=scan.shape, spacing_mm=scan.spacing_mm,
            read_image=self.read_image, read_masks=self.read_masks,
        )  # fmt: skip

    def image_path(self, scan_id: str) -> Path:
        """Return the path of a scan's image."""
        return self.folder / image_name_of(scan_id, self.scan(scan_id).part)

    def label_path(self, scan_id: str) -> Path:
        """Return the path of a scan's labels; :class:`ValueError` if it has none."""
        scan = self.scan(scan_id)
        if not scan.labelled:
            raise ValueError(f"{scan_id} has no labels")
        return self.folder / label_name_of(scan_id, scan.part)

    def open_scan(self, scan_id: str) -> NiftiScan:
        """Return a scan as :func:`~gi2nnunet.source.open.open_source` gives it, without truth."""
        scan = self.scan(scan_id)
        return NiftiScan(
            scan_id=scan_id,
            part="train" if scan.part == "train" else "test",
            first_number=scan.first_number,
            shape=scan.shape,
            spacing_mm=scan.spacing_mm,
            image=self.image_path(scan_id).absolute(),
        )

    def read_image(self, scan: str | DatasetScan) -> NDArray[Any]:
        """Return a scan's image ``(z, y, x)``, cranial slice first, values as in the source."""
        return read_volume(self.image_path(_id_of(scan))).array

    def read_masks(self, scan: str | DatasetScan) -> dict[str, NDArray[np.bool_]]:
        """Return a scan's true masks ``(z, y, x)`` by organ; :class:`ValueError` without truth."""
        label_map = read_volume(self.label_path(_id_of(scan))).array
        return dict(zip(ORGANS, split_organs(label_map, scheme=self.label_scheme), strict=True))

    def count_parts(self) -> dict[DatasetPart, tuple[int, int]]:
        """Return the numbers of scans and patients of ``train``, ``holdout`` and ``test``."""
        counts: dict[DatasetPart, tuple[int, int]] = {}
        for part in get_args(DatasetPart):
            patients = [scan.patient_id for scan in self.scans if scan.part == part]
            counts[part] = len(patients), len(set(patients))
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return its place, its parts and how labels were read as plain values."""
        counts = self.count_parts()
        return {
            "dataset": str(self.folder),
            "id": self.dataset_id,
            "folds": len(self.splits),
            "scans": {part: scans for part, (scans, _) in counts.items()},
            "patients": {part: patients for part, (_, patients) in counts.items()},
            "labels": self.manifest["source"].get("labels", []),
            "warnings": list(self.warnings),
        }

    def to_frame(self) -> DataFrame:
        """Return a table of the scans, indexed by their ids."""
        return make_frame(DatasetScan, self.scans, index="scan_id")

    def _repr_html_(self) -> str:
        parts = self.to_frame().groupby("part", sort=False)
        table = parts.agg(
            patients=("patient_id", "nunique"), scans=("depth", "size"), slices=("depth", "sum")
        )
        return f"<p>{self.name}, {count(len(self.splits), 'fold')}</p>{table.to_html()}"


def _id_of(scan: str | DatasetScan) -> str:
    return scan if isinstance(scan, str) else scan.scan_id


def image_name_of(scan_id: str, part: DatasetPart) -> str:
    """Return the path of an image inside the dataset."""
    return f"{'imagesTr' if part == 'train' else 'imagesTs'}/{scan_id}_0000.nii.gz"


def label_name_of(scan_id: str, part: DatasetPart) -> str:
    """Return the path of a label volume inside the dataset."""
    return f"{'labelsTr' if part == 'train' else 'labelsTs'}/{scan_id}.nii.gz"


def dataset_name_of(dataset_id: int, name: str) -> str:
    """Return nnU-Net's folder name of a dataset."""
    return f"Dataset{dataset_id:03d}_{name}"


def dataset_id_of(dataset_name: str) -> int:
    """Return nnU-Net's number of a dataset, the inverse of :func:`dataset_name_of`."""
    return int(dataset_name.removeprefix("Dataset")[:3])


def find_datasets(folder: Path, dataset_id: int) -> list[Path]:
    """Return the folders of a dataset number in one of nnU-Net's three folders."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob(f"Dataset{dataset_id:03d}_*") if p.is_dir())


def read_dataset(raw: Path, *, dataset_id: int | None = None, name: str | None = None) -> Dataset:
    """Find a converted dataset in nnU-Net's folder of raw datasets, by number or name, and read it.

    Raises
    ------
    InputError
        If no complete dataset, or more than one, fits.
    """
    pattern = f"Dataset{'???' if dataset_id is None else f'{dataset_id:03d}'}_{name or '*'}"
    folders = sorted(p for p in raw.glob(pattern) if p.is_dir()) if raw.is_dir() else []
    whole = [folder for folder in folders if (folder / MANIFEST).is_file()]
    remedy = "Make it with: gi2nnunet convert SOURCE"
    if not whole:
        if folders:
            raise InputError(
                f"{folders[0]}: found no {MANIFEST}; expected a whole dataset made by this tool. "
                f"{remedy}"
            )
        asked = "" if pattern == "Dataset???_*" else f" {pattern}"
        raise InputError(f"{raw}: holds no dataset{asked}. {remedy}")
    if len(whole) > 1:
        raise InputError(
            f"{raw}: holds several datasets ({', '.join(p.name for p in whole)}). "
            "Say which with --id, such as --id "
            f"{dataset_id_of(whole[0].name)}."
        )
    return open_dataset(whole[0])


def open_dataset(folder: Path) -> Dataset:
    """Read one dataset folder."""
    manifest = read_manifest(folder)
    return Dataset(
        folder=folder,
        name=folder.name,
        dataset_id=manifest.content["dataset_id"],
        label_scheme=manifest.label_scheme,
        scans=manifest.scans,
        splits=tuple(manifest.content["recipe"]["splits"]),
        manifest=manifest.content,
        warnings=tuple(manifest.content["warnings"]),
    )


def find_damaged(folder: Path, manifest: ManifestContent, *, read: bool = False) -> list[str]:
    """Return the files that are not as in the manifest; see :func:`list_damaged`."""
    return list_damaged(folder, list_files(manifest), read=read)


def list_damaged(folder: Path, files: Mapping[str, FileEntry], *, read: bool = False) -> list[str]:
    """Return the files that are missing or have another size or, with ``read``, other content."""
    damaged = [
        name
        for name, described in files.items()
        if not (path := folder / name).is_file() or path.stat().st_size != described["bytes"]
    ]
    seals: dict[str, Seal] = {
        name: {"bytes": described["bytes"], "sha256": described["sha256"], "modified_ns": 0}
        for name, described in files.items()
        if read and "sha256" in described and name not in damaged
    }
    return damaged + find_changed(folder, seals, read=True)


def require_unaltered(dataset: Dataset, names: Iterable[str]) -> None:
    """Refuse a dataset if some of its files, by their paths inside it, are not as converted.

    Raises
    ------
    InputError
        Naming each file.
    """
    files = list_files(dataset.manifest)
    altered = list_damaged(dataset.folder, {n: files[n] for n in names}, read=True)
    raise_problems(
        (
            Problem(
                where=str(dataset.folder / name),
                found="a file that is missing or was changed after the conversion",
                expected=f"SHA-256 {files[name].get('sha256', '')[:16]}, as {MANIFEST} says",
            )
            for name in altered
        ),
        remedy="Restore them with: gi2nnunet convert SOURCE",
    )
