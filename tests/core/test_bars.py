"""Progress bars as they are drawn: on a terminal, in a notebook's kernel, and not unless asked."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gi2nnunet.core.bars import draw_bars
from tests.source_factory import make_source, write_source

CONVERT = 'gi2nnunet.convert("source", workspace="{}", jobs=1{})'


def run_on_terminal(code: str, *, cwd: Path) -> str:
    """Run code in a new process that has a terminal; return what is drawn there."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 100))
    command = [sys.executable, "-c", f"import gi2nnunet; {code}"]
    process = subprocess.Popen(command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    drawn, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([ours], [], [], 1)[0]:
            try:
                drawn += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.wait(10) == 0, drawn.decode()
    return drawn.decode()


def test_bars_on_a_terminal(here: Path) -> None:
    write_source(here / "source", make_source())
    drawn = run_on_terminal(CONVERT.format("w", ", progress=True"), cwd=here)
    lines = [line.rpartition("\r")[2] for line in drawn.rstrip().split("\r\n")]
    assert any(re.search(r": 100%\|.*\| (\d+) of \1 \[", line) for line in lines)
    assert all(re.match(r"[\w ,:]+: (100%|\d\d:\d\d)", line.strip()) for line in lines), lines
    assert drawn.count("\r") > len(lines)  # a bar is drawn over itself
    assert run_on_terminal(CONVERT.format("v", ""), cwd=here) == ""
    assert run_on_terminal(CONVERT.format("u", ", progress=False"), cwd=here) == ""


def test_bars_in_a_notebook(here: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    write_source(here / "source", make_source())
    cells = [f"import gi2nnunet\n{CONVERT.format('w', more)};" for more in (", progress=True", "")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(here)}}
    nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
    drawn, quiet = (cell.outputs for cell in notebook.cells)
    assert quiet == []
    assert drawn
    assert {output.output_type for output in drawn} <= {"stream", "display_data"}
    text = f"{drawn} {notebook.metadata.get('widgets')}"  # text, or ipywidgets if installed
    assert "100%" in text
    assert "Warning" not in text


def watch(capsys: pytest.CaptureFixture[str], work: Callable[..., None]) -> str:
    with draw_bars(True) as report:
        work(report)
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_steps_that_come_out_of_order_are_counted_once(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Callable[[int, int, str], None]) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: report(n, 200, "slices"), [*range(200, 0, -1)]))

    assert "slices: 100%" in watch(capsys, work).rpartition("\r")[2]


def test_single_steps_end_with_the_next_one(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Callable[[int, int, str], None]) -> None:
        report(0, 1, "planning")
        report(0, 1, "unpacking")

    drawn = watch(capsys, work)
    assert "planning: 00:00" in drawn
    assert "unpacking: 00:00" in drawn
    assert "%" not in drawn


def test_an_error_leaves_the_bar_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def work(report: Callable[[int, int, str], None]) -> None:
        report(3, 6, "scans")
        raise KeyError

    with pytest.raises(KeyError):
        watch(capsys, work)
    assert re.search(r"scans:  50%.*3 of 6", capsys.readouterr().err.rpartition("\r")[2])


def test_a_function_is_called_and_nothing_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int, str]] = []
    with draw_bars(lambda *step: told.append(step)) as report:
        assert report is not None
        report(1, 2, "scans")
    assert told == [(1, 2, "scans")]
    for nothing in (None, False):
        with draw_bars(nothing) as report:
            assert report is None
    assert capsys.readouterr() == ("", "")
