"""Engines of tests: on a given hardware, which is not looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.engine import Engine, Hardware, PredictionSettings

CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")


def make_engine(workspace: Workspace, *, hardware: Hardware = CPU, **options: Any) -> Engine:
    """An engine whose processes would get no variable of this one."""
    return Engine(workspace=workspace, **{"environ": {}, "found": hardware, **options})


def compute(
    workspace: Workspace, *, mirroring: bool = True, step_size: float = 0.5, **options: Any
) -> dict[str, Any]:
    """An engine and how it predicts, as keywords of what predicts."""
    return {
        "engine": make_engine(workspace, **options),
        "settings": PredictionSettings(mirroring=mirroring, step_size=step_size),
    }


def is_running(pid: int) -> bool:
    """Whether a process is there and does not only wait to be asked how it ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
