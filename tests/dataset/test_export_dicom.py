"""Label volumes of any coding and order of axes as RTSTRUCT and SEG of their series."""

from __future__ import annotations

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.export_dicom import export_dicom
from gi2nnunet.formats.dicom_series import build_series, list_frames, read_series, split_frames
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import to_bits
from gi2nnunet.formats.rtstruct_reading import read_rtstruct
from gi2nnunet.formats.seg import read_seg
from gi2nnunet.source.scan import DicomOptions
from tests.dicom_factory import (
    AXIAL,
    FEET_FIRST,
    SAGITTAL,
    SeriesPlan,
    oblique,
    write_enhanced,
    write_series,
)
from tests.strays import add_strays

TO_RAS = np.diag([-1.0, -1, 1, 1])
PLAN = SeriesPlan(shape=(4, 9, 11), pixel_spacing_mm=(2.0, 1.0))


def draw_labels(shape, highest=7, seed=0):
    return np.random.default_rng(seed).integers(0, highest + 1, shape, dtype=np.uint8)


def split(bits):
    return {organ: (bits & bit) > 0 for organ, bit in zip(ORGANS, (1, 2, 4), strict=True)}


def save(path, array, affine, axes="LPS"):
    """Write an array (slices, rows, columns) with axes of another order and direction."""
    image = nibabel.Nifti1Image(array, affine)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(axes))
    path.parent.mkdir(exist_ok=True)
    nibabel.save(image.as_reoriented(turn), path)
    return path


def assert_both(out, series, masks):
    for read, name in ((read_rtstruct, "rtstruct.dcm"), (read_seg, "seg.dcm")):
        found = read(out / name, series=series).masks
        assert set(found) == set(masks)
        for organ, mask in masks.items():
            np.testing.assert_array_equal(found[organ], mask, err_msg=f"{name} {organ}")


@pytest.mark.parametrize("axes", ["LPS", "RAS", "IPL", "SRP", "PIR"])
@pytest.mark.parametrize("directions", [AXIAL, FEET_FIRST, SAGITTAL, oblique(40.0)])
def test_labels_in_any_order_of_axes(tmp_path, directions, axes):
    plan = SeriesPlan(shape=(4, 9, 11), pixel_spacing_mm=(2.0, 1.0), directions=directions)
    write_series(tmp_path / "s", plan)
    series = read_series(tmp_path / "s")
    bits = draw_labels(series.shape)
    path = save(tmp_path / "labels.nii.gz", bits, TO_RAS @ series.affine, axes)
    done = export_dicom(path, tmp_path / "s", tmp_path / "out")
    assert_both(tmp_path / "out", series, split(bits))
    assert done.voxels == {organ: int(mask.sum()) for organ, mask in split(bits).items()}


@pytest.mark.parametrize("echoes", [(1.3,), (1.3, 4.6)])
def test_an_enhanced_image(tmp_path, echoes):
    """Structures refer to the frames of their own echo, at whatever number these are."""
    path = tmp_path / "s" / "e.dcm"
    write_enhanced(path, PLAN, echoes=echoes)
    frames = list(split_frames(list_frames(pydicom.dcmread(path))).values())[-1]
    series = build_series(frames)
    bits = draw_labels(series.shape)
    labels = save(tmp_path / "labels.nii.gz", bits, TO_RAS @ series.affine)
    number = f"3/{len(echoes)}" if len(echoes) > 1 else None
    export_dicom(labels, path, tmp_path / "out", dicom=DicomOptions(series=number))
    assert_both(tmp_path / "out", series, split(bits))
    positions = {frame.number: frame.position_mm for frame in frames}
    dataset = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        own = tuple(groups.PlanePositionSequence[0].ImagePositionPatient)
        assert np.allclose(positions[source.ReferencedFrameNumber], own)


@pytest.fixture
def series(tmp_path):
    write_series(tmp_path / "s", PLAN)
    return read_series(tmp_path / "s")


def test_exclusive_labels_and_one_mask_per_organ(tmp_path, series):
    affine = TO_RAS @ series.affine
    labels = draw_labels(series.shape, highest=3)
    path = save(tmp_path / "labels.nii.gz", labels, affine)
    with pytest.raises(InputError, match="Say which: --labels exclusive or regions"):
        export_dicom(path, tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    masks = split(to_bits(labels))
    export_dicom(path, tmp_path / "s", tmp_path / "out", scheme="exclusive")
    assert_both(tmp_path / "out", series, masks)
    folder = tmp_path / "organs"
    for organ, name in zip(ORGANS, ("x_colon", "x_SmallBowel", "x_stomach"), strict=True):
        save(folder / f"{name}.nii.gz", masks[organ].astype(np.uint8), affine)
    export_dicom(folder, tmp_path / "s", tmp_path / "out2")
    assert_both(tmp_path / "out2", series, masks)
    done = export_dicom(folder / "x_stomach.nii.gz", tmp_path / "s", tmp_path / "out3")
    assert done.voxels == {"stomach": int(masks["stomach"].sum())}
    save(folder / "liver.nii.gz", masks["stomach"].astype(np.uint8), affine)
    with pytest.raises(InputError, match="found 4 NIfTI files, 3 with an organ's name"):
        export_dicom(folder, tmp_path / "s", tmp_path / "out4")


def test_stray_files_beside_masks_and_series_change_nothing(tmp_path, series):
    bits = draw_labels(series.shape)
    for organ, mask in split(bits).items():
        save(tmp_path / "m" / f"{organ}.nii.gz", mask.astype(np.uint8), TO_RAS @ series.affine)
    add_strays(tmp_path / "m")
    add_strays(tmp_path / "s")
    export_dicom(tmp_path / "m", tmp_path / "s", tmp_path / "out")
    assert_both(tmp_path / "out", read_series(tmp_path / "s"), split(bits))


def test_cut_and_padded_volumes(tmp_path, series):
    bits = draw_labels(series.shape)
    bits[:, :2] = bits[:, -2:] = 0
    affine = TO_RAS @ series.affine
    cut, padded = affine.copy(), affine.copy()
    cut[:3, 3] += affine[:3, 1] * 2
    padded[:3, 3] -= affine[:3, 0]
    for name, array, place in (
        ("cut", bits[:, 2:-2], cut),
        ("padded", np.pad(bits, ((1, 3), (0, 0), (0, 0))), padded),
    ):
        path = save(tmp_path / f"{name}.nii.gz", array, place)
        export_dicom(path, tmp_path / "s", tmp_path / name)
        assert_both(tmp_path / name, series, split(bits))


def test_a_series_with_a_missing_slice(tmp_path):
    whole = SeriesPlan(shape=(6, 9, 11))
    write_series(tmp_path / "whole", whole)
    affine = TO_RAS @ read_series(tmp_path / "whole").affine
    write_series(tmp_path / "s", SeriesPlan(shape=(6, 9, 11), missing=(2,)))
    bits = draw_labels(whole.shape)
    path = save(tmp_path / "all.nii.gz", bits, affine)
    with pytest.raises(InputError, match="labels up to 3 mm away"):
        export_dicom(path, tmp_path / "s", tmp_path / "out")
    bits[2] = 0
    path = save(tmp_path / "some.nii.gz", bits, affine)
    export_dicom(path, tmp_path / "s", tmp_path / "out")
    found = split(bits[[0, 1, 3, 4, 5]])
    assert_both(tmp_path / "out", read_series(tmp_path / "s"), found)


def shift(affine):
    affine[0, 3] += 0.02


def stretch(affine):
    affine[:3, 1] *= 1.01


def coarsen(affine):
    affine[:3, 0] *= 2


@pytest.mark.parametrize(
    ("change", "empty", "found"),
    [
        (shift, False, "labels up to 0.02 mm away"),
        (shift, True, "labels up to 0.02 mm away"),
        (stretch, False, r"found voxels of \[3.0, 2.02, 1.0\] mm|found voxels of"),
        (coarsen, True, "found voxels of"),
    ],
)
def test_labels_that_do_not_lie_on_the_series_are_refused(tmp_path, series, change, empty, found):
    bits = draw_labels(series.shape) * (not empty)
    affine = TO_RAS @ series.affine
    change(affine)
    path = save(tmp_path / "labels.nii.gz", bits, affine)
    with pytest.raises(InputError, match=found):
        export_dicom(path, tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_values_that_are_no_labels_are_refused(tmp_path, series):
    path = save(
        tmp_path / "labels.nii.gz", draw_labels(series.shape, 9), TO_RAS @ series.affine
    )  # fmt: skip
    with pytest.raises(InputError, match=r"found the values \[8, 9\]; expected labels from 0"):
        export_dicom(path, tmp_path / "s", tmp_path / "out")


def test_series_that_cannot_carry_structures_are_refused(tmp_path, series):
    path = save(
        tmp_path / "labels.nii.gz", draw_labels(series.shape), TO_RAS @ series.affine
    )  # fmt: skip
    write_series(tmp_path / "two" / "a", PLAN)
    write_series(tmp_path / "two" / "b", PLAN)
    with pytest.raises(InputError, match="expected one DICOM series"):
        export_dicom(path, tmp_path / "two", tmp_path / "out")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="is not a source of the competition"):
        export_dicom(path, tmp_path / "none", tmp_path / "out")
    for image in (tmp_path / "s").iterdir():
        dataset = pydicom.dcmread(image)
        del dataset.FrameOfReferenceUID
        dataset.save_as(image)
    with pytest.raises(InputError, match="does not have a FrameOfReferenceUID"):
        export_dicom(path, tmp_path / "s", tmp_path / "out", dicom=DicomOptions())
    with pytest.raises(InputError, match="Give other names with --roi-name"):
        export_dicom(path, tmp_path / "s", tmp_path / "out", names={"stomach": "a\\b"})
    assert not (tmp_path / "out").exists()
