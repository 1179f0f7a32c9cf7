"""What the machine has to compute on, and whether the engine's packages load.

Runs in the engine's child process.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

# The last one loads nearly all that a training needs, torchvision through timm included.
ENGINE_MODULES = ("torch", "torchvision", "nnunetv2.training.nnUNetTrainer.nnUNetTrainer")


def describe_devices() -> dict[str, Any]:
    """Return the CUDA cards (name, memory in GiB) and whether Apple's MPS is there."""
    import torch

    cards = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            cards.append({"name": properties.name, "memory_gib": properties.total_memory / 2**30})
    return {"cuda": cards, "mps": bool(torch.backends.mps.is_available())}


def describe_installation() -> dict[str, Any]:
    """Return the devices, the free memory of each card, and what failed when it was imported."""
    failed = {}
    for module in ENGINE_MODULES:
        try:
            import_module(module)
        except Exception as error:  # noqa: PERF203  whatever a package raises while it loads
            lines = str(error).strip().splitlines()
            failed[module] = f"{type(error).__name__}: {lines[0] if lines else ''}"
    if "torch" in failed:
        return {"cuda": [], "mps": False, "failed_imports": failed}
    import torch

    found = describe_devices()
    for index, card in enumerate(found["cuda"]):
        card["free_gib"] = torch.cuda.mem_get_info(index)[0] / 2**30
    return {**found, "failed_imports": failed}
