from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gi2nnunet.core.errors import InputError, Problem
from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.pages.pictures import Picture, View, find_window, take_picture, take_pictures
from gi2nnunet.source.scan import LoadedScan


@pytest.fixture
def scan() -> LoadedScan:
    image = np.zeros((20, 60, 80), np.uint16)
    image[:, 10:50, 10:70] = 500
    labels = np.zeros(image.shape, np.uint8)
    labels[5:15, 20:30, 20:40] = 4
    labels[8:12, 25:45, 30:60] |= 1
    return LoadedScan(image=image, label_map=labels, spacing_mm=(3.0, 1.5, 1.5), first_number=11)


def pixels_of(picture: Picture) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2]))))
    assert pixels.shape == (picture.height, picture.width, 3)
    return pixels.astype(int)


def take(scan: LoadedScan, **asked: object) -> Picture:
    view = View(scan_id="case1_day1", **asked)  # type: ignore[arg-type]
    return take_picture(view, scan=scan, window=find_window(scan.image))


def near(pixels: np.ndarray, colour: str) -> np.ndarray:
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    coloured = np.ptp(pixels, axis=2) > 60
    return coloured & (np.abs(pixels - wanted).max(axis=2) < 70)


def test_a_slice_is_shown_with_its_contours_in_the_organs_colours(scan: LoadedScan) -> None:
    picture = take(scan, plane="axial", slices=(9,))
    assert (picture.width, picture.height) == (320, 240)
    assert picture.alt == "case1_day1, slice 20, with contours of large bowel and stomach"
    pixels = pixels_of(picture)
    stomach = near(pixels, CONTOUR_COLOURS["stomach"])
    assert stomach[84:118, 80:82].mean() > 0.8  # the mask's left border, four pixels a pixel
    assert not stomach[:70].any()
    assert near(pixels, CONTOUR_COLOURS["large_bowel"])[178:180, 130:230].mean() > 0.8
    assert pixels[60, 60].min() > 200  # bright as the window's top, dark outside
    assert pixels[5, 5].max() < 40


def test_an_organs_contour_is_thicker_where_the_picture_is_about_it(scan: LoadedScan) -> None:
    def count(organ: str | None) -> int:
        pixels = pixels_of(take(scan, plane="axial", slices=(6,), organ=organ))
        return int(near(pixels, CONTOUR_COLOURS["stomach"]).sum())

    assert count("stomach") > count(None)


def test_a_picture_around_an_organ_is_a_square_inside_the_image(scan: LoadedScan) -> None:
    wide = LoadedScan(
        image=np.zeros((20, 200, 300), np.uint16), label_map=np.zeros((20, 200, 300), np.uint8),
        spacing_mm=(3.0, 1.5, 1.5), first_number=1,
    )  # fmt: skip
    assert wide.label_map is not None
    wide.label_map[5, 195:200, 0:5] = 4
    asked = {"plane": "axial", "slices": (5,), "organ": "stomach"}
    picture = take(wide, **asked, around=(4, 5, 6))
    assert picture.width == picture.height == 320
    pixels = near(pixels_of(picture), CONTOUR_COLOURS["stomach"])
    rows, columns = np.nonzero(pixels)
    assert rows.min() > 280  # in the corner, as in the image
    assert columns.max() < 40
    whole = take(wide, **asked, around=(7,))  # there is no such mask
    assert (whole.width, whole.height) == (320, 213)


def test_a_scan_is_seen_from_the_front_in_true_proportion(scan: LoadedScan) -> None:
    picture = take(scan, plane="coronal")
    assert (picture.width, picture.height) == (320, 160)  # 120 mm by 60 mm
    assert near(pixels_of(picture), CONTOUR_COLOURS["stomach"]).any()
    assert "seen from the front" in picture.alt


def test_slices_one_above_the_other_are_marked_and_bare(scan: LoadedScan) -> None:
    picture = take(scan, plane="joints", slices=(9, 10))
    pixels = pixels_of(picture)
    yellow = (pixels[:, 2, 0] > 180) & (pixels[:, 2, 2] < 120)
    assert 0.05 < yellow.mean() < 0.2  # two of eighteen slices
    for colour in CONTOUR_COLOURS.values():
        assert not near(pixels, colour)[:, 20:-20].any()
    assert picture.alt == "case1_day1, slices around 20 and 21 one above the other"
    take(scan, plane="joints", slices=(0,))
    take(scan, plane="joints", slices=(19,))


def test_a_scan_without_masks_or_of_one_value_is_shown_too(scan: LoadedScan) -> None:
    bare = replace(scan, label_map=None, image=np.full((2, 3, 5), 7, np.uint16))
    for plane in ("axial", "coronal", "joints"):
        picture = take(bare, plane=plane, slices=(1,), organ="large_bowel", around=(0, 1))
        assert picture.width <= 320
    assert take(bare, plane="axial", slices=(0,)).alt.endswith("without any mask")


def test_each_scan_is_loaded_once_and_a_changed_one_is_told(scan: LoadedScan) -> None:
    loaded = []

    def load(scan_id: str) -> LoadedScan:
        loaded.append(scan_id)
        return scan

    views = [View(scan_id=s, plane="axial", slices=(z,)) for z in (1, 2, 1) for s in ("a", "b")]
    told: list[tuple[int, int]] = []
    pictures = take_pictures(
        views, load=load, jobs=2, progress=lambda done, total, what: told.append((done, total))
    )
    assert set(pictures) == set(views)
    assert sorted(loaded) == ["a", "b"]
    assert told == [(1, 2), (2, 2)]
    problem = Problem(where="a.png", found="nothing", expected="a PNG")
    with pytest.raises(InputError, match=r"a.png.*\n.*run again"):
        take_pictures(
            views, load=lambda _: replace(scan, problems=(problem,)), jobs=1,
            progress=lambda *_: None,
        )  # fmt: skip
