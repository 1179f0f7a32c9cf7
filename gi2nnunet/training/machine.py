"""Measurements of the machine and its installation, in numbers; nothing is judged or written."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

from gi2nnunet.core.workers import count_cores

PACKAGES = ("gi2nnunet", "nnunetv2", "torch", "torchvision")
# What a driver of NVIDIA, of Windows (in WSL) and of AMD leaves.
_TRACES_OF_GPUS = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_NO_LIMIT_BYTES = 1 << 60  # what a control group without a limit says is near 2 ** 63


def suggest_training() -> tuple[str, str]:
    """Return the command of a first training, and why this one; empty if it is the usual one.

    PyTorch, which takes seconds, is not asked: only a machine without any driver of a GPU, and
    without Slurm to send jobs to others, is taken for one on which only the preset ``tiny`` trains.
    """
    may_have_gpu = sys.platform != "linux" or any(map(os.path.exists, _TRACES_OF_GPUS))
    if may_have_gpu or shutil.which("sbatch"):
        return "gi2nnunet train --fold all", ""
    why = "a small network, for trials, as this machine has no GPU"
    return "gi2nnunet train --fold all --preset tiny", why


@dataclass(frozen=True, kw_only=True)
class Installation:
    """Versions that have to fit together: of Python, and of packages with their requirements."""

    python: tuple[int, int, int]
    versions: Mapping[str, str | None]
    requirements: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a machine offers to this process.

    ``quota`` is the number of cores that a container grants, if it limits them. Memory is that of
    the machine, or of the container if that is less; shared memory is what is free in ``/dev/shm``.
    """

    cores: int
    quota: float | None
    memory_bytes: int
    free_memory_bytes: int
    shared_memory_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Disk of a folder that is there or will be made.

    ``device`` is the number of its file system: folders of the same one share its space.
    """

    folder: Path
    device: int
    free_bytes: int
    writable: bool


def read_installation() -> Installation:
    """Read versions and requirements from the packages' metadata; imports none of them."""
    versions: dict[str, str | None] = {}
    requirements: dict[str, tuple[str, ...]] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
            requirements[package] = tuple(requires(package) or ())
        except PackageNotFoundError:
            versions[package] = None
    major, minor, micro = sys.version_info[:3]
    return Installation(
        python=(major, minor, micro), versions=versions, requirements=requirements
    )  # fmt: skip


def read_machine(
    *,
    control_group: Path = Path("/sys/fs/cgroup"),
    shared_memory: Path = Path("/dev/shm"),  # noqa: S108
) -> Machine:
    """Measure the machine; numbers that the operating system does not report stay unknown."""
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = _read_memory_limit(control_group)
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - (used or 0)))
    return Machine(
        cores=count_cores(),
        quota=_read_quota(control_group),
        memory_bytes=total,
        free_memory_bytes=free,
        shared_memory_bytes=shutil.disk_usage(shared_memory).free
        if shared_memory.is_dir()
        else None,
    )


def measure_disk(folder: Path) -> Disk:
    """Measure the disk of a folder; if it does not exist yet, where it would be made."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return Disk(
        folder=folder,
        device=place.stat().st_dev,
        free_bytes=shutil.disk_usage(place).free,
        writable=place.is_dir() and os.access(place, os.W_OK | os.X_OK),
    )


def _read_memory_limit(folder: Path) -> tuple[int | None, int | None]:
    """Return a container's limit and its use, of version 2 or else 1 of the control groups."""
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _read_number(folder / limit_file)
        if limit is not None and limit < _NO_LIMIT_BYTES:
            return limit, _read_number(folder / used_file)
    return None, None


def _read_quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    quota_us = _read_number(folder / "cpu/cpu.cfs_quota_us")
    period_us = _read_number(folder / "cpu/cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
