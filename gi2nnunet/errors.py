"""One error family: every failure a user can cause or meet has a class and an exit code.

Exit codes: 0 done, 2 wrong usage (Click's own), 3 :class:`InputError`, 4 :class:`EngineError`,
5 :class:`OutputError`, 6 :class:`StoppedError`. A mistake of the *calling program* is a plain
:class:`ValueError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MOST_PROBLEMS_SHOWN = 20
_MOST_CHARACTERS = 400


class GiError(Exception):
    """Root of the family; never raised itself."""

    exit_code = 1


class InputError(GiError):
    """What was given cannot be used: a source, a CSV, an RLE, a volume, a workspace, an option."""

    exit_code = 3


class EngineError(GiError):
    """nnU-Net, or a process that runs it, failed."""

    exit_code = 4


class OutputError(GiError):
    """A result could not be written."""

    exit_code = 5


class StoppedError(GiError):
    """A run was asked to stop early and did, at a point from which the same command goes on."""

    exit_code = 6


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with an input: where it is, what was found, what was expected."""

    where: str
    found: str
    expected: str

    def __str__(self) -> str:
        """Return the problem as one line, without the middle of what is very long."""
        where, found, expected = map(shorten, (self.where, self.found, self.expected))
        return f"{where}: found {found}; expected {expected}"


def shorten(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return a text without its middle where that would fill the screen."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 4 :]} ({len(text)} characters)"


def raise_problems(problems: Iterable[Problem], *, remedy: str) -> None:
    """Tell all problems of one input together.

    Parameters
    ----------
    problems
        What was collected; nothing is raised where it is empty.
    remedy
        What the user can do, one sentence.

    Raises
    ------
    InputError
        Where there is at least one problem. The first twenty are listed, the rest counted.
    """
    listed = list(problems)
    if not listed:
        return
    lines = [str(problem) for problem in listed[:_MOST_PROBLEMS_SHOWN]]
    if len(listed) > _MOST_PROBLEMS_SHOWN:
        lines.append(f"... and {len(listed) - _MOST_PROBLEMS_SHOWN} more")
    raise InputError("\n".join([*lines, remedy]))
