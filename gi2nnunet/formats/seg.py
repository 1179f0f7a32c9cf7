"""DICOM SEG files, written and read: masks as one-bit frames on the slices of a series.

One segment per organ, so that organs may overlap. Reading lays every voxel of a segment on the
series by its own position, because files hold only the frames that are not empty, and programs
differ in their order and size.

References
----------
https://dicom.nema.org/medical/dicom/current/output/chtml/part03/sect_A.51.html
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import part_file
from gi2nnunet.formats.dicom_series import (
    PATIENT_AND_STUDY,
    Series,
    be_discreet,
    check_masks,
    copy_patient,
    find_voxels,
    read_dicom,
)
from gi2nnunet.formats.structures import (
    SNOMED_CODES,
    Maker,
    OrganMasks,
    choose_names,
    describe_maker,
    find_other_frame,
    find_other_series,
    list_structures,
    match_names,
)

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SERIES_NUMBER = 9002

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
_TOLERANCE_MM = 0.01
_OTHER_FILE = "Give the SEG file that was made on this series, or make it again there."


@be_discreet()
def write_seg(
    path: Path,
    masks: Mapping[str, NDArray[np.bool_]],
    *,
    series: Series,
    names: Mapping[str, str] | None = None,
    maker: Maker | None = None,
) -> None:
    """Write one binary segment per organ.

    Parameters
    ----------
    path
        The file; it is put in place once it is whole.
    masks
        ``(slices, rows, columns)`` bool by organ, in the order of the series' slices. An empty mask
        gives a segment without frames; only if all are empty, every frame is written.
    series
        The images that the masks are for.
    names
        Label of an organ's segment where it is not to be the name by TG-263.
    maker
        The model, if the masks come from one.

    Raises
    ------
    InputError
        If the series does not have a frame of reference, or a name does not fit; or the packages
        for DICOM are not installed.
    OutputError
        If the file cannot be written.
    """
    import highdicom

    check_masks(masks, series)
    chosen = choose_names(names)
    maker = maker or Maker()
    segments = _describe_segments({organ: chosen[organ] for organ in masks}, maker)
    dataset = highdicom.seg.Segmentation(
        source_images=[_choose_frames(_empty_patient(image), series) for image in series.datasets],
        pixel_array=np.stack(list(masks.values()), axis=-1),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        omit_empty_frames=any(mask.any() for mask in masks.values()),
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="gi2nnunet",
        manufacturer_model_name="gi2nnunet",
        software_versions=version("gi2nnunet"),
        device_serial_number=version("gi2nnunet"),
        content_label="GI2NNUNET",
        content_description=(maker.model or "gi2nnunet")[:64],
        series_description="gi2nnunet segments",
    )
    copy_patient(series.datasets[0], dataset)
    _restore_frame_numbers(dataset, series)
    dataset.SeriesDescription = "gi2nnunet segments"
    dataset.ImageComments = describe_maker(maker)
    with part_file(path) as part:
        dataset.save_as(part, enforce_file_format=True)


def _describe_segments(names: Mapping[str, str], maker: Maker) -> list[Any]:
    """Return what a SEG says of each segment: its name, its organ's code and the model."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=(maker.model or "gi2nnunet")[:64],
        family=codes.DCM.ArtificialIntelligence,
        version=maker.model_digest[:64] or version("gi2nnunet"),
        source="gi2nnunet",
        parameters={"digest": maker.model_digest} if maker.model_digest else None,
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=highdicom.sr.CodedConcept(
                SNOMED_CODES[organ][0], "SCT", SNOMED_CODES[organ][1]
            ),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, (organ, name) in enumerate(names.items(), start=1)
    ]


def _empty_patient(image: Dataset) -> Dataset:
    """Return a copy of an image without what it says of the patient and study.

    highdicom needs all of it, refuses what is not valid, and shows it in warnings.
    """
    empty = copy.deepcopy(image)  # a shallow copy shares its attributes
    for keyword in PATIENT_AND_STUDY:
        setattr(empty, keyword, "")
    return empty


def _choose_frames(image: Dataset, series: Series) -> Dataset:
    """Return an image with only the frames of the series, in the order of its slices.

    highdicom does not take images with several frames at one position, such as echoes.
    """
    if series.frame_numbers is not None:
        groups = image.PerFrameFunctionalGroupsSequence
        image.PerFrameFunctionalGroupsSequence = [groups[n - 1] for n in series.frame_numbers]
        image.NumberOfFrames = len(series.frame_numbers)
    return image


def _restore_frame_numbers(dataset: Dataset, series: Series) -> None:
    """Put the numbers that frames have in the image itself into a SEG's references to them."""
    if series.frame_numbers is None:
        return
    sources = {
        id(source): source  # an item can be shared by several frames
        for groups in dataset.PerFrameFunctionalGroupsSequence
        for derivation in groups.get("DerivationImageSequence") or []
        for source in derivation.SourceImageSequence
        if "ReferencedFrameNumber" in source
    }
    for source in sources.values():
        source.ReferencedFrameNumber = series.frame_numbers[int(source.ReferencedFrameNumber) - 1]


@be_discreet()
def read_seg(
    path: Path | BinaryIO,
    *,
    series: Series,
    names: Mapping[str, str] | None = None,
    shown_as: str = "",
) -> OrganMasks:
    """Read the masks of the organs.

    An organ's segment is found by its label, or else by its code in SNOMED CT.

    Parameters
    ----------
    path
        The file: binary segments, or a label map.
    series
        The images that it was made for.
    names
        Label of an organ's segment where it is not one of the usual names.
    shown_as
        What messages call the file. By default the last digits of its instance UID, because paths
        often hold a patient's name.

    Returns
    -------
    OrganMasks
        A mask for each organ that has a segment; all False for a segment without frames.

    Raises
    ------
    InputError
        If the file cannot be read, is not a SEG, or holds fractional values; belongs to another
        series or frame of reference; has no segment for any organ, or two for one; or if voxels of
        a segment do not lie on voxels of the series to 0.01 mm.
    """
    dataset = read_dicom(path, shown_as=shown_as or "the SEG file")
    where = shown_as or f"SEG ...{str(dataset.get('SOPInstanceUID', '?'))[-6:]}"
    kind = dataset.get("SOPClassUID")
    if kind not in (_SEGMENTATION, _LABEL_MAP):
        raise InputError(
            f"{where}: found a file of the kind {getattr(kind, 'name', kind)}; expected a "
            "segmentation. Give another file."
        )
    if kind == _SEGMENTATION and dataset.get("SegmentationType") != "BINARY":
        raise InputError(
            f"{where}: found {str(dataset.get('SegmentationType', 'no')).lower()} values; expected "
            "binary segments. Export it as binary, with a threshold of your choice."
        )
    other = [
        *find_other_series(dataset, series, where, what="segments"),
        *find_other_frame(dataset.get("FrameOfReferenceUID"), series, where),
    ]
    raise_problems(other, remedy=_OTHER_FILE)

    segments = list(dataset.get("SegmentSequence") or [])
    labels, codes = list_structures(dataset)
    match = match_names(labels, where=where, given=names, codes=codes)
    by_segment = _find_points(dataset, where)
    masks, problems = {}, []
    for organ, index in match.of_organ.items():
        points = by_segment.get(int(segments[index].SegmentNumber), np.zeros((0, 3)))
        voxels, away = find_voxels(points, series=series)
        if away.size and away.max() > _TOLERANCE_MM:
            problems.append(
                Problem(
                    where=f"{where}, segment {labels[index]!r}",
                    found=f"voxels up to {away.max():.3g} mm away from those of the series",
                    expected=f"at most {_TOLERANCE_MM} mm",
                )
            )
            continue
        masks[organ] = np.zeros(series.shape, np.bool_)
        masks[organ][tuple(voxels.T)] = True
    raise_problems(problems, remedy=_OTHER_FILE)
    return OrganMasks(
        masks=masks,
        names={organ: labels[index] for organ, index in match.of_organ.items()},
        unmatched=match.unmatched,
    )


def _find_points(dataset: Dataset, where: str) -> dict[int, NDArray[np.float64]]:
    """Return the centres of each segment's voxels, ``(voxels, 3)`` in LPS mm, by its number."""
    shared = next(iter(dataset.get("SharedFunctionalGroupsSequence") or []), None)
    points: dict[int, list[NDArray[np.float64]]] = {}
    try:
        frames = dataset.pixel_array
        frames = frames[None] if frames.ndim == 2 else frames
        for values, own in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
            groups = [own, shared] if shared is not None else [own]
            position = _find(groups, "PlanePositionSequence").ImagePositionPatient
            orientation = _find(groups, "PlaneOrientationSequence").ImageOrientationPatient
            spacing = _find(groups, "PixelMeasuresSequence").PixelSpacing
            rows_mm = float(spacing[0]) * np.array(orientation[3:], np.float64)
            columns_mm = float(spacing[1]) * np.array(orientation[:3], np.float64)
            for number, of_segment in _split_segments(values, groups, dataset.SOPClassUID):
                rows, columns = np.nonzero(of_segment)
                points.setdefault(number, []).append(
                    np.array(position, np.float64)
                    + rows[:, None] * rows_mm
                    + columns[:, None] * columns_mm
                )
    except Exception as error:  # pydicom raises errors of many kinds for damaged files
        raise InputError(
            f"{where}: its frames cannot be read ({type(error).__name__}); expected pixels, "
            "position, orientation and segment of each frame. Copy it again from its source."
        ) from None
    return {number: np.concatenate(parts) for number, parts in points.items()}


def _split_segments(
    values: NDArray[Any], groups: Sequence[Dataset], kind: str
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Yield number and mask of each segment on a frame: one, or on a label map any."""
    if kind == _SEGMENTATION:
        segment = _find(groups, "SegmentIdentificationSequence")
        yield int(segment.ReferencedSegmentNumber), values > 0
        return
    for number in np.unique(values).tolist():
        if number:
            yield number, values == number


def _find(groups: Sequence[Dataset], keyword: str) -> Any:
    """Return the first item of a functional group: the frame's own, or the one of all frames."""
    for group in groups:
        if group.get(keyword):
            return group[keyword].value[0]
    raise KeyError(keyword)
