"""Errors: every failure that a user can cause or meet has a class and an exit code.

Exit codes: 0 done, 2 wrong usage (Click's own), 3 :class:`InputError`, 4 :class:`EngineError`,
5 :class:`OutputError`, 6 :class:`StoppedError`. A mistake of the *calling program* is a plain
:class:`ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_MOST_PROBLEMS_SHOWN = 20
_MOST_CHARACTERS = 400


class GiError(Exception):
    """Base of the errors below; never raised itself."""

    exit_code = 1


class InputError(GiError):
    """An input cannot be used: a source, a CSV, an RLE, a volume, a workspace, an option."""

    exit_code = 3


class EngineError(GiError):
    """nnU-Net, or a process that runs it, failed."""

    exit_code = 4


class OutputError(GiError):
    """A result could not be written."""

    exit_code = 5


class StoppedError(GiError):
    """A run stopped early, as it was asked to; the same command continues from there."""

    exit_code = 6


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with an input: where it is, what was found, what was expected."""

    where: str
    found: str
    expected: str

    def __str__(self) -> str:
        """Return the problem as one line; very long texts are shortened."""
        where, found, expected = map(shorten, (self.where, self.found, self.expected))
        return f"{where}: found {found}; expected {expected}"


def shorten(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return a text without its middle if that would fill the screen."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]} ... {text[-most // 4 :]} ({len(text)} characters)"


def name_some(names: Sequence[str], *, most: int = 5, separator: str = ", ") -> str:
    """Return the first names and how many more there are, for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return separator.join(names[:most]) + more


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: ``1 scan``, ``2 scans``; a ``plural`` is not only with s."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def raise_problems(problems: Iterable[object], *, remedy: str) -> None:
    """Report all problems of one input together, with a ``remedy`` of one sentence.

    Raises
    ------
    InputError
        If there is at least one problem. The first twenty are listed, the rest are counted.
    """
    listed = list(problems)
    if not listed:
        return
    lines = [str(problem) for problem in listed[:_MOST_PROBLEMS_SHOWN]]
    if len(listed) > _MOST_PROBLEMS_SHOWN:
        lines.append(f"... and {len(listed) - _MOST_PROBLEMS_SHOWN} more")
    raise InputError("\n".join([*lines, remedy]))


def require_positive(**numbers: float | None) -> None:
    """Raise a :class:`ValueError` for a number that is not above 0; ``None`` is allowed."""
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: found {value!r}; expected a number above 0")


@dataclass(frozen=True)
class Finding:
    """One file or folder that is not as it should be; ``remedy`` is one sentence."""

    file: Path
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.file}: found {self.found}; expected {self.expected}. {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {name: str(value) for name, value in asdict(self).items()}


Check = Callable[[], list[Finding]]

MOST_SIDE = 4096
"""Pixels along a side of a slice; the competition's have 360 at most."""

MOST_VOXELS = 2**30
"""Voxels of a scan; the competition's have 16 million."""

MOST_TABLE_BYTES = 2**30
"""Bytes of a CSV, unpacked; the competition's has 25 million."""

MOST_TABLE_RATIO = 250
"""Unpacked bytes of a CSV per packed byte; real ones reach 40."""

_SMALL_TABLE_BYTES = 2**24  # smaller tables may have any ratio
_PNG_EXTRA_BYTES = 2**16  # chunks, text, a colour profile
_MOST_BYTES_A_PIXEL = 8  # RGBA of 16 bits: a coloured image gets a message of its own


def most_png_bytes(*, width: int, height: int) -> int:
    """Return the most bytes that a PNG of this size can have, of any kind, uncompressed."""
    return height * (width * _MOST_BYTES_A_PIXEL + 1) + _PNG_EXTRA_BYTES


def most_rle_characters(pixels: int) -> int:
    """Return the most characters of an image's RLE text: each pixel is a run of its own."""
    return 2 * pixels * (len(str(pixels)) + 1)


def is_table_bomb(size: int, *, packed: int) -> bool:
    """Return whether a packed CSV of ``size`` bytes unpacks to more than any real one."""
    return size > _SMALL_TABLE_BYTES and size > MOST_TABLE_RATIO * max(packed, 1)
