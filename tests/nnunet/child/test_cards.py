"""The child's tests of cards: on a CPU, and with stand-ins for what a driver answers."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gi2nnunet.nnunet.child import cards
from gi2nnunet.nnunet.child.cards import list_devices, run_test

TOO_OLD = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020)."


class Driver:
    """A driver as PyTorch and nvidia-smi show it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        monkeypatch.setenv("PATH", str(folder))
        monkeypatch.setattr(cards, "_DRIVER_FILE", folder / "version")
        self.show()

    def show(self, *found: Any, available: bool = True, warning: str = "") -> None:
        """Let PyTorch list cards; an exception in place of one is raised for it."""

        def describe(index: int) -> Any:
            if isinstance(found[index], Exception):
                raise found[index]
            return found[index]

        def is_available() -> bool:
            if warning:
                warnings.warn(warning, stacklevel=1)
            warnings.warn("of no interest", DeprecationWarning, stacklevel=1)
            return available

        self.monkeypatch.setattr(torch.cuda, "is_available", is_available)
        self.monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
        self.monkeypatch.setattr(torch.cuda, "get_device_properties", describe)

    def answer(self, text: str, code: int = 0) -> None:
        """Put an nvidia-smi on the path."""
        script = self.folder / "nvidia-smi"
        script.write_text(f"#!/bin/sh\nprintf '%s' '{text}'\nexit {code}\n")
        script.chmod(0o755)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path, monkeypatch)


def properties(name: str, uuid: str, major: int = 7, minor: int = 5) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, uuid=uuid, major=major, minor=minor, total_memory=15 * 2**30
    )  # fmt: skip


def test_each_card_is_listed_with_what_the_driver_says(driver: Driver) -> None:
    driver.show(properties("Tesla T4", "aa"), properties("Tesla T4", "bb"))
    driver.answer("550.54.15, GPU-aa, Default\n550.54.15, GPU-bb, Exclusive_Process\n")
    found = list_devices()
    assert found["driver"] == "550.54.15"
    assert found["torch"] == torch.__version__
    assert found["kernels"] == torch.cuda.get_arch_list()
    assert found["warnings"] == []
    assert found["cards"][0] == {
        "index": 0, "name": "Tesla T4", "uuid": "aa", "capability": [7, 5], "memory_gib": 15.0,
        "exclusive": False,
    }  # fmt: skip
    assert [one["exclusive"] for one in found["cards"]] == [False, True]


def test_a_card_that_does_not_answer_is_listed_beside_the_others(driver: Driver) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure\nCompile with ...")
    driver.show(lost, properties("Tesla T4", "bb"))
    first, second = list_devices()["cards"]
    assert first["failure"] == "RuntimeError: CUDA error: unspecified launch failure"
    assert second["name"] == "Tesla T4"


def test_warnings_of_pytorch_are_passed_on(driver: Driver) -> None:
    driver.show(available=False, warning=TOO_OLD)
    found = list_devices()
    assert (found["cards"], found["warnings"]) == ([], [TOO_OLD])


@pytest.mark.parametrize("there", [False, True])
def test_the_drivers_version_is_read_where_nvidia_smi_fails(driver: Driver, there: bool) -> None:
    for text in (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  535.104.05  Release Build",
    ):
        (driver.folder / "version").write_text(text)
        if there:
            driver.answer("Failed to initialize NVML: Driver/library version mismatch", code=18)
        assert list_devices()["driver"] == "535.104.05"
    (driver.folder / "version").unlink()
    assert list_devices()["driver"] is None


def test_a_device_that_computes_has_no_failure() -> None:
    found = run_test(emit=print, device="cpu")
    assert found == {"failure": "", "free_gib": None}


def test_wrong_values_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "conv3d", lambda image, _: image)
    assert "a convolution gave 1.0 in place of 27" in run_test(emit=print, device="cpu")["failure"]


def test_a_card_that_cannot_be_used_is_a_failure() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a card that works")
    found = run_test(emit=print, compiling=True)
    assert found["failure"]
    assert "compile_failure" not in found


def test_a_card_that_gives_no_answer_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    ended = threading.Event()
    events: list[dict[str, Any]] = []

    def hang(_: str) -> None:
        assert ended.wait(20)

    monkeypatch.setattr(cards, "_MOST_SECONDS", 0.1)
    monkeypatch.setattr(cards, "_convolve", hang)
    monkeypatch.setattr(os, "_exit", lambda _: ended.set())
    run_test(emit=events.append, device="cpu")
    [event] = events
    assert (event["event"], event["kind"]) == ("failure", "EngineError")
    assert event["message"] == "it gave no answer within 0.1 s"


def test_why_nothing_compiles_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify")

    monkeypatch.setattr(cards, "_compile", fail)
    found = run_test(emit=print, device="cpu", compiling=True)
    assert (found["failure"], found["compile_failure"]) == (
        "", "RuntimeError: Failed to find C compiler.",
    )  # fmt: skip


@pytest.mark.engine
@pytest.mark.skipif(sys.platform != "linux", reason="a compiler is expected")
def test_a_function_is_really_compiled(tmp_path: Path) -> None:
    """On a CPU, by a compiler that is there and by one that is not."""
    import json
    import subprocess

    script = (
        "import json; from gi2nnunet.nnunet.child.cards import run_test; "
        "print(json.dumps(run_test(emit=print, device='cpu', compiling=True)))"
    )
    failures = []
    for compiler in ({}, {"CXX": str(tmp_path / "none")}):
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"), **compiler},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        failures.append(json.loads(done.stdout.splitlines()[-1])["compile_failure"])
    assert failures[0] == ""
    assert "Compiler" in failures[1]
