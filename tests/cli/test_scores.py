"""The command score: intervals, medical measures, what is scored, and the default truth."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

import gi2nnunet.cli
from gi2nnunet.formats.submission import write_submission
from gi2nnunet.formats.volumes import read_volume
from tests.remedies import follow
from tests.source_factory import ORGANS, make_source, write_source

SCANS = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in a folder with a source, the truth as a.csv, and a worse b.csv."""
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    source = make_source(SCANS)
    write_source(tmp_path / "source", source)
    write_submission(tmp_path / "a.csv", source.rows)
    without_stomach = [
        (a, organ, "" if organ == "stomach" and a.startswith("case10") else text)
        for a, organ, text in source.rows
    ]
    write_submission(tmp_path / "b.csv", without_stomach)

    def run_command(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gi2nnunet", *args])
        code = 0
        try:
            gi2nnunet.cli.main()
        except SystemExit as done:
            code = int(done.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run_command


TRUTH = ("--truth", "source/train.csv", "--images", "source")


def test_score_with_intervals(run: Run) -> None:
    words = ("score", "b.csv", "--truth", "source/train.csv", "--images", "source", "--intervals")
    code, out, _ = run(*words, "--json")
    assert code == 0
    found = json.loads(out)
    value, low, high = found["intervals"]["stomach.dice"]
    assert value == pytest.approx(found["per_organ"]["stomach"]["dice"])
    assert low < value < high
    assert "95 % intervals over patients" in run(*words)[1]


def test_medical_needs_the_images(run: Run) -> None:
    code, _, err = run("score", "b.csv", "--truth", "source/train.csv", "--medical")
    assert code == 2
    assert "--images" in err


def test_medical_measures_are_in_mm_and_ml(run: Run) -> None:
    pytest.importorskip("monai", reason="the extra 'medical' is not installed")
    words = ("score", "b.csv", "--truth", "source/train.csv", "--images", "source", "--medical")
    code, out, _ = run(*words, "--json")
    assert code == 0
    medical = json.loads(out)["medical"]
    assert set(medical) == set(ORGANS)
    assert medical["large_bowel"]["hd95_mm"] == 0.0
    assert medical["large_bowel"]["surface_dice"] == pytest.approx(1.0)
    (lost,) = (scan for scan in make_source(SCANS).train if scan.scan_id == "case10_day0")
    voxel_ml = 3.0 * math.prod(lost.spacing_xy) / 1000
    missing_ml = int(lost.masks[2].sum()) * voxel_ml
    assert medical["stomach"]["volume_error_ml"] == pytest.approx(-missing_ml / len(SCANS))
    assert "HD95 (mm)" in run(*words)[1]


def test_folders_are_scored_and_every_output_names_the_common_scans(
    run: Run, tmp_path: Path
) -> None:
    assert run("convert", "source", "--workspace", "w", "--holdout", "0")[0] == 0
    dataset = "w/raw/Dataset501_UWGI"
    (tmp_path / "predicted").mkdir()
    (tmp_path / "a.csv").rename(tmp_path / "predicted/submission.csv")
    assert json.loads(run("score", "predicted", "--truth", dataset, "--json")[1])["score"] == 1.0
    assert (
        json.loads(run("score", f"{dataset}/labelsTr", "--truth", dataset, "--json")[1])["score"]
        == 1.0
    )
    lines = (tmp_path / "b.csv").read_text().splitlines(keepends=True)
    (tmp_path / "some.csv").write_text("".join(x for x in lines if not x.startswith("case2_")))
    code, _, err = run("score", "some.csv", "--truth", dataset)
    assert code == 3
    assert "no row of 2 of the 4 scans" in err
    assert "--scans common" in err
    said = "only 2 scans common to all files (2 in some.csv, "
    common = ("--scans", "common")
    assert said in run("score", "some.csv", "--truth", dataset, *common)[1]
    assert (
        said
        in json.loads(run("score", "some.csv", "--truth", dataset, *common, "--json")[1])["scope"]
    )
    words = ("compare", "some.csv", "predicted", "--truth", dataset, *common)
    assert said in run(*words)[1]
    found = json.loads(run(*words, "--json")[1])
    assert said in found["scope"]
    assert {scan["scan_id"] for scan in found["scans"]} == {"case10_day0", "case11_day3"}


def test_the_truth_is_found_beside_the_submission_or_in_the_workspace(
    run: Run, tmp_path: Path
) -> None:
    code, _, err = run("score", "b.csv", "--workspace", "w")
    assert code == 3
    assert "found no truth.csv, and no dataset in" in err
    assert "Give the truth with --truth TRUTH." in err
    assert run("convert", "source", "--workspace", "w", "--holdout", "0.4")[0] == 0
    held = {p.name[:-7] for p in (tmp_path / "w/raw/Dataset501_UWGI/labelsTs").iterdir()}
    assert 0 < len(held) < len(SCANS)
    every = (tmp_path / "b.csv").read_text().splitlines(keepends=True)
    mine = "".join(x for x in every if x.split("_slice_")[0] in {"id,class,predicted\n", *held})
    (tmp_path / "mine.csv").write_text(mine)
    explicit = ("--truth", "w/raw/Dataset501_UWGI")
    for name, common in (("b.csv", ()), ("mine.csv", ("--scans", "common"))):
        known = json.loads(run("score", name, *explicit, *common, "--json")[1])
        found = json.loads(run("score", name, "--workspace", "w", "--json")[1])
        assert found["per_scan"] == known["per_scan"]
    assert {scan["scan_id"] for scan in found["per_scan"]} == held
    assert run("score", "mine.csv", "--workspace", "w", "--id", "7")[0] == 3
    # A scored prediction's own truth goes before that of the workspace.
    folder = tmp_path / "scored"
    folder.mkdir()
    (tmp_path / "mine.csv").rename(folder / "submission.csv")
    sized = (tmp_path / "w/raw/Dataset501_UWGI/truth.csv").read_text().splitlines(keepends=True)
    (folder / "truth.csv").write_text(
        sized[0] + "".join(x for x in sized if x.split("_slice_")[0] in held)
    )
    for given in ("scored", "scored/submission.csv"):
        here = json.loads(run("score", given, "--json")[1])
        assert here["per_scan"] == found["per_scan"]


def test_labels_of_unknown_coding_are_scored_after_the_command_that_the_refusal_names(
    run: Run, tmp_path: Path
) -> None:
    assert run("convert", "source", "--workspace", "w", "--holdout", "0")[0] == 0
    dataset = tmp_path / "w/raw/Dataset501_UWGI"
    (dataset / "labelsTr").rename(tmp_path / "labels")
    code, _, err = run("score", "labels", "--truth", str(dataset))
    assert code == 3
    follow(
        "Score the CSV that one of these makes: gi2nnunet encode {} --out labels.csv --labels "
        "regions (1, 2, 4: bit-coded), or with --labels exclusive (1, 2, 3).", err, run,
    )  # fmt: skip
    assert run("score", "labels.csv", "--truth", str(dataset))[0] == 0


def test_label_volumes_without_an_orientation_are_scored_as_they_are_stored(
    run: Run, tmp_path: Path
) -> None:
    """Saved with an identity they are mirrored as their affine says, which is warned of."""
    assert run("convert", "source", "--workspace", "w", "--holdout", "0")[0] == 0
    dataset = tmp_path / "w/raw/Dataset501_UWGI"
    labels = tmp_path / "labels"
    labels.mkdir()
    shutil.copy(dataset / "dataset.json", labels)
    for path in (dataset / "labelsTr").iterdir():
        columns_rows_slices = read_volume(path).array.transpose(2, 1, 0)
        nibabel.save(nibabel.Nifti1Image(columns_rows_slices, np.eye(4)), labels / path.name)
    _, out, err = run("score", "labels", "--truth", str(dataset), "--json")
    assert json.loads(out)["score"] < 0.9
    assert "give --orientation as-stored" in err
    stored = ("--orientation", "as-stored")
    assert (
        json.loads(run("score", "labels", "--truth", str(dataset), *stored, "--json")[1])["score"]
        == 1.0
    )
    words = ("compare", "labels", "labels", "--truth", str(dataset))
    assert "as-stored" in run(*words)[2]
    found = json.loads(run(*words, *stored, "--json")[1])
    assert found["differences"]["score"]["a"] == 1.0
