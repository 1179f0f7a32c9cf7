"""GPUs as PyTorch sees them: which there are, and whether one of them computes and compiles.

Nothing is judged here; :mod:`gi2nnunet.nnunet.cards` does that in the parent.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gi2nnunet.core.errors import EngineError

Emit = Callable[[dict[str, Any]], None]

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_MOST_SECONDS, _MOST_COMPILE_SECONDS = 180, 600
_SIDE = 8


def list_devices() -> dict[str, Any]:
    """Return PyTorch's build, its warnings, the driver and each CUDA card; computes on none.

    See :class:`~gi2nnunet.nnunet.cards.Devices` for the keys.
    """
    driver, exclusive = _ask_driver()
    cards: list[dict[str, Any]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            number = torch.cuda.device_count() if torch.cuda.is_available() else 0
            cards = [_describe_card(index, exclusive) for index in range(number)]
        except Exception as error:  # a driver that does not answer has many wordings
            warnings.warn(_first_line(error), stacklevel=1)
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "kernels": torch.cuda.get_arch_list(),
        "driver": driver,
        "warnings": [str(one.message) for one in caught if issubclass(one.category, UserWarning)],
        "cards": cards,
        "mps": bool(torch.backends.mps.is_available()),
    }


def _describe_card(index: int, exclusive: frozenset[str]) -> dict[str, Any]:
    """Describe one card; one that does not answer has a failure in place of its values."""
    try:
        found = torch.cuda.get_device_properties(index)
    except Exception as error:
        return {"index": index, "name": f"card {index}", "failure": _first_line(error)}
    uuid = str(getattr(found, "uuid", ""))
    return {
        "index": index,
        "name": found.name,
        "uuid": uuid,
        "capability": [found.major, found.minor],
        "memory_gib": found.total_memory / 2**30,
        "exclusive": uuid in exclusive,
    }


def _ask_driver() -> tuple[str | None, frozenset[str]]:
    """Return the version of NVIDIA's driver, and the UUIDs of cards for one process only."""
    asked = "driver_version,uuid,compute_mode"
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return _read_driver(), frozenset()
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
    rows = [row for row in rows if len(row) == 3]
    shared = {row[1].removeprefix("GPU-") for row in rows if row[2] != "Default"}
    return (rows[0][0] if rows else _read_driver()), frozenset(shared)


def _read_driver() -> str | None:
    try:
        text = _DRIVER_FILE.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else None


def run_test(*, emit: Emit, device: str = "cuda", compiling: bool = False) -> dict[str, Any]:
    """Compute on the one card that is visible; see :class:`~gi2nnunet.nnunet.cards.CardTest`.

    A card that gives no answer ends the process.
    """
    seconds = _MOST_COMPILE_SECONDS if compiling else _MOST_SECONDS

    def give_up() -> None:
        message = f"it gave no answer within {seconds} s"
        emit({"event": "failure", "kind": EngineError.__name__, "message": message})
        os._exit(1)

    clock = threading.Timer(seconds, give_up)
    clock.daemon = True
    clock.start()
    try:
        failure = _find_failure(lambda: _convolve(device))
        found: dict[str, Any] = {"failure": failure}
        found["free_gib"] = None if failure else _find_free(device)
        if compiling and not failure:
            found["compile_failure"] = _find_failure(lambda: _compile(device))
        return found
    finally:
        clock.cancel()


def _find_failure(work: Callable[[], None]) -> str:
    """Return why some work failed; empty if it did not."""
    try:
        work()
    except Exception as error:  # a broken card has many wordings
        return _first_line(error)
    return ""


def _convolve(device: str) -> None:
    """Run a 3D convolution in mixed precision, as networks do, and check its values."""
    weight = torch.ones((1, 1, 3, 3, 3), device=device)
    image = torch.ones((1, 1, _SIDE, _SIDE, _SIDE), device=device)
    with torch.inference_mode(), torch.autocast(device):
        made = torch.nn.functional.conv3d(image, weight)
    if not bool((made == 27).all()):
        raise RuntimeError(f"a convolution gave {made.flatten()[0].item()} in place of 27")


def _compile(device: str) -> None:
    """Compile one small function, and check its values."""
    function = torch.compile(lambda values: values * 2 + 1)
    if not bool((function(torch.ones(_SIDE, device=device)) == 3).all()):
        raise RuntimeError("a compiled function gave wrong values")


def _find_free(device: str) -> float | None:
    if device != "cuda":
        return None
    try:
        return torch.cuda.mem_get_info()[0] / 2**30
    except Exception:
        return None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
