"""Child process of the engine: one task, events back, nnU-Net's output to a log file.

The child reads its task as one line of JSON on standard input, and sends events, each a line of
JSON, on the pipe that was its standard output. Standard input stays open as long as the parent
lives: a further byte asks the task to stop early; when it closes, the child ends its whole process
group, so that no worker outlives the parent.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from gi2nnunet.core.errors import EngineError, InputError, OutputError, shorten
from gi2nnunet.core.files import parse_record
from gi2nnunet.core.workers import describe_end
from gi2nnunet.dataset.workspace import Workspace

Event = dict[str, Any]


class _Event(TypedDict):
    event: str


_LAST_LINES = 15
_LOOK_SECONDS = 0.2
_FULL_BYTES = 1 << 20
_NOISE = ("During handling of the above", "The above exception was the direct cause")
COMPILE_VARIABLE = "nnUNet_compile"
_NO_COMPILE = f"train without torch.compile: {COMPILE_VARIABLE}=f gi2nnunet train ..."
_COMPILER = (
    "torch.compile needs a C compiler and Python's header files: install them (on Debian: "
    f"apt install gcc python3-dev), or {_NO_COMPILE}"
)
_COMPILE = f"torch.compile failed: {_NO_COMPILE}"
_OTHER_TORCH = (
    "This PyTorch cannot use the card: install torch and torchvision for another CUDA (see Which "
    "PyTorch? in the README), or use --device cpu. gi2nnunet doctor says more."
)
_REMEDIES = (
    ("CUDA out of memory", "Use a smaller --preset, --batch-size or --patch-size."),
    ("MPS backend out of memory", "Use a smaller --preset, --batch-size or --patch-size."),
    ("DefaultCPUAllocator: can't allocate memory", "Use a smaller --preset or fewer --jobs."),
    (
        "background worker",
        "A worker ended early, probably because memory ran out: use fewer --jobs.",
    ),
    ("No space left on device", "Free some disk space and run the same command again."),
    (
        "busy or unavailable",
        "Another program has the card for itself (nvidia-smi lists it): end it, or choose another "
        "card with CUDA_VISIBLE_DEVICES.",
    ),
    ("no kernel image is available", _OTHER_TORCH),
    ("driver version is insufficient", _OTHER_TORCH),
    ("driver on your system is too old", _OTHER_TORCH),
    ("C compiler", _COMPILER),
    ("Python.h", _COMPILER),
    ("InvalidCxxCompiler", _COMPILER),
    ("BackendCompilerFailed", _COMPILE),
    ("InductorError", _COMPILE),
    ("GPUTooOldForTriton", _COMPILE),
    ("TritonMissing", _COMPILE),
    ("torch._dynamo.exc", _COMPILE),
)


@dataclass(frozen=True, kw_only=True)
class LogFile:
    """Log file of one run of the engine."""

    path: Path

    def last_lines(self) -> str:
        """Return the last lines of the log, without progress bars' carriage returns."""
        with contextlib.suppress(OSError):
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - 20_000))
                text = file.read().decode("utf-8", "replace")
            lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
            return "\n".join(_without_tracebacks(lines)[-_LAST_LINES:])
        return ""


def _without_tracebacks(lines: Iterable[str]) -> list[str]:
    """Return the lines, but of tracebacks only the last one; the log keeps all."""
    kept, inside = [], False
    for line in lines:
        inside = line.startswith("Traceback (most") or (inside and line[:1] in ("", " "))
        noise = line in ("", '"""') or line.startswith(_NOISE) or "RemoteTraceback" in line
        if not inside and not noise:
            kept.append(shorten(line))  # nnU-Net prints whole plans in one
    return kept


def find_remedy(text: str) -> str | None:
    """Return what to do about a failure that a text describes; ``None`` if it is unknown."""
    return next((remedy for sign, remedy in _REMEDIES if sign in text), None)


def new_log(folder: Path, name: str) -> LogFile:
    """Make a new, empty log file in ``folder``, named by the time and ``name``.

    Raises :class:`OutputError` if it cannot be written.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for count in range(1000):
        path = folder / (f"{stamp}_{name}.log" if count == 0 else f"{stamp}_{name}_{count}.log")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("x"):
                return LogFile(path=path)
        except FileExistsError:
            continue
        except OSError as error:
            raise OutputError(
                f"{path}: cannot be written ({error}). Choose another --workspace."
            ) from error
    raise OutputError(
        f"{folder}: already holds a thousand logs of this second. Run the command again."
    )


def run_engine(
    task: str,
    options: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    log: LogFile,
    on_event: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> Event:
    """Run one engine task in a child process, wait for it, and return its result.

    Parameters
    ----------
    task, options
        A task of :mod:`gi2nnunet.nnunet.child.main` and its options, which must go through JSON.
    stop
        If it is set, the task is asked to stop early; not before its first event, and tasks that do
        not support it continue.

    Raises
    ------
    InputError, OutputError
        Raised by the task.
    EngineError
        If the child failed in another way or died; holds the log's path and last lines.
    """
    result: Event | None = None
    failure: Event | None = None
    with log.path.open("ab") as log_file:
        child = subprocess.Popen(
            [sys.executable, "-m", "gi2nnunet.nnunet.child.main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=dict(environment),
            start_new_session=True,
        )
        if child.stdin is None or child.stdout is None:
            raise ValueError("the child was started without pipes")
        threading.Thread(target=_follow, args=(child,), daemon=True).start()
        begun = threading.Event()
        if stop is not None:
            threading.Thread(target=_pass_on, args=(stop, begun, child), daemon=True).start()
        try:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(json.dumps({"task": task, **options}).encode() + b"\n")
                child.stdin.flush()
            for line in child.stdout:
                event = _read_event(line, task, log)
                begun.set()
                if event["event"] == "result":
                    result = event
                elif event["event"] == "failure":
                    failure = event
                elif on_event:
                    on_event(event)
            child.wait()
        finally:
            _end_group(child)
    if result is not None and child.returncode == 0:
        return result
    if failure is not None and failure["kind"] == "InputError":
        raise InputError(failure["message"])
    if failure is not None and failure["kind"] == "OutputError":
        raise OutputError(failure["message"])
    raise EngineError(_describe(task, child.returncode, failure, log))


def _read_event(line: bytes, task: str, log: LogFile) -> Event:
    try:
        kind = parse_record(line, _Event, where="an event of its process", remedy="")
        return {**kind}
    except InputError as error:
        raise EngineError(f"nnU-Net failed in the step '{task}': {error}Log: {log.path}") from error


def _follow(child: subprocess.Popen[bytes]) -> None:
    """End the group as soon as the child itself is gone.

    Its workers hold the event pipe open: if the system killed the child for memory, waiting for the
    pipe's end would mean waiting for them, for ever.
    """
    child.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def _pass_on(stop: threading.Event, begun: threading.Event, child: subprocess.Popen[bytes]) -> None:
    """Ask the child to stop if ``stop`` is set, but not before it has read its task.

    Bytes that follow in the same pipe could be read together with the task.
    """
    while child.returncode is None:
        if begun.wait(_LOOK_SECONDS) and stop.wait(_LOOK_SECONDS):
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                if child.stdin is not None:
                    child.stdin.write(b"\n")
                    child.stdin.flush()
            return


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the child's process group behind, its workers included."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _describe(task: str, code: int, failure: Event | None, log: LogFile) -> str:
    if failure is not None and failure["kind"] == EngineError.__name__:
        what = failure["message"]
    elif failure is not None:
        what = f"{failure['kind']}: {failure['message']}"
    else:
        what = f"it {describe_end(code)}"
    tail = log.last_lines()
    known = [remedy] if (remedy := find_remedy(f"{what}\n{tail}")) else []
    if code == -signal.SIGKILL:
        known.append("Use fewer --jobs or a smaller --preset.")
    with contextlib.suppress(OSError):
        if shutil.disk_usage(log.path.parent).free < _FULL_BYTES:
            known.insert(0, "The disk is full: free some space and run the same command again.")
    return "\n".join(
        [
            f"nnU-Net failed in the step '{task}': {what}",
            *known[:1],
            f"Log: {log.path}",
            "Its last lines:",
            tail,
        ]
    )


def engine_environment(
    workspace: Workspace,
    *,
    environ: Mapping[str, str],
    processes: int,
    augmentation_processes: int,
    threads: int,
    gpu: int | None = None,
) -> dict[str, str]:
    """Build the whole environment of one engine process, from ``environ`` (``PATH`` and the like).

    Without augmentation processes, a training augments itself. ``gpu`` counts among the cards that
    ``environ`` allows; ``None`` shows them all.
    """
    built = dict(environ)
    built.update(
        {
            "nnUNet_raw": str(workspace.raw),
            "nnUNet_preprocessed": str(workspace.preprocessed),
            "nnUNet_results": str(workspace.results),
            "nnUNet_def_n_proc": str(processes),
            "nnUNet_n_proc_DA": str(augmentation_processes),
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # Threads that spin while they wait take the cores from whatever else runs: beside
            # one busy neighbour on two cores an iteration took forty times as long.
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            # A torch.py in the folder where a command runs is not PyTorch (Python 3.11 and later).
            "PYTHONSAFEPATH": "1",
            "MPLBACKEND": "Agg",
        }
    )
    if gpu is not None:
        # Cards are counted among those the user lets us see, which may be ids of another form.
        visible = [card for card in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
        built["CUDA_VISIBLE_DEVICES"] = visible[gpu].strip() if visible else str(gpu)
    return built
