"""Workers leave Ctrl-C to their parent, and end with it; one that ends early is reported."""

import os
import re
import signal
import struct
import subprocess
import sys
import time

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.workers import QuietPool

PARENT = """
import os, signal, sys, time
from gi2nnunet.core.workers import QuietPool

def work(seconds):
    time.sleep(seconds)
    return b"large" * 10_000_000  # more than a pipe holds

if __name__ == "__main__":
    with QuietPool(2) as pool:
        futures = [pool.submit(work, 0.5) for _ in range(2)]
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(work, 60)
        futures[0].result()
        time.sleep(60)
"""


def start(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    return process, int(process.stdout.readline())


def test_ctrl_c_reaches_the_parent_alone(tmp_path):
    process, worker = start(tmp_path)
    os.kill(worker, signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    os.kill(worker, 0)  # it still runs
    os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert "Traceback" not in said


def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    process, worker = start(tmp_path)
    time.sleep(0.4)
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        os.kill(worker, signal.SIGKILL)
        raise AssertionError("a worker outlives its parent")
    process.communicate()


def test_this_process_still_hears_it():
    with QuietPool(1) as pool:
        assert pool.submit(abs, -3).result() == 3
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def end_by(how):
    """End this process at once, by a signal or with an exit code."""
    if how.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, how))
        time.sleep(60)
    os._exit(int(how))


def end_while_handing_over():
    """End by SIGTERM when a part of the result is in the pipe, as where many megabytes are."""
    frame = sys._getframe()
    while "connection" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["connection"].fileno(), struct.pack("!i", 1000) + b"a part")
    end_by("SIGTERM")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("SIGTERM", "it was ended by SIGTERM"),
        ("SIGHUP", "it was ended by SIGHUP"),
        ("SIGKILL", "it was killed (SIGKILL), most likely for lack of memory"),
        ("0", "it ended with exit code 0"),
        ("3", "it ended with exit code 3"),
    ],
)
def test_a_worker_that_ends_early_is_reported_within_seconds(how, said):
    with QuietPool(2) as pool:
        pool.submit(abs, 1).result()
        pool.submit(time.sleep, 100)  # the other workers are not waited for
        began = time.monotonic()
        with pytest.raises(EngineError, match=re.escape(said)) as caught:
            pool.submit(end_by, how).result()
        with pytest.raises(EngineError, match=re.escape(said)):
            pool.submit(abs, 1).result()
    assert time.monotonic() - began < 10
    assert "fewer --jobs" in str(caught.value)


def test_a_worker_that_ends_while_it_hands_its_result_over_is_reported():
    with QuietPool(2) as pool:
        other = pool.submit(time.sleep, 100)
        began = time.monotonic()
        with pytest.raises(EngineError, match="SIGTERM"):
            pool.submit(end_while_handing_over).result()
        with pytest.raises(EngineError, match="SIGTERM"):
            other.result()
    assert time.monotonic() - began < 10


def refuse(path):
    raise InputError(f"{path}: found nothing; expected a file.")


def return_a_function():
    return lambda: None


def test_what_a_call_raises_is_raised_with_its_place_and_ends_no_worker():
    with QuietPool(1) as pool:
        with pytest.raises(InputError, match=r"^a: found nothing; expected a file") as caught:
            pool.submit(refuse, "a").result()
        assert "in refuse" in caught.value.__notes__[0]
        with pytest.raises(ValueError, match="cannot be sent"):
            pool.submit(return_a_function).result()
        with pytest.raises(AttributeError, match="lambda"):
            pool.submit(lambda: None).result()
        assert pool.submit(abs, -3).result() == 3


def test_workers_end_with_the_pool(tmp_path):
    with QuietPool(2) as pool:
        pids = {pool.submit(os.getpid).result() for _ in range(3)}
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
