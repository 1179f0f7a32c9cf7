"""What the machine has to compute on; runs in the engine's child process."""

from __future__ import annotations

from typing import Any


def describe_devices() -> dict[str, Any]:
    """Return the CUDA cards (name, memory in GiB) and whether Apple's MPS is there."""
    import torch

    cards = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            cards.append({"name": properties.name, "memory_gib": properties.total_memory / 2**30})
    return {"cuda": cards, "mps": bool(torch.backends.mps.is_available())}
