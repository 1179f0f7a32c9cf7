"""Predictions by name: what a path or a name stands for, and what is said if it is nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gi2nnunet
from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.upkeep.named import find_folder, find_masks
from tests.converting import convert
from tests.remedies import follow
from tests.source_factory import make_source, write_source
from tests.upkeep.workspace_factory import (
    NAME,
    STOCK,
    add_out_of_fold,
    add_prediction,
    add_training,
    replace_checkpoint,
)

SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2", "case5_day0")
FULL = f"{STOCK}__3d_fullres"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    write_source(root / "source", make_source(SCANS))
    space = open_workspace(root / "w", environ={})
    convert(root / "source", workspace=space, folds=2, holdout=0.2, jobs=1)
    return root / "w"


class Place:
    """A converted workspace with two models of two folds."""

    def __init__(self, root: Path) -> None:
        self.workspace = open_workspace(root, environ={})
        self.dataset = gi2nnunet.open_dataset(workspace=root)
        parts = [(scan.part, scan.scan_id) for scan in self.dataset.scans]
        self.training = [scan_id for part, scan_id in parts if part == "train"]
        self.held_out = [scan_id for part, scan_id in parts if part == "holdout"]

    def train(self, *models: str, folds: tuple[object, ...] = (0, 1), **more: Any) -> None:
        for model in models:
            for fold in folds:
                add_training(self.workspace, model=model, fold=fold, **more)

    def find(self, *names: str) -> list[str]:
        return [found.taken for found in find_masks(names, workspace=self.workspace)]

    def refuse(self, *names: str) -> str:
        with pytest.raises(InputError) as refused:
            find_masks(names, workspace=self.workspace)
        return str(refused.value)


@pytest.fixture
def place(converted: Path, here: Path) -> Place:
    shutil.copytree(converted, here / "gi2nnunet-workspace")
    return Place(here / "gi2nnunet-workspace")


def test_a_model_stands_for_its_out_of_fold_predictions(place: Place) -> None:
    place.train(f"{STOCK}__2d", FULL)
    lost = place.training[0]
    add_out_of_fold(place.workspace, place.dataset)
    add_out_of_fold(place.workspace, place.dataset, model=FULL, without={lost: "stomach"})
    add_prediction(place.workspace, place.dataset, scan_ids=place.held_out)
    a, b = find_masks(["2d", "3d_fullres"], workspace=place.workspace)
    assert (a.standing, a.dataset) == ("out-of-fold", NAME)
    assert "out-of-fold predictions of 2d" in a.taken
    truth = read_mask_table(place.dataset.truth_path, any_scan=True)
    rows = {row for row in truth.list_rows() if row[0].partition("_slice")[0] in place.training}
    assert set(a.table.list_rows()) == rows
    for row in set(b.table.list_rows()) ^ rows:
        assert row[:2][0].startswith(lost)
        assert row[1] == "stomach"


@pytest.mark.parametrize("metric", CONVENTIONS)
def test_models_are_compared_by_every_convention(place: Place, run: Run, metric: str) -> None:
    """One of them needs the rows in the truth's order."""
    place.train(f"{STOCK}__2d", FULL)
    add_out_of_fold(place.workspace, place.dataset)
    without = {place.training[0]: "stomach"}
    add_out_of_fold(place.workspace, place.dataset, model=FULL, without=without)
    code, out, err = run("compare", "2d", "3d_fullres", "--metric", metric, "--json")
    assert code == 0, err
    assert json.loads(out)["scans"][0]["scan_id"] == place.training[0]


def test_out_of_fold_predictions_are_measured_in_the_spacing_of_the_dataset(
    place: Place, run: Run
) -> None:
    place.train(f"{STOCK}__2d")
    add_out_of_fold(place.workspace, place.dataset)
    lines = [
        ("score", "2d", "--medical"),
        ("score", "out_of_fold/2d", "--medical", "--per-slice", "slices.csv"),
        ("compare", "2d", "2d", "--medical"),
    ]
    for words in lines:
        code, out, err = run(*words, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert "hd95_mm" in str(found)
    areas = [line.split(",")[7] for line in Path("slices.csv").read_text().splitlines()]
    assert areas[0] == "area_true_mm2"
    assert all(areas)


def test_an_ensemble_is_the_mean_of_its_models(place: Place) -> None:
    place.train(f"{STOCK}__2d", FULL)
    lost = place.training[0]
    add_out_of_fold(place.workspace, place.dataset)
    add_out_of_fold(place.workspace, place.dataset, model=FULL, without={lost: "stomach"})
    one, both = find_masks(["3d_fullres", "2d+3d_fullres"], workspace=place.workspace)
    assert "2d+3d_fullres" in both.taken
    # 255 and 0 have a mean that is not above a half.
    assert both.table.list_rows() == one.table.list_rows()


def test_models_with_held_out_predictions_only_are_compared_on_these(place: Place) -> None:
    place.train(f"{STOCK}__2d", FULL)
    add_out_of_fold(place.workspace, place.dataset)
    for model in (f"{STOCK}__2d", FULL):
        add_prediction(
            place.workspace, place.dataset, folder=f"held-out/{model}__fold_01", trained=(model,),
            scan_ids=place.held_out,
        )  # fmt: skip
    assert place.find("2d", "3d_fullres") == [
        "the prediction held-out/2d",
        "the prediction held-out/3d_fullres",
    ]
    assert "several" in place.refuse("held-out", "2d")
    # Beside a prediction of held-out scans, a model stands for such a prediction.
    folder = f"held-out/{FULL}__fold_01"
    assert place.find(folder, "2d")[1] == "the prediction held-out/2d"


def test_a_path_comes_before_a_name(place: Place, here: Path) -> None:
    place.train(f"{STOCK}__2d")
    add_out_of_fold(place.workspace, place.dataset)
    shutil.copy(place.dataset.truth_path, here / "2d")
    assert place.find("2d", "out_of_fold/2d") == [
        "2d",
        "the out-of-fold predictions of 2d (nnUNetTrainer, gi2nnunetTinyPlans), without tuning",
    ]


def test_several_models_of_a_name_need_a_longer_one(place: Place) -> None:
    other = "nnUNetTrainer__nnUNetPlans__2d"
    place.train(f"{STOCK}__2d", other)
    for model in (f"{STOCK}__2d", other):
        add_out_of_fold(place.workspace, place.dataset, model=model)
    said = place.refuse("2d", "tiny__2d")
    assert f"2d: found several of that name ({STOCK}__2d, {other})" in said
    assert "Give the longer name" in said
    one, two = place.find("tiny__2d", "nnUNetPlans__2d")
    assert "(nnUNetTrainer, gi2nnunetTinyPlans)" in one
    assert "(nnUNetTrainer, nnUNetPlans)" in two


def test_unknown_names_are_answered_with_those_that_there_are(place: Place) -> None:
    place.train(f"{STOCK}__2d")
    add_prediction(place.workspace, place.dataset)
    said = place.refuse("3d", "2d")
    assert "3d: found no such file, and no prediction or model of that name" in said
    assert "expected one of 2d" in said
    assert "held-out" in place.refuse("none of these", "2d")
    place.train(FULL, folds=(0,), done=False, epochs=3)
    said = place.refuse("3d_fullres", "2d")
    assert "3d_fullres: found a model that is not trained to its end" in said
    assert "Go on with: gi2nnunet train" in said


def test_an_unfinished_or_incomplete_prediction_is_refused(place: Place) -> None:
    place.train(f"{STOCK}__2d")
    folder = add_prediction(place.workspace, place.dataset)
    (folder / ".predicting").mkdir()
    assert "is interrupted; expected a finished one" in place.refuse("held-out", "2d")
    add_out_of_fold(place.workspace, place.dataset, scan_ids=place.training[1:])
    assert "2d: found no predictions" in place.refuse("2d", "2d")


def test_missing_predictions_are_made_by_the_commands_that_the_refusal_names(
    place: Place, run: Run
) -> None:
    """The commands are given to stand-ins that write what the engine would."""
    place.train(f"{STOCK}__2d", FULL)
    done: list[tuple[str, ...]] = []

    def predict(*words: str) -> tuple[int, str, str]:
        done.append(words)
        model = f"{STOCK}__{words[words.index('--config') + 1]}"
        if words[0] == "out-of-fold":
            add_out_of_fold(place.workspace, place.dataset, model=model)
        else:
            add_prediction(
                place.workspace, place.dataset, folder=f"held-out/{model}__fold_all",
                trained=(model,), scan_ids=place.held_out,
            )  # fmt: skip
        return 0, "", ""

    assert run("compare", "2d", "3d_fullres")[0] == 3
    for line in place.refuse("2d", "3d_fullres").splitlines()[1:]:
        follow("Make them with: gi2nnunet out-of-fold {}", line, predict)
    assert [words[2] for words in done] == ["2d", "3d_fullres"]
    assert run("compare", "2d", "3d_fullres")[0] == 0
    shutil.rmtree(place.workspace.results)
    shutil.rmtree(place.workspace.predictions)
    place.train(f"{STOCK}__2d", FULL, folds=("all",))
    for line in place.refuse("2d", "3d_fullres").splitlines()[1:]:
        follow("Make them with: gi2nnunet predict-and-score {}", line, predict)
    _code, out, _ = run("compare", "2d", "3d_fullres", "--json")
    found = json.loads(out)
    assert found["a"]["standing"] == "held-out"
    assert {scan["scan_id"] for scan in found["scans"]} == set(place.held_out)


def test_the_fewest_commands_are_named(place: Place) -> None:
    place.train(f"{STOCK}__2d", FULL)
    add_prediction(
        place.workspace, place.dataset, folder=f"held-out/{FULL}__fold_01", trained=(FULL,),
        scan_ids=place.held_out,
    )  # fmt: skip
    (remedy,) = place.refuse("2d", "3d_fullres").splitlines()[1:]
    assert remedy.startswith("Make them with: gi2nnunet predict-and-score --config 2d")
    add_out_of_fold(place.workspace, place.dataset)
    (remedy,) = place.refuse("2d", "3d_fullres").splitlines()[1:]
    assert remedy.startswith("Make them with: gi2nnunet out-of-fold --config 3d_fullres")


def test_the_options_that_a_refusal_names_are_those_of_the_commands(place: Place) -> None:
    from typer.main import get_command

    from gi2nnunet.cli import app

    place.train(f"{STOCK}__2d", folds=(0,))
    add_out_of_fold(place.workspace, place.dataset, model=FULL)
    place.train(FULL)
    said = place.refuse("2d", "out_of_fold/3d_fullres")
    lines = [line.partition("with: gi2nnunet ")[2] for line in said.splitlines()[1:]]
    assert [line.split()[0] for line in lines] == ["train", "out-of-fold"]
    assert "--config 2d --fold cv" in lines[0]
    # An imported fold has no command of its own.
    for record in place.workspace.results.glob(f"*/{STOCK}__2d/fold_0/gi2nnunet_training.json"):
        record.with_name("gi2nnunet_imported.json").write_text('{"file": "model.zip"}')
        record.unlink()
    said = place.refuse("2d", "out_of_fold/3d_fullres")
    lines.append(said.splitlines()[1].partition("with: gi2nnunet ")[2])
    assert lines[-1] == "train --config 2d --fold cv --preset tiny"
    commands: Any = get_command(app)
    for line in lines:
        name, *words = line.split()
        commands.commands[name].make_context(name, words)


@pytest.mark.parametrize("metric", CONVENTIONS)
def test_a_name_is_scored_as_its_files_are(place: Place, run: Run, metric: str) -> None:
    place.train(f"{STOCK}__2d")
    add_out_of_fold(place.workspace, place.dataset, without={place.training[0]: "stomach"})
    folder = add_prediction(place.workspace, place.dataset, scan_ids=place.held_out)
    asked = ("--metric", metric, "--json")
    by_path = json.loads(run("score", str(folder), *asked)[1])
    assert json.loads(run("score", "held-out", *asked)[1]) == by_path
    code, out, err = run("score", "2d", *asked)
    assert code == 0, err
    found = json.loads(out)
    assert found["standing"] == "out-of-fold"
    worst = min(found["per_scan"], key=lambda scan: scan["dice"])
    assert worst["scan_id"] == place.training[0]
    assert len(found["per_scan"]) == len(place.training)


def test_the_report_takes_a_prediction_by_its_name(place: Place, run: Run) -> None:
    place.train(f"{STOCK}__2d")
    folder = add_prediction(place.workspace, place.dataset, scan_ids=place.held_out)
    assert find_folder("held-out", place.workspace) == folder
    assert find_folder(folder, place.workspace) == folder
    code, _, err = run("report", "--prediction", "held-out", "--out", "page.html")
    assert code == 0, err
    assert place.held_out[0] in Path("page.html").read_text()
    code, _, err = run("report", "--prediction", "nothing")
    assert code == 3
    assert "nothing: holds no submission.csv" in err


def test_predictions_by_a_former_checkpoint_are_not_the_models(place: Place, run: Run) -> None:
    place.train(f"{STOCK}__2d")
    add_out_of_fold(place.workspace, place.dataset)
    add_prediction(place.workspace, place.dataset, folds=(0, 1), scan_ids=place.held_out)
    calls = [("score", "held-out"), ("compare", "held-out", "held-out"), ("status",)]
    for words in calls:
        assert "former" not in run(*words)[2]
    replace_checkpoint(place.workspace.results / NAME / f"{STOCK}__2d" / "fold_0")
    for words in calls:
        _code, _, err = run(*words)
        assert f"former checkpoints, which were replaced since, of {STOCK}__2d/fold_0" in err
        assert "Predict again with: gi2nnunet predict-and-score" in err
    assert "Predict again with: gi2nnunet out-of-fold --config 2d" in err
    assert run("report", "--prediction", "held-out")[0] == 0
    (page,) = place.workspace.predictions.parent.glob("report.html")
    assert "was predicted by former checkpoints" in page.read_text()
    assert "former checkpoints" in run("verify", "--quick")[1]
    assert "a former checkpoint" in run("verify")[1]

    def predict(*_words: str) -> tuple[int, str, str]:
        add_out_of_fold(place.workspace, place.dataset)
        return 0, "", ""

    code, _, err = run("score", "2d")
    assert code == 3
    assert f"by former checkpoints of {STOCK}__2d/fold_0" in err
    follow("Make them with: gi2nnunet out-of-fold {}", err, predict)
    assert run("score", "2d")[0] == 0
