"""A converted phantom, opened by readers that know nothing of us: is the patient upright?"""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
import SimpleITK

from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.source.phantom.anatomy import Tissue
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.scan import draw_scan
from gi2nnunet.source.phantom.writing import write_phantom
from tests.converting import convert

WIDE = Geometry(width=72, height=60, slices=48, spacing_mm=(5.0, 5.0))
SEED = 5


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("orientation")
    write_phantom(folder / "source", patients=1, days=1, geometries=[WIDE], seed=SEED)
    return convert(folder / "source", workspace=open_workspace(folder, environ={}))


def liver_centre(dataset: Dataset) -> np.ndarray:
    """Slice, row and column of the liver's centre, as the phantom was drawn."""
    tissue = draw_scan(dataset.scans[0].scan_id, WIDE, seed=SEED).tissue
    return np.argwhere(tissue == Tissue.LIVER).mean(axis=0)


def test_the_phantoms_liver_is_at_image_left_and_cranial(dataset: Dataset) -> None:
    z, _, x = liver_centre(dataset)
    assert x < 0.45 * WIDE.width
    assert z < 0.55 * WIDE.slices


def test_nibabel_finds_the_liver_at_the_patients_right_and_slice_1_on_top(
    dataset: Dataset,
) -> None:
    scan = dataset.scans[0]
    image = nibabel.load(dataset.image_path(scan.scan_id))
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    canonical = nibabel.as_closest_canonical(image)  # axes to the Right, Anterior, Superior
    assert canonical.shape == (WIDE.width, WIDE.height, WIDE.slices)
    voxels = np.asarray(canonical.dataobj)
    drawn = draw_scan(scan.scan_id, WIDE, seed=SEED)
    liver = np.argwhere(drawn.tissue == Tissue.LIVER)
    # The same voxel, counted from the patient's left, back and feet.
    right, front, top = (np.array(drawn.tissue.shape) - 1 - liver).T[::-1]
    assert right.mean() > 0.55 * WIDE.width
    assert top.mean() > 0.45 * WIDE.slices
    slices = np.stack(list(drawn.render_slices()))
    np.testing.assert_array_equal(voxels[right, front, top], slices[tuple(liver.T)])


def test_simpleitk_places_slice_1_above_the_last_and_the_liver_to_the_right(
    dataset: Dataset,
) -> None:
    scan = dataset.scans[0]
    image = SimpleITK.ReadImage(str(dataset.image_path(scan.scan_id)))
    assert image.GetSpacing() == (5.0, 5.0, 3.0)
    array = SimpleITK.GetArrayFromImage(image)
    first_slice = next(iter(draw_scan(scan.scan_id, WIDE, seed=SEED).render_slices()))
    (k,) = [k for k in range(len(array)) if np.array_equal(array[k], first_slice)]
    heights = [image.TransformIndexToPhysicalPoint((0, 0, index))[2] for index in range(len(array))]
    assert heights[k] == max(heights)  # LPS: the third coordinate grows towards the head
    z, y, x = liver_centre(dataset)
    point = image.TransformContinuousIndexToPhysicalPoint((x, y, len(array) - 1 - z))
    middle = image.TransformContinuousIndexToPhysicalPoint(
        [(size - 1) / 2 for size in image.GetSize()]
    )
    assert point[0] < middle[0] - 10  # LPS: the first coordinate grows towards the patient's left
