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

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SAME_DIRECTION = 1e-4  # of a unit vector's component
_SAME_PLACE_MM = 0.01
_UNDEFINED_LENGTH = 0xFFFFFFFF


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


def read_dicom(path: Path, *, shown_as: str, pixels: bool = True) -> Dataset:
    """Read a DICOM file whole.

    Parameters
    ----------
    path
        The file.
    shown_as
        What messages call it; paths often hold a patient's name.
    pixels
        Whether to read on where the pixels begin.

    Raises
    ------
    InputError
        If it is missing, cannot be read, is not DICOM, or ends early.
    """
    require_dicom()
    import pydicom
    from pydicom.dataelem import RawDataElement

    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=not pixels)
    except OSError as error:
        raise InputError(
            f"{shown_as}: cannot be read ({error.strerror or type(error).__name__}); expected a "
            "DICOM file. Check its place and its rights."
        ) from error
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        raise InputError(
            f"{shown_as}: found no DICOM file, or a damaged one ({type(error).__name__}); expected "
            "a DICOM file. Copy it again from where it came from."
        ) from error
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
        The images' data sets without pixels: one per slice in slice order, or the one of a
        multi-frame image.
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


def build_series(datasets: Sequence[Dataset]) -> Series:
    """Put the single-frame images of one series in order.

    Parameters
    ----------
    datasets
        One data set per slice, in any order.

    Raises
    ------
    InputError
        If orientation, size or pixel spacing differ between slices, or two slices lie at one
        place; all problems are listed.
    """
    if not datasets:
        raise ValueError("a series needs at least one image")
    first = datasets[0]
    orientation = np.array(first.ImageOrientationPatient, np.float64)
    row_direction, column_direction = orientation[:3], orientation[3:]
    normal = np.cross(row_direction, column_direction)
    positions = np.array([dataset.ImagePositionPatient for dataset in datasets], np.float64)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = [datasets[index] for index in order]
    positions = positions[order]

    problems = []
    for number, dataset in enumerate(ordered, start=1):
        where = f"slice {number} of the series"
        away = np.abs(np.array(dataset.ImageOrientationPatient, np.float64) - orientation).max()
        if away > _SAME_DIRECTION:
            problems.append(
                Problem(
                    where=where,
                    found=f"the orientation {list(dataset.ImageOrientationPatient)}",
                    expected=f"{list(first.ImageOrientationPatient)} as in the first file",
                )
            )
        problems += [
            Problem(
                where=where,
                found=f"{keyword} {dataset[keyword].value}",
                expected=f"{first[keyword].value} as in the first file",
            )
            for keyword in ("Rows", "Columns", "PixelSpacing", "SOPClassUID")
            if dataset[keyword].value != first[keyword].value
        ]
    problems += [
        Problem(
            where=f"slices {index + 1} and {index + 2} of the series",
            found=f"both at {positions[index].tolist()} mm",
            expected="one image at each position",
        )
        for index in np.flatnonzero(np.diff(positions @ normal) < _SAME_PLACE_MM).tolist()
    ]
    raise_problems(problems, remedy="Give a series with one image at each position.")
    return Series(
        sop_class_uid=str(first.SOPClassUID),
        sop_instance_uids=tuple(str(dataset.SOPInstanceUID) for dataset in ordered),
        frame_numbers=None,
        positions_mm=positions,
        row_direction=_as_triple(row_direction),
        column_direction=_as_triple(column_direction),
        pixel_spacing_mm=(float(first.PixelSpacing[0]), float(first.PixelSpacing[1])),
        shape=(len(ordered), int(first.Rows), int(first.Columns)),
        frame_of_reference_uid=str(first.get("FrameOfReferenceUID", "")),
        study_instance_uid=str(first.StudyInstanceUID),
        series_instance_uid=str(first.SeriesInstanceUID),
        datasets=tuple(ordered),
    )


def _as_triple(vector: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = vector.tolist()
    return x, y, z


def read_series(folder: Path) -> Series:
    """Read the one series of single-frame images in a folder; other files there are passed over.

    Raises
    ------
    InputError
        If there are no images or several series, or as in :func:`build_series`.
    """
    require_dicom()
    import pydicom
    from pydicom.errors import InvalidDicomError

    by_series: dict[str, list[Dataset]] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True)
        except InvalidDicomError:
            continue
        if "ImagePositionPatient" in dataset and "Rows" in dataset:
            by_series.setdefault(str(dataset.SeriesInstanceUID), []).append(dataset)
    if len(by_series) != 1:
        raise InputError(
            f"{folder}: found {len(by_series)} series of images; expected one. "
            "Give a folder that holds one series."
        )
    return build_series(next(iter(by_series.values())))


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
