"""What tuning chooses, and that it does not flatter itself."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import join_organs, split_organs
from gi2nnunet.formats.probabilities import TuningScan
from gi2nnunet.nnunet.postprocess import PLAIN, Decision, Tuning, apply_decision
from gi2nnunet.scoring.metric import combine, score_label_maps
from gi2nnunet.tuning.search import (
    FILL_SLICES,
    GATES,
    SMALLEST_ML,
    THRESHOLDS,
    list_blends,
    measure_plain,
    tune_decision,
)

SPACING = (3.0, 1.5, 1.5)
SHAPE = (6, 14, 12)


def make_scan(number, *, fold, best=0.5, noise=0.12, names=("2d",), seed=0, specks=False):
    """Blobs whose probability, less noise, is best cut at ``best``."""
    chance = np.random.default_rng((seed, number))
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    truth, found = [], {name: [] for name in names}
    for _ in ORGANS:
        centre = chance.uniform(0.35, 0.65, 3) * SHAPE
        far = np.sqrt(((z - centre[0]) / 2) ** 2 + ((y - centre[1]) / 4) ** 2
                      + ((x - centre[2]) / 4) ** 2)  # fmt: skip
        mask = far < 1
        truth.append(mask)
        for name in names:
            sure = np.where(mask, best + 0.3 * (1 - far), best - 0.3 * np.minimum(far - 1, 1))
            sure = sure + chance.normal(0, noise, SHAPE) * (0.2 if name == "good" else 1)
            if specks:
                sure[0, 0, 0] = 0.9
            found[name].append(np.clip(sure, 0, 1))
    probabilities = {
        name: np.round(np.stack(parts) * 255).astype(np.uint8) for name, parts in found.items()
    }
    label_map = join_organs(truth)
    return TuningScan(
        scan_id=f"case{number // 2}_day{number % 2}",
        fold=fold,
        load=partial(give, probabilities, label_map),
    )


def give(probabilities, label_map):
    return probabilities, label_map, SPACING


def make_scans(count=16, folds=4, **options):
    return [make_scan(n, fold=(n // 2) % folds, **options) for n in range(count)]


def score_by_metric(scans, decision, metric="per-class"):
    """The score as the metric's own functions have it."""
    dice, distances = [], []
    for scan in scans:
        probabilities, truth, spacing = scan.load()
        floats = {k: v.astype(np.float32) / np.float32(255) for k, v in probabilities.items()}
        terms = score_label_maps(
            apply_decision(floats, decision, spacing_mm=spacing), truth, metric=metric
        )
        dice.append(terms.dice.reshape(-1))
        distances.append(terms.hausdorff.reshape(-1))
    return combine(np.nanmean(np.concatenate(dice)), np.nanmean(np.concatenate(distances)))


@pytest.mark.parametrize("metric", ["per-class", "slice-2d"])
def test_scores_are_those_of_the_metric(metric):
    scans = make_scans(6, folds=3, names=("2d", "3d_fullres"))
    tuning = tune_decision(scans, configurations=("2d", "3d_fullres"), metric=metric, jobs=1)
    assert tuning.gains["all"].plain == pytest.approx(score_by_metric(scans, Decision(), metric))
    assert (tuning.n_scans, tuning.n_patients, tuning.n_folds) == (6, 3, 3)


def test_a_shifted_threshold_is_found_and_its_gain_is_real():
    scans = make_scans(best=0.7)
    tuning = tune_decision(scans, configurations=("2d",), jobs=1)
    assert set(tuning.decision.organs) == set(ORGANS)
    assert all(choice.threshold > 0.6 for choice in tuning.decision.organs.values())
    gain = tuning.gains["all"]
    assert gain.low > 0.02
    fresh = [make_scan(n, fold=0, best=0.7, seed=9) for n in range(12)]
    real = score_by_metric(fresh, tuning.decision) - score_by_metric(fresh, Decision())
    assert real == pytest.approx(gain.gain, abs=0.05)


def test_the_threshold_is_the_best_of_the_grid():
    """A search by hand over the first stage, all else plain."""
    scans = make_scans(8, folds=2, best=0.6, noise=0.05)
    tuning = tune_decision(scans, configurations=("2d",), jobs=1)
    for organ in ORGANS:
        scores = {
            threshold: score_with(scans, organ, replace(PLAIN, threshold=threshold))
            for threshold in THRESHOLDS
        }
        chosen = tuning.found.organs[organ]
        assert chosen.threshold == max(scores, key=scores.get)
        assert score_with(scans, organ, chosen) >= max(scores.values()) - 1e-12


def score_with(scans, organ, choice):
    """The score of all organs where one alone is decided otherwise."""
    return score_by_metric(scans, Decision(organs={organ: choice}))


def score_by_fold(scans, decisions):
    """The score where each scan is decided by its own fold's decision."""
    together = [
        replace(scan, load=partial(give_decided, scan, decisions[scan.fold])) for scan in scans
    ]
    return score_by_metric(together, Decision())


def give_decided(scan, decision):
    """Give masks that are made already as probabilities of 0 and 1."""
    probabilities, truth, spacing = scan.load()
    floats = {k: v.astype(np.float32) / np.float32(255) for k, v in probabilities.items()}
    label_map = apply_decision(floats, decision, spacing_mm=spacing)
    masks = np.stack(split_organs(label_map)).astype(np.uint8) * 255
    return dict.fromkeys(probabilities, masks), truth, spacing


def test_each_fold_is_decided_by_what_was_chosen_without_it():
    """Each fold left out by hand: the choice of the others is what it is measured with."""
    scans = make_scans(best=0.62, noise=0.3, specks=True)
    tuning = tune_decision(scans, configurations=("2d",), jobs=1)
    folds = sorted({scan.fold for scan in scans})
    without = {
        fold: tune_decision([s for s in scans if s.fold != fold], configurations=("2d",), jobs=1)
        for fold in folds
    }
    assert len({without[fold].found.organs["stomach"] for fold in folds}) > 1
    dropped = []
    for organ in ORGANS:
        found = {fold: without[fold].found.organs[organ] for fold in folds}
        gains = {
            kept: score_by_fold(
                scans, {f: Decision(organs={organ: only(found[f], kept)}) for f in folds}
            )
            for kept in every_set(NAMES)
        }
        kept = NAMES
        for name in reversed(NAMES):  # what does not raise the score is left out
            fewer = tuple(other for other in kept if other != name)
            kept = fewer if gains[fewer] >= gains[kept] - 1e-12 else kept
        dropped.append(len(NAMES) - len(kept))
        gain = tuning.gains[organ]
        assert gain.plain == pytest.approx(score_by_metric(scans, Decision()))
        assert gain.tuned == pytest.approx(gains[kept], abs=1e-12)
        made = tuning.decision.organs.get(organ)
        assert made is None or made == only(tuning.found.organs[organ], kept)
    assert max(dropped) > 0
    assert tuning.decision.organs


NAMES = ("weights", "threshold", "gate", "smallest_ml", "fill_slices")


def only(choice, names):
    return replace(PLAIN, **{name: getattr(choice, name) for name in names})


def every_set(names):
    return [some for n in range(len(names) + 1) for some in itertools.combinations(names, n)]


def test_specks_far_away_are_cut_off():
    scans = make_scans(specks=True, noise=0.02)
    tuning = tune_decision(scans, configurations=("2d",), jobs=1)
    assert tuning.gains["all"].low > 0.05
    assert all(
        choice.smallest_ml > 0 or choice.gate > 0 for choice in tuning.decision.organs.values()
    )


def test_the_better_configuration_gets_the_weight():
    scans = make_scans(names=("good", "poor"), noise=0.5)
    tuning = tune_decision(scans, configurations=("good", "poor"), jobs=1)
    for choice in tuning.decision.organs.values():
        assert dict(choice.weights).get("good", 0) >= 0.75


def test_chance_is_not_taken_for_a_gain():
    tunings = [
        tune_decision(make_scans(seed=seed, noise=0.03), configurations=("2d",), jobs=1)
        for seed in range(4)
    ]
    assert sum(len(tuning.decision.organs) for tuning in tunings) <= 2
    # Something always looks better on the very scans that it is chosen on.
    assert any(set(tuning.found.organs.values()) != {PLAIN} for tuning in tunings)


def test_the_gain_that_is_told_is_the_one_on_patients_who_were_not_there():
    """The best cut differs from patient to patient, so there is much to fit and little to gain."""
    told, real = [], []
    for seed in range(4):
        cuts = 0.5 + np.random.default_rng(seed).choice([-0.06, 0.06], 24)
        tuning = tune_decision(cut_scans(cuts[:8], seed=seed), configurations=("2d",), jobs=1)
        fresh = cut_scans(cuts[8:], seed=seed + 100)
        told.append(tuning.gains["all"].gain)
        real.append(score_by_metric(fresh, tuning.decision) - score_by_metric(fresh, Decision()))
    assert np.mean(told) == pytest.approx(np.mean(real), abs=0.02)


def cut_scans(cuts, *, seed):
    """Two scans of each patient, whose best cut is the patient's own."""
    return [
        make_scan(n, fold=(n // 2) % 4, best=cuts[n // 2], seed=seed) for n in range(2 * len(cuts))
    ]


def test_few_patients_are_too_few_to_choose_on():
    scans = make_scans(12, folds=3, best=0.7)
    assert tune_decision(scans, configurations=("2d",), jobs=1).decision.organs == {}
    more = make_scans(2 * Tuning.fewest_patients, folds=3, best=0.7)
    assert set(tune_decision(more, configurations=("2d",), jobs=1).decision.organs) == set(ORGANS)


def test_what_does_not_gain_is_not_made_and_the_whole_says_so():
    tuning = tune_decision(make_scans(noise=0.01), configurations=("2d",), jobs=1)
    assert tuning.decision.organs == {}
    whole = tuning.gains["all"]
    assert (whole.gain, whole.low, whole.high) == (0, 0, 0)
    assert set(tuning.found.organs) == set(ORGANS)


def test_the_same_input_gives_the_same_choice_whatever_the_jobs():
    scans = make_scans(8, folds=2, names=("2d", "3d_fullres"), noise=0.3)
    results = [
        tune_decision(scans, configurations=("2d", "3d_fullres"), jobs=jobs).to_json()
        for jobs in (1, 3, 3)
    ]
    assert results[0] == results[1] == results[2]


def test_scans_without_any_organ_do_not_break_it():
    empty = np.zeros(SHAPE, np.uint8)
    nothing = {"2d": np.zeros((3, *SHAPE), np.uint8)}
    scans = [
        TuningScan(scan_id=f"case{n}_day0", fold=n % 2, load=partial(give, nothing, empty))
        for n in range(4)
    ]
    tuning = tune_decision(scans, configurations=("2d",), jobs=1)
    assert tuning.decision.organs == {}
    assert math.isnan(tuning.gains["all"].plain)
    assert tuning.to_json()["gains"]["all"]["plain"] is None


def test_patients_in_two_folds_and_single_folds_are_refused():
    scans = make_scans(4, folds=2)
    with pytest.raises(ValueError, match="case0 is in two folds"):
        tune_decision([scans[0], replace(scans[1], fold=1)], configurations=("2d",))
    with pytest.raises(ValueError, match="two folds"):
        tune_decision(scans[:2], configurations=("2d",))


def test_grids_begin_with_the_plain_way_and_blends_add_up():
    assert (THRESHOLDS[0], GATES[0], SMALLEST_ML[0], FILL_SLICES[0]) == (0.5, 0.0, 0.0, 0)
    assert list_blends(["2d"]) == [()]
    for names in (["a", "b"], ["a", "b", "c"]):
        blends = list_blends(names)
        assert blends[0] == ()
        assert len(set(blends)) == len(blends)
        for weights in blends[1:]:
            assert sum(weight for _, weight in weights) == pytest.approx(1)
    pairs = {tuple(sorted(dict(w))) for w in list_blends(["a", "b", "c"]) if len(w) == 2}
    assert pairs == set(itertools.combinations("abc", 2))


def test_models_are_measured_side_by_side():
    scans = make_scans(names=("good", "poor"), noise=0.5)
    gains = measure_plain(
        scans, {"poor": (("poor", 1.0),), "good": (("good", 1.0),), "both": ()}, jobs=2
    )
    assert list(gains) == ["good", "both", "poor"]
    assert gains["good"].gain == 0
    assert gains["poor"].high < 0
    assert gains["good"].tuned > gains["both"].tuned > gains["poor"].tuned
    assert gains["both"].tuned == pytest.approx(score_by_metric(scans, Decision()))
