from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from gi2nnunet.core.workers import count_cores
from gi2nnunet.training import machine as measuring
from gi2nnunet.training.machine import (
    measure_disk,
    read_installation,
    read_machine,
    suggest_training,
)

GIB = 1 << 30


def test_a_machine_without_limits(tmp_path: Path) -> None:
    machine = read_machine(control_group=tmp_path / "none", shared_memory=tmp_path)
    assert machine.cores == count_cores()
    assert machine.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert machine.quota is None
    assert machine.shared_memory_bytes is not None


def limits(folder: Path, version: int, *, memory: str, used: str, quota: str) -> Path:
    names = {
        2: ("memory.max", "memory.current", "cpu.max"),
        1: ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes",
            "cpu/cpu.cfs_quota_us"),
    }[version]  # fmt: skip
    values = (memory, used, f"{quota} 100000" if version == 2 else quota)
    for name, value in zip(names, values, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{value}\n")
    if version == 1:
        (folder / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_limits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Mock(total=16 * GIB, available=8 * GIB))
    group = limits(tmp_path / "g", version, memory="8000000", used="3000000", quota="250000")
    machine = read_machine(control_group=group, shared_memory=tmp_path)
    assert (machine.memory_bytes, machine.free_memory_bytes) == (8_000_000, 5_000_000)
    assert machine.quota == 2.5
    limits(tmp_path / "g", version, memory=f"{12 * GIB}", used="0", quota="250000")
    machine = read_machine(control_group=group, shared_memory=tmp_path)
    assert (machine.memory_bytes, machine.free_memory_bytes) == (12 * GIB, 8 * GIB)
    limits(tmp_path / "g", version, memory=f"{20 * GIB}", used="0", quota="250000")
    machine = read_machine(control_group=group, shared_memory=tmp_path)
    assert (machine.memory_bytes, machine.free_memory_bytes) == (16 * GIB, 8 * GIB)


@pytest.mark.parametrize(
    ("version", "memory", "quota"), [(2, "max", "max"), (1, str(2**63 - 4096), "-1")]
)
def test_a_container_without_limits_is_the_machine(
    tmp_path: Path, version: int, memory: str, quota: str
) -> None:
    group = limits(tmp_path / "g", version, memory=memory, used="1", quota=quota)
    machine = read_machine(control_group=group, shared_memory=tmp_path)
    assert machine.memory_bytes == psutil.virtual_memory().total
    assert machine.quota is None


def test_what_a_system_does_not_tell_stays_unknown(tmp_path: Path) -> None:
    none = tmp_path / "none"
    machine = read_machine(control_group=none, shared_memory=none)
    assert machine.cores >= 1
    assert machine.quota is machine.shared_memory_bytes is None


def test_a_folder_to_be_is_measured_where_it_would_be(tmp_path: Path) -> None:
    disk = measure_disk(tmp_path / "a" / "b")
    assert (disk.device, disk.writable) == (tmp_path.stat().st_dev, True)
    assert disk.free_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_inside_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not measure_disk(tmp_path / "file" / "b").writable


@pytest.mark.skipif(os.geteuid() == 0, reason="the rights of a folder do not bind root")
def test_a_folder_without_rights_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert not measure_disk(tmp_path / "b").writable
    tmp_path.chmod(0o700)


def test_the_installation_is_read_without_loading_it() -> None:
    installation = read_installation()
    assert installation.versions["nnunetv2"] == "2.8.1"
    assert any(text.startswith("torch") for text in installation.requirements["torchvision"])


def test_a_first_training_suits_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a driver of a GPU, stock networks train for weeks; Slurm can send jobs elsewhere."""
    driver = tmp_path / "version"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(measuring, "_TRACES_OF_GPUS", (str(driver), str(tmp_path / "none")))
    command, why = suggest_training()
    assert command.endswith("--preset tiny")
    assert "no GPU" in why
    (tmp_path / "sbatch").touch(0o755)
    assert suggest_training()[0] == "gi2nnunet train --fold all"
    (tmp_path / "sbatch").unlink()
    driver.touch()
    assert suggest_training()[0] == "gi2nnunet train --fold all"
