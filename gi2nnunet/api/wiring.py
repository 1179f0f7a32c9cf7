"""What several calls need: environment, workspace, hardware, and what was given as lists."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Each call loads what it needs and no more, so that score does not wait for what train takes.
if TYPE_CHECKING:
    from gi2nnunet.nnunet.hardware import Hardware
    from gi2nnunet.nnunet.workspace import Workspace

Progress = Callable[[int, int, str], None]
Notice = Callable[[str], None]
FilePath = Path | str


def read_environment() -> Mapping[str, str]:
    """Return this process's environment, to be read alone: an engine process gets its own."""
    return os.environ


def find_workspace(folder: FilePath | None) -> Workspace:
    """Return the workspace of a folder, else of nnU-Net's variables, else the default."""
    from gi2nnunet.nnunet.workspace import open_workspace

    return open_workspace(Path(folder) if folder else None, environ=read_environment())


def find_hardware_of(space: Workspace, *, device: str, gpus: int | None, tell: Notice) -> Hardware:
    """Choose what to compute on, and tell it."""
    from gi2nnunet.nnunet.hardware import find_hardware

    hardware = find_hardware(device=device, gpus=gpus, workspace=space, environ=read_environment())
    tell(f"Computing on: {hardware.name}")
    return hardware


def require_positive(**numbers: float | None) -> None:
    """Raise a :class:`ValueError` for a number that is not above 0; ``None`` is one's default."""
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}: found {value!r}; expected a number above 0")


def list_texts(given: str | int | Sequence[str | int] | None) -> list[str]:
    """Return one or several, given as text or number, as texts; none for ``None``."""
    if given is None:
        return []
    return [str(item) for item in ([given] if isinstance(given, str | int) else given)]


def list_patches(given: Sequence[int] | Sequence[Sequence[int]] | None) -> list[list[int]]:
    """Return one patch size or several as several; none for ``None``."""
    patches: Any = () if given is None else given
    if patches and all(isinstance(item, int) for item in patches):
        patches = [patches]
    return [list(patch) for patch in patches]
