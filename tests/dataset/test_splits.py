import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.splits import (
    check_folds_asked,
    check_leaks,
    hold_out,
    make_folds,
    shared_patients,
)
from gi2nnunet.formats.ids import patient_of


def patients_with_days(days):
    return [f"case{i + 1}_day{3 * d}" for i, count in enumerate(days) for d in range(count)]


cohorts = st.lists(st.integers(1, 6), min_size=2, max_size=30)


@given(days=cohorts, data=st.data())
def test_folds_are_a_partition_by_patient_and_never_empty(days, data):
    scans = patients_with_days(days)
    strata = {s: data.draw(st.sampled_from("abc"), label=s) for s in scans}
    folds = data.draw(st.integers(2, len(days)))
    splits = make_folds(strata, folds=folds, seed=data.draw(st.integers(0, 3)))
    assert len(splits) == folds
    assert sorted(s for fold in splits for s in fold["val"]) == sorted(scans)
    for fold in splits:
        assert fold["val"]
        assert sorted(fold["train"] + fold["val"]) == sorted(scans)
        assert not {patient_of(s) for s in fold["train"]} & {patient_of(s) for s in fold["val"]}
    assert check_leaks(splits) == []


def test_folds_are_even_in_scans_patients_and_strata():
    rng = np.random.default_rng(0)
    days = rng.integers(1, 7, 85)
    scans = patients_with_days(days)
    strata = {s: "rare" if i % 9 == 0 else "common" for i, s in enumerate(scans)}
    splits = make_folds(strata, folds=5, seed=0)
    for count in (
        [len(f["val"]) for f in splits],
        [sum(strata[s] == "rare" for s in f["val"]) for f in splits],
    ):
        assert max(count) - min(count) <= 3
    patients = [len({patient_of(s) for s in f["val"]}) for f in splits]
    assert patients == [17] * 5


def test_folds_do_not_depend_on_the_order_given_but_on_the_seed():
    scans = dict.fromkeys(patients_with_days([1, 2, 3, 1, 2, 4, 1, 1]), "")
    there, back = dict(scans), dict(reversed(scans.items()))
    assert json.dumps(make_folds(there, folds=3)) == json.dumps(make_folds(back, folds=3))
    drawn = {json.dumps(make_folds(scans, folds=3, seed=seed)) for seed in range(10)}
    assert len(drawn) > 1


@pytest.mark.parametrize("folds", [0, 1, 4])
def test_an_impossible_number_of_folds_is_a_mistake_of_the_caller(folds):
    with pytest.raises(ValueError, match="3 patients"):
        make_folds(dict.fromkeys(patients_with_days([2, 1, 1]), ""), folds=folds)


def test_folds_asked():
    assert check_folds_asked(None, patients=85) == (5, None)
    assert check_folds_asked(7, patients=7) == (7, None)
    count, warning = check_folds_asked(None, patients=3)
    assert count == 3
    assert "3 folds instead of 5" in warning
    assert check_folds_asked(None, patients=1)[0] == 0
    assert "fold all" in check_folds_asked(None, patients=1)[1]
    assert check_folds_asked(None, patients=0) == (0, None)
    with pytest.raises(InputError, match="5 for 3 training patients"):
        check_folds_asked(5, patients=3)
    with pytest.raises(InputError, match="at least 2"):
        check_folds_asked(1, patients=3)


def test_default_holdout_needs_five_patients():
    assert hold_out(patients_with_days([2, 2, 2, 2])) == ()
    five = hold_out(patients_with_days([2, 2, 2, 2, 2]))
    assert len(five) == 2
    assert len({patient_of(s) for s in five}) == 1
    many = hold_out(patients_with_days([3] * 85))
    assert len({patient_of(s) for s in many}) == 9
    assert len(many) == 27


@given(days=cohorts, fraction=st.floats(0.01, 0.6), seed=st.integers(0, 5))
def test_a_fraction_holds_out_whole_patients(days, fraction, seed):
    scans = patients_with_days(days)
    wanted = max(1, math.floor(fraction * len(days) + 0.5))
    if wanted >= len(days):
        with pytest.raises(InputError, match="none to train on"):
            hold_out(scans, rule=fraction, seed=seed)
        return
    held = hold_out(scans, rule=fraction, seed=seed)
    assert len({patient_of(s) for s in held}) == wanted
    assert not shared_patients(held, set(scans) - set(held))
    assert held == hold_out(list(reversed(scans)), rule=fraction, seed=seed)


def test_zero_holds_out_nothing_and_nonsense_is_refused():
    scans = patients_with_days([1] * 20)
    assert hold_out(scans, rule=0) == ()
    for rule in (-0.1, 1.0, 5.0, float("nan")):
        with pytest.raises(InputError, match="fraction"):
            hold_out(scans, rule=rule)


@pytest.mark.parametrize("patients", [2, 9, 10, 11, 85])
def test_mle_bench_is_what_scikit_learn_and_the_days_rule_give(patients):
    rng = np.random.default_rng(patients)
    scans = patients_with_days(rng.integers(1, 7, patients))
    order = list(dict.fromkeys(patient_of(s) for s in scans))
    rng.shuffle(order)
    _, test = train_test_split(order, test_size=0.1, random_state=42)
    expected = set()
    for scan_id in scans:
        patient, day = scan_id.split("_day")
        days = sorted(int(s.split("_day")[1]) for s in scans if patient_of(s) == patient)
        if patient in test or int(day) in days[4:]:
            expected.add(scan_id)
    held = hold_out(scans, rule="mle-bench", patient_order=order, seed=9)
    assert set(held) == expected
    assert len(held) == len(expected)


def test_mle_bench_counts_days_as_numbers():
    order = [f"case{i}" for i in range(1, 12)]
    scans = [f"case{i}_day0" for i in range(1, 12) if i != 3]
    scans += [f"case3_day{d}" for d in (9, 100, 20, 3, 0, 21)]
    _, test = train_test_split(order, test_size=0.1, random_state=42)
    assert "case3" not in test
    held = hold_out(scans, rule="mle-bench", patient_order=order)
    assert {s for s in held if s.startswith("case3_")} == {"case3_day21", "case3_day100"}


def test_leaks_are_told():
    sound = make_folds(dict.fromkeys(patients_with_days([2, 2, 2]), ""), folds=3)
    assert check_leaks(sound) == []
    leaking = [
        {"train": ["case1_day0", "case2_day0"], "val": ["case1_day3"]},
        {"train": ["case1_day3"], "val": ["case2_day0"]},
    ]
    found = check_leaks(leaking)
    assert any("fold 0: case1 is in training and in validation" in f for f in found)
    assert any("case1_day0 validates in 0 folds" in f for f in found)
    assert len(found) == 2
    assert any("no scan in validation" in f for f in check_leaks([{"train": ["a"], "val": []}]))


def test_default_nnunet_split_would_leak():
    """What the package's split is there for: nnU-Net's own 5 folds mix a patient's days."""
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    scans = patients_with_days([4] * 10)
    theirs = generate_crossval_split(scans, seed=12345, n_splits=5)
    theirs = [{k: [str(s) for s in f[k]] for k in ("train", "val")} for f in theirs]
    assert any("in training and in validation" in f for f in check_leaks(theirs))


def test_mle_bench_shares_patients():
    scans = patients_with_days([6] * 12)
    counts = Counter(patient_of(s) for s in scans)
    held = hold_out(scans, rule="mle-bench")
    shared = shared_patients(held, set(scans) - set(held))
    assert len(shared) == 10
    assert all(counts[p] == 6 for p in shared)
    assert list(shared) == sorted(shared, key=lambda p: int(p[4:]))
