"""Faults of every kind in one scan of a clean phantom: found there, by their right name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from gi2nnunet.formats.ids import patient_of
from gi2nnunet.source.check.check import find_suspects, list_tested
from gi2nnunet.source.check.measures import ScanMeasures, measure_scan
from gi2nnunet.source.check.suspects import MEANINGS
from gi2nnunet.source.open import open_source
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from gi2nnunet.source.scan import LoadedScan
from tests.planted_faults import FAULTS, Fault, Scan


def measure(scan_id: str, scan: Scan) -> ScanMeasures:
    loaded = LoadedScan(
        image=scan.image, label_map=scan.labels, spacing_mm=scan.spacing_mm, first_number=1
    )
    return measure_scan(loaded, scan_id=scan_id, part="train")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Scan]:
    """Scans of eight patients in which organs are large enough to be seen in most slices."""
    source = tmp_path_factory.mktemp("find") / "source"
    geometry = Geometry(width=96, height=96, slices=40, spacing_mm=(3, 3))
    write_phantom(source, patients=8, days=4, geometries=[geometry], seed=41, jobs=2)
    loaded = {scan_id: scan.load() for scan_id, scan in open_source(source).scans.items()}
    return {
        scan_id: Scan(image=scan.image, labels=scan.label_map, spacing_mm=scan.spacing_mm)
        for scan_id, scan in loaded.items()
        if scan.label_map is not None
    }


@pytest.fixture(scope="module")
def clean(scans: Mapping[str, Scan]) -> Mapping[str, ScanMeasures]:
    return {scan_id: measure(scan_id, scan) for scan_id, scan in scans.items()}


def test_nothing_is_suspect_without_a_fault(clean: Mapping[str, ScanMeasures]) -> None:
    assert find_suspects(list(clean.values())) == ()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_and_named(
    fault: Fault, scans: Mapping[str, Scan], clean: Mapping[str, ScanMeasures]
) -> None:
    """In two of three scans at least: two slices that hardly differ can change places unseen."""
    rng = np.random.default_rng(FAULTS.index(fault))
    named = 0
    for scan_id in rng.permutation(list(scans))[:3].tolist():
        donor_id = str(rng.choice([s for s in scans if patient_of(s) != patient_of(scan_id)]))
        measured = dict(clean)
        if fault.donor == "not in the source":
            del measured[donor_id]
        measured[scan_id] = measure(scan_id, fault.plant(scans[scan_id], scans[donor_id], rng))
        suspects = find_suspects(list(measured.values()))
        allowed = {scan_id} | ({donor_id} if fault.donor == "in the source" else set())
        assert {s.scan_id for s in suspects} <= allowed
        named += bool({s.kind for s in suspects if s.scan_id == scan_id} & fault.kinds)
    assert named >= 2


def test_every_kind_has_a_meaning_and_is_planted() -> None:
    planted = set().union(*(fault.kinds for fault in FAULTS))
    assert planted <= set(MEANINGS)
    assert set(MEANINGS) - planted == {"day", "model"}


def test_what_was_tested_depends_on_how_many_scans_there_are(
    clean_scans: tuple[ScanMeasures, ...],
) -> None:
    every = {tested.what: tested for tested in list_tested(clean_scans)}
    assert all(tested.scans and not tested.note for tested in every.values())
    assert set(MEANINGS) - {kind for t in every.values() for kind in t.kinds} == {"model"}
    few = {tested.what: tested for tested in list_tested(clean_scans[:3])}
    assert few["days of a patient"].scans == 0
    assert "needs 8 scans" in few["days of a patient"].note
    assert "has 3" in few["masks against their images"].note
    one = {tested.what: tested for tested in list_tested(clean_scans[:1])}
    assert one["copies among the scans"].note == "needs two scans"
    assert all(tested.scans == 0 for tested in list_tested(()))
