"""Progress and notices: the callbacks by which long calls report what they do."""

from __future__ import annotations

import itertools
from collections.abc import Callable

# (done, total, what): so many of a total of steps, and what they are. A total of one has no steps.
Progress = Callable[[int, int, str], None]
# One sentence.
Notice = Callable[[str], None]


def count_steps(
    progress: Progress | None, total: int, what: str, *, first: int = 0
) -> Callable[[object], None]:
    """Return a function to call after each step, which reports how many there were.

    Parameters
    ----------
    progress
        What to report to.
    total, what
        How many steps there will be, and of what.
    first
        Steps that were taken before.
    """
    counter = itertools.count(first + 1)
    return lambda _: (progress or ignore)(next(counter), total, what)


def ignore(*_: object) -> None:
    """Do nothing; the callback of a call that was given none."""
