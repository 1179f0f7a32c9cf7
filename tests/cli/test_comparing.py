"""The command compare, and the call of its name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gi2nnunet
from tests.cli.test_scores import TRUTH, Run, _files

__all__ = ["_files"]


def test_compare_finds_the_difference_and_the_scan_that_moved(run: Run) -> None:
    code, out, _ = run("compare", "a.csv", "b.csv", *TRUTH, "--json")
    assert code == 0
    found = json.loads(out)
    stomach = found["differences"]["stomach.dice"]
    # Of the four scans' twelve annotated stomach slices, three lost their mask.
    assert stomach["a"] == 1.0
    assert stomach["difference"] == pytest.approx(-3 / 12)
    assert stomach["low"] <= stomach["difference"] <= stomach["high"]
    assert found["differences"]["large_bowel.dice"]["difference"] == 0.0
    assert found["scans"][0]["scan_id"] == "case10_day0"
    assert all(scan["change"] == 0 for scan in found["scans"][1:])
    assert found["n_patients"] == 3

    code, out, _ = run("compare", "a.csv", "b.csv", *TRUTH)
    assert code == 0
    assert "-0.2500" in out
    assert "resamples of 3 patients" in out


def test_the_same_seed_gives_the_same_interval(run: Run) -> None:
    first = run("compare", "a.csv", "b.csv", *TRUTH, "--json", "--seed", "7")[1]
    assert run("compare", "a.csv", "b.csv", *TRUTH, "--json", "--seed", "7")[1] == first


def test_compare_refuses_a_submission_of_other_rows(run: Run, tmp_path: Path) -> None:
    lines = (tmp_path / "b.csv").read_text().splitlines()
    (tmp_path / "b.csv").write_text("\n".join(lines[:-1]) + "\n")
    code, _, err = run("compare", "a.csv", "b.csv", *TRUTH)
    assert code == 3
    assert "b.csv" in err


def test_compare_refuses_the_same_before_it_reads_a_workspace(run: Run) -> None:
    code, _, err = run("compare", "a.csv", "none.csv", *TRUTH)
    assert code == 3
    assert "none.csv: found no such file, and no prediction or model of that name" in err
    assert "expected a path" in err


def test_patients_and_slices_are_shown(run: Run) -> None:
    found = json.loads(run("compare", "a.csv", "b.csv", *TRUTH, "--json")[1])
    assert next(iter(found)) == "format"
    assert found["patients"][0]["patient_id"] == "case10"
    assert found["patients_better"] == {"b": 0, "a": 1, "same": 2}
    assert found["a"] == {"name": "a.csv", "taken": "a.csv", "standing": ""}
    assert found["truth"] == "source/train.csv"
    slices = found["scans"][0]["slices"]
    assert slices
    assert all(one["change"] < 0 for one in slices)
    out = run("compare", "a.csv", "b.csv", *TRUTH)[1]
    assert "Patients: 0 better in B, 1 better in A, 2 the same." in out
    assert str(slices[0]["slice_number"]) in out
    assert "A: a.csv" in out
    out = run("compare", "a.csv", "a.csv", *TRUTH)[1]
    assert "A and B have the same score in every scan." in out


def test_the_truth_is_that_beside_or_of_the_dataset(run: Run, tmp_path: Path) -> None:
    code, _, err = run("compare", "a.csv", "b.csv")
    assert code == 3
    assert "truth is not known" in err
    assert run("convert", "source", "--holdout", "0")[0] == 0
    code, out, _ = run("compare", "a.csv", "b.csv", "--json")
    assert code == 0
    assert "Dataset501_UWGI" in json.loads(out)["truth"]
    dataset = gi2nnunet.open_dataset(workspace="gi2nnunet-workspace")
    own = dataset.truth_path.read_text()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}.csv").rename(tmp_path / name / "submission.csv")
        (tmp_path / name / "truth.csv").write_text(own)
    assert json.loads(run("compare", "a", "b", "--json")[1])["truth"] == "a/truth.csv"
    lines = own.splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if ",stomach," in line and line.split(",")[2])
    cells = lines[at].split(",")
    lines[at] = ",".join([*cells[:2], "1 1", *cells[3:]])
    (tmp_path / "b/truth.csv").write_text("".join(lines))
    code, _, err = run("compare", "a", "b")
    assert code == 3
    assert "b/truth.csv: found other true rows than in a/truth.csv" in err
    assert run("compare", "a", "b", "--truth", "a/truth.csv")[0] == 0


def test_the_call_returns_tables(run: Run) -> None:
    found = gi2nnunet.compare("a.csv", "b.csv", "source/train.csv", images="source", seed=7)
    assert isinstance(found, gi2nnunet.Comparison)
    said = json.loads(run("compare", "a.csv", "b.csv", *TRUTH, "--json", "--seed", "7")[1])
    assert json.loads(json.dumps({"format": 1, **found.to_json()})) == said
    assert found.to_frame("patient").loc["case10", "change"] < 0


def test_measures_in_mm_and_ml_are_compared_too(run: Run, tmp_path: Path) -> None:
    words = ("compare", "a.csv", "b.csv", *TRUTH)
    code, out, _ = run(*words, "--medical", "--json", "--html", "page.html")
    assert code == 0
    found = json.loads(out)["differences"]
    scores = {
        side: gi2nnunet.score(
            tmp_path / f"{side}.csv", tmp_path / TRUTH[1], images=tmp_path / "source", medical=True
        )
        for side in "ab"
    }
    for side, score in scores.items():
        assert score.medical is not None
        for organ, means in score.medical.items():
            for name in ("surface_dice", "volume_error_ml", "volume_error_abs_ml"):
                assert found[f"{organ}.{name}"][side] == pytest.approx(getattr(means, name))
    lost = found["stomach.volume_error_ml"]
    assert lost["difference"] < 0  # masks of the stomach are missing in B
    assert found["stomach.volume_error_abs_ml"]["difference"] == -lost["difference"]
    assert lost["low"] <= lost["difference"] <= lost["high"]
    page = (tmp_path / "page.html").read_text()
    assert "stomach, HD95 (mm)" in page
    assert "one that is missed or extra has none" in page
    out = run(*words, "--medical")[1]
    assert f"{lost['difference']:+.1f}" in out
    plain = json.loads(run(*words, "--json")[1])["differences"]
    assert not any(name.endswith(("_mm", "_ml")) for name in plain)
