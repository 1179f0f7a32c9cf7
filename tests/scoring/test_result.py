"""Tables of a score: patients are pooled, slices add up to the means."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.tables import read_mask_table, tabulate_rows, take_rows
from gi2nnunet.scoring.conventions import CONVENTIONS, Metric
from gi2nnunet.scoring.record import read_score, write_score
from gi2nnunet.scoring.score import score_submission

SCANS = {"case1_day0": 3, "case1_day2": 7, "case2_day1": 4}
SPACING = (3.0, 1.5, 1.25)


@pytest.fixture(scope="module")
def tables():
    """Random masks with empty slices, organs missed and organs extra: submission and truth."""
    rng = np.random.default_rng(3)
    found = []
    for side in range(2):
        rows = {}
        for scan_id, depth in SCANS.items():
            bits = (rng.random((depth, 5, 6)) < 0.3) * rng.integers(0, 8, (depth, 5, 6))
            bits[rng.random(depth) < 0.3] = 0
            if scan_id == "case2_day1":
                bits &= ~np.int64(4 if side else 1)
            rows[scan_id] = encode_scan(scan_id, range(1, depth + 1), bits.astype(np.uint8))
        found.append(tabulate_rows(f"{side}", rows, dict.fromkeys(SCANS, (5, 6))))
    return tuple(found)


@pytest.mark.parametrize("metric", CONVENTIONS)
def test_a_patients_values_are_those_of_its_scans_scored_together(tables, metric: Metric) -> None:
    frame = score_submission(*tables, metric=metric).to_frame("patient")
    assert frame["n_scans"].to_dict() == {"case1": 2, "case2": 1}
    for patient_id, scan_ids in (("case1", list(SCANS)[:2]), ("case2", ["case2_day1"])):
        alone = score_submission(*(take_rows(t, scan_ids) for t in tables), metric=metric)
        for name in ("score", "dice", "hausdorff"):
            assert frame.loc[patient_id, name] == pytest.approx(getattr(alone, name))


@pytest.mark.parametrize("metric", CONVENTIONS)
def test_slices_add_up_to_the_score(tables, metric: Metric) -> None:
    score = score_submission(*tables, metric=metric, spacing_mm=dict.fromkeys(SCANS, SPACING))
    frame = score.to_frame("slice")
    assert len(frame) == sum(SCANS.values()) * len(ORGANS)
    assert frame["dice"].mean() == pytest.approx(score.dice)
    if metric == "slice-2d":
        assert frame["hausdorff"].mean() == pytest.approx(score.hausdorff)
    else:
        assert frame["hausdorff"].isna().all()
    assert (frame["area_true_mm2"] == frame["pixels_true"] * 1.875).all()
    totals = frame.groupby(["scan_id", "organ"])[["pixels_true", "pixels_predicted"]].sum()
    missed = (totals["pixels_true"] > 0) & (totals["pixels_predicted"] == 0)
    extra = (totals["pixels_true"] == 0) & (totals["pixels_predicted"] > 0)
    assert missed.groupby("organ").sum().to_dict() == {
        organ: of.n_missed for organ, of in score.per_organ.items()
    }
    assert extra.groupby("organ").sum().to_dict() == {
        organ: of.n_extra for organ, of in score.per_organ.items()
    }
    (scan,) = (scan for scan in score.per_scan if scan.scan_id == "case2_day1")
    assert (scan.missed, scan.extra) == (("large_bowel",), ("stomach",))
    assert score.to_frame().loc["case2_day1", ["missed", "extra"]].tolist() == [
        "large_bowel", "stomach",
    ]  # fmt: skip


def test_measures_are_in_the_tables_and_slices_are_not_in_a_file(tables, tmp_path: Path) -> None:
    spacing_mm = dict.fromkeys(SCANS, SPACING)
    score = score_submission(*tables, medical=True, spacing_mm=spacing_mm)
    assert score.medical is not None
    organs = score.to_frame("organ")
    assert organs.loc["stomach", "hd95_mm"] == score.medical["stomach"].hd95_mm
    assert math.isnan(organs.loc["all", "hd95_mm"])
    assert organs.loc["all", "n_missed"] == sum(of.n_missed for of in score.per_organ.values())
    (tmp_path / "submission.csv").write_text("id,class,predicted\n")
    write_score(score, tmp_path, truth=tables[1], about={})
    read = read_score(tmp_path).score
    assert read.per_scan[0].spacing_mm == SPACING
    assert read.to_frame().equals(score.to_frame())
    assert read.to_frame("patient").equals(score.to_frame("patient"))
    with pytest.raises(ValueError, match="case1_day0: no values of slices are known; score again"):
        read.to_frame("slice")
    with pytest.raises(ValueError, match="'voxel' is none of"):
        read.to_frame("voxel")
    assert read_mask_table(tmp_path / "truth.csv").list_rows() == tables[1].list_rows()
