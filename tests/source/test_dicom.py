"""DICOM sources: what is taken, in which geometry, with which truth; and every refusal."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import imagecodecs
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RawDataStorage,
    RLELossless,
    generate_uid,
)

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.seg import write_seg
from gi2nnunet.formats.volumes import read_volume, to_slice_order
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import DicomOptions, SourceOptions
from tests.dicom_factory import (
    AXIAL,
    CORONAL,
    FEET_FIRST,
    SAGITTAL,
    SeriesPlan,
    oblique,
    write_enhanced,
    write_series,
)

PLAN = SeriesPlan(shape=(5, 8, 9), pixel_spacing_mm=(2.0, 1.0))


def open_dicom(path, *, scope="all", truth=True, allow_missing=False, **options):
    dicom = DicomOptions(**options)
    opening = SourceOptions(scope=scope, truth=truth, allow_missing=allow_missing, dicom=dicom)
    return open_source(path, opening)


def only_scan(path, **options):
    (scan,) = open_dicom(path, **options).scans.values()
    return scan


def draw_pixels(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 1000, shape, dtype=np.uint16)


def refusal(path, **options):
    with pytest.raises(InputError) as caught:
        open_dicom(path, **options)
    return str(caught.value)


def set_value(keyword, value):
    return lambda dataset, index: setattr(dataset, keyword, value)


# --- geometry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [AXIAL, FEET_FIRST, SAGITTAL, CORONAL, oblique(40.0)])
def test_a_volume_lies_as_its_slices_say(tmp_path, directions):
    """Each voxel of the array is where the slice's own position puts it."""
    plan = SeriesPlan(shape=(5, 8, 9), pixel_spacing_mm=(2.0, 1.0), directions=directions)
    pixels = np.arange(np.prod(plan.shape), dtype=np.uint16).reshape(plan.shape)
    write_series(tmp_path / "s", plan, pixels=pixels)
    scan = only_scan(tmp_path / "s")
    image = scan.read().image
    assert image.shape == scan.shape
    assert scan.numbers == tuple(range(1, scan.shape[0] + 1))
    scan.write_labels(tmp_path / "v.nii.gz", image)
    import nibabel

    written = nibabel.load(tmp_path / "v.nii.gz")
    values = np.asarray(written.dataobj)
    row, column = (np.array(d) for d in plan.directions)
    for at in [(0, 0, 0), (4, 7, 8), (2, 3, 1)]:
        mm = np.array(plan.position_mm(at[0])) + at[1] * 2.0 * column + at[2] * 1.0 * row
        ras = mm * (-1, -1, 1)
        voxel = np.linalg.inv(written.affine) @ [*ras, 1]
        assert np.allclose(voxel, np.rint(voxel), atol=1e-4)
        assert values[tuple(np.rint(voxel[:3]).astype(int))] == pixels[at]
    if directions != oblique(40.0):  # read as NIfTI, the same scan is the same array
        again = read_volume(tmp_path / "v.nii.gz")
        np.testing.assert_array_equal(again.array, image)
        assert again.spacing_mm == scan.spacing_mm


def test_slices_are_rescaled_each_by_its_own_numbers(tmp_path):
    pixels = draw_pixels(PLAN.shape)

    def rescale(dataset, index):
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + index, -index

    write_series(tmp_path, PLAN, pixels=pixels, change=rescale)
    slopes = np.arange(5)[:, None, None]
    image = only_scan(tmp_path).read().image
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[::-1], (pixels * (0.5 + slopes) - slopes).astype("f4"))


def test_values_that_are_not_finite_are_refused(tmp_path):
    write_series(tmp_path, PLAN, change=set_value("RescaleSlope", "1e300"))
    with pytest.raises(InputError, match="found NaN or infinity; expected finite intensities"):
        only_scan(tmp_path).read()


def test_plain_values_keep_their_type(tmp_path):
    pixels = draw_pixels(PLAN.shape)

    def make_signed(dataset, index):
        dataset.PixelRepresentation = 1
        dataset.PixelData = (pixels[index].astype(np.int16) - 500).tobytes()

    write_series(tmp_path, PLAN, change=make_signed)
    image = only_scan(tmp_path).read().image
    assert image.dtype == np.int16
    np.testing.assert_array_equal(image[::-1], pixels.astype(np.int16) - 500)


@pytest.mark.parametrize("as_folder", [True, False])
def test_an_enhanced_image_of_shuffled_frames(tmp_path, as_folder):
    path = tmp_path / "s" / "enhanced.dcm"
    rescale = [(1.0 + index, 3.0) for index in range(5)]
    ((pixels),) = write_enhanced(path, PLAN, rescale=rescale)
    scan = only_scan(path.parent if as_folder else path)
    assert (scan.shape, scan.spacing_mm) == ((5, 8, 9), (3.0, 2.0, 1.0))
    expected = pixels * np.arange(1.0, 6.0)[:, None, None] + 3
    np.testing.assert_array_equal(scan.read().image[::-1], expected)


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_echoes_are_told_apart(tmp_path, kind):
    if kind == "enhanced":
        pixels = write_enhanced(tmp_path / "s" / "e.dcm", PLAN, echoes=(1.3, 4.6))
    else:
        pixels = draw_pixels((2, *PLAN.shape))
        uids = [generate_uid() for _ in range(3)]
        for echo, time in enumerate((1.3, 4.6)):
            write_series(
                tmp_path / "s", PLAN, pixels=pixels[echo], uids=uids, prefix=f"echo{echo}_",
                change=set_value("EchoTime", time),
            )  # fmt: skip
    message = refusal(tmp_path / "s")
    assert "3/1: MR, 5 slices of 9 x 8" in message
    assert "EchoTime 4.6" in message
    for echo in (0, 1):
        found = only_scan(tmp_path / "s", series=f"3/{echo + 1}").read().image
        np.testing.assert_array_equal(found[::-1], pixels[echo])


def encode(codec, uid):
    def change(dataset, _):
        plane = dataset.pixel_array
        dataset.PixelData = encapsulate([codec(plane)])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = uid

    return change


@pytest.mark.parametrize(
    "change",
    [
        encode(imagecodecs.ljpeg_encode, JPEGLosslessSV1),
        encode(partial(imagecodecs.jpegls_encode, level=0), JPEGLSLossless),
        encode(
            partial(imagecodecs.jpeg2k_encode, level=0, codecformat="j2k"), JPEG2000Lossless
        ),
        lambda dataset, _: dataset.compress(RLELossless, generate_instance_uid=False),
        lambda dataset, _: setattr(
            dataset.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian
        ),
    ],
    ids=["JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE", "deflated"],
)  # fmt: skip
def test_compressed_pixels(tmp_path, change):
    pixels = draw_pixels((3, 16, 18))
    write_series(tmp_path, SeriesPlan(shape=(3, 16, 18)), pixels=pixels, change=change)
    np.testing.assert_array_equal(only_scan(tmp_path).read().image[::-1], pixels)


def test_a_zip_is_read_without_unpacking(tmp_path):
    pixels = draw_pixels(PLAN.shape)
    write_series(tmp_path / "s", PLAN, pixels=pixels)
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as file:
        for path in (tmp_path / "s").iterdir():
            file.write(path, f"a/b/{path.stem}")
    shutil.rmtree(tmp_path / "s")
    scan = only_scan(tmp_path / "s.zip")
    assert scan.files == (tmp_path / "s.zip",)
    np.testing.assert_array_equal(scan.read().image[::-1], pixels)


# --- which series --------------------------------------------------------------------------------


def write_two(folder):
    """Two series of one study."""
    study, frame = generate_uid(), generate_uid()
    series = [generate_uid(), generate_uid()]
    for at, name in enumerate(("TRUFI", "HASTE")):

        def change(dataset, _, at=at, name=name):
            dataset.SeriesNumber, dataset.SeriesDescription = 3 + at, name

        write_series(
            folder, SeriesPlan(shape=(4 + at, 8, 9)), uids=(study, series[at], frame),
            prefix=name, change=change,
        )  # fmt: skip
    return series


def test_one_of_several_series_is_named_by_number_uid_or_description(tmp_path):
    uids = write_two(tmp_path)
    message = refusal(tmp_path)
    assert "found several series that fit" in message
    assert f"3: MR, 4 slices of 9 x 8, ...{uids[0][-6:]}, 'TRUFI'" in message
    assert f"4: MR, 5 slices of 9 x 8, ...{uids[1][-6:]}, 'HASTE'" in message
    assert "--series" in message
    for text in ("4", uids[1], uids[1][-8:], "HASTE"):
        assert only_scan(tmp_path, series=text).shape == (5, 8, 9)
    message = refusal(tmp_path, series="5")
    assert "The series '5': found no such series" in message
    assert "'HASTE'" in message


def test_localizers_and_other_modalities_are_passed_over(tmp_path):
    uids = [generate_uid() for _ in range(3)]
    write_series(tmp_path, PLAN, uids=uids)
    localizer = (uids[0], generate_uid(), uids[2])
    for directions in (AXIAL, SAGITTAL, CORONAL):
        plan = SeriesPlan(shape=(1, 8, 9), directions=directions)
        write_series(tmp_path, plan, uids=localizer, prefix=str(directions))
    write_series(
        tmp_path, PLAN, uids=(uids[0], generate_uid(), uids[2]), prefix="ct",
        change=set_value("Modality", "CT"),
    )  # fmt: skip
    source = open_dicom(tmp_path)
    assert [scan.shape for scan in source.scans.values()] == [(5, 8, 9)]
    (warning,) = source.warnings
    assert warning.startswith("passed over 2 other series (3: ")
    assert "3: MR, 3 slices of 9 x 8, ..." in warning
    assert "3: CT, 5 slices of 9 x 8, ..." in warning


def test_each_study_gives_its_series_with_made_up_ids(tmp_path):
    for patient, day in (("Maier", "20260301"), ("Huber", "20260310"), ("Maier", "20260315")):
        write_series(
            tmp_path / patient / day, PLAN, patient_id=patient, seed=int(day),
            change=set_value("StudyDate", day),
        )  # fmt: skip
    write_series(
        tmp_path / "twice", PLAN, patient_id="Maier", change=set_value("StudyDate", "20260315")
    )
    table = tmp_path / "w" / "table.json"
    plain = open_dicom(tmp_path)
    found = [scan_id.partition("-") for scan_id in plain.scans]
    assert [scan_id for *_, scan_id in found] == [
        "0001_day0", "0001_day14", "0001_day14+2", "0002_day0",
    ]  # fmt: skip
    assert len({prefix for prefix, *_ in found}) == 1
    source = open_dicom(tmp_path, patients=table)
    assert list(source.scans) == list(plain.scans)
    assert not table.exists()
    source.keep_ids()
    content = json.loads(table.read_text())
    assert set(content["patients"]) == {"Maier", "Huber"}
    assert table.stat().st_mode & 0o077 == 0
    of_pixels = {scan.read().image.tobytes(): scan_id for scan_id, scan in source.scans.items()}
    for gone in (tmp_path / "Maier" / "20260301", tmp_path / "twice"):
        shutil.rmtree(gone)
        again = open_dicom(tmp_path, patients=table)  # the table keeps all ids
        assert len(again.scans) < len(source.scans)
        for scan_id, scan in again.scans.items():
            assert of_pixels[scan.read().image.tobytes()] == scan_id
    table.write_text("{")
    assert "Restore it from a copy" in refusal(tmp_path, patients=table)


def test_a_series_without_patient_id_is_a_patient_of_its_own(tmp_path):
    for name in "ab":
        write_series(tmp_path / name, SeriesPlan(shape=(3, 8, 9), without=("PatientID",)))
    source = open_dicom(tmp_path)
    patients = {scan.patient_id.partition("-")[2] for scan in source.scans.values()}
    assert patients == {"0001", "0002"}
    assert "no PatientID in 2 studies" in source.warnings[0]


# --- structures ----------------------------------------------------------------------------------


def make_masks(shape, seed=0):
    rng = np.random.default_rng(seed)
    return {organ: rng.random(shape) < 0.4 for organ in ORGANS}


def write_with_truth(folder, *, kind="rtstruct", names=None, masks=None, plan=PLAN, file=None):
    write_series(folder, plan)
    series = read_series(folder)
    masks = masks or make_masks(series.shape)
    write = write_rtstruct if kind == "rtstruct" else write_seg
    write(file or folder / "truth.dcm", masks, series=series, names=names)
    return masks, series


@pytest.mark.parametrize("kind", ["rtstruct", "seg"])
@pytest.mark.parametrize("directions", [AXIAL, SAGITTAL])
def test_structures_beside_the_series_are_its_truth(tmp_path, kind, directions):
    plan = SeriesPlan(shape=(5, 8, 9), directions=directions)
    masks, series = write_with_truth(tmp_path / "s", kind=kind, plan=plan)
    scan = only_scan(tmp_path / "s")
    assert (scan.labelled, scan.part) == (True, "train")
    label_map, problems = scan.load_labels()
    assert problems == ()
    affine = np.diag([-1.0, -1, 1, 1]) @ series.affine
    for bit, organ in enumerate(ORGANS):
        expected = to_slice_order(masks[organ], affine=affine)
        np.testing.assert_array_equal((label_map >> bit) & 1, expected)
    np.testing.assert_array_equal(scan.read().label_map, label_map)
    unlabelled = only_scan(tmp_path / "s", truth=False)
    assert (unlabelled.labelled, unlabelled.part) == (False, "test")


def test_structures_elsewhere_and_with_other_names(tmp_path):
    write_with_truth(
        tmp_path / "s", file=tmp_path / "r.dcm", names={"stomach": "Magen", "large_bowel": "PTV"}
    )
    assert not only_scan(tmp_path / "s").labelled
    source = open_dicom(tmp_path / "s", structures=tmp_path / "r.dcm", roi={"stomach": "Magen"})
    (scan,) = source.scans.values()
    assert scan.labelled
    mapped, missing = source.warnings
    assert mapped == "structures that are not mapped to an organ (--roi maps them): 'PTV' (1)"
    assert missing == "no structure for large_bowel in 1 of 1 file: taken as empty"
    label_map, _ = scan.load_labels()
    assert not (label_map & 1).any()
    assert (label_map & 4).any()


def test_two_files_of_structures_for_one_series_need_a_choice(tmp_path):
    masks, series = write_with_truth(tmp_path / "s")
    write_seg(tmp_path / "s" / "t.dcm", masks, series=series)
    assert "found 2 files of structures for one series" in refusal(tmp_path / "s")
    assert only_scan(tmp_path / "s", structures=tmp_path / "s" / "t.dcm").labelled


@pytest.mark.parametrize(
    ("names", "roi", "found"),
    [
        (dict.fromkeys(ORGANS, ""), {}, "expected a structure for at least one of"),
        ({"large_bowel": "colon", "small_bowel": "Bowel Large"}, {}, "2 structures for large_b"),
        ({}, {"stomach": "Magen"}, "expected one with the name 'Magen' for stomach"),
        ({}, {"liver": "Liver"}, "found a name for the organ liver"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, names, roi, found):
    if names and not all(names.values()):
        names = {organ: f"PTV {index}" for index, organ in enumerate(ORGANS)}
    write_with_truth(tmp_path / "s", names=names)
    assert found in refusal(tmp_path / "s", roi=roi)


def test_structures_of_another_series_are_refused(tmp_path):
    write_with_truth(tmp_path / "a")
    write_series(tmp_path / "b", PLAN)
    shutil.copy(tmp_path / "a" / "truth.dcm", tmp_path / "b")
    assert "found structures of other series" in refusal(tmp_path / "b")
    assert "found structures of other series" in refusal(
        tmp_path / "b", structures=tmp_path / "a" / "truth.dcm"
    )
    assert "--structures: found no RTSTRUCT or SEG" in refusal(
        tmp_path / "a", structures=tmp_path / "none"
    )


def test_structures_of_another_frame_of_reference_are_refused(tmp_path):
    write_with_truth(tmp_path / "s")
    path = tmp_path / "s" / "truth.dcm"
    dataset = pydicom.dcmread(path)
    for roi in dataset.StructureSetROISequence:
        roi.ReferencedFrameOfReferenceUID = "1.2.888"
    dataset.save_as(path)
    with pytest.raises(InputError, match="found the frame of reference"):
        only_scan(tmp_path / "s").load_labels()


# --- bad input -----------------------------------------------------------------------------------


def test_a_missing_slice_is_shown_with_its_positions(tmp_path):
    write_series(tmp_path, SeriesPlan(shape=(6, 8, 9), missing=(3,)))
    message = refusal(tmp_path)
    assert "found 6.000 mm between them, at -7.70 and -1.70 mm; expected 3.000 mm" in message


def test_a_doubled_slice_is_shown_with_its_position(tmp_path):
    paths = write_series(tmp_path, PLAN)
    shutil.copy(paths[2], tmp_path / "again.dcm")
    message = refusal(tmp_path)
    assert "found both at [-101.25, -87.3, -7.7] mm; expected one image at each" in message
    assert "file 1 of the series" in message
    assert "again.dcm" not in message
    assert "again.dcm" in refusal(tmp_path, show_paths=True)


def move(dataset, index):
    if index == 2:
        dataset.ImagePositionPatient = [-101.25, -87.3, -6.7]


def turn(dataset, index):
    if index == 2:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.9998, 0.02]


def grow(dataset, index):
    if index == 2:
        dataset.Rows, dataset.PixelData = 9, b"\0" * 162


def slant(dataset, index):
    dataset.ImagePositionPatient = [-101.25 + index, -87.3, -13.7 + 3 * index]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (move, "found 4.000 mm between them"),
        (turn, "found several orientations|found the orientation"),
        (grow, "found Rows 9; expected 8"),
        (slant, "found its corner 4.00 mm aside"),
        (lambda d, i: delattr(d, "PixelSpacing"), "found no PixelSpacing; expected one"),
        (lambda d, i: delattr(d, "ImagePositionPatient"), "found no ImagePositionPatient"),
        (set_value("PixelSpacing", [0, 1]), "spacing (0.0, 1.0); expected"),
        (set_value("Modality", "CT"), "the modality CT; expected MR"),
        (set_value("Modality", "PT"), "trained on MR of the abdomen"),
    ],
)
def test_a_series_that_cannot_be_a_volume_is_refused(tmp_path, change, found):
    write_series(tmp_path, PLAN, change=change)
    message = refusal(tmp_path)
    assert any(part in message for part in found.split("|"))


def test_any_modality_takes_what_the_message_offers(tmp_path):
    write_series(tmp_path, PLAN, change=set_value("Modality", "CT"))
    assert "--any-modality" in refusal(tmp_path)
    source = open_dicom(tmp_path, any_modality=True)
    assert len(source.scans) == 1
    assert source.options == {"any_modality": True}


def test_allow_missing_passes_over_what_cannot_be_taken(tmp_path):
    write_series(tmp_path / "a", PLAN)
    write_series(tmp_path / "b", SeriesPlan(shape=(6, 8, 9), missing=(3,)))
    assert "--allow-missing" in refusal(tmp_path)
    source = open_dicom(tmp_path, allow_missing=True)
    assert len(source.scans) == 1
    assert "a series is passed over: slices 3 and 4 of 5" in source.warnings[0]
    assert "-7.70 and -1.70 mm" in source.warnings[0]


def test_the_only_series_is_not_to_be_chosen(tmp_path):
    write_series(tmp_path / "b", SeriesPlan(shape=(6, 8, 9), missing=(3,)))
    assert "--series" not in refusal(tmp_path)
    assert "Correct the files, or copy them again." in refusal(tmp_path)
    write_series(tmp_path / "a", PLAN)
    assert "--series" in refusal(tmp_path)


def test_allow_missing_warns_of_every_gap(tmp_path):
    write_series(tmp_path / "a", PLAN)
    write_series(tmp_path / "b", SeriesPlan(shape=(9, 8, 9), missing=(3, 6)))
    warning = open_dicom(tmp_path, allow_missing=True).warnings[0]
    assert "at -7.70 and -1.70 mm" in warning
    assert "at 1.30 and 7.30 mm" in warning


@pytest.mark.parametrize("as_zip", [False, True])
def test_a_file_that_goes_while_it_is_read_is_named_without_its_path(tmp_path, as_zip):
    write_series(tmp_path / "Zwiebel", PLAN)
    if as_zip:
        shutil.make_archive(tmp_path / "Zwiebel", "zip", tmp_path / "Zwiebel")
    source = open_dicom(tmp_path / ("Zwiebel.zip" if as_zip else "Zwiebel"))
    (scan,) = source.scans.values()
    if as_zip:
        source.fingerprint()  # the zip is open: it stays as it was
        return
    (tmp_path / "Zwiebel" / scan.names[2]).unlink()
    for read in (source.fingerprint, scan.take_stamp, scan.load, scan.read_series):
        with pytest.raises(InputError) as caught:
            read()
        assert scan.scan_id in str(caught.value)
        assert "Zwiebel" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_the_settings_of_pydicom_are_those_of_the_caller_afterwards(tmp_path):
    """In several threads at once, and after an error."""
    from pydicom import config

    masks, series = write_with_truth(tmp_path / "s")
    scan = only_scan(tmp_path / "s")

    def work(number):
        scan.read()
        write_seg(tmp_path / f"{number}.dcm", masks, series=series)
        with suppress(InputError):
            open_dicom(tmp_path / "s", series="none")

    def list_settings():
        modes = config.settings.reading_validation_mode, config.settings.writing_validation_mode
        return *modes, config.logger.disabled, warnings.filters[:], warnings.showwarning

    before = list_settings()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(8)))
    assert list_settings() == before
    assert before[0] != config.IGNORE


def test_no_images(tmp_path):
    write_with_truth(tmp_path / "s", file=tmp_path / "r.dcm")
    (tmp_path / "only").mkdir()
    shutil.move(tmp_path / "r.dcm", tmp_path / "only" / "r.dcm")
    (tmp_path / "only" / "notes").write_text("some text")
    message = refusal(tmp_path / "only")
    assert "found 1 RTSTRUCT or SEG file and 1 other file; expected a series" in message


def test_a_dicomdir_is_passed_over_or_named(tmp_path):
    write_series(tmp_path, PLAN)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    listing = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    listing.DirectoryRecordSequence = []
    listing.save_as(tmp_path / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "readme.txt").write_text("text " * 100)
    (tmp_path / "notes").write_text("text " * 100)
    assert only_scan(tmp_path).shape == (5, 8, 9)
    assert "found a DICOMDIR, which only lists files" in refusal(tmp_path / "DICOMDIR")


@pytest.mark.parametrize("kept", [500, -100])
def test_a_truncated_file_is_refused_before_anything_is_read(tmp_path, kept):
    paths = write_series(tmp_path, PLAN)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[:kept])
    message = refusal(tmp_path)
    assert "Copy" in message
    assert str(tmp_path) not in message
    if kept < 0:
        assert "of the series" in message


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(["image", "enhanced.dcm", "truth.dcm"]),
    at=st.floats(0, 1),
    content=st.binary(min_size=1, max_size=8),
)
@example(name="image", at=0.810546875, content=b"\0")  # the type of PhotometricInterpretation
def test_damaged_bytes_are_refused_or_read(tmp_path_factory, name, at, content):
    """Whatever is in a file, nothing but an error of ours comes of it, without its values."""
    folder = tmp_path_factory.mktemp("damaged")
    if name == "enhanced.dcm":
        write_enhanced(folder / name, PLAN)
        path = folder / name
    else:
        write_with_truth(folder)
        path = next(p for p in folder.iterdir() if p.name.startswith(name))
    data = bytearray(path.read_bytes())
    place = 132 + int(at * (len(data) - 140))
    data[place : place + len(content)] = content
    path.write_bytes(data)
    with suppress(InputError):
        for scan in open_dicom(folder, any_modality=True).scans.values():
            scan.load()


def test_one_slice_is_not_a_volume(tmp_path):
    (path,) = write_series(tmp_path, SeriesPlan(shape=(1, 8, 9)))
    assert "found one slice; expected the folder of a series" in refusal(path)


def test_pixels_that_cannot_be_decoded(tmp_path):
    def spoil(dataset, _):
        dataset.PixelData = encapsulate([b"\xff\xd8 no picture at all"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    write_series(tmp_path, PLAN, change=spoil)
    with pytest.raises(InputError, match=r"its pixels cannot be read \(RuntimeError; JPEG Lossl"):
        only_scan(tmp_path).read()


def test_frames_without_a_place_of_their_own_are_refused(tmp_path):
    def double(dataset, _):
        dataset.NumberOfFrames = 2
        dataset.PixelData = dataset.PixelData * 2

    write_series(tmp_path / "a", PLAN, change=double)
    with pytest.raises(InputError, match=r"found pixels \(2, 8, 9\); expected \(1, 8, 9\)"):
        only_scan(tmp_path / "a").read()
    write_enhanced(tmp_path / "b.dcm", PLAN)
    dataset = pydicom.dcmread(tmp_path / "b.dcm")
    dataset.NumberOfFrames = 4
    dataset.PixelData = dataset.PixelData[: 4 * 144]
    dataset.save_as(tmp_path / "b.dcm")
    with pytest.raises(InputError, match=r"found pixels \(4, 8, 9\); expected \(5, 8, 9\)"):
        only_scan(tmp_path / "b.dcm").read()


def test_colour_and_inverted_pixels_are_refused(tmp_path):
    write_series(tmp_path, PLAN, change=set_value("PhotometricInterpretation", "MONOCHROME1"))
    with pytest.raises(InputError, match="found MONOCHROME1 pixels; expected MONOCHROME2"):
        only_scan(tmp_path).read()


def test_ten_thousand_files_in_one_folder(tmp_path):
    write_series(tmp_path, PLAN)
    first = tmp_path / "note0"
    first.write_text("text " * 100)
    for number in range(1, 10_000):
        (tmp_path / f"note{number}").hardlink_to(first)
    assert only_scan(tmp_path).shape == (5, 8, 9)


def test_a_series_without_its_uid_is_said_to_be_one(tmp_path):
    write_series(tmp_path, PLAN, change=lambda dataset, _: delattr(dataset, "SeriesInstanceUID"))
    message = refusal(tmp_path)
    assert "a series without SeriesInstanceUID: found damaged or missing values" in message


def test_dicom_files_that_are_no_images_are_counted(tmp_path):
    def change(dataset, _):
        del dataset.Rows
        dataset.SOPClassUID = RawDataStorage

    write_series(tmp_path, PLAN, change=change)
    assert "found 0 RTSTRUCT or SEG files and 5 other files" in refusal(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "start", "header", "values", "no rows", "link", "zip"])
def test_a_lost_slice_at_the_end_of_a_series_is_refused(tmp_path, damage):
    """It leaves no gap, so that only the file itself shows that there was one."""
    last = write_series(tmp_path / "s", PLAN)[-1]
    content = last.read_bytes()
    if damage == "empty":
        last.rename(last.with_suffix(""))
        last.with_suffix("").write_bytes(b"")
    elif damage == "link":
        last.unlink()
        last.symlink_to("nowhere")
    elif damage == "no rows":
        dataset = pydicom.dcmread(last)
        del dataset.Rows
        dataset.save_as(last)
    elif damage != "zip":
        last.write_bytes(content[: {"start": 100, "header": 132, "values": 400}[damage]])
    path = tmp_path / "s"
    if damage == "zip":
        path = tmp_path / "s.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for member in sorted((tmp_path / "s").iterdir()):
                file.write(member, member.name)
            offset = file.getinfo(last.name).header_offset
        packed = bytearray(path.read_bytes())
        start = offset + 30 + len(last.name)
        packed[start : start + 40] = b"\xff" * 40
        path.write_bytes(packed)
    message = refusal(path)
    assert re.match(r"file \d (of 5|of the series)", message)
    assert "opy" in message
    assert "--allow-missing" in message
    source = open_dicom(path, allow_missing=True)
    assert [scan.shape[0] for scan in source.scans.values()] == [4]
    assert "passed over: file" in source.warnings[0]


def test_pipes_and_text_files_among_the_images_are_passed_over(tmp_path):
    write_series(tmp_path, PLAN)
    (tmp_path / "notes").write_text("text")
    os.mkfifo(tmp_path / "pipe")
    assert only_scan(tmp_path).shape == (5, 8, 9)
