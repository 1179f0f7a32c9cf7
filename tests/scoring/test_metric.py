"""The metric's four conventions: an answer table by hand, and brute force over all pairs."""

from __future__ import annotations

from math import hypot, nan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt

from gi2nnunet.scoring import hausdorff
from gi2nnunet.scoring import metric as m
from gi2nnunet.scoring.conventions import CONVENTIONS

# --- answers by hand -------------------------------------------------------------------------
# Volumes of D = 2, H = 4, W = 8. Voxels are (z, y, x) of the stomach. mle-bench reads pixel
# k = 8 y + x as row k % 4, column k // 4. The diagonal of a slice is sqrt(16 + 64).
SHAPE = (2, 4, 8)
CUBE = sqrt(3)
DIAGONAL = sqrt(80)
RUN_11 = [(0, 0, x) for x in range(8)] + [(0, 1, x) for x in range(3)]
RUN_10 = RUN_11[:10]
ALL = [(z, y, x) for z in range(2) for y in range(4) for x in range(8)]

# name: prediction, truth, Dice of the stomach's two rows, then the distance under per-class,
# joined and mle-bench, and the two slices' distances under slice-2d
ANSWERS = {
    "both empty": ([], [], (nan, nan), nan, nan, nan, (0, 0)),
    "prediction empty": ([], [(0, 1, 2)], (0, nan), 1, 1, 1, (1, 0)),
    "truth empty": ([(0, 1, 2)], [], (0, nan), 1, 1, 1, (1, 0)),
    "one voxel, identical": ([(0, 1, 2)], [(0, 1, 2)], (1, nan), 0, 0, 0, (0, 0)),
    "identical": (RUN_11, RUN_11, (1, nan), 0, 0, 0, (0, 0)),
    "shifted by one in z": (
        [(1, 1, 2)], [(0, 1, 2)], (0, 0),
        1 / 2 / CUBE, 1 / 2 / CUBE, 1 / 2 / CUBE, (1, 1),
    ),
    "shifted by one in y": (  # mle-bench: (2, 2) to (2, 4)
        [(0, 2, 2)], [(0, 1, 2)], (0, nan),
        1 / 4 / CUBE, 1 / 4 / CUBE, 2 / 8 / CUBE, (1 / DIAGONAL, 0),
    ),
    "shifted by one in x": (  # mle-bench: (2, 2) to (3, 2)
        [(0, 1, 3)], [(0, 1, 2)], (0, nan),
        1 / 8 / CUBE, 1 / 8 / CUBE, 1 / 4 / CUBE, (1 / DIAGONAL, 0),
    ),
    "shifted along the diagonal": (  # mle-bench: (2, 2) to (3, 4)
        [(1, 2, 3)], [(0, 1, 2)], (0, 0),
        sqrt(1 / 4 + 1 / 16 + 1 / 64) / CUBE, sqrt(1 / 4 + 1 / 16 + 1 / 64) / CUBE,
        sqrt(1 / 4 + 1 / 16 + 1 / 16) / CUBE, (1, 1),
    ),
    "overlap": (  # mle-bench: (2, 2) (3, 2) (0, 3) against (3, 2) (0, 3) (1, 3)
        [(0, 1, x) for x in (2, 3, 4)], [(0, 1, x) for x in (3, 4, 5)], (2 / 3, nan),
        1 / 8 / CUBE, 1 / 8 / CUBE, 1 / 4 / CUBE, (1 / DIAGONAL, 0),
    ),
    "truth within prediction": (  # seen from the truth nothing is far: only slice-2d's order shows
        [(0, 1, x) for x in range(8)], [(0, 1, 0)], (2 / 9, nan),
        7 / 8 / CUBE, 7 / 8 / CUBE, hypot(3 / 4, 1 / 8) / CUBE, (7 / DIAGONAL, 0),
    ),
    "prediction within truth": (
        [(0, 1, 0)], [(0, 1, x) for x in range(8)], (2 / 9, nan),
        7 / 8 / CUBE, 7 / 8 / CUBE, hypot(3 / 4, 1 / 8) / CUBE, (0, 0),
    ),
    "a full slice beside a full volume": (
        ALL[:32], ALL, (1, 0), 1 / 2 / CUBE, 1 / 2 / CUBE, 1 / 2 / CUBE, (0, 1),
    ),
    "ten times the truth": (  # mle-bench: rows 0-3 of columns 0 and 1, rows 0-1 of column 2
        RUN_10, RUN_10[:1], (2 / 11, nan),
        7 / 8 / CUBE, 7 / 8 / CUBE, hypot(3 / 4, 1 / 8) / CUBE, (7 / DIAGONAL, 0),
    ),
    "more than ten times the truth": (
        RUN_11, RUN_11[:1], (2 / 12, nan), 7 / 8 / CUBE, 7 / 8 / CUBE, 1, (7 / DIAGONAL, 0),
    ),
    "more than ten times the prediction": (  # the rule looks one way only
        RUN_11[:1], RUN_11, (2 / 12, nan),
        7 / 8 / CUBE, 7 / 8 / CUBE, hypot(3 / 4, 1 / 8) / CUBE, (0, 0),
    ),
}  # fmt: skip


def bit_map(voxels, bit=4, shape=SHAPE):
    array = np.zeros(shape, np.uint8)
    for voxel in voxels:
        array[voxel] |= bit
    return array


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ANSWERS)
def test_answers_by_hand(name, convention):
    pred, truth, dice, per_class, joined, mle_bench, slice_2d = ANSWERS[name]
    found = m.score_label_maps(bit_map(pred), bit_map(truth), metric=convention)
    rows = np.full((3, 2), nan)
    rows[2] = dice
    if convention == "slice-2d" and not truth:
        rows[:] = nan  # rows with empty truth are skipped
    if convention == "slice-2d":
        rows[2, [not any(z == plane for z, _, _ in truth) for plane in range(2)]] = nan
    np.testing.assert_allclose(found.dice, rows, rtol=0, atol=1e-15)
    wanted = {
        "per-class": [[nan], [nan], [per_class]],
        "joined": [[joined]],
        "mle-bench": [[mle_bench]],
        "slice-2d": [[0, 0], [0, 0], slice_2d],
    }[convention]
    np.testing.assert_allclose(found.hausdorff, wanted, rtol=0, atol=1e-15)


def test_an_organ_taken_for_another_costs_all_per_class_and_nothing_joined():
    pred, truth = bit_map(RUN_10, bit=2), bit_map(RUN_10, bit=4)
    per_class = m.score_label_maps(pred, truth, metric="per-class")
    np.testing.assert_array_equal(per_class.hausdorff, [[nan], [1], [1]])
    np.testing.assert_array_equal(per_class.dice, [[nan, nan], [0, nan], [0, nan]])
    assert m.score_label_maps(pred, truth, metric="joined").hausdorff == 0
    assert m.score_label_maps(pred, truth, metric="mle-bench").hausdorff == 0


def test_overlapping_organs_are_each_compared_whole():
    both, one = bit_map(RUN_10, bit=5), bit_map(RUN_10, bit=4)
    found = m.score_label_maps(both, one)
    np.testing.assert_array_equal(found.dice[:, 0], [0, nan, 1])
    np.testing.assert_array_equal(found.hausdorff, [[1], [nan], [0]])


def test_on_square_images_mle_bench_equals_joined():
    rng = np.random.default_rng(0)
    pred, truth = (
        (rng.random((4, 9, 9)) < 0.2).astype(np.uint8) * np.uint8(2) for _ in range(2)
    )  # fmt: skip
    a, b = (m.score_label_maps(pred, truth, metric=name) for name in ("joined", "mle-bench"))
    np.testing.assert_allclose(a.hausdorff, b.hausdorff, rtol=0, atol=1e-15)


def test_the_score_is_the_competitions_weighting():
    assert m.combine(1.0, 0.0) == 1.0
    assert m.combine(0.5, 0.25) == pytest.approx(0.4 * 0.5 + 0.6 * 0.75)
    assert np.isnan(m.combine(nan, 0.0))


def test_arrays_and_names_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        m.score_label_maps(np.zeros((1, 2, 3), np.uint8), np.zeros((1, 3, 2), np.uint8))
    with pytest.raises(ValueError, match="surface"):
        m.score_label_maps(np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8), metric="surface")


# --- brute force -----------------------------------------------------------------------------


def brute_farthest(sources, targets):
    """Compare all pairs, one by one."""
    return max(min(sqrt(((s - t) ** 2).sum()) for t in targets) for s in sources)


def brute_3d(pred, truth, shape, *, ten_times=False):
    if not pred and not truth:
        return nan
    if pred == truth:
        return 0.0
    if not pred or not truth or (ten_times and len(pred) > 10 * len(truth)):
        return 1.0
    a, b = (np.array(sorted(voxels)) / np.array(shape) for voxels in (pred, truth))
    return max(brute_farthest(a, b), brute_farthest(b, a)) / sqrt(3)


def brute_edge(pixels):
    return {
        (y, x) for y, x in pixels if not {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} <= pixels
    }


def brute_2d(pred, truth, shape):
    if not pred and not truth:
        return 0.0
    if not pred or not truth:
        return 1.0
    a, b = (np.array(sorted(brute_edge(pixels)), float) for pixels in (pred, truth))
    return brute_farthest(a, b) / sqrt(shape[0] ** 2 + shape[1] ** 2)


def brute_terms(pred, truth, convention):
    depth, height, width = pred.shape
    organs = [
        [{tuple(v) for v in np.argwhere(a & bit).tolist()} for a in (pred, truth)]
        for bit in (1, 2, 4)
    ]
    dice = np.full((3, depth), nan)
    for organ, (a, b) in enumerate(organs):
        for plane in range(depth):
            p, t = ({v for v in voxels if v[0] == plane} for voxels in (a, b))
            if t if convention == "slice-2d" else p | t:
                dice[organ, plane] = 2 * len(p & t) / (len(p) + len(t))
    if convention == "per-class":
        return dice, [[brute_3d(a, b, pred.shape)] for a, b in organs]
    if convention == "slice-2d":
        return dice, [
            [
                brute_2d(*({v[1:] for v in s if v[0] == z} for s in (a, b)), (height, width))
                for z in range(depth)
            ]
            for a, b in organs
        ]
    joined = [set().union(*(organ[side] for organ in organs)) for side in (0, 1)]
    if convention == "joined":
        return dice, [[brute_3d(*joined, pred.shape)]]
    column_major = [
        {(z, (y * width + x) % height, (y * width + x) // height) for z, y, x in voxels}
        for voxels in joined
    ]
    return dice, [[brute_3d(*column_major, pred.shape, ten_times=True)]]


@st.composite
def label_map_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=5))
    densities = st.sampled_from([[0], [0, 0, 0, 0, 0, 1, 4, 6], [0, 1, 2, 3, 4, 7], [0, 0, 4]])
    return tuple(
        draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from(draw(densities))))
        for _ in range(2)
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=120, deadline=None)
@given(pair=label_map_pairs())
def test_equals_brute_force(convention, pair):
    pred, truth = pair
    before = pred.copy(), truth.copy()
    found = m.score_label_maps(pred, truth, metric=convention)
    dice, hausdorff = brute_terms(pred, truth, convention)
    np.testing.assert_allclose(found.dice, dice, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.hausdorff, hausdorff, rtol=0, atol=1e-12)
    assert np.array_equal(pred, before[0])
    assert np.array_equal(truth, before[1])


def random_mask(rng, shape, kind):
    """Return a mask of one of the kinds that take different ways through the search."""
    mask = np.zeros(shape, bool)
    if kind == "blob":
        centre = rng.uniform(0.2, 0.8, 3) * shape
        radius = rng.uniform(0.15, 0.35, 3) * shape
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        mask = (((grid - centre) / radius) ** 2).sum(-1) < 1
    elif kind == "shell":
        centre = np.array(shape) / 2
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        distance = (((grid - centre) / centre) ** 2).sum(-1)
        mask = (distance > 0.7) & (distance < 0.9)
    elif kind == "speckle":
        mask = rng.random(shape) < 0.3
    elif kind == "dots":
        mask = rng.random(shape) < 0.002
    elif kind == "slab":
        mask[: shape[0] // 2] = True
    mask[tuple(rng.integers(0, shape))] = True
    return mask


KINDS = ("blob", "shell", "speckle", "dots", "slab")


@pytest.mark.parametrize("bounds", ["as they are", "coarse", "coarsest"])
@pytest.mark.parametrize("source_kind", KINDS)
@pytest.mark.parametrize("target_kind", KINDS)
def test_every_way_through_the_search_equals_a_full_distance_transform(
    source_kind, target_kind, bounds, monkeypatch
):
    """Coarse bounds leave points for the steps that masks of this size would not reach."""
    if bounds != "as they are":
        coarsest = bounds == "coarsest"
        monkeypatch.setattr(hausdorff, "_TREE_SIZES", (1, 2) if coarsest else (20, 100))
        monkeypatch.setattr(hausdorff, "_ROUNDS", 1 if coarsest else 3)
        monkeypatch.setattr(hausdorff, "_MANY_POINTS", 10)
    for seed in range(3):
        rng = np.random.default_rng([seed, KINDS.index(source_kind), KINDS.index(target_kind)])
        shape = tuple(int(n) for n in rng.integers((8, 20, 20), (24, 40, 40)))
        source = random_mask(rng, shape, source_kind)
        target = random_mask(rng, shape, target_kind)
        step = rng.uniform(0.002, 0.2, 3)
        # SciPy's transform names the nearest voxel exactly; the distance to it is computed here.
        nearest = distance_transform_edt(
            ~target, sampling=step, return_distances=False, return_indices=True
        )
        offset = (nearest - np.indices(shape)) * step[:, None, None, None]
        wanted = np.sqrt((offset**2).sum(0))[source].max()
        field = hausdorff.make_field(source.astype(np.uint8), target.astype(np.uint8))
        found = hausdorff.find_farthest(field, 1, 1 << hausdorff.SHIFT, step)
        assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_thin_differences_are_exact_too(convention):
    """Grow, shrink and shift a mask by single voxels, as good predictions differ from truth."""
    rng = np.random.default_rng(1)
    truth = random_mask(rng, (7, 11, 14), "blob").astype(np.uint8)
    for shift in [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 2, 2), (1, 2, 0), (0, 0, 3)]:
        pred = np.roll(truth, shift, axis=(0, 1, 2)) | truth
        found = m.score_label_maps(pred, truth, metric=convention)
        dice, hausdorff = brute_terms(pred, truth, convention)
        np.testing.assert_allclose(found.dice, dice, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.hausdorff, hausdorff, rtol=0, atol=1e-12)


def test_a_mask_cropped_from_a_volume_keeps_the_volumes_units():
    pred, truth = bit_map([(0, 1, 2), (0, 1, 5)]) != 0, bit_map([(0, 1, 2)]) != 0
    cropped = m.normalised_hausdorff(pred[:, 1:2, 2:6], truth[:, 1:2, 2:6], shape=SHAPE)
    assert cropped == m.normalised_hausdorff(pred, truth) == pytest.approx(3 / 8 / CUBE)
