"""The report: its curves and its page."""

from __future__ import annotations

import json
import math
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.pages.gather import gather_report
from gi2nnunet.pages.page import render_report, write_report
from gi2nnunet.scoring.record import write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.training.record import parse_log, read_curves
from gi2nnunet.upkeep.verify import verify_workspace
from tests.converting import convert
from tests.remedies import follow
from tests.source_factory import make_source, write_source

STAMP = "2026-11-24 00:55:09.567062:"


def make_log(first: int, last: int, *, loss: float = -0.5) -> str:
    lines = []
    for epoch in range(first, last):
        lines += [
            f"{STAMP}  ",
            f"{STAMP} Epoch {epoch} ",
            f"{STAMP} Current learning rate: 0.00{epoch + 1} ",
            f"{STAMP} train_loss {loss} ",
            f"{STAMP} val_loss -0.3013 ",
            f"{STAMP} Pseudo dice [np.float32(0.6759), np.float32(nan), np.float32(9e-05)] ",
            f"{STAMP} Epoch time: 10.38 s ",
        ]
    return "\n".join(lines) + "\n"


def test_a_log_of_nnunet_is_read_and_an_unfinished_epoch_left_out() -> None:
    unfinished = f"{STAMP} Epoch 2 \n{STAMP} train_loss -0.9 \n"
    epochs = parse_log((make_log(0, 2) + unfinished).splitlines())
    assert [epoch.number for epoch in epochs] == [0, 1]
    first = epochs[0]
    assert (first.learning_rate, first.train_loss, first.seconds) == (0.001, -0.5, 10.38)
    assert first.val_loss == -0.3013
    assert datetime.fromtimestamp(first.begun, UTC).isoformat()[:19] == STAMP[:19].replace(" ", "T")
    assert first.pseudo_dice[0] == 0.6759
    assert math.isnan(first.pseudo_dice[1])
    assert first.pseudo_dice[2] == 9e-05


def test_a_resumed_training_counts_the_later_log(tmp_path: Path) -> None:
    (tmp_path / "training_log_2026_9_30_10_00_00.txt").write_text(make_log(0, 3, loss=-0.1))
    (tmp_path / "training_log_2026_11_2_09_00_00.txt").write_text(make_log(2, 5, loss=-0.7))
    epochs = read_curves(tmp_path)
    assert [epoch.number for epoch in epochs] == [0, 1, 2, 3, 4]
    assert [epoch.train_loss for epoch in epochs] == [-0.1, -0.1, -0.7, -0.7, -0.7]


def test_scans_are_packed_by_as_many_workers_as_there_are_cores_for_this_process(
    space: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine of many cores may lend this process few."""
    workers: list[object] = []

    def make_pool(most: int) -> ThreadPoolExecutor:
        workers.append(most)
        return ThreadPoolExecutor(most)

    monkeypatch.setattr("gi2nnunet.pages.gather.ThreadPoolExecutor", make_pool)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {5}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    gather_report(space)
    assert workers == [1]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A converted dataset, nothing trained."""
    root = tmp_path_factory.mktemp("report")
    space = open_workspace(root / "w", environ={})
    ids = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
    convert(
        write_source(root / "source", make_source(ids)),
        workspace=space,
        folds=2,
        holdout=0,
    )
    return space


def predict_truth(space: Workspace, folder: Path) -> Path:
    """Put the truth in a prediction's place."""
    folder.mkdir(parents=True)
    truth = space.raw / "Dataset501_UWGI" / "truth.csv"
    shutil.copy(truth, folder / "truth.csv")
    lines = truth.read_text().splitlines()[1:]
    rows = [",".join(line.split(",")[:3]) for line in lines]
    (folder / "submission.csv").write_text("\n".join(["id,class,predicted", *rows]) + "\n")
    return folder


def test_what_is_not_there_yet_is_said(space: Workspace) -> None:
    report = gather_report(space)
    assert report.trainings == ()
    assert report.prediction is None
    assert report.leaks == ()
    assert [line.partition(":")[0] for line in report.missing] == [
        "Nothing is trained yet",
        "Nothing is predicted yet",
    ]
    page = render_report(report)
    assert "Nothing is trained yet: gi2nnunet train" in page
    assert len(report.shown) == 4
    assert all(scan.content["layers"][1]["masks"] is None for scan in report.shown)


def test_a_perfect_prediction_scores_one_and_the_page_needs_no_network(
    space: Workspace, tmp_path: Path
) -> None:
    folder = predict_truth(space, tmp_path / "p")
    report = gather_report(space, prediction=folder, scans=["case10_day0"])
    assert report.prediction is not None
    assert report.prediction.score is not None
    assert report.prediction.score.score == 1
    assert [scan.scan_id for scan in report.shown] == ["case10_day0"]
    values = {v for of_organ in report.shown[0].content["layers"][1]["dice"] for v in of_organ}
    assert values <= {1.0, None}
    page = render_report(report)
    # Names of XML namespaces are no addresses that a browser asks.
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page.replace("xlink:", ""))
    (data,) = re.findall(r'id="v-data-\d+">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)["id"] == "case10_day0"
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_patients_that_mle_bench_shares_are_no_leak_and_others_are(
    space: Workspace, tmp_path: Path
) -> None:
    """The report and verify judge alike."""
    mine = open_workspace(tmp_path / "w", environ={})
    ids = [f"case{patient}_day{day}" for patient in (1, 2, 3) for day in range(6)]
    dataset = convert(
        write_source(tmp_path / "source", make_source(ids)),
        workspace=mine,
        holdout="mle-bench",
    )
    shared = dataset.manifest["shared_patients"]
    assert shared
    report = gather_report(mine)
    assert report.leaks == ()
    assert list(report.shared) == shared
    page = render_report(report)
    assert "Leaks:" not in page
    assert f"as this hold-out is meant to have: {', '.join(shared)}." in page
    assert verify_workspace(mine, quick=True).sound

    manifest = dataset.folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["shared_patients"] = shared[1:]
    manifest.write_text(json.dumps(content))
    report = gather_report(mine)
    assert report.leaks == (f"{shared[0]} is in training and in the held-out set",)
    assert "Leaks:" in render_report(report)
    assert not verify_workspace(mine, quick=True).sound


def score_folder(folder: Path) -> None:
    truth = read_mask_table(folder / "truth.csv", any_scan=True)
    write_score(score_submission(folder / "submission.csv", truth), folder, truth=truth, about={})


def test_a_recorded_score_is_shown_without_scoring_again(
    space: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = predict_truth(space, tmp_path / "p")
    # Nothing is predicted in one scan, so that the scans have other scores.
    lines = (folder / "submission.csv").read_text().splitlines()
    emptied = [
        line.rpartition(",")[0] + "," if line.startswith("case10_day0_") else line for line in lines
    ]
    (folder / "submission.csv").write_text("\n".join([*emptied, ""]))
    again = render_report(gather_report(space, prediction=folder))
    assert "score-per-class.json: no such file" in again
    assert "scored again for this page" in again

    score_folder(folder)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr("gi2nnunet.scoring.score.score_submission", fail)
    report = gather_report(space, prediction=folder)
    assert report.prediction is not None
    assert report.prediction.note == ""
    recorded = render_report(report)

    def find_scores(page: str) -> str:
        return page[page.index('<h2 id="h-scores">') : page.index('<section id="training"')]

    assert find_scores(recorded) == re.sub(
        r'<p class="warning">.*?</p>', "", find_scores(again), count=1
    )


def test_the_scores_by_other_conventions_are_shown_too(space: Workspace, tmp_path: Path) -> None:
    folder = predict_truth(space, tmp_path / "p")
    score_folder(folder)
    truth = read_mask_table(folder / "truth.csv", any_scan=True)
    joined = score_submission(folder / "submission.csv", truth, metric="joined")
    write_score(joined, folder, truth=truth, about={})
    page = render_report(gather_report(space, prediction=folder))
    assert "The convention is <strong>joined</strong>" in page
    assert "By the convention per-class the score is 1.000 (1.000 to 1.000)." in page

    (folder / "score-per-class.json").write_text("{")
    write_score(joined, folder, truth=truth, about={})  # the newest again
    assert "By the convention" not in render_report(gather_report(space, prediction=folder))


def test_a_submission_that_changed_after_it_was_scored_is_scored_again_and_said(
    space: Workspace, tmp_path: Path
) -> None:
    folder = predict_truth(space, tmp_path / "p")
    score_folder(folder)
    lines = (folder / "submission.csv").read_text().splitlines()
    emptied = [line.rpartition(",")[0] + "," for line in lines[1:]]
    (folder / "submission.csv").write_text("\n".join([lines[0], *emptied, ""]))
    report = gather_report(space, prediction=folder)
    assert report.prediction is not None
    assert report.prediction.score is not None
    assert report.prediction.score.score == 0
    assert (
        "submission.csv: found another file than score-per-class.json is about"
        in report.prediction.note
    )
    assert "scored again" in render_report(report)


def test_the_same_workspace_gives_the_same_bytes_curves_included(
    space: Workspace, tmp_path: Path
) -> None:
    root = tmp_path / "w"
    shutil.copytree(space.raw.parent, root)
    mine = open_workspace(root, environ={})
    for fold in ("0", "all"):
        folder = mine.results / "Dataset501_UWGI" / "T__P__2d" / f"fold_{fold}"
        folder.mkdir(parents=True)
        (folder / "training_log_2026_1_1_00_00_00.txt").write_text(make_log(0, 3))
    predict_truth(mine, mine.predictions / "held")
    sizes = [write_report(gather_report(mine), tmp_path / name).size for name in ("a", "b")]
    page = (tmp_path / "a").read_bytes()
    assert page == (tmp_path / "b").read_bytes()
    assert sizes == [len(page)] * 2
    text = page.decode()
    # Three plots a training, and the scores.
    assert text.count('<svg role="img"') == 7
    assert "stopped after epoch 3" in text
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_an_unknown_scan_and_an_empty_folder_are_refused(space: Workspace, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="case99_day1"):
        gather_report(space, scans=["case99_day1"])
    with pytest.raises(InputError, match=r"no submission\.csv"):
        gather_report(space, prediction=tmp_path)


def test_scans_that_are_left_out_are_counted_and_a_command_shows_them(
    space: Workspace, here: Path, run: Any
) -> None:
    shutil.copytree(space.raw.parent, here / "gi2nnunet-workspace")
    assert run("report", "--scan", "case2_day1", "--out", "some.html")[0] == 0
    page = (here / "some.html").read_text()
    assert "This page shows 1 of 4 scans." in page
    follow("Show all of them with: gi2nnunet report --all", page, run, "--out", "all.html")
    page = (here / "all.html").read_text()
    assert "This page shows" not in page
    assert len(re.findall(r'id="v-data-\d+"', page)) == 4


def test_scans_are_shown_worst_first_also_those_that_are_named(
    space: Workspace, tmp_path: Path
) -> None:
    folder = predict_truth(space, tmp_path / "p")
    lines = (folder / "submission.csv").read_text().splitlines()
    emptied = [
        line.rpartition(",")[0] + "," if line.startswith("case10_day0_") else line for line in lines
    ]
    (folder / "submission.csv").write_text("\n".join([*emptied, ""]))
    named = ["case2_day1", "case10_day0"]
    for scans in (named, []):
        shown = gather_report(space, prediction=folder, scans=scans).shown
        assert shown[0].scan_id == "case10_day0"
    assert {scan.scan_id for scan in gather_report(space, scans=named).shown} == {*named}
