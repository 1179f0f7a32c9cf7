"""Memory of the engine's process: the most that it has held so far."""

from __future__ import annotations

import resource
import sys

import torch


def measure_peaks(device: str) -> dict[str, int]:
    """Return ``peak_memory_bytes`` of this process so far and, on CUDA, ``peak_gpu_bytes``.

    Worker processes are not counted. Of the card, it is the most that PyTorch has held, in use or
    not: what others cannot have. CUDA itself takes some hundred MiB more.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device == "cuda":
        peaks["peak_gpu_bytes"] = torch.cuda.max_memory_reserved()
    return peaks
