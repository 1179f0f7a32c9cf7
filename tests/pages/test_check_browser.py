"""The page of check in a real browser: console, width, keyboard, accessibility."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.pages.check_page import write_check_page
from gi2nnunet.source.check.check import check_source
from tests.browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from tests.faulty_source import plant_faults, write_clean

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a source with a fault of every kind."""
    folder = tmp_path_factory.mktemp("faults")
    clean = write_clean(folder / "clean")
    faults = plant_faults(clean, check_source(clean).scans, folder / "source")
    found = check_source(faults.source)
    assert found.suspects
    return write_check_page(found, folder / "check.html", jobs=2).path


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_is_accessible(page: Path, browser: Any, width: int) -> None:
    open_page(browser, page, width=width)
    assert find_overflow(browser) == []
    assert find_violations(browser) == []
    assert find_console_lines(browser) == []


def test_the_keyboard_reaches_every_link_and_follows_it(page: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    links = browser.find_elements(By.CSS_SELECTOR, "a[href]")
    stops = browser.find_elements(By.CSS_SELECTOR, "a[href], [tabindex='0']")
    assert len(stops) > len(links) > 6
    reached = []
    for _ in stops:
        ActionChains(browser).send_keys(Keys.TAB).perform()
        reached.append(browser.switch_to.active_element)
    assert reached == stops
    suspect = browser.find_element(By.CSS_SELECTOR, "#suspects th a")
    target = str(suspect.get_attribute("href")).rpartition("#")[2]
    suspect.send_keys(Keys.ENTER)
    assert browser.current_url.endswith(f"#{target}")
    top = "return document.getElementById(arguments[0]).getBoundingClientRect().top"
    assert 0 <= browser.execute_script(top, target) < 200
    assert find_console_lines(browser) == []
