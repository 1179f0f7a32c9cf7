from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from gi2nnunet.source.check.measures import measure_masks, measure_scan
from gi2nnunet.source.scan import LoadedScan

SPACING = (3.0, 1.5, 2.0)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else float("nan")


@pytest.mark.parametrize("seed", range(6))
def test_masks_are_measured_as_one_voxel_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    depth, height, width = shape = tuple(rng.integers(1, 9, 3).tolist())
    labels = rng.integers(0, 8, shape).astype(np.uint8) * (rng.random(shape) < 0.3)
    labels[rng.random(depth) < 0.4] = 0
    labels = labels.astype(np.uint8) & (7 if seed else 3)  # the first has no stomach
    image = rng.integers(1, 900, shape).astype(np.uint16)
    level = image.reshape(depth, -1).mean(axis=1)
    found = measure_masks(labels, spacing_mm=SPACING, image=image, level=level)
    masks = [(labels & bit) != 0 for bit in (1, 2, 4)]
    for organ, mask in enumerate(masks):
        assert found.pixels[organ].tolist() == mask.sum(axis=(1, 2)).tolist()
        assert found.volume_ml[organ] == pytest.approx(mask.sum() * 9.0 / 1000)
        for ahead, measured in ((1, found.next_iou[organ]), (2, found.second_iou[organ])):
            wanted = [
                iou(mask[z], mask[z + ahead]) if z + ahead < depth else np.nan for z in range(depth)
            ]
            np.testing.assert_allclose(measured, wanted)
        if mask.any():
            z, y, x = (np.nonzero(mask)[axis].mean() for axis in range(3))
            wanted = [
                z / max(depth - 1, 1),
                (y - (height - 1) / 2) * 1.5,
                (x - (width - 1) / 2) * 2,
            ]
            np.testing.assert_allclose(found.centre[organ], wanted)
            wide = [np.nonzero(mask)[axis].std() * SPACING[axis] for axis in range(3)]
            np.testing.assert_allclose(found.spread_mm[organ], wide)
        else:
            assert np.isnan(found.centre[organ]).all()
        seen = mask[:, ::4, ::4]
        inside = (image / level[:, None, None])[:, ::4, ::4][seen]
        np.testing.assert_allclose(found.level[organ], inside.mean() if seen.any() else np.nan)
    both = [a & b for a, b in combinations(masks, 2)]
    assert found.overlap_pixels == tuple(int(of_pair.sum()) for of_pair in both)
    assert found.overlap_slices == tuple(int(of_pair.any(axis=(1, 2)).sum()) for of_pair in both)


def test_likeness_of_slices_is_their_correlation() -> None:
    image = np.random.default_rng(0).integers(0, 4000, (5, 16, 20)).astype(np.uint16)
    image[3] = 7  # of one value: no correlation
    loaded = LoadedScan(image=image, label_map=None, spacing_mm=SPACING, first_number=4)
    found = measure_scan(loaded, scan_id="case1_day2", part="train")
    seen = image[:, ::4, ::4].reshape(5, -1).astype(float)
    assert found.next_correlation[0] == pytest.approx(np.corrcoef(seen[0], seen[1])[0, 1], abs=1e-5)
    assert found.second_correlation[0] == pytest.approx(
        np.corrcoef(seen[0], seen[2])[0, 1], abs=1e-5
    )
    assert np.isnan(found.next_correlation[2:]).all()
    assert np.isnan(found.second_correlation[3:]).all()
    assert found.intensity[3] == seen.max()
    assert found.masks is None
    assert found.patient_id == "case1"
    assert found.signal.tolist() == [True, True, True, False, True]


def test_a_dip_is_measured_outside_the_masks() -> None:
    rng = np.random.default_rng(1)
    still = rng.integers(100, 4000, (24, 24)).astype(np.uint16)
    image = np.stack([still] * 6)
    image[:, 4:12, 4:12] = rng.integers(0, 9000, (6, 8, 8))  # what moves
    image += rng.integers(0, 20, image.shape).astype(np.uint16)
    image[3:, 4:12, 4:12] = 60000  # an organ that begins, and with it a dip
    labels = np.zeros(image.shape, np.uint8)
    labels[:, 4:12, 4:12] = 1
    loaded = LoadedScan(image=image, label_map=labels, spacing_mm=SPACING, first_number=1)
    found = measure_scan(loaded, scan_id="case1_day2", part="train")
    assert found.next_correlation[2] < 0.9
    assert found.next_likeness[2] > 0.99
