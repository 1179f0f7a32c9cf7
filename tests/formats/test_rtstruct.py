"""RTSTRUCT files: masks there and back, what stands in a file, and every refusal."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import datetime

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.dataset import Dataset

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.rtstruct_reading import read_rtstruct
from gi2nnunet.formats.structures import SNOMED_CODES, Maker, find_referenced_series
from tests.dicom_factory import (
    CORONAL,
    FEET_FIRST,
    SAGITTAL,
    TYPE_2,
    SeriesPlan,
    oblique,
    write_series,
)

MAKER = Maker(model="2d + 3d_fullres", model_digest="ab" * 32)

PLANS = {
    "axial": SeriesPlan(shape=(4, 12, 15)),
    "spacing": SeriesPlan(shape=(4, 12, 15), pixel_spacing_mm=(2.0, 1.0)),
    "decimals": SeriesPlan(
        shape=(4, 12, 15),
        pixel_spacing_mm=(0.7421875, 1.6304347826),
        slice_spacing_mm=2.9999713,
        origin_mm=(-198.54321289, 1234.5678912, 33.33333333333),
    ),
    "oblique": SeriesPlan(shape=(4, 12, 15), directions=oblique(20.0)),
    "feet first": SeriesPlan(shape=(4, 12, 15), directions=FEET_FIRST),
    "sagittal": SeriesPlan(shape=(4, 12, 15), directions=SAGITTAL),
    "coronal": SeriesPlan(shape=(4, 12, 15), directions=CORONAL),
    "slice missing": SeriesPlan(shape=(6, 12, 15), missing=(2, 3)),
    "no type 2": SeriesPlan(shape=(4, 12, 15), without=TYPE_2),
    "one slice": SeriesPlan(shape=(1, 12, 15)),
}


class SeriesTable:
    """Series by name; its repr is short, so that Hypothesis can print it."""

    def __init__(self, by_name):
        self.by_name = by_name

    def __getitem__(self, name):
        return self.by_name[name]


@pytest.fixture(scope="module")
def all_series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    for name, plan in PLANS.items():
        write_series(folder / name, plan)
    return SeriesTable({name: read_series(folder / name) for name in PLANS})


@pytest.fixture
def series(all_series):
    return all_series["axial"]


def make_masks(shape, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return {organ: rng.random(shape) < share for organ in ORGANS}


def assert_same(found, masks):
    assert set(found) == set(masks)
    for organ, mask in masks.items():
        assert np.array_equal(found[organ], mask), organ


# --- there and back ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(
    name=st.sampled_from(sorted(PLANS)),
    seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.0, 1.0),
    drawn=hnp.arrays(np.bool_, (1, 12, 15)),
)
def test_masks_come_back_voxel_by_voxel(all_series, tmp_path_factory, name, seed, share, drawn):
    series = all_series[name]
    masks = make_masks(series.shape, seed, share)
    masks["stomach"][:1] = drawn
    path = tmp_path_factory.getbasetemp() / "there_and_back.dcm"
    write_rtstruct(path, masks, series=series)
    assert_same(read_rtstruct(path, series=series).masks, masks)


def test_a_part_of_the_organs_and_given_names(series, tmp_path):
    masks = {"stomach": make_masks(series.shape)["stomach"]}
    names = {"stomach": "Magen größer", "small_bowel": "Dünndarm"}
    write_rtstruct(tmp_path / "r.dcm", masks, series=series, names=names)
    found = read_rtstruct(tmp_path / "r.dcm", series=series, names={"stomach": "Magen größer"})
    assert_same(found.masks, masks)
    assert found.names == {"stomach": "Magen größer"}


def test_slices_of_a_multi_frame_image_are_told_apart(series, tmp_path):
    frames = replace(
        series,
        sop_instance_uids=("1.2.3",) * series.shape[0],
        frame_numbers=(3, 1, 4, 2),
        datasets=series.datasets[:1],
    )
    masks = make_masks(frames.shape)
    write_rtstruct(tmp_path / "r.dcm", masks, series=frames)
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    contours = dataset.ROIContourSequence[0].ContourSequence
    numbers = {int(c.ContourImageSequence[0].ReferencedFrameNumber) for c in contours}
    assert numbers == {1, 2, 3, 4}
    assert_same(read_rtstruct(tmp_path / "r.dcm", series=frames).masks, masks)


def test_contours_of_a_structure_that_is_not_listed_are_refused(series, tmp_path):
    """Else the organ would be empty."""
    write_rtstruct(tmp_path / "r.dcm", make_masks(series.shape), series=series)
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    dataset.ROIContourSequence[1].ReferencedROINumber = 77
    dataset.save_as(tmp_path / "r.dcm")
    with pytest.raises(InputError, match="found contours of the structures number 77; expected"):
        read_rtstruct(tmp_path / "r.dcm", series=series)


def test_a_contour_of_more_than_64_kilobytes(tmp_path):
    write_series(tmp_path / "s", SeriesPlan(shape=(1, 128, 128)))
    series = read_series(tmp_path / "s")
    mask = np.ones(series.shape, np.bool_)
    mask[0, 1:-1:2, 1:-1:2] = False
    write_rtstruct(tmp_path / "r.dcm", {"stomach": mask}, series=series)
    (item,) = pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence
    assert [len(c.get_item("ContourData").value) > 2**16 for c in item.ContourSequence] == [True]
    assert_same(read_rtstruct(tmp_path / "r.dcm", series=series).masks, {"stomach": mask})


# --- what stands in a file -----------------------------------------------------------------------


@pytest.fixture
def written(series, tmp_path):
    masks = make_masks(series.shape)
    masks["large_bowel"][:] = False
    path = tmp_path / "r.dcm"
    now = datetime(2026, 3, 4, 5, 6, 7)
    write_rtstruct(path, masks, series=series, maker=MAKER, now=now)
    return pydicom.dcmread(path)


def test_the_patient_and_study_are_the_series(series, written):
    image = series.datasets[0]
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
        "ReferringPhysicianName", "StudyID", "AccessionNumber", "StudyInstanceUID",
        "FrameOfReferenceUID",
    ):  # fmt: skip
        assert written[keyword].value == image[keyword].value
    assert written.SeriesInstanceUID != image.SeriesInstanceUID
    assert (written.StructureSetDate, written.StructureSetTime) == ("20260304", "050607")
    assert find_referenced_series(written) == (series.series_instance_uid,)


def test_the_software_and_model_are_named(written):
    assert written.Manufacturer == "gi2nnunet"
    assert written.SoftwareVersions
    assert "2d + 3d_fullres" in written.StructureSetDescription
    assert "ab" * 32 in written.StructureSetDescription
    assert {roi.ROIGenerationAlgorithm for roi in written.StructureSetROISequence} == {"AUTOMATIC"}
    assert written.ApprovalStatus == "UNAPPROVED"


def test_without_a_model_nothing_is_said_of_how_the_masks_were_made(series, tmp_path):
    write_rtstruct(tmp_path / "r.dcm", make_masks(series.shape), series=series)
    dataset = pydicom.dcmread(tmp_path / "r.dcm")
    assert {roi.ROIGenerationAlgorithm for roi in dataset.StructureSetROISequence} == {""}


def test_each_organ_has_name_colour_code_and_number(written):
    rois, contours = written.StructureSetROISequence, written.ROIContourSequence
    observations = written.RTROIObservationsSequence
    assert [roi.ROIName for roi in rois] == ["Bowel_Large", "Bowel_Small", "Stomach"]
    numbers = [roi.ROINumber for roi in rois]
    assert len(set(numbers)) == 3
    assert [item.ReferencedROINumber for item in contours] == numbers
    assert [item.ReferencedROINumber for item in observations] == numbers
    for organ, item, observation in zip(ORGANS, contours, observations, strict=True):
        assert "#{:02x}{:02x}{:02x}".format(*item.ROIDisplayColor) == CONTOUR_COLOURS[organ]
        code = observation.RTROIIdentificationCodeSequence[0]
        assert (code.CodeValue, code.CodeMeaning) == SNOMED_CODES[organ]
        assert observation.RTROIInterpretedType == "ORGAN"


def test_an_empty_organ_has_no_contour_sequence(written):
    assert ["ContourSequence" in item for item in written.ROIContourSequence] == [False, True, True]


@pytest.mark.parametrize("name", ["axial", "decimals", "slice missing", "oblique"])
def test_each_contour_lies_on_the_slice_it_refers_to(all_series, tmp_path, name):
    series = all_series[name]
    write_rtstruct(tmp_path / "r.dcm", make_masks(series.shape), series=series)
    by_uid = {str(image.SOPInstanceUID): image for image in series.datasets}
    for item in pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence:
        for contour in item.ContourSequence:
            (reference,) = contour.ContourImageSequence
            image = by_uid[reference.ReferencedSOPInstanceUID]
            assert reference.ReferencedSOPClassUID == image.SOPClassUID
            texts = contour.get_item("ContourData").value.decode().strip().split("\\")
            assert max(map(len, texts)) <= 16
            points = np.array(texts, float).reshape(-1, 3)
            assert contour.NumberOfContourPoints == len(points) >= 4
            if name == "oblique":
                away = (points - np.array(image.ImagePositionPatient, float)) @ series.normal
                assert np.abs(away).max() < 0.01
            else:
                assert set(points[:, 2]) == {float(image.ImagePositionPatient[2])}


@pytest.mark.parametrize("name", sorted(PLANS))
def test_dciodvfy_finds_no_error(all_series, tmp_path, name):
    if not shutil.which("dciodvfy"):
        pytest.skip("no dciodvfy: run scripts/dicom_testbed.sh")
    series = all_series[name]
    masks = make_masks(series.shape)
    masks["stomach"][:] = False
    write_rtstruct(tmp_path / "r.dcm", masks, series=series, maker=MAKER)
    done = subprocess.run(["dciodvfy", tmp_path / "r.dcm"], capture_output=True, text=True)
    assert "Error" not in done.stderr
    assert done.returncode == 0


# --- what is not written -------------------------------------------------------------------------


def test_a_series_without_frame_of_reference_is_refused(series, tmp_path):
    with pytest.raises(InputError, match="does not have a FrameOfReferenceUID"):
        write_rtstruct(
            tmp_path / "r.dcm",
            make_masks(series.shape),
            series=replace(series, frame_of_reference_uid=""),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"stomach": "x" * 65}, "found 'xxx.*expected 1 to 64 characters"),
        ({"stomach": "a\\b"}, r"no backslash"),
        ({"stomach": " "}, "1 to 64 characters"),
        ({"stomach": "Bowel_Small"}, "its own name|a name of its own"),
        ({"liver": "Liver"}, "found liver; expected one of large_bowel"),
    ],
)
def test_names_that_do_not_fit_are_refused(series, tmp_path, names, message):
    with pytest.raises(InputError, match=message):
        write_rtstruct(tmp_path / "r.dcm", make_masks(series.shape), series=series, names=names)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_takes_no_file_leaves_nothing(series, tmp_path):
    (tmp_path / "r.dcm").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_rtstruct(tmp_path / "r.dcm", make_masks(series.shape), series=series)
    assert [path.name for path in tmp_path.iterdir()] == ["r.dcm"]


def test_masks_of_another_shape_are_a_programmers_mistake(series, tmp_path):
    with pytest.raises(ValueError, match="a mask of shape"):
        write_rtstruct(tmp_path / "r.dcm", make_masks((1, 2, 3)), series=series)


# --- other programs' files -----------------------------------------------------------------------


def make_foreign(path, series, polygons, *, references=True, change=None):
    """Write an RTSTRUCT as another program might: ``[(slice, [(row, column), ...]), ...]``."""
    mask = np.zeros(series.shape, np.bool_)
    write_rtstruct(path, {"stomach": mask}, series=series)
    dataset = pydicom.dcmread(path)
    contours = []
    for index, points in polygons:
        contour = Dataset()
        if references:
            image = Dataset()
            image.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT, as plastimatch writes
            image.ReferencedSOPInstanceUID = series.sop_instance_uids[int(index)]
            contour.ContourImageSequence = [image]
        contour.ContourGeometricType = "CLOSED_PLANAR"
        contour.NumberOfContourPoints = len(points)
        low = int(index)
        high = min(low + 1, series.shape[0] - 1)
        start = series.positions_mm[low] * (1 - index % 1) + series.positions_mm[high] * (index % 1)
        points_mm = [
            start
            + row * series.pixel_spacing_mm[0] * np.array(series.column_direction)
            + column * series.pixel_spacing_mm[1] * np.array(series.row_direction)
            for row, column in points
        ]
        contour.ContourData = [f"{value:.5f}" for value in np.ravel(points_mm)]
        contours.append(contour)
    dataset.ROIContourSequence[0].ContourSequence = contours
    if change:
        change(dataset)
    dataset.save_as(path)
    return path


def read_foreign(tmp_path, series, polygons, **options):
    path = make_foreign(tmp_path / "foreign.dcm", series, polygons, **options)
    return read_rtstruct(path, series=series).masks["stomach"]


def show(plane):
    return ["".join(".#"[int(value)] for value in row) for row in plane]


def test_points_on_centres_belong_to_the_contour(series, tmp_path):
    found = read_foreign(tmp_path, series, [(1, [(2, 2), (2, 6), (6, 2)])])
    assert show(found[1, 1:8, 1:8]) == [
        ".......",
        ".#####.",
        ".####..",
        ".###...",
        ".##....",
        ".#.....",
        ".......",
    ]
    assert not found[[0, 2, 3]].any()


def test_a_contour_between_centres_takes_those_inside(series, tmp_path):
    found = read_foreign(tmp_path, series, [(0, [(1.5, 1.5), (1.5, 4.5), (3.5, 4.5), (3.5, 1.5)])])
    assert np.argwhere(found[0]).tolist() == [[r, c] for r in (2, 3) for c in (2, 3, 4)]


def test_a_hole_is_a_second_contour_whose_line_belongs_to_the_organ(series, tmp_path):
    outer = [(1, 1), (1, 7), (7, 7), (7, 1)]
    hole = [(3, 3), (3, 5), (5, 5), (5, 3)]
    found = read_foreign(tmp_path, series, [(2, outer), (2, hole)])
    expected = np.zeros_like(found[2])
    expected[1:8, 1:8] = True
    expected[4, 4] = False
    assert np.array_equal(found[2], expected)


@pytest.mark.parametrize("turn", [1, -1])
def test_a_keyhole_is_a_hole(series, tmp_path, turn):
    ring = [(1, 1), (1, 7), (7, 7), (7, 1), (1, 1)]
    hole = [(2.5, 2.5), (5.5, 2.5), (5.5, 5.5), (2.5, 5.5), (2.5, 2.5)]
    found = read_foreign(tmp_path, series, [(2, (ring + hole)[::turn])])
    expected = np.zeros_like(found[2])
    expected[1:8, 1:8] = True
    expected[3:6, 3:6] = False
    assert np.array_equal(found[2], expected)


def test_a_contour_of_no_width_is_a_line_of_voxels(series, tmp_path):
    found = read_foreign(tmp_path, series, [(0, [(3, 2), (3, 8)]), (1, [(1, 1), (4, 4)])])
    assert np.argwhere(found[0]).tolist() == [[3, column] for column in range(2, 9)]
    assert np.argwhere(found[1]).tolist() == [[i, i] for i in range(1, 5)]


@pytest.mark.parametrize("name", ["axial", "slice missing", "oblique", "sagittal"])
def test_without_references_position_tells_the_slice(all_series, tmp_path, name):
    series = all_series[name]
    square = [(1.5, 1.5), (1.5, 4.5), (3.5, 4.5), (3.5, 1.5)]
    found = read_foreign(tmp_path, series, [(2, square), (3.03, square)], references=False)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [2, 3]


def test_a_reference_tells_the_slice_when_the_position_is_near_another(series, tmp_path):
    square = [(1.5, 1.5), (1.5, 4.5), (3.5, 4.5), (3.5, 1.5)]
    found = read_foreign(tmp_path, series, [(1.4, square)])
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [1]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    corners=st.integers(3, 25),
    name=st.sampled_from(["axial", "spacing", "oblique"]),
)
def test_a_voxel_is_inside_if_a_ray_says_so(all_series, tmp_path_factory, seed, corners, name):
    """A star-shaped polygon against a count of crossings in plain Python."""
    series = all_series[name]
    rng = np.random.default_rng(seed)
    angles = (np.arange(corners) + rng.uniform(0, 0.45, corners)) * 2 * np.pi / corners
    reach = rng.uniform(1, 5.4, corners)
    polygon = [
        (5.5 + r * np.sin(a), 7.0 + r * np.cos(a)) for r, a in zip(reach, angles, strict=True)
    ]
    folder = tmp_path_factory.getbasetemp()
    found = read_foreign(folder, series, [(0, polygon)])[0]
    for row, column in np.ndindex(found.shape):
        inside, near = False, False
        for (r0, c0), (r1, c1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
            if (r0 > row) != (r1 > row) and column < c0 + (row - r0) / (r1 - r0) * (c1 - c0):
                inside = not inside
            length = np.hypot(r1 - r0, c1 - c0)
            share = np.clip(((row - r0) * (r1 - r0) + (column - c0) * (c1 - c0)) / length**2, 0, 1)
            away = np.hypot(row - r0 - share * (r1 - r0), column - c0 - share * (c1 - c0))
            near |= bool(away < 0.05)
        assert near or found[row, column] == inside


SQUARE = [(2, 2), (2, 6), (6, 6), (6, 2)]


def first_contour(dataset):
    return dataset.ROIContourSequence[0].ContourSequence[0]


def set_type(dataset):
    first_contour(dataset).ContourGeometricType = "OPEN_PLANAR"


def set_count(dataset):
    first_contour(dataset).NumberOfContourPoints = 7


def set_series(dataset):
    frame = dataset.ReferencedFrameOfReferenceSequence[0]
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.777"


def set_frame(dataset):
    dataset.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.888"


def set_image(dataset):
    image = first_contour(dataset).ContourImageSequence[0]
    image.ReferencedSOPInstanceUID = "1.2.999"


def set_name(dataset):
    dataset.StructureSetROISequence[0].ROIName = "Liver"


def double(dataset):
    other = Dataset()
    other.ROINumber, other.ROIName = 2, "STOMACH"
    dataset.StructureSetROISequence.append(other)


def double_number(dataset):
    other = Dataset()
    other.ROINumber, other.ROIName = 1, "Liver"
    dataset.StructureSetROISequence.append(other)


@pytest.mark.parametrize(
    ("polygons", "options", "message"),
    [
        ([(0, SQUARE)], {"change": set_series}, r"found structures of the series \.\.\.\.2\.777;"),
        ([(0, SQUARE)], {"change": set_frame}, r"found the frame of reference \.\.\.\.2\.888;"),
        ([(0, SQUARE)], {"change": set_image}, r"contour 1: found a reference to the image \.\.\."),
        ([(0, SQUARE)], {"change": set_type}, "contour 1: found the type OPEN_PLANAR"),
        ([(0, SQUARE)], {"change": set_count}, "found 12 coordinates for 7 points"),
        ([(0, SQUARE)], {"change": set_name}, "found the structures 'Liver'; expected a structure"),
        ([(0, SQUARE)], {"change": double}, "found 2 structures for stomach: 'Stomach'"),
        ([(0, SQUARE)], {"change": double_number}, "found its number 1 twice"),
        ([(0, SQUARE), (1, [(3, 3)])], {}, "contour 2: found a contour of one point"),
        ([(0.5, SQUARE)], {"references": False}, "found points at -12.20 mm along the normal"),
        ([(0.7, SQUARE)], {}, "expected the plane of a slice, at -13.70 mm"),
        ([(0, [(2, 2), (2, 15), (6, 6)])], {}, "contour 1: found points outside the image"),
        ([(0, [(2, 2), (6, 6), (2, 6), (6, 2)])], {}, "contour 1: found a line that crosses itse"),
        ([(0, SQUARE + SQUARE)], {}, "contour 1: found a line that crosses itself"),
    ],
)
def test_contours_that_do_not_fit_are_refused(series, tmp_path, polygons, options, message):
    with pytest.raises(InputError, match=message) as caught:
        read_foreign(tmp_path, series, polygons, **options)
    # Nothing that names a patient: neither the path nor anything of the headers.
    assert str(tmp_path) not in str(caught.value)
    assert "MADE-UP" not in str(caught.value)


def test_all_that_is_wrong_is_listed_together(series, tmp_path):
    polygons = [
        (0, SQUARE),
        (1, [(3, 3)]),
        (2.5, SQUARE),
        (3, [(2, 2), (6, 6), (2, 6), (6, 2)]),
    ]
    path = make_foreign(tmp_path / "r.dcm", series, polygons, references=False)
    with pytest.raises(InputError) as caught:
        read_rtstruct(path, series=series, shown_as="plan.dcm")
    lines = str(caught.value).splitlines()
    starts = [line.partition(": found")[0] for line in lines]
    assert starts[:3] == [f"plan.dcm, structure 'Stomach', contour {n}" for n in (2, 3, 4)]
    assert len(lines) == 4


def test_two_bad_contours_do_not_hide_each_other_and_zero_points_are_refused(series, tmp_path):
    path = make_foreign(tmp_path / "r.dcm", series, [(0, SQUARE)])
    dataset = pydicom.dcmread(path)
    del first_contour(dataset).ContourData
    dataset.save_as(path)
    with pytest.raises(InputError, match="found 0 coordinates for 4 points"):
        read_rtstruct(path, series=series)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "cannot be read"),
        ("text", "found no DICOM file"),
        ("empty", "found no DICOM file|found a file of the kind None"),
        ("image", "found a file of the kind MR Image Storage"),
    ],
)
def test_a_file_that_is_no_rtstruct_is_refused(series, tmp_path, kind, message):
    path = tmp_path / "r.dcm"
    if kind == "text":
        path.write_text("not DICOM")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "image":
        (image,) = write_series(tmp_path / "s", SeriesPlan(shape=(1, 2, 2)))
        path.write_bytes(image.read_bytes())
    with pytest.raises(InputError, match=message) as caught:
        read_rtstruct(path, series=series)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("undefined", [False, True], ids=["length", "delimiter"])
def test_a_file_that_ends_early_never_loses_contours(series, tmp_path, undefined):
    """Whatever is cut off: refused, or only what stands behind the contours is missing."""
    path = make_foreign(tmp_path / "r.dcm", series, [(0, SQUARE), (1, SQUARE)])
    if undefined:
        dataset = pydicom.dcmread(path)
        for element in dataset:
            element.is_undefined_length = element.VR == "SQ"
        dataset.save_as(path)
    whole = path.read_bytes()
    mask = read_rtstruct(path, series=series).masks["stomach"]
    assert mask.any()
    refused = 0
    for end in range(0, len(whole) - 1, 23):
        path.write_bytes(whole[:end])
        try:
            found = read_rtstruct(path, series=series).masks["stomach"]
        except InputError:
            refused += 1
        else:
            assert np.array_equal(found, mask)
    assert refused > len(whole) / 23 * 0.8
