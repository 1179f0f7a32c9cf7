"""Worker processes: how many there can be, a pool of them, and how one ended.

Python's own pool passes all results through one pipe. If a worker is killed while it writes a
result, that pool waits forever for the rest. Here each worker has a pipe of its own, which ends
with it.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from gi2nnunet.core.errors import EngineError

Worker = tuple[BaseProcess, Connection]


class QuietPool(ThreadPoolExecutor):
    """A pool of at most ``jobs`` new processes that ignore Ctrl-C; a thread leads each.

    A terminal sends Ctrl-C to every process of a command; each worker would print a traceback of
    its own. Workers end with the pool, or at once with the process that holds it. If one ends
    early, all end, and every unfinished call fails with an
    :class:`~gi2nnunet.core.errors.EngineError`.
    """

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        self._own = threading.local()
        self._workers: list[Worker] = []
        self._lock = threading.Lock()
        self._failure: str | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit a call to be made in a worker."""
        return super().submit(self._call, fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads and then, with ``wait``, the workers."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            for process, connection in self._workers:
                connection.close()
                process.join()

    def _call(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        if not hasattr(self._own, "worker"):
            self._own.worker = self._start_worker()
        process, connection = self._own.worker
        try:
            connection.send((fn, args, kwargs))
            succeeded, value = connection.recv()
        except (EOFError, OSError) as error:
            raise EngineError(self._end_all(process)) from error
        if not succeeded:
            raise value
        return value

    def _start_worker(self) -> Worker:
        """Start the worker of this thread, which inherits the blocked signal."""
        resource_tracker.ensure_running()  # which unblocks the signal when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), daemon=True)
        with self._lock:
            process.start()
            self._workers.append((process, here))
        there.close()
        return process, here

    def _end_all(self, ended: BaseProcess) -> str:
        """End all workers after one ended early; return how the first one ended."""
        ended.join()
        with self._lock:
            if self._failure is None:
                self._failure = describe_early_end(ended.exitcode)
                if ended.exitcode == 1:
                    self._failure += (
                        " A script that uses several jobs needs an `if __name__ == '__main__':` "
                        "guard."
                    )
                for process, _ in self._workers:
                    process.kill()
            return self._failure


def _serve(connection: Connection) -> None:
    """Answer calls until the pool closes its end."""
    _end_with_parent()
    with suppress(EOFError):
        while True:
            answer = _make_call(*connection.recv())
            try:
                connection.send(answer)
            except Exception as error:  # a result, or an error, that cannot be pickled
                connection.send((False, ValueError(f"{answer[1]!r} cannot be sent: {error}")))


def _make_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[bool, Any]:
    try:
        return True, fn(*args, **kwargs)
    except Exception as error:  # raised again in the process that holds the pool
        error.add_note(traceback.format_exc())
        return False, error


def describe_early_end(code: int | None) -> str:
    """Return a message about a worker that ended early; the exit code is ``None`` if unknown."""
    how = "" if code is None else f": it {describe_end(code)}"
    return (
        f"A worker process ended before its work was done{how}. "
        "Run the same again, with fewer --jobs if the memory ran out."
    )


def describe_end(code: int) -> str:
    """Return how a process ended, from its exit code: ``was ended by SIGTERM``."""
    if code >= 0:
        return f"ended with exit code {code}"
    if -code == signal.SIGKILL:
        return "was killed (SIGKILL), most likely for lack of memory"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


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


# (done, total, what): steps done, steps in all, and what they are. A total of 1 has no steps.
Progress = Callable[[int, int, str], None]
# One sentence.
Notice = Callable[[str], None]


def count_steps(
    progress: Progress | None, total: int, what: str, *, first: int = 0
) -> Callable[[object], None]:
    """Return a function to call after each of ``total`` steps, which reports how many were done.

    ``first`` is the number of steps done before.
    """
    counter = itertools.count(first + 1)
    return lambda _: (progress or ignore)(next(counter), total, what)


def ignore(*_: object) -> None:
    """Do nothing: the default callback."""
