import gzip
import itertools
import shlex
import struct
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.formats.volumes import (
    encode_volume,
    read_geometry,
    read_volume,
    read_volume_at,
    write_volume,
    write_volume_like,
)

SPACING = (3.0, 1.25, 1.63)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("RL", "AP", "IS"))
    for letters in itertools.product(*axes)
]


def numbered(shape=(4, 5, 7), dtype=np.uint16):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def marked(corner):
    """A volume in slice order with one marked corner: (first|last slice, row, column)."""
    array = np.zeros((4, 5, 7), np.uint16)
    array[corner] = 9
    return array


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, numbered(), spacing_mm=SPACING)
    return path


def test_first_slice_top_left_is_superior_anterior_right_for_nibabel(tmp_path):
    path = tmp_path / "marked.nii.gz"
    write_volume(path, marked((0, 0, 0)), spacing_mm=SPACING)
    loaded = nibabel.load(path)
    assert nibabel.aff2axcodes(loaded.affine) == ("L", "P", "S")
    assert np.linalg.det(loaded.affine[:3, :3]) > 0
    # Canonical: first axis to the right, second to anterior, third to superior.
    canonical = nibabel.as_closest_canonical(loaded)
    voxel = np.argwhere(np.asarray(canonical.dataobj) == 9)
    assert voxel.tolist() == [[6, 4, 3]]
    assert canonical.header.get_zooms() == pytest.approx(SPACING[::-1])


@pytest.mark.parametrize(
    ("corner", "rai_voxel"),
    [
        ((0, 0, 0), (0, 0, 3)),  # first slice, top, left: right, anterior, superior
        ((3, 0, 0), (0, 0, 0)),  # last slice: inferior
        ((0, 4, 0), (0, 4, 3)),  # bottom row: posterior
        ((0, 0, 6), (6, 0, 3)),  # right column: patient's left
    ],
)
def test_corners_lie_where_simpleitk_says(tmp_path, corner, rai_voxel):
    """ITK's "RAI" code means axes that start at right, anterior, inferior (LPS directions)."""
    path = tmp_path / "marked.nii.gz"
    write_volume(path, marked(corner), spacing_mm=SPACING)
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(path)), "LPS")
    assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    array = SimpleITK.GetArrayFromImage(image)
    assert tuple(np.argwhere(array == 9)[0][::-1]) == rai_voxel
    assert image.GetSpacing() == pytest.approx(SPACING[::-1])
    assert image.GetSize() == (7, 5, 4)


def test_world_positions_run_left_posterior_and_down_with_the_slices(written):
    """A position two slices further is 6 mm lower, whoever computes it."""
    image = SimpleITK.ReadImage(str(written))
    there = np.array(image.TransformIndexToPhysicalPoint((0, 0, 3)))  # slice z = 0
    below = np.array(image.TransformIndexToPhysicalPoint((0, 0, 1)))  # slice z = 2
    assert below - there == pytest.approx([0, 0, -6])
    loaded = nibabel.load(written)
    ras = loaded.affine @ [0, 0, 3, 1] - loaded.affine @ [0, 0, 1, 1]
    assert ras[:3] == pytest.approx([0, 0, 6])


def test_header_says_all_there_is_to_say(written):
    header = nibabel.load(written).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_qform() == pytest.approx(header.get_sform())
    assert header.get_xyzt_units()[0] == "mm"
    assert header.get_data_dtype() == np.uint16
    assert header["magic"] == b"n+1"
    assert nibabel.load(written).affine[:3, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_orientation_comes_back_in_slice_order(tmp_path, written, orientation):
    turned = SimpleITK.DICOMOrient(SimpleITK.ReadImage(str(written)), orientation)
    path = tmp_path / "turned.nii.gz"
    SimpleITK.WriteImage(turned, str(path))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, numbered())
    assert volume.spacing_mm == SPACING
    assert volume.geometry.corner_mm == (0, 0, 9)
    array = SimpleITK.GetArrayFromImage(turned)

    like = tmp_path / "like.nii.gz"
    write_volume_like(like, (numbered() % 8).astype(np.uint8), reference=path)
    image = SimpleITK.ReadImage(str(like))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), array % 8)
    assert image.GetDirection() == pytest.approx(turned.GetDirection())
    assert image.GetOrigin() == pytest.approx(turned.GetOrigin())
    assert image.GetSpacing() == pytest.approx(turned.GetSpacing())


volumes = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.int32, np.float32]),
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements={"allow_nan": False, "allow_infinity": False},
)


@settings(deadline=None)
@given(array=volumes, spacing=st.tuples(*[st.sampled_from([0.5, 1.5, 1.63, 3.0])] * 3))
def test_round_trip_keeps_values_type_and_spacing(tmp_path_factory, array, spacing):
    path = tmp_path_factory.mktemp("volume") / "a.nii.gz"
    write_volume(path, array, spacing_mm=spacing)
    volume = read_volume(path)
    assert volume.array.dtype == array.dtype
    np.testing.assert_array_equal(volume.array, array)
    assert volume.spacing_mm == spacing
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))[::-1], array
    )


def test_bytes_depend_on_the_content_alone(tmp_path):
    array = numbered()
    views = [array, array[::-1].copy()[::-1], np.asfortranarray(array), array.astype(">u2")]
    assert len({encode_volume(view, spacing_mm=SPACING) for view in views}) == 1
    content = encode_volume(array, spacing_mm=SPACING)
    assert content[4:8] == b"\0\0\0\0"  # no time stamp
    assert len(gzip.decompress(content)) == 352 + array.nbytes


def test_bool_masks_are_written_as_uint8(tmp_path):
    mask = numbered() % 3 == 0
    write_volume(tmp_path / "m.nii.gz", mask, spacing_mm=SPACING)
    volume = read_volume(tmp_path / "m.nii.gz")
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, mask)


def test_plain_nii_big_endian_and_nifti2_are_read(tmp_path):
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1])
    kji = numbered()[::-1].transpose(2, 1, 0)
    nibabel.Nifti2Image(kji, affine).to_filename(tmp_path / "two.nii")
    header = nibabel.Nifti1Header(endianness=">")
    big = nibabel.Nifti1Image(kji.astype(">u2"), affine, header)
    big.to_filename(tmp_path / "big.nii.gz")
    assert big.header.endianness == ">"
    four = nibabel.Nifti1Image(kji[..., None], affine)
    four.to_filename(tmp_path / "four.nii.gz")
    for name in ("two.nii", "big.nii.gz", "four.nii.gz"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.array, numbered())
        assert volume.spacing_mm == SPACING


def test_scaled_values_are_read_scaled(tmp_path):
    path = tmp_path / "scaled.nii"
    nibabel.Nifti1Image(numbered().astype(np.int16), np.diag([-1, -1, 1, 1])).to_filename(path)
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 0.5, 10)
    path.write_bytes(content)
    array = read_volume(path).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.sort(array.ravel()), np.arange(140) * 0.5 + 10)
    assert nibabel.load(path).get_fdata().max() == array.max() == 79.5


def tilted(degrees, axis):
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = [other for other in range(3) if other != axis]
    turn = np.eye(4)
    turn[first, first], turn[first, second] = cos, -sin
    turn[second, first], turn[second, second] = sin, cos
    return turn @ np.diag([-1.63, -1.25, 3.0, 1])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_tilted_volume_is_taken_along_the_nearest_axes_up_to_30_degrees(tmp_path, axis):
    array = numbered()[::-1].transpose(2, 1, 0)
    for degrees in (-29, 10):
        nibabel.Nifti1Image(array, tilted(degrees, axis)).to_filename(tmp_path / "t.nii")
        np.testing.assert_array_equal(read_volume(tmp_path / "t.nii").array, numbered())
    for degrees in (31, 45):
        nibabel.Nifti1Image(array, tilted(degrees, axis)).to_filename(tmp_path / "t.nii")
        with pytest.raises(InputError, match=r"t\.nii: found voxel axes .* within 30 degrees"):
            read_volume(tmp_path / "t.nii")


def test_a_volume_that_does_not_say_how_it_lies_is_refused(tmp_path):
    image = nibabel.Nifti1Image(numbered(), None)
    image.header.set_zooms((1, 1, 1))
    image.to_filename(tmp_path / "nowhere.nii")
    with pytest.raises(InputError, match="orientation is unknown"):
        read_volume(tmp_path / "nowhere.nii")


QFORM = np.diag([-2.0, -2.0, 3.0, 1.0])
MOVED, MIRRORED, TURNED, ROUNDED = (QFORM.copy() for _ in range(4))
MOVED[0, 3] = 100
MIRRORED[0, 0] = 2
angle = np.deg2rad(10)
TURNED[:2, :2] = 2 * np.array([[-np.cos(angle), np.sin(angle)], [-np.sin(angle), -np.cos(angle)]])
ROUNDED[:3, :3] += 1e-3
LARGER = np.diag([-3, -3, 4.5, 1])


def write_forms(path, qform, sform, *, codes=(1, 2)):
    """Write numbers that differ, with two affines; a code of 0 says that one of them is not set."""
    image = nibabel.Nifti1Image(numbered(), np.eye(4))
    image.set_sform(sform, code=codes[1])
    image.set_qform(qform, code=codes[0])  # last, because it sets pixdim too
    image.to_filename(path)


@pytest.mark.parametrize("sform", [LARGER, MOVED, MIRRORED, TURNED])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_contradicting_qform_and_sform_are_refused_until_one_is_chosen(tmp_path, sform, ending):
    path = tmp_path / f"it's two{ending}"
    write_forms(path, QFORM, sform)
    with pytest.raises(InputError, match="a qform and an sform that contradict each other") as told:
        read_volume(path)
    with pytest.raises(InputError, match="contradict"):
        read_volume_at(path)
    (line,) = (line for line in str(told.value).splitlines() if "python -c " in line)
    words = shlex.split(line[line.index("python -c ") :])
    other = "i.set_qform(i.get_sform(), 1)"
    assert other in str(told.value)
    by_sform = words[2].replace("i.set_sform(i.get_qform(), 1)", other)
    assert words[3:] == [str(path)]
    for code, kept in ((words[2], QFORM), (by_sform, sform)):
        write_forms(path, QFORM, sform)
        subprocess.run([sys.executable, "-c", code, path], check=True)
        array, affine = read_volume_at(path)
        assert np.array_equal(array, numbered())
        np.testing.assert_allclose(affine, kept, atol=1e-5)
        image = SimpleITK.ReadImage(str(path))
        assert read_geometry(path).spacing_mm == pytest.approx(image.GetSpacing()[::-1])


def test_qform_and_sform_may_be_rounded_and_one_may_be_missing(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_forms(path, QFORM, ROUNDED)
    assert read_geometry(path).spacing_mm == pytest.approx((3, 2, 2), abs=0.002)
    write_forms(path, QFORM, LARGER, codes=(0, 1))
    assert read_geometry(path).spacing_mm == (4.5, 3, 3)
    write_forms(path, QFORM, LARGER, codes=(1, 0))
    assert read_geometry(path).spacing_mm == (3, 2, 2)


def test_as_stored_only_the_voxel_sizes_have_to_agree(tmp_path):
    path = tmp_path / "a.nii.gz"
    for sform in (MOVED, MIRRORED, TURNED):
        write_forms(path, QFORM, sform)
        assert read_geometry(path, as_stored=True).spacing_mm == (3, 2, 2)
    write_forms(path, QFORM, LARGER)
    with pytest.raises(InputError, match=r"voxels of 2 x 2 x 3 mm.*voxels of 3 x 3 x 4.5 mm"):
        read_geometry(path, as_stored=True)


@pytest.mark.parametrize(
    "axes", [[[-1, 0.3, 0], [0, -1, 0], [0, 0, 1]], [[1, 1, 0], [0, 0, 0], [0, 0, 1]]]
)
def test_sheared_axes_and_two_axes_along_one_direction_are_refused(tmp_path, axes):
    affine = np.eye(4)
    affine[:3, :3] = axes
    image = nibabel.Nifti1Image(numbered(), np.eye(4))
    image.set_qform(None, code=0)
    image.set_sform(affine, code=1)
    image.to_filename(tmp_path / "sheared.nii")
    with pytest.raises(InputError, match=r"sheared\.nii: found voxel axes .* right angles"):
        read_volume(tmp_path / "sheared.nii")


def test_every_truncation_and_every_altered_byte_is_told(tmp_path, written):
    whole = written.read_bytes()
    path = tmp_path / "bad.nii.gz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"bad\.nii\.gz: found .*expected a whole"):
            read_volume(path)
    # Bytes 4 to 9 of a gzip file are its time stamp and where it came from: they carry no voxel.
    for position in [0, 1, 2, *range(10, len(whole))]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        with pytest.raises(InputError, match=r"bad\.nii\.gz"):
            read_volume(path)


def test_a_truncated_plain_nii_is_told(tmp_path, written):
    whole = gzip.decompress(written.read_bytes())
    for length in (0, 3, 100, 347, 352, 360, len(whole) - 1):
        (tmp_path / "bad.nii").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"bad\.nii: found"):
            read_volume(tmp_path / "bad.nii")


def test_what_is_no_volume_is_refused(tmp_path):
    nibabel.Nifti1Image(np.zeros((3, 3, 3, 2), np.uint8), np.eye(4)).to_filename(
        tmp_path / "series.nii"
    )
    with pytest.raises(InputError, match="one volume of numbers"):
        read_volume(tmp_path / "series.nii")
    with pytest.raises(InputError, match=r"missing\.nii\.gz: cannot be read"):
        read_volume(tmp_path / "missing.nii.gz")
    with pytest.raises(InputError, match="cannot be read"):
        read_volume(tmp_path)


def test_writing_is_whole_or_not_at_all(tmp_path, written):
    before = written.read_bytes()
    with pytest.raises(ValueError, match=r"\(z, y, x\)"):
        write_volume(written, np.zeros((2, 2)), spacing_mm=SPACING)
    with pytest.raises(ValueError, match=r"\.nii\.gz"):
        write_volume(tmp_path / "a.nrrd", numbered(), spacing_mm=SPACING)
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(OutputError, match=r"folder\.nii\.gz: cannot be written"):
        write_volume(tmp_path / "folder.nii.gz", numbered(), spacing_mm=SPACING)
    assert written.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "folder.nii.gz"]
