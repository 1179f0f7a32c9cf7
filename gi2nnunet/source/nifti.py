"""NIfTI source, a folder of volumes or one file: its scans, and how their labels are coded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, Problem, count, name_some, raise_problems
from gi2nnunet.core.files import find_record, read_record
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.coding import (
    CODINGS,
    LabelCoding,
    parse_label_map,
    parse_mask_names,
    read_declared_labels,
)
from gi2nnunet.formats.ids import ORGANS, LabelScheme
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.volumes import (
    VolumeGeometry,
    nifti_stem,
    read_geometry,
    read_volume,
    write_volume_like,
)
from gi2nnunet.source.nifti_files import ScanFiles, is_nifti, list_volumes, volumes_of
from gi2nnunet.source.scan import (
    RECORDED,
    LoadedScan,
    Scan,
    Source,
    SourceOptions,
    digest_stamps,
)

DATASET_JSON = "dataset.json"
Masks = Mapping[str, tuple[tuple[Path, str], ...]]


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


_CLOSE_MM = 0.01


@dataclass(frozen=True, kw_only=True)
class NiftiScan(Scan):
    """A scan in a NIfTI file.

    Attributes
    ----------
    image, label
        The files; a scan without truth has no second one.
    masks
        Masks of single organs, each with the organ, in place of a label volume.
    as_stored
        Whether arrays are columns, rows and slices, whatever orientation the files say.
    """

    kind = "nifti"
    image: Path
    label: Path | None = None
    masks: tuple[tuple[Path, str], ...] = ()
    coding: LabelCoding = CODINGS["regions"]
    as_stored: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the image's file."""
        return (self.image,)

    @property
    def labelled(self) -> bool:
        """Return whether it has a label volume or masks."""
        return bool(self.label_files)

    @property
    def label_files(self) -> tuple[Path, ...]:
        """Return the files that hold its truth."""
        return (self.label,) if self.label else tuple(file for file, _ in self.masks)

    def load(self) -> LoadedScan:
        """Read the image in the file's own type and, where there are, the labels."""
        image = read_volume(self.image, as_stored=self.as_stored)
        problems: list[Problem] = []
        if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
            found, expected = "NaN or infinity", "finite intensities"
            problems.append(Problem(where=str(self.image), found=found, expected=expected))
        label_map = None
        if self.labelled:
            label_map, wrong = self._read_labels(image.geometry)
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
        if not self.labelled:
            raise ValueError(f"{self.scan_id} has no truth")
        return self._read_labels(read_geometry(self.image, as_stored=self.as_stored))

    def _read_labels(self, of_image: VolumeGeometry) -> tuple[LabelMap, tuple[Problem, ...]]:
        """Return the bit-coded labels of all files, and what is wrong with them."""
        joined: LabelMap = np.zeros(of_image.shape, np.uint8)
        problems = []
        organs = dict(self.masks)
        for file in self.label_files:
            labels, geometry = _read_label_volume(file, as_stored=self.as_stored)
            if not geometry.is_close(of_image, most_mm=_CLOSE_MM):
                found, expected = f"the geometry {geometry}", f"the image's, {of_image}"
                problems.append(Problem(where=str(file), found=found, expected=expected))
            if file in organs:
                bit_map, unknown = _read_mask(labels, organs[file])
                known = f"0 and one other value in a mask of {organs[file]}, as its name says"
            else:
                bit_map, unknown = self.coding.decode(labels)
                values = {v for values in self.coding.values.values() for v in values}
                known = f"those of {self.coding}: {sorted({0, *values, *self.coding.others})}"
            if file not in organs and self.coding.ignored in unknown:
                found = f"voxels of label {self.coding.ignored}, which dataset.json calls ignore"
                expected = f"labelled voxels only; {self.coding.describe_ignored()}"
                problems.append(Problem(where=str(file), found=found, expected=expected))
                unknown.remove(self.coding.ignored)
            if unknown:
                found = f"the labels {unknown[:5]}"
                problems.append(Problem(where=str(file), found=found, expected=known))
            if geometry.shape == joined.shape:
                joined |= bit_map
            elif not self.masks:
                joined = bit_map
        return joined, tuple(problems)

    def take_stamp(self) -> str:
        """Return a digest of the sizes and time stamps of its image and its label files."""
        return digest_stamps([self.image, *self.label_files])

    def without_truth(self) -> Self:
        """Return the scan without its label volume."""
        return replace(self, image=self.image.absolute(), label=None, masks=())

    def write_labels(self, path: Path, array: NDArray[Any]) -> None:
        """Write a volume into the geometry of the image."""
        write_volume_like(path, array, reference=self.image, as_stored=self.as_stored)

    def _place_to_json(self) -> dict[str, Any]:
        return {"image": str(self.image.absolute()), "as_stored": self.as_stored}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": Path(content["image"]), "as_stored": content["as_stored"]}


def _read_mask(labels: NDArray[np.uint8], organ: str) -> tuple[LabelMap, list[int]]:
    """Return a mask as a bit-coded label map, and its values if they are several."""
    values = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256)).tolist()
    bit = ORGAN_BITS[ORGANS.index(organ)]
    several = values if len(set(values) - {0}) > 1 else []
    return (labels != 0).astype(np.uint8) * np.uint8(bit), several


def _read_label_volume(path: Path, *, as_stored: bool) -> tuple[NDArray[np.uint8], VolumeGeometry]:
    """Read a label volume as uint8.

    Raises
    ------
    InputError
        If a value cannot be a label: a fraction, below 0 or above 255.
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
class NiftiSource(Source):
    """A folder of NIfTI volumes in one of the known layouts, or one NIfTI file."""

    scan_type = NiftiScan
    volumes = True
    endings = (".gz", ".nii")
    scans: Mapping[str, NiftiScan]
    mask_names: str = ""

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
        try:
            declared = _find_declared(path, options)
        except InputError:
            if not (options.label_map or options.source_labels):
                raise
            declared = None  # it is not needed
        return cls._open(path, options, declared=declared)

    @classmethod
    def _open(
        cls,
        path: Path,
        options: SourceOptions,
        *,
        declared: tuple[LabelCoding, str] | None,
        first_numbers: Mapping[str, int] | None = None,
    ) -> Self:
        missing: dict[str, str] = {}
        volumes = list_volumes(path, options, missing)
        labels = [files.label for files in volumes.values() if files.label]
        masks = {scan_id: files.masks for scan_id, files in volumes.items() if files.masks}
        if masks:
            _refuse_numbers(path, options)
        coding, where = None, ""
        if labels:
            coding, where = _choose_coding(labels, path=path, options=options, declared=declared)
        numbers = first_numbers or {}
        as_stored = options.orientation == "as-stored"
        geometries = _read_geometries(path, volumes, as_stored=as_stored)
        scans = {
            scan_id: NiftiScan(
                scan_id=scan_id,
                part=files.part,
                first_number=numbers.get(scan_id, 1),
                shape=geometries[scan_id].shape,
                spacing_mm=geometries[scan_id].spacing_mm,
                image=files.image,
                label=files.label,
                masks=files.masks,
                coding=coding or CODINGS["regions"],
                as_stored=as_stored,
            )
            for scan_id, files in volumes.items()
        }
        return cls(
            path=path,
            kind="nifti",
            scans=scans,
            options=_list_given(options),
            left_out=missing,
            unnumbered=tuple(scan_id for scan_id in scans if scan_id not in numbers),
            coding=coding,
            coding_is_from=where,
            warnings=(
                *(f"{scan_id} is left out ({why})" for scan_id, why in missing.items()),
                *_warn_of_contradiction(coding, where, declared),
                *_warn_of_made_up([s for s, of_scan in geometries.items() if of_scan.is_made_up]),
                *_warn_of_masks(masks, options),
            ),
            mask_names=_name_masks(masks),
        )

    def fingerprint(self) -> dict[str, Any]:
        """Return digests of names, sizes and contents, and the coding of labels.

        The last bytes of a ``.gz`` file tell its content; those of other files are read whole.
        """
        files = [file for scan in self.scans.values() for file in (scan.image, *scan.label_files)]
        root = self.path if self.path.is_dir() else self.path.parent
        listing, uncompressed = hashlib.sha256(), hashlib.sha256()
        for file in files:
            size, end = _read_end(file)
            listing.update(f"{file.relative_to(root).as_posix()} {size} {end}\n".encode())
            if file.suffix.lower() != ".gz":
                uncompressed.update(_digest_content(file).encode())
        return {
            "scans": len(self.scans),
            "files": len(files),
            "names_and_sizes_sha256": listing.hexdigest(),
            "uncompressed_sha256": uncompressed.hexdigest(),
            "labels": str(self.coding) if self.coding else self.mask_names or None,
            "orientation": self.options.get("orientation", "affine"),
        }

    @property
    def label_notes(self) -> tuple[str, ...]:
        """Return a sentence that says how its labels are read, if it has some."""
        masks = f"labels: one mask an organ: {self.mask_names} (by the names of the files)"
        return (*super().label_notes, *[masks] * bool(self.mask_names))

    @property
    def described(self) -> str:
        """Return the path and how many volumes it holds."""
        return f"{self.path} ({count(len(self.scans), 'NIfTI volume')})"


def _warn_of_made_up(scan_ids: Sequence[str]) -> tuple[str, ...]:
    """Return a warning of volumes that do not say where they lie in the patient, if there are."""
    if not scan_ids:
        return ()
    return (
        f"the affine of {count(len(scan_ids), 'volume')} ({name_some(scan_ids, most=3)}) has no "
        "origin or voxels of 1 mm, as an identity that was written with an array: what it says of "
        "the axes may be wrong, and mirrored volumes score about 0. If the arrays are columns, "
        "rows and slices in their order, give --orientation as-stored",
    )


def _warn_of_contradiction(
    coding: LabelCoding | None, where: str, declared: tuple[LabelCoding, str] | None
) -> list[str]:
    """Return a warning if an option says otherwise than the file beside the labels."""
    if coding is None or declared is None:
        return []
    ours, theirs = (
        {organ: set(values) for organ, values in c.values.items()} for c in (coding, declared[0])
    )
    if ours == theirs:
        return []
    return [
        f"{declared[1]} says that labels are {declared[0]}, but they are read as "
        f"{coding} ({where}): leave the option out if the file is right"
    ]


def _name_masks(masks: Masks) -> str:
    """Return which names of files are taken for which organ."""
    names: dict[str, set[str]] = {}
    for scan_id, of_scan in masks.items():
        for file, organ in of_scan:
            name = nifti_stem(file.name).removeprefix(f"{scan_id}_")
            names.setdefault(organ, set()).add(name)
    return "; ".join(
        f"{organ.replace('_', ' ')} {', '.join(sorted(names[organ]))}"
        for organ in ORGANS
        if organ in names
    )


def _refuse_numbers(path: Path, options: SourceOptions) -> None:
    """Refuse a coding of labels by numbers, which masks of single organs do not have."""
    if options.source_labels or (options.label_map and not parse_mask_names(options.label_map)):
        given = (
            f"--source-labels (of encode: --labels) {options.source_labels}"
            if options.source_labels
            else f"--label-map {options.label_map}"
        )
        raise InputError(
            f"{path}: found masks of single organs, which have no numbers of organs; expected "
            f"no {given}. Leave it out, or give names of files with --label-map."
        )


def _list_given(options: SourceOptions) -> dict[str, str | bool]:
    """Return the options to record that differ from their defaults."""
    given = {name: getattr(options, name) for name in RECORDED}
    return {name: value for name, value in given.items() if value and value != "affine"}


def _read_geometries(
    path: Path, volumes: Mapping[str, ScanFiles], *, as_stored: bool
) -> dict[str, VolumeGeometry]:
    """Read shape and spacing of each scan; all volumes that cannot be read are reported."""
    found: dict[str, VolumeGeometry] = {}
    unreadable: list[InputError] = []
    for scan_id, files in volumes.items():
        try:
            found[scan_id] = read_geometry(files.image, as_stored=as_stored)
        except InputError as error:
            unreadable.append(error)
    raise_problems(unreadable, remedy=f"Correct these in {path}.")
    return found


def _warn_of_masks(masks: Masks, options: SourceOptions) -> list[str]:
    """Return warnings of masks that are not there, and of those that are left out."""
    warnings = []
    asked = (parse_mask_names(options.label_map) if options.label_map else None) or ORGANS
    for organ in asked:
        without = [s for s, of_scan in masks.items() if organ not in {o for _, o in of_scan}]
        if without:
            named = name_some(without, most=3)
            warnings.append(
                f"no mask of {organ} for {count(len(without), 'scan')} ({named}): taken as empty"
            )
    folders = {of_scan[0][0].parent for of_scan in masks.values()}
    beside = (nifti_stem(file.name) for folder in folders for file in volumes_of(folder))
    if not options.label_map and any(stem.lower().endswith("duodenum") for stem in beside):
        warnings.append(
            "masks of the duodenum are left out; to join them to the small bowel, give "
            "--label-map large_bowel=colon,small_bowel=small_bowel+duodenum,stomach=stomach"
        )
    return warnings


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


def _digest_content(file: Path) -> str:
    try:
        return hash_file(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}).") from error


def list_folders_around(path: Path) -> tuple[Path, Path]:
    """Return where to look for what describes volumes: their folder, then one up."""
    start = path if path.is_dir() else path.parent
    return start, start.absolute().parent


def _find_declared(path: Path, options: SourceOptions) -> tuple[LabelCoding, str] | None:
    """Return how labels are coded as nnU-Net's dataset.json in the folder says, and the file.

    That of label volumes only may also lie one folder up.
    """
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
