"""What to compute on: asked of a child process, so that PyTorch stays out of the user's own."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.process import engine_environment, new_log, run_engine

DeviceName = Literal["cuda", "cpu", "mps"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a run computes on.

    Attributes
    ----------
    device
        PyTorch's device type.
    gpus
        Indices of the CUDA cards in use; empty on other devices.
    memory_gib
        Memory of the smallest of these cards; ``None`` on other devices.
    name
        For the screen.
    """

    device: DeviceName
    gpus: tuple[int, ...]
    memory_gib: float | None
    name: str

    @property
    def slots(self) -> tuple[int | None, ...]:
        """Return the cards that can each take one task; one nameless slot without cards."""
        return self.gpus or (None,)


def find_hardware(
    *,
    device: str,
    gpus: int | None,
    workspace: Workspace,
    environ: Mapping[str, str],
) -> Hardware:
    """Choose what to compute on.

    Parameters
    ----------
    device
        ``auto`` (a GPU where there is one), ``cuda``, ``cpu`` or ``mps``.
    gpus
        How many cards to use; by default one.
    workspace, environ
        For the child process that looks.

    Raises
    ------
    InputError
        Where what was asked for is not there.
    """
    if device not in ("auto", "cuda", "cpu", "mps"):
        raise InputError(f"--device: found {device!r}; expected auto, cuda, cpu or mps.")
    if device == "cpu":
        if gpus:
            raise InputError(f"--gpus {gpus} asks for GPUs, --device cpu for none. Give one.")
        return _cpu()
    found = probe_devices("devices", workspace=workspace, environ=environ)
    return choose_hardware(found, device=device, gpus=gpus)


def probe_devices(
    task: Literal["devices", "installation"], *, workspace: Workspace, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Ask a child process for its devices, or also what its packages say when imported.

    Raises
    ------
    EngineError
        Where PyTorch cannot be imported, or takes the process down.
    """
    environment = engine_environment(
        workspace, environ=environ, processes=1, augmentation_processes=0, threads=1
    )
    log = new_log(workspace.logs, task)
    found = run_engine(task, {}, environment=environment, log=log)
    log.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        workspace.logs.rmdir()  # unless it holds other logs; a refusal leaves nothing behind
    return found


def choose_hardware(found: Mapping[str, Any], *, device: str, gpus: int | None) -> Hardware:
    """Choose among the devices that :func:`probe_devices` found; see :func:`find_hardware`."""
    cards, wanted = found["cuda"], gpus or 1
    if len(cards) < wanted and (device == "cuda" or gpus):
        raise InputError(
            f"{'--gpus ' + str(gpus) if gpus else '--device cuda'}: found {len(cards)} CUDA "
            f"GPU{'' if len(cards) == 1 else 's'} that PyTorch can use. "
            "Check nvidia-smi and that PyTorch was installed with CUDA, or use --device cpu."
        )
    if cards and device != "mps":
        used = cards[:wanted]
        return Hardware(
            device="cuda",
            gpus=tuple(range(wanted)),
            memory_gib=min(card["memory_gib"] for card in used),
            name=", ".join(f"{card['name']} ({card['memory_gib']:.0f} GiB)" for card in used),
        )
    if device == "mps" and not found["mps"]:
        raise InputError("--device mps: found no Apple GPU. Use --device cpu.")
    if found["mps"]:
        return Hardware(device="mps", gpus=(), memory_gib=None, name="Apple GPU")
    return _cpu()


def _cpu() -> Hardware:
    return Hardware(device="cpu", gpus=(), memory_gib=None, name=f"CPU, {count_cores()} cores")
