"""The page of a comparison in a real browser: links to slices, phone, print, accessibility."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.submission import encode_scan, write_submission
from tests.browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from tests.pages.test_compare_page import SCANS, write_comparison, write_page
from tests.source_factory import ORGANS, MadeScan, make_source, write_source

pytestmark = pytest.mark.slow


@pytest.fixture
def page(here: Path) -> Path:
    write_comparison(here)
    write_page(here)
    return here / "page.html"


def read(driver: Any, what: str) -> str:
    return str(driver.execute_script(f"return document.getElementById('{what}').textContent"))


def wait_for(driver: Any, text: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda d: read(d, "v-number").startswith(text))


def test_links_open_the_scan_at_the_slice(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for(browser, "slice")
    links = browser.find_elements(By.CSS_SELECTOR, "a[data-slice]")
    assert len(links) >= 2
    for link in links:
        link.send_keys(Keys.ENTER)
        wait_for(browser, f"slice {link.get_attribute('data-slice')} ")
        assert "stomach 0.000" in read(browser, "v-dice")
    assert browser.current_url.endswith("#viewer")
    browser.find_element(By.CSS_SELECTOR, "th a[data-scan]").send_keys(Keys.ENTER)
    wait_for(browser, "slice")
    assert find_console_lines(browser) == []


def paint(scan: MadeScan, *boxes: tuple[int, str, int, int]) -> np.ndarray:
    """The scan's masks and boxes of (slice, organ, rows, columns), in the far corner of it."""
    bits = scan.bits.copy()
    for z, organ, rows, columns in boxes:
        bits[z, -rows:, -columns:] |= ORGAN_BITS[ORGANS.index(organ)]
    return bits


@pytest.mark.parametrize("metric", ["per-class", "slice-2d"])
def test_every_slice_in_which_a_and_b_differ_is_walked_through_as_the_table_names_them(
    here: Path, browser: Any, metric: str
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    source = make_source(("case10_day0", "case11_day3"))
    write_source(here / "source", source)
    scan, other = source.train
    assert not scan.bits[[0, 4]].any()  # nothing in the truth
    small, stomach = "small_bowel", "stomach"
    # Both have small bowel in slice 1 and A has stomach, too; in slice 5 both are equally wrong.
    # In slice 2 only B has one pixel more.
    masks = {
        "a.csv": paint(scan, (0, small, 3, 3), (0, stomach, 4, 4), (4, small, 2, 2)),
        "b.csv": paint(scan, (0, small, 2, 2), (1, stomach, 1, 1), (4, small, 3, 4)),
    }
    for name, bits in masks.items():
        rows = [
            row
            for one, of in ((scan, bits), (other, other.bits))
            for row in encode_scan(one.scan_id, range(1, 6), of)
        ]
        write_submission(here / name, rows)
    write_page(here, metric=metric)
    open_page(browser, here / "page.html")
    wait_for(browser, "slice 1 ")
    links = browser.find_elements(By.CSS_SELECTOR, "a[data-slice]")
    assert links[0].text == "1 (0.00, 0.50)"
    assert [link.get_attribute("data-slice") for link in links] == ["1", "2"]
    for rank, link in enumerate(links, 1):
        link.send_keys(Keys.ENTER)
        wait_for(browser, f"slice {link.get_attribute('data-slice')} ")
        assert read(browser, "v-walk").startswith(f"Difference {rank} of 3, ")
    browser.find_element(By.ID, "v-next").click()
    wait_for(browser, "slice 5 ")
    assert read(browser, "v-walk") == (
        f"Difference 3 of 3, {8 * 1.5**2:.0f} mm² differ (scan 1 of 1). Left out: 2 slices without."
    )
    assert find_console_lines(browser) == []


def test_the_dice_of_a_slice_is_rounded_once(here: Path, browser: Any) -> None:
    source = make_source(("case10_day0",))
    write_source(here / "source", source)
    for name, (start, length) in {"t.csv": (1, 10), "a.csv": (9, 9), "b.csv": (1, 10)}.items():
        rows = [
            (one, organ, f"{start} {length}" if organ == "stomach" and z == 2 else "")
            for z, one in enumerate(map(source.train[0].slice_id, range(5)))
            for organ in ORGANS
        ]
        write_submission(here / name, rows)
    write_page(here, truth="t.csv")
    open_page(browser, here / "page.html")
    wait_for(browser, "slice 3 ")
    # 4 / 19 is 0.21053: of 0.2105, the third digit would be another one.
    assert "A: large bowel – (both empty), small bowel – (both empty), stomach 0.211" in (  # noqa: RUF001
        read(browser, "v-dice")
    )


def test_truth_a_and_b_are_switched(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, page)
    wait_for(browser, "slice")
    picture = "return document.getElementById('v-axial').toDataURL()"
    boxes = browser.find_elements(By.CSS_SELECTOR, "[data-layer]")
    assert len(boxes) == 3
    names = [box.find_element(By.XPATH, "..").text for box in boxes]
    assert names == ["truth (solid)", "A (dashed)", "B (dotted)"]
    seen = [browser.execute_script(picture)]
    for box in boxes:
        box.click()
        seen.append(browser.execute_script(picture))
    # A has the truth's contours, dashed over its solid ones.
    assert len(set(seen)) >= 3
    assert seen[-1] != seen[0]
    assert find_console_lines(browser) == []


def test_it_prints(page: Path, browser: Any) -> None:
    open_page(browser, page)
    wait_for(browser, "slice")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    pdf = base64.b64decode(printed["data"])
    assert 2 <= pdf.count(b"/Type /Page\n") <= 6
    assert find_console_lines(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["whole", "equal", "one patient"])
def test_the_page_fits_and_is_accessible(here: Path, browser: Any, width: int, kind: str) -> None:
    scans = SCANS if kind != "one patient" else ("case10_day0", "case10_day3")
    write_comparison(here, scans)
    write_page(here, b="a.csv" if kind == "equal" else "b.csv")
    open_page(browser, here / "page.html", width=width)
    if kind != "equal":
        wait_for(browser, "slice")
    assert find_overflow(browser) == []
    assert find_violations(browser) == []
    assert find_console_lines(browser) == []
