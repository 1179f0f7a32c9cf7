"""SIGUSR2 as a batch system sends it: to every process of a job, at a moment of its choice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from gi2nnunet.cli.live import stop_when_warned


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL])
def test_the_signal_sets_the_event_and_all_is_as_before(before: signal.Handlers) -> None:
    former = signal.signal(signal.SIGUSR2, before)
    try:
        with stop_when_warned() as stop:
            assert not stop.is_set()
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop.wait(10)
        assert signal.getsignal(signal.SIGUSR2) == before
        assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.signal(signal.SIGUSR2, former)


def test_neither_older_threads_nor_child_processes_end_by_it() -> None:
    """A thread that was there before, as numerical libraries start them, does not block it."""
    end = threading.Event()
    older = threading.Thread(target=end.wait)
    older.start()
    with stop_when_warned() as stop:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
        child.send_signal(signal.SIGUSR2)
        for _ in range(20):
            os.kill(os.getpid(), signal.SIGUSR2)
        assert child.wait() == 0
        assert stop.wait(10)
    end.set()
    older.join()


def test_the_main_thread_may_be_waiting() -> None:
    script = (
        "import os, signal, sys, threading\n"
        "import numpy\n"
        "from gi2nnunet.cli.live import stop_when_warned\n"
        "read, write = os.pipe()\n"
        "with stop_when_warned() as stop:\n"
        "    def tell():\n"
        "        stop.wait(); os.write(write, b'x')\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        "    os.kill(os.getpid(), signal.SIGUSR2)\n"
        "    sys.exit(0 if os.read(read, 1) else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 0
