"""NIfTI source, a folder of volumes or one file: its scans, and how their labels are coded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, Self

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from gi2nnunet.core.errors import InputError, Problem, raise_problems, shorten
from gi2nnunet.core.files import find_kind, find_record
from gi2nnunet.formats.ids import LABEL_SCHEMES, ORGANS, LabelScheme, scan_order
from gi2nnunet.formats.labels import ALL_BITS, LabelMap, nnunet_labels, to_bits
from gi2nnunet.formats.volumes import VolumeGeometry, read_geometry, read_volume, write_volume_like
from gi2nnunet.source.scan import LoadedScan, Part, Scan, Source, SourceOptions, digest_stamps

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
_CLOSE_MM = 0.01
_SCAN_ID = re.compile(r"\w(?:[\w.+=@ -]{0,198}[\w.+=@-])?")


@dataclass(frozen=True, kw_only=True)
class NiftiScan(Scan):
    """A scan in a NIfTI file.

    Attributes
    ----------
    image, label
        The files; a scan without truth has no second one.
    label_scheme
        How its labels are coded.
    """

    kind = "nifti"
    image: Path
    label: Path | None = None
    label_scheme: LabelScheme = "regions"

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
        image = read_volume(self.image)
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
        return self._read_labels(self.label, of_image=read_geometry(self.image))

    def _read_labels(
        self, label: Path, *, of_image: VolumeGeometry
    ) -> tuple[LabelMap, tuple[Problem, ...]]:
        label_map, geometry = _read_label_volume(label)
        problems = []
        if not geometry.is_close(of_image, most_mm=_CLOSE_MM):
            found, expected = f"the geometry {geometry}", f"the image's, {of_image}"
            problems.append(Problem(where=str(label), found=found, expected=expected))
        if self.label_scheme == "regions":
            return label_map, tuple(problems)
        if label_map.max() > len(ORGANS):
            above = np.unique(label_map[label_map > len(ORGANS)]).tolist()
            problems.append(
                Problem(
                    where=str(label),
                    found=f"the labels {above}",
                    expected=f"at most {len(ORGANS)}, as labels are exclusive",
                )
            )
        return to_bits(label_map), tuple(problems)

    def take_stamp(self) -> str:
        """Return a digest of the sizes and time stamps of image and labels."""
        return digest_stamps(file for file in (self.image, self.label) if file)

    def without_truth(self) -> Self:
        """Return the scan without its label volume."""
        return replace(self, image=self.image.absolute(), label=None)

    def write_labels(self, path: Path, array: NDArray[Any]) -> None:
        """Write a volume into the geometry of the image."""
        write_volume_like(path, array, reference=self.image)

    def _place_to_json(self) -> dict[str, Any]:
        return {"image": str(self.image.absolute())}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": Path(content["image"])}


def _read_label_volume(path: Path) -> tuple[LabelMap, VolumeGeometry]:
    """Read a label volume as uint8.

    Raises
    ------
    InputError
        Where a value is no label: a fraction, below 0 or above 7.
    """
    volume = read_volume(path)
    array = volume.array
    with np.errstate(invalid="ignore"):
        labels: LabelMap = array.astype(np.uint8)
    if not np.array_equal(labels, array) or int(labels.max()) > ALL_BITS:
        wrong = np.unique(array[(labels != array) | (labels > ALL_BITS)])[:5]
        raise InputError(
            f"{path}: found the values {wrong.tolist()}; expected labels from 0 to "
            f"{ALL_BITS}. Give label volumes of {', '.join(ORGANS)}."
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
        declared: LabelScheme | None,
        first_numbers: Mapping[str, int] | None = None,
    ) -> Self:
        volumes = _list_volumes(path, options)
        labels = [files.label for files in volumes.values() if files.label]
        known = options.source_labels or declared
        scheme = known
        if not labels:
            scheme = None
        elif not known:
            scheme = _tell_scheme(labels, path=path, workers=options.workers)
        numbers = first_numbers or {}
        scans: dict[str, NiftiScan] = {}
        unreadable: list[InputError] = []
        for scan_id, files in volumes.items():
            try:
                geometry = read_geometry(files.image)
            except InputError as error:
                unreadable.append(error)
                continue
            scans[scan_id] = NiftiScan(
                scan_id=scan_id,
                part=files.part,
                first_number=numbers.get(scan_id, 1),
                shape=geometry.shape,
                spacing_mm=geometry.spacing_mm,
                image=files.image,
                label=files.label,
                label_scheme=scheme or "regions",
            )
        raise_problems(unreadable, remedy=f"Correct these in {path}.")
        return cls(
            path=path,
            kind="nifti",
            scans=scans,
            options={"source_labels": options.source_labels} if options.source_labels else {},
            unnumbered=tuple(scan_id for scan_id in scans if scan_id not in numbers),
            scheme=scheme,
            scheme_is_guessed=scheme is not None and not known,
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
            "labels": self.scheme,
        }

    @property
    def described(self) -> str:
        """Return the path and how many volumes it holds."""
        return f"{self.path} ({len(self.scans)} NIfTI volumes)"


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
        scan_id = _stem(path).removesuffix("_0000")
        found = {scan_id: _ScanFiles(part="test", image=path, label=None)}
        problems += _find_bad_id(scan_id, path)
    elif kind == "folder":
        found = _list_folder(path, problems)
    else:
        raise InputError(f"{path}: no such file or folder. Give a folder of NIfTI volumes, or one.")
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


def _list_folder(path: Path, problems: list[Problem]) -> dict[str, _ScanFiles]:
    found: dict[str, _ScanFiles] = {}
    for images, labels, part in _find_layout(path):
        label_of = {_stem(file): file for file in _volumes_of(labels)} if labels else {}
        for file in _volumes_of(images):
            scan_id, _, channel = _stem(file).rpartition("_")
            if not (scan_id and len(channel) == 4 and channel.isdecimal()):
                scan_id, channel = _stem(file), "0000"
            if bad := _find_bad_id(scan_id, file):
                label_of.pop(scan_id, None)
                problems += bad
                continue
            if channel != "0000" or scan_id in found:
                second = f"a second image of {scan_id}"
                problems.append(
                    Problem(
                        where=str(file),
                        found=second if channel == "0000" else f"channel {channel}",
                        expected="one image a scan, channel 0000",
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


def _find_declared(path: Path, options: SourceOptions) -> LabelScheme | None:
    """Return how labels are coded as nnU-Net's dataset.json in the folder says.

    That of label volumes only may also lie one folder up.
    """
    declared = _read_declared(path / DATASET_JSON)
    if declared or options.source_labels or not options.labels_only:
        return declared
    for folder in list_folders_around(path):
        if "labels" in (find_record(folder / DATASET_JSON, dict[str, Any]) or {}):
            return _read_declared(folder / DATASET_JSON)
    return None


def _read_declared(dataset_json: Path) -> LabelScheme | None:
    """Return how an nnU-Net dataset.json says that labels are coded; ``None`` without the file.

    Raises
    ------
    InputError
        Where it declares other labels than the two ways that are known.
    """
    remedy = "Restore it, or remove it and say how the labels are coded."
    content = find_record(dataset_json, dict[str, Any], remedy=remedy)
    if content is None:
        return None
    declared = content.get("labels")
    for scheme in LABEL_SCHEMES:
        if declared == nnunet_labels(scheme)[0]:
            return scheme
    raise InputError(
        f"{dataset_json}: found the labels {shorten(str(declared))}; expected "
        f"{' or '.join(str(nnunet_labels(scheme)[0]) for scheme in LABEL_SCHEMES)}. "
        "Convert the labels, or remove the file and say how they are coded."
    )


def _tell_scheme(labels: Sequence[Path], *, path: Path, workers: int) -> LabelScheme:
    """Decide by the values how labels are coded; reading stops as soon as that is clear.

    Raises
    ------
    InputError
        If they leave it open: 3 without anything above it is the stomach in exclusive labels and
        both bowels in bit-coded ones.
    """
    highest = 0
    with ThreadPoolExecutor(workers) as pool:
        for of_scan in pool.map(lambda label: int(_read_label_volume(label)[0].max()), labels):
            highest = max(highest, of_scan)
            if highest > len(ORGANS):
                pool.shutdown(wait=False, cancel_futures=True)
                return "regions"
    if highest == len(ORGANS):
        raise InputError(
            f"{path}: found the label 3 and none above it; that is stomach in exclusive labels, "
            "large with small bowel in bit-coded ones. Say which: --source-labels (of encode: "
            "--labels) exclusive or regions."
        )
    return "exclusive"  # only 1 and 2, which mean the same in both
