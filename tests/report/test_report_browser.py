"""The report in a real browser: viewer, keyboard, phone, accessibility."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.report.viewer import pack_scan
from gi2nnunet.source.scan import LoadedScan
from tests.browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from tests.report.test_history import add_training, tuning_content
from tests.report.test_report import Workspace, gather_report, predict_truth, space, write_report

pytestmark = pytest.mark.slow
__all__ = ["space"]


@pytest.fixture
def page(space: Workspace, tmp_path: Path) -> Path:
    """A page of everything: trainings, tuning, scores, slices."""
    path = tmp_path / "report.html"
    mine = open_workspace(tmp_path / "w", environ={})
    shutil.copytree(space.raw, mine.raw)
    results = mine.results / "Dataset501_UWGI"
    for fold in range(2):
        add_training(results, "nnUNetTrainer__gi2nnunetTinyPlans__2d", fold)
    folder = predict_truth(mine, tmp_path / "p")
    tuning = {**tuning_content(), "file": "gi2nnunet_tuning_a.json"}
    (folder / "prediction.json").write_text(json.dumps({"tuning": tuning, "standing": "held-out"}))
    write_report(gather_report(mine, prediction=folder), path)
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

    assert find_console_lines(browser) == []


def test_contours_lie_around_the_masks(space: Workspace, page: Path, browser: Any) -> None:
    """The browser decodes the sheet of masks to what the dataset holds."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    dataset = read_dataset(space.raw)
    open_page(browser, page)
    wait_for_viewer(browser)
    scan_id = "case10_day0"
    chosen = Select(browser.find_element(By.ID, "v-scan"))
    (name,) = [o.text for o in chosen.options if o.text.startswith(scan_id)]
    before = read_picture(browser)
    chosen.select_by_visible_text(name)
    WebDriverWait(browser, 10).until(lambda d: read_picture(d) != before)
    browser.find_element(By.CSS_SELECTOR, "[data-layer='1']").click()
    labels = read_volume(dataset.label_path(scan_id)).array
    seen = 0
    for z, plane in enumerate(labels):
        for organ, (bit, colour) in enumerate(
            zip(ORGAN_BITS, CONTOUR_COLOURS.values(), strict=True)
        ):
            browser.execute_script(SHOW_ONLY, z, organ)
            box = browser.execute_script(FIND_COLOUR, colour)
            rows, columns = np.nonzero(plane & bit)
            if not len(rows):
                assert box is None
                continue
            seen += 1
            scale = box.pop() / plane.shape[1]
            edges = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
            np.testing.assert_allclose(box, [edge * scale for edge in edges], atol=4)
    assert seen > 3
    assert find_console_lines(browser) == []


SHOW_ONLY = """
    const slider = document.getElementById("v-slice");
    slider.value = arguments[0];
    slider.dispatchEvent(new Event("input"));
    document.querySelectorAll("[data-organ]").forEach((box, index) => {
      if (box.checked !== (index === arguments[1])) box.click();
    });
"""
# First and last row and column of a colour in the axial view, and the view's width.
FIND_COLOUR = """
    const canvas = document.getElementById("v-axial"), copy = document.createElement("canvas");
    const width = copy.width = canvas.width, height = copy.height = canvas.height;
    const context = copy.getContext("2d", {willReadFrequently: true});
    context.drawImage(canvas, 0, 0);
    const pixels = context.getImageData(0, 0, width, height).data;
    const wanted = [1, 3, 5].map((at) => parseInt(arguments[0].slice(at, at + 2), 16));
    const rows = [], columns = [];
    for (let i = 0; i < pixels.length; i += 4) {
      if (wanted.some((value, at) => Math.abs(value - pixels[i + at]) > 40)) continue;
      rows.push(Math.floor(i / 4 / width)); columns.push((i / 4) % width);
    }
    const least = (list) => list.reduce((a, b) => Math.min(a, b));
    const most = (list) => list.reduce((a, b) => Math.max(a, b));
    return rows.length ? [least(rows), most(rows), least(columns), most(columns), width] : null;
"""


def test_organs_truth_and_prediction_are_switched(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for_viewer(browser)
    before = read_picture(browser)
    boxes = browser.find_elements(By.CSS_SELECTOR, "#v fieldset input")
    assert len(boxes) == 5
    seen = {before}
    for box in boxes[:3]:
        box.send_keys(Keys.SPACE)
        seen.add(read_picture(browser))
    bare = read_picture(browser)
    for box in boxes[:3]:
        box.click()
    assert read_picture(browser) == before
    for box in boxes[3:]:
        box.send_keys(Keys.SPACE)
        seen.add(read_picture(browser))
    # Without truth and prediction there is no contour, whatever organs are on.
    assert read_picture(browser) == bare
    assert len(seen) >= 4
    assert find_console_lines(browser) == []


def test_dragging_and_clicking_move_through_the_scan(page: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for_viewer(browser)
    axial = browser.find_element(By.ID, "v-axial")
    browser.execute_script("arguments[0].scrollIntoView()", axial)
    axial.send_keys(Keys.HOME)
    drag = ActionChains(browser, duration=20).move_to_element(axial).click_and_hold()
    drag.move_by_offset(0, 5).move_by_offset(0, 3).release().perform()
    assert read_number(browser) == "slice 3 (3 of 5)"
    coronal = read_picture(browser, "coronal")
    ActionChains(browser).move_to_element_with_offset(axial, 60, 60).click().perform()
    assert read_number(browser) == "slice 3 (3 of 5)"
    assert read_picture(browser, "coronal") != coronal
    strip = browser.find_element(By.ID, "v-strip")
    ActionChains(browser).move_to_element(strip).click().perform()
    assert read_number(browser) == "slice 3 (3 of 5)"
    strip_end = strip.size["width"] // 2 - 5
    ActionChains(browser).move_to_element_with_offset(strip, strip_end, 0).click().perform()
    assert read_number(browser) == "slice 5 (5 of 5)"
    assert find_console_lines(browser) == []


def test_a_finger_drags_on_a_phone(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page, width=390)
    wait_for_viewer(browser)
    axial = browser.find_element(By.ID, "v-axial")
    axial.send_keys(Keys.HOME)
    box = browser.execute_script(
        "arguments[0].scrollIntoView(); const b = arguments[0].getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]", axial,
    )  # fmt: skip

    def touch(kind: str, *points: dict[str, float]) -> None:
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", {"x": box[0], "y": box[1]})
    touch("touchMove", {"x": box[0], "y": box[1] + 8})
    touch("touchEnd")
    assert read_number(browser) == "slice 3 (3 of 5)"
    assert find_console_lines(browser) == []


def test_a_scan_is_chosen_by_list_and_by_its_name_in_the_table(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    open_page(browser, page)
    wait_for_viewer(browser)
    first = read_picture(browser)
    Select(browser.find_element(By.ID, "v-scan")).select_by_index(2)
    WebDriverWait(browser, 10).until(lambda d: read_picture(d) != first)
    link = browser.find_element(By.CSS_SELECTOR, 'td a[data-scan="0"], th a[data-scan="0"]')
    browser.execute_script("arguments[0].scrollIntoView()", link)
    link.click()
    WebDriverWait(browser, 10).until(lambda d: read_picture(d) == first)
    assert browser.current_url.endswith("#viewer")
    assert find_console_lines(browser) == []


def test_it_prints(page: Path, browser: Any) -> None:
    open_page(browser, page)
    wait_for_viewer(browser)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.7})
    pdf = base64.b64decode(printed["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 8
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = "return getComputedStyle(document.querySelector('nav')).display"
    assert browser.execute_script(hidden) == "none"
    assert find_console_lines(browser) == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["whole", "nothing predicted"])
def test_the_page_fits_and_is_accessible(
    space: Workspace, page: Path, browser: Any, width: int, kind: str
) -> None:
    if kind != "whole":
        write_report(gather_report(space), page)
    open_page(browser, page, width=width)
    wait_for_viewer(browser)
    assert find_overflow(browser) == []
    assert find_violations(browser) == []
    assert find_console_lines(browser) == []


@pytest.fixture
def two_predictions(space: Workspace, tmp_path: Path) -> Path:
    """A page whose viewer has two predictions: A is the truth, B holds one voxel of stomach."""
    report = gather_report(space, scans=["case10_day0"])
    dataset = read_dataset(space.raw)
    image = read_volume(dataset.image_path("case10_day0")).array
    truth = read_volume(dataset.label_path("case10_day0")).array
    lone = np.zeros_like(truth)
    lone[0, 3, 4] = ORGAN_BITS[2]
    scan = LoadedScan(image=image, label_map=truth, spacing_mm=(3, 1.5, 1.5), first_number=1)
    shown = pack_scan("case10_day0", scan, predictions={"A": truth, "B": lone})
    path = tmp_path / "two.html"
    write_report(replace(report, shown=(shown,)), path)
    return path


def test_two_predictions_are_drawn_and_switched_each_with_its_dice(
    space: Workspace, two_predictions: Path, browser: Any
) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, two_predictions)
    wait_for_viewer(browser)
    labels = browser.find_elements(By.CSS_SELECTOR, "#v fieldset label:has([data-layer])")
    assert [label.text for label in labels] == ["truth (solid)", "A (dashed)", "B (dotted)"]
    lines = browser.find_element(By.ID, "v-dice").text.splitlines()
    assert [line.partition(":")[0].rpartition(", ")[2] for line in lines] == ["A", "B"]
    browser.find_element(By.CSS_SELECTOR, "[data-layer='0']").click()
    browser.find_element(By.CSS_SELECTOR, "[data-layer='1']").click()
    browser.execute_script(SHOW_ONLY, 0, 2)
    *box, wide = browser.execute_script(FIND_COLOUR, CONTOUR_COLOURS["stomach"])
    scale = wide / read_dataset(space.raw).scan("case10_day0").width
    np.testing.assert_allclose(box, [3 * scale, 4 * scale, 4 * scale, 5 * scale], atol=4)
    browser.find_element(By.CSS_SELECTOR, "[data-layer='2']").click()
    assert browser.execute_script(FIND_COLOUR, CONTOUR_COLOURS["stomach"]) is None
    assert find_console_lines(browser) == []
