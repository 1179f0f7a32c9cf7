"""The slice viewer in a real browser; skipped where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from test_report import Workspace, gather_report, predict_truth, space, write_report

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver"),
]
__all__ = ["space"]


@pytest.fixture
def browser() -> Any:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = CHROMIUM
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def test_the_viewer_scrolls_switches_and_obeys_the_keyboard(
    space: Workspace,
    tmp_path: Path,
    browser: Any,
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    path = tmp_path / "report.html"
    write_report(gather_report(space, prediction=predict_truth(space, tmp_path / "p")), path)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.find_element(By.ID, "v-number").text)

    def number() -> str:
        return str(browser.find_element(By.ID, "v-number").text)

    def picture() -> str:
        script = "return document.getElementById('v-axial').toDataURL()"
        return str(browser.execute_script(script))

    axial = browser.find_element(By.ID, "v-axial")
    axial.send_keys(Keys.HOME)
    assert number() == "slice 1 (1 of 5)"
    axial.send_keys(Keys.ARROW_DOWN)
    assert number() == "slice 2 (2 of 5)"
    wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 100, cancelable: true}))"
    browser.execute_script(wheel, axial)
    assert number() == "slice 3 (3 of 5)"
    browser.find_element(By.ID, "v-slice").send_keys(Keys.ARROW_LEFT)
    assert number() == "slice 2 (2 of 5)"

    before = picture()
    for box in browser.find_elements(By.CSS_SELECTOR, "[data-organ]"):
        box.send_keys(Keys.SPACE)
    bare = picture()
    assert bare != before
    for box in browser.find_elements(By.CSS_SELECTOR, "[data-organ]"):
        box.send_keys(Keys.SPACE)
    assert picture() == before

    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert browser.get_log("browser") == []
