"""A training that is warned of its end by a signal, as batch systems do, saves and ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gi2nnunet.cli.show import print_notice

_WARNING = signal.SIGUSR2


@contextmanager
def stop_when_warned() -> Iterator[threading.Event]:
    """Give an event that SIGUSR2 sets.

    The main thread, which may be waiting for the engine, blocks the signal: the engine's processes
    inherit that, and are not ended by it where a batch system sends it to every process of a job.
    Here it arrives in another thread, which Python's own handler would not know of for long; what
    that writes at once, to a pipe, is watched.
    """
    stop = threading.Event()
    told, telling = os.pipe()
    os.set_blocking(telling, False)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {_WARNING})
    pipe = signal.set_wakeup_fd(telling, warn_on_full_buffer=False)
    handler = signal.signal(_WARNING, lambda *_: None)

    def watch() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {_WARNING})
        while number := os.read(told, 1):
            if number[0] == _WARNING and not stop.is_set():
                print_notice("Asked to stop (SIGUSR2): saving at the end of this epoch.")
                stop.set()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(pipe)
        os.close(telling)
        watcher.join()
        os.close(told)
        signal.signal(_WARNING, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
