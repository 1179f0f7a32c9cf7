"""RTSTRUCT files written: masks as contours on the slices of a DICOM series.

Contours lie where independent readers give the mask back voxel by voxel; see
:mod:`~gi2nnunet.formats.outlines`. Each contour refers to its slice and is computed from that
slice's own position, so missing slices and unequal distances do no harm. The file is written in
Implicit VR Little Endian, because in an explicit one a contour of more than 65,534 characters does
not fit. :mod:`~gi2nnunet.formats.rtstruct_reading` reads such files.

References
----------
https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.19.3.html
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.files import part_file
from gi2nnunet.formats.dicom_series import (
    Series,
    be_discreet,
    check_masks,
    copy_patient,
)
from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.formats.outlines import Outlines, trace_outlines
from gi2nnunet.formats.structures import SNOMED_CODES, Maker, choose_names, describe_maker

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 9001

_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as all other writers use
_CONTOUR_SEQUENCE = 0x30060040
_MOST_LO_CHARACTERS = 64
_MOST_DS_CHARACTERS = 16
_ROUNDED_PIXELS = 0.035
_DECIMALS = 3
_FLAT_MM = 1e-3

_COPIED_IF_THERE = ("StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod")


@be_discreet()
def write_rtstruct(
    path: Path,
    masks: Mapping[str, NDArray[np.bool_]],
    *,
    series: Series,
    names: Mapping[str, str] | None = None,
    maker: Maker | None = None,
    now: datetime | None = None,
) -> None:
    """Write one structure per organ.

    Parameters
    ----------
    path
        The file; it is put in place once it is whole.
    masks
        ``(slices, rows, columns)`` bool by organ, in the order of the series' slices. An empty mask
        gives a structure without contours.
    series
        The images that the contours are for.
    names
        Name of an organ's structure where it is not to be the one of TG-263.
    maker
        The model, if the masks come from one.
    now
        Date and time to note; the present by default.

    Raises
    ------
    InputError
        If the series does not have a frame of reference, or a name does not fit; or the packages
        for DICOM are not installed.
    OutputError
        If the file cannot be written.
    """
    check_masks(masks, series)
    chosen = choose_names(names)
    dataset = _make_header(series, maker=maker or Maker(), now=now or datetime.now())
    dataset.StructureSetROISequence = []
    dataset.ROIContourSequence = []
    dataset.RTROIObservationsSequence = []
    for number, (organ, mask) in enumerate(masks.items(), start=1):
        roi, contours, observation = _make_structure(series, organ, mask, maker=maker or Maker())
        roi.ROIName = chosen[organ]
        roi.ROINumber = contours.ReferencedROINumber = number
        observation.ObservationNumber = observation.ReferencedROINumber = number
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(contours)
        dataset.RTROIObservationsSequence.append(observation)
    with part_file(path) as part:
        dataset.save_as(part, enforce_file_format=True)


def _make_header(series: Series, *, maker: Maker, now: datetime) -> Dataset:
    """Return all of the data set but its structures."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    image = series.datasets[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 192"  # UTF-8
    dataset.InstanceCreationDate, dataset.InstanceCreationTime = date, time
    dataset.SOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = generate_uid()
    copy_patient(image, dataset, ["PositionReferenceIndicator"])
    for keyword in _COPIED_IF_THERE:
        if keyword in image:
            dataset[keyword] = image[keyword]
    dataset.StudyInstanceUID = series.study_instance_uid

    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = generate_uid()
    dataset.SeriesNumber = SERIES_NUMBER
    dataset.SeriesDescription = "gi2nnunet structures"
    dataset.SeriesDate, dataset.SeriesTime = date, time
    dataset.OperatorsName = ""
    dataset.Manufacturer = "gi2nnunet"
    dataset.ManufacturerModelName = "gi2nnunet"
    dataset.SoftwareVersions = version("gi2nnunet")
    dataset.FrameOfReferenceUID = series.frame_of_reference_uid

    dataset.StructureSetLabel = "gi2nnunet"
    dataset.StructureSetDescription = describe_maker(maker)
    dataset.StructureSetDate, dataset.StructureSetTime = date, time
    dataset.InstanceNumber = 1
    dataset.ReferencedFrameOfReferenceSequence = [_refer_to_series(series)]
    dataset.ApprovalStatus = "UNAPPROVED"
    return dataset


def _refer_to_series(series: Series) -> Dataset:
    from pydicom.dataset import Dataset

    images = []
    for uid in dict.fromkeys(series.sop_instance_uids):
        image = Dataset()
        image.ReferencedSOPClassUID = series.sop_class_uid
        image.ReferencedSOPInstanceUID = uid
        images.append(image)
    of_series, study, frame = Dataset(), Dataset(), Dataset()
    of_series.SeriesInstanceUID = series.series_instance_uid
    of_series.ContourImageSequence = images
    study.ReferencedSOPClassUID = _STUDY_CLASS
    study.ReferencedSOPInstanceUID = series.study_instance_uid
    study.RTReferencedSeriesSequence = [of_series]
    frame.FrameOfReferenceUID = series.frame_of_reference_uid
    frame.RTReferencedStudySequence = [study]
    return frame


def _make_structure(
    series: Series, organ: str, mask: NDArray[np.bool_], *, maker: Maker
) -> tuple[Dataset, Dataset, Dataset]:
    """Return an organ's items for the three sequences, without numbers and name."""
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

    roi, contours, observation = Dataset(), Dataset(), Dataset()
    roi.ReferencedFrameOfReferenceUID = series.frame_of_reference_uid
    roi.ROIGenerationAlgorithm = "AUTOMATIC" if maker.model else ""
    if maker.model:
        roi.ROIGenerationDescription = maker.model[:_MOST_LO_CHARACTERS]

    contours.ROIDisplayColor = list(bytes.fromhex(CONTOUR_COLOURS[organ][1:]))
    if encoded := _encode_contours(series, mask):
        # The bytes of a whole sequence. In Implicit VR nothing else of a VR is written.
        contours[_CONTOUR_SEQUENCE] = DataElement(_CONTOUR_SEQUENCE, "OB", encoded)

    code = Dataset()
    code.CodeValue, code.CodeMeaning = SNOMED_CODES[organ]
    code.CodingSchemeDesignator = "SCT"
    observation.RTROIIdentificationCodeSequence = [code]
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    return roi, contours, observation


def _encode_contours(series: Series, mask: NDArray[np.bool_]) -> bytes:
    """Return the items of a ContourSequence in Implicit VR Little Endian.

    Written here, because pydicom checks and formats every number again, which takes many times
    as long as all the rest.
    """
    # A contour outside axial planes loses a corner in plastimatch unless its last point and its
    # first differ in x or y.
    row, column = np.array(series.row_direction), np.array(series.column_direction)
    along_row = np.abs(row[:2]).sum() >= np.abs(column[:2]).sum()
    outlines = trace_outlines(mask, close_along="row" if along_row else "column")
    values_mm = _place_points(series, outlines, row, column).reshape(-1)
    # On planes along the axes few values are different.
    values, inverse = np.unique(values_mm, return_inverse=True)
    texts = [_format_number(value) for value in values.tolist()]
    words = [texts[index] for index in inverse.tolist()]

    references: dict[int, bytes] = {}
    items, start = [], 0
    for slice_index, end in zip(outlines.slice_index.tolist(), outlines.ends.tolist(), strict=True):
        if slice_index not in references:
            references[slice_index] = _encode_reference(series, slice_index)
        items.append(
            _encode_item(
                references[slice_index]
                + _encode_text(0x30060042, b"CLOSED_PLANAR")
                + _encode_text(0x30060046, b"%d" % (end - start))
                + _encode_text(0x30060050, b"\\".join(words[3 * start : 3 * end]))
            )
        )
        start = end
    return b"".join(items)


def _place_points(
    series: Series, outlines: Outlines, row: NDArray[np.float64], column: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the points in LPS mm, with few digits.

    On planes along the axes they are rounded by at most 0.035 pixel, so that an outline still runs
    inside its pixels: to tenths of a millimetre for pixels of 1.5 mm. Elsewhere that would move
    points out of their plane: there they are rounded to a micrometre.
    """
    spacing = np.array(series.pixel_spacing_mm)
    counts = np.diff(outlines.ends, prepend=0)
    points_mm = np.repeat(series.positions_mm[outlines.slice_index], counts, axis=0)
    steps = np.stack([column, row]) * spacing[:, None]
    # A component that is the same all over the slice is the slice's own, to the last digit.
    varies = np.abs(steps).T @ series.shape[1:] > _FLAT_MM
    decimals = _DECIMALS
    if varies.sum() < 3:
        decimals = max(0, math.ceil(-math.log10(2 * _ROUNDED_PIXELS * spacing.min())))
    points_mm[:, varies] += outlines.points @ steps[:, varies]
    points_mm[:, varies] = points_mm[:, varies].round(decimals)
    return points_mm


def _format_number(value: float) -> bytes:
    """Return a decimal string of at most 16 characters."""
    text = repr(value)
    if len(text) > _MOST_DS_CHARACTERS:
        from pydicom.valuerep import format_number_as_ds

        text = format_number_as_ds(value)
    return text.removesuffix(".0").encode()


def _encode_reference(series: Series, slice_index: int) -> bytes:
    """Return the ContourImageSequence of a contour."""
    item = _encode_text(0x00081150, series.sop_class_uid.encode(), pad=b"\0")
    item += _encode_text(0x00081155, series.sop_instance_uids[slice_index].encode(), pad=b"\0")
    if series.frame_numbers:
        item += _encode_text(0x00081160, b"%d" % series.frame_numbers[slice_index])
    return _encode_element(0x30060016, _encode_item(item))


def _encode_text(tag: int, value: bytes, *, pad: bytes = b" ") -> bytes:
    return _encode_element(tag, value + pad * (len(value) % 2))


def _encode_item(value: bytes) -> bytes:
    return _encode_element(0xFFFEE000, value)


def _encode_element(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value
