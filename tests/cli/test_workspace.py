"""The commands that only look, and what plan and train look at before they start."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.training import doctor, machine, plan
from gi2nnunet.training.machine import Disk, Machine
from gi2nnunet.training.need import GIB, MIB
from tests.model_factory import write_model
from tests.source_factory import make_source, write_source

Run = Callable[..., tuple[int, str, str]]
SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")
MACHINE = Machine(
    cores=4, quota=None, memory_bytes=64 * GIB, free_memory_bytes=60 * GIB,
    shared_memory_bytes=32 * GIB,
)  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "installation": {"failed_imports": {}},
    "devices": {"torch": "2.15.0+cu132"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path.with_name(f"{tmp_path.name}-cache")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_module.Engine, "ask", lambda _, task: ANSWERS[task])
    monkeypatch.setattr(doctor, "read_machine", lambda: MACHINE)
    return tmp_path


@pytest.fixture
def converted(run: Run, here: Path) -> Path:
    write_source(here / "source", make_source(SCANS))
    assert run("convert", "source", "--holdout", "0")[0] == 0
    return here / "gi2nnunet-workspace"


def test_verify_says_that_all_is_well(run: Run, converted: Path) -> None:
    code, out, err = run("verify")
    assert code == 0
    assert out.splitlines()[-1].endswith("(names, content and geometry): all is well")
    assert "checking files" in err
    code, out, _ = run("verify", "--quick", "--id", "501", "--jobs", "2", "--json")
    assert code == 0
    content = json.loads(out)
    assert (content["sound"], content["quick"], content["findings"]) == (True, True, [])


def test_verify_lists_every_finding_and_ends_with_3(run: Run, converted: Path) -> None:
    raw = converted / "raw" / "Dataset501_UWGI"
    gone = [raw / "imagesTr" / "case1_day0_0000.nii.gz", raw / "truth.csv"]
    for path in gone:
        path.unlink()
    code, out, err = run("verify", "--quick")
    assert code == 3
    assert [Path(line.partition(": found")[0]).absolute() for line in out.splitlines()[:2]] == gone
    assert all("gi2nnunet convert SOURCE" in line for line in out.splitlines()[:2])
    assert out.splitlines()[-1].endswith("2 findings")
    assert "Traceback" not in err
    code, out, _ = run("verify", "--json")
    assert code == 3
    findings = json.loads(out)["findings"]
    assert [finding["file"] for finding in findings] == list(map(str, gone))
    assert set(findings[0]) == {"file", "found", "expected", "remedy"}


def test_verify_of_nothing_is_an_input_error(run: Run, here: Path) -> None:
    code, out, err = run("verify")
    assert (code, out) == (3, "")
    assert "holds no dataset" in err
    assert list(here.iterdir()) == []


def test_doctor_without_a_workspace_looks_at_the_installation(run: Run, here: Path) -> None:
    code, out, err = run("doctor")
    assert code == 0
    assert "only the installation is checked" in err
    assert "torchvision" in out
    assert "memory to train" not in out
    assert out.splitlines()[-1] == "Ready to train."
    assert list(here.iterdir()) == []


def test_doctor_holds_the_machine_to_the_dataset(
    run: Run, converted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("doctor", "--preset", "tiny", "--fold", "cv", "--json")
    assert code == 0
    content = json.loads(out)
    assert (content["fit"], content["dataset"]) == (True, "Dataset501_UWGI")
    monkeypatch.setattr(doctor, "read_machine", lambda: replace(MACHINE, memory_bytes=256 * MIB))
    code, out, _ = run("doctor", "--preset", "tiny")
    assert code == 3
    assert "Error: memory to train: " in out
    assert "256 MiB" in out
    assert out.splitlines()[-1] == "Training cannot start; see the errors above."


class Engine:
    """Remembers that the engine was asked to plan."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise plan.InputError("the engine was asked")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    made = Engine()
    monkeypatch.setattr(plan, "plan_dataset", made)
    return made


@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_full_disk_stops_before_the_engine_starts(
    run: Run, converted: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def measure(folder: Path) -> Disk:
        return Disk(folder=folder, device=1, free_bytes=MIB, writable=True)

    monkeypatch.setattr(doctor, "measure_disk", measure)
    words = (command, "--device", "cpu", "--preset", "tiny")
    code, _, err = run(*words)
    assert (code, engine.asked) == (3, 0)
    assert "disk: found 1 MiB free" in err
    assert "--no-checks" in err
    code, _, err = run(*words, "--no-checks")
    assert (code, engine.asked) == (3, 1)
    assert "the engine was asked" in err


@pytest.mark.parametrize("command", ["plan", "train"])
def test_versions_that_do_not_fit_stop_before_anything_is_loaded(
    run: Run, converted: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    installed = machine.read_installation()
    old = replace(installed, versions={**installed.versions, "torch": "2.9.0"})
    monkeypatch.setattr(machine, "read_installation", lambda: old)
    code, _, err = run(command, "--device", "cpu", "--preset", "tiny")
    assert (code, engine.asked) == (3, 0)
    assert "torch for nnunetv2: found 2.9.0" in err
    assert "Computing on" not in err


def test_what_is_scarce_is_a_warning(
    run: Run, converted: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = replace(MACHINE, free_memory_bytes=256 * MIB)
    monkeypatch.setattr(doctor, "read_machine", lambda: busy)
    _, _, err = run("train", "--device", "cpu", "--preset", "tiny")
    assert engine.asked == 1
    assert "Warning: memory to train: found 256 MiB free" in err


def answer(torch_tells: dict[str, object], test: dict[str, object]) -> Callable[..., object]:
    """A stand-in for the child's answers on cards."""

    def ask(_: object, task: str, options: object = None, gpu: int | None = None) -> object:
        return {**ANSWERS, "devices": {**ANSWERS["devices"], **torch_tells}, "card": test}[task]

    return ask


P100 = {
    "cuda": "13.2", "kernels": ["sm_75", "sm_80"],
    "cards": [{"index": 0, "name": "Tesla P100", "capability": [6, 0], "memory_gib": 15.9}],
}  # fmt: skip
T4 = {
    "cuda": "13.2", "kernels": ["sm_75", "sm_80"],
    "cards": [{"index": 0, "name": "Tesla T4", "capability": [7, 5], "memory_gib": 15.6}],
}  # fmt: skip
OLD_DRIVER = {"cuda": "13.2", "driver": "535.104.05"}


@pytest.mark.parametrize(
    ("machine", "said"),
    [(P100, "Install torch and torchvision for an older CUDA"),
     (OLD_DRIVER, "Update it to 580 or newer")],
)  # fmt: skip
def test_a_card_that_cannot_be_used_stops_training_and_prediction(
    run: Run, converted: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, machine: Any,
    said: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(engine_module.Engine, "ask", answer(machine, {}))
    code, _, err = run("train", "--device", "cuda")
    assert (code, engine.asked) == (3, 0)
    assert said in err
    write_model(converted / "results")
    code, _, err = run("predict", "source", "--device", "cuda")
    assert code == 3
    assert said in err
    # The remedies: another device, or the default, which says why it is the processor.
    code, _, err = run("train", "--preset", "tiny")
    assert engine.asked == 1
    assert "Computing on: CPU" in err
    assert said in err
    code, out, _ = run("doctor", "--preset", "tiny")
    assert code == 0
    assert said in out


def test_a_missing_compiler_stops_a_training_unless_nothing_is_compiled(
    run: Run, converted: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = {"failure": "", "compile_failure": "RuntimeError: Failed to find C compiler."}
    monkeypatch.setattr(engine_module.Engine, "ask", answer(T4, failing))
    code, _, err = run("train", "--preset", "default")
    assert (code, engine.asked) == (3, 0)
    assert "Computing on: Tesla T4" in err
    assert "train without torch.compile: nnUNet_compile=f gi2nnunet train" in err
    assert run("plan", "--preset", "default")[0] == 3
    assert engine.asked == 1  # a plan compiles nothing
    monkeypatch.setenv("nnUNet_compile", "f")
    run("train", "--preset", "default")
    assert engine.asked == 2


def test_doctor_shows_each_card(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = {"failure": "", "free_gib": 15.1, "compile_failure": ""}
    monkeypatch.setattr(engine_module.Engine, "ask", answer(T4, test))
    code, out, _ = run("doctor")
    assert code == 0
    assert "card 0, Tesla T4" in out
    assert "that it computes (15.6 GiB, 15.1 free)" in out
    code, out, _ = run("doctor", "--json")
    [card] = json.loads(out)["cards"]
    assert (card["name"], card["free_gib"], card["why_not_computes"]) == ("Tesla T4", 15.1, "")
