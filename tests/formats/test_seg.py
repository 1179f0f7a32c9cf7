"""SEG files: masks there and back, other programs' orders and sizes, and every refusal."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import highdicom
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.formats.dicom_series import PATIENT_AND_STUDY, be_discreet, read_series
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.seg import read_seg, write_seg
from gi2nnunet.formats.structures import SNOMED_CODES, Maker
from tests.dicom_factory import SeriesPlan, write_series
from tests.formats.test_rtstruct import PLANS, all_series, assert_same, make_masks, series

__all__ = ["all_series", "series"]

MAKER = Maker(model="2d + 3d_fullres", model_digest="cd" * 32)


@settings(deadline=None, max_examples=15)
@given(
    name=st.sampled_from(sorted(PLANS)),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
def test_masks_come_back_voxel_by_voxel(all_series, tmp_path_factory, name, seed, share):
    series = all_series[name]
    masks = make_masks(series.shape, seed, share)
    path = tmp_path_factory.getbasetemp() / "there_and_back_seg.dcm"
    write_seg(path, masks, series=series)
    assert_same(read_seg(path, series=series).masks, masks)


@pytest.fixture
def written(series, tmp_path):
    masks = make_masks(series.shape, share=0.3)
    masks["large_bowel"][:] = False
    write_seg(tmp_path / "s.dcm", masks, series=series, maker=MAKER)
    return tmp_path / "s.dcm", masks


def test_highdicom_reads_the_same(series, written):
    path, masks = written
    found = highdicom.seg.segread(path)
    assert found.SegmentsOverlap == "YES"
    for number, organ in enumerate(ORGANS, start=1):
        if not masks[organ].any():
            continue
        pixels = found.get_pixels_by_source_instance(
            series.sop_instance_uids, segment_numbers=[number], ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )  # fmt: skip
        assert np.array_equal(pixels[..., 0] > 0, masks[organ])


def test_segments_have_names_codes_and_the_model(written):
    dataset = pydicom.dcmread(written[0])
    assert dataset.SegmentationType == "BINARY"
    labels = [segment.SegmentLabel for segment in dataset.SegmentSequence]
    assert labels == ["Bowel_Large", "Bowel_Small", "Stomach"]
    for organ, segment in zip(ORGANS, dataset.SegmentSequence, strict=True):
        code = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (code.CodeValue, code.CodingSchemeDesignator) == (SNOMED_CODES[organ][0], "SCT")
        (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
        assert algorithm.AlgorithmName == "2d + 3d_fullres"
        assert "cd" * 32 in algorithm.AlgorithmParameters
    frames = dataset.PerFrameFunctionalGroupsSequence
    numbers = [f.SegmentIdentificationSequence[0].ReferencedSegmentNumber for f in frames]
    assert set(numbers) == {2, 3}  # no frame for the empty organ


@pytest.mark.parametrize("name", sorted(PLANS))
def test_dciodvfy_finds_no_error(all_series, tmp_path, name):
    if not shutil.which("dciodvfy"):
        pytest.skip("no dciodvfy: run scripts/dicom_testbed.sh")
    series = all_series[name]
    masks = make_masks(series.shape)
    masks["stomach"][:] = False
    write_seg(tmp_path / "s.dcm", masks, series=series, maker=MAKER)
    done = subprocess.run(["dciodvfy", tmp_path / "s.dcm"], capture_output=True, text=True)
    assert "Error" not in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_values_of_the_patient_are_copied_as_they_are(tmp_path, write):
    """Also those that highdicom would refuse, or show in a warning; in any character set."""
    values = {"PatientName": "Größe Jürgen", "PatientBirthDate": "193102XY", "PatientSex": "M",
              "StudyTime": "noon", "PatientID": "x" * 70}  # fmt: skip

    def change(dataset, _):
        dataset.SpecificCharacterSet = "ISO_IR 100"
        for keyword, value in values.items():
            setattr(dataset, keyword, value)

    with be_discreet():
        write_series(tmp_path / "s", SeriesPlan(shape=(3, 8, 9)), change=change)
    series = read_series(tmp_path / "s")
    write(tmp_path / "s.dcm", make_masks(series.shape), series=series)
    written = pydicom.dcmread(tmp_path / "s.dcm")
    with be_discreet():
        for keyword in PATIENT_AND_STUDY:
            found = written[keyword].value
            assert found == values.get(keyword, series.datasets[0].get(keyword)), keyword


def test_the_series_own_data_sets_stay_as_they_are(all_series, tmp_path):
    series = all_series["no type 2"]
    write_seg(tmp_path / "s.dcm", make_masks(series.shape), series=series)
    assert not any("PatientName" in image for image in series.datasets)
    assert pydicom.dcmread(tmp_path / "s.dcm").PatientName == ""


def test_a_series_without_frame_of_reference_is_refused(series, tmp_path):
    with pytest.raises(InputError, match="does not have a FrameOfReferenceUID"):
        write_seg(
            tmp_path / "s.dcm",
            make_masks(series.shape),
            series=replace(series, frame_of_reference_uid=""),
        )
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_leaves_nothing(series, tmp_path):
    (tmp_path / "s.dcm").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_seg(tmp_path / "s.dcm", make_masks(series.shape), series=series)
    assert [path.name for path in tmp_path.iterdir()] == ["s.dcm"]


# --- other programs' files -----------------------------------------------------------------------


def make_foreign(path, series, array, *, kind="BINARY", position=None, turned=False):
    """Write a SEG with highdicom on planes of its own."""
    row, column = series.row_direction, series.column_direction
    spacing = series.pixel_spacing_mm
    start = np.zeros((len(array), 3)) if position is None else position
    planes = series.positions_mm[: len(array)] + start
    if turned:  # rows and columns exchanged
        array, row, column, spacing = array.swapaxes(1, 2), column, row, spacing[::-1]
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Stomach",
        segmented_property_category=highdicom.sr.CodedConcept("91723000", "SCT", "Anatomical"),
        segmented_property_type=highdicom.sr.CodedConcept("69695003", "SCT", "Stomach"),
        algorithm_type="MANUAL",
    )
    dataset = highdicom.seg.Segmentation(
        source_images=list(series.datasets),
        pixel_array=array,
        segmentation_type=kind,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        pixel_measures=highdicom.PixelMeasuresSequence(spacing, 3.0),
        plane_orientation=highdicom.PlaneOrientationSequence("PATIENT", [*row, *column]),
        plane_positions=[
            highdicom.PlanePositionSequence("PATIENT", plane.tolist()) for plane in planes
        ],
    )
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("turned", [False, True])
def test_cut_and_turned_frames_are_laid_by_their_position(series, tmp_path, kind, turned):
    mask = make_masks(series.shape, share=0.4)["stomach"]
    mask[:, :3] = mask[:, :, :2] = mask[:, 9:] = mask[:, :, 14:] = False
    corner = 3 * series.pixel_spacing_mm[0] * np.array(
        series.column_direction
    ) + 2 * series.pixel_spacing_mm[1] * np.array(series.row_direction)
    path = make_foreign(
        tmp_path / "s.dcm", series, mask[:, 3:9, 2:14].astype(np.uint8), kind=kind,
        position=corner, turned=turned,
    )  # fmt: skip
    assert_same(read_seg(path, series=series).masks, {"stomach": mask})


@pytest.mark.parametrize(
    ("move_mm", "message"),
    [
        ((0.02, 0, 0), "found voxels up to 0.02 mm away"),
        ((0, 0, 1.5), "found voxels up to 1.5 mm away"),
        ((-15.0, 0, 0), "found voxels up to 15 mm away"),
    ],
)
def test_voxels_beside_those_of_the_series_are_refused(series, tmp_path, move_mm, message):
    array = np.ones(series.shape, np.uint8)
    path = make_foreign(tmp_path / "s.dcm", series, array, position=np.array(move_mm))
    with pytest.raises(InputError, match=message):
        read_seg(path, series=series)


def test_voxels_nearly_on_those_of_the_series_are_taken(series, tmp_path):
    mask = make_masks(series.shape)["stomach"]
    path = make_foreign(
        tmp_path / "s.dcm", series, mask.astype(np.uint8), position=np.full(3, 0.004)
    )
    assert_same(read_seg(path, series=series).masks, {"stomach": mask})


def test_fractional_values_are_refused(series, tmp_path):
    array = np.full(series.shape, 0.5)
    path = make_foreign(tmp_path / "s.dcm", series, array, kind="FRACTIONAL")
    with pytest.raises(InputError, match="found fractional values; expected binary segments"):
        read_seg(path, series=series)


def change_series(dataset):
    dataset.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.777"


def change_frame(dataset):
    dataset.FrameOfReferenceUID = "1.2.888"


def change_label(dataset):
    for segment in dataset.SegmentSequence:
        segment.SegmentLabel = "x"
        segment.SegmentedPropertyTypeCodeSequence[0].CodeValue = "1"


def cut_pixels(dataset):
    dataset.PixelData = dataset.PixelData[:10]


def lose_frames(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[2:]


def lose_segment(dataset):
    del dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose_segment, "its frames cannot be read"),
        (change_series, r"found segments of the series \.\.\.\.2\.777"),
        (change_frame, r"found the frame of reference \.\.\.\.2\.888"),
        (change_label, "found the structures 'x', 'x', 'x'; expected a structure"),
        (cut_pixels, "its frames cannot be read"),
        (lose_frames, "its frames cannot be read"),
    ],
)
def test_files_that_do_not_fit_are_refused(series, tmp_path, written, change, message):
    dataset = pydicom.dcmread(written[0])
    change(dataset)
    dataset.save_as(written[0])
    with pytest.raises(InputError, match=message) as caught:
        read_seg(written[0], series=series)
    assert str(tmp_path) not in str(caught.value)
    assert "MADE-UP" not in str(caught.value)


def test_a_file_that_ends_early_is_refused(series, written):
    whole = written[0].read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        written[0].write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(InputError):
            read_seg(written[0], series=series)


def test_an_image_is_no_seg(series, tmp_path):
    series.datasets[0].save_as(tmp_path / "i.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="found a file of the kind MR Image Storage"):
        read_seg(tmp_path / "i.dcm", series=series)
