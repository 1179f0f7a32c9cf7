from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet.source.check.check import check_source, find_suspects
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import MEANINGS
from tests.faulty_source import Faults


@pytest.fixture(scope="module")
def measured(clean_scans: tuple[ScanMeasures, ...]) -> tuple[ScanMeasures, ...]:
    return clean_scans


def test_nothing_is_suspect_in_a_clean_phantom(clean_phantom: Path) -> None:
    assert check_source(clean_phantom).suspects == ()


def test_planted_faults_are_found_where_they_are_and_nowhere_else(faults: Faults) -> None:
    suspects = check_source(faults.source).suspects
    found = {(s.kind, s.scan_id, s.slice_number, s.organ) for s in suspects}
    assert found >= {
        ("slice order", faults.swapped, 11, None),
        ("slice order", faults.foreign, 13, None),
        ("mask jump", faults.jumped, faults.middle[faults.jumped], "stomach"),
        ("masks moved", faults.displaced, None, "large_bowel"),
        ("volume", faults.shrunken, None, "stomach"),
        ("missing organ", faults.gone, None, "small_bowel"),
    }
    assert {scan for _, scan, _, _ in found} <= faults.scans
    assert len(found) <= 9
    exchanged = {s.slice_number: s.exchanged_with for s in suspects if s.kind == "slice order"}
    assert exchanged == {11: 12, 13: None}
    assert {suspect.kind for suspect in suspects} <= set(MEANINGS)


def test_a_day_whose_organs_lie_elsewhere_is_found(measured: tuple[ScanMeasures, ...]) -> None:
    index = next(
        i for i, scan in enumerate(measured)
        if sum(other.patient_id == scan.patient_id for other in measured) >= 3
    )  # fmt: skip
    odd = measured[index]
    assert odd.masks is not None
    moved = replace(odd.masks, centre=odd.masks.centre + np.array([0, 25.0, 25.0]))
    scans = [*measured[:index], replace(odd, masks=moved), *measured[index + 1 :]]
    days = [suspect for suspect in find_suspects(scans) if suspect.kind == "day"]
    assert [suspect.scan_id for suspect in days] == [odd.scan_id]
    assert "other days" in days[0].measured


def test_a_patient_of_three_days_has_one_odd_day_not_three(
    measured: tuple[ScanMeasures, ...],
) -> None:
    patient = next(
        scan.patient_id for scan in measured
        if sum(other.patient_id == scan.patient_id for other in measured) >= 3
    )  # fmt: skip
    three = [scan for scan in measured if scan.patient_id == patient][:3]
    rest = [scan for scan in measured if scan.patient_id != patient]
    odd = three[1]
    assert odd.masks is not None
    moved = replace(odd.masks, centre=odd.masks.centre + np.array([0, 90.0, 90.0]))
    days = find_suspects([three[0], replace(odd, masks=moved), three[2], *rest])
    assert [s.scan_id for s in days if s.kind == "day"] == [odd.scan_id]


def test_a_place_is_told_in_words(measured: tuple[ScanMeasures, ...]) -> None:
    odd = measured[0]
    assert odd.masks is not None
    moved = replace(odd.masks, centre=odd.masks.centre + np.array([0.4, -200.0, -200.0]))
    found = find_suspects([replace(odd, masks=moved), *measured[1:]])
    places = [s for s in found if s.kind == "place" and s.organ == "stomach"]
    told = " ".join(s.measured for s in places)
    assert "% of the height from cranial" in told
    assert "mm anterior of the image's middle" in told
    assert "mm right of the image's middle" in told


def test_few_scans_are_held_against_the_competition(measured: tuple[ScanMeasures, ...]) -> None:
    odd = measured[0]
    assert odd.masks is not None
    tiny = replace(odd, masks=replace(odd.masks, volume_ml=odd.masks.volume_ml / 1000))
    few = find_suspects([tiny, *measured[1:5]])
    assert {(s.kind, s.scan_id) for s in few} == {("volume", odd.scan_id)}
    assert all("scans of the competition" in s.usual for s in few)
    many = find_suspects([tiny, *measured[1:]])
    assert {(s.kind, s.scan_id) for s in many} == {("volume", odd.scan_id)}
    assert not any("competition" in s.usual for s in many)


def test_one_slice_and_no_scan_give_no_suspect(measured: tuple[ScanMeasures, ...]) -> None:
    assert find_suspects(()) == ()
    nothing = np.full(1, np.nan)
    short = replace(
        measured[0], shape=(1, 8, 8), masks=None, next_correlation=nothing,
        second_correlation=nothing, next_likeness=nothing, signal=np.ones(1, bool),
        prints=measured[0].prints[:1],
    )  # fmt: skip
    assert find_suspects([short]) == ()
