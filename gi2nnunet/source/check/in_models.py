"""Suspects by models: truth against predictions of models that did not see the patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import count
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.in_slices import LEAST_PIXELS, find_runs
from gi2nnunet.source.check.suspects import (
    LEAST_SCANS,
    Suspect,
    Tested,
    measure_spread,
    rate_certainty,
)

IntArray = NDArray[np.int64]

MOST_Z_OF_SCAN = 3.5
"""Robust z-scores of a scan's disagreement above this are suspects."""
MOST_Z_OF_SLICE = 8.0
# Disagreements below these are no suspects however small the spread: Dice of a scan, and pixels of
# a slice as a share of the organ's median area.
_LEAST_LOSS = 0.1
_LEAST_SHARE = 0.5
_LEAST_SPREAD = 0.02
_LEAST_SPREAD_OF_SLICE = 0.05


@dataclass(frozen=True, kw_only=True)
class ScanAgreement:
    """Truth and prediction of one scan, counted.

    Attributes
    ----------
    first_number
        Number of the first slice.
    truth, predicted, shared
        ``(organs, z)``: pixels of the truth, of the prediction, and of both.
    """

    scan_id: str
    first_number: int
    truth: IntArray
    predicted: IntArray
    shared: IntArray

    @property
    def dice(self) -> NDArray[np.float64]:
        """Return ``(organs,)`` the Dice coefficient in the scan; NaN if both are empty."""
        both = (self.truth + self.predicted).sum(axis=1)
        found = np.full(len(both), np.nan)
        found[both > 0] = 2 * self.shared.sum(axis=1)[both > 0] / both[both > 0]
        return found

    @property
    def different(self) -> IntArray:
        """Return ``(organs, z)`` the pixels that are in one of the two."""
        return self.truth + self.predicted - 2 * self.shared


def find_disagreements(agreements: Sequence[ScanAgreement]) -> tuple[Suspect, ...]:
    """Return scans, and stretches of slices, in which truth and prediction disagree most.

    Fewer than :data:`~gi2nnunet.source.check.suspects.LEAST_SCANS` predicted scans have no usual
    agreement: none is returned.
    """
    if len(agreements) < LEAST_SCANS:
        return ()
    return tuple(
        suspect
        for organ in range(len(ORGANS))
        for found in (_find_scans(agreements, organ), _find_slices(agreements, organ))
        for suspect in found
    )


def describe_tested(predicted: int, labelled: int) -> Tested:
    """Return what :func:`find_disagreements` tests with so many predicted scans."""
    note = (
        "" if predicted == labelled else f"no prediction of {count(labelled - predicted, 'scan')}"
    )
    if predicted < LEAST_SCANS:
        note = f"needs {LEAST_SCANS} predicted scans and has {predicted}"
    return Tested(
        what="truth against models that did not see the patient", kinds=("model",),
        scans=predicted if predicted >= LEAST_SCANS else 0, note=note,
    )  # fmt: skip


def _find_scans(agreements: Sequence[ScanAgreement], organ: int) -> Iterator[Suspect]:
    losses = np.array([1 - agreement.dice[organ] for agreement in agreements])
    known = losses[np.isfinite(losses)]
    if len(known) < LEAST_SCANS:
        return
    usual, spread = float(np.median(known)), max(measure_spread(known), _LEAST_SPREAD)
    for agreement, loss in zip(agreements, losses.tolist(), strict=True):
        z = (loss - usual) / spread
        if z > MOST_Z_OF_SCAN and loss - usual > _LEAST_LOSS:
            yield Suspect(
                kind="model", scan_id=agreement.scan_id, organ=ORGANS[organ],
                measured=f"Dice {1 - loss:.2f} of truth and prediction (robust z {-z:+.1f})",
                usual=f"Dice {1 - usual:.2f}",
                remedy="Look at the truth; correct its rows, or leave the scan out. It can be the "
                "models that are wrong.",
                certainty=rate_certainty(z / MOST_Z_OF_SCAN),
            )  # fmt: skip


def _find_slices(agreements: Sequence[ScanAgreement], organ: int) -> Iterator[Suspect]:
    truth, predicted = (
        np.concatenate([counts[organ] for counts in of_scans])
        for of_scans in ([a.truth for a in agreements], [a.predicted for a in agreements])
    )
    if not truth.any():
        return
    area = float(np.median(truth[truth > 0]))
    shares = [agreement.different[organ] / area for agreement in agreements]
    some = np.concatenate(shares)[truth + predicted > 0]
    usual = float(np.median(some))
    spread = max(measure_spread(some), _LEAST_SPREAD_OF_SLICE)
    for agreement, share in zip(agreements, shares, strict=True):
        z = (share - usual) / spread
        odd = (z > MOST_Z_OF_SLICE) & (share > _LEAST_SHARE) & (share * area >= LEAST_PIXELS)
        for first, last in find_runs(odd):
            worst = first + int(share[first : last + 1].argmax())
            counts = (agreement.truth[organ, worst], agreement.predicted[organ, worst])
            yield Suspect(
                kind="model", scan_id=agreement.scan_id,
                slice_number=agreement.first_number + first,
                last_slice_number=agreement.first_number + last, organ=ORGANS[organ],
                measured=f"slice {agreement.first_number + worst}: truth {counts[0]} pixels, "
                f"predicted {counts[1]}, {int(agreement.shared[organ, worst])} in both",
                usual=f"{usual * area:.0f} pixels in one of the two",
                remedy="Look at the truth of these slices; correct its rows. It can be the models "
                "that are wrong.",
                certainty=rate_certainty(float(z[worst]) / MOST_Z_OF_SLICE),
            )  # fmt: skip
