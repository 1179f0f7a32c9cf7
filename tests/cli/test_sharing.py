"""The commands that pass models on: export-model, import-model; and --trust where it stands."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet import engine as engine_module
from tests.converting import convert
from tests.model_factory import DATASET, make_plans, write_model
from tests.source_factory import make_source, write_source

Run = Callable[..., tuple[int, str, str]]


pytestmark = pytest.mark.usefixtures("engine_here")


def read_manifest(path: str) -> dict[str, Any]:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        content: dict[str, Any] = json.loads(archive.read("manifest.json"))
    return content


def test_a_model_goes_from_one_workspace_into_another(run: Run) -> None:
    write_model(Path("ours/results"), folds=("all",))
    write_model(Path("ours/results"), configuration="3d_fullres", folds=("all",))
    code, out, err = run("export-model", "--out", "m.gi2nnunet", "-w", "ours")
    assert (code, out) == (0, "m.gi2nnunet (0.0 MiB)\n")
    assert "2d + 3d_fullres, fold all" in err
    code, out, err = run("import-model", "m.gi2nnunet", "-w", "theirs")
    assert code == 0
    assert [line.rpartition("__")[2] for line in out.splitlines()] == ["2d", "3d_fullres"]
    assert "gi2nnunet predict --workspace theirs SOURCE --id 501" in err
    code, out, _ = run("import-model", "m.gi2nnunet", "-w", "theirs")
    assert code == 0
    assert out.count("existed before") == 2
    # What was imported can be passed on.
    assert run("export-model", "--out", "again.gi2nnunet", "-w", "theirs")[0] == 0
    assert read_manifest("again.gi2nnunet")["parts"].keys() == (
        read_manifest("m.gi2nnunet")["parts"].keys()
    )


def test_which_models_are_exported_is_said_as_for_predict(run: Run) -> None:
    write_model(Path("ours/results"), folds=(0, 1, "all"))
    write_model(Path("ours/results"), configuration="3d_fullres", folds=(0, 1, "all"))
    words = ("--config", "2d", "--fold", "1", "--preset", "tiny", "--trainer", "nnUNetTrainer")
    assert run("export-model", "--out", "m", *words, "--half", "-w", "ours")[0] == 0
    manifest = read_manifest("m")
    assert manifest["models"] == {"2d": [1]}
    assert manifest["precision"] == "half"
    code, _, err = run("export-model", "--out", "m", "--fold", "7", "-w", "ours")
    assert code == 3
    assert "Finished: 2d fold 0, 1, all" in err


def test_the_dataset_at_hand_tells_what_was_trained_on(run: Run) -> None:
    source = write_source(
        Path("source"), make_source(["case1_day0", "case2_day0", "case2_day3", "case3_day1"])
    )
    space = open_workspace(Path("ours"), environ={})
    dataset = convert(source, workspace=space, holdout=0, folds=2)
    write_model(Path("ours/results"), folds=(0, 1))
    assert run("export-model", "--out", "m", "-w", "ours")[0] == 0
    assert read_manifest("m")["n_folds"] == 2
    assert run("import-model", "m", "-w", "theirs")[0] == 0
    for fold in (0, 1):
        (record,) = Path("theirs").glob(f"results/*/*/fold_{fold}/gi2nnunet_imported.json")
        trained = json.loads(record.read_text())["trained_on"]
        assert trained == sorted(dataset.splits[fold]["train"])
    # In a workspace without the dataset the imported set is complete all the same.
    assert "the newest complete set" in run("export-model", "--out", "again", "-w", "theirs")[2]
    assert read_manifest("again")["n_folds"] == 2


def test_existing_models_and_damage_are_told_with_exit_code_3(run: Run) -> None:
    write_model(Path("ours/results"))
    run("export-model", "--out", "m", "-w", "ours")
    code, _, err = run("import-model", "m", "-w", "ours")
    assert code == 3
    assert "--replace" in err
    assert run("import-model", "m", "-w", "ours", "--replace")[0] == 0
    Path("m").write_bytes(Path("m").read_bytes()[:-30])
    code, _, err = run("import-model", "m", "-w", "theirs")
    assert code == 3
    assert "m: is not a model file, or a damaged one" in err


def test_a_planted_plan_needs_trust(run: Run) -> None:
    model = write_model(Path("ours/results"))
    plans = make_plans()
    plans["label_manager"] = "Planted"
    (model / "plans.json").write_text(json.dumps(plans))
    code, _, err = run("export-model", "--out", "m", "-w", "ours")
    assert code == 3
    assert "label_manager: found 'Planted'" in err
    assert run("export-model", "--out", "m", "-w", "ours", "--trust")[0] == 0
    assert run("import-model", "m", "-w", "theirs")[0] == 3
    assert run("import-model", "m", "-w", "theirs", "--trust")[0] == 0


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("command", ["predict", "predict-and-score"])
def test_predicting_trusts_only_when_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, trusted: bool
) -> None:
    asked = []

    def run_engine(task: str, options: Mapping[str, Any], *, on_event: Any, **_: Any) -> None:
        asked.append((task, options["trust"]))
        for scan in options["scans"]:
            on_event({"event": "scan", "scan_id": scan["scan_id"], "rows": [], "seconds": 1.0})

    monkeypatch.setattr(engine_module, "run_engine", run_engine)
    write_model(Path("ours/results"))
    write_source(Path("source"), make_source(["case1_day0"]))
    words = (command, "source", "-w", "ours", "--device", "cpu", *(["--trust"] * trusted))
    run(*words)
    assert asked == [("predict", trusted)]


def test_a_dataset_that_only_has_imported_models_is_found_by_its_number(run: Run) -> None:
    source = write_source(Path("source"), make_source(["case1_day0", "case2_day0"]))
    space = open_workspace(Path("ours"), environ={})
    convert(source, workspace=space, dataset_id=502, holdout=0)
    write_model(Path("ours/results"))
    code, _, err = run("export-model", "--out", "m", "--id", "501", "-w", "ours")
    assert code == 0, err
    assert read_manifest("m")["dataset"] == DATASET
