from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from gi2nnunet.source.check.in_models import ScanAgreement, describe_tested, find_disagreements


def make_agreement(index: int) -> ScanAgreement:
    """A scan whose prediction has nine of ten pixels right, give or take one."""
    rng = np.random.default_rng(index)
    truth = np.zeros((3, 30), np.int64)
    truth[:, 5:25] = rng.integers(150, 250, (3, 20))
    shared = (truth * rng.uniform(0.86, 0.94, truth.shape)).astype(np.int64)
    return ScanAgreement(
        scan_id=f"case{index}_day0", first_number=1, truth=truth,
        predicted=shared + (truth * 0.1).astype(np.int64), shared=shared,
    )  # fmt: skip


@pytest.fixture
def agreements() -> list[ScanAgreement]:
    return [make_agreement(index) for index in range(20)]


def test_scans_that_agree_as_usual_are_no_suspects(agreements: list[ScanAgreement]) -> None:
    assert find_disagreements(agreements) == ()
    assert agreements[0].dice == pytest.approx([0.9] * 3, abs=0.02)


def test_a_scan_that_agrees_far_less_is_one(agreements: list[ScanAgreement]) -> None:
    agreements[4] = replace(agreements[4], shared=agreements[4].shared // 2)
    found = find_disagreements(agreements)
    assert {s.scan_id for s in found} == {"case4_day0"}
    scans = [s for s in found if s.slice_number is None]
    assert [s.organ for s in scans] == ["large_bowel", "small_bowel", "stomach"]
    assert all("Dice 0.4" in s.measured and "Dice 0.9" in s.usual for s in scans)
    assert {s.certainty for s in scans} == {"certain"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: replace(a, truth=empty(a.truth), shared=empty(a.shared)), "truth 0 pixels"),
        (lambda a: replace(a, predicted=empty(a.predicted), shared=empty(a.shared)), "predicted 0"),
    ],
)
def test_slices_without_truth_or_without_prediction_are_found(
    agreements: list[ScanAgreement], change: Callable[[ScanAgreement], ScanAgreement], told: str
) -> None:
    agreements[7] = change(agreements[7])
    (suspect,) = find_disagreements(agreements)
    assert (suspect.scan_id, suspect.organ) == ("case7_day0", "small_bowel")
    assert (suspect.slice_number, suspect.last_slice_number) == (11, 13)
    assert told in suspect.measured


def empty(pixels: np.ndarray) -> np.ndarray:
    """Without small bowel in slices 11 to 13."""
    pixels = pixels.copy()
    pixels[1, 10:13] = 0
    return pixels


def test_few_predictions_are_not_tested(agreements: list[ScanAgreement]) -> None:
    agreements[0] = replace(agreements[0], shared=agreements[0].shared * 0)
    assert find_disagreements(agreements[:5]) == ()
    assert describe_tested(5, 20).scans == 0
    assert describe_tested(5, 20).note == "needs 12 predicted scans and has 5"
    assert describe_tested(18, 20).note == "no prediction of 2 scans"
    assert (describe_tested(20, 20).scans, describe_tested(20, 20).note) == (20, "")


def test_an_organ_in_no_scan_has_no_agreement(agreements: list[ScanAgreement]) -> None:
    none = [
        replace(a, **{name: getattr(a, name) * [[1], [0], [1]] for name in
                      ("truth", "predicted", "shared")})
        for a in agreements
    ]  # fmt: skip
    assert find_disagreements(none) == ()
    assert np.isnan(none[0].dice[1])
