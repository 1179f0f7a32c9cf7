"""Comparison of two submissions: paired differences with intervals."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.bootstrap import estimate_intervals
from gi2nnunet.scoring.compare import compare_scores, compare_submissions
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.scoring.medical import OrganMeasures
from tests.scoring.test_bootstrap import random_score, score_of


def test_a_constant_gain_has_an_interval_of_no_width():
    """Patients differ, the gain does not: pairing removes what patients differ in."""
    rng = np.random.default_rng(5)
    scans = {f"case{i}_day0": rng.uniform(0.2, 0.8) for i in range(10)}
    hausdorff = {scan: rng.uniform(0, 0.5) for scan in scans}
    a = score_of(scans, hausdorff)
    b = score_of({scan: dice + 0.1 for scan, dice in scans.items()}, hausdorff)
    found = compare_scores(a, b)
    for name in ("dice", "stomach.dice"):
        d = found.differences[name]
        assert (d.low, d.difference, d.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.differences["score"].difference == pytest.approx(0.04)
    assert found.differences["hausdorff"].difference == 0
    back = compare_scores(b, a).differences["score"]
    assert (back.low, back.high) == pytest.approx(
        (-found.differences["score"].high, -found.differences["score"].low)
    )


def test_scans_that_moved_most_come_first():
    dices = {"case1_day0": 0.5, "case2_day0": 0.5, "case3_day0": 0.5, "case4_day0": math.nan}
    flat = dict.fromkeys(dices, 0.0)
    moved = {"case1_day0": 0.6, "case2_day0": 0.1, "case3_day0": 0.5, "case4_day0": 1.0}
    found = compare_scores(score_of(dices, flat), score_of(moved, flat))
    assert [scan.scan_id for scan in found.scans] == [
        "case2_day0", "case1_day0", "case3_day0", "case4_day0",
    ]  # fmt: skip
    assert found.scans[0].change == pytest.approx(-0.16)
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert content["scans"][-1]["change"] is None
    assert content["n_patients"] == 4


def test_scores_of_other_scans_or_conventions_are_a_mistake_of_the_caller():
    a = random_score(0)
    for b in (random_score(0, n_patients=5), score_of({}, {}, metric="slice-2d")):
        with pytest.raises(ValueError, match="same scans and convention"):
            compare_scores(a, b)


def test_submissions_are_compared_from_their_files(tmp_path):
    def write(name, texts):
        lines = ["id,class,predicted,image_height,image_width"]
        for patient, text in texts.items():
            lines += [f"{patient}_day0_slice_0001,{organ},{text},3,4" for organ in ORGANS]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    truth = write("t.csv", {"case1": "1 4", "case2": "5 4", "case3": "1 2"})
    a = write("a.csv", {"case1": "1 2", "case2": "5 4", "case3": "1 2"})
    b = write("b.csv", {"case1": "1 4", "case2": "5 4", "case3": "1 1"})
    seen = []
    found = compare_submissions(a, b, truth, progress=lambda *step: seen.append(step[:2]))
    assert seen == [(n, 6) for n in range(1, 7)]
    assert found.a.dice == pytest.approx((2 / 3 + 1 + 1) / 3)
    assert found.differences["dice"].difference == pytest.approx(0)
    assert found.differences["dice"].low < 0 < found.differences["dice"].high
    assert {found.scans[0].scan_id, found.scans[1].scan_id} == {"case1_day0", "case3_day0"}
    assert found.scans[2].change == 0


def test_patients_are_paired_by_the_means_of_their_scans():
    dices = {"case1_day0": 0.2, "case1_day5": 0.4, "case2_day0": 0.5, "case3_day0": math.nan}
    flat = dict.fromkeys(dices, 0.0)
    moved = {"case1_day0": 0.8, "case1_day5": 0.2, "case2_day0": 0.1, "case3_day0": 1.0}
    found = compare_scores(score_of(dices, flat), score_of(moved, flat))
    first, second, last = found.patients
    assert (first.patient_id, first.n_scans) == ("case2", 1)
    assert (second.patient_id, second.n_scans) == ("case1", 2)
    assert (last.patient_id, last.n_scans) == ("case3", 0)
    assert math.isnan(last.change)
    scores = found.to_frame("scan").loc[["case1_day0", "case1_day5"]]
    assert second.a == pytest.approx(scores["a"].mean())
    assert second.change == pytest.approx(0.4 * (0.5 - 0.3))
    assert found.count_patients() == {"b": 1, "a": 1, "same": 0}
    assert found.describe_patients() == "Patients: 1 better in B, 1 better in A, 0 the same."


def test_the_sentence_says_which_one_is_better():
    rng = np.random.default_rng(3)
    scans = {f"case{i}_day0": rng.uniform(0.2, 0.8) for i in range(12)}
    flat = dict.fromkeys(scans, 0.0)
    a = score_of(scans, flat)
    b = score_of({scan: dice + 0.1 for scan, dice in scans.items()}, flat)
    assert compare_scores(a, b).describe() == (
        "B is better: it scores 0.0400 higher (95% interval 0.0400 to 0.0400)."
    )
    back = compare_scores(b, a)
    assert back.better == "a"
    assert back.describe().startswith("A is better: it scores 0.0400 higher")
    mixed = {s: d + (0.1 if i % 2 else -0.1) for i, (s, d) in enumerate(scans.items())}
    unclear = compare_scores(a, score_of(mixed, flat))
    assert unclear.better is None
    assert unclear.describe().startswith("No clear difference: B - A is ")
    assert compare_scores(a, a).describe() == "A and B have the same score in every scan."
    one = {"case1_day0": 0.5}
    alone = compare_scores(score_of(one, one), score_of({"case1_day0": 0.75}, one))
    assert alone.better is None
    assert alone.describe() == "B scores 0.1000 higher; a single patient has no interval."


@pytest.mark.parametrize("metric", CONVENTIONS)
def test_slices_that_moved_most_are_named_by_their_numbers(tmp_path, metric):
    """Slice 7 loses an organ, slice 9 gets one that the truth does not have."""

    def write(name, texts):
        lines = ["id,class,predicted,image_height,image_width"]
        for number, of_organs in texts.items():
            lines += [
                f"case1_day0_slice_{number:04d},{organ},{text},3,4"
                for organ, text in zip(ORGANS, of_organs, strict=True)
            ]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    truth = {5: ("1 4", "", ""), 7: ("1 4", "5 4", ""), 9: ("", "", ""), 11: ("1 2", "", "")}
    b = {**truth, 7: ("1 4", "", ""), 9: ("", "", "1 1")}
    paths = [write(*given) for given in (("a.csv", truth), ("b.csv", b), ("t.csv", truth))]
    (scan,) = compare_submissions(*paths, metric=metric).scans
    # In slice 9 only the stomach counts: rightly empty in A, wrong in B.
    assert [(s.slice_number, s.a, s.b) for s in scan.slices] == [(9, 1.0, 0.0), (7, 1.0, 0.5)]


def test_of_equal_changes_that_with_the_largest_area_comes_first(tmp_path):
    def write(name, *texts):
        lines = ["id,class,predicted,image_height,image_width"]
        for number, text in enumerate(texts, start=1):
            lines += [f"case1_day0_slice_{number:04d},{organ},{text},3,4" for organ in ORGANS]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    empty, extra = write("a.csv", *[""] * 5), write("b.csv", "1 1", "1 3", "", "1 2", "1 3")
    (scan,) = compare_submissions(empty, extra, write("t.csv", *[""] * 5)).scans
    assert [(s.slice_number, s.change) for s in scan.slices] == [(2, -1.0), (5, -1.0), (4, -1.0)]


def test_tables_have_a_row_for_each_patient_scan_and_quantity():
    a, b = random_score(0), random_score(1)
    found = compare_scores(a, b)
    patients = found.to_frame()
    assert list(patients.columns) == ["n_scans", "a", "b", "change"]
    assert patients["n_scans"].sum() == len(found.scans)
    quantities = found.to_frame("quantity")
    assert quantities.loc["score", "difference"] == found.differences["score"].difference
    assert list(found.to_frame("scan").columns) == ["patient_id", "a", "b", "change"]
    with pytest.raises(ValueError, match="'slice' is none of"):
        found.to_frame("slice")
    assert found.describe() in found._repr_html_()


def test_distances_are_compared_where_both_have_the_organ():
    def score(values):
        plain = score_of(dict.fromkeys(values, 0.5), dict.fromkeys(values, 0.1))
        scans = [
            replace(
                scan,
                measures={
                    organ: OrganMeasures(
                        surface_dice=0.0 if math.isnan(hd95) else 0.5,
                        hd95_mm=hd95, volume_error_ml=error, volume_true_ml=100.0,
                    )
                    for organ in ORGANS
                },
            )
            for scan in plain.per_scan
            for hd95, error in [values[scan.scan_id]]
        ]  # fmt: skip
        return replace(plain, per_scan=tuple(scans))

    # B misses the organ in the scan in which A was worst: its mean distance over its own scans
    # is lower, but it is no better in any scan.
    a = score({"case1_day0": (2.0, 5.0), "case2_day0": (4.0, -5.0), "case3_day0": (90.0, 1.0)})
    b = score({"case1_day0": (3.0, 7.0), "case2_day0": (5.0, -9.0), "case3_day0": (math.nan, 1.0)})
    found = compare_scores(a, b).differences
    for organ in ORGANS:
        hd95 = found[f"{organ}.hd95_mm"]
        assert (hd95.a, hd95.b) == (3.0, 4.0)
        assert (hd95.low, hd95.difference, hd95.high) == pytest.approx((1.0, 1.0, 1.0))
        assert found[f"{organ}.surface_dice"].difference == pytest.approx(-0.5 / 3)
        error = found[f"{organ}.volume_error_ml"]
        assert (error.a, error.b) == pytest.approx((1 / 3, -1 / 3))
        size = found[f"{organ}.volume_error_abs_ml"]
        assert (size.a, size.b) == pytest.approx((11 / 3, 17 / 3))
    back = compare_scores(b, a).differences["stomach.hd95_mm"]
    assert (back.a, back.b, back.difference) == (4.0, 3.0, -1.0)


def test_an_extra_organ_lowers_the_measures_of_its_side_only():
    def score(*surface_dice, extra_ml=0.0):
        values = {f"case{n}_day0": value for n, value in enumerate(surface_dice, start=1)}
        plain = score_of(dict.fromkeys(values, 0.5), dict.fromkeys(values, 0.1))
        scans = []
        for scan in plain.per_scan:
            found = OrganMeasures(
                surface_dice=values[scan.scan_id], hd95_mm=math.nan,
                volume_error_ml=0.0 if values[scan.scan_id] else extra_ml, volume_true_ml=0.0,
            )  # fmt: skip
            scans.append(replace(scan, measures=dict.fromkeys(ORGANS, found)))
        return replace(plain, per_scan=tuple(scans))

    # The truth of the second scan has no organ: A is rightly empty there, B is not. In the third,
    # both are.
    a, b = score(0.5, math.nan, math.nan), score(0.5, 0.0, math.nan, extra_ml=9.0)
    found = compare_scores(a, b).differences["stomach.surface_dice"]
    assert (found.a, found.b, found.difference) == (0.75, 0.25, -0.5)
    for name in ("volume_error_ml", "volume_error_abs_ml"):
        error = compare_scores(a, b).differences[f"stomach.{name}"]
        assert (error.a, error.b, error.difference) == (0.0, 4.5, 4.5)
    back = compare_scores(b, a).differences["stomach.surface_dice"]
    assert (back.a, back.b, back.difference) == (0.25, 0.75, 0.5)


def test_a_quantity_of_a_single_patient_has_no_interval():
    def score(distances):
        plain = score_of(dict.fromkeys(distances, 0.5), dict.fromkeys(distances, 0.1))
        scans = []
        for scan in plain.per_scan:
            found = OrganMeasures(
                surface_dice=0.5, hd95_mm=distances[scan.scan_id], volume_error_ml=1.0,
                volume_true_ml=100.0,
            )  # fmt: skip
            scans.append(replace(scan, measures=dict.fromkeys(ORGANS, found)))
        return replace(plain, per_scan=tuple(scans))

    a = score({"case1_day0": 5.0, "case2_day0": 6.0, "case3_day0": 7.0})
    b = score({"case1_day0": math.nan, "case2_day0": math.nan, "case3_day0": 3.0})
    found = compare_scores(a, b).differences
    assert found["stomach.hd95_mm"].difference == -4.0
    assert math.isnan(found["stomach.hd95_mm"].low)
    assert not math.isnan(found["stomach.surface_dice"].low)
    alone = estimate_intervals(b)["stomach.hd95_mm"]
    assert alone.value == 3.0
    assert math.isnan(alone.low)
    assert math.isnan(alone.high)
