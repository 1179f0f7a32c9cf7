"""The acceptance on a GPU: what becomes of checks that fail, cannot be done or find no time."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_acceptance.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_acceptance", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_acceptance", module)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str, **checks: Any
) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the script with other checks; return its exit code and what it wrote of each."""
    monkeypatch.setattr(script, "CHECKS", tuple((name, 1.0, do) for name, do in checks.items()))
    monkeypatch.setattr(sys, "argv", ["script", "--out", str(out), "--no-card", *words])
    code = script.main()
    written = json.loads((out / "acceptance.json").read_text())["checks"]
    return code, {check["name"]: check for check in written}


def test_each_check_has_its_own_outcome_and_one_failure_fails_the_run(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def passes(bench: Any) -> dict[str, Any]:
        return {"ratio": 3.5}

    def fails(bench: Any) -> dict[str, Any]:
        # What was found before is on disk already, in case that the run is cut off here.
        assert '"ratio": 3.5' in (out / "acceptance.json").read_text()
        raise script.FailedError("voxels differ")

    def needs(bench: Any) -> dict[str, Any]:
        return {"found": bench.need("fails")}

    code, found = run(
        script, monkeypatch, out, passes=passes, fails=fails, needs=needs, last=passes
    )
    assert code == 1
    assert {name: check["state"] for name, check in found.items()} == {
        "passes": "passed", "fails": "failed", "needs": "skipped", "last": "passed",
    }  # fmt: skip
    assert "voxels differ" in found["fails"]["why"]
    assert "fails did not pass" in found["needs"]["why"]
    table = (out / "acceptance.md").read_text().splitlines()
    assert [line.split("|")[2].strip() for line in table[2:]] == [
        "passed", "failed", "skipped", "passed",
    ]  # fmt: skip


def test_a_check_without_time_left_is_skipped(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(bench: Any) -> dict[str, Any]:
        raise AssertionError("begun without time")

    code, found = run(
        script, monkeypatch, tmp_path / "out", "--minutes", "0.001", one=never, two=never
    )
    assert code == 0
    assert {check["state"] for check in found.values()} == {"skipped"}
    assert all("s are left" in check["why"] for check in found.values())


def test_a_command_that_takes_too_long_is_ended_and_fails_its_check(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def sleeps(bench: Any) -> dict[str, Any]:
        bench.until = 0.0  # long over
        bench.run("sleeper", ["-c", "import time; time.sleep(100)"])
        return {}

    code, found = run(script, monkeypatch, tmp_path / "out", sleeps=sleeps)
    assert code == 1
    assert "sleeper took more than" in found["sleeps"]["why"]
    assert found["sleeps"]["seconds"] < 60


def test_a_folder_with_files_is_left_alone(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        run(script, monkeypatch, tmp_path)
    assert ended.value.code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
