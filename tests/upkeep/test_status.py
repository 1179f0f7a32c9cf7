"""The status of a workspace: every state of every piece, damage, speed, what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import gi2nnunet
from gi2nnunet import api
from gi2nnunet.core.files import write_json
from gi2nnunet.core.locks import hold, hold_dataset, lock_path
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.scoring.record import SUBMISSION, TRUTH, write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.training.machine import suggest_training
from gi2nnunet.upkeep.status import WorkspaceStatus
from tests.command_line import tree
from tests.converting import convert
from tests.json_output import read_schema
from tests.source_factory import make_source, write_source
from tests.upkeep.workspace_factory import (
    NAME,
    STOCK,
    add_prediction,
    add_training,
    add_tuning,
)

ROOT = Path(gi2nnunet.__file__).parents[1]
SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("origin")
    write_source(root / "source", make_source(SCANS))
    convert(root / "source", workspace=open_workspace(root / "w", environ={}), folds=2, jobs=1)
    return root / "w"


class Place:
    """A converted workspace of its own for a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = open_workspace(root, environ={})
        self.dataset = gi2nnunet.open_dataset(workspace=root)

    def status(self) -> WorkspaceStatus:
        before = tree(self.root)
        found = api.status(workspace=self.root)
        assert tree(self.root) == before
        return found


@pytest.fixture
def place(converted: Path, here: Path) -> Place:
    shutil.copytree(converted, here / "gi2nnunet-workspace")
    return Place(here / "gi2nnunet-workspace")


def test_an_empty_workspace_needs_a_conversion_and_is_not_made(run: Any, here: Path) -> None:
    for folder in ("nowhere", "foreign"):
        if folder == "foreign":
            (here / folder / "raw").mkdir(parents=True)
            (here / folder / "raw" / "notes.txt").write_text("mine")
            (here / folder / "holiday").mkdir()
        before = tree(here)
        code, out, err = run("status", "-w", folder)
        assert (code, err) == (0, "")
        assert f"Next: gi2nnunet convert --workspace {folder} SOURCE" in out
        assert tree(here) == before
        found = api.status(workspace=folder)
        assert found.datasets == found.trainings == found.predictions == ()


def test_each_step_is_followed_by_the_next_one(place: Place) -> None:
    step = place.status().next_step
    assert step.command == suggest_training()[0]
    assert step.why.startswith("nothing is trained yet")
    add_training(place.workspace, fold=0)
    assert place.status().next_step.command == "gi2nnunet predict-and-score"
    add_prediction(place.workspace, place.dataset)
    step = place.status().next_step
    assert step.command.startswith("gi2nnunet train --config 2d --fold cv --preset tiny")
    assert step.why == "1 fold of 2d not begun"
    other = add_training(place.workspace, fold=1)
    assert place.status().next_step.command == "gi2nnunet tune"
    add_tuning(place.workspace, other)
    assert place.status().next_step.command == "gi2nnunet report"
    gi2nnunet.report(workspace=place.root)
    step = place.status().next_step
    assert (step.command, step.why) == ("", "everything is done")


def test_numbers_are_those_of_the_files(place: Place) -> None:
    fold = add_training(place.workspace, fold=0, epochs=3, done=False)
    out = add_prediction(place.workspace, place.dataset)
    found = place.status()
    (dataset,) = found.datasets
    parts = [scan.part for scan in place.dataset.scans]
    assert (dataset.state, dataset.patients, dataset.folds) == ("whole", 4, 2)
    assert (dataset.training, dataset.held_out) == (parts.count("train"), parts.count("holdout"))

    def measure(*folders: Path) -> int:
        some = (p for f in folders for p in f.rglob("*") if p.is_file())
        return sum(path.stat().st_size for path in some)

    assert dataset.raw_bytes == measure(place.workspace.raw / NAME)
    assert dataset.results_bytes == measure(place.workspace.results)
    assert found.bytes == measure(place.root)
    (training,) = found.trainings
    assert (training.bytes, training.folder) == (measure(fold), fold)
    assert (training.state, training.epoch, training.epochs) == ("stopped", 3, 40)
    assert training.pseudo_dice == {"large_bowel": 0.6759, "small_bowel": None, "stomach": 0.25}
    (prediction,) = found.predictions
    recorded = json.loads((out / "score-per-class.json").read_text())
    (score,) = prediction.scores
    assert (score.score, score.metric) == (recorded["score"], recorded["metric"])
    assert prediction.standing == "held-out"
    assert prediction.bytes == measure(out)


def test_a_prediction_shows_its_score_by_each_convention(place: Place, run: Any) -> None:
    out = add_prediction(place.workspace, place.dataset)
    truth = read_mask_table(out / TRUTH, any_scan=True)
    other = score_submission(out / SUBMISSION, truth, metric="joined")
    write_score(other, out, truth=truth, about={"standing": "held-out"})
    (prediction,) = place.status().predictions
    assert [one.metric for one in prediction.scores] == ["joined", "per-class"]
    code, text, _ = run("status")
    assert code == 0
    shown = text[text.index("Predictions") :]
    assert re.search(r"1\.0000.* joined.*\n.*1\.0000.* per-class", shown)
    frame = place.status().to_frame("predictions")
    assert list(frame["metric"]) == ["joined", "per-class"]
    assert list(frame["score"]) == [1.0, 1.0]
    assert list(frame["folder"]) == [out, out]
    (out / "score-joined.json").write_text("{")
    assert place.status().predictions[0].state == "damaged"


def test_a_prediction_without_a_score_is_a_row_too(place: Place) -> None:
    out = add_prediction(place.workspace, place.dataset)
    (out / "score-per-class.json").unlink()
    frame = place.status().to_frame("predictions")
    assert frame.loc[0, "folder"] == out
    assert frame[["metric", "score"]].isna().all(axis=None)


def test_a_running_training_says_where_and_since_when(place: Place, run: Any) -> None:
    fold = add_training(place.workspace, fold=0, epochs=3, done=False)
    with hold(fold, purpose="training 2d, fold 0"):
        found = place.status()
        (training,) = found.trainings
        assert training.state == "running"
        assert training.seconds_left == pytest.approx(37 * 10.38)
        (holder,) = training.holders
        assert (holder.pid, holder.host) == (os.getpid(), socket.gethostname())
        assert found.next_step.command == "gi2nnunet status --watch"
        out = " ".join(run("status")[1].split())
        assert "running after epoch 3 of 40, 6 min left" in out
        assert f"process {os.getpid()} on {socket.gethostname()} since" in out
    assert place.status().trainings[0].state == "stopped"


def test_a_training_that_has_no_folder_yet_is_shown(place: Place) -> None:
    fold = place.workspace.results / NAME / f"{STOCK}__2d" / "fold_1"
    with hold(fold, purpose="training 2d, fold 1"):
        (training,) = place.status().trainings
    assert (training.name, training.state, training.epoch) == ("2d/fold_1", "running", 0)
    assert place.status().trainings == ()


def test_a_training_of_another_machine_counts_as_running(place: Place) -> None:
    fold = add_training(place.workspace, fold=0, epochs=3, done=False)
    line = {"pid": 1, "host": "node7", "since": "2026-11-28T20:00:00+00:00", "purpose": "training"}
    lock_path(fold).write_text(json.dumps(line) + "\n")
    (training,) = place.status().trainings
    assert training.state == "running"
    assert training.holders[0].host == "node7"


def test_the_lock_of_a_killed_process_does_not_count(place: Place) -> None:
    fold = add_training(place.workspace, fold=0, epochs=3, done=False)
    code = (
        "import os, sys, signal; from pathlib import Path; from gi2nnunet.core.locks import hold\n"
        "with hold(Path(sys.argv[1]), purpose='training 2d, fold 0'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(fold)], check=False, timeout=60)
    assert lock_path(fold).is_file()
    (training,) = place.status().trainings
    assert training.state == "stopped"


def test_the_command_that_goes_on_is_the_whole_one(place: Place, run: Any) -> None:
    settings = {
        "trainer": "nnUNetTrainerNoMirroring", "epochs": 7, "iterations": 3, "augment": "device",
        "learning_rate": 0.02, "pretrained_weights": "/my weights/a.pth",
    }  # fmt: skip
    model = "nnUNetTrainerNoMirroring__nnUNetResEncUNetMPlans_b4_p64x64__2d"
    add_training(place.workspace, model=model, epochs=2, done=False, settings=settings)
    (training,) = place.status().trainings
    assert training.command == (
        "gi2nnunet train --config 2d --fold 0 --preset resenc-m --batch-size 4 --patch-size 64x64 "
        "--trainer nnUNetTrainerNoMirroring --epochs 7 --iterations 3 --lr 0.02 --augment device "
        "--pretrained-weights '/my weights/a.pth'"
    )
    out = run("status", "-w", place.root)[1]
    assert f"Next: gi2nnunet train --workspace {place.root.name} --config 2d --fold 0" in out
    content = json.loads(run("status", "-w", place.root, "--json")[1])
    words = shlex.split(content["next_step"]["command"])
    assert words[:4] == ["gi2nnunet", "train", "--workspace", str(place.root)]


def test_commands_name_the_dataset_if_there_are_several(place: Place, here: Path) -> None:
    convert(
        write_source(here / "more", make_source(SCANS[:2])), workspace=place.workspace,
        dataset_id=7, name="More", jobs=1,
    )  # fmt: skip
    add_training(place.workspace, epochs=2, done=False)
    found = place.status()
    assert [one.dataset_id for one in found.datasets] == [7, 501]
    assert found.next_step.command.startswith("gi2nnunet train --id 501 ")
    (place.workspace.results / NAME / f"{STOCK}__2d/fold_0/checkpoint_final.pth").touch()
    assert place.status().next_step.command == "gi2nnunet train --id 7 --fold all"


def test_a_training_that_nnunet_began_goes_on_by_nnunet(place: Place) -> None:
    fold = add_training(place.workspace, model="nnUNetTrainer__MyPlans__2d", epochs=2, done=False)
    (fold / "gi2nnunet_training.json").unlink()
    (training,) = place.status().trainings
    assert training.command == "nnUNetv2_train 501 2d 0 -tr nnUNetTrainer -p MyPlans --c"


def test_imported_models_without_a_dataset_can_predict(here: Path) -> None:
    workspace = open_workspace(here / "w", environ={})
    fold = add_training(workspace, fold="all", epochs=0)
    (fold / "gi2nnunet_imported.json").write_text('{"file": "stomach.gi2"}')
    found = api.status(workspace=here / "w")
    (training,) = found.trainings
    assert (training.state, training.imported_from) == ("imported", "stomach.gi2")
    assert training.command is None
    assert found.datasets[0].state == "absent"
    assert found.next_step.command == "gi2nnunet predict SOURCE"


def test_unfinished_predictions_are_running_or_interrupted(place: Place) -> None:
    out = place.workspace.predictions / "held-out" / "x"
    with hold(out / "prediction", purpose="predicting"):
        (one,) = place.status().predictions
        assert (one.state, one.kept) == ("running", None)
        kept = out / ".predicting"
        kept.mkdir()
        for name in ("a", "b"):
            (kept / f"{name}.json").write_text("{}")
        (one,) = place.status().predictions
        assert (one.state, one.kept) == ("running", 2)
    (one,) = place.status().predictions
    assert (one.state, one.kept, one.scores) == ("interrupted", 2, ())


def test_out_of_fold_predictions_are_counted(place: Place) -> None:
    home = place.workspace.predictions / NAME / "out_of_fold"
    folder = home / f"{STOCK}__2d"
    folder.mkdir(parents=True)
    for scan in place.dataset.scans[:2]:
        (folder / f"{scan.scan_id}{SUFFIX}").write_bytes(b"x" * 10)
    with hold(home / "predictions", purpose="predicting out of fold"):
        (one,) = place.status().out_of_fold
    training = sum(scan.part == "train" for scan in place.dataset.scans)
    assert (one.name, one.stored, one.training, one.bytes) == ("out_of_fold/2d", 2, training, 20)
    assert one.holders[0].purpose == "predicting out of fold"
    assert place.status().predictions == ()


def test_a_tuning_is_outdated_once_a_fold_is_trained_again(place: Place) -> None:
    fold = add_training(place.workspace)
    add_tuning(place.workspace, fold)
    (one,) = place.status().tunings
    assert (one.organs, one.gain, one.outdated) == (("stomach",), 0.05, ())
    write_json(fold / "gi2nnunet_digests.json", {"checkpoint_final.pth": ["0" * 64]})
    (one,) = place.status().tunings
    assert one.outdated == (f"{STOCK}__2d/fold_0",)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Place], Path]] = {
    "the manifest": lambda p: p.workspace.raw / NAME / "manifest.json",
    "a training's record": lambda p: next(p.root.rglob("fold_0/gi2nnunet_training.json")),
    "an import's record": lambda p: next(p.root.rglob("fold_1/gi2nnunet_imported.json")),
    "a tuning": lambda p: next(p.root.rglob("gi2nnunet_tuning_*.json")),
    "digests of a tuned fold": lambda p: next(p.root.rglob("fold_0/gi2nnunet_digests.json")),
    "how a prediction was made": lambda p: next(p.root.rglob("prediction.json")),
    "a score": lambda p: next(p.root.rglob("score-per-class.json")),
    "a submission": lambda p: next(p.root.rglob("submission.csv")),
    "a mark of plans": lambda p: (
        p.workspace.preprocessed / NAME / "gi2nnunet_gi2nnunetTinyPlans.json"
    ),
}


@pytest.mark.parametrize("what", list(DAMAGE))
def test_a_damaged_piece_is_named_and_the_others_are_shown(
    place: Place, run: Any, what: str
) -> None:
    fold = add_training(place.workspace)
    imported = add_training(place.workspace, fold=1)
    (imported / "gi2nnunet_imported.json").write_text('{"file": "stomach.gi2"}')
    add_tuning(place.workspace, fold)
    add_prediction(place.workspace, place.dataset)
    mark = place.workspace.preprocessed / NAME / "gi2nnunet_gi2nnunetTinyPlans.json"
    write_json(mark, {"recipe": {}, "plans": None, "configurations": {}})
    whole = place.status()
    assert whole.problems == ()
    path = DAMAGE[what](place)
    _cut(path)
    found = place.status()
    assert any(path.name in text or path.stem[10:] in text for text in found.problems)
    kinds = ("datasets", "plans", "trainings", "predictions", "tunings")
    held = {kind: len(getattr(whole, kind)) - len(getattr(found, kind)) for kind in kinds}
    assert sum(held.values()) <= 1  # of the damaged one itself
    code, out, err = run("status")
    assert code == 0
    assert "Warning: " in err
    assert "Next: gi2nnunet" in out


def test_what_cannot_be_read_is_named(place: Place) -> None:
    fold = add_training(place.workspace, epochs=2)
    log = next(fold.glob("training_log_*"))
    log.unlink()
    log.mkdir()
    assert any(log.name in text for text in place.status().problems)


def test_names_that_control_a_terminal_are_escaped(place: Place, run: Any) -> None:
    shutil.copytree(
        add_prediction(place.workspace, place.dataset),
        place.workspace.predictions / "a\x1b[31m[red]b" / "x",
    )
    code, out, _ = run("status")
    assert code == 0
    assert "\x1b" not in out
    assert "[red]b" in out


def test_the_json_is_as_the_documented_schema_says(place: Place, run: Any) -> None:
    fold = add_training(place.workspace, epochs=2, done=False)
    add_training(place.workspace, fold=1)
    add_prediction(place.workspace, place.dataset)
    done = add_training(place.workspace, fold="all")
    add_tuning(place.workspace, done)
    schema = read_schema("status")
    with hold(fold, purpose="training"):
        code, out, err = run("status", "--json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["format"] == 1
    jsonschema.validate(content, schema)
    for key in content:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in content.items() if k != key}, schema)


def test_watch_prints_each_change_and_ends_with_the_last_run(place: Place, here: Path) -> None:
    fold = add_training(place.workspace, epochs=2, done=False)
    words = [sys.executable, "-m", "gi2nnunet", "status", "--watch"]
    with (
        hold(fold, purpose="training 2d, fold 0"),
        hold_dataset(place.workspace.raw, 501, purpose="training"),
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=here) as watching,
    ):
        assert watching.stdout is not None
        first = watching.stdout.readline()
        assert first.startswith("2d/fold_0: running after epoch 2 of 40")
        log = next(fold.glob("training_log_*"))
        log.write_text(log.read_text().replace("Epoch 1 ", "Epoch 2 ") + log.read_text())
        assert watching.stdout.readline().startswith("2d/fold_0: running after epoch 3 of 40")
        lock_path(fold).unlink()
        (place.workspace.raw / ".Dataset501.lock").unlink()
        rest = watching.stdout.read()
        assert watching.wait(60) == 0
    assert "stopped after epoch 3 of 40" in rest
    assert "Next: gi2nnunet train --config 2d --fold 0" in rest


def test_watch_has_no_json(run: Any, here: Path) -> None:
    code, _, err = run("status", "--watch", "--json")
    assert code == 2
    assert "--json" in err


def test_ten_models_take_about_a_second_and_no_pytorch(place: Place, here: Path) -> None:
    for number in range(10):
        model = f"nnUNetTrainer__nnUNetPlans_b{number + 2}__2d"
        for fold in (0, 1):
            add_training(place.workspace, model=model, fold=fold, epochs=1000)
    code = (
        "import sys, time; from gi2nnunet.cli import main; sys.argv = ['x', 'status']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(time.process_time(), 'torch' in sys.modules, 'nnunetv2' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=here, check=True
    )
    seconds, *heavy = done.stdout.splitlines()[-1].split()
    assert heavy == ["False", "False"]
    assert float(seconds) < 4  # of the processor; about one on an idle machine
