"""Bootstrap over patients: intervals of scores and of gains."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gi2nnunet.core.files import FloatOrNan, parse_record
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.scoring.bootstrap import (
    estimate_intervals,
    measure_gain,
)
from gi2nnunet.scoring.metric import Terms, combine
from gi2nnunet.scoring.result import Interval, combine_terms, intervals_to_json


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


NUMBERS = st.one_of(st.just(math.nan), st.floats(0, 1))


@given(
    st.dictionaries(
        st.sampled_from(["score", "dice", "stomach.dice"]), st.tuples(NUMBERS, NUMBERS, NUMBERS)
    )
)
def test_intervals_survive_json(values):
    intervals = {
        name: Interval(value=value, low=low, high=high)
        for name, (value, low, high) in values.items()
    }
    text = json.dumps(intervals_to_json(intervals), allow_nan=False)
    three = tuple[FloatOrNan, FloatOrNan, FloatOrNan]
    found = parse_record(text, dict[str, three], where="", remedy="")
    assert repr(found) == repr({name: tuple(vars(one).values()) for name, one in intervals.items()})


def make_sums(seed, patients):
    """Sums of one Dice row and one distance for each organ and scan."""
    values = np.random.default_rng(seed).uniform(0, 1, (len(ORGANS), len(patients), 2))
    return np.stack(
        [values[..., 0], np.ones(values.shape[:2]), values[..., 1], np.ones(values.shape[:2])],
        axis=-1,
    )


def test_a_gain_is_that_of_scoring_each_resample_by_hand():
    patients = ["case1", "case2", "case1", "case3", "case4"]
    plain, tuned = make_sums(1, patients), make_sums(2, patients)
    found = measure_gain(plain, tuned, patients, seed=7, n_resamples=300, confidence=0.8)

    def score(sums, weights):
        total = np.zeros(4)
        for scan, patient in enumerate(patients):
            total += weights[patient] * sums[:, scan].sum(axis=0)
        return combine(total[0] / total[1], total[2] / total[3])

    names = sorted(set(patients))
    drawn = np.random.default_rng(7).multinomial(4, [0.25] * 4, size=300)
    resamples = [dict(zip(names, counts, strict=True)) for counts in drawn]
    gains = [score(tuned, weights) - score(plain, weights) for weights in resamples]
    once = dict.fromkeys(names, 1)
    assert found.plain == pytest.approx(score(plain, once))
    assert found.gain == pytest.approx(score(tuned, once) - score(plain, once))
    assert [found.low, found.high] == pytest.approx(np.quantile(gains, [0.1, 0.9]))
    tuned_scores = [score(tuned, weights) for weights in resamples]
    assert [found.tuned_low, found.tuned_high] == pytest.approx(
        np.quantile(tuned_scores, [0.1, 0.9])
    )


def test_a_gain_on_one_patient_or_on_nothing_has_no_interval():
    one = measure_gain(make_sums(1, "aa"), make_sums(2, "aa"), ["a", "a"], seed=0)
    assert math.isfinite(one.gain)
    assert all(map(math.isnan, (one.low, one.high, one.tuned_low, one.tuned_high)))
    nothing = np.zeros((3, 2, 4))
    assert math.isnan(measure_gain(nothing, nothing, ["a", "b"], seed=0).plain)
