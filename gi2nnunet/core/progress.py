"""Progress and notices: the callbacks by which long calls report what they do."""

from __future__ import annotations

from collections.abc import Callable

# (done, total, what): so many of a total of steps, and what they are. A total of one has no steps.
Progress = Callable[[int, int, str], None]
# One sentence.
Notice = Callable[[str], None]


def ignore(*_: object) -> None:
    """Do nothing; the callback of a call that was given none."""
