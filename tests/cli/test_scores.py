"""The command score: intervals, medical measures, what is scored, and the default truth."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from gi2nnunet.formats.volumes import read_volume
from tests.pages.test_compare_page import SCANS, write_comparison
from tests.remedies import follow
from tests.source_factory import ORGANS, make_source

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _files(here: Path) -> None:
    """A source, the truth as a.csv, and a worse b.csv."""
    write_comparison(here)


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


def test_the_spacing_is_that_of_the_truth_the_workspace_or_the_images(run: Run) -> None:
    words = ("score", "b.csv", "--medical", "--json")
    code, _, err = run("score", "b.csv", "--truth", "source/train.csv", "--medical")
    assert code == 3
    assert "--images" in err
    medical = json.loads(run(*words, "--truth", "source/train.csv", "--images", "source")[1])
    assert run("convert", "source", "--workspace", "w", "--holdout", "0")[0] == 0
    dataset = "w/raw/Dataset501_UWGI"
    shutil.copy(f"{dataset}/truth.csv", "elsewhere.csv")
    for more in (
        ("--truth", dataset),
        ("--truth", f"{dataset}/truth.csv"),
        ("--truth", f"{dataset}/labelsTr"),
        ("--truth", "elsewhere.csv", "--workspace", "w"),
        ("--truth", "elsewhere.csv", "--images", dataset),
        ("--workspace", "w"),
    ):
        code, out, err = run(*words, *more)
        assert code == 0, err
        assert json.loads(out) == medical
    # The dataset's scans are not these if their images have another size.
    lines = Path("elsewhere.csv").read_text().splitlines()
    cut = [",".join(line.split(",")[:3]) for line in lines]
    larger = [f"{cut[0]},image_height,image_width", *(f"{line},90,90" for line in cut[1:])]
    Path("larger.csv").write_text("\n".join(larger) + "\n")
    code, _, err = run("score", "b.csv", "--medical", "--truth", "larger.csv", "--workspace", "w")
    assert code == 3
    assert "spacing of case2_day1, " in err


def test_organs_missed_and_extra_are_shown(run: Run) -> None:
    words = ("score", "b.csv", "--truth", "source/train.csv", "--images", "source")
    found = json.loads(run(*words, "--json")[1])
    counts = {organ: (of["n_missed"], of["n_extra"]) for organ, of in found["per_organ"].items()}
    assert counts == {"large_bowel": (0, 0), "small_bowel": (0, 0), "stomach": (1, 0)}
    missed = {scan["scan_id"]: scan["missed"] for scan in found["per_scan"] if scan["missed"]}
    assert missed == {"case10_day0": ["stomach"]}
    cells = [line.strip("│┃ ").split("│") for line in run(*words)[1].splitlines()]
    lines = [[cell.strip() for cell in line] for line in cells]
    (scan,) = (line for line in lines if "case10_day0" in line)
    assert scan[-1] == "stomach"
    (organ,) = (line for line in lines if line[:1] == ["stomach"])
    assert organ[-2:] == ["1", "0"]
    back = json.loads(run("score", "a.csv", "--truth", "b.csv", "--images", "source", "--json")[1])
    assert back["per_organ"]["stomach"]["n_extra"] == 1
    assert [scan["extra"] for scan in back["per_scan"] if scan["extra"]] == [["stomach"]]


def test_a_table_of_slices_is_written(run: Run) -> None:
    words = ("score", "b.csv", "--truth", "source/train.csv", "--images", "source")
    code, out, _ = run(*words, "--metric", "slice-2d", "--per-slice", "slices.csv")
    assert code == 0
    assert out.splitlines()[-1] == "slices.csv"
    rows = pd.read_csv("slices.csv")
    found = json.loads(run(*words, "--metric", "slice-2d", "--json")[1])
    assert rows["dice"].mean() == pytest.approx(found["dice"])
    assert rows["hausdorff"].mean() == pytest.approx(found["hausdorff"])
    assert len(rows) == sum(len(scan.masks[0]) for scan in make_source(SCANS).train) * len(ORGANS)
    (scan,) = (scan for scan in make_source(SCANS).train if scan.scan_id == "case10_day0")
    stomach = rows[(rows.scan_id == "case10_day0") & (rows.organ == "stomach")]
    area = scan.masks[2].sum(axis=(1, 2)) * math.prod(scan.spacing_xy)
    assert stomach["area_true_mm2"].to_numpy() == pytest.approx(area)
    assert (stomach["area_predicted_mm2"] == 0).all()
    assert (stomach["missed"].to_numpy() == (area > 0)).all()
    assert not rows["extra"].any()
    # The spacing is not known: areas only in pixels, and no distance of slices in 3D.
    assert run("score", "b.csv", "--truth", "a.csv", "--per-slice", "x.csv")[0] == 3
    assert not Path("x.csv").exists()
    sized = [f"{a},{b},{c},{h},{w}" for a, b, c, h, w in list_sized()]
    Path("sized.csv").write_text("\n".join(["id,class,predicted,image_height,image_width", *sized]))
    assert run("score", "b.csv", "--truth", "sized.csv", "--per-slice", "x.csv")[0] == 0
    plain = pd.read_csv("x.csv")
    assert plain["pixels_true"].equals(rows["pixels_true"])
    assert plain[["area_true_mm2", "hausdorff"]].isna().to_numpy().all()


@pytest.mark.parametrize("command", [("score", "b.csv"), ("compare", "a.csv", "b.csv")])
def test_images_of_another_size_than_the_truth_says_are_refused(
    command: tuple[str, ...], run: Run
) -> None:
    sized = [f"{a},{b},{c},{h + 1},{w}" for a, b, c, h, w in list_sized()]
    Path("t.csv").write_text("\n".join(["id,class,predicted,image_height,image_width", *sized]))
    assert run(*command, "--truth", "t.csv")[0] == 0
    code, _, err = run(*command, "--truth", "t.csv", "--images", "source")
    assert code == 3
    (scan,) = (scan for scan in make_source(SCANS).train if scan.scan_id == "case10_day0")
    height, width = scan.masks[0].shape[1:]
    said = f"size {width} x {height + 1} (width x height), but an image of {width} x {height};"
    assert f"t.csv, case10_day0: found the image {said}" in " ".join(err.split())


def test_a_dash_is_not_a_file(run: Run) -> None:
    words = ("score", "b.csv", "--truth", "source/train.csv", "--images", "source")
    for more in (("--per-slice", "-"), ("--per-slice=-",)):
        code, _, err = run(*words, *more)
        assert code == 2
        assert "found '-'; expected a file" in " ".join(err.replace("│", " ").split())
    assert not Path("-").exists()


def list_sized() -> list[tuple[object, ...]]:
    """The true rows with their image sizes."""
    source = make_source(SCANS)
    sizes = {scan.scan_id: scan.masks[0].shape[1:] for scan in source.train}
    return [(a, b, c, *sizes[a.partition("_slice_")[0]]) for a, b, c in source.rows]


def test_medical_measures_are_in_mm_and_ml(run: Run) -> None:
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
    table = run(*words)[1].partition("In mm and ml")[2]
    assert "with HD95" in table
    rows = {
        organ: re.search(rf"{organ} .*", table)[0].split() for organ in ("large bowel", "stomach")
    }
    # The mask that B lost has no distance.
    assert [row[-4::2] for row in rows.values()] == [["4", "4"], ["4", "3"]]


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


def test_label_volumes_of_another_voxel_size_have_no_measures_in_mm(
    run: Run, tmp_path: Path
) -> None:
    assert run("convert", "source", "--jobs", "1", "--holdout", "0")[0] == 0
    dataset = tmp_path / "gi2nnunet-workspace/raw/Dataset501_UWGI"
    labels, truth = tmp_path / "labels", tmp_path / "true"
    for folder in (labels, truth):
        shutil.copytree(dataset / "labelsTr", folder)
        shutil.copy(dataset / "dataset.json", folder)
    for path in labels.glob("*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(image.dataobj, image.affine @ np.diag([2, 2, 2, 1])), path)
    words = ("--truth", str(truth), "--json")
    assert json.loads(run("score", "labels", *words)[1])["score"] == 1
    assert run("score", str(truth), *words, "--medical")[0] == 0
    for command in (("score", "labels"), ("compare", str(truth), "labels")):
        code, _, err = run(*command, *words, "--medical")
        assert code == 3
        assert "found voxels of 6 x 3 x 3 mm (z, y, x); expected 3 x 1.5 x 1.5 mm" in err
    follow(
        "If only the voxel size is wrong, score the CSV that this makes: gi2nnunet encode {} --out "
        "labels.csv", err, run,
    )  # fmt: skip
    assert run("score", "labels.csv", *words, "--medical")[0] == 0


def test_one_nifti_file_is_scored_as_its_rows_are(run: Run) -> None:
    assert run("convert", "source", "--jobs", "1")[0] == 0
    truth = Path("gi2nnunet-workspace/raw/Dataset501_UWGI/labelsTr")
    name = min(path.name for path in truth.iterdir())
    whole = json.loads(run("score", "b.csv", "--medical", "--json")[1])
    (known,) = (one for one in whole["per_scan"] if one["scan_id"] == name.removesuffix(".nii.gz"))
    words = ("--truth", str(truth / name), "--scans", "common", "--medical", "--json")
    (found,) = json.loads(run("score", "b.csv", *words)[1])["per_scan"]
    assert found["medical"] == known["medical"]
    assert found["score"] == known["score"]
    (same,) = json.loads(run("score", str(truth / name), *words)[1])["per_scan"]
    assert same["score"] == 1
    assert run("score", "b.csv", "--truth", "nowhere.nii.gz")[0] == 3
