"""Millimetres and millilitres: known answers and a brute-force HD95."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.scoring import medical
from gi2nnunet.scoring.bootstrap import estimate_intervals
from gi2nnunet.scoring.metric import score_label_maps
from gi2nnunet.scoring.result import combine_terms
from gi2nnunet.scoring.score import score_submission

SPACING = (3.0, 1.5, 1.0)


@pytest.fixture
def measure():
    def one(pred, truth, **options):
        options = {"spacing_mm": SPACING, **options}
        maps = (pred.astype(np.uint8) * 4, truth.astype(np.uint8) * 4)
        with medical.silence_library():
            return medical.measure_label_maps(*maps, **options)["stomach"]

    return one


def box(*corner, size=(6, 8, 10), shape=(12, 20, 24)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(corner, size, strict=True))] = True
    return mask


def surface(mask):
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for shift in (-1, 1):
            inner &= np.roll(padded, shift, axis)[1:-1, 1:-1, 1:-1]
    return np.argwhere(mask & ~inner)


def brute_hd95(pred, truth):
    pairs = cdist(surface(pred) * SPACING, surface(truth) * SPACING)
    return max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95))


def test_identical_masks(measure):
    found = measure(box(2, 3, 4), box(2, 3, 4))
    assert (found.surface_dice, found.hd95_mm, found.volume_error_ml) == (1, 0, 0)
    assert found.volume_true_ml == pytest.approx(6 * 8 * 10 * 4.5 / 1000)


@pytest.mark.parametrize("shift", [(1, 0, 0), (0, 2, 0), (0, 0, 5), (1, 2, 3)])
def test_hd95_equals_brute_force(measure, shift):
    truth, pred = box(2, 3, 4), np.roll(box(2, 3, 4), shift, (0, 1, 2))
    pred[9, 15, 20] = True
    assert measure(pred, truth).hd95_mm == pytest.approx(brute_hd95(pred, truth), abs=1e-4)


def test_masks_at_the_volumes_border_measure_like_masks_within_it(measure):
    inside = measure(box(2, 3, 4), box(3, 3, 4))
    shape = (7, 8, 10)
    at_border = measure(box(0, 0, 0, shape=shape), box(1, 0, 0, shape=shape))
    assert at_border == inside


def test_surface_dice_asks_for_the_tolerance(measure):
    truth, shifted = box(2, 3, 4), box(2, 3, 6)  # by 2 mm along x
    assert measure(shifted, truth, tolerance_mm=2.1).surface_dice == 1
    close = measure(shifted, truth, tolerance_mm=1.0).surface_dice
    assert 0 < close < 1  # only the faces along x moved apart
    far = np.roll(truth, 12, 1)
    assert measure(far, truth, tolerance_mm=1.0).surface_dice < 0.2


def test_volume_error_has_a_sign(measure):
    small, large = box(2, 3, 4, size=(6, 8, 9)), box(2, 3, 4)
    wanted = 6 * 8 * 4.5 / 1000
    assert measure(large, small).volume_error_ml == pytest.approx(wanted)
    assert measure(small, large).volume_error_ml == pytest.approx(-wanted)


def test_empty_masks():
    empty, full = np.zeros((12, 20, 24), np.uint8), box(2, 3, 4).astype(np.uint8)
    for pred, truth, sign in ((full, empty, 1), (empty, full, -1)):
        found = medical.measure_label_maps(pred, truth, spacing_mm=SPACING)["large_bowel"]
        assert found.surface_dice == 0
        assert math.isnan(found.hd95_mm)
        assert found.volume_error_ml == pytest.approx(sign * 2.16)
    found = medical.measure_label_maps(empty, empty, spacing_mm=SPACING)["large_bowel"]
    assert math.isnan(found.surface_dice)
    assert math.isnan(found.hd95_mm)
    assert found.volume_error_ml == 0


def test_means_are_over_the_scans_in_which_either_mask_has_the_organ():
    """In two of five scans neither has it; one has it only in the prediction, one in the truth."""
    empty, full, half = (
        np.zeros((12, 20, 24), np.uint8),
        *(box(2, 3, 4, size=size).astype(np.uint8) for size in ((6, 8, 10), (3, 8, 10))),
    )
    pairs = [(half, full), (full, empty), (empty, full), (empty, empty), (empty, empty)]
    terms = {f"case{n}_day0": score_label_maps(*pair) for n, pair in enumerate(pairs)}
    with medical.silence_library():
        measures = {
            scan_id: medical.measure_label_maps(*pair, spacing_mm=SPACING)
            for scan_id, pair in zip(terms, pairs, strict=True)
        }
    score = combine_terms(terms, metric="per-class", measures=measures, tolerance_mm=3.0)
    found = score.medical["large_bowel"]
    assert (found.n_scans, found.n_one_sided) == (3, 2)
    assert found.volume_error_ml == pytest.approx((-1.08 + 2.16 - 2.16) / 3)
    assert found.volume_error_abs_ml == pytest.approx((1.08 + 2.16 + 2.16) / 3)
    assert found.surface_dice == pytest.approx(
        measures["case0_day0"]["large_bowel"].surface_dice / 3
    )
    assert math.isnan(score.medical["stomach"].volume_error_ml)  # in no scan
    intervals = estimate_intervals(score)
    for name in ("surface_dice", "hd95_mm", "volume_error_ml", "volume_error_abs_ml"):
        assert intervals[f"large_bowel.{name}"].value == pytest.approx(getattr(found, name))


def test_a_score_carries_the_means(measure, tmp_path):
    paths = []
    for name, corners in (("pred", [(2, 3, 4), (2, 3, 5)]), ("truth", [(2, 3, 4), (2, 3, 4)])):
        lines = ["id,class,predicted,image_height,image_width"]
        for day, corner in enumerate(corners):
            rows = encode_scan(f"case1_day{day}", range(1, 13), box(*corner).astype(np.uint8) * 4)
            lines += [f"{a},{b},{c},20,24" for a, b, c in rows]
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text("\n".join(lines) + "\n")
    spacing = {f"case1_day{day}": SPACING for day in (0, 1)}
    score = score_submission(*paths, medical=True, spacing_mm=spacing, tolerance_mm=0.5)
    apart = measure(box(2, 3, 5), box(2, 3, 4), tolerance_mm=0.5)
    stomach = score.medical["stomach"]
    assert stomach.surface_dice == pytest.approx((1 + apart.surface_dice) / 2)
    assert stomach.hd95_mm == pytest.approx(apart.hd95_mm / 2)
    assert (stomach.n_scans, stomach.n_one_sided) == (2, 0)
    assert (score.tolerance_mm, score.medical["small_bowel"].n_scans) == (0.5, 0)
    content = score.to_json()
    assert content["medical"]["stomach"]["hd95_mm"] == stomach.hd95_mm
    assert content["medical"]["small_bowel"]["hd95_mm"] is None
    assert list(content["per_scan"][1]["medical"]) == list(ORGANS)
    assert score_submission(*paths).medical is None
