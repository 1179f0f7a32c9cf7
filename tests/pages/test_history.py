"""What the report takes from records: commands, tuning, cost, what is lacking."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

import gi2nnunet
from gi2nnunet.core.locks import find_holders, hold
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.presets import PRESETS, name_sizes, read_plans_name
from gi2nnunet.pages.gather import gather_report
from gi2nnunet.pages.history import find_tunings, find_unfinished, list_commands, list_costs
from gi2nnunet.pages.page import render_report
from gi2nnunet.prediction.folders import KEPT
from gi2nnunet.training.record import find_trainings
from tests.pages.test_report import make_log, predict_truth, space
from tests.source_factory import make_source, write_source

__all__ = ["space"]

SETTINGS = {
    "trainer": "nnUNetTrainer", "epochs": 40, "iterations": 50, "learning_rate": None,
    "pretrained_weights": None,
}  # fmt: skip
RUN = {"device": "cpu", "threads": 2}
TINY = "nnUNetTrainer__gi2nnunetTinyPlans"
CHOICE = {"threshold": 0.4, "gate": 0.6, "smallest_ml": 1.0, "fill_slices": 2, "weights": {}}
GAIN = {"plain": 0.7, "tuned": 0.75, "gain": 0.05, "low": 0.01, "high": None}


def add_training(
    results: Path, model: str, fold: object, *, epochs: int = 2, done: bool = True, **record: Any
) -> Path:
    folder = results / model / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text(make_log(0, epochs))
    content = {"settings": SETTINGS, "preset": "tiny", "runs": [RUN], **record}
    (folder / "gi2nnunet_training.json").write_text(json.dumps(content))
    if done:
        (folder / "checkpoint_final.pth").touch()
    return folder


def test_a_conversion_is_made_again_by_its_recorded_command(run: Any, tmp_path: Path) -> None:
    source = write_source(tmp_path / "Jane Doe", make_source(("case1_day0", "case7_day0")))
    made = gi2nnunet.convert(
        source, workspace=tmp_path / "w",
        labels="exclusive", folds=2, holdout=0, keep_known_bad=True, seed=3, dataset_id=7,
    )  # fmt: skip
    (command,) = list_commands(made.manifest, ())
    assert "Jane Doe" not in command
    words = [str(source) if word == "SOURCE" else word for word in shlex.split(command)]
    assert words[0] == "gi2nnunet"
    assert run(*words[1:], "--workspace", "again", "--jobs", 1)[0] == 0
    again = read_dataset(Path("again/raw"))
    assert again.name == made.name
    assert again.manifest == made.manifest


def test_each_recorded_command_is_listed_once_and_in_order(tmp_path: Path) -> None:
    every = {**RUN, "command": "gi2nnunet train --fold cv --preset tiny"}
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            add_training(tmp_path, f"{TINY}__{configuration}", fold, runs=[RUN, every])
    more = {**RUN, "command": "gi2nnunet train --fold all --preset tiny"}
    add_training(tmp_path, f"{TINY}__2d", "all", runs=[more])
    assert list_commands(
        {"command": "gi2nnunet convert SOURCE"},
        find_trainings(tmp_path),
        tunings=[{"command": "gi2nnunet tune --seed 4"}],
        about={"command": "gi2nnunet predict-and-score SOURCE --out OUT"},
    ) == (
        "gi2nnunet convert SOURCE",
        "gi2nnunet train --fold cv --preset tiny",
        "gi2nnunet train --fold all --preset tiny",
        "gi2nnunet tune --seed 4",
        "gi2nnunet predict-and-score SOURCE --out OUT",
    )


def test_steps_that_recorded_no_command_are_named(tmp_path: Path) -> None:
    add_training(tmp_path, f"{TINY}__2d", 0, settings=None, runs=[])
    for fold in (0, 1):
        imported = add_training(tmp_path, f"{TINY}__3d_fullres", fold)
        (imported / "gi2nnunet_imported.json").write_text('{"file": "my model.gi2"}')
    tuning = {"models": [f"{TINY}__2d"]}
    lines = list_commands({}, find_trainings(tmp_path), tunings=[tuning], about={})
    assert lines == (
        "# the conversion: its command was not recorded",
        "# 2d, fold 0, gi2nnunetTinyPlans: its command was not recorded",
        "gi2nnunet import-model 'my model.gi2'",
        "# the tuning of 2d, nnUNetTrainer, gi2nnunetTinyPlans: its command was not recorded",
        "# the prediction: its command was not recorded",
    )


@pytest.mark.parametrize("preset", PRESETS.values())
@pytest.mark.parametrize(
    ("batch", "sizes"), [(None, {}), (4, {}), (None, {"2": [8, 16]}), (2, {"3": [8] * 3})]
)
def test_names_of_plans_are_read_back(preset: Any, batch: Any, sizes: Any) -> None:
    texts = tuple("x".join(map(str, size)) for size in sizes.values())
    name = preset.plans_name + name_sizes(batch, sizes)
    assert read_plans_name(name) == (preset, batch, texts)
    assert read_plans_name("MyPlans" + name) is None
    assert read_plans_name(name + "x") is None


def test_what_is_not_finished_is_said(tmp_path: Path) -> None:
    folder = add_training(tmp_path, f"{TINY}__2d", 0, done=False)
    add_training(tmp_path, f"{TINY}__3d_fullres", 1)
    trainings = find_trainings(tmp_path)
    assert trainings[0].state == "stopped after epoch 2 of 40"
    lines = find_unfinished(trainings, n_folds=3)
    assert lines[0].startswith("2d, fold 0 (gi2nnunetTinyPlans): stopped after epoch 2 of 40.")
    assert "folds 1, 2 of 3 are not begun" in lines[1]
    assert "folds 0, 2 of 3 are not begun" in lines[2]
    with hold(folder, purpose="training 2d, fold 0"):
        (holder,) = find_holders(folder)
        assert (holder.pid, holder.purpose) == (os.getpid(), "training 2d, fold 0")
        assert find_trainings(tmp_path)[0].state == "running, after epoch 2 of 40"
    assert find_holders(folder) == ()


def test_the_page_of_an_interrupted_workspace(space: Workspace, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(space.raw.parent, tmp_path / "w")
    mine = open_workspace(tmp_path / "w", environ={})
    kept = mine.predictions / "held-out" / "x" / KEPT
    kept.mkdir(parents=True)
    (kept / "case2_day1.json").write_text("{}")
    add_training(mine.results / "Dataset501_UWGI", f"{TINY}__2d", 0, done=False)
    report = gather_report(mine)
    page = render_report(report)
    assert "The prediction held-out/x was interrupted, 1 scan done." in page
    assert "stopped after epoch 2 of 40" in page
    assert "Nothing is predicted yet" in page


def test_time_and_memory_are_those_recorded(tmp_path: Path) -> None:
    runs = [{**RUN, "peak_memory_bytes": 3 << 30}, {**RUN, "peak_memory_bytes": 2 << 30}]
    add_training(tmp_path / "r", f"{TINY}__2d", 0, runs=runs)
    add_training(tmp_path / "r", f"{TINY}__2d", 1)
    for folder in (tmp_path / "oof" / f"{TINY}__2d", tmp_path / "p"):
        folder.mkdir(parents=True)
        cost = {"scans": 4, "seconds_per_scan": 2.5, "device": "cuda", "peak_gpu_bytes": 7}
        (folder / "cost.json").write_text(json.dumps(cost))
    trainings = find_trainings(tmp_path / "r")
    costs = list_costs(trainings, prediction=tmp_path / "p", out_of_fold=tmp_path / "oof")
    assert [(c.step, c.amount, c.seconds, c.memory_bytes, c.gpu_bytes) for c in costs] == [
        ("training 2d, fold 0", 2, 20.76, 3 << 30, None),
        ("training 2d, fold 1", 2, 20.76, None, None),
        ("out-of-fold prediction, 2d", 4, 10.0, None, 7),
        ("prediction", 4, 10.0, None, 7),
    ]
    assert costs[0].seconds_each == pytest.approx(10.38)


def tuning_content(*models: str) -> dict[str, Any]:
    return {
        "format": 1, "models": list(models), "checkpoints": {}, "metric": "per-class",
        "decision": {"stomach": CHOICE}, "found": {"stomach": CHOICE, "large_bowel": CHOICE},
        "gains": {"stomach": GAIN, "all": GAIN},
        "n_scans": 9, "n_patients": 6, "n_folds": 3,
    }  # fmt: skip


def test_the_tuning_of_the_prediction_comes_first(tmp_path: Path) -> None:
    for name, models in (("a", ["other"]), ("b", ["mine"]), ("c", ["T__P__2d", "T__P__3d"])):
        path = tmp_path / f"gi2nnunet_tuning_{name}.json"
        path.write_text(json.dumps(tuning_content(*models)))
    used = {**tuning_content(), "file": "/elsewhere/gi2nnunet_tuning_b.json"}
    del used["models"]
    found, damaged = find_tunings(tmp_path, {"tuning": used})
    assert damaged == []
    assert [t.heading for t in found] == [
        "Used by this prediction: mine",
        "Chosen for other models: other",
        "Chosen for other models: 2d + 3d, T, P",
    ]
    assert found[0].basis == "9 scans, 6 patients, 3 folds, convention per-class"
    assert found[0].choices[-1] == ("stomach", "yes", "mean", "0.4", "0.6", "1", "2")
    assert found[0].choices[0][:2] == ("large_bowel", "no")
    assert found[0].gains["all"][:4] == (0.7, 0.75, 0.05, 0.01)
    # Made again since: what the prediction recorded counts.
    used["gains"] = {"all": {**GAIN, "gain": 0.02}}
    found, _ = find_tunings(tmp_path, {"tuning": used})
    assert found[0].gains == {"all": (0.7, 0.75, 0.02, 0.01, None)}
    found, _ = find_tunings(tmp_path, {"tuning": None, "options": {"trained": ["mine"]}})
    assert "not used by this prediction: mine" in "".join(t.heading for t in found)


def test_a_damaged_tuning_is_said_and_the_page_made_all_the_same(
    space: Workspace, tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(space.raw.parent, tmp_path / "w")
    mine = open_workspace(tmp_path / "w", environ={})
    results = mine.results / "Dataset501_UWGI"
    results.mkdir(parents=True)
    (results / "gi2nnunet_tuning_a.json").write_text('{"decision": 5}')
    folder = predict_truth(mine, mine.predictions / "held")
    tuning = {**tuning_content(), "file": "gone.json"}
    (folder / "prediction.json").write_text(json.dumps({"tuning": tuning}))
    report = gather_report(mine)
    page = render_report(report)
    assert "gi2nnunet_tuning_a.json is damaged" in page
    assert "Used by this prediction" in page
    assert "<td>+0.0500</td>" in page
    assert "9 scans, 6 patients, 3 folds" in page
