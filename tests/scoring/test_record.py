"""Files of a score: what is written is read again, and nothing else is taken for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import parse_record, write_json
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.scoring.bootstrap import estimate_intervals
from gi2nnunet.scoring.medical import OrganMeasures
from gi2nnunet.scoring.metric import Terms
from gi2nnunet.scoring.record import read_score, read_truth, write_score
from gi2nnunet.scoring.result import Score, combine_terms
from gi2nnunet.scoring.score import score_submission
from tests.converting import convert
from tests.source_factory import make_source, write_source


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Path, Score]:
    """A folder with a submission of three patients, an organ absent in all, and its score."""
    submission = ["id,class,predicted"]
    truth = ["id,class,segmentation,image_height,image_width"]
    for patient in (1, 2, 3):
        for organ, (true, predicted) in zip(
            ORGANS, (("1 4", f"1 {patient}"), ("5 2", "5 3"), ("", "")), strict=True
        ):
            name = f"case{patient}_day0_slice_0001,{organ}"
            submission.append(f"{name},{predicted}")
            truth.append(f"{name},{true},3,4")
    folder = tmp_path / "predicted"
    folder.mkdir()
    (folder / "submission.csv").write_text("\n".join([*submission, ""]))
    (tmp_path / "truth.csv").write_text("\n".join([*truth, ""]))
    table = read_mask_table(tmp_path / "truth.csv", any_scan=True)
    score = score_submission(folder / "submission.csv", table)
    write_score(score, folder, truth=table, about={"standing": "held-out"})
    return folder, score


def test_a_score_and_its_intervals_are_read_as_they_were_written(
    scored: tuple[Path, Score],
) -> None:
    folder, score = scored
    found = read_score(folder)
    # NaN equals no NaN.
    assert repr(found.score) == repr(replace(score, standing="held-out"))
    assert repr(found.score.per_scan) == repr(score.per_scan)
    assert repr(dict(found.intervals)) == repr(estimate_intervals(score))
    assert np.isnan(found.score.per_organ["stomach"].dice)
    content = json.loads((folder / "score-per-class.json").read_text())
    assert content["standing"] == "held-out"
    assert content["bootstrap"] == {"n_resamples": 5000, "confidence": 0.95, "seed": 0}


def test_medical_measures_survive_json() -> None:
    measures = OrganMeasures(
        surface_dice=0.5, hd95_mm=float("nan"), volume_error_ml=-1.5, volume_true_ml=3.0
    )
    score = combine_terms(
        {"case1_day0": Terms(dice=np.ones((3, 1)), hausdorff=np.zeros((3, 1)))},
        metric="joined",
        measures={"case1_day0": dict.fromkeys(ORGANS, measures)},
        tolerance_mm=3.0,
    )
    text = json.dumps(score.to_json(), allow_nan=False)
    again = parse_record(text, Score, where="", remedy="")
    assert again.to_json() == score.to_json()
    with pytest.raises(ValueError, match="no terms"):
        estimate_intervals(again)


@pytest.mark.parametrize("name", ["submission.csv", "truth.csv", "score-per-class.csv"])
def test_a_file_that_changed_since_is_named(scored: tuple[Path, Score], name: str) -> None:
    folder, _ = scored
    text = (folder / name).read_text()
    (folder / name).write_text(
        text.replace("1 2", "1 3").replace("5 2", "6 2").replace("case3", "case4")
    )
    assert text != (folder / name).read_text()
    with pytest.raises(
        InputError, match=rf"{name}: found another file than score-per-class\.json is about"
    ):
        read_score(folder)


def test_a_truth_that_changed_is_refused_and_a_copy_elsewhere_is_taken(
    scored: tuple[Path, Score], tmp_path: Path
) -> None:
    folder, score = scored
    path = folder / "truth.csv"
    assert score_submission(folder / "submission.csv", read_truth(path)).score == score.score
    path.write_text(path.read_text().replace("5 2", "9 2"))
    with pytest.raises(InputError, match=r"truth\.csv: found a file that was changed") as caught:
        read_truth(path)
    assert "gi2nnunet predict-and-score" in str(caught.value)
    copy = tmp_path / "elsewhere.csv"
    copy.write_bytes(path.read_bytes())
    assert score_submission(folder / "submission.csv", read_truth(copy)).score < score.score


def test_a_truth_of_a_dataset_is_compared_with_its_manifest(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    dataset = convert(source, workspace=open_workspace(tmp_path / "w", environ={}))
    table = read_truth(dataset.truth_path)
    assert len(table) == len(make_source().rows)
    lines = dataset.truth_path.read_text().splitlines(keepends=True)
    dataset.truth_path.write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(InputError, match=r"truth\.csv: found a file that was changed") as caught:
        read_truth(dataset.truth_path)
    assert "gi2nnunet convert SOURCE" in str(caught.value)
    convert(source, workspace=open_workspace(tmp_path / "w", environ={}))
    assert read_truth(dataset.truth_path).list_rows() == table.list_rows()
    # Beside another program's manifest.json nothing is recorded.
    write_json(tmp_path / "manifest.json", {"name": "a web page"})
    (tmp_path / "truth.csv").write_bytes(dataset.truth_path.read_bytes())
    assert len(read_truth(tmp_path / "truth.csv")) == len(table)


def test_a_score_is_read_without_the_truth(scored: tuple[Path, Score]) -> None:
    folder, score = scored
    (folder / "truth.csv").unlink()
    assert read_score(folder).score.score == score.score


def set_in(content: dict[str, Any], place: str, value: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        content = content[int(key) if key.isdecimal() else key]
    content[last] = value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("score", "0.9"),
        ("score", [1]),
        ("metric", "per-clas"),
        ("metric", ["joined"]),
        ("per_organ", None),
        ("per_organ.stomach", {}),
        ("per_organ.stomach.dice", True),
        ("per_scan", 3),
        ("per_scan.0.scan_id", 7),
        ("per_scan.0.dice", "x"),
        ("intervals", 5),
        ("intervals", [1]),
        ("intervals.dice", [0.1, 0.2]),
        ("intervals.dice", {"value": 1}),
        ("intervals.dice", ["a", "b", "c"]),
        ("sha256", []),
    ],
)
def test_a_damaged_file_is_refused(scored: tuple[Path, Score], place: str, value: object) -> None:
    folder, _ = scored
    content = json.loads((folder / "score-per-class.json").read_text())
    set_in(content, place, value)
    (folder / "score-per-class.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"score-per-class\.json"):
        read_score(folder)


def test_an_earlier_versions_file_and_none_are_refused(scored: tuple[Path, Score]) -> None:
    folder, _ = scored
    content = json.loads((folder / "score-per-class.json").read_text())
    del content["intervals"]
    (folder / "score-per-class.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"intervals: found nothing; expected this key"):
        read_score(folder)
    (folder / "score-per-class.json").unlink()
    with pytest.raises(
        InputError, match=r"score-per-class\.json: no such file.* predict-and-score"
    ):
        read_score(folder)
