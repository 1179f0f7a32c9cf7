"""The slice viewer's data: pictures, masks and Dice as its script reads them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.pages.viewer import PackedScan, pack_scan, slice_dice
from gi2nnunet.scoring.metric import score_label_maps
from gi2nnunet.source.scan import LoadedScan

MAPS = arrays(np.uint8, (2, 4, 5), elements=st.integers(0, 7))


@given(truth=MAPS, pred=MAPS)
def test_dice_of_the_slices_is_the_metrics(truth: np.ndarray, pred: np.ndarray) -> None:
    np.testing.assert_array_equal(slice_dice(pred, truth), score_label_maps(pred, truth).dice)


def pack(
    image: np.ndarray, *, truth: np.ndarray | None = None,
    predictions: Mapping[str, np.ndarray | None] | None = None, small: bool = False,
) -> PackedScan:  # fmt: skip
    scan = LoadedScan(image=image, label_map=truth, spacing_mm=(3, 2, 1), first_number=1)
    return pack_scan("case1_day1", scan, predictions=predictions or {}, small=small)


def read_sheet(packed: PackedScan, address: str, size: tuple[int, int]) -> np.ndarray:
    """Decode a sheet as the page's script does, ``(z, rows, columns)`` of a tile's size."""
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    sheet = np.asarray(picture.convert("L"))
    height, width = size
    tiles = sheet.reshape(-1, height, packed.content["columns"], width).swapaxes(1, 2)
    return tiles.reshape(-1, height, width)[: packed.content["shape"][0]]


def read_masks(packed: PackedScan, layer: int) -> np.ndarray:
    return read_sheet(packed, packed.content["layers"][layer]["masks"], packed.content["shape"][1:])


def read_grey(packed: PackedScan) -> np.ndarray:
    return read_sheet(packed, packed.content["image"], packed.content["tile"])


@settings(deadline=None)  # pictures are written and read
@given(truth=MAPS, one=MAPS, other=MAPS)
def test_masks_of_every_layer_survive_the_packing(
    truth: np.ndarray, one: np.ndarray, other: np.ndarray
) -> None:
    image = np.arange(40, dtype=np.uint16).reshape(2, 4, 5)
    packed = pack(image, truth=truth, predictions={"A": one, "B": other})
    for layer, masks in enumerate((truth, one, other)):
        sheet = read_masks(packed, layer).astype(int)
        for changed in (-15, 0, 15):  # some browsers change what a script reads of a picture
            np.testing.assert_array_equal((sheet + changed) >> 5, masks)
    layers = packed.content["layers"]
    assert [layer["name"] for layer in layers] == ["truth", "A", "B"]
    assert [layer["line"] for layer in layers] == ["solid", "dashed", "dotted"]
    assert layers[0]["dice"] is None
    for layer, masks in zip(layers[1:], (one, other), strict=True):
        found = np.array(layer["dice"], np.float64)  # None becomes NaN
        np.testing.assert_array_equal(found, slice_dice(masks, truth))  # not rounded


def test_an_organ_that_one_prediction_rightly_leaves_out_counts_there_as_1() -> None:
    large, small, stomach = ORGAN_BITS
    truth, one, other = np.zeros((3, 3, 2, 2), np.uint8)
    one[0, 0, 0], other[0, 1, 1] = small | stomach, small  # nothing in the truth
    truth[1, 0], one[1, 0], other[1, 0, 0] = large, large, large
    other[1, 1, 1] = stomach
    packed = pack(np.ones(truth.shape), truth=truth, predictions={"A": one, "B": other})
    errors = [layer["error"] for layer in packed.content["layers"]]
    assert errors[0] is None
    assert errors[1] == [1.0, 0.0, None]
    assert errors[2] == pytest.approx([0.5, 1 - (2 / 3 + 0) / 2, None])
    # Without the other prediction the organs that neither mask has do not count.
    lone = pack(np.ones(truth.shape), truth=truth, predictions={"A": None, "B": other})
    assert [layer["error"] for layer in lone.content["layers"][:2]] == [None, None]
    assert lone.content["layers"][2]["error"] == pytest.approx([1.0, 1 - (2 / 3 + 0) / 2, None])


def test_a_layer_without_masks_keeps_its_place_and_line() -> None:
    image = np.zeros((2, 3, 4), np.uint16)
    masks = np.ones(image.shape, np.uint8)
    layers = pack(image, predictions={"A": None, "B": masks}).content["layers"]
    assert [layer["line"] for layer in layers] == ["solid", "dashed", "dotted"]
    assert [layer["masks"] is None for layer in layers] == [True, True, False]
    assert [layer["dice"] for layer in layers] == [None] * 3  # no truth


def test_more_predictions_than_there_are_lines_are_refused() -> None:
    image = np.zeros((1, 1, 1), np.uint16)
    with pytest.raises(ValueError, match="two at most"):
        pack(image, predictions=dict.fromkeys("ABC"))


@pytest.mark.parametrize("small", [False, True])
def test_each_tile_shows_its_slice_between_the_windows_bounds(small: bool) -> None:
    image = np.zeros((5, 16, 24), np.uint16)
    for z in range(5):
        image[z, 4:12, 8:16] = 1000 * z
    packed = pack(image, small=small)
    grey = read_grey(packed).astype(int)
    step = 2 if small else 1
    assert grey.shape == (5, 16 // step, 24 // step)
    wanted = np.clip(image[:, ::step, ::step] * 255.0 / packed.content["window"][1], 0, 255)
    assert np.abs(grey - wanted).max() < 20  # lossy


def test_an_odd_scan_of_half_size_has_a_tile_for_its_last_row() -> None:
    image = np.full((2, 5, 7), 9, np.uint16)
    packed = pack(image, truth=np.zeros(image.shape, np.uint8), small=True)
    assert packed.content["tile"] == [3, 4]
    assert read_grey(packed).shape == (2, 3, 4)
    assert read_masks(packed, 0).shape == (2, 5, 7)


def test_masks_of_another_shape_are_refused() -> None:
    image, masks = np.zeros((2, 2, 2), np.uint16), np.zeros((2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match="masks of shape"):
        pack(image, truth=masks)
    with pytest.raises(ValueError, match="masks of shape"):
        pack(image, predictions={"A": masks})
