"""The real nnU-Net with models and data of others: passed on, and planted ones."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.formats.volumes import read_volume, write_volume
from gi2nnunet.nnunet.process import LogFile, engine_environment, run_engine
from tests.model_factory import DATASET, DATASET_JSON, make_plans, write_model

pytestmark = pytest.mark.engine
NAME = "case1_day1"


def run(*words: str | Path, cwd: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *map(str, words)],
        cwd=cwd, capture_output=True, text=True, env=environ, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_image(folder: Path) -> Path:
    array = np.random.default_rng(0).integers(0, 250, (4, 40, 36)).astype(np.uint16)
    path = folder / f"{NAME}_0000.nii.gz"
    folder.mkdir(parents=True, exist_ok=True)
    write_volume(path, array, spacing_mm=(3.0, 3.0, 3.0))
    return path


def environment_of(workspace: Workspace) -> dict[str, str]:
    return engine_environment(
        workspace, environ=os.environ, processes=1, augmentation_processes=0, threads=2
    )


def test_an_imported_model_predicts_the_same_voxels_here_and_in_plain_nnunet(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "ours" / "results", folds=(0, 1))
    image = write_image(tmp_path / "images")
    run("export-model", "--out", "model.gi2nnunet", "-w", "ours", cwd=tmp_path)
    run("import-model", "model.gi2nnunet", "-w", "theirs", cwd=tmp_path)
    found = {}
    for home in ("ours", "theirs"):
        said = run(
            "predict", image, "-w", home, "-o", f"out-{home}", "--nifti", "--device", "cpu",
            cwd=tmp_path,
        )  # fmt: skip
        assert "2d, fold 0, 1" in said
        found[home] = read_volume(tmp_path / f"out-{home}" / "labels" / f"{NAME}.nii.gz").array
    assert set(np.unique(found["ours"])) >= {1, 2, 4}
    np.testing.assert_array_equal(found["theirs"], found["ours"])
    submissions = [(tmp_path / f"out-{home}" / "submission.csv").read_bytes() for home in found]
    assert submissions[0] == submissions[1]

    subprocess.run(
        [Path(sys.executable).with_name("nnUNetv2_predict"), "-i", tmp_path / "images",
         "-o", tmp_path / "plain", "-d", "501", "-c", "2d", "-f", "0", "1",
         "-p", "gi2nnunetTinyPlans", "-device", "cpu", "-npp", "1", "-nps", "1"],
        env=environment_of(open_workspace(tmp_path / "theirs", environ={})),
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    plain = read_volume(tmp_path / "plain" / f"{NAME}.nii.gz").array
    painted = np.zeros_like(plain)
    for bit in (1, 2, 4):  # nnU-Net paints one organ over the other
        painted[found["theirs"] & bit != 0] = bit
    np.testing.assert_array_equal(plain, painted)


def plant_module(folder: Path) -> tuple[Path, Path]:
    """A module that leaves a file behind when it is imported; its folder and that file."""
    folder.mkdir()
    flag = folder / "imported"
    code = f"open({str(flag)!r}, 'w').close()\nclass Evil:\n    pass\n"
    (folder / "planted.py").write_text(code)
    return folder, flag


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """Run a task in a child that could import the planted module."""
    folder, flag = plant_module(tmp_path / "modules")
    workspace = open_workspace(tmp_path / "ws", environ={})
    (tmp_path / "log").touch()

    def run_task(task: str, options: dict[str, Any]) -> None:
        environment = environment_of(workspace)
        environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
        run_engine(task, options, environment=environment, log=LogFile(path=tmp_path / "log"))

    run_task.flag = flag  # type: ignore[attr-defined]
    return run_task


def planted_plans() -> dict[str, Any]:
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "planted.Evil"
    return plans


def test_a_planted_plan_does_not_run_when_it_is_to_predict(engine: Any, tmp_path: Path) -> None:
    model = write_model(tmp_path / "ws" / "results")
    (model / "plans.json").write_text(json.dumps(planted_plans()))
    scan = {
        "scan_id": NAME, "numbers": [1, 2, 3, 4], "folds": ["all"],
        "volume": str(write_image(tmp_path / "images")),
    }  # fmt: skip
    options = {
        "models": [str(model)], "scans": [scan], "device": "cpu", "mirroring": False,
        "step_size": 1.0, "threads": 2, "nifti_folder": None,
    }  # fmt: skip
    with pytest.raises(InputError, match=r"plans\.json.*network_class_name.*planted\.Evil"):
        engine("predict", {**options, "trust": False})
    assert not engine.flag.exists()
    with pytest.raises(EngineError):  # a class that is no network
        engine("predict", {**options, "trust": True})
    assert engine.flag.exists()


def test_weights_of_another_network_are_named(engine: Any, tmp_path: Path) -> None:
    model = write_model(tmp_path / "ws" / "results")
    plans = make_plans()
    kwargs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4, 16]
    (model / "plans.json").write_text(json.dumps(plans))
    scan = {
        "scan_id": NAME, "numbers": [1, 2, 3, 4], "folds": ["all"],
        "volume": str(write_image(tmp_path / "images")),
    }  # fmt: skip
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: its weights are not of the"):
        engine(
            "predict",
            {
                "models": [str(model)], "scans": [scan], "device": "cpu", "mirroring": False,
                "step_size": 1.0, "threads": 2, "nifti_folder": None, "trust": False,
            },
        )  # fmt: skip


def preprocess(tmp_path: Path, plans: dict[str, Any]) -> Path:
    """A folder as preprocessing leaves it, but for the scans; return that of the scans."""
    folder = tmp_path / "ws" / "preprocessed" / DATASET
    data = folder / "gi2nnunetTinyPlans_2d"
    data.mkdir(parents=True)
    (folder / "gi2nnunetTinyPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(DATASET_JSON))
    raw = tmp_path / "ws" / "raw" / DATASET
    raw.mkdir(parents=True)
    (raw / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return data


def training(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "dataset_folder": str(tmp_path / "ws" / "preprocessed" / DATASET),
        "plans_name": "gi2nnunetTinyPlans", "configuration": "2d", "fold": "all",
        "trainer": "nnUNetTrainer", "device": "cpu", "epochs": 1, "iterations": 1,
        "learning_rate": None, "pretrained_weights": None, "resume_from": None,
        "augment": "processor",
        "nnunet_validation": False, "threads": 2, "trust": False, **changes,
    }  # fmt: skip


def test_planted_plans_do_not_run_when_they_are_trained_or_preprocessed(
    engine: Any, tmp_path: Path
) -> None:
    preprocess(tmp_path, planted_plans())
    with pytest.raises(InputError, match=r"gi2nnunetTinyPlans\.json.*planted\.Evil"):
        engine("train", training(tmp_path))
    with pytest.raises(InputError, match=r"gi2nnunetTinyPlans\.json.*planted\.Evil"):
        engine(
            "preprocess",
            {
                "dataset_id": 501, "plans_name": "gi2nnunetTinyPlans", "configuration": "2d",
                "processes": 1, "scans": [],
            },
        )  # fmt: skip
    assert not engine.flag.exists()


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_pickle_planted_beside_a_scan_does_not_run(engine: Any, tmp_path: Path) -> None:
    data = preprocess(tmp_path, make_plans())
    (data / f"{NAME}.pkl").write_bytes(pickle.dumps({"class_locations": Planted(engine.flag)}))
    with pytest.raises(InputError, match=rf"{NAME}\.pkl: found .*which it would run"):
        engine("train", training(tmp_path))
    assert not engine.flag.exists()


def test_trainers_and_splits_are_checked_before_training(engine: Any, tmp_path: Path) -> None:
    data = preprocess(tmp_path, make_plans())
    with pytest.raises(InputError, match="trainer: found 'planted'"):
        engine("train", training(tmp_path, trainer="planted"))
    (data.parent / "splits_final.json").write_text(
        json.dumps([{"train": ["../../../modules/planted"], "val": []}])
    )
    with pytest.raises(InputError, match=r"splits_final\.json, fold 0, train"):
        engine("train", training(tmp_path, fold=0))


def test_planted_pretrained_weights_run_only_when_trusted(engine: Any, tmp_path: Path) -> None:
    import torch

    from tests.model_factory import make_checkpoint

    preprocess(tmp_path, make_plans())
    path = tmp_path / "evil.pth"
    torch.save({**make_checkpoint(), "logging": Planted(engine.flag)}, path)
    with pytest.raises(InputError, match=r"evil\.pth: refused.*--trust"):
        engine("train", training(tmp_path, pretrained_weights=str(path)))
    assert not engine.flag.exists()
    with pytest.raises(EngineError):  # there are no scans to train on
        engine("train", training(tmp_path, pretrained_weights=str(path), trust=True))
    assert engine.flag.exists()


def test_a_module_in_the_current_folder_is_not_taken_for_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "ran"
    (tmp_path / "torch.py").write_text(f"open({str(flag)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").touch()
    run_engine(
        "devices",
        {},
        environment=environment_of(open_workspace(tmp_path / "ws", environ={})),
        log=LogFile(path=tmp_path / "log"),
    )
    assert not flag.exists()
