"""Errors, one family: every failure a user can cause or meet has a class and an exit code.

Exit codes: 0 done, 2 wrong usage (Click's own), 3 :class:`InputError`, 4 :class:`EngineError`,
5 :class:`OutputError`, 6 :class:`StoppedError`. A mistake of the *calling program* is a plain
:class:`ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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


def raise_problems(problems: Iterable[object], *, remedy: str) -> None:
    """Tell all problems of one input together.

    Parameters
    ----------
    problems
        What was collected, a :class:`Problem` or a message each; nothing is raised where it is
        empty.
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


def require_positive(**numbers: float | None) -> None:
    """Raise a :class:`ValueError` for a number that is not above 0; ``None`` is one's default."""
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: found {value!r}; expected a number above 0")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    file
        The file or folder.
    found, expected
        What it is and what it should be.
    remedy
        What to do, one sentence.
    """

    file: Path
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.file}: found {self.found}; expected {self.expected}. {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {
            "file": str(self.file),
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }


Check = Callable[[], list[Finding]]

MOST_SIDE = 4096
"""Pixels along a side of a slice; the competition's have 360 at most."""

MOST_VOXELS = 2**30
"""Voxels of a scan; the competition's have 16 million."""

MOST_TABLE_BYTES = 2**30
"""Bytes of a CSV, unpacked; the competition's has 25 million."""

MOST_TABLE_RATIO = 250
"""To how many times its packed size a CSV may unpack; real ones reach 40."""

_SMALL_TABLE_BYTES = 2**24  # the ratio says nothing of less
_PNG_EXTRA_BYTES = 2**16  # chunks, text, a colour profile
_MOST_BYTES_A_PIXEL = 8  # RGBA of 16 bits, so that a coloured one is told as such


def most_png_bytes(*, width: int, height: int) -> int:
    """Return how large a PNG of these pixels can be, of whatever kind and not compressed at all."""
    return height * (width * _MOST_BYTES_A_PIXEL + 1) + _PNG_EXTRA_BYTES


def most_rle_characters(pixels: int) -> int:
    """Return how long the RLE text of an image of so many pixels can be: each pixel its own run."""
    return 2 * pixels * (len(str(pixels)) + 1)


def is_table_bomb(size: int, *, packed: int) -> bool:
    """Return whether a packed CSV of ``size`` bytes unpacks to more than any real one."""
    return size > _SMALL_TABLE_BYTES and size > MOST_TABLE_RATIO * max(packed, 1)
