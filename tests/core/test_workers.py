"""Workers leave Ctrl-C to their parent, and end with it."""

import os
import signal
import subprocess
import sys
import time

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
