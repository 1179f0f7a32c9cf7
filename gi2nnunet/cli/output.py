"""Output of the command line: results, notices, warnings, errors, tables and progress.

Results go to standard output; everything else to standard error, so that ``--json`` can be piped.
Paths inside the current folder are printed relative to it; in JSON they stay as they are.
``--quiet`` silences notices and progress. Bars are drawn only on a terminal; a file or a pipe gets
plain lines, even with FORCE_COLOR. Rich follows NO_COLOR and TERM.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from gi2nnunet.core.command import name_place
from gi2nnunet.core.workers import Progress

PLAIN_EVERY_SECONDS = 10.0
JSON_FORMAT = 1
"""Gets another number if a key of ``--json`` changes its meaning or is taken away."""


@dataclass
class _Manner:
    """How this run prints."""

    quiet: bool = False
    workspace: str | None = None
    dataset_id: int | None = None
    drawing: Console | None = None  # draws bars or a live view; everything is printed through it


_manner = _Manner()


def set_quiet(quiet: bool) -> None:
    """Silence notices and progress, or not."""
    _manner.quiet = quiet


def set_place(workspace: object, dataset_id: int | None) -> None:
    """Add the options ``--workspace`` and ``--id`` of this run to the commands in messages."""
    _manner.workspace = None if workspace is None else str(workspace)
    _manner.dataset_id = dataset_id


def _name_place(text: str) -> str:
    return name_place(text, workspace=_manner.workspace, dataset_id=_manner.dataset_id)


def _finish(text: str) -> str:
    """Return a text as it is printed: commands with their place, paths from the current folder."""
    return _shorten(_name_place(text))


def _shorten(text: str) -> str:
    """Make absolute paths inside the current folder relative.

    A name that begins with a hyphen stays absolute, as a command would take it for an option.
    """
    try:
        here = re.escape(str(Path.cwd()))
    except FileNotFoundError:
        return text
    return re.sub(rf"""(?<![^\s'"(\[=:,]){here}/(?=[^\s'"/-])""", "", text)


def _out() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _err() -> Console:
    return _manner.drawing or Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def draw() -> Iterator[Console | None]:
    """Give the console for bars and live views; ``None`` if lines must do."""
    console = Console(stderr=True, highlight=False)
    moves = console.is_interactive and console.file.isatty() and not _manner.quiet
    _manner.drawing = console if moves else None
    try:
        yield _manner.drawing
    finally:
        _manner.drawing = None


def print_result(text: str, *, whole: bool = False) -> None:
    """Print a line of the result; with ``whole``, absolute paths stay so."""
    _out().print(escape(_name_place(text) if whole else _finish(text)))


def print_notice(text: str) -> None:
    """Print what is being done, unless the run is quiet."""
    if _manner.quiet:
        return
    _err().print(escape(_finish(text)), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning."""
    _err().print(f"[yellow]Warning:[/] {escape(_printable(_finish(text)))}", soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings, one per line."""
    for warning in warnings:
        print_warning(warning)


def print_error(text: str) -> None:
    """Print an error."""
    _err().print(f"[bold red]Error:[/] {escape(_printable(_finish(text)))}", soft_wrap=True)


def _printable(text: str) -> str:
    """Return a text with control characters escaped; a file name can contain some."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in shown
    )


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output, its format first; NaN and infinity become null."""
    whole = {"format": JSON_FORMAT, **content}
    print(json.dumps(_plain(whole), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Return a value without what JSON does not know: NaN, tuples, paths."""
    if isinstance(value, Mapping):
        return {
            str(key): _name_place(item) if key in ("remedy", "command") and item else _plain(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def make_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1
) -> Table:
    """Make a table; the first ``text_columns`` are aligned left, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        # Long names are wrapped: a name that is cut off cannot be recognized.
        table.add_column(
            column, justify="left" if index < text_columns else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(_printable(_shorten(str(cell)))) for cell in row))
    return table


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1
) -> None:
    """Print a table as :func:`make_table` makes it."""
    print_drawn([make_table(title, columns, rows, text_columns=text_columns)])


def print_drawn(parts: Iterable[RenderableType]) -> None:
    """Print tables and texts; in a file or a pipe they are 120 characters wide."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def make_line(text: str) -> Text:
    """Make a line as :func:`print_result` prints it, for :func:`print_drawn`."""
    return Text(_printable(_finish(text)), overflow="fold")


def format_bytes(size: float) -> str:
    """Return a size such as ``12.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class _Time(ProgressColumn):
    """The time left, if it can be estimated; otherwise the time taken."""

    def render(self, task: Task) -> Text:
        left = _describe_time_left(task)
        return Text(left or format_seconds(task.elapsed or 0.0), justify="right")


def _describe_time_left(task: Task) -> str:
    """Return such as ``42 s left``; empty if it is not known."""
    left = task.time_remaining
    return f"{format_seconds(left)} left" if left else ""


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Give a callback ``(done, total, what)`` that draws a bar, or prints a line now and then.

    Both show the time left. A step with a ``total`` of one is printed when it begins.
    """
    with draw() as console:
        bar = Bar(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[counted]}", justify="right"),
            _Time(),
            console=console,
            expand=True,
            disable=console is None,
            get_time=lambda: time.monotonic(),
            speed_estimate_period=math.inf,
        )
        try:
            yield _follow(bar)
        finally:
            if console is not None and bar.tasks:
                bar.stop()


def _follow(bar: Bar) -> Progress:
    """Return a callback that updates a bar, and prints lines if the bar is not drawn."""
    tasks: dict[str, Task] = {}
    printed: dict[str, tuple[float, int]] = {}

    def update(done: int, total: int, what: str) -> None:
        bar.start()  # not earlier, so that notices before the first step are lines
        if what not in tasks:
            for earlier in bar.tasks:
                if earlier.total is None:  # a single step need not report its end
                    bar.update(earlier.id, total=1, completed=1)
            bar.add_task(escape(what), total=None, counted="")
            tasks[what] = bar.tasks[-1]
        bar.update(
            tasks[what].id,
            completed=done,
            total=None if total == 1 and not done else total,  # a single step's bar pulses
            counted="" if total == 1 else f"{done} of {total}",
        )
        if bar.disable:
            print_line(done, total, what)

    def print_line(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        last_time, last_done = printed.get(what, (-math.inf, -1))
        due = done == total or now - last_time >= PLAIN_EVERY_SECONDS
        if done == last_done or not due or (total == 1 and what in printed):
            return
        printed[what] = (now, done)
        left = _describe_time_left(tasks[what])
        print_notice(
            what if total == 1 else f"{what}: {done} of {total}{f', {left}' if left else ''}"
        )

    return update


def format_seconds(seconds: float) -> str:
    """Return a duration such as ``1 h 05 min`` or ``42 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
