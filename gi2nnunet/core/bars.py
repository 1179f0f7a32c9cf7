"""Progress bars for a notebook or a terminal, drawn by tqdm.

tqdm comes with nnU-Net. Without ipywidgets it still draws text in a notebook, where Rich would
draw nothing.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gi2nnunet.core.workers import Progress

Shown = Progress | bool | None
"""What a call takes as ``progress``: ``True`` draws bars, ``False`` and ``None`` nothing."""

_WHOLE = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt} [{elapsed}<{remaining}]"
_SINGLE = "{desc}: {elapsed}"  # a single step has no part that could be drawn


@contextmanager
def draw_bars(progress: Shown) -> Iterator[Progress | None]:
    """Give the callback of a call; bars stay as lines when the call ends."""
    if progress is not True:
        yield progress or None
        return
    bars: dict[str, Any] = {}
    drawing = threading.Lock()

    def update(done: int, total: int, what: str) -> None:
        with drawing:
            if what not in bars:
                _finish_single_steps(bars)
                bars[what] = _make_bar(total, what)
            bar = bars[what]
            bar.total = total
            bar.update(max(done - bar.n, 0))  # threads can report out of order

    try:
        yield update
        _finish_single_steps(bars)
    finally:
        for bar in bars.values():
            bar.close()


def _make_bar(total: int, what: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a notebook without ipywidgets: text is drawn there
        from tqdm.auto import tqdm
    style = _SINGLE if total == 1 else _WHOLE
    return tqdm(total=total, desc=what, bar_format=style, dynamic_ncols=True)


def _finish_single_steps(bars: dict[str, Any]) -> None:
    """End the steps that need not report their end."""
    for bar in bars.values():
        if bar.total == 1:
            bar.update(1 - bar.n)
