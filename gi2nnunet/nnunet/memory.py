"""What this process took at its height; for the engine's child process."""

from __future__ import annotations

import resource
import sys

import torch


def measure_peaks(device: str) -> dict[str, int]:
    """Return ``peak_memory_bytes`` of this process so far and, on CUDA, ``peak_gpu_bytes``.

    Worker processes are not counted, nor what PyTorch holds of the card without using it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    peaks = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device == "cuda":
        peaks["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return peaks
