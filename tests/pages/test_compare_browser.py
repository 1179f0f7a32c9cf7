"""The page of a comparison in a real browser: links to slices, phone, print, accessibility."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from tests.pages.test_compare_page import SCANS, write_comparison, write_page

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
