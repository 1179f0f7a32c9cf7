"""The report in a real browser: viewer, keyboard, phone, accessibility."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from test_report import Workspace, gather_report, predict_truth, space, write_report

pytestmark = pytest.mark.slow
__all__ = ["space"]


@pytest.fixture
def page(space: Workspace, tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(gather_report(space, prediction=predict_truth(space, tmp_path / "p")), path)
    return path


def wait_for_viewer(driver: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    find = "return document.getElementById('v-number').textContent"
    WebDriverWait(driver, 20).until(lambda d: d.execute_script(find))


def read_number(driver: Any) -> str:
    return str(driver.execute_script("return document.getElementById('v-number').textContent"))


def read_picture(driver: Any, view: str = "axial") -> str:
    return str(driver.execute_script(f"return document.getElementById('v-{view}').toDataURL()"))


def test_the_viewer_scrolls_switches_and_obeys_the_keyboard(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for_viewer(browser)
    axial = browser.find_element(By.ID, "v-axial")
    axial.send_keys(Keys.HOME)
    assert read_number(browser) == "slice 1 (1 of 5)"
    axial.send_keys(Keys.ARROW_DOWN)
    assert read_number(browser) == "slice 2 (2 of 5)"
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 100, cancelable: true}))"
    browser.execute_script(wheel, axial)
    assert read_number(browser) == "slice 3 (3 of 5)"
    browser.find_element(By.ID, "v-slice").send_keys(Keys.ARROW_LEFT)
    assert read_number(browser) == "slice 2 (2 of 5)"

    before = read_picture(browser)
    for box in browser.find_elements(By.CSS_SELECTOR, "[data-organ]"):
        box.send_keys(Keys.SPACE)
    assert read_picture(browser) != before
    for box in browser.find_elements(By.CSS_SELECTOR, "[data-organ]"):
        box.send_keys(Keys.SPACE)
    assert read_picture(browser) == before
    assert find_console_lines(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_is_accessible(page: Path, browser: Any, width: int) -> None:
    open_page(browser, page, width=width)
    wait_for_viewer(browser)
    assert find_overflow(browser) == []
    assert find_violations(browser) == []
    assert find_console_lines(browser) == []
