"""The page of a comparison: what is on it, with and without images, and in odd cases."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gi2nnunet
from gi2nnunet.core.errors import OutputError
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.pages.compare_page import MOST_SHOWN
from tests.source_factory import MadeSource, make_source, write_source

SCANS = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
Run = Callable[..., tuple[int, str, str]]


def write_comparison(folder: Path, scans: tuple[str, ...] = SCANS) -> MadeSource:
    """A source, its truth as a.csv, and b.csv without the stomach of case10."""
    source = make_source(scans)
    write_source(folder / "source", source)
    write_submission(folder / "a.csv", source.rows)
    lost = [
        (a, organ, "" if organ == "stomach" and a.startswith("case10") else text)
        for a, organ, text in source.rows
    ]
    write_submission(folder / "b.csv", lost)
    return source


@pytest.fixture
def source(here: Path) -> MadeSource:
    return write_comparison(here)


def write_page(here: Path, a: str = "a.csv", b: str = "b.csv", **more: Any) -> str:
    more = {"truth": "source/train.csv", "images": "source", **more}
    gi2nnunet.compare(a, b, **{"html": here / "page.html", **more})
    return (here / "page.html").read_text()


def read_viewed(page: str) -> list[dict[str, Any]]:
    """What the viewer is given of each scan."""
    found = re.findall(r'<script type="application/json" id="v-data-\d+">(.*?)</script>', page)
    return [json.loads(text) for text in found]


def count_links(page: str) -> int:
    return len(re.findall(r"<a [^>]*data-slice=", page))


def test_the_page_begins_with_the_result(source: MadeSource, here: Path) -> None:
    page = write_page(here)
    found = gi2nnunet.compare("a.csv", "b.csv", "source/train.csv", images="source")
    assert page.index(found.describe()) < page.index('id="patients"')
    assert "Patients: 0 better in B, 1 better in A, 2 the same." in page
    assert "It is not recorded what its models were trained on." in page
    assert "With so few patients, an interval is only a rough guide" in page
    for name, one in found.differences.items():
        assert (f"{one.difference:+.4f}" in page) == (one.difference == one.difference), name
    assert "stomach, Hausdorff (normalised)" in page
    assert page.count("<svg") == 2
    linked = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert {link[:1] for link in linked} <= {"#", "d"}  # a place in the page, or data
    assert "url(http" not in page


def test_the_viewer_has_the_scans_that_changed_with_three_layers(
    source: MadeSource, here: Path
) -> None:
    page = write_page(here)
    (viewed,) = read_viewed(page)
    assert viewed["id"] == "case10_day0"
    layers = [(layer["name"], layer["line"]) for layer in viewed["layers"]]
    assert layers == [("truth", "solid"), ("A", "dashed"), ("B", "dotted")]
    scan = source.truth["case10_day0"]
    stomach = np.array(viewed["layers"][2]["dice"][2], float)
    there = scan.masks[2].any(axis=(1, 2))
    assert np.array_equal(np.nan_to_num(stomach, nan=-1), np.where(there, 0.0, -1.0))
    assert viewed["layers"][1]["facts"] != viewed["layers"][2]["facts"]
    # The slices that the table names can be opened; those of scans without a picture are text.
    assert count_links(page) == min(3, int(there.sum()))


def test_images_come_from_the_dataset_of_the_workspace(
    source: MadeSource, here: Path, run: Run
) -> None:
    assert run("convert", "source", "--holdout", "0")[0] == 0
    code, out, _ = run("compare", "a.csv", "b.csv", "--html", "page.html", "--json")
    assert code == 0
    page = json.loads(out)["page"]
    assert page["bytes"] == (here / page["path"]).stat().st_size
    assert len(read_viewed((here / "page.html").read_text())) == 1
    assert "page.html" in run("compare", "a.csv", "b.csv", "--html", "page.html")[1]


def test_without_images_the_page_says_how_to_see_slices(source: MadeSource, here: Path) -> None:
    from gi2nnunet.formats.tables import format_rows, read_mask_table

    table = read_mask_table(here / "source/train.csv", any_scan=True)
    shapes = {scan.scan_id: scan.image.shape[1:] for scan in source.train}
    rows = table.list_rows()
    sizes = [shapes[row[0].partition("_slice")[0]] for row in rows]
    (here / "truth.csv").write_text(format_rows(rows, "segmentation", sizes=sizes))
    page = write_page(here, truth="truth.csv", images=None)
    assert "--images SOURCE" in page
    assert read_viewed(page) == []
    assert count_links(page) == 0
    assert "case10_day0" in page


def test_equal_submissions_a_single_patient_and_a_taken_place(
    source: MadeSource, here: Path
) -> None:
    page = write_page(here, b="a.csv")
    assert "A and B have the same score in every scan." in page
    assert "No scan changed, so none is shown." in page
    (here / "folder").mkdir()
    with pytest.raises(OutputError):
        write_page(here, html=here / "folder")


def test_a_single_patient_has_no_interval(here: Path) -> None:
    write_comparison(here, ("case10_day0", "case10_day3"))
    page = write_page(here)
    assert "a single patient has no interval" in page
    assert "With one patient, there is no interval" in page
    assert len(read_viewed(page)) == 2


def test_many_patients_are_drawn_without_their_names(here: Path) -> None:
    from gi2nnunet.pages.figures import draw_patients
    from gi2nnunet.scoring.compare import compare_scores
    from tests.scoring.test_bootstrap import random_score

    few, many = (
        draw_patients(compare_scores(*(random_score(seed, n_patients=n) for seed in (0, 1))))
        for n in (12, 85)
    )
    assert few.count("case") >= 12
    assert "85 patients" in many
    assert many.count("case") < 5
    assert MOST_SHOWN < 12
