"""Entry of the engine's child process: ``python -m gi2nnunet.nnunet.child.main``.

See :mod:`gi2nnunet.nnunet.process` for the protocol. nnU-Net reads its environment when it is
imported, so the tasks import it only here, never in the user's own process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

from gi2nnunet.core.errors import EngineError, GiError
from gi2nnunet.core.workers import describe_early_end

Emit = Callable[[dict[str, Any]], None]

_LOOK_SECONDS = 0.2

# The last one loads nearly all that a training needs, torchvision through timm included.
ENGINE_MODULES = ("torch", "torchvision", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
_TASKS = {
    "devices": ("cards", "list_devices"),
    "card": ("cards", "run_test"),
    "fingerprint": ("planner", "run_fingerprint"),
    "plan": ("planner", "run_plan"),
    "preprocess": ("planner", "run_preprocess"),
    "train": ("trainer", "run_training"),
    "measure": ("trainer", "run_measurement"),
    "predict": ("inference", "run_prediction"),
    "export": ("weights", "run_export"),
    "import": ("weights", "run_import"),
    "inspect": ("weights", "run_inspection"),
}


def main() -> int:
    """Run the one task that standard input names; return the exit code."""
    emit = _take_over_output()
    task = json.loads(sys.stdin.buffer.readline())
    stop = _end_with_parent()
    workers = _end_with_workers(emit)
    try:
        result = _run(task.pop("task"), task, emit, stop)
    except GiError as error:
        _keep_traceback()
        emit({"event": "failure", "kind": type(error).__name__, "message": str(error)})
        return error.exit_code
    except Exception as error:  # whatever nnU-Net raises becomes one event for the parent
        _keep_traceback()
        kind, lines = type(error).__name__, str(error).strip().splitlines()
        message = lines[0] if lines else ""
        if early := workers.find_early_end():  # which nnU-Net may have noticed first
            kind, message = EngineError.__name__, early
        emit({"event": "failure", "kind": kind, "message": message})
        return 1
    emit({"event": "result", **result})
    return 0


def _keep_traceback() -> None:
    """Send the traceback to the log; a full disk must not hide the message to the parent."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def _take_over_output() -> Emit:
    """Keep the event pipe for events; send everything that is printed to the log."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            events.write(json.dumps(event) + "\n")
            events.flush()

    return emit


def _end_with_parent() -> threading.Event:
    """Kill this process group when the parent is gone; a byte of input sets the event returned."""
    stop = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            stop.set()
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return stop


class _Workers(logging.Handler):
    """Worker processes of this one, and whether one of them ended early, for whatever reason.

    Python's pool then starts another one and waits for ever for the work of the dead one. A worker
    ended early if its exit code is not 0, unless this process ended it itself, or if its pool
    replaced it. Both are seen from outside: signals in Python's audit events, replacements in the
    log of ``multiprocessing``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[Any] = set()
        self._ended_here: set[int] = set()
        self._is_replaced = False
        sys.addaudithook(self._note_kill)
        multiprocessing.get_logger().addHandler(self)
        multiprocessing.get_logger().setLevel(logging.DEBUG)

    def find_early_end(self) -> str | None:
        """Return a message if a worker has ended early."""
        self._seen.update(multiprocessing.active_children())
        codes = {self._exit_code(worker) for worker in tuple(self._seen)} - {None, 0}
        if codes or self._is_replaced:
            return describe_early_end(next(iter(codes), None))
        return None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log message: a pool's first workers are started by the thread that makes it."""
        if record.msg == "added worker" and record.thread != threading.main_thread().ident:
            self._is_replaced = True

    def _note_kill(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.kill" and arguments[1]:
            self._ended_here.add(arguments[0])

    def _exit_code(self, worker: Any) -> int | None:
        try:
            return 0 if worker.pid in self._ended_here else worker.exitcode
        except ValueError:  # closed: it ended well
            return 0


def _end_with_workers(emit: Emit) -> _Workers:
    """End as soon as a worker process has ended early."""
    workers = _Workers()

    def watch() -> None:
        while (message := workers.find_early_end()) is None:
            time.sleep(_LOOK_SECONDS)
        emit({"event": "failure", "kind": EngineError.__name__, "message": message})
        os._exit(1)  # the parent ends all that is left

    threading.Thread(target=watch, daemon=True).start()
    return workers


def _run(task: str, options: dict[str, Any], emit: Emit, stop: threading.Event) -> dict[str, Any]:
    if task == "installation":
        return describe_installation()
    if task not in _TASKS:
        raise ValueError(f"unknown task {task!r}")
    module, name = _TASKS[task]
    extra: dict[str, dict[str, Any]] = {
        "train": {"emit": emit, "stopping": stop.is_set},
        "predict": {"emit": emit},
        "card": {"emit": emit},
    }
    run = getattr(import_module(f"gi2nnunet.nnunet.child.{module}"), name)
    result: dict[str, Any] = run(**extra.get(task, {}), **options)
    return result


def describe_installation() -> dict[str, Any]:
    """Return what failed when it was imported, by module."""
    failed = {}
    for module in ENGINE_MODULES:
        try:
            import_module(module)
        except Exception as error:  # whatever a package raises while it loads
            lines = str(error).strip().splitlines()
            failed[module] = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return {"failed_imports": failed}


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a worker that nnU-Net left running must not hold this process up.
    os._exit(code)
