"""How the command line speaks: one style for results, notices, warnings and progress.

Results go to standard output; everything else to standard error, so that ``--json`` can be piped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

ProgressCallback = Callable[[int, int, str], None]

_PLAIN_EVERY_SECONDS = 10.0


def _out() -> Console:
    return Console(soft_wrap=True, highlight=False)


def _err() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def print_result(text: str) -> None:
    """Print a line of the result; a path or a number stays as it is."""
    _out().print(escape(text))


def print_notice(text: str) -> None:
    """Say what is being done."""
    _err().print(escape(text))


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings, one a line."""
    for warning in warnings:
        _err().print(f"[yellow]Warning:[/] {escape(_printable(warning))}")


def print_error(text: str) -> None:
    """Print what went wrong."""
    _err().print(f"[bold red]Error:[/] {escape(_printable(text))}")


def _printable(text: str) -> str:
    """Return a text whose control characters, as a file's name may hold, show and do nothing."""
    shown = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        char if char in "\n\t" or char.isprintable() else repr(char)[1:-1] for char in shown
    )


def print_json(content: Mapping[str, Any]) -> None:
    """Print one JSON object on standard output."""
    print(json.dumps(content, indent=2))


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1
) -> None:
    """Print a table; the first ``text_columns`` are aligned left, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < text_columns else "right")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    console.print(table)


@contextmanager
def show_progress() -> Iterator[ProgressCallback]:
    """Give a callback ``(done, total, what)`` that draws a bar, or plain lines off a terminal."""
    console = _err()
    if not console.is_terminal:
        yield _plain_progress(console)
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    tasks: dict[str, Any] = {}
    with bar:

        def update(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield update


def _plain_progress(console: Console) -> ProgressCallback:
    last: dict[str, tuple[float, int]] = {}

    def update(done: int, total: int, what: str) -> None:
        now = time.monotonic()
        told_at, told = last.get(what, (-_PLAIN_EVERY_SECONDS, -1))
        if total == 1 and what in last:
            return  # a single step is told when it begins
        if done != told and (done == total or now - told_at >= _PLAIN_EVERY_SECONDS):
            last[what] = (now, done)
            console.print(escape(what if total == 1 else f"{what}: {done} of {total}"))

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
