from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.core.errors import OutputError
from gi2nnunet.pages.check_page import write_check_page
from gi2nnunet.source.check.check import SourceReport, check_source
from tests.command_line import run_in_process, tree
from tests.faulty_source import Faults
from tests.source_factory import make_source, write_source, write_zip


class Page(HTMLParser):
    """What a page says and refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open[-1:]):
            self.text += data

    def all(self, name: str, tag: str | None = None) -> list[str]:
        return [str(a[name]) for t, a in self.tags if name in a and tag in (None, t)]


@pytest.fixture(scope="module")
def found(faults: Faults) -> SourceReport:
    return check_source(faults.source)


@pytest.fixture(scope="module")
def written(found: SourceReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "check.html"
    page = write_check_page(found, path, jobs=2)
    assert page.size == path.stat().st_size < 1e6
    assert page.without_pictures == 0
    assert [p.name for p in path.parent.iterdir()] == ["check.html"]
    return path


def test_the_page_holds_what_the_json_holds(found: SourceReport, written: Path) -> None:
    text = Page(written).text
    content = found.to_json()
    for row in content["parts"].values():
        for value in row.values():
            assert f"{value:,}" in text
    for row in content["geometries"]:
        depth, height, width = row["shape"]
        assert f"{width} x {height} x {depth}" in text
    for shares in (
        *content["prevalence_by_tenth_of_height"].values(),
        content["empty_by_tenth_of_height"],
    ):
        assert "".join(f"{share:.0%}" for share in shares) in text.replace(" ", "")
    for volumes in content["volume_ml"].values():
        assert "".join(f"{value:,.0f}" for value in volumes.values()) in text.replace(" ", "")
    for pair, row in content["overlaps"].items():
        told = pair.replace("_", "").replace("+", "with") + f"{row['pixels']:,}{row['slices']:,}"
        assert told in text.replace(" ", "")
    for scan_id, row in content["intensity"].items():
        told = "".join(f"{row[key]:,.0f}" for key in ("least", "median", "p99", "greatest"))
        assert re.search(rf"{scan_id}\d+train64x64x24{told}", text.replace(" ", ""))
    for suspect in content["suspects"]:
        for key in ("scan_id", "kind", "measured", "usual", "remedy"):
            assert text.count(suspect[key]) >= 1
        assert f"{suspect['measured']} (usual: {suspect['usual']})" in text


def test_the_page_needs_nothing_else(written: Path) -> None:
    page = Page(written)
    for reference in (
        *page.all("src"), *page.all("href"), *page.all("xlink:href"), *page.all("srcset"),
    ):  # fmt: skip
        assert reference.startswith(("data:", "#")), reference
    raw = written.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)", raw)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "embed"})
    ids = page.all("id")
    assert len(ids) == len(set(ids))
    assert {ref[1:] for ref in page.all("href") if ref.startswith("#")} <= set(ids)


def test_every_picture_and_plot_is_told_in_words(found: SourceReport, written: Path) -> None:
    page = Page(written)
    pictures = page.all("alt", "img")
    assert len(pictures) == len(page.all("src", "img")) > 20
    assert all("case" in alt for alt in pictures)
    assert all(int(width) <= 320 for width in page.all("width", "img"))
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(plots) == 5
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plots)


def test_the_same_source_gives_the_same_bytes(
    found: SourceReport, written: Path, faults: Faults, tmp_path: Path
) -> None:
    again = tmp_path / "again.html"
    write_check_page(check_source(faults.source), again, jobs=1)
    assert again.read_bytes() == written.read_bytes()


def test_a_zip_nifti_or_unlabelled_source_and_one_slice_have_their_pages(tmp_path: Path) -> None:
    sources = [
        write_zip(tmp_path / "a.zip", make_source().files()),
        write_source(tmp_path / "b", make_source((), test_ids=("case1_day0",))),
        write_source(tmp_path / "c", make_source(("case1_day0",), shape=(1, 12, 16))),
    ]
    for source in sources:
        path = tmp_path / f"{source.name}.html"
        write_check_page(check_source(source), path)
        assert f"Check of {source.name}" in Page(path).text
    assert 'id="masks"' not in (tmp_path / "b.html").read_text()
    assert "the source would need 12 labelled scans and has 4" in Page(tmp_path / "a.zip.html").text


def test_known_bad_scans_are_shown_with_why(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", make_source(("case7_day0", "case2_day1")))
    path = tmp_path / "check.html"
    write_check_page(check_source(source), path)
    page = Page(path)
    assert "case7_day0: wrong masks" in page.text
    assert sum(alt.startswith("case7_day0") for alt in page.all("alt", "img")) >= 3


def test_a_name_cannot_end_an_element(tmp_path: Path) -> None:
    source = write_source(tmp_path / '<script>"&', make_source(("case1_day0",)))
    path = tmp_path / "check.html"
    write_check_page(check_source(source), path)
    page = Page(path)
    assert "script" not in {tag for tag, _ in page.tags}
    assert 'Check of <script>"&' in page.text


def test_warnings_and_what_is_not_pictured_are_told(found: SourceReport, tmp_path: Path) -> None:
    one = next(s for s in found.suspects if s.kind == "mask jump")
    many = tuple(
        replace(one, scan_id=scan.scan_id, slice_number=n)
        for scan in found.scans[:2]
        for n in range(2, 22, 2)
    )
    changed = replace(found, suspects=many, warnings=("something was passed over",))
    page = write_check_page(changed, tmp_path / "check.html", jobs=2)
    text = Page(page.path).text
    assert "Warning: something was passed over" in text
    assert page.without_pictures == text.count("Not pictured") == 5


def test_nothing_is_written_into_the_source_or_over_it(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source", make_source(("case1_day0",)))
    archive = write_zip(tmp_path / "s.zip", make_source(("case1_day0",)).files())
    (tmp_path / "link").symlink_to(source)
    before = tree(tmp_path)
    for of, place in (
        (source, source / "check.html"),
        (source, source / "train" / "new" / "check.html"),
        (source, tmp_path / "link" / "train.csv"),
        (archive, archive),
    ):
        with pytest.raises(OutputError, match="inside the source"):
            write_check_page(check_source(of), place)
    assert tree(tmp_path) == before


def test_a_page_that_cannot_be_finished_leaves_the_former_one(
    found: SourceReport, tmp_path: Path
) -> None:
    path = tmp_path / "check.html"
    path.write_text("<!DOCTYPE html>former")

    def fail(scan_id: str) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_check_page(replace(found, load=fail), path)
    assert path.read_text() == "<!DOCTYPE html>former"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_command_writes_the_page_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Noise for images: any slice may be exchanged with the next.
    write_source(tmp_path / "source", make_source(shape=(60, 12, 16)))

    def run(*arguments: str) -> tuple[int, str, str]:
        return run_in_process(arguments, monkeypatch=monkeypatch, capsys=capsys)

    code, out, err = run("check", "source", "--html", "new/check.html")
    assert code == 0
    assert re.search(r"new/check.html \(0\.\d MB; \d+ suspects without pictures \(--all\)\)", out)
    assert "taking pictures" in err
    capped = (tmp_path / "new" / "check.html").stat().st_size
    code, out, _ = run("check", "source", "--html", "all.html", "--all", "--json")
    assert code == 0
    content = json.loads(out)
    size = (tmp_path / "all.html").stat().st_size
    assert content.pop("page") == {"path": "all.html", "bytes": size}
    assert content == {"format": 1, **check_source(Path("source")).to_json()}
    assert size > capped


def test_every_empty_place_of_the_plots_is_drawn_without_a_warning(tmp_path: Path) -> None:
    made = make_source(("case1_day0", "case2_day0"))
    bare = tuple(replace(scan, masks=np.zeros_like(scan.masks)) for scan in made.train)
    rows = tuple((name, organ, "") for name, organ, _ in made.rows)
    source = write_source(tmp_path / "source", replace(made, train=bare, rows=rows))
    write_check_page(check_source(source), tmp_path / "check.html")
    assert "no mask at all100%" in Page(tmp_path / "check.html").text.replace("all 100", "all100")
