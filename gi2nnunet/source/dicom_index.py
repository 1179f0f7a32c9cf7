"""Index of the DICOM files of a folder or zip: its series of images, and its RTSTRUCT and SEG.

Headers are read, but no pixels. Nothing here names a file or a patient unless paths are to be
shown: a file is "file 12 of the series" with the last digits of the series' instance UID.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gi2nnunet.core.errors import MOST_SIDE, MOST_VOXELS, InputError, Problem, count
from gi2nnunet.core.files import find_kind
from gi2nnunet.formats.dicom_series import (
    FRAME_KEYWORDS,
    Frame,
    Series,
    be_discreet,
    build_series,
    find_uneven_slices,
    list_frames,
    read_dicom,
    split_frames,
)
from gi2nnunet.formats.structures import find_referenced_series, list_structures
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.dicom_patients import Study, is_date

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STRUCTURES = ("RTSTRUCT", "SEG")
_START_BYTES = 132
_DICOMDIR = "1.2.840.10008.1.3.10"
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
_OF_IMAGE = (
    "Modality", "PatientID", "SeriesNumber", "SeriesDescription", "BitsAllocated",
    "SamplesPerPixel", *_DATES,
)  # fmt: skip
_OF_STRUCTURES = (
    "StructureSetROISequence", "SegmentSequence", "ReferencedSeriesSequence",
    "ReferencedFrameOfReferenceSequence",
)  # fmt: skip
# Images of MR, CT and PET, the enhanced ones too.
_IMAGES = tuple(f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4", "4.1", "2", "2.1", "128", "130"))
_DICOM = (".dcm", ".dicom", ".ima")
_NO_IMAGES = (*STRUCTURES, "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG")
_NOT_DICOM = (".png", ".csv", ".nii", ".gz", ".json", ".txt", ".xml", ".html", ".pdf", ".md")


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Slices that make up one volume: a series, or one echo or phase of it.

    Attributes
    ----------
    files
        Path of each slice's file inside the archive, in slice order; the one of a multi-frame
        image.
    series
        The slices with what was read of their headers; ``None`` if they do not fit together.
    problems
        Why they cannot be taken.
    uneven
        Places where their distances differ, so that they do not make an image.
    patient, study, date
        Real PatientID (empty if missing), StudyInstanceUID, and date (YYYYMMDD, or empty).
    modality, number, description, uid
        Modality, SeriesNumber, SeriesDescription and SeriesInstanceUID.
    part, parts
        Which part of the series it is, from 1, of how many.
    contrast
        Values in which it differs from the other parts.
    is_localizer
        Whether its slices only show where others lie: several orientations, or marked as such.
    described
        Modality, size and the last digits of its instance UID.
    """

    files: tuple[str, ...]
    series: Series | None = field(repr=False)
    problems: tuple[object, ...]
    uneven: tuple[Problem, ...]
    patient: str = field(repr=False)
    study: str = field(repr=False)
    date: str = field(repr=False)
    modality: str
    number: str
    description: str = field(repr=False)
    uid: str = field(repr=False)
    part: int
    parts: int
    contrast: str
    is_localizer: bool
    described: str

    @property
    def key(self) -> str:
        """Return what ``--series`` can name it by: its number, or the end of its UID."""
        return (self.number or self.uid[-6:]) + (f"/{self.part}" if self.parts > 1 else "")

    def __str__(self) -> str:
        """Return a line of a list of series."""
        extra = [f"{self.description!r}"] if self.description else []
        extra += [self.contrast] if self.contrast else []
        extra += ["a localizer"] if self.is_localizer else []
        wrong = [*self.problems, *self.uneven]
        extra += [f"cannot be taken ({wrong[0]})"] if wrong else []
        return f"{self.key}: " + ", ".join([self.described, *extra])

    def name_study(self) -> Study:
        """Return what its id is made from; without a PatientID, a study is a patient."""
        return Study(
            patient=self.patient or f"study {self.study}",
            date=self.date,
            key=" ".join(filter(None, (self.study, self.uid, self.contrast))),
        )

    def is_called(self, text: str) -> bool:
        """Return whether ``--series`` means it: by number, UID or its end, or description."""
        wanted = text.strip()
        if self.parts > 1 and wanted.endswith(f"/{self.part}"):
            wanted = wanted.removesuffix(f"/{self.part}")
        elif self.parts > 1 and wanted in (self.contrast, f"{self.description} {self.contrast}"):
            return True
        is_end = len(wanted) >= 6 and self.uid.endswith(wanted)
        return wanted in (self.number, self.uid, self.description) or is_end


@dataclass(frozen=True, kw_only=True)
class StructureFile:
    """An RTSTRUCT or SEG file.

    Attributes
    ----------
    archive, name
        Its folder or zip, and its path inside.
    modality
        ``RTSTRUCT`` or ``SEG``.
    shown_as
        What messages call it.
    series_uids
        Instance UIDs of the series that it refers to.
    names, codes
        Name of each structure, and its SNOMED CT code or an empty text.
    """

    archive: Archive = field(repr=False, compare=False)
    name: str = field(repr=False)
    modality: str
    shown_as: str
    series_uids: tuple[str, ...] = field(repr=False)
    names: tuple[str, ...]
    codes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a folder or zip holds.

    Attributes
    ----------
    volumes
        In the order of patients, dates and numbers of series.
    structures
        In the order of their names.
    problems
        DICOM files that cannot be read.
    has_dicomdir
        Whether a DICOMDIR is among them.
    others
        How many files are something else.
    """

    volumes: tuple[Volume, ...]
    structures: tuple[StructureFile, ...]
    problems: tuple[InputError, ...]
    has_dicomdir: bool
    others: int


def find_dicom(path: Path) -> tuple[Archive, list[str]] | None:
    """Return where DICOM files are and their names inside; ``None`` if there is none.

    A single file is read from its folder. Names with the endings of other kinds are passed over.
    """
    kind = find_kind(path)
    if kind == "file" and is_dicom(beside := Archive(path.parent), path.name):
        return beside, [path.name]
    if kind != "folder" and not (kind == "file" and zipfile.is_zipfile(path)):
        return None
    archive = Archive(path)
    names = [name for name in archive.names() if not name.lower().endswith(_NOT_DICOM)]
    return (archive, names) if any(is_dicom(archive, name) for name in names) else None


def is_dicom(archive: Archive, name: str) -> bool:
    """Return whether a file begins as DICOM files do."""
    return (_read_start(archive, name) or b"")[128:] == b"DICM"


def _read_start(archive: Archive, name: str) -> bytes | None:
    """Return the first bytes of a file, ``None`` if it cannot be read."""
    try:
        return archive.read_bytes(name, limit=_START_BYTES)
    except InputError:
        return None


def _is_something_else(archive: Archive, name: str, *, shown_as: str) -> bool:
    """Return whether a file is not a DICOM one.

    Raises :class:`InputError` if it may have been one: it cannot be read, is empty, or has the
    ending of one. An image that is lost at the end of a series would leave no gap.
    """
    start = _read_start(archive, name)
    if start is not None and start[128:] == b"DICM":
        return False
    if start is None and not archive.is_zip and (archive.place / name).exists():
        found = (archive.place / name).is_file()  # else a pipe or a device
    else:
        found = not start or name.lower().endswith(_DICOM)
    if found:
        what = "a file that cannot be read" if start is None else "the start of no DICOM file"
        raise InputError(
            f"{shown_as}: found {what if start != b'' else 'an empty file'}; expected a DICOM "
            "file. Copy it again from where it came from, or remove it."
        )
    return True


def open_file(archive: Archive, name: str, *, shown_as: str) -> BinaryIO:
    """Open a file in an archive; raises :class:`InputError` with what messages call it."""
    try:
        if archive.is_zip:
            return io.BytesIO(archive.read_bytes(name))
        return (archive.place / name).open("rb")
    except (OSError, InputError):
        raise InputError(
            f"{shown_as}: cannot be read; expected a DICOM file. Check its place and its rights, "
            "or copy it again."
        ) from None


@be_discreet()
def index_files(archive: Archive, names: Sequence[str], *, show_paths: bool = False) -> Index:
    """Read the headers of DICOM files and sort their images into volumes."""
    found = _Found()
    for at, name in enumerate(names, start=1):
        path = f"{archive.path}/{name}" if show_paths else ""
        shown_as = path or f"file {at} of {len(names)}"
        try:
            _sort_file(archive, name, into=found, path=path, shown_as=shown_as)
        except InputError as error:
            found.problems.append(error)
        except Exception as error:  # pydicom converts a value when it is asked for
            found.problems.append(
                InputError(
                    f"{shown_as}: found damaged values ({type(error).__name__}); expected a DICOM "
                    "file. Copy it again from where it came from."
                )
            )
    volumes = [v for images in found.series.values() if images for v in _build_volumes(images)]
    volumes.sort(key=lambda v: (v.patient, v.date, v.study, v.number.zfill(9), v.uid, v.part))
    return Index(
        volumes=tuple(volumes),
        structures=tuple(found.structures),
        problems=tuple(found.problems),
        has_dicomdir=found.has_dicomdir,
        others=found.others,
    )


@dataclass(kw_only=True)
class _Found:
    """What the files looked at so far are; images by study and series."""

    series: dict[tuple[str, str], list[tuple[str, Dataset, list[Frame]]]] = field(
        default_factory=dict
    )
    structures: list[StructureFile] = field(default_factory=list)
    problems: list[InputError] = field(default_factory=list)
    has_dicomdir: bool = False
    others: int = 0


def _sort_file(archive: Archive, name: str, *, into: _Found, path: str, shown_as: str) -> None:
    """Add a file to what it is; its path is shown if one is given."""
    if (header := _read_header(archive, name, shown_as=shown_as)) is None:
        into.others += 1
        return
    dataset, cut_off = header
    modality = str(dataset.get("Modality", ""))
    uid = str(dataset.get("SeriesInstanceUID", ""))
    if modality in STRUCTURES:
        known_as = path or f"{modality} ...{str(dataset.get('SOPInstanceUID', '?'))[-6:]}"
        into.structures.append(_describe_structures(archive, name, dataset, known_as))
    elif dataset.file_meta.get("MediaStorageSOPClassUID") == _DICOMDIR:
        into.has_dicomdir = True
    elif "Rows" in dataset and modality not in _NO_IMAGES:
        of_series = into.series.setdefault((str(dataset.get("StudyInstanceUID", "")), uid), [])
        known_as = path or f"file {len(of_series) + 1} of the series ...{uid[-6:]}"
        if cut_off:
            raise InputError(f"{known_as}: {cut_off}")
        of_series.append((name, dataset, list_frames(dataset, shown_as=known_as)))
    elif dataset.get("SOPClassUID") in (None, *_IMAGES):
        raise InputError(
            f"{shown_as}: ends early, or misses values: found no number of rows; expected "
            "an image. Copy the file again from where it came from."
        )
    else:
        into.others += 1


def _read_header(archive: Archive, name: str, *, shown_as: str) -> tuple[Dataset, str] | None:
    """Return a file's header and how it is cut off, or an empty text; ``None`` if not of DICOM."""
    if _is_something_else(archive, name, shown_as=shown_as):
        return None
    with open_file(archive, name, shown_as=shown_as) as file:
        tags = (*FRAME_KEYWORDS, *_OF_IMAGE, *_OF_STRUCTURES)
        dataset = read_dicom(file, shown_as=shown_as, pixels=False, tags=tags)
        header, size = file.tell(), file.seek(0, 2)
    return dataset, _find_cut(size, dataset, header)


def _find_cut(size: int, dataset: Dataset, header: int) -> str:
    """Return what is wrong with a file that is too short for its pixels; else an empty text."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_compressed or syntax.is_deflated:
        return ""
    sizes = ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")
    bits = int(dataset.get("NumberOfFrames") or 1)
    for keyword in sizes:
        bits *= int(dataset.get(keyword) or 0)
    found = size - header
    if found >= bits // 8:
        return ""
    return (
        f"found {found} bytes after its header; expected at least {bits // 8} for its pixels. "
        "Copy the file again from where it came from."
    )


def _describe_structures(
    archive: Archive, name: str, dataset: Dataset, shown_as: str
) -> StructureFile:
    names, codes = list_structures(dataset)
    return StructureFile(
        archive=archive,
        name=name,
        modality=str(dataset.Modality),
        shown_as=shown_as,
        series_uids=find_referenced_series(dataset),
        names=tuple(names),
        codes=tuple(codes),
    )


def _build_volumes(images: Sequence[tuple[str, Dataset, list[Frame]]]) -> Iterable[Volume]:
    """Yield the volumes of one series."""
    name_of = {id(dataset): name for name, dataset, _ in images}
    parts = split_frames([frame for _, _, frames in images for frame in frames])
    for part, (contrast, frames) in enumerate(parts.items(), start=1):
        image = frames[0].dataset
        uid = str(image.get("SeriesInstanceUID", ""))
        series: Series | None = None
        problems: list[object] = []
        kinds = {frame.contrast.get("ImageType", "") for frame in frames}
        orientations = {tuple(round(x, 3) for x in f.orientation) for f in frames if f.orientation}
        try:
            series = build_series(frames)
            problems += _find_bad_size(series)
        except InputError as error:
            problems.append(error)
        except Exception as error:  # a value of a type that DICOM does not allow there
            where = f"series ...{uid[-6:]}" if uid else "a series without SeriesInstanceUID"
            what = f"damaged or missing values ({type(error).__name__})"
            problems.append(Problem(where=where, found=what, expected="those of an MR image"))
        used = series.datasets if series else [frame.dataset for frame in frames]
        modality = str(image.get("Modality", "")) or "no modality"
        slices = count(len(frames), "slice")
        dates = (str(image.get(keyword) or "") for keyword in _DATES)
        yield Volume(
            files=tuple(dict.fromkeys(name_of[id(dataset)] for dataset in used)),
            series=None if problems else series,
            problems=tuple(problems),
            uneven=tuple(find_uneven_slices(series)) if series else (),
            patient=str(image.get("PatientID") or "").strip(),
            study=str(image.get("StudyInstanceUID", "")),
            date=next((text for text in dates if is_date(text)), ""),
            modality=modality,
            number=str(image.get("SeriesNumber") or "").strip(),
            description=str(image.get("SeriesDescription") or "").strip(),
            uid=uid,
            part=part,
            parts=len(parts),
            contrast=contrast,
            is_localizer=any("LOCALIZER" in kind for kind in kinds) or len(orientations) > 1,
            described=f"{modality}, {slices} of {image.get('Columns')} x {image.get('Rows')}, "
            f"...{uid[-6:]}",
        )


def _find_bad_size(series: Series) -> list[Problem]:
    slices, rows, columns = series.shape
    where = f"series ...{series.series_instance_uid[-6:]}"
    if slices < 2:
        return [Problem(where=where, found="one slice", expected="the folder of a series")]
    if max(series.shape) > MOST_SIDE or slices * rows * columns > MOST_VOXELS:
        found = f"{slices} slices of {columns} x {rows} pixels"
        expected = f"at most {MOST_SIDE} each way and {MOST_VOXELS} voxels in all"
        return [Problem(where=where, found=found, expected=expected)]
    return []
