"""The report in a real browser: viewer, keyboard, phone, accessibility."""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import CONTOUR_COLOURS
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.pages.template import DASH
from gi2nnunet.pages.viewer import pack_scan, slice_dice
from gi2nnunet.scoring.record import write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.scan import LoadedScan
from tests.browser import WIDTHS, find_console_lines, find_overflow, find_violations, open_page
from tests.pages.test_history import add_training, tuning_content
from tests.pages.test_report import Workspace, gather_report, predict_truth, space, write_report

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
    browser.execute_script("arguments[0].focus()", axial)
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
    boxes = browser.find_elements(By.CSS_SELECTOR, "#v [data-organ], #v [data-layer]")
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

    browser.execute_script("arguments[0].blur()", axial)
    for focused in (False, True):
        touch("touchStart", {"x": box[0], "y": box[1]})
        for by in (2, 4, 6, 8):
            touch("touchMove", {"x": box[0], "y": box[1] + by})
        touch("touchEnd")
        # Before a tap the finger scrolls the page.
        assert read_number(browser) == f"slice {3 if focused else 1} ({3 if focused else 1} of 5)"
        touch("touchStart", {"x": box[0], "y": box[1]})
        touch("touchEnd")
    zoomed = "return document.getElementById('v-zoom').textContent"
    assert browser.execute_script(zoomed) == "100 %"
    touch("touchStart", {"x": box[0] - 20, "y": box[1]}, {"x": box[0] + 20, "y": box[1]})
    for by in (22, 30, 40):
        touch("touchMove", {"x": box[0] - by, "y": box[1]}, {"x": box[0] + by, "y": box[1]})
    touch("touchEnd")
    percent = int(str(browser.execute_script(zoomed)).split()[0])
    assert 150 < percent < 220
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
    """A page whose viewer has two predictions: A is the truth, B is one voxel of stomach."""
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
    assert browser.find_element(By.ID, "v-next").text == "Next difference"
    assert read_text(browser, "v-walk").startswith("Difference 1 of ")
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


@dataclass(frozen=True, kw_only=True)
class FlawedPage:
    """A page of a prediction with planted errors, and the masks by scan."""

    path: Path
    truth: dict[str, np.ndarray]
    pred: dict[str, np.ndarray]

    def order(self, scan_id: str) -> list[int]:
        """Slices of a scan by error, then by the area of what is wrong."""
        truth, pred = self.truth[scan_id], self.pred[scan_id]
        dice = slice_dice(pred, truth)
        counted = ~np.isnan(dice)
        error = 1 - np.where(counted, dice, 0).sum(0) / np.maximum(counted.sum(0), 1)
        error[~counted.any(0)] = 0
        area = (truth != pred).sum(axis=(1, 2))
        ranked = sorted(range(len(truth)), key=lambda z: (-error[z], -area[z], z))
        return [z for z in ranked if error[z] > 0 and area[z]]


@pytest.fixture(scope="module")
def flawed(space: Workspace, tmp_path_factory: pytest.TempPathFactory) -> FlawedPage:
    """The stomach of one scan is missed, another loses a slice and gains a patch of bowel."""
    folder = tmp_path_factory.mktemp("flawed") / "p"
    dataset = read_dataset(space.raw)
    folder.mkdir()
    truth = {s.scan_id: read_volume(dataset.label_path(s.scan_id)).array for s in dataset.scans}
    pred = {scan_id: masks.copy() for scan_id, masks in truth.items()}
    pred["case10_day0"] &= np.uint8(~ORGAN_BITS[2] & 7)
    pred["case10_day0"][1, :2, :2] |= ORGAN_BITS[1]
    pred["case2_day1"][3] = 0
    pred["case2_day1"][1, 5:8, 2:9] ^= ORGAN_BITS[0]
    rows = [
        row for s in dataset.scans for row in encode_scan(s.scan_id, s.numbers, pred[s.scan_id])
    ]
    write_submission(folder / "submission.csv", rows)
    table = read_mask_table(dataset.truth_path, any_scan=True)
    score = score_submission(
        folder / "submission.csv", table, medical=True, jobs=1,
        spacing_mm={s.scan_id: s.spacing_mm for s in dataset.scans},
    )  # fmt: skip
    write_score(score, folder, truth=table, about={"standing": "in-sample"})
    path = folder.parent / "flawed.html"
    write_report(gather_report(space, prediction=folder), path)
    return FlawedPage(path=path, truth=truth, pred=pred)


def read_slice(driver: Any) -> int:
    """Index of the slice that is shown."""
    return int(read_number(driver).split("(")[1].split()[0]) - 1


def read_text(driver: Any, name: str) -> str:
    return str(
        driver.execute_script("return document.getElementById(arguments[0]).textContent", name)
    )


def read_scan(driver: Any) -> str:
    return read_text(driver, "v-name")


def wait_for_scan(driver: Any, scan_id: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(driver, 20).until(lambda d: read_scan(d) == scan_id)


def test_the_page_begins_with_a_card_whose_worst_scan_opens_at_its_worst_slice(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    first = browser.find_element(By.CSS_SELECTOR, "main > section")
    assert first.get_attribute("id") == "short"
    assert "Warning. In-sample: these scans were used for training" in first.text
    assert "95 % interval 0." in first.text
    assert "4 scans\nof 3 patients" in first.text
    assert re.search(r"missed\n1\nstomach \([0-9.]+ ml\) in case10_day0", first.text)
    worst = flawed.order("case10_day0")[0]
    assert (read_scan(browser), read_slice(browser)) == ("case10_day0", worst)
    browser.find_element(By.ID, "v-axial").send_keys("\ue010")  # End
    link = browser.find_element(By.CSS_SELECTOR, "#short div:last-child > p > a[data-scan]")
    assert link.text == "case10_day0"
    link.click()
    WebDriverWait(browser, 10).until(lambda d: read_slice(d) == worst)
    sections = browser.find_elements(By.CSS_SELECTOR, "main > section")
    assert [section.get_attribute("id") for section in sections] == [
        "short", "viewer", "scores", "missing", "training", "data", "cost", "how",
    ]  # fmt: skip
    assert find_console_lines(browser) == []


def test_next_and_previous_walk_through_the_errors_of_scan_after_scan(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    after = browser.find_element(By.ID, "v-next")
    before = browser.find_element(By.ID, "v-previous")
    axial = browser.find_element(By.ID, "v-axial")
    for scan_id in ("case10_day0", "case2_day1"):
        order = flawed.order(scan_id)
        assert len(order) >= 2
        wait_for_scan(browser, scan_id)
        seen = [read_slice(browser)]
        said = read_text(browser, "v-walk")
        assert said.startswith(f"Error 1 of {len(order)}, ")
        left = 5 - len(order)
        assert ("Left out: " + str(left) in said) if left else ("Left out" not in said)
        for number in range(1, len(order)):
            if number % 2:
                after.click()
            else:
                axial.send_keys("n")
            seen.append(read_slice(browser))
        assert seen == order
        axial.send_keys("n")
    before.click()  # from the scan without an error
    wait_for_scan(browser, "case2_day1")
    assert read_slice(browser) == flawed.order("case2_day1")[-1]
    axial.send_keys("p")
    assert read_slice(browser) == flawed.order("case2_day1")[-2]
    # Back to the walk from a slice elsewhere.
    axial.send_keys("\ue010" if read_slice(browser) < 4 else "\ue011")
    if read_slice(browser) not in flawed.order("case2_day1"):
        assert read_text(browser, "v-walk").startswith("This slice has no error; the scan has ")
    assert find_console_lines(browser) == []


def test_the_walk_says_when_it_ends_and_a_scan_without_an_error_is_said(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    before = browser.find_element(By.ID, "v-previous")
    before.click()
    assert read_text(browser, "v-walk") == "This is the first error of the first scan on this page."
    chosen = Select(browser.find_element(By.ID, "v-scan"))
    last = chosen.options[-1].text.split()[0]
    chosen.select_by_index(len(chosen.options) - 1)
    wait_for_scan(browser, last)
    assert read_text(browser, "v-walk") == "No slice of this scan has an error (scan 4 of 4)."
    browser.find_element(By.ID, "v-next").click()
    assert "the last error of the last scan" in read_text(browser, "v-walk")
    assert find_console_lines(browser) == []


FIND_CHANGE = """
    const canvas = document.getElementById("v-axial"), copy = document.createElement("canvas");
    const width = copy.width = canvas.width, height = copy.height = canvas.height;
    const context = copy.getContext("2d", {willReadFrequently: true});
    const read = () => { context.drawImage(canvas, 0, 0); return context.getImageData(0, 0, width, height).data; };
    const before = read();
    document.querySelector(arguments[0]).click();
    const after = read(), rows = [], columns = [];
    for (let i = 0; i < before.length; i += 4) {
      if (Math.abs(before[i] - after[i]) + Math.abs(before[i + 1] - after[i + 1]) + Math.abs(before[i + 2] - after[i + 2]) < 30) continue;
      rows.push(Math.floor(i / 4 / width)); columns.push((i / 4) % width);
    }
    const least = (list) => list.reduce((a, b) => Math.min(a, b));
    const most = (list) => list.reduce((a, b) => Math.max(a, b));
    return rows.length ? [least(rows), most(rows), least(columns), most(columns), width] : null;
"""  # noqa: E501


def test_false_positives_and_negatives_are_areas_that_are_switched_by_organ(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    scan_id = "case10_day0"
    truth, pred = flawed.truth[scan_id], flawed.pred[scan_id]
    seen = set()
    for z in range(len(truth)):
        browser.execute_script(SHOW_ONLY, z, -1)
        for organ, bit in enumerate(ORGAN_BITS):
            box = browser.execute_script(FIND_CHANGE, f"[data-wrong='{organ}']")
            browser.find_element(By.CSS_SELECTOR, f"[data-wrong='{organ}']").click()
            rows, columns = np.nonzero((truth[z] ^ pred[z]) & bit)
            if not len(rows):
                assert box is None
                continue
            seen.add(organ)
            scale = box.pop() / truth.shape[2]
            edges = [rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]
            np.testing.assert_allclose(box, [edge * scale for edge in edges], atol=4)
    assert seen == {1, 2}
    before = read_picture(browser)
    axial = browser.find_element(By.ID, "v-axial")
    axial.send_keys("f")
    boxes = browser.find_elements(By.CSS_SELECTOR, "[data-wrong]")
    assert all(box.is_selected() for box in boxes)
    axial.send_keys("f")
    assert not any(box.is_selected() for box in boxes)
    assert read_picture(browser) == before
    assert find_console_lines(browser) == []


def test_false_positives_are_even_and_false_negatives_hatched(
    flawed: FlawedPage, browser: Any
) -> None:
    """They differ without any colour."""
    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    scan_id = "case10_day0"
    for z, organ, even in ((1, 1, True), (2, 2, False)):
        wrong = (flawed.truth[scan_id][z] ^ flawed.pred[scan_id][z]) & ORGAN_BITS[organ]
        rows, columns = np.nonzero(wrong)
        browser.execute_script(SHOW_ONLY, z, -1)
        browser.execute_script(FIND_CHANGE, f"[data-wrong='{organ}']")
        place = [int(rows.min()), int(columns.min()), wrong.shape[1]]
        levels = browser.execute_script(
            """const canvas = document.getElementById("v-axial"), scale = canvas.width / arguments[2];
            const data = canvas.getContext("2d").getImageData(arguments[1] * scale, arguments[0] * scale, scale * 0.9, scale * 0.9).data;
            return Array.from(data).filter((_, i) => i % 4 === 0);""",  # noqa: E501
            *place,
        )
        # A hatch goes from its yellow to dark within one voxel.
        assert (np.ptp(levels) < 90) == even
        browser.execute_script(FIND_CHANGE, f"[data-wrong='{organ}']")


def test_window_and_level_change_the_greys_and_go_back(page: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for_viewer(browser)
    axial = browser.find_element(By.ID, "v-axial")
    browser.execute_script("arguments[0].scrollIntoView()", axial)
    whole, said = read_picture(browser), read_text(browser, "v-shown")
    low, high = (int(word.strip(",")) for word in said.split()[1::2])
    assert f"within {low} to {high} " in read_text(browser, "v-window")
    reset = browser.find_element(By.ID, "v-reset")
    seen = {whole}

    def changed() -> tuple[int, int]:
        picture = read_picture(browser)
        assert picture not in seen
        seen.add(picture)
        black, white = (int(w.strip(",")) for w in read_text(browser, "v-shown").split()[1::2])
        reset.click()
        assert read_picture(browser) == whole
        assert read_text(browser, "v-shown") == said
        return black, white

    for keys, narrower, moved in (("W", True, 0), ("c", False, 1), ("C", False, -1)):
        axial.send_keys(keys)
        black, white = changed()
        assert (white - black < high - low) == narrower
        assert np.sign(black + white - low - high) == moved
    browser.find_element(By.ID, "v-width").send_keys(*[Keys.ARROW_LEFT] * 60)
    black, white = changed()
    assert white - black == pytest.approx((high - low) * 195 / 255, rel=0.02)
    browser.find_element(By.ID, "v-centre").send_keys(Keys.HOME)
    black, white = changed()
    assert (black + white) / 2 == pytest.approx(low, abs=1)
    drag = ActionChains(browser, duration=20).move_to_element(axial)
    drag.w3c_actions.pointer_action.pointer_down(button=2)
    drag.w3c_actions.pointer_action.move_by(-60, 30)
    drag.w3c_actions.pointer_action.pointer_up(button=2)
    number = read_number(browser)
    drag.perform()
    black, white = changed()
    assert white - black < high - low
    assert black + white > low + high
    assert read_number(browser) == number  # a drag of the right button leaves the slice
    axial.send_keys("W", "c", "r")
    assert read_picture(browser) == whole
    assert find_console_lines(browser) == []


def test_zoom_enlarges_around_the_place_and_the_picture_moves(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    browser.find_element(By.CSS_SELECTOR, "[data-layer='1']").click()
    browser.execute_script(SHOW_ONLY, 2, 2)  # the stomach that is missed
    axial = browser.find_element(By.ID, "v-axial")
    browser.execute_script("arguments[0].scrollIntoView()", axial)
    colour = CONTOUR_COLOURS["stomach"]
    whole = read_picture(browser)
    first, last, left, right, wide = browser.execute_script(FIND_COLOUR, colour)
    y, x = (first + last) / 2 / wide, (left + right) / 2 / wide
    size = axial.size["width"]
    offset = (round((x - 0.5) * size), round(y * size - axial.size["height"] / 2))
    ActionChains(browser).move_to_element_with_offset(axial, *offset).click().perform()
    bare = read_picture(browser)
    axial.send_keys("+")
    browser.find_element(By.ID, "v-in").click()
    assert read_text(browser, "v-zoom") == "156 %"
    box = browser.execute_script(FIND_COLOUR, colour)
    if left > 10 and right < wide - 10:  # whole in sight, also enlarged
        assert box[3] - box[2] == pytest.approx(1.5625 * (right - left), rel=0.15)
    zoomed = read_picture(browser)
    number = read_number(browser)
    axial.send_keys(Keys.SHIFT, Keys.ARROW_RIGHT)
    keyed = read_picture(browser)
    drag = ActionChains(browser, duration=20).move_to_element(axial).click_and_hold()
    drag.move_by_offset(30, 20).release().perform()
    assert len({zoomed, keyed, read_picture(browser)}) == 3
    assert read_number(browser) == number
    axial.send_keys("0")
    assert read_text(browser, "v-zoom") == "100 %"
    assert read_picture(browser) == bare
    wheel = """const how = {deltaY: -100, ctrlKey: true, cancelable: true};
        const event = new WheelEvent("wheel", how);
        arguments[0].dispatchEvent(event); return event.defaultPrevented"""
    browser.execute_script("arguments[0].blur()", axial)
    assert browser.execute_script(wheel, axial)  # also without the focus: the page is not zoomed
    assert int(read_text(browser, "v-zoom").split()[0]) > 100
    browser.find_element(By.ID, "v-fit").click()
    assert read_picture(browser) == bare
    assert whole != bare  # the crosshair
    assert find_console_lines(browser) == []


def test_the_wheel_scrolls_the_page_until_a_picture_is_clicked(page: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(browser, page)
    wait_for_viewer(browser)
    axial = browser.find_element(By.ID, "v-axial")
    axial.send_keys(Keys.HOME)
    browser.execute_script("arguments[0].blur(); arguments[0].scrollIntoView()", axial)

    def turn() -> tuple[bool, int]:
        """Whether the page scrolled, and by how many slices."""
        place, z = browser.execute_script("return window.scrollY"), read_slice(browser)
        origin = ScrollOrigin.from_element(axial)
        ActionChains(browser).scroll_from_origin(origin, 0, 100).perform()
        time.sleep(0.5)  # of smooth scrolling
        return browser.execute_script("return window.scrollY") != place, read_slice(browser) - z

    assert turn() == (True, 0)
    ActionChains(browser).move_to_element(axial).click().perform()
    assert turn() == (False, 1)
    axial.send_keys(Keys.ESCAPE)
    assert turn() == (True, 0)
    assert find_console_lines(browser) == []


def test_organs_of_the_shown_scan_have_volumes_and_a_missed_one_is_named(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    open_page(browser, flawed.path)
    wait_for_viewer(browser)

    def read_rows() -> list[list[str]]:
        rows = browser.find_elements(By.CSS_SELECTOR, "#v-facts tr")
        return [[c.text for c in row.find_elements(By.CSS_SELECTOR, "th, td")] for row in rows]

    spacing = read_dataset_spacing(browser)
    voxel_ml = float(np.prod(spacing)) / 1000
    rows = read_rows()
    assert [row[0] for row in rows] == ["large bowel", "small bowel", "stomach"]
    n_true = int(np.count_nonzero(flawed.truth["case10_day0"] & ORGAN_BITS[2]))
    assert rows[2][1:5] == [
        f"{n_true * voxel_ml:.1f}", "0.0", f"{-n_true * voxel_ml:+.1f}".replace("-0.0", "0.0"),
        "missed",
    ]  # fmt: skip
    before = rows
    Select(browser.find_element(By.ID, "v-scan")).select_by_index(1)
    wait_for_scan(browser, "case2_day1")
    assert read_rows() != before
    assert "missed" not in [cell for row in read_rows() for cell in row]
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Volumes and distances of scans']")
    assert [cell.text for cell in table.find_elements(By.CSS_SELECTOR, ".odd")] == ["missed"]
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Scores of scans']")
    assert [cell.text for cell in table.find_elements(By.CSS_SELECTOR, ".odd")] == ["missed"]
    assert find_console_lines(browser) == []


def read_dataset_spacing(driver: Any) -> list[float]:
    said = read_text(driver, "v-about")
    return [float(word) for word in re.findall(r"\d+\.\d{2}", said)]


def test_a_score_without_volumes_says_how_to_get_them(page: Path, browser: Any) -> None:
    from selenium.webdriver.common.by import By

    open_page(browser, page)
    wait_for_viewer(browser)
    cells = browser.find_elements(By.CSS_SELECTOR, "#v-facts td")
    assert {cell.text for cell in cells} == {DASH}
    for section in ("viewer", "scores"):
        text = browser.find_element(By.ID, section).text
        assert "Run the same gi2nnunet predict-and-score again to record them" in text


def test_tables_that_are_cut_say_so_and_the_keyboard_scrolls_them(
    flawed: FlawedPage, browser: Any
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    open_page(browser, flawed.path, width=390)
    wait_for_viewer(browser)
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Scores of scans']")
    hint = "return getComputedStyle(arguments[0], '::before').content"
    assert "scroll" in browser.execute_script(hint, table)
    for _ in range(60):
        table.send_keys(Keys.ARROW_RIGHT)
    WebDriverWait(browser, 10).until(lambda d: "scroll" not in d.execute_script(hint, table))
    assert browser.execute_script("return arguments[0].scrollLeft", table) > 50
    open_page(browser, flawed.path)
    wait_for_viewer(browser)
    table = browser.find_element(By.CSS_SELECTOR, "[aria-label='Scores of scans']")
    assert browser.execute_script(hint, table) == "none"


def test_a_flawed_page_is_accessible_with_everything_switched_on(
    flawed: FlawedPage, browser: Any
) -> None:
    for width in WIDTHS:
        open_page(browser, flawed.path, width=width)
        wait_for_viewer(browser)
        browser.execute_script(
            "document.querySelectorAll('[data-wrong]').forEach((box) => box.click());"
            "document.querySelector('details').open = true"
        )
        assert find_overflow(browser) == []
        assert find_violations(browser) == []
        assert find_console_lines(browser) == []
