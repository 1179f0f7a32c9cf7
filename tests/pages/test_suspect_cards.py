from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gi2nnunet.pages.check_page import (
    MOST_CARDS_OF_A_KIND,
    Card,
    find_typical,
    plan_cards,
    show_scan,
)
from gi2nnunet.source.check.check import SourceReport, check_source
from gi2nnunet.source.check.fit import Placement
from gi2nnunet.source.check.suspects import Suspect
from tests.faulty_source import Faults


@pytest.fixture(scope="module")
def found(faults: Faults) -> SourceReport:
    return check_source(faults.source)


def card_of(cards: tuple[Card, ...], scan_id: str) -> Card:
    return next(card for card in cards if card.scan_id == scan_id)


def make_suspect(**changes: object) -> Suspect:
    suspect = Suspect(
        kind="mask jump", scan_id="case1_day1", slice_number=5, organ="stomach", measured="m",
        usual="u", remedy="r",
    )  # fmt: skip
    return replace(suspect, **changes)  # type: ignore[arg-type]


def test_every_suspect_is_on_one_card(found: SourceReport) -> None:
    cards = plan_cards(found)
    assert sorted(map(str, (s for card in cards for s in card.suspects))) == sorted(
        map(str, found.suspects)
    )
    assert len({card.anchor for card in cards}) == len(cards)


def test_a_jump_is_shown_between_its_neighbours(found: SourceReport, faults: Faults) -> None:
    middle = faults.middle[faults.jumped]
    card = card_of(plan_cards(found), faults.jumped)
    assert card.where == f"slice {middle}"
    frames = card.strips[0].frames
    assert [frame.view.slices for frame in frames] == [(middle - 2,), (middle - 1,), (middle,)]
    assert [frame.marked for frame in frames] == [False, True, False]
    assert {frame.view.organ for frame in frames} == {"stomach"}
    assert all("pixels" in frame.caption for frame in frames)


def test_exchanged_slices_are_shown_with_both_neighbours(
    found: SourceReport, faults: Faults
) -> None:
    card = card_of(plan_cards(found), faults.swapped)
    assert card.where == "slices 11 and 12"
    *axial, joints = card.strips[0].frames
    assert [frame.view.slices for frame in axial] == [(9,), (10,), (11,), (12,)]
    assert [frame.marked for frame in axial] == [False, True, True, False]
    assert joints.view.plane == "joints"
    assert joints.view.slices == (10, 11)


def test_a_missing_organ_is_looked_for_where_others_have_it(
    found: SourceReport, faults: Faults
) -> None:
    card = card_of(plan_cards(found), faults.gone)
    usual = np.nanmedian([masks.centre[1, 0] for masks in found.masks]) * 23
    levels = [f.view.slices[0] for f in card.strips[0].frames if f.view.plane == "axial"]
    assert min(levels) <= usual <= max(levels)
    assert len(levels) == 3
    assert "for comparison" in card.strips[0].frames[-1].caption


def test_an_odd_day_is_shown_beside_the_patients_other_days(found: SourceReport) -> None:
    patient = max(
        (scan.patient_id for scan in found.scans),
        key=lambda name: sum(scan.patient_id == name for scan in found.scans),
    )
    days = [scan.scan_id for scan in found.scans if scan.patient_id == patient]
    suspect = make_suspect(kind="day", scan_id=days[1], slice_number=None, organ=None)
    (card,) = plan_cards(replace(found, suspects=(suspect,)))
    for strip in card.strips:
        assert [frame.marked for frame in strip.frames] == [True] + [False] * (len(days) - 1)
        assert strip.frames[0].view.scan_id == days[1]
        assert {frame.view.scan_id for frame in strip.frames} == set(days)


def test_the_ends_of_a_scan_have_one_neighbour(found: SourceReport) -> None:
    scan = found.scans[0]
    ends = tuple(make_suspect(scan_id=scan.scan_id, slice_number=n) for n in (1, 24))
    first, last = plan_cards(replace(found, suspects=ends))
    assert [f.view.slices for f in first.strips[0].frames] == [(0,), (1,)]
    assert [f.view.slices for f in last.strips[0].frames] == [(22,), (23,)]


def test_slices_that_follow_each_other_share_a_card_but_not_too_many(found: SourceReport) -> None:
    name = found.scans[0].scan_id
    suspects = tuple(make_suspect(scan_id=name, slice_number=n) for n in (3, 4, 6, *range(9, 17)))
    cards = plan_cards(replace(found, suspects=suspects))
    assert [[s.slice_number for s in card.suspects] for card in cards] == [
        [3, 4], [6], [9, 10, 11, 12, 13, 14], [15, 16],
    ]  # fmt: skip


def test_pictures_are_bounded_unless_all_are_wanted(found: SourceReport) -> None:
    suspects = tuple(
        make_suspect(scan_id=scan.scan_id, slice_number=n)
        for scan in found.scans[:3]
        for n in range(2, 20, 2)
    )
    many = replace(found, suspects=suspects)
    cards = plan_cards(many)
    assert sum(bool(card.strips) for card in cards) == MOST_CARDS_OF_A_KIND < len(cards) == 27
    assert all(card.strips for card in plan_cards(many, show_all=True))


def test_a_typical_scan_is_none_that_is_suspect(found: SourceReport, faults: Faults) -> None:
    typical = find_typical(found)
    assert set(typical) == {(shape, spacing) for shape, spacing, _ in found.count_geometries()}
    assert not set(typical.values()) & faults.scans
    alone = replace(found, scans=found.scans[:1])
    assert set(find_typical(alone).values()) == {faults.swapped}  # there is no other


def test_a_scan_without_masks_is_shown_over_its_whole_height(found: SourceReport) -> None:
    bare = replace(found.scans[0], masks=None)
    *axial, front = show_scan(bare).frames
    assert [frame.view.slices[0] for frame in axial] == [2, 7, 12, 16, 21]
    assert front.view.plane == "coronal"
    one = replace(bare, shape=(1, 64, 64))
    assert [frame.view.slices for frame in show_scan(one).frames] == [(0,), ()]


def test_masks_that_would_fit_elsewhere_are_shown_there_too(found: SourceReport) -> None:
    scan = found.scans[0]
    placement = Placement(slices=-2, columns=3)
    suspect = make_suspect(
        kind="masks moved", scan_id=scan.scan_id, slice_number=None, organ=None,
        placement=placement,
    )  # fmt: skip
    (card,) = plan_cards(replace(found, suspects=(suspect,)))
    here, there = card.strips
    assert [f.view.slices for f in here.frames] == [f.view.slices for f in there.frames]
    assert {f.view.placement for f in here.frames} == {None}
    assert {f.view.placement for f in there.frames} == {placement}
    assert "2 slices to cranial and 18 mm to the patient's left" in there.title


def test_two_scans_that_hold_the_same_are_shown_side_by_side(found: SourceReport) -> None:
    one, other = found.scans[:2]
    whole = make_suspect(
        kind="copied images", scan_id=one.scan_id, slice_number=None, organ=None,
        other_scan_id=other.scan_id,
    )  # fmt: skip
    part = replace(whole, slice_number=5, last_slice_number=9)
    for suspect in (whole, part):
        (card,) = plan_cards(replace(found, suspects=(suspect,)))
        assert {f.view.scan_id for f in card.strips[-1].frames} == {one.scan_id, other.scan_id}


def test_a_joint_is_shown_from_both_sides_and_cut_through(found: SourceReport) -> None:
    suspect = make_suspect(kind="joint", slice_number=8, last_slice_number=9, organ=None,
                           scan_id=found.scans[0].scan_id)  # fmt: skip
    (card,) = plan_cards(replace(found, suspects=(suspect,)))
    assert card.where == "slices 8 to 9"
    *axial, cut = card.strips[0].frames
    assert [f.view.slices[0] + 1 for f in axial if f.marked] == [8, 9]
    assert (cut.view.plane, cut.view.slices) == ("joints", (7, 8))


def test_the_surest_come_first(found: SourceReport) -> None:
    names = [scan.scan_id for scan in found.scans[:3]]
    suspects = tuple(
        make_suspect(scan_id=name, certainty=certainty)
        for name, certainty in zip(names, ("possible", "certain", "likely"), strict=True)
    )
    cards = plan_cards(replace(found, suspects=suspects))
    assert [card.scan_id for card in cards] == [names[1], names[2], names[0]]
