"""NIfTI source, a folder of volumes or one file: its scans, and how their labels are coded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, Problem, name_some, raise_problems
from gi2nnunet.core.files import find_kind, find_record, read_record
from gi2nnunet.formats.coding import (
    CODINGS,
    LabelCoding,
    parse_label_map,
    read_declared_labels,
)
from gi2nnunet.formats.ids import ORGANS, LabelScheme, scan_order
from gi2nnunet.formats.labels import LabelMap
from gi2nnunet.formats.volumes import VolumeGeometry, read_geometry, read_volume, write_volume_like
from gi2nnunet.source.scan import LoadedScan, Part, Scan, Source, SourceOptions

DATASET_JSON = "dataset.json"


LabelValues = dict[str, int | list[int]]


class LabelTable(TypedDict):
    """The labels in nnU-Net's dataset.json."""

    labels: LabelValues


class DatasetDescription(LabelTable):
    """What is read of nnU-Net's dataset.json."""

    channel_names: dict[str, str]
    file_ending: str
    regions_class_order: NotRequired[list[int]]
    converted_by: NotRequired[str]


_ENDINGS = (".nii.gz", ".nii")
# Folder of images, folder of labels, part; the first row that is there decides the layout.
_LAYOUTS: tuple[tuple[tuple[str, str, Part], ...], ...] = (
    (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")),
    (("images", "labels", "train"),),
)
_CHANNEL = "_0000"  # of nnU-Net's images with one channel
# Names of masks of single organs, as in this package's organs/ and from TotalSegmentator.
_ONE_ORGAN = re.compile(r"(?:^|_)(?:large_bowel|small_bowel|stomach|colon|duodenum)$", re.I)
_CLOSE_MM = 0.01
_SCAN_ID = re.compile(r"\w(?:[\w.+=@ -]{0,198}[\w.+=@-])?")


@dataclass(frozen=True, kw_only=True)
class NiftiScan(Scan):
    """A scan in a NIfTI file.

    Attributes
    ----------
    image, label
        The files; a scan without truth has no second one.
    coding
        How its labels are coded.
    as_stored
        Whether arrays are columns, rows and slices, whatever orientation the files say.
    """

    kind = "nifti"
    image: Path
    label: Path | None = None
    coding: LabelCoding = CODINGS["regions"]
    as_stored: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the image's file."""
        return (self.image,)

    @property
    def labelled(self) -> bool:
        """Return whether it has a label volume."""
        return self.label is not None

    def load(self) -> LoadedScan:
        """Read the image in the file's own type and, where there are, the labels."""
        image = read_volume(self.image, as_stored=self.as_stored)
        problems: list[Problem] = []
        if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
            found, expected = "NaN or infinity", "finite intensities"
            problems.append(Problem(where=str(self.image), found=found, expected=expected))
        label_map = None
        if self.label is not None:
            label_map, wrong = self._read_labels(self.label, of_image=image.geometry)
            problems += wrong
        return LoadedScan(
            image=image.array,
            label_map=label_map,
            spacing_mm=image.geometry.spacing_mm,
            first_number=self.first_number,
            problems=tuple(problems),
        )

    def load_labels(self) -> tuple[LabelMap, tuple[Problem, ...]]:
        """Read the labels; of the image no more than its header."""
        if self.label is None:
            raise ValueError(f"{self.scan_id} has no truth")
        geometry = read_geometry(self.image, as_stored=self.as_stored)
        return self._read_labels(self.label, of_image=geometry)

    def _read_labels(
        self, label: Path, *, of_image: VolumeGeometry
    ) -> tuple[LabelMap, tuple[Problem, ...]]:
        label_map, geometry = _read_label_volume(label, as_stored=self.as_stored)
        problems = []
        if not geometry.is_close(of_image, most_mm=_CLOSE_MM):
            found, expected = f"the geometry {geometry}", f"the image's, {of_image}"
            problems.append(Problem(where=str(label), found=found, expected=expected))
        bit_map, unknown = self.coding.decode(label_map)
        if unknown:
            known = {v for values in self.coding.values.values() for v in values}
            problems.append(
                Problem(
                    where=str(label),
                    found=f"the labels {unknown[:5]}",
                    expected=f"those of {self.coding}: {sorted({0, *known, *self.coding.others})}",
                )
            )
        return bit_map, tuple(problems)

    def without_truth(self) -> Self:
        """Return the scan without its label volume."""
        return replace(self, image=self.image.absolute(), label=None)

    def write_labels(self, path: Path, array: NDArray[Any]) -> None:
        """Write a volume into the geometry of the image."""
        write_volume_like(path, array, reference=self.image, as_stored=self.as_stored)

    def _place_to_json(self) -> dict[str, Any]:
        return {"image": str(self.image.absolute()), "as_stored": self.as_stored}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": Path(content["image"]), "as_stored": content["as_stored"]}


def _read_label_volume(path: Path, *, as_stored: bool) -> tuple[NDArray[np.uint8], VolumeGeometry]:
    """Read a label volume as uint8.

    Raises
    ------
    InputError
        Where a value is no label: a fraction, below 0 or above 255.
    """
    volume = read_volume(path, as_stored=as_stored)
    array = volume.array
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.uint8)
    if not np.array_equal(labels, array):
        wrong = np.unique(array[labels != array])[:5]
        raise InputError(
            f"{path}: found the values {wrong.tolist()}; expected labels, whole numbers from 0 to "
            f"255. Give label volumes of {', '.join(ORGANS)}."
        )
    return labels, volume.geometry


@dataclass(frozen=True, kw_only=True)
class _ScanFiles:
    """The files of one scan, and where the folder puts it."""

    part: Part
    image: Path
    label: Path | None


@dataclass(frozen=True, kw_only=True)
class NiftiSource(Source):
    """A folder of NIfTI volumes in one of the known layouts, or one NIfTI file."""

    scan_type = NiftiScan
    endings = (".gz", ".nii")
    scans: Mapping[str, NiftiScan]

    @classmethod
    def open(cls, path: Path, options: SourceOptions) -> Self | None:
        """Open a folder of volumes, or one; ``None`` where it is neither.

        Raises
        ------
        InputError
            For names that do not fit together, headers that cannot be read, and if nothing shows
            how labels are coded.
        """
        if not is_nifti(path, options):
            return None
        return cls._open(path, options, declared=_find_declared(path, options))

    @classmethod
    def _open(
        cls,
        path: Path,
        options: SourceOptions,
        *,
        declared: tuple[LabelCoding, str] | None,
        first_numbers: Mapping[str, int] | None = None,
    ) -> Self:
        volumes = _list_volumes(path, options)
        labels = [files.label for files in volumes.values() if files.label]
        coding, where = None, ""
        if labels:
            coding, where = _choose_coding(labels, path=path, options=options, declared=declared)
        numbers = first_numbers or {}
        scans: dict[str, NiftiScan] = {}
        unreadable: list[InputError] = []
        made_up: list[str] = []
        as_stored = options.orientation == "as-stored"
        for scan_id, files in volumes.items():
            try:
                geometry = read_geometry(files.image, as_stored=as_stored)
            except InputError as error:
                unreadable.append(error)
                continue
            made_up += [scan_id] * geometry.is_made_up
            scans[scan_id] = NiftiScan(
                scan_id=scan_id,
                part=files.part,
                first_number=numbers.get(scan_id, 1),
                shape=geometry.shape,
                spacing_mm=geometry.spacing_mm,
                image=files.image,
                label=files.label,
                coding=coding or CODINGS["regions"],
                as_stored=as_stored,
            )
        raise_problems(unreadable, remedy=f"Correct these in {path}.")
        return cls(
            path=path,
            kind="nifti",
            scans=scans,
            options={
                name: given
                for name in ("source_labels", "label_map", "orientation")
                if (given := getattr(options, name)) and given != "affine"
            },
            unnumbered=tuple(scan_id for scan_id in scans if scan_id not in numbers),
            coding=coding,
            coding_is_from=where,
            warnings=_warn_of_made_up(made_up),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return a digest of names, sizes and last bytes, and the coding of labels."""
        files = [file for scan in self.scans.values() for file in (scan.image, scan.label) if file]
        root = self.path if self.path.is_dir() else self.path.parent
        listing = hashlib.sha256()
        for file in files:
            size, end = _read_end(file)
            listing.update(f"{file.relative_to(root).as_posix()} {size} {end}\n".encode())
        return {
            "scans": len(self.scans),
            "files": len(files),
            "names_and_sizes_sha256": listing.hexdigest(),
            "labels": str(self.coding) if self.coding else None,
            "orientation": self.options.get("orientation", "affine"),
        }

    @property
    def described(self) -> str:
        """Return the path and how many volumes it holds."""
        return f"{self.path} ({len(self.scans)} NIfTI volumes)"


def _warn_of_made_up(scan_ids: Sequence[str]) -> tuple[str, ...]:
    """Return a warning of volumes that do not say where they lie in the patient, if there are."""
    if not scan_ids:
        return ()
    return (
        f"the affine of {len(scan_ids)} volumes ({name_some(scan_ids, most=3)}) has no origin or "
        "voxels of 1 mm, as an identity that was written with an array: what it says of the axes "
        "may be wrong, and mirrored volumes score about 0. If the arrays are columns, rows and "
        "slices in their order, give --orientation as-stored",
    )


def _read_end(file: Path) -> tuple[int, str]:
    """Return a file's size and its last bytes, which differ in another file of its name.

    The last eight bytes of a ``.gz`` file are the checksum and the size of its content.
    """
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(0, size - 8))
            return size, opened.read().hex()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}).") from error


def is_nifti(path: Path, options: SourceOptions) -> bool:
    """Return whether a path is NIfTI, by its name or by what the folder holds."""
    if options.scope == "hidden":  # only the competition hides a test set
        return False
    is_folder = find_kind(path) == "folder"
    if options.labels_only or path.name.endswith(_ENDINGS):
        return True
    folders = [path, *(path / images for layout in _LAYOUTS for images, _, _ in layout)]
    return is_folder and any(_volumes_of(folder) for folder in folders)


def _volumes_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.endswith(_ENDINGS)
        and not file.name.startswith(".")
        and (file.is_file() or file.is_symlink())  # a link to nowhere is reported when it is read
    )


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def _list_volumes(path: Path, options: SourceOptions) -> dict[str, _ScanFiles]:
    """Return the files of each scan, scans in numeric order of patient and day.

    Raises
    ------
    InputError
        For ids that do not fit a CSV, second images of a scan, labels without an image; all of
        them are listed together. If there is no volume.
    """
    kind = find_kind(path)
    problems: list[Problem] = []
    if kind == "file":
        beside = _volumes_of(path.parent)
        scan_id = _stem(path)
        if not options.labels_only and _are_channels(beside, ()):
            scan_id = scan_id.removesuffix(_CHANNEL)
        found = {scan_id: _ScanFiles(part="test", image=path, label=None)}
        problems += _find_bad_id(scan_id, path)
    elif kind == "folder":
        found = _list_folder(path, problems, labels_only=options.labels_only)
    else:
        raise InputError(f"{path}: no such file or folder. Give a folder of NIfTI volumes, or one.")
    named = [files.label for files in found.values()]
    if options.labels_only and not any(named):
        named = [files.image for files in found.values()]
    problems += [
        Problem(
            where=str(file),
            found="a name that ends in one organ's, as that of a mask of this organ",
            expected="one volume for all organs of a scan",
        )
        for file in named
        if file and _ONE_ORGAN.search(_stem(file))
    ]
    raise_problems(problems, remedy=f"Correct these in {path}.")
    if not found:
        raise InputError(
            f"{path}: holds no NIfTI image. Expected .nii or .nii.gz files in it, in images/ or "
            "in imagesTr/."
        )
    if options.labels_only:
        # A folder that holds images too, as a whole dataset does, keeps its labels apart.
        apart = {scan_id: files.label for scan_id, files in found.items() if files.label}
        labels = apart or {scan_id: files.image for scan_id, files in found.items()}
        found = {s: _ScanFiles(part="train", image=file, label=file) for s, file in labels.items()}
    elif not options.truth:
        found = {scan_id: replace(files, label=None) for scan_id, files in found.items()}
    return {scan_id: found[scan_id] for scan_id in sorted(found, key=scan_order)}


def _are_channels(images: Sequence[Path], label_names: Iterable[str]) -> bool:
    """Return whether images have nnU-Net's names: all end in _0000, which no label's name does."""
    stems = {_stem(file) for file in images}
    return all(stem.endswith(_CHANNEL) for stem in stems) and stems.isdisjoint(label_names)


def _find_channels(images: Sequence[Path], label_names: Collection[str]) -> list[Problem]:
    """Return the files that are further channels of a scan, by the names of all."""
    stems = [_stem(file) for file in images]
    first = {stem.removesuffix(_CHANNEL) for stem in stems if stem.endswith(_CHANNEL)}
    numbered = {s for s in stems if s[-5:-4] == "_" and s[-4:].isdecimal() and s not in label_names}
    several = {stem[:-5] for stem in numbered if stem[-4:] != "0000"} & first
    # Numbered scans have one start; a start that a label has, or several of them, are scans.
    channels = {start for start in several if len(several) > 1} | set(label_names)
    return [
        Problem(
            where=str(file),
            found=f"a second image of {stem[:-5]}"
            if stem.endswith(_CHANNEL)
            else f"channel {stem[-4:]}",
            expected="one image a scan, channel 0000",
        )
        for file, stem in zip(images, stems, strict=True)
        if stem in numbered and stem[:-5] in channels
        if stem[:-5] in stems or not stem.endswith(_CHANNEL)
    ]


def _list_folder(
    path: Path, problems: list[Problem], *, labels_only: bool
) -> dict[str, _ScanFiles]:
    found: dict[str, _ScanFiles] = {}
    for images, labels, part in _find_layout(path):
        label_of = {_stem(file): file for file in _volumes_of(labels)} if labels else {}
        files = _volumes_of(images)
        are_labels = labels_only and labels is None
        strip = not are_labels and _are_channels(files, label_of)
        if not are_labels and (channels := _find_channels(files, label_of)):
            problems += channels
            named = {_stem(file) for file in files}
            named |= {stem.removesuffix(_CHANNEL) for stem in named}
            label_of = {name: label_of[name] for name in label_of.keys() - named}
            files = []
        for file in files:
            scan_id = _stem(file).removesuffix(_CHANNEL) if strip else _stem(file)
            if bad := _find_bad_id(scan_id, file):
                label_of.pop(scan_id, None)
                problems += bad
                continue
            if scan_id in found:
                problems.append(
                    Problem(
                        where=str(file),
                        found=f"a second image of {scan_id}",
                        expected="one image a scan",
                    )
                )
                continue
            label = label_of.pop(scan_id, None)
            found[scan_id] = _ScanFiles(part=part if label else "test", image=file, label=label)
        problems += [
            Problem(where=str(file), found="labels without an image", expected=f"one in {images}")
            for file in label_of.values()
        ]
    return found


def _find_layout(path: Path) -> list[tuple[Path, Path | None, Part]]:
    for layout in _LAYOUTS:
        if any(_volumes_of(path / images) for images, _, _ in layout):
            return [(path / images, path / labels, part) for images, labels, part in layout]
    return [(path, None, "test")]


def _find_bad_id(scan_id: str, file: Path) -> list[Problem]:
    if _SCAN_ID.fullmatch(scan_id):
        return []
    expected = "letters, digits, blanks and . _ + = @ -, fit for a CSV"
    return [Problem(where=repr(str(file)), found=f"the scan id {scan_id!r}", expected=expected)]


def list_folders_around(path: Path) -> tuple[Path, Path]:
    """Return where to look for what describes volumes: their folder, then one up."""
    start = path if path.is_dir() else path.parent
    return start, start.absolute().parent


def _find_declared(path: Path, options: SourceOptions) -> tuple[LabelCoding, str] | None:
    """Return how labels are coded as nnU-Net's dataset.json in the folder says, and the file.

    That of label volumes only may also lie one folder up.
    """
    if options.label_map or options.source_labels:
        return None
    folders = list_folders_around(path) if options.labels_only else (path,)
    for folder in folders:
        file = folder / DATASET_JSON
        remedy = "Restore it, or remove it and say how the labels are coded."
        is_own = folder == path
        content = find_record(file, dict[str, Any], remedy=remedy if is_own else None)
        if content is None or ("labels" not in content and not is_own):
            continue
        labels = read_record(file, LabelTable, remedy=remedy)["labels"]
        return read_declared_labels(labels, where=str(file)), str(file)
    return None


def _choose_coding(
    labels: Sequence[Path],
    *,
    path: Path,
    options: SourceOptions,
    declared: tuple[LabelCoding, str] | None,
) -> tuple[LabelCoding, str]:
    """Return how labels are coded: as an option, a file or their values say; and which of these."""
    if options.label_map:
        return parse_label_map(options.label_map), "--label-map"
    if options.source_labels:
        return CODINGS[options.source_labels], f"as asked for: {options.source_labels}"
    if declared:
        return declared
    scheme = _find_scheme(labels, path=path, options=options)
    return CODINGS[scheme], f"by their values: {scheme}"


def _find_scheme(labels: Sequence[Path], *, path: Path, options: SourceOptions) -> LabelScheme:
    """Decide by the values how labels are coded; reading stops as soon as that is clear.

    Raises
    ------
    InputError
        If they leave it open: 3 without anything above it is the stomach in exclusive labels and
        both bowels in bit-coded ones.
    """
    as_stored = options.orientation == "as-stored"

    def find_highest(label: Path) -> int:
        return int(_read_label_volume(label, as_stored=as_stored)[0].max())

    highest = 0
    with ThreadPoolExecutor(options.workers) as pool:
        for start in range(0, len(labels), options.workers):
            some = labels[start : start + options.workers]
            highest = max(highest, *pool.map(find_highest, some))
            if highest > len(ORGANS):
                return "regions"
    if highest == len(ORGANS):
        raise InputError(
            f"{path}: found the label 3 and none above it; that is stomach in exclusive labels, "
            "large with small bowel in bit-coded ones. Say which: --source-labels (of encode: "
            "--labels) exclusive or regions; or --label-map stomach=1,small_bowel=2,large_bowel=3."
        )
    return "exclusive"  # only 1 and 2, which mean the same in both
