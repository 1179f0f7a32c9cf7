"""Valid, made-up MR series on disk, written with pydicom and nothing of the package.

All of it is typed, because scripts use it too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
FEET_FIRST = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # normal from head to feet
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))

# Type 2 attributes that de-identification often removes.
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "SeriesNumber", "Manufacturer",
    "PositionReferenceIndicator",
)  # fmt: skip

Triple = tuple[float, float, float]


def oblique(degrees: float) -> tuple[Triple, Triple]:
    """Return the directions of axial slices that are tilted about the patient's x axis."""
    angle = np.deg2rad(degrees)
    return (1.0, 0.0, 0.0), (0.0, float(np.cos(angle)), float(np.sin(angle)))


@dataclass(frozen=True, kw_only=True)
class SeriesPlan:
    """What a series looks like; see :func:`write_series`.

    Attributes
    ----------
    shape
        ``(slices, rows, columns)``, the slices of ``missing`` counted.
    directions
        Row direction and column direction.
    pixel_spacing_mm
        Distance between rows, between columns.
    slice_spacing_mm
        Distance between slices.
    origin_mm
        Position of slice 0, the one at the negative end of the normal.
    missing
        Slices that are not written.
    without
        Keywords of attributes to leave out.
    """

    shape: tuple[int, int, int] = (10, 40, 40)
    directions: tuple[Triple, Triple] = AXIAL
    pixel_spacing_mm: tuple[float, float] = (1.5, 1.5)
    slice_spacing_mm: float = 3.0
    origin_mm: Triple = (-101.25, -87.3, -13.7)
    missing: tuple[int, ...] = ()
    without: Sequence[str] = field(default=())

    @property
    def slices(self) -> list[int]:
        return [index for index in range(self.shape[0]) if index not in self.missing]

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(*self.directions)

    def position_mm(self, index: int) -> list[float]:
        place = np.array(self.origin_mm) + index * self.slice_spacing_mm * self.normal
        return [round(float(value), 9) for value in place]


def write_series(
    folder: Path,
    plan: SeriesPlan,
    *,
    seed: int = 0,
    patient_id: str = "MADE-UP",
    pixels: NDArray[np.uint16] | None = None,
    uids: Sequence[str] = (),
    prefix: str = "image",
    change: Callable[[Dataset, int], None] | None = None,
) -> list[Path]:
    """Write one file a slice and return the paths in slice order.

    File names and InstanceNumber are shuffled, so that neither tells the order.

    Parameters
    ----------
    folder, plan, seed, patient_id
        Where and what.
    pixels
        Those of ``plan.slices``, else random ones.
    uids
        Instance UIDs of study, series and frame of reference, else new ones.
    prefix
        What file names begin with.
    change
        Is given each data set and its slice before it is written.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame = uids or [generate_uid() for _ in range(3)]
    numbers = rng.permutation(len(plan.slices)) + 1
    paths = []
    for at, (number, index) in enumerate(zip(numbers.tolist(), plan.slices, strict=True)):
        drawn = rng.integers(0, 1000, plan.shape[1:], dtype=np.uint16)
        plane = drawn if pixels is None else pixels[at]
        dataset = _make_image(plan, index, plane, number=number)
        dataset.PatientID = patient_id
        dataset.StudyInstanceUID = study
        dataset.SeriesInstanceUID = series
        dataset.FrameOfReferenceUID = frame
        for keyword in plan.without:
            if keyword in dataset:
                del dataset[keyword]
        if change is not None:
            change(dataset, index)
        path = folder / f"{prefix}{number:05d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    plan: SeriesPlan,
    *,
    echoes: Sequence[float] = (1.3,),
    rescale: Sequence[tuple[float, float]] = (),
    seed: int = 0,
) -> NDArray[np.uint16]:
    """Write an enhanced MR image of shuffled frames; return its pixels ``(echoes, z, y, x)``.

    ``rescale`` is slope and intercept of each slice.
    """
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 1000, (len(echoes), *plan.shape), dtype=np.uint16)
    dataset = _make_image(plan, 0, pixels[0, 0], number=1)
    for keyword in (
        "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
        "EchoTime",
    ):  # fmt: skip
        delattr(dataset, keyword)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.FrameOfReferenceUID, dataset.PatientID = generate_uid(), "MADE-UP"
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [round(v, 12) for d in plan.directions for v in d]
    measures.PixelSpacing = list(plan.pixel_spacing_mm)
    measures.SliceThickness = plan.slice_spacing_mm
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    order = rng.permutation(len(echoes) * plan.shape[0])
    for echo, index in (divmod(int(at), plan.shape[0]) for at in order):
        groups, position, of_echo = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = plan.position_mm(index)
        of_echo.EffectiveEchoTime = echoes[echo]
        groups.PlanePositionSequence, groups.MREchoSequence = [position], [of_echo]
        if rescale:
            values = Dataset()
            values.RescaleSlope, values.RescaleIntercept = rescale[index]
            values.RescaleType = "US"
            groups.PixelValueTransformationSequence = [values]
        dataset.PerFrameFunctionalGroupsSequence.append(groups)
    dataset.NumberOfFrames = len(order)
    dataset.PixelData = pixels.reshape(-1, *plan.shape[1:])[order].tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return pixels


def _make_image(
    plan: SeriesPlan, index: int, pixels: NDArray[np.uint16], *, number: int
) -> Dataset:
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyDate = "20260304"
    dataset.SeriesDate = "20260304"
    dataset.StudyTime = "101112"
    dataset.SeriesTime = "101500"
    dataset.AccessionNumber = "A-77"
    dataset.Modality = "MR"
    dataset.Manufacturer = "Made up"
    dataset.ReferringPhysicianName = "Doe^John"
    dataset.StudyDescription = "Abdomen"
    dataset.SeriesDescription = "TRUFI"
    dataset.PatientName = "Phantom^Ada"
    dataset.PatientBirthDate = "19700101"
    dataset.PatientSex = "F"
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "3D"
    dataset.SliceThickness = plan.slice_spacing_mm
    dataset.RepetitionTime = 3.0
    dataset.EchoTime = 1.3
    dataset.EchoTrainLength = 1
    dataset.StudyID = "S1"
    dataset.SeriesNumber = 3
    dataset.InstanceNumber = number
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.PatientPosition = "HFS"
    dataset.ImagePositionPatient = plan.position_mm(index)
    dataset.ImageOrientationPatient = [round(v, 12) for d in plan.directions for v in d]
    dataset.PositionReferenceIndicator = ""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelSpacing = list(plan.pixel_spacing_mm)
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.tobytes()
    return dataset
