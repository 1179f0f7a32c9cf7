"""Files for viewers: read again by the readers of others."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import slicerio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from gi2nnunet.core.errors import OutputError
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.formats.structures import STANDARD_NAMES
from gi2nnunet.formats.viewers import write_label_descriptions, write_segmentation

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", [12, -25, 170], degrees=True).as_matrix()
OBLIQUE[:3, :3] *= (1.4, 1.6, 3)
OBLIQUE[:3, 3] = (90, 70.5, -33.25)
MAPS = arrays(np.uint8, (4, 3, 5), elements=st.integers(0, 7))


def write_labels(path: Path, bits: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nibabel.save(nibabel.Nifti1Image(bits, affine), path)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(bits=MAPS)
def test_slicerio_reads_every_organ_overlaps_too(tmp_path: Path, bits: np.ndarray) -> None:
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, write_labels(tmp_path / "a.nii.gz", bits), names=STANDARD_NAMES)
    found = slicerio.read_segmentation(path)
    assert [segment["name"] for segment in found["segments"]] == [
        STANDARD_NAMES[organ] for organ in ORGANS
    ]
    for number, (organ, segment) in enumerate(zip(ORGANS, found["segments"], strict=True)):
        mask = found["voxels"][segment.get("layer", 0)] == segment["labelValue"]
        assert np.array_equal(mask, bits & (1 << number) > 0)
        colour = "#" + "".join(f"{round(255 * value):02x}" for value in segment["color"])
        assert colour == CONTOUR_COLOURS[organ]
        low, high = np.array(segment["extent"]).reshape(3, 2).T
        places = np.argwhere(mask)
        if places.size:
            assert (low == places.min(axis=0)).all()
            assert (high == places.max(axis=0)).all()
        else:
            assert (high < low).all()


@pytest.mark.parametrize("affine", [OBLIQUE, np.diag([1.5, 1.5, 3, 1]), np.diag([-1, 2, -3, 1])])
def test_a_voxel_lies_where_it_lies_in_the_label_volume(tmp_path: Path, affine: np.ndarray) -> None:
    bits = np.zeros((4, 3, 5), np.uint8)
    bits[3, 1, 2] = 4
    labels = write_labels(tmp_path / "a.nii.gz", bits, affine)
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, labels, names=STANDARD_NAMES)
    stored = nibabel.load(labels).affine  # float32
    to_lps = np.diag([-1, -1, 1, 1]) @ stored
    assert np.allclose(slicerio.read_segmentation(path)["ijkToLPS"], to_lps)
    image, other = SimpleITK.ReadImage(str(path)), SimpleITK.ReadImage(str(labels))
    index = (3, 1, 2)
    assert image[index][2] == 1
    assert np.allclose(
        image.TransformIndexToPhysicalPoint(index), other.TransformIndexToPhysicalPoint(index),
        atol=1e-4,
    )  # fmt: skip


def test_segments_have_codes_and_names_of_ones_own(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "a.nii.gz", np.full((2, 2, 2), 7, np.uint8))
    path = tmp_path / "a.seg.nrrd"
    write_segmentation(path, labels, names={**STANDARD_NAMES, "stomach": "Magen"})
    segments = slicerio.read_segmentation(path)["segments"]
    assert [segment["name"] for segment in segments] == ["Bowel_Large", "Bowel_Small", "Magen"]
    codes = [segment["terminology"]["type"] for segment in segments]
    assert codes[2] == ["SCT", "69695003", "Stomach"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "a.nii.gz", np.zeros((2, 2, 2), np.uint8))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError):
        write_segmentation(tmp_path / "file" / "a.seg.nrrd", labels, names=STANDARD_NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "file"]


def test_itk_snaps_labels_name_every_value(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    write_label_descriptions(path)
    rows = [
        re.fullmatch(r' *(\d+) +(\d+) +(\d+) +(\d+) +([\d.]+) +([01]) +([01]) +"(.+)"', line)
        for line in path.read_text().splitlines()
        if not line.startswith("#")
    ]
    assert all(rows)
    found = {int(row[1]): (row[8], tuple(map(int, row.groups()[1:4]))) for row in rows if row}
    assert list(found) == list(range(8))
    assert found[0][0] == "Clear Label"
    assert found[5][0] == "large bowel and stomach"
    assert len({colour for _, colour in found.values()}) == 8
    assert all(0 <= value <= 255 for _, colour in found.values() for value in colour)
    assert found[4] == ("stomach", (0x7F, 0xB2, 0xFF))
