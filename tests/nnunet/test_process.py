from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import EngineError, OutputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.process import LogFile, _describe, engine_environment, new_log, run_engine
from tests.engines import is_running


def write_child(folder: Path, code: str) -> None:
    """Write a package whose engine child runs the given code."""
    package = folder / "gi2nnunet" / "nnunet" / "child"
    package.mkdir(parents=True)
    for place in (package.parents[1], package.parent, package):
        (place / "__init__.py").touch()
    (package / "main.py").write_text(code)


def test_a_failing_task_tells_its_log_and_last_lines(tmp_path: Path) -> None:
    log = new_log(tmp_path, "plan")
    with pytest.raises(EngineError) as caught:
        run_engine("no such task", {}, environment=dict(os.environ), log=log)
    message = str(caught.value)
    assert "ValueError: unknown task 'no such task'" in message
    assert str(log.path) in message
    assert "Traceback" in log.path.read_text()
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        ("AcceleratorError: CUDA error: no kernel image is available for execution", "README"),
        ("AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable",
         "CUDA_VISIBLE_DEVICES"),
        ("RuntimeError: CUDA driver version is insufficient for CUDA runtime version", "README"),
        ("InductorError: RuntimeError: Failed to find C compiler. Please specify", "python3-dev"),
        ("fatal error: Python.h: No such file or directory", "python3-dev"),
        ("torch._inductor.exc.InductorError: SubprocException", "nnUNet_compile=f"),
        ("torch._dynamo.exc.BackendCompilerFailed: backend='inductor' raised", "nnUNet_compile=f"),
        ("GPUTooOldForTriton: Found Tesla P100 which is too old", "nnUNet_compile=f"),
        ("TritonMissing: Cannot find a working triton installation", "nnUNet_compile=f"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["message", "log"])
def test_a_failure_of_card_or_compiler_names_its_remedy(
    tmp_path: Path, failure: str, remedy: str, place: str
) -> None:
    log = new_log(tmp_path, "train")
    log.path.write_text(failure if place == "log" else "Epoch 0")
    event = {"kind": "RuntimeError", "message": failure if place == "message" else "unknown"}
    _, second, *_ = _describe("train", 1, event, log).splitlines()
    assert remedy in second


def test_a_variable_that_a_remedy_names_reaches_nnunet(tmp_path: Path) -> None:
    environment = engine_environment(
        open_workspace(tmp_path, environ={}), environ={"nnUNet_compile": "f"}, processes=1,
        augmentation_processes=0, threads=1,
    )  # fmt: skip
    assert environment["nnUNet_compile"] == "f"


def test_a_child_that_cannot_start_is_told(tmp_path: Path) -> None:
    log = new_log(tmp_path, "plan")
    environment = {**os.environ, "PYTHONHOME": "/nowhere"}
    with pytest.raises(EngineError, match="exit code"):
        run_engine("devices", {}, environment=environment, log=log)


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    """A child whose parent was killed must not live on, nor may its own children."""
    script = tmp_path / "child.py"
    script.write_text(
        "import os, subprocess, sys, time\n"
        "from gi2nnunet.nnunet.child.main import _end_with_parent\n"
        "_end_with_parent()\n"
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(os.getpid(), worker.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    pids = [int(pid) for pid in child.stdout.readline().split()]
    assert all(is_running(pid) for pid in pids)
    child.stdin.close()  # what the system does when a parent dies
    assert child.wait(10) == -signal.SIGKILL
    child.stdout.close()
    assert has_ended(pids[1])


def test_a_child_is_asked_to_stop_but_not_before_it_has_begun(tmp_path: Path) -> None:
    write_child(
        tmp_path,
        "import json, os, select, sys, time\n"
        "sys.stdin.buffer.readline()\n"
        "early = select.select([0], [], [], 1)[0]\n"
        "print(json.dumps({'event': 'start', 'early': bool(early)}), flush=True)\n"
        "os.read(0, 1)\n"
        "print(json.dumps({'event': 'result', 'stopped': True}), flush=True)\n",
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    told: list[dict[str, Any]] = []
    stop = threading.Event()
    stop.set()
    done = run_engine(
        "x", {}, environment=environment, log=new_log(tmp_path, "x"), on_event=told.append,
        stop=stop,
    )  # fmt: skip
    assert told == [{"event": "start", "early": False}]
    assert done["stopped"] is True


def test_a_killed_child_is_told_at_once_though_its_workers_live(tmp_path: Path) -> None:
    """Forked workers hold the event pipe; the death of the child alone must be enough."""
    write_child(
        tmp_path,
        "import os, signal, sys, time\n"
        "sys.stdin.readline()\n"
        "worker = os.fork()\n"
        "if worker == 0:\n"
        "    time.sleep(60)\n"
        'print(\'{"event": "worker", "pid": %d}\' % worker, flush=True)\n'
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n",
    )
    pids: list[int] = []
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    started = time.monotonic()
    with pytest.raises(
        EngineError, match=r"killed \(SIGKILL\), most likely for lack of memory"
    ) as caught:
        run_engine(
            "train", {}, environment=environment, log=new_log(tmp_path, "x"),
            on_event=lambda event: pids.append(event["pid"]),
        )  # fmt: skip
    assert time.monotonic() - started < 20
    assert "fewer --jobs" in str(caught.value)
    assert has_ended(pids[0])


WORKERS = """
import json, multiprocessing, os, sys, time
from gi2nnunet.nnunet.child.main import _end_with_workers

def emit(event):
    print(json.dumps(event), flush=True)

def end(code):
    time.sleep(0.5)
    os._exit(code)

if __name__ == "__main__":
    _end_with_workers(emit)
    context = multiprocessing.get_context("spawn")
"""
A_POOL = """
    with context.Pool(1) as pool:
        emit({"pid": pool.apply(os.getpid)})
        pool.apply(END, ARGUMENTS)
"""
A_PROCESS = """
    worker = multiprocessing.get_context("fork").Process(target=END, args=ARGUMENTS)
    worker.start()
    emit({"pid": worker.pid})
    time.sleep(100)
"""
SOUND = """
    with context.Pool(2) as pool:
        pool.map(abs, range(4))
    pool = context.Pool(1)
    pool.apply(abs, (-1,))
    pool.close()
    pool.join()
    worker = context.Process(target=time.sleep, args=(100,))
    worker.start()
    time.sleep(0.5)
    worker.terminate()
    time.sleep(1)
    worker.close()
    time.sleep(1)
    emit({"event": "sound"})
    os._exit(0)
"""


def test_workers_that_end_well_or_are_ended_here_are_not_reported(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WORKERS + SOUND)
    child = subprocess.run(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True, check=True
    )
    assert json.loads(child.stdout) == {"event": "sound"}


ENDS: list[tuple[int, str]] = [
    (signal.SIGTERM, "it was ended by SIGTERM"),
    (signal.SIGHUP, "it was ended by SIGHUP"),
    (signal.SIGKILL, "it was killed (SIGKILL), most likely for lack of memory"),
    (3, "it ended with exit code 3"),
]


@pytest.mark.parametrize(
    ("script", "how", "said"),
    [(script, *end) for script in (A_POOL, A_PROCESS) for end in ENDS]
    + [(A_POOL, 0, "A worker process ended before its work was done. ")],
)
def test_a_worker_that_ends_early_is_reported_where_python_would_wait_for_ever(
    tmp_path: Path, script: str, how: int, said: str
) -> None:
    is_signal = isinstance(how, signal.Signals)
    words = {
        "END": "time.sleep" if is_signal else "end",
        "ARGUMENTS": "(100,)" if is_signal else f"({how},)",
    }
    for word, value in words.items():
        script = script.replace(word, value)
    (tmp_path / "script.py").write_text(WORKERS + script)
    child = subprocess.Popen(
        [sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    worker = json.loads(child.stdout.readline())["pid"]
    if is_signal:
        time.sleep(0.6)
        os.kill(worker, how)
    started = time.monotonic()
    event = json.loads(child.stdout.readline())
    assert child.wait(10) == 1
    assert time.monotonic() - started < 5
    child.stdout.close()
    assert (event["event"], event["kind"]) == ("failure", "EngineError")
    assert said in event["message"]
    assert "Run the same again, with fewer --jobs" in event["message"]


@pytest.mark.parametrize(
    ("kind", "told"), [("EngineError", "case1_day0: MemoryError"), ("MemoryError", "MemoryError: ")]
)
def test_what_the_child_failed_with_is_told(tmp_path: Path, kind: str, told: str) -> None:
    message = "case1_day0: MemoryError" if kind == "EngineError" else ""
    event = {"event": "failure", "kind": kind, "message": message}
    write_child(
        tmp_path, f"import sys\nsys.stdin.readline()\nprint({json.dumps(event)!r})\nsys.exit(4)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    with pytest.raises(EngineError) as caught:
        run_engine("predict", {}, environment=environment, log=new_log(tmp_path, "x"))
    first = str(caught.value).splitlines()[0]
    assert first == f"nnU-Net failed in the step 'predict': {told}"


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_logs_of_one_second_do_not_share_a_file(tmp_path: Path) -> None:
    paths = {new_log(tmp_path / "logs", "train").path for _ in range(5)}
    assert len(paths) == 5


def test_a_folder_that_cannot_hold_logs_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        new_log(tmp_path / "file" / "logs", "train")


def test_last_lines_leave_out_the_steps_of_a_progress_bar(tmp_path: Path) -> None:
    log = new_log(tmp_path, "x")
    log.path.write_bytes(b"one\n 1%\r 50%\r100% done\n\nlast\n")
    assert log.last_lines() == "one\n100% done\nlast"


def test_last_lines_leave_out_tracebacks_and_the_middle_of_endless_lines(tmp_path: Path) -> None:
    log = LogFile(path=tmp_path / "log")
    log.path.write_text(
        "Preprocessing\n"
        + "x" * 5000
        + '\nmultiprocessing.pool.RemoteTraceback:\n"""\nTraceback (most recent call last):\n'
        '  File "a.py", line 1, in f\n    g()\nOSError: No space left on device\n"""\n\n'
        "The above exception was the direct cause of the following exception:\n\n"
        'Traceback (most recent call last):\n  File "b.py", line 2\nOSError: No space left\n'
    )
    first, long, *rest = log.last_lines().splitlines()
    assert first == "Preprocessing"
    assert len(long) < 500
    assert rest == ["OSError: No space left on device", "OSError: No space left"]
