"""The summary of a score: its standing in words, organs missed, volumes and distances."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.pages.summary import STANDINGS, describe_organ, describe_scan, summarise
from gi2nnunet.pages.template import DASH
from gi2nnunet.prediction.choose import Standing
from gi2nnunet.scoring.medical import OrganMeasures, measure_label_maps, silence_library
from gi2nnunet.scoring.metric import score_label_maps
from gi2nnunet.scoring.result import Score, combine_terms

SPACING = (3.0, 2.0, 2.0)  # 0.012 ml a voxel


def test_every_standing_is_in_words_and_only_scores_of_new_patients_are_no_warning() -> None:
    assert set(STANDINGS) == set(get_args(Standing))
    assert {name for name, (fair, _) in STANDINGS.items() if fair} == {"held-out", "out-of-fold"}


def make_maps() -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction: large bowel in both, small bowel predicted only, stomach missed."""
    truth, pred = np.zeros((2, 6, 10, 10), np.uint8)
    truth[2:4, 2:6, 2:6] |= ORGAN_BITS[0]
    pred[2:4, 2:6, 2:5] |= ORGAN_BITS[0]
    pred[1, 8, 8] |= ORGAN_BITS[1]
    truth[3:5, 0:5, 6:8] |= ORGAN_BITS[2]
    return truth, pred


def score(*, medical: bool = True) -> Score:
    truth, pred = make_maps()
    perfect = truth & np.uint8(ORGAN_BITS[0])
    pairs = {"case1_day0": (pred, truth), "case2_day0": (perfect, perfect)}
    terms = {name: score_label_maps(*pair) for name, pair in pairs.items()}
    with silence_library():
        measures = {
            name: measure_label_maps(*pair, spacing_mm=SPACING) for name, pair in pairs.items()
        }
    return combine_terms(
        terms, metric="per-class", measures=measures if medical else None, tolerance_mm=3.0
    )


def test_an_organ_of_one_mask_only_is_named_and_has_its_volume() -> None:
    worst, perfect = score().per_scan
    large, small, stomach = describe_scan(worst).values()
    assert [large.odd, small.odd, stomach.odd] == ["", "extra", "missed"]
    assert (large.true_ml, large.pred_ml, large.error_ml) == ("0.4", "0.3", "-0.1")
    assert float(large.hd95_mm) == 2.0
    assert small.list_cells() == ["0.0", "0.0", "0.0", "extra", "0.000"]
    assert (stomach.true_ml, stomach.error_ml, stomach.hd95_mm) == ("0.2", "-0.2", "missed")
    same = describe_scan(perfect)
    assert same[ORGANS[0]].list_cells() == ["0.4", "0.4", "0.0", "0.0", "1.000"]
    assert same[ORGANS[2]].odd == ""
    assert same[ORGANS[2]].hd95_mm == DASH  # in neither mask


def test_the_summary_lists_missed_and_extra_organs_of_all_scans() -> None:
    found = score()
    summary = summarise(found, found.per_scan, standing="held-out")
    assert summary.fair
    assert summary.measured
    assert (summary.n_scans, summary.n_patients) == (2, 2)
    assert [(one.scan_id, one.organ, one.volume_ml) for one in summary.missed] == [
        ("case1_day0", "stomach", "0.2")
    ]
    assert [one.organ for one in summary.extra] == ["small bowel"]
    assert summary.worst is found.per_scan[0]


@pytest.mark.parametrize("standing", ["in-sample", "something new"])
def test_a_score_without_measures_has_dashes_and_a_doubtful_one_is_not_fair(standing: str) -> None:
    found = score(medical=False)
    summary = summarise(found, found.per_scan, standing=standing)
    assert not summary.fair
    assert not summary.measured
    assert [one.organ for one in summary.missed] == ["stomach"]
    facts = describe_scan(found.per_scan[0])
    assert set(facts[ORGANS[0]].list_cells()) == {DASH}
    assert facts[ORGANS[2]].list_cells() == [DASH, DASH, DASH, "missed", DASH]


def test_equal_volumes_look_equal_and_halves_are_rounded_up() -> None:
    voxel_ml = 3 * 1.5 * 1.5 / 1000
    for n, n_true, text in ((200, 4, "1.4"), (600, 5, "4.1"), (1400, 2, "9.5")):
        whole = OrganMeasures(
            surface_dice=1.0, hd95_mm=0.0, volume_error_ml=0.0, volume_true_ml=n * voxel_ml
        )
        grown = replace(
            whole, volume_true_ml=n_true * voxel_ml, volume_error_ml=(n - n_true) * voxel_ml
        )
        assert whole.volume_true_ml == pytest.approx(float(text) - 0.05)
        assert describe_organ("", whole).true_ml == describe_organ("", grown).pred_ml == text
    lost = replace(whole, volume_error_ml=-0.25)
    assert describe_organ("", lost).error_ml == "-0.3"


def test_a_tiny_error_has_no_sign() -> None:
    for error in (-0.04, 0.0, 0.04):
        measures = OrganMeasures(
            surface_dice=1.0, hd95_mm=math.nan, volume_error_ml=error, volume_true_ml=9.0
        )
        assert describe_organ("", measures).error_ml == "0.0"
