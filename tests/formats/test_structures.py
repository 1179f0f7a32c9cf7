"""Names of structures: found by usual names or a given one, and what is ambiguous."""

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.structures import (
    SNOMED_CODES,
    STANDARD_NAMES,
    Maker,
    describe_maker,
    match_names,
)


def find(names, given=None):
    return match_names(names, where="plan", given=given)


@pytest.mark.parametrize(
    ("organ", "name"),
    [
        ("stomach", "stomach"),
        ("stomach", "Stomach "),
        ("small_bowel", "Bowel_Small"),
        ("small_bowel", "SmallBowel"),
        ("small_bowel", "small bowel"),
        ("small_bowel", "SMALL-BOWEL"),
        ("large_bowel", "Bowel_Large"),
        ("large_bowel", "colon"),
        ("large_bowel", "large_intestine"),
    ],
)
def test_usual_names_are_known(organ, name):
    found = find(["Liver", name, "Bowel"])
    assert found.of_organ == {organ: 1}
    assert found.unmatched == ("Liver", "Bowel")


def test_each_standard_name_finds_its_own_organ():
    assert set(STANDARD_NAMES) == set(SNOMED_CODES) == set(ORGANS)
    found = find([STANDARD_NAMES[organ] for organ in ORGANS])
    assert found.of_organ == {organ: index for index, organ in enumerate(ORGANS)}


def test_a_given_name_is_used_in_place_of_the_usual_ones():
    names = ["Stomach", "GTV", "stomach_final", "colon"]
    found = find(names, {"stomach": "stomach_final"})
    assert found.of_organ == {"large_bowel": 3, "stomach": 2}
    assert found.unmatched == ("Stomach", "GTV")
    assert find(["A b", "a_B"], {"stomach": "a_B"}).of_organ == {"stomach": 1}
    assert find(["A b", "c"], {"stomach": "a_B"}).of_organ == {"stomach": 0}


def test_a_structure_that_is_given_is_no_other_organs():
    assert find(["colon"], {"stomach": "colon"}).of_organ == {"stomach": 0}
    with pytest.raises(InputError, match="expected one with the name 'x' for small_bowel"):
        find(["x"], {"large_bowel": "x", "small_bowel": "x"})


def test_a_code_counts_where_no_name_does():
    names, codes = ["Segment 1", "Segment 2", "stomach"], ["71854001", "69695003", ""]
    found = match_names(names, where="seg", codes=codes)
    assert found.of_organ == {"large_bowel": 0, "stomach": 2}


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (["Liver", "Bowel"], None, "found the structures 'Liver', 'Bowel'; expected a structure"),
        ([], None, "found the structures none"),
        (["colon", "Bowel_Large"], None, "found 2 structures for large_bowel: 'colon' "),
        (["stomach"], {"stomach": "Magen"}, "expected one with the name 'Magen' for stomach"),
        (["x", "x"], {"stomach": "x"}, "found 2 structures for stomach"),
        (["stomach"], {"liver": "Liver"}, "for the organ liver; expected one of large_bowel"),
    ],
)
def test_what_is_ambiguous_is_refused(names, given, message):
    with pytest.raises(InputError, match=message):
        find(names, given)


def test_a_name_in_the_remedy_works():
    with pytest.raises(InputError, match=r"--roi organ=NAME"):
        find(["colon", "Bowel_Large"])
    assert find(["colon", "Bowel_Large"], {"large_bowel": "colon"}).of_organ == {"large_bowel": 0}


def test_the_maker_is_described():
    assert "the model 2d, digest abc" in describe_maker(Maker(model="2d", model_digest="abc"))
    assert "model" not in describe_maker(Maker())
