"""Series of DICOM images: slices in order along their normal, and where each one lies.

Slices are ordered by ImagePositionPatient along the normal of ImageOrientationPatient (row
direction x column direction), never by file name or InstanceNumber, so that rows, columns and
slices make a right-handed frame in the patient's LPS coordinates. Libraries differ in which end is
slice 0, so place a mask by positions, never by the order of an array.

References
----------
https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_C.7.6.2.html
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import is_stray
from gi2nnunet.formats.ids import ORGANS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_DIRECTION = 1e-4  # of a unit vector's component
_SAME_PLACE_MM = 0.01
_UNEVEN = 0.01  # of the usual distance of slices
_ASIDE_MM = 0.1
_UNDEFINED_LENGTH = 0xFFFFFFFF

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
"""Keywords that every file copies from its series, empty if de-identification removed them."""


def require_dicom() -> None:
    """Check that the optional packages for DICOM are installed.

    They are imported inside functions, because importing them takes up to a second.

    Raises
    ------
    InputError
        If one is not; the message names the extra that installs them.
    """
    missing = [name for name in ("pydicom", "highdicom") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"DICOM files: found no package {' and no package '.join(missing)}; expected both of "
            "pydicom and highdicom. Install them with: pip install 'gi2nnunet[dicom]'"
        )


@dataclass
class _Discretion:
    """Blocks of :func:`be_discreet` that run, and how to undo what the first of them changed."""

    lock: Lock = field(default_factory=Lock)
    blocks: int = 0
    undo: ExitStack = field(default_factory=ExitStack)


_discretion = _Discretion()


@contextmanager
def be_discreet() -> Iterator[None]:
    """Let pydicom not warn of invalid values while the block runs, and require it.

    Its warnings show values, which can name the patient, also in a log. Blocks may overlap, in
    several threads: the first one changes pydicom's settings, and the last one restores them. Every
    function that asks a data set for values is one, because pydicom converts them only then.

    Raises
    ------
    InputError
        As :func:`require_dicom`.
    """
    with _discretion.lock:
        if not _discretion.blocks:
            require_dicom()
            from pydicom import config

            _discretion.undo.enter_context(config.disable_value_validation())
            _discretion.undo.callback(setattr, config.logger, "disabled", config.logger.disabled)
            config.logger.disabled = True
            _discretion.undo.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
        _discretion.blocks += 1
    try:
        yield
    finally:
        with _discretion.lock:
            _discretion.blocks -= 1
            if not _discretion.blocks:
                _discretion.undo.close()


@be_discreet()
def read_dicom(
    file: Path | BinaryIO, *, shown_as: str, pixels: bool = True, tags: Sequence[str] | None = None
) -> Dataset:
    """Read a DICOM file.

    Parameters
    ----------
    file
        A path, or an open file.
    shown_as
        What messages call it; paths often hold a patient's name.
    pixels
        Whether to read on where the pixels begin.
    tags
        Keywords to read; by default all.

    Raises
    ------
    InputError
        If it is missing, cannot be read, is not DICOM, or ends early.
    """
    import pydicom
    from pydicom.dataelem import RawDataElement

    # Not "from error": a traceback in a log would show the path or a value.
    try:
        dataset = pydicom.dcmread(
            file, stop_before_pixels=not pixels, specific_tags=None if tags is None else [*tags]
        )
    except OSError as error:
        raise InputError(
            f"{shown_as}: cannot be read ({error.strerror or type(error).__name__}); expected a "
            "DICOM file. Check its place and its rights."
        ) from None
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        raise InputError(
            f"{shown_as}: found no DICOM file, or a damaged one ({type(error).__name__}); expected "
            "a DICOM file. Copy it again from where it came from."
        ) from None
    # A value that is cut short at the file's end is read without an error.
    last = dataset.get_item(max(dataset.keys(), default=0))
    if (
        isinstance(last, RawDataElement)
        and last.length != _UNDEFINED_LENGTH
        and len(last.value or b"") < last.length
    ):
        raise InputError(
            f"{shown_as}: ends early: found {len(last.value or b'')} bytes of a value; expected "
            f"{last.length}. Copy it again from where it came from."
        )
    return dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One image plane: an image of one frame, or a frame of a multi-frame image.

    Attributes
    ----------
    dataset
        The image.
    number
        Its frame, from 1; ``None`` if the image is not a multi-frame one.
    shown_as
        What messages call it.
    position_mm, orientation, spacing_mm
        ImagePositionPatient, ImageOrientationPatient and PixelSpacing; empty if it has none.
    contrast
        Values in which echoes and phases at one position can differ, by keyword.
    """

    dataset: Dataset = field(repr=False)  # it names the patient
    number: int | None
    shown_as: str
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing_mm: tuple[float, ...]
    contrast: Mapping[str, str]


# Keywords by the sequence that holds them in a multi-frame image; in the order of preference.
_CONTRAST: Mapping[str, str] = {
    "EchoNumbers": "",
    "EchoTime": "",
    "EffectiveEchoTime": "MREchoSequence",
    "TemporalPositionIdentifier": "",
    "TemporalPositionIndex": "FrameContentSequence",
    "TriggerTime": "",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
    "InversionTime": "",
    "DiffusionBValue": "MRDiffusionSequence",
    "ImageType": "",
    "FrameType": "MRImageFrameTypeSequence",
    "StackID": "FrameContentSequence",
    "AcquisitionNumber": "",
}
FRAME_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "Rows", "Columns", "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence", *_CONTRAST,
)  # fmt: skip
"""What :func:`list_frames` and :func:`build_series` need of an image."""


@be_discreet()
def list_frames(dataset: Dataset, *, shown_as: str = "") -> list[Frame]:
    """Return the planes of an image, classic or multi-frame."""
    own = dataset.get("PerFrameFunctionalGroupsSequence")
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), None)
    frames = []
    for number, groups in enumerate(own or [None], start=1):
        places = [place for place in (groups, shared) if place is not None]

        def find(sequence: str, keyword: str, places: list[Dataset] = places) -> Any:
            for place in places:
                if items := place.get(sequence):
                    return items[0].get(keyword)
            return dataset.get(keyword)

        try:
            frames.append(
                Frame(
                    dataset=dataset,
                    number=number if own else None,
                    shown_as=f"{shown_as}, frame {number}" if own and shown_as else shown_as,
                    position_mm=_floats(find("PlanePositionSequence", "ImagePositionPatient"), 3),
                    orientation=_floats(
                        find("PlaneOrientationSequence", "ImageOrientationPatient"), 6
                    ),
                    spacing_mm=_floats(find("PixelMeasuresSequence", "PixelSpacing"), 2),
                    contrast={
                        keyword: str(value)
                        for keyword, sequence in _CONTRAST.items()
                        if (value := find(sequence, keyword)) is not None
                    },
                )
            )
        except Exception as error:  # pydicom raises errors of many kinds for damaged values
            raise InputError(
                f"{shown_as or 'an image'}: found damaged values ({type(error).__name__}); "
                "expected position, orientation and spacing. Copy it again from its source."
            ) from None
    return frames


def _floats(values: Any, count: int) -> tuple[float, ...]:
    """Return so many finite numbers; none if there are others."""
    found = tuple(float(value) for value in values or ())
    return found if len(found) == count and np.isfinite(found).all() else ()


def split_frames(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """Split frames that lie at one position into echoes, phases or other contrasts.

    Returns
    -------
    dict
        Frames by the values in which they differ, as ``EchoTime 4.6``, in the order of these; all
        under an empty text if there is one at each position, or they differ in no value.
    """
    varying = [
        keyword for keyword in _CONTRAST if len({f.contrast.get(keyword) for f in frames}) > 1
    ]
    joined = (varying[:count] for count in range(2, len(varying) + 1))
    for keywords in ((), *((keyword,) for keyword in varying), *joined):
        parts: dict[str, list[Frame]] = {}
        for frame in sorted(
            frames, key=lambda f: [_order(f.contrast.get(k, "")) for k in keywords]
        ):
            name = ", ".join(f"{keyword} {frame.contrast.get(keyword)}" for keyword in keywords)
            parts.setdefault(name, []).append(frame)
        places = [
            {(f.orientation, tuple(np.round(f.position_mm, 2).tolist())) for f in part}
            for part in parts.values()
        ]
        if all(len(place) == len(part) for place, part in zip(places, parts.values(), strict=True)):
            return parts
    return {"": list(frames)}


def _order(text: str) -> tuple[float, str]:
    """Return a sort key of a value: numbers by size, before texts."""
    try:
        return float(text), text
    except ValueError:
        return np.inf, text


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One series of images, slice by slice.

    Attributes
    ----------
    sop_class_uid
        SOP class of the images, the same for all.
    sop_instance_uids
        SOP instance of each slice. Slices of a multi-frame image share one.
    frame_numbers
        Frame of each slice in its multi-frame image, from 1; ``None`` if each slice is an
        instance of its own.
    positions_mm
        ``(slices, 3)`` float64, centre of each slice's first pixel in LPS mm, ascending along the
        normal. Distances may differ.
    row_direction, column_direction
        Unit vectors, the two triples of ImageOrientationPatient: along a row (to the next column)
        and along a column (to the next row).
    pixel_spacing_mm
        Distance between rows and distance between columns in mm, as in PixelSpacing.
    shape
        ``(slices, rows, columns)``.
    frame_of_reference_uid
        Empty if the images do not have one.
    study_instance_uid, series_instance_uid
        What the slices belong to.
    datasets
        The images' data sets: one per slice in slice order, or the one of a multi-frame image.
    """

    sop_class_uid: str
    sop_instance_uids: tuple[str, ...]
    frame_numbers: tuple[int, ...] | None
    positions_mm: NDArray[np.float64]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    pixel_spacing_mm: tuple[float, float]
    shape: tuple[int, int, int]
    frame_of_reference_uid: str
    study_instance_uid: str
    series_instance_uid: str
    datasets: tuple[Dataset, ...] = field(repr=False)  # they name the patient

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector from a slice to the next: row direction x column direction."""
        return np.cross(self.row_direction, self.column_direction)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix ``(4, 4)`` from slice, row and column to LPS mm, for slices at equal distances."""
        rows_mm, columns_mm = self.pixel_spacing_mm
        affine = np.eye(4)
        affine[:3, 0] = (self.positions_mm[-1] - self.positions_mm[0]) / (self.shape[0] - 1)
        affine[:3, 1] = np.array(self.column_direction) * rows_mm
        affine[:3, 2] = np.array(self.row_direction) * columns_mm
        affine[:3, 3] = self.positions_mm[0]
        return affine


@be_discreet()
def build_series(frames: Sequence[Frame]) -> Series:
    """Put the planes of one series in order.

    Parameters
    ----------
    frames
        One plane per slice, in any order: images of one frame each, or frames of one image.

    Raises
    ------
    InputError
        If a plane has no position, orientation or spacing; if orientation, size or spacing differ
        between slices, or two slices lie at one place. All problems are listed.
    """
    if not frames:
        raise ValueError("a series needs at least one image")
    raise_problems(_find_missing(frames), remedy=_OTHER_SERIES)
    first = frames[0]
    orientation = np.array(first.orientation)
    row_direction, column_direction = orientation[:3], orientation[3:]
    normal = np.cross(row_direction, column_direction)
    positions = np.array([frame.position_mm for frame in frames], np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = [frames[index] for index in order]
    positions = positions[order]
    problems = list(_check_axes(first))
    for number, frame in enumerate(ordered, start=1):
        problems += _compare_frames(frame, first, frame.shown_as or f"slice {number} of the series")
    problems += [
        Problem(
            where=" and ".join(
                ordered[at].shown_as or f"slice {at + 1} of the series" for at in (index, index + 1)
            ),
            found=f"both at {positions[index].tolist()} mm",
            expected="one image at each position",
        )
        for index in np.flatnonzero(np.diff(positions @ normal) < _SAME_PLACE_MM).tolist()
    ]
    raise_problems(problems, remedy=_OTHER_SERIES)
    image = first.dataset
    numbers = tuple(frame.number for frame in ordered if frame.number is not None)
    return Series(
        sop_class_uid=str(image.SOPClassUID),
        sop_instance_uids=tuple(str(frame.dataset.SOPInstanceUID) for frame in ordered),
        frame_numbers=numbers or None,
        positions_mm=positions,
        row_direction=_as_triple(row_direction),
        column_direction=_as_triple(column_direction),
        pixel_spacing_mm=(first.spacing_mm[0], first.spacing_mm[1]),
        shape=(len(ordered), int(image.Rows), int(image.Columns)),
        frame_of_reference_uid=str(image.get("FrameOfReferenceUID") or ""),
        study_instance_uid=str(image.StudyInstanceUID),
        series_instance_uid=str(image.SeriesInstanceUID),
        datasets=(image,) if numbers else tuple(frame.dataset for frame in ordered),
    )


def _find_missing(frames: Sequence[Frame]) -> Iterator[Problem]:
    for frame in frames:
        for what, values in (
            ("ImagePositionPatient", frame.position_mm),
            ("ImageOrientationPatient", frame.orientation),
            ("PixelSpacing", frame.spacing_mm),
        ):
            if not values:
                where = frame.shown_as or "an image"
                yield Problem(where=where, found=f"no {what}", expected="one")


def _check_axes(frame: Frame) -> Iterator[Problem]:
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    found = np.array([np.linalg.norm(row), np.linalg.norm(column), row @ column])
    if np.abs(found - (1, 1, 0)).max() > _SAME_DIRECTION or min(frame.spacing_mm) <= 0:
        yield Problem(
            where=frame.shown_as or "an image",
            found=f"orientation {frame.orientation}, spacing {frame.spacing_mm}",
            expected="two unit vectors at a right angle, two positive numbers",
        )


_OTHER_SERIES = "Give a series with one image at each position."


def _compare_frames(frame: Frame, first: Frame, where: str) -> Iterator[Problem]:
    as_first = "as in the first file"
    if np.abs(np.subtract(frame.orientation, first.orientation)).max() > _SAME_DIRECTION:
        yield Problem(
            where=where,
            found=f"the orientation {list(frame.orientation)}",
            expected=f"{list(first.orientation)} {as_first}",
        )
    if frame.spacing_mm != first.spacing_mm:
        yield Problem(
            where=where,
            found=f"PixelSpacing {list(frame.spacing_mm)}",
            expected=f"{list(first.spacing_mm)} {as_first}",
        )
    for keyword in ("Rows", "Columns", "SOPClassUID"):
        found, expected = frame.dataset.get(keyword), first.dataset.get(keyword)
        if found != expected:
            yield Problem(
                where=where, found=f"{keyword} {found}", expected=f"{expected} {as_first}"
            )
    if frame.dataset is not first.dataset and (frame.number or first.number):
        yield Problem(
            where=where, found="a second multi-frame image", expected="one that holds all slices"
        )


def _as_triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z


def find_uneven_slices(series: Series) -> list[Problem]:
    """Return where the slices of a series do not lie at equal distances, one above the other."""
    depth = series.positions_mm @ series.normal
    gaps = np.diff(depth)
    if not len(gaps):
        return []
    usual = float(np.median(gaps))
    problems = [
        Problem(
            where=f"slices {index + 1} and {index + 2} of {len(depth)} along the normal",
            found=f"{gaps[index]:.3f} mm between them, at {depth[index]:.2f} and "
            f"{depth[index + 1]:.2f} mm",
            expected=f"{usual:.3f} mm as between the others",
        )
        for index in np.flatnonzero(np.abs(gaps - usual) > max(_UNEVEN * usual, _SAME_PLACE_MM))
    ]
    aside = series.positions_mm - np.outer(depth, series.normal)
    moved = np.linalg.norm(aside - aside[0], axis=1)
    if moved.max() > _ASIDE_MM:
        at = int(moved.argmax())
        problems.append(
            Problem(
                where=f"slice {at + 1} of {len(depth)} along the normal",
                found=f"its corner {moved[at]:.2f} mm aside of the first slice's",
                expected=f"at most {_ASIDE_MM} mm",
            )
        )
    return problems


@be_discreet()
def read_pixels(series: Series) -> NDArray[Any]:
    """Return the values ``(slices, rows, columns)`` of a series that was read with pixels.

    In the stored type, and in float32 if a slice is rescaled, each by its own numbers.

    Raises
    ------
    InputError
        If pixels are missing, cut off, damaged, in colour, or compressed in a way that no
        installed package knows.
    """
    planes = []
    frames: NDArray[Any] | None = None
    for index in range(series.shape[0]):
        dataset = series.datasets[0 if series.frame_numbers else index]
        where = f"slice {index + 1} of the series (...{series.sop_instance_uids[index][-6:]})"
        number = series.frame_numbers[index] if series.frame_numbers else None
        try:
            if frames is None or number is None:
                frames = _decode(dataset, where)
            slope, intercept = _find_rescale(dataset, number)
        except InputError:
            raise
        except Exception as error:  # decoders raise errors of many kinds, and so do damaged values
            syntax = dataset.file_meta.get("TransferSyntaxUID")
            raise InputError(
                f"{where}: its pixels cannot be read ({type(error).__name__}; "
                f"{getattr(syntax, 'name', syntax)}); expected whole pixels, compressed as DICOM "
                "knows it or not at all. Copy the file again, or export it without compression."
            ) from None
        plane = frames[(number or 1) - 1]
        if (slope, intercept) != (1.0, 0.0):
            with np.errstate(over="ignore", invalid="ignore"):  # the scan checks for infinity
                plane = (plane * slope + intercept).astype(np.float32)
        planes.append(plane)
    return np.stack(planes)


def _decode(dataset: Dataset, where: str) -> NDArray[Any]:
    """Return the frames ``(frames, rows, columns)`` of an image, as many as it says it has."""
    colours = dataset.get("PhotometricInterpretation")
    if dataset.get("SamplesPerPixel") != 1 or colours != "MONOCHROME2":
        raise InputError(
            f"{where}: found {colours or 'unknown'} pixels; expected MONOCHROME2. Export the "
            "series as the scanner made it."
        )
    pixels: NDArray[Any] = dataset.pixel_array
    frames = pixels[None] if pixels.ndim == 2 else pixels
    expected = (
        len(dataset.get("PerFrameFunctionalGroupsSequence") or [None]), dataset.Rows,
        dataset.Columns,
    )  # fmt: skip
    if frames.shape != expected:
        raise InputError(
            f"{where}: found pixels {frames.shape}; expected {expected} (frames, rows, columns). "
            "Copy the file again, or export the series as the scanner made it."
        )
    return frames


def _find_rescale(dataset: Dataset, number: int | None) -> tuple[float, float]:
    """Return slope and intercept of a slice."""
    place = dataset
    if number is not None:
        shared = dataset.get("SharedFunctionalGroupsSequence") or []
        for groups in (dataset.PerFrameFunctionalGroupsSequence[number - 1], *shared):
            if items := groups.get("PixelValueTransformationSequence"):
                place = items[0]
                break
    slope, intercept = place.get("RescaleSlope"), place.get("RescaleIntercept")
    return float(1 if slope is None else slope), float(intercept or 0)


@be_discreet()
def read_series(folder: Path) -> Series:
    """Read the one series of images in a folder; other files there are passed over.

    Raises
    ------
    InputError
        If there are no images or several series, or as in :func:`build_series`.
    """
    by_series: dict[str, list[Frame]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not is_stray(p.name)):
        try:
            dataset = read_dicom(path, shown_as="", pixels=False)
        except InputError:
            continue
        if "Rows" in dataset and dataset.get("Modality") not in ("SEG", "RTDOSE"):
            by_series.setdefault(str(dataset.SeriesInstanceUID), []).extend(list_frames(dataset))
    if len(by_series) != 1:
        raise InputError(
            f"{folder}: found {len(by_series)} series of images; expected one. "
            "Give a folder that holds one series."
        )
    return build_series(next(iter(by_series.values())))


def copy_patient(image: Dataset, target: Dataset, keywords: Sequence[str] = ()) -> None:
    """Copy what an image says of patient and study, and further keywords; empty if missing."""
    for keyword in (*PATIENT_AND_STUDY, *keywords):
        setattr(target, keyword, None)
        if keyword in image:
            target[keyword] = image[keyword]


def check_masks(masks: Mapping[str, NDArray[np.bool_]], series: Series) -> None:
    """Check that masks can be written for a series.

    Raises
    ------
    InputError
        If the series does not have a frame of reference.
    ValueError
        If a mask is of an unknown organ or another shape.
    """
    for organ, mask in masks.items():
        if organ not in ORGANS or mask.shape != series.shape:
            raise ValueError(f"{organ}: a mask of shape {mask.shape} for slices {series.shape}")
    if not series.frame_of_reference_uid:
        raise InputError(
            "The series does not have a FrameOfReferenceUID, so that structures cannot be bound to "
            "the patient; expected one. Use the series as the scanner made it, or another one."
        )


def find_voxels(
    points_mm: NDArray[np.float64], *, series: Series
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the voxel of a series that is nearest to each point.

    Parameters
    ----------
    points_mm
        ``(points, 3)`` in LPS mm.
    series
        The slices; distances between them may differ.

    Returns
    -------
    tuple
        ``(points, 3)`` int64: slice, row and column of each, always inside the series; and
        ``(points,)`` float64: how far each point is from that voxel's centre, in mm.
    """
    depth = series.positions_mm @ series.normal
    slices = np.searchsorted((depth[:-1] + depth[1:]) / 2, points_mm @ series.normal)
    from_slice = points_mm - series.positions_mm[slices]
    row_spacing, column_spacing = series.pixel_spacing_mm
    steps = np.stack(
        [
            np.array(series.column_direction) * row_spacing,
            np.array(series.row_direction) * column_spacing,
        ]
    )
    places = from_slice @ (steps / np.square(series.pixel_spacing_mm)[:, None]).T
    in_plane = np.clip(np.rint(places), 0, np.array(series.shape[1:]) - 1)
    away_mm = np.linalg.norm(from_slice - in_plane @ steps, axis=1)
    return np.column_stack([slices, in_plane.astype(np.int64)]), away_mm
