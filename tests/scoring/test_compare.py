"""Bootstrap over patients: intervals, paired differences."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.compare import compare_scores, compare_submissions, estimate_intervals
from gi2nnunet.scoring.metric import Terms
from gi2nnunet.scoring.result import combine_terms


def score_of(dices, hausdorffs, *, metric="per-class"):
    """Return a score of scans with one row each, the same in all organs."""
    return combine_terms(
        {
            scan_id: Terms(
                dice=np.full((3, 1), dice), hausdorff=np.full((3, 1), hausdorffs[scan_id])
            )
            for scan_id, dice in dices.items()
        },
        metric=metric,
    )


def random_score(seed, n_patients=12):
    rng = np.random.default_rng(seed)
    scans = [f"case{p}_day{d}" for p in range(n_patients) for d in range(1 + p % 3)]
    return score_of(
        {s: rng.uniform(0.6, 1) for s in scans}, {s: rng.uniform(0, 0.3) for s in scans}
    )


def test_the_interval_is_the_textbooks_for_one_scan_a_patient():
    """With one value a patient the percentile interval is that of plain resampling."""
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, 20)
    score = score_of(
        {f"case{i}_day0": v for i, v in enumerate(values)},
        {f"case{i}_day0": 0.0 for i in range(20)},
    )
    found = estimate_intervals(score, n_resamples=20000, seed=1)["dice"]
    drawn = rng.choice(values, (20000, 20)).mean(1)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.01)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.01)


def test_scans_of_one_patient_are_drawn_together():
    """Ten scans of two patients are two draws: the bounds are the two patients' own values."""
    scans = {f"case{p}_day{d}": float(p) for p in (0, 1) for d in range(5)}
    found = estimate_intervals(score_of(scans, dict.fromkeys(scans, 0.0)))["dice"]
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_values_are_those_of_the_score():
    score = random_score(0)
    found = estimate_intervals(score)
    assert list(found)[:4] == ["score", "dice", "hausdorff", "large_bowel.score"]
    assert found["score"].value == pytest.approx(score.score)
    for organ in ORGANS:
        for name in ("score", "dice", "hausdorff"):
            value = getattr(score.per_organ[organ], name)
            interval = found[f"{organ}.{name}"]
            assert interval.value == pytest.approx(value)
            assert interval.low < value < interval.high


def test_the_seed_decides():
    score = random_score(0)
    assert estimate_intervals(score, seed=3) == estimate_intervals(score, seed=3)
    assert estimate_intervals(score, seed=3) != estimate_intervals(score, seed=4)


def test_more_confidence_gives_a_wider_interval():
    narrow, wide = (
        estimate_intervals(random_score(0), confidence=c)["score"] for c in (0.5, 0.99)
    )  # fmt: skip
    assert wide.low < narrow.low < narrow.high < wide.high


def test_one_patient_has_no_interval():
    found = estimate_intervals(random_score(0, n_patients=1))
    assert math.isnan(found["score"].low)
    assert math.isnan(found["score"].high)
    assert not math.isnan(found["score"].value)


def test_joined_organs_have_no_distance_of_their_own():
    score = combine_terms(
        {f"case{i}_day0": Terms(dice=np.full((3, 2), 0.5), hausdorff=np.full((1, 1), 0.1))
         for i in range(4)},
        metric="joined",
    )  # fmt: skip
    found = estimate_intervals(score)
    assert "stomach.dice" in found
    assert "stomach.hausdorff" not in found
    assert "stomach.score" not in found


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
