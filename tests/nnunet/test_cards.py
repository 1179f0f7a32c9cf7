"""Cards of machines of every kind, by stand-ins for what their processes answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet import cards
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.cards import (
    Cards,
    check_cards,
    find_cache,
    has_kernels,
    is_card_failure,
    is_compiling,
)
from gi2nnunet.nnunet.engine import Engine, choose_hardware

CU132 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CU126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]
BUSY = "AcceleratorError: CUDA error: CUDA-capable device(s) is/are busy or unavailable"
TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12020). "
    "Please update your GPU driver."
)
NO_COMPILER = "InductorError: RuntimeError: Failed to find C compiler. Please specify via CC"


def card(index: int, name: str, capability: tuple[int, int], **more: Any) -> dict[str, Any]:
    known = {"uuid": f"uuid{index}", "memory_gib": 15.6, "exclusive": False}
    return {"index": index, "name": name, "capability": list(capability), **known, **more}


@dataclass(kw_only=True)
class Machine:
    """Answers as the child processes of one machine give them; what they were asked is kept."""

    cards: list[dict[str, Any]] = field(default_factory=list)
    tests: dict[int, dict[str, Any] | EngineError] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=lambda: CU132)
    torch: str = "2.15.0+cu132"
    cuda: str | None = "13.2"
    driver: str | None = "580.65.06"
    warnings: list[str] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, task: str, options: Mapping[str, Any], gpu: int | None) -> dict[str, Any]:
        if task == "devices":
            return {
                "torch": self.torch, "cuda": self.cuda, "kernels": self.kernels, "mps": False,
                "driver": self.driver, "warnings": self.warnings, "cards": self.cards,
            }  # fmt: skip
        assert gpu is not None
        with self.lock:
            self.asked.append(gpu)
        answer = self.tests.get(gpu, {})
        if isinstance(answer, EngineError):
            raise answer
        compiled = {"compile_failure": ""} if options["compiling"] else {}
        return {"failure": "", "free_gib": 15.0, **compiled, **answer}

    def check(self, wanted: int | None = 1, **options: Any) -> Cards:
        return check_cards(self.ask, wanted=wanted, **{"environ": {}, **options})


P100 = card(0, "Tesla P100-PCIE-16GB", (6, 0))
V100 = card(0, "Tesla V100-SXM2-16GB", (7, 0))
T4, OTHER_T4 = card(0, "Tesla T4", (7, 5)), card(1, "Tesla T4", (7, 5))
A100 = card(0, "NVIDIA A100-SXM4-40GB", (8, 0), memory_gib=39.4)
SLICE = card(0, "NVIDIA A100-SXM4-40GB MIG 1g.5gb", (8, 0), memory_gib=4.75)
LAPTOP = card(0, "NVIDIA GeForce RTX 4090 Laptop GPU", (8, 9))
FUTURE = card(0, "NVIDIA X1000", (13, 0))


@pytest.mark.parametrize(
    ("capability", "kernels", "fits"),
    [
        ((8, 6), ["sm_80"], True),  # binary code runs on later cards of the same major version
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_86", "compute_86"], True),  # PTX runs on all later cards
        ((8, 0), ["compute_86"], False),
        ((9, 0), ["sm_90a"], True),  # code of one architecture alone
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((10, 3), ["sm_100f"], True),  # code of a family
        ((12, 0), ["sm_100f"], False),
        ((12, 1), ["sm_120"], True),
        ((6, 0), CU132, False),
        ((6, 1), CU126, True),
        ((9, 4), ["gfx90a", "gfx942"], True),  # AMD's
        ((9, 4), [], True),
    ],
)
def test_which_kernels_run_on_which_card(
    capability: tuple[int, int], kernels: list[str], fits: bool
) -> None:
    assert has_kernels(capability, kernels) == fits


@pytest.mark.parametrize("one", [T4, A100, SLICE, LAPTOP], ids=lambda one: str(one["name"]))
def test_a_card_that_works_is_taken(one: dict[str, Any]) -> None:
    hardware = choose_hardware(Machine(cards=[one]).check(), device="auto", gpus=None)
    assert (hardware.device, hardware.gpus, hardware.notes) == ("cuda", (0,), ())
    assert hardware.memory_gib == one["memory_gib"]  # a slice has its own
    assert hardware.describe().startswith(f"Computing on: {one['name']} (")


@pytest.mark.parametrize(
    ("one", "remedy"), [(P100, "an older CUDA"), (V100, "an older CUDA"), (FUTURE, "a newer CUDA")]
)
def test_a_card_without_kernels_is_never_computed_on(one: dict[str, Any], remedy: str) -> None:
    machine = Machine(cards=[one])
    cards = machine.check()
    assert machine.asked == []
    hardware = choose_hardware(cards, device="auto", gpus=None)
    assert hardware.device == "cpu"
    [note] = hardware.notes
    capability = ".".join(map(str, one["capability"]))
    assert f"Not on card 0, {one['name']}: PyTorch 2.15.0+cu132 has kernels for sm_75, " in note
    assert f"capability {capability}" in note
    assert f"Install torch and torchvision for {remedy}" in note
    assert note in hardware.describe()
    with pytest.raises(InputError, match=r"--device cuda: found 0 CUDA GPUs(.|\n)*kernels for"):
        choose_hardware(cards, device="cuda", gpus=None)


@pytest.mark.parametrize("one", [P100, V100])
def test_an_older_build_of_pytorch_takes_an_older_card(one: dict[str, Any]) -> None:
    machine = Machine(cards=[one], kernels=CU126, torch="2.7.1+cu126", cuda="12.6")
    assert choose_hardware(machine.check(), device="cuda", gpus=None).gpus == (0,)
    assert machine.asked == [0]


@pytest.mark.parametrize("warnings", [[TOO_OLD], []])
def test_a_driver_that_is_too_old_is_said_with_its_version(warnings: list[str]) -> None:
    cards = Machine(driver="535.104.05", warnings=warnings).check()
    [note] = choose_hardware(cards, device="auto", gpus=None).notes
    assert "NVIDIA's driver 535.104.05 is too old for PyTorch 2.15.0+cu132" in note
    assert "Update it to 580 or newer, or install torch and torchvision for an older CUDA" in note
    assert ("found version 12020" in note) == bool(warnings)
    assert cards.devices.warnings == tuple(warnings)
    with pytest.raises(InputError, match="is too old for PyTorch"):
        choose_hardware(cards, device="cuda", gpus=None)


def test_other_warnings_and_a_build_without_cuda_are_said() -> None:
    [note] = choose_hardware(
        Machine(warnings=["CUDA unknown error - this may be due to ..."]).check(),
        device="auto", gpus=None,
    ).notes  # fmt: skip
    assert "PyTorch finds none (CUDA unknown error" in note
    [note] = choose_hardware(
        Machine(cuda=None, torch="2.15.0+cpu", kernels=[]).check(), device="auto", gpus=None
    ).notes
    assert "2.15.0+cpu is built without CUDA, but NVIDIA's driver 580.65.06 is here" in note
    # A machine without any card has nothing to say.
    for cuda in (None, "13.2"):
        cards = Machine(cuda=cuda, driver=None).check()
        assert choose_hardware(cards, device="auto", gpus=None).notes == ()


def test_an_exclusive_card_gives_way_to_the_next() -> None:
    machine = Machine(cards=[T4 | {"exclusive": True}, OTHER_T4], tests={0: {"failure": BUSY}})
    cards = machine.check()
    assert machine.asked == [0, 1]
    hardware = choose_hardware(cards, device="auto", gpus=None)
    assert hardware.gpus == (1,)
    [note] = hardware.notes
    assert "busy or unavailable" in note
    assert "Another program has the card for itself" in note
    with pytest.raises(InputError, match=r"--gpus 2: found 1 CUDA GPU that(.|\n)*fewer --gpus"):
        choose_hardware(cards, device="auto", gpus=2)


def test_a_broken_card_that_takes_its_process_down_gives_way_to_the_next() -> None:
    broken = EngineError("nnU-Net failed in the step 'card': it was ended by SIGSEGV\nLog: x")
    machine = Machine(cards=[A100, OTHER_T4, card(2, "Tesla T4", (7, 5))], tests={0: broken})
    hardware = choose_hardware(machine.check(2), device="auto", gpus=2)
    assert sorted(machine.asked) == [0, 1, 2]
    assert hardware.gpus == (1, 2)
    assert hardware.memory_gib == 15.6
    assert "card 0, NVIDIA A100-SXM4-40GB: it does not compute (" in hardware.notes[0]
    assert "SIGSEGV" in hardware.notes[0]


def test_a_card_that_does_not_answer_gives_way_to_the_next() -> None:
    silent = {"index": 0, "name": "card 0", "failure": "RuntimeError: unspecified launch failure"}
    machine = Machine(cards=[silent, OTHER_T4])
    assert choose_hardware(machine.check(), device="auto", gpus=None).gpus == (1,)
    assert machine.asked == [1]


def test_only_the_cards_that_are_wanted_are_computed_on() -> None:
    machine = Machine(cards=[T4, OTHER_T4])
    assert [c.tested for c in machine.check().checked] == [True, False]
    assert machine.asked == [0]
    assert len(machine.check(None).working) == 2


def test_a_second_slice_needs_a_process_of_its_own() -> None:
    with pytest.raises(InputError, match=r"only one MIG slice.*CUDA_VISIBLE_DEVICES=MIG-"):
        choose_hardware(Machine(cards=[SLICE]).check(2), device="auto", gpus=2)


@pytest.mark.parametrize(
    ("failure", "there", "missing", "remedy"),
    [
        (NO_COMPILER, ["Python.h"], ["C compiler"], "apt install gcc python3-dev"),
        ("CalledProcessError: ...", ["gcc"], ["Python.h"], "apt install gcc python3-dev"),
        ("CalledProcessError: ...", [], ["C compiler", "Python.h"], "apt install gcc"),
        ("BackendCompilerFailed: x", ["clang", "Python.h"], [], "nnUNet_compile=f"),
        ("GPUTooOldForTriton: Found Tesla P100", ["gcc", "Python.h"], [], "nnUNet_compile=f"),
        ("OSError: of a new kind", ["gcc", "Python.h"], [], "nnUNet_compile=f"),
    ],
)
def test_a_card_on_which_nothing_compiles_still_computes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    there: list[str],
    missing: list[str],
    remedy: str,
) -> None:
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(cards.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    machine = Machine(cards=[T4], tests={0: {"compile_failure": failure}})
    environ = {"PATH": str(tmp_path)}
    [found] = machine.check(compiling=True, environ=environ).working
    assert found.fault is None
    assert found.compile_fault is not None
    assert failure in str(found.compile_fault)
    assert found.compile_fault.problem.split("there is no ")[1:] == [
        f"{part}; " if part != missing[-1] else part for part in missing
    ]
    assert remedy in found.compile_fault.remedy
    assert "nnUNet_compile=f" in found.compile_fault.remedy
    own = {"PATH": str(tmp_path), "CC": str(tmp_path / "Python.h")}  # any program of the user's
    [found] = machine.check(compiling=True, environ=own).working
    assert found.compile_fault is not None
    assert ("there is no C compiler" in found.compile_fault.problem) == ("Python.h" not in there)


def test_what_works_is_not_tried_again_until_driver_or_pytorch_change(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}

    def ask(*, compiling: bool = False, fresh: bool = False, **changed: Any) -> list[int]:
        machine = Machine(cards=[T4], **changed)
        cards = machine.check(compiling=compiling, fresh=fresh, environ=environ)
        assert len(cards.working) == 1
        return machine.asked

    assert ask() == [0]
    assert ask() == []
    assert ask(compiling=True) == [0]  # which was not known
    assert ask(compiling=True) == []
    assert ask(fresh=True) == [0]
    assert ask(compiling=True) == []  # still known
    assert ask(driver="590.1") == [0]
    assert ask(torch="2.16.0+cu132") == [0]
    assert ask() == []
    (tmp_path / "gi2nnunet" / "cards.json").write_text("{damaged")
    assert ask() == [0]


def test_what_does_not_work_is_tried_again(tmp_path: Path) -> None:
    failing = Machine(cards=[T4], tests={0: {"failure": BUSY}})
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    Machine(cards=[T4]).check(environ=environ)
    failing.check(environ=environ, fresh=True)
    failing.check(environ=environ)
    assert failing.asked == [0, 0]
    exclusive = Machine(cards=[T4 | {"exclusive": True}])
    for _ in range(2):  # another program may have it now
        exclusive.check(environ=environ)
    assert exclusive.asked == [0, 0]


def test_a_cache_that_cannot_be_written_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "gi2nnunet").write_text("a file")
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    assert len(Machine(cards=[T4]).check(environ=environ).working) == 1


def test_the_cache_is_in_the_users_own_folder() -> None:
    assert find_cache({"XDG_CACHE_HOME": "/c", "HOME": "/h"}) == Path("/c")
    assert find_cache({"HOME": "/h"}) == Path("/h/.cache")
    assert find_cache({}) is None


def test_compiling_is_switched_off_as_nnunet_does() -> None:
    assert is_compiling({})
    assert is_compiling({"nnUNet_compile": "T"})
    for value in ("f", "False", "0", ""):
        assert not is_compiling({"nnUNet_compile": value})


def test_failures_of_cards_are_told_from_others() -> None:
    assert is_card_failure(BUSY)
    assert not is_card_failure("OutOfMemoryError: CUDA out of memory")


def make_engine(tmp_path: Path, machine: Machine, monkeypatch: Any, **options: Any) -> Engine:
    """An engine whose processes are the machine's."""

    def ask(
        _: Engine, task: str, options: Mapping[str, Any] | None = None, gpu: int | None = None
    ) -> dict[str, Any]:
        return machine.ask(task, options or {}, gpu)

    monkeypatch.setattr(Engine, "ask", ask)
    space = open_workspace(tmp_path / "w", environ={})
    return Engine(workspace=space, **{"environ": {}, **options})


def test_an_engine_computes_on_one_card_or_on_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(cards=[T4, OTHER_T4])
    engine = make_engine(tmp_path, machine, monkeypatch)
    assert engine.device_type == "cuda"
    assert engine.hardware.gpus == (0,)
    assert engine.use_every_card().hardware.gpus == (0, 1)
    one = make_engine(tmp_path, machine, monkeypatch, gpus=1)
    assert one.use_every_card().hardware.gpus == (0,)
    old = make_engine(tmp_path, Machine(cards=[P100]), monkeypatch)
    assert old.use_every_card().hardware.device == "cpu"
    on_cpu = make_engine(tmp_path, Machine(cards=[T4]), monkeypatch, device="cpu")
    assert on_cpu.use_every_card().hardware.device == "cpu"


def test_a_device_that_is_given_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(cards=[T4])
    engine = make_engine(tmp_path, machine, monkeypatch, device="cuda", threads=2)
    assert engine.device_type == "cuda"
    assert engine.choose_threads(training=False) == 2
    assert machine.asked == []


def test_looking_at_cards_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = []

    def run(task: str, _: Any, *, environment: Mapping[str, str], **__: Any) -> dict[str, Any]:
        caches.append(environment["TRITON_CACHE_DIR"])
        found = {"torch": "2.15.0", "cards": [T4, OTHER_T4]}
        return found if task == "devices" else {"failure": ""}

    monkeypatch.setattr(engine_module, "run_engine", run)
    space = open_workspace(tmp_path / "w", environ={})
    assert len(Engine(workspace=space, environ={}).check_cards(wanted=2).working) == 2
    assert list(tmp_path.iterdir()) == []
    assert not any(Path(folder).exists() for folder in caches)
    space.logs.parent.mkdir()  # of the user's own
    Engine(workspace=space, environ={}).check_cards(wanted=2)
    assert list(tmp_path.rglob("*")) == [space.logs.parent]


def test_an_engine_says_what_does_not_compile_unless_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(cards=[T4], tests={0: {"compile_failure": NO_COMPILER}})
    engine = make_engine(tmp_path, machine, monkeypatch)
    [(name, fault)] = engine.find_compile_faults()
    assert name == "Tesla T4"
    assert "nnUNet_compile=f gi2nnunet train" in fault.remedy
    # The remedy works: with the variable nothing is compiled, by nnU-Net neither.
    off = make_engine(tmp_path, machine, monkeypatch, environ={"nnUNet_compile": "f"})
    assert off.find_compile_faults() == []
