"""From probabilities to masks."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import parse_record
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.nnunet.postprocess import (
    PLAIN,
    Decision,
    OrganDecision,
    OrganRecords,
    apply_decision,
    blend,
    decide_organ,
    read_decision,
)

VOLUMES = arrays(np.float32, (4, 3, 5), elements=st.floats(0, 1, width=32))


@given(VOLUMES, VOLUMES)
def test_the_plain_way_is_the_mean_above_one_half(a, b):
    mask = decide_organ({"2d": a, "3d_fullres": b}, PLAIN, voxel_ml=1)
    assert np.array_equal(mask, a * np.float32(0.5) + b * np.float32(0.5) > 0.5)


def test_weights_pick_and_mix():
    a, b = np.full((1, 1, 1), 0.2, np.float32), np.full((1, 1, 1), 0.6, np.float32)
    both = {"2d": a, "3d_fullres": b}
    assert blend(both, (("3d_fullres", 1.0),))[0, 0, 0] == pytest.approx(0.6)
    assert blend(both, (("2d", 0.25), ("3d_fullres", 0.75)))[0, 0, 0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match="no probabilities of other"):
        blend(both, (("other", 1.0),))


def make_volume(*slices):
    return {"2d": np.array(slices, np.float32)}


def test_a_gate_empties_slices_that_are_nowhere_sure():
    volume = make_volume([[0.6, 0.7]], [[0.6, 0.95]], [[0.1, 0.2]])
    mask = decide_organ(volume, OrganDecision(gate=0.9), voxel_ml=1)
    assert mask.tolist() == [[[False, False]], [[True, True]], [[False, False]]]


def test_small_parts_are_dropped_and_corners_hold_together():
    plane = np.zeros((3, 6, 6), np.float32)
    plane[0, 0, 0] = plane[1, 1, 1] = plane[2, 2, 2] = 1  # a diagonal of three
    plane[0, 5, 5] = 1
    for least, kept in ((1.0, 4), (2.0, 3), (3.0, 3), (3.5, 0)):
        mask = decide_organ({"2d": plane}, OrganDecision(smallest_ml=least), voxel_ml=1)
        assert np.count_nonzero(mask) == kept
    mask = decide_organ({"2d": plane}, OrganDecision(smallest_ml=0.01), voxel_ml=0.005)
    assert np.count_nonzero(mask) == 3  # two voxels or more


def test_gaps_are_filled_with_what_both_sides_share():
    sides = [[1, 1, 0]], [[0, 1, 1]]
    empty = [[0, 0, 0]]
    volume = make_volume(empty, sides[0], empty, sides[1], empty, empty, sides[0])
    filled = decide_organ(volume, OrganDecision(fill_slices=1), voxel_ml=1)
    assert filled[2].tolist() == [[False, True, False]]
    assert not filled[[0, 4, 5]].any()
    filled = decide_organ(volume, OrganDecision(fill_slices=2), voxel_ml=1)
    assert filled[4].tolist() == filled[5].tolist() == [[False, True, False]]


@given(VOLUMES)
def test_eight_bits_decide_as_their_own_values(volume):
    bits = np.round(volume * 255).astype(np.uint8)
    choice = OrganDecision(threshold=0.35, gate=0.7, smallest_ml=2, fill_slices=1)
    a = decide_organ({"2d": bits}, choice, voxel_ml=1, scale=255)
    b = decide_organ({"2d": (bits / np.float32(255)).astype(np.float32)}, choice, voxel_ml=1)
    border = np.isclose(bits / 255, 0.35, atol=1e-6).any() or np.isclose(bits / 255, 0.7).any()
    assert border or np.array_equal(a, b)


def test_organs_are_decided_each_by_its_own():
    probabilities = {"2d": np.full((3, 1, 1, 1), 0.55, np.float32)}
    decision = Decision(organs={"stomach": OrganDecision(threshold=0.6)})
    found = apply_decision(probabilities, decision, spacing_mm=(3, 1.5, 1.5))
    assert split_organs(found).reshape(3).tolist() == [True, True, False]


DECISION = Decision(
    organs={
        "stomach": OrganDecision(
            weights=(("2d", 0.25), ("3d_fullres", 0.75)), threshold=0.4, gate=0.8,
            smallest_ml=0.3, fill_slices=2,
        ),
        "large_bowel": PLAIN,
    }
)  # fmt: skip


def test_json_gives_it_back():
    text = json.dumps(DECISION.to_json())
    assert read_decision(parse_record(text, OrganRecords, where="", remedy="")) == DECISION
    assert read_decision({}) == Decision()


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 2}, {"threshold": "x"}, {"threshold": True}, {"gate": None},
        {"weights": {"2d": 0.3}}, {"weights": []}, {"smallest_ml": -1}, {"fill_slices": "2"},
        {"threshold": float("nan")},
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(change):
    content = DECISION.to_json()
    content["stomach"] |= change
    for other in (content, [], {"liver": DECISION.to_json()["stomach"]}, {"stomach": 3}):
        with pytest.raises(InputError, match=r"file: .*found .*; expected .*\nMend it\."):
            parse_record(json.dumps(other), OrganRecords, where="file", remedy="Mend it.")
