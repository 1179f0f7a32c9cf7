"""How the command line speaks: one style for results, notices, warnings and progress.

Results go to standard output; everything else to standard error, so that ``--json`` can be piped.
``--quiet`` silences notices and progress. What moves is drawn on a terminal only: a file or a pipe
gets plain lines, whatever FORCE_COLOR asks for. Rich minds NO_COLOR and TERM.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from gi2nnunet.core.workers import Progress

PLAIN_EVERY_SECONDS = 10.0


@dataclass
class _Manner:
    """How this run speaks."""

    quiet: bool = False
    drawing: Console | None = None  # the one that draws something that moves: all go through it


_manner = _Manner()


def set_quiet(quiet: bool) -> None:
    """Silence notices and progress, or not."""
    _manner.quiet = quiet


def _out() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _err() -> Console:
    return _manner.drawing or Console(stderr=True, soft_wrap=True, highlight=False)


@contextmanager
def draw() -> Iterator[Console | None]:
    """Give the console to draw on what moves; ``None`` where lines have to do."""
    console = Console(stderr=True, highlight=False)
    moves = console.is_interactive and console.file.isatty() and not _manner.quiet
    _manner.drawing = console if moves else None
    try:
        yield _manner.drawing
    finally:
        _manner.drawing = None


def print_result(text: str) -> None:
    """Print a line of the result; a path or a number stays as it is."""
    _out().print(escape(text))


def print_notice(text: str) -> None:
    """Say what is being done."""
    if _manner.quiet:
        return
    _err().print(escape(text), soft_wrap=True)


def print_warning(text: str) -> None:
    """Print a warning."""
    _err().print(f"[yellow]Warning:[/] {escape(_printable(text))}", soft_wrap=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings, one a line."""
    for warning in warnings:
        print_warning(warning)


def print_error(text: str) -> None:
    """Print what went wrong."""
    _err().print(f"[bold red]Error:[/] {escape(_printable(text))}", soft_wrap=True)


def _printable(text: str) -> str:
    """Return a text whose control characters, as a file's name may hold, show and do nothing."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in shown
    )


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output; what is not a number becomes null."""
    print(json.dumps(_plain(content), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: no NaN, no tuples, no paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1
) -> None:
    """Print a table; the first ``text_columns`` are aligned left, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        # Folded, not cut: of a name that is cut off nobody knows which it is.
        table.add_column(
            column, justify="left" if index < text_columns else "right", overflow="fold"
        )
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)


@dataclass
class _Step:
    """How far one step of a progress is, and when it will be through at its pace so far."""

    what: str
    first: int
    began: float
    ends: float | None = None

    def go_on(self, done: int, total: int) -> None:
        now = time.monotonic()
        self.ends = None
        if self.first < done < total:
            self.ends = now + (now - self.began) / (done - self.first) * (total - done)

    def time_left(self) -> str:
        """Return such as ``42 s left``; empty where that is not known."""
        if self.ends is None:
            return ""
        return f"{format_seconds(max(0.0, self.ends - time.monotonic()))} left"


class _Time(TextColumn):
    """The time left; the time taken, once through or where nothing is counted."""

    def __init__(self) -> None:
        super().__init__("", justify="right")

    def render(self, task: Task) -> Any:
        left = "" if task.finished else task.fields["step"].time_left()
        return left or format_seconds(task.elapsed or 0.0)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Give a callback ``(done, total, what)`` that draws a bar, or plain lines off a terminal.

    Both tell the time left. A step with a ``total`` of one is told when it begins.
    """
    with draw() as console:
        if console is None:
            yield _plain_progress()
            return
        bar = Bar(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[counted]}", justify="right"),
            _Time(),
            console=console,
            expand=True,
        )
        try:
            yield _drawn_progress(bar)
        finally:
            if bar.tasks:
                bar.stop()


def _drawn_progress(bar: Bar) -> Progress:
    steps: dict[str, tuple[Any, _Step]] = {}

    def update(done: int, total: int, what: str) -> None:
        bar.start()  # with the first step: what comes before it are lines
        if what not in steps:
            for earlier, _ in steps.values():  # whoever counts to one may tell its start alone
                if bar.tasks[earlier].total is None:
                    bar.update(earlier, total=1, completed=1)
            step = _Step(what, done, time.monotonic())
            task = bar.add_task(escape(what), total=None, step=step, counted="")
            steps[what] = (task, step)
        task, step = steps[what]
        step.go_on(done, total)
        bar.update(
            task,
            completed=done,
            total=None if total == 1 and not done else total,  # a single step's bar pulses
            counted="" if total == 1 else f"{done} of {total}",
        )

    return update


def _plain_progress() -> Progress:
    told: dict[str, tuple[float, int]] = {}
    steps: dict[str, _Step] = {}

    def update(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        told_at, told_done = told.get(what, (-math.inf, -1))
        step = steps.setdefault(what, _Step(what, done, time.monotonic()))
        step.go_on(done, total)
        if total == 1 and what in told:
            return
        if done != told_done and (done == total or now - told_at >= PLAIN_EVERY_SECONDS):
            told[what] = (now, done)
            left = step.time_left()
            line = f"{what}: {done} of {total}{f', {left}' if left else ''}"
            print_notice(what if total == 1 else line)

    return update


def count(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 scan``, ``2 scans``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_seconds(seconds: float) -> str:
    """Return a duration such as ``1 h 05 min`` or ``42 s``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
