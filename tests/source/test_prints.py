from __future__ import annotations

import numpy as np
import pytest

from gi2nnunet.source.prints import (
    LEAST_SLICES,
    find_copies,
    find_originals,
    find_twins,
    pack_prints,
    take_mirrored_prints,
    take_prints,
    unpack_prints,
)


def make_image(seed: int, depth: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (depth, 48, 40)).astype(np.uint16)


def test_images_that_have_nothing_in_common_are_no_copies() -> None:
    prints = [take_prints(make_image(seed, 140)) for seed in range(60)]
    assert find_copies(prints) == {}


@pytest.mark.parametrize("gain", [1.0, 0.4, 3.0])
def test_a_copy_is_found_whatever_its_gain(gain: float) -> None:
    images = [make_image(seed) for seed in range(4)]
    images[3] = (images[1] * gain).astype(np.uint16)
    copies = find_copies([take_prints(image) for image in images])
    assert copies == {(1, 3): [(z, z) for z in range(12)]}


def test_a_copy_with_some_changed_pixels_is_found() -> None:
    image = make_image(0, 60)
    changed = image.copy()
    hit = np.random.default_rng(9).random(image.shape) < 0.02
    changed[hit] = 0
    copies = find_copies([take_prints(image), take_prints(changed)])
    assert len(copies[0, 1]) > 50


def test_slices_copied_to_another_height_are_found() -> None:
    image, other = make_image(0, 30), make_image(1, 30)
    other[20:28] = image[5:13]
    copies = find_copies([take_prints(image), take_prints(other)])
    assert copies == {(0, 1): [(z, z + 15) for z in range(5, 13)]}


def test_few_or_empty_slices_make_no_copy() -> None:
    image, other = make_image(0), make_image(1)
    other[3 : 3 + LEAST_SLICES - 1] = image[3 : 3 + LEAST_SLICES - 1]
    image[8:] = other[8:] = 7  # one value: no fingerprint
    prints = [take_prints(image), take_prints(other)]
    assert prints[0][8:].tolist() == [0] * 4
    assert find_copies(prints) == {}
    assert find_copies(()) == {}


def test_small_images_have_fingerprints_too() -> None:
    assert take_prints(make_image(0)[:, :3, :2]).shape == (12,)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
def test_the_original_of_a_mirror_image_is_found(flips: tuple[int, int, int]) -> None:
    known = {f"case{seed}_day0": take_prints(make_image(seed)) for seed in range(5)}
    z, y, x = flips
    mirrored = make_image(2)[::z, ::y, ::x]
    given = {
        "a": take_mirrored_prints(mirrored), "b": take_mirrored_prints(make_image(9)),
    }  # fmt: skip
    assert find_originals(given, known) == {"a": "case2_day0"}
    assert find_originals({}, known) == find_originals(given, {}) == {}


def test_an_original_shares_half_of_the_slices_of_the_smaller_scan() -> None:
    known = {"whole": take_prints(make_image(0, 40))}
    few, half = make_image(1, 40), make_image(2, 8)
    few[:10] = make_image(0, 40)[5:15]
    half[:4] = make_image(0, 40)[20:24]
    given = {"few": [take_prints(few)], "half": [take_prints(half)]}
    assert find_originals(given, known) == {"half": "whole"}
    assert find_twins({**known, "half": take_prints(half)}) == [("whole", "half")]


def test_packed_prints_come_back_and_a_damaged_text_has_none() -> None:
    prints = take_prints(make_image(0))
    assert unpack_prints(pack_prints(prints)).tolist() == prints.tolist()
    for damaged in ("?", "AAAA", "é", pack_prints(prints)[:-2]):
        assert unpack_prints(damaged).size == 0
