"""Outlines: filled by three other rules they give the mask again."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import line, polygon2mask

from gi2nnunet.formats.outlines import trace_outlines

SIDE = st.integers(1, 14)
NOISE = st.builds(
    lambda shape, share, seed: np.random.default_rng(seed).random(shape) < share,
    st.tuples(st.integers(1, 3), SIDE, SIDE),
    st.floats(0.1, 0.95),
    st.integers(0, 2**32 - 1),
)
MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 3), SIDE, SIDE)) | NOISE


def list_outlines(mask, **options):
    found = trace_outlines(mask, **options)
    polygons = np.split(found.points, found.ends[:-1]) if len(found.ends) else []
    return list(zip(found.slice_index.tolist(), polygons, strict=True))


@settings(deadline=None)
@given(MASKS)
def test_pixels_whose_centre_is_inside_are_the_mask(mask):
    filled = np.zeros_like(mask)
    for index, points in list_outlines(mask):
        inside = polygon2mask(mask.shape[1:], points)
        assert not (filled[index] & inside).any()
        filled[index] |= inside
    assert np.array_equal(filled, mask)


@settings(deadline=None)
@given(MASKS)
def test_rounded_points_with_their_lines_give_the_mask(mask):
    """As OpenCV fills: whole points, the line's own pixels included."""
    filled = np.zeros_like(mask)
    for index, points in list_outlines(mask):
        whole = np.rint(points).astype(int)
        filled[index] |= polygon2mask(mask.shape[1:], whole)
        for (r0, c0), (r1, c1) in zip(whole, np.roll(whole, -1, axis=0), strict=True):
            filled[index][line(r0, c0, r1, c1)] = True
    assert np.array_equal(filled, mask)


@settings(deadline=None)
@given(MASKS)
def test_each_region_is_one_outline_and_starts_with_its_first_pixel(mask):
    outlines = list_outlines(mask)
    assert [index for index, _ in outlines] == sorted(index for index, _ in outlines)
    for index, plane in enumerate(mask):
        regions, count = scipy.ndimage.label(plane)
        of_slice = [points for at, points in outlines if at == index]
        assert len(of_slice) == count
        for points in of_slice:
            inside = polygon2mask(plane.shape, points)
            assert len(np.unique(regions[inside])) == 1


@settings(deadline=None)
@given(MASKS)
def test_no_line_comes_near_a_centre(mask):
    for _, points in list_outlines(mask):
        steps = np.roll(points, -1, axis=0) - points
        lengths = np.linalg.norm(steps, axis=1)
        assert (lengths > 0.05).all()
        row, column = np.indices(mask.shape[1:])
        centres = np.stack([row.ravel(), column.ravel()], axis=1)
        along = steps / lengths[:, None]
        from_start = centres[None] - points[:, None]
        reach = np.clip((from_start * along[:, None]).sum(-1), 0, lengths[:, None])
        distance = np.linalg.norm(from_start - reach[..., None] * along[:, None], axis=-1)
        assert distance.min() > 0.07


@settings(deadline=None)
@given(MASKS, st.sampled_from(["row", "column"]))
def test_the_closing_piece_runs_as_asked(mask, close_along):
    axis = 1 if close_along == "row" else 0
    for _, points in list_outlines(mask, close_along=close_along):
        assert points[0][axis] != points[-1][axis]


@settings(deadline=None)
@given(MASKS)
def test_outlines_run_clockwise(mask):
    for _, points in list_outlines(mask):
        rows, columns = points.T
        assert (columns * np.roll(rows, -1) - rows * np.roll(columns, -1)).sum() > 0


def test_a_single_pixel_has_four_points():
    mask = np.zeros((1, 3, 3), np.bool_)
    mask[0, 1, 2] = True
    ((_, points),) = list_outlines(mask)
    assert np.allclose(points, [[0.55, 1.55], [0.55, 2.45], [1.45, 2.45], [1.45, 1.55]])


def test_stairs_of_single_pixels_are_one_line():
    mask = np.tril(np.ones((1, 9, 9), np.bool_))
    ((_, points),) = list_outlines(mask)
    assert len(points) == 5
    mask = np.kron(mask, np.ones((1, 2, 2), np.bool_))
    ((_, points),) = list_outlines(mask)
    assert len(points) == 2 + 2 * 9


def test_a_ring_in_a_ring_is_two_outlines_with_slits():
    mask = np.zeros((1, 11, 11), np.bool_)
    for margin in range(1, 5):
        mask[0, margin:-margin, margin:-margin] = margin % 2
    outlines = list_outlines(mask)
    # Outer ring and hole, four corners each, and the slit's ends: one there, two back.
    assert [len(points) for _, points in outlines] == [11, 11]


def test_an_empty_mask_has_no_outlines():
    found = trace_outlines(np.zeros((2, 3, 4), np.bool_))
    assert (len(found.slice_index), len(found.ends), found.points.shape) == (0, 0, (0, 2))


@pytest.mark.parametrize("mask", [np.zeros((3, 3), np.bool_), np.zeros((3, 3, 3), np.uint8)])
def test_another_kind_of_array_is_refused(mask):
    with pytest.raises(ValueError, match="expected a volume of bool"):
        trace_outlines(mask)
