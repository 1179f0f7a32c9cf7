"""One bad input: what is made, what is asked of it, what must be said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


def make_nothing(here: Path) -> None:
    """Leave the folder as it is."""


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One kind of bad input, or one that looks bad and is taken all the same.

    Attributes
    ----------
    name
        What is bad, in a few words; no two entries share one.
    command
        The command line, run in the folder; blanks part its words.
    message
        What standard error must hold, white space made one blank: the file, row or slice, what
        was found, what was expected, what to do.
    exit_code
        3 for input, 2 for usage, 5 for output; 0 for what is taken.
    make
        Makes the bad thing in the folder.
    start
        What the folder holds before that: nothing; a converted source in ``source`` and
        ``gi2nnunet-workspace``; or that with a model that looks finished.
    engine
        Whether nnU-Net is started to find out.
    patch
        Changes the surroundings by pytest's monkeypatch, as where a disk is to be full.
    """

    name: str
    command: str
    message: tuple[str, ...]
    exit_code: int = 3
    make: Callable[[Path], None] = make_nothing
    start: Literal["empty", "converted", "model"] = "empty"
    engine: bool = False
    patch: Callable[[Any], None] | None = None
