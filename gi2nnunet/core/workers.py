"""How many workers there can be, and processes that leave Ctrl-C to the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any


class QuietPool(ProcessPoolExecutor):
    """A pool of freshly started processes that Ctrl-C does not reach.

    A terminal sends it to every process of a command; each worker would print a traceback of its
    own. They end with the pool, or at once with the process that holds it: by themselves they would
    wait for ever to hand a large result to a process that was killed.

    Parameters
    ----------
    jobs
        Most processes at once.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call; processes started for it inherit that the signal is held back."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def count_cores() -> int:
    """Return the cores this process may use (not those of the whole machine)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        return max(1, os.cpu_count() or 1)


def _end_with_parent() -> None:
    """Watch the process that started this one; end with it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise ValueError("not in a worker")

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
