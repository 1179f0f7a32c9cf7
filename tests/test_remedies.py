"""Every remedy that a message prints: a test does what it says, and it works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.formats.tables import read_mask_table
from tests.bad_inputs.making import PREPROCESSED, RAW, finish_model
from tests.remedies import follow, list_followed, list_remedies
from tests.source_factory import ORGANS, encode_plain, make_source, write_source

SCANS = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
NOT_RUN = {
    "Make the dataset again from a source with rows of each: gi2nnunet convert SOURCE": (
        "only a manifest that was changed by hand has a training scan without labels"
    ),
}
"""Sentences that no test of this machine can follow, each with the reason."""
Run = Callable[..., Any]
CPU = ("--device", "cpu")


def test_every_remedy_is_run_by_a_test() -> None:
    printed, followed = set(list_remedies()), list_followed()
    assert len(printed) > 50
    assert followed - printed == set()
    assert printed - followed == set(NOT_RUN)


@pytest.fixture
def converted(here: Path, run: Run) -> Path:
    write_source(here / "source", make_source(SCANS))
    assert run("convert", "source", "--holdout", "0.4")[0] == 0
    return here


def change(path: Path) -> None:
    """Change a byte in the middle of a file, its size kept."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_source_and_a_dataset_are_made(here: Path, run: Run) -> None:
    phantom = (
        "phantom", "--out", "p", "--patients", "2", "--days", "1", "--size", "48x48x8@3", "--easy",
    )  # fmt: skip
    follow("Next: gi2nnunet convert {}", run(*phantom)[2], run)
    shutil.rmtree(here / "gi2nnunet-workspace")
    said = run("train", "--preset", "tiny", *CPU)[2]
    follow("Make it with: gi2nnunet convert SOURCE", said, run, SOURCE="p")
    shutil.rmtree(here / "gi2nnunet-workspace")
    follow("Make one with: gi2nnunet convert SOURCE", run("verify")[2], run, SOURCE="p")
    assert run("verify")[0] == 0


def test_a_damaged_dataset_is_made_again(converted: Path, run: Run) -> None:
    image = sorted((converted / RAW / "imagesTr").iterdir())[0]
    same: Any = {"SOURCE": "source"}
    convert = ("--holdout", "0.4")
    image.unlink()
    said = run("verify")[1]
    follow("Make it again with: gi2nnunet convert SOURCE", said, run, *convert, **same)
    assert run("verify")[0] == 0
    image.unlink()
    said = run("plan", "--preset", "tiny", "--device", "cpu")[2]
    follow("Repair it with: gi2nnunet convert SOURCE", said, run, *convert, **same)
    assert run("verify")[0] == 0
    change(sorted((converted / RAW / "labelsTr").iterdir())[0])
    said = run("plan", "--preset", "tiny", "--device", "cpu")[2]
    follow("Repair it by running the same gi2nnunet convert again.", said, run, "source", *convert)
    assert run("verify")[0] == 0
    (converted / PREPROCESSED / "splits_final.json").write_text("[]")
    said = run("plan", "--preset", "tiny", "--device", "cpu")[2]
    follow("Restore it by running the same gi2nnunet convert again.", said, run, "source", *convert)
    assert run("verify")[0] == 0
    (converted / RAW / "manifest.json").write_text("{")
    said = run("encode", f"{RAW}/labelsTr", "--out", "out.csv")[2]
    follow(
        "Make the dataset again with: gi2nnunet convert SOURCE", said, run, *convert,
        SOURCE="source",
    )  # fmt: skip
    assert run("encode", f"{RAW}/labelsTr", "--out", "out.csv")[0] == 0


def test_a_changed_truth_is_restored(converted: Path, run: Run) -> None:
    truth, convert = converted / RAW / "truth.csv", ("--holdout", "0.4")
    finish_model(converted)
    change(truth)
    said = run("predict-and-score", "--device", "cpu")[2]
    follow("Restore them with: gi2nnunet convert SOURCE", said, run, *convert, SOURCE="source")
    change(truth)
    said = run("score", RAW, "--truth", RAW)[2] + run("score", str(truth), "--truth", str(truth))[2]
    follow("Restore it with: gi2nnunet convert SOURCE", said, run, *convert, SOURCE="source")
    assert run("score", str(truth), "--truth", str(truth))[0] == 0


def test_a_changed_source_and_an_interrupted_conversion(converted: Path, run: Run) -> None:
    (converted / "gi2nnunet-workspace/raw/.Dataset501_UWGI.part").mkdir()
    said = run("verify")[1]
    convert = ("--holdout", "0.4")
    follow("Run that gi2nnunet convert again to complete it;", said, run, "source", *convert)
    assert run("verify")[0] == 0
    sorted((converted / "source").rglob("*.png"))[0].touch()
    said = run("verify")[1]
    follow(
        "Compare it, and convert again if it differs, with: gi2nnunet convert SOURCE", said, run,
        *convert, SOURCE="source",
    )  # fmt: skip
    assert run("verify")[0] == 0


def test_labels_for_a_loss_that_takes_no_overlaps(converted: Path, run: Run) -> None:
    words = ("train", "--preset", "tiny", "--device", "cpu", "--trainer", "nnUNetTrainerCELoss")
    code, _, err = run(*words)
    assert code == 3
    follow(
        "Give another trainer, or make a dataset for it with: gi2nnunet convert SOURCE "
        "--labels exclusive --id 502", err, run, SOURCE="source",
    )  # fmt: skip
    made = converted / "gi2nnunet-workspace/raw/Dataset502_UWGI/dataset.json"
    assert json.loads(made.read_text())["labels"]["stomach"] == 3


def test_submissions_are_encoded_and_scored(here: Path, run: Run) -> None:
    write_source(here / "source", make_source(SCANS))
    run("convert", "source", "--holdout", "0")
    rows = [
        f"{scan.slice_id(z)},{organ},{encode_plain(mask.T)}"
        for scan in make_source(SCANS).train
        for organ, masks in zip(ORGANS, scan.masks, strict=True)
        for z, mask in enumerate(masks)
    ]
    (here / "bad.csv").write_text("\n".join(["id,class,predicted", *rows, ""]))
    said = run("score", "bad.csv", "--truth", RAW)[2]
    follow(
        "The competition's rows are row-major, left to right and then top to bottom: encode masks "
        "in this order, or write them as NIfTI and use gi2nnunet encode",
        said, run, f"{RAW}/labelsTr", "--out", "good.csv",
    )  # fmt: skip
    assert len(read_mask_table(here / "good.csv")) == len(rows)
    assert json.loads(run("score", "good.csv", "--truth", RAW, "--json")[1])["score"] == 1
    said = run("convert", "good.csv")[2]
    follow("Score a submission with: gi2nnunet score {} --truth TRUTH", said, run, TRUTH=RAW)


# -- with the real nnU-Net: too long for every run of the tests

TINY = ("--preset", "tiny", "--device", "cpu", "--jobs", "1")
FOLDS = (*CPU, "--fold", "cv")
SHORT = (*TINY, "--config", "2d", "--epochs", "1", "--iterations", "2")


class Place:
    """A folder with a source and a workspace; what it runs is a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, *words: str) -> str:
        """Run a command; return all that it says, whatever its exit code."""
        return self._run(*words)[1]

    def run(self, *words: str) -> tuple[int, str]:
        code, said = self._run(*words)
        assert code == 0, said
        return code, said

    def _run(self, *words: str) -> tuple[int, str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
        done = subprocess.run(
            [sys.executable, "-m", "gi2nnunet", *words],
            cwd=self.folder, capture_output=True, text=True, timeout=600,
            env={**environ, "COLUMNS": "400"},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def report(self) -> str:
        self.run("report", "--out", "page.html")
        return (self.folder / "page.html").read_text()

    def find(self, pattern: str) -> Path:
        return sorted((self.folder / "gi2nnunet-workspace").glob(pattern))[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A workspace with a finished training of each fold."""
    place = Place(tmp_path_factory.mktemp("remedies"))
    place.run(
        "phantom", "--out", "src", "--patients", "2", "--days", "1", "--size", "48x48x8@3", "--easy"
    )
    place.run("convert", "src")
    place.run("train", "--fold", "cv", *SHORT)
    return place


@pytest.mark.engine
@pytest.mark.slow
def test_a_tuning_and_a_score_are_made_again(trained: Place) -> None:
    trained.run("predict-and-score", *FOLDS)
    trained.run("tune", *CPU)
    trained.find("results/*/gi2nnunet_tuning_*.json").write_text("{")
    damaged, shown = trained.ask("predict-and-score", *FOLDS), trained.report()
    follow(
        "Make it again with gi2nnunet tune, or predict with --no-tuning.", damaged, trained.run,
        *CPU,
    )  # fmt: skip
    follow("Run gi2nnunet tune again.", shown, trained.run, *CPU)
    trained.run("predict-and-score", *FOLDS)
    folder = trained.find("predictions/*/*/truth.csv").parent
    change(folder / "truth.csv")
    said = trained.ask("score", str(folder))
    follow("Make it again with: gi2nnunet predict-and-score", said, trained.run, *FOLDS)


@pytest.mark.engine
@pytest.mark.slow
def test_what_is_preprocessed_and_trained_is_made_again(trained: Place) -> None:
    trained.run("tune", *CPU)
    trained.find("preprocessed/*/*_2d/*.pkl").write_bytes(b"")
    follow("Make it again with: gi2nnunet plan", trained.ask("verify"), trained.run, *TINY)
    change(trained.find("results/*/*/fold_1/checkpoint_final.pth"))
    said = trained.ask("predict-and-score", *CPU, "--fold", "1")
    follow("gi2nnunet train {}", said, trained.run, *CPU)
    said = trained.ask("predict-and-score", *FOLDS, "--out", "again")
    follow("run gi2nnunet tune again", said, trained.run, *CPU)
    trained.run("verify")


@pytest.mark.engine
@pytest.mark.slow
def test_what_is_not_planned_or_measured_is(trained: Place) -> None:
    """The mark of a plan, its data, and the pace of a training."""
    estimate = ("estimate", "--config", "2d")
    mark = trained.find("preprocessed/*/gi2nnunet_*Plans.json")
    planned = mark.read_bytes()
    mark.write_text("{")
    said, unplanned = trained.ask("status"), trained.ask(*estimate, "--preset", "tiny")
    follow("gi2nnunet plan makes it again.", said, trained.run, *TINY, "--config", "2d")
    assert json.loads(mark.read_bytes()) == json.loads(planned)
    assert "makes it again" not in trained.ask("status")
    mark.unlink()
    unplanned = unplanned.partition(" first.")[0]
    follow("gi2nnunet plan --preset {}", unplanned, trained.run, *TINY[2:], "--config", "2d")
    trained.run(*estimate, "--preset", "tiny", "--card", "T4")
    shutil.rmtree(trained.find("preprocessed/*/*_2d"))
    said = trained.ask(*estimate, *TINY, "--measure")
    follow("Run gi2nnunet plan --preset {} --config {} first.", said, trained.run, *TINY[2:])
    said = trained.ask(*estimate, "--card", "none such")
    follow(
        "A MIG slice, a laptop version or a Ti is another card than these: run gi2nnunet estimate "
        "--measure on a machine that has it.", said, trained.run, "--config", "2d", *TINY,
    )  # fmt: skip
