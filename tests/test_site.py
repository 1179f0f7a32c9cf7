"""The site of docs/, built with warnings as errors: broken links, pages in no table of contents."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser import WIDTHS, find_overflow, find_violations, open_page

ROOT = Path(__file__).parent.parent


# What a reader types, and the page that answers.
ANSWERS = {
    "continue training": "resume",
    "resume": "resume",
    "Slicer": "viewers",
    "out of memory": "gpu-memory",
    "own folds": "hold-out",
    "RTSTRUCT": "clinic",
    "delete": "status",
    "per slice": "evaluation",
    "Hausdorff": "metric",
    "share a model": "models",
    "how long": "estimate",
}


def build(source: Path, out: Path, *, builder: str = "dummy") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-b", builder]
    return subprocess.run(
        [*command, str(source), str(out)], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs pip install -e '.[docs]'")
    done = build(ROOT / "docs", tmp_path / "site")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", folder, builder="html")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_search_of_the_site_finds_the_page_that_answers(browser: Any, site: Path) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    script = "return document.querySelector('#search-results li a')?.getAttribute('href')"
    found = {}
    for words in ANSWERS:
        browser.get((site / "search.html").as_uri() + "?q=" + words.replace(" ", "+"))
        first = WebDriverWait(browser, 20).until(lambda driver: driver.execute_script(script))
        found[words] = Path(first.split("#")[0].split("?")[0]).stem
    assert found == ANSWERS


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index", "commands", "notebook"])
def test_a_page_of_the_site_suits_every_reader(browser: Any, site: Path, page: str) -> None:
    for width in WIDTHS:
        open_page(browser, site / f"{page}.html", width=width)
        assert not find_overflow(browser)
        assert not find_violations(browser)
