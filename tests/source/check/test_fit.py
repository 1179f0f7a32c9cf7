from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from gi2nnunet.source.check.fit import Placement, measure_fit, place_masks


def make_scan(seed: int = 0, *, shape: tuple[int, int, int] = (20, 60, 60)):
    """Dark blobs of three organs, of no symmetry, on a bright ground."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), (2, 5, 5)) for _ in range(3)]
    labels = np.zeros(shape, np.uint8)
    for bit, field in zip((1, 2, 4), fields, strict=True):
        labels[field > np.quantile(field, 0.93)] = bit
    labels[:4] = labels[-4:] = 0
    image = np.where(labels > 0, 300, 1000) + rng.normal(0, 60, shape)
    return image.astype(np.uint16), labels


def fit(image: np.ndarray, labels: np.ndarray):
    return measure_fit(image, labels, level=image.reshape(len(image), -1).mean(axis=1))


def test_masks_in_their_place_fit_best_and_nothing_is_searched() -> None:
    found = fit(*make_scan())
    assert found.whole == pytest.approx(700 / 950, abs=0.1)
    assert found.better is None
    assert found.better_of_organ == (None, None, None)


@pytest.mark.parametrize(
    ("turn", "axes"),
    [
        ("upside down", (0,)), ("mirrored", (2,)), ("back to front", (1,)),
        ("rotated by 180 degrees", (1, 2)),
    ],
)  # fmt: skip
def test_turned_masks_fit_if_turned_back(turn: str, axes: tuple[int, ...]) -> None:
    image, labels = make_scan(1)
    found = fit(image, np.flip(labels, axes))
    assert found.better is not None
    assert found.better.placement == Placement(turn=turn)
    assert found.better.fit == pytest.approx(fit(image, labels).whole, rel=0.1)
    assert found.whole < 0.3 * found.better.fit


def test_transposed_masks_fit_if_transposed_and_only_squares_are_tried() -> None:
    image, labels = make_scan(2)
    found = fit(image, labels.transpose(0, 2, 1))
    assert found.better is not None
    assert found.better.placement == Placement(turn="transposed")
    oblong, its_labels = make_scan(2, shape=(20, 60, 50))
    other = fit(oblong, np.roll(its_labels, 7, axis=1))
    assert other.better is not None
    assert other.better.placement == Placement(rows=-7)


@pytest.mark.parametrize("moved", [(4, 0, 0), (-3, 0, 0), (0, 9, -4), (0, -12, 13)])
def test_moved_masks_fit_if_moved_back(moved: tuple[int, int, int]) -> None:
    image, labels = make_scan(3)
    labels[:, :14] = labels[:, -14:] = labels[:, :, :14] = labels[:, :, -14:] = 0
    image[labels == 0] = 1000
    found = fit(image, np.roll(labels, moved, axis=(0, 1, 2)))
    assert found.better is not None
    slices, rows, columns = (-by for by in moved)
    assert found.better.placement == Placement(slices=slices, rows=rows, columns=columns)


def test_one_organ_that_was_moved_is_found_by_itself() -> None:
    image, labels = make_scan(4)
    moved = np.roll(labels & 4, 6, axis=2)
    moved[:, :, :6] = 0
    found = fit(image, (labels & 3) | moved)
    stomach = found.better_of_organ[2]
    assert stomach is not None
    assert stomach.placement == Placement(columns=-6)
    assert found.of_organs[2] < 0.4 * found.of_organs[:2].min()


def test_masks_drawn_too_large_fit_if_drawn_smaller() -> None:
    image, labels = make_scan(5)
    grown = np.zeros_like(labels)
    for bit in (1, 2, 4):
        grown |= ndimage.maximum_filter((labels & bit) > 0, (1, 7, 7)).astype(np.uint8) * bit
    found = fit(image, grown.astype(np.uint8))
    assert found.better is not None
    assert found.better.placement.growth in (-3, -4)


def test_bright_organs_fit_as_dark_ones_do() -> None:
    image, labels = make_scan(6)
    bright = (1300 - image.astype(int)).clip(0).astype(np.uint16)
    assert fit(bright, labels).whole > 0.6


def test_no_masks_and_no_signal_have_no_fit() -> None:
    image, labels = make_scan(7)
    empty = fit(image, np.zeros_like(labels))
    assert np.isnan(empty.whole)
    assert empty.points.sum() == 0
    assert fit(np.zeros_like(image), labels).whole == 0


def test_points_and_contrast_are_counted_by_slice() -> None:
    image, labels = make_scan(8)
    found = fit(image, labels)
    filled = np.array([[((of_slice & bit) > 0).any() for of_slice in labels] for bit in (1, 2, 4)])
    assert not found.points[~filled].any()
    assert found.whole == pytest.approx(
        np.abs(found.contrast.sum(axis=1)).sum() / found.points.sum()
    )
    assert replace(found, points=found.points * 0).whole != found.whole


@pytest.mark.parametrize(
    "placement",
    [
        Placement(), Placement(turn="upside down"), Placement(turn="mirrored"),
        Placement(turn="back to front"), Placement(turn="rotated by 180 degrees"),
        Placement(turn="transposed"), Placement(slices=3), Placement(rows=-4, columns=5),
        Placement(growth=2), Placement(growth=-2, slices=-1),
    ],
)  # fmt: skip
def test_masks_are_placed_as_the_search_looks_at_them(placement: Placement) -> None:
    """Placed wrongly and then measured, they would fit again by the opposite placement."""
    _, labels = make_scan(9)
    placed = place_masks(labels, placement)
    if placement.turn != "as they are":
        assert np.array_equal(place_masks(placed, placement), labels)
    for z, y, x in np.argwhere(labels)[::997]:
        moved = (z + placement.slices, y + placement.rows, x + placement.columns)
        inside = all(0 <= at < size for at, size in zip(moved, labels.shape, strict=True))
        if placement.turn == "as they are" and placement.growth >= 0 and inside:
            assert placed[moved] & labels[z, y, x]
    if placement.growth:
        assert ((placed > 0).sum() > (labels > 0).sum()) == (placement.growth > 0)
