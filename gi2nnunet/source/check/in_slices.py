"""Suspects among the slices of one scan: each slice against the slices around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.fit import FloatArray
from gi2nnunet.source.check.measures import MaskMeasures, ScanMeasures
from gi2nnunet.source.check.suspects import Suspect, rate_certainty

# A slice is out of line if its two neighbours agree with each other so much better than either
# does with it.
LEAST_IOU_GAIN = 0.2
LEAST_PIXELS = 30
LEAST_CORRELATION_GAIN = 0.02
# A joint is so many times as unlike as the joints around it, and unlike by so much.
LEAST_JOINT = 5.0
LEAST_UNLIKENESS = 0.05
_AROUND = 6
# A gap in an organ of at least this share of its median area on both sides.
_LEAST_GAP = 2
_LEAST_AREA = 0.2
# Slices with at least this share of the outlines do not fit if their contrast is less than that
# share of what the others have.
LEAST_MISFIT_SLICES = 4
LEAST_MISFIT = 0.2
MOST_SHARE = 0.35


def find_in_images(scan: ScanMeasures) -> Iterator[Suspect]:
    """Yield what is unusual in a scan's images by themselves."""
    yield from _find_no_signal(scan)
    order = list(_find_exchanged(scan))
    swapped = {n + ahead for s in order if (n := s.slice_number) for ahead in (-1, 0, 1, 2)}
    order += [s for s in _find_foreign(scan) if s.slice_number not in swapped]
    yield from order
    yield from _find_repeated(scan)
    taken = {n for s in order for n in (s.slice_number, s.exchanged_with) if n is not None}
    yield from _find_joints(scan, taken)


def find_in_masks(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    """Yield what is unusual in a scan's masks, slice by slice."""
    yield from _find_jumps(scan, masks)
    yield from _find_gaps(scan, masks)
    yield from _find_misfits(scan, masks)


def find_runs(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last position of each unbroken run of true values."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]


def find_median(values: FloatArray) -> float:
    """Return the median of the finite values; NaN without one."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _find_no_signal(scan: ScanMeasures) -> Iterator[Suspect]:
    depth = len(scan.signal)
    for first, last in find_runs(~scan.signal):
        number, whole = last - first + 1, last - first + 1 == depth
        yield Suspect(
            kind="no signal", scan_id=scan.scan_id,
            slice_number=None if whole else scan.first_number + first,
            last_slice_number=None if whole else scan.first_number + last,
            measured=f"one value in {'every slice' if whole else f'{number} of {depth} slices'}",
            usual="many values in every slice",
            remedy="Get the image again, or leave the scan out.", certainty="certain",
        )  # fmt: skip


def _find_repeated(scan: ScanMeasures) -> Iterator[Suspect]:
    same = scan.signal.copy()
    same[-1:] = False
    same[:-1] &= (scan.prints[:-1] == scan.prints[1:]) & (scan.next_correlation[:-1] > 0.9999)
    for first, last in find_runs(same):
        yield Suspect(
            kind="repeated slices", scan_id=scan.scan_id, slice_number=scan.first_number + first,
            last_slice_number=scan.first_number + last + 1,
            measured=f"{last - first + 2} slices with the same image",
            usual="no two slices with the same image",
            remedy="Get these slices again, or leave the scan out.", certainty="certain",
        )  # fmt: skip


def _find_joints(scan: ScanMeasures, taken: set[int]) -> Iterator[Suspect]:
    away = 1 - scan.next_likeness[:-1]
    if np.isfinite(away).sum() < _AROUND:
        return
    usual = find_median(scan.next_correlation)
    for z in np.flatnonzero(away > LEAST_UNLIKENESS).tolist():
        around = np.delete(away[max(0, z - _AROUND) : z + _AROUND + 1], min(z, _AROUND))
        times = away[z] / max(find_median(around), 1e-4)
        number = scan.first_number + z
        if times < LEAST_JOINT or {number - 1, number, number + 1, number + 2} & taken:
            continue
        yield Suspect(
            kind="joint", scan_id=scan.scan_id, slice_number=number, last_slice_number=number + 1,
            measured=f"likeness {1 - away[z]:.3f} of slices {number} and {number + 1}",
            usual=f"likeness {usual:.3f} of neighbours in this scan",
            remedy="Look at both sides of the joint; put the right slices there, or leave the scan "
            "out.",
            certainty=rate_certainty(times / LEAST_JOINT),
        )  # fmt: skip


def _find_gaps(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    for index, organ in enumerate(ORGANS):
        pixels = masks.pixels[index]
        filled = np.flatnonzero(pixels)
        if not len(filled):
            continue
        usual = float(np.median(pixels[filled]))
        for first, last in find_runs(pixels == 0):
            if first <= filled[0] or last >= filled[-1] or last - first + 1 < _LEAST_GAP:
                continue
            beside = int(min(pixels[first - 1], pixels[last + 1]))
            least = max(LEAST_PIXELS, _LEAST_AREA * usual)
            if beside < least:
                continue
            yield Suspect(
                kind="gap", scan_id=scan.scan_id, organ=organ,
                slice_number=scan.first_number + first, last_slice_number=scan.first_number + last,
                measured=f"no mask in {last - first + 1} slices, {beside} pixels or more beside "
                "them",
                usual="an organ without gaps",
                remedy="Look at these slices; draw the organ, or leave the scan out.",
                certainty=rate_certainty(beside / least),
            )  # fmt: skip


def _find_misfits(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    """Find stretches of slices without contrast at the outlines, while the others have some."""
    whole = masks.fit.whole
    points, contrast = masks.fit.points.sum(axis=0), masks.fit.contrast
    sign = np.sign(contrast.sum(axis=1, keepdims=True))
    sums = (contrast * sign).sum(axis=0)
    if np.count_nonzero(points) < LEAST_MISFIT_SLICES or whole <= 0:
        return
    # The mean over three slices: one slice has few points.
    near = np.ones(3)
    smooth = np.convolve(sums, near, "same") / np.maximum(np.convolve(points, near, "same"), 1)
    filled = points > 0
    usual = float(np.percentile(smooth[filled], 75))
    low = filled & (smooth < MOST_SHARE * usual)
    for first, last in find_runs(low):
        share = points[first : last + 1].sum() / points.sum()
        if last - first + 1 < LEAST_MISFIT_SLICES or not LEAST_MISFIT <= share <= 1 - LEAST_MISFIT:
            continue
        here = float(sums[first : last + 1].sum() / points[first : last + 1].sum())
        if here > MOST_SHARE * usual:
            continue
        yield Suspect(
            kind="masks do not fit", scan_id=scan.scan_id,
            slice_number=scan.first_number + first, last_slice_number=scan.first_number + last,
            measured=f"contrast {here:.2f} across the outlines",
            usual=f"contrast {usual:.2f} in the rest of this scan",
            remedy="Look whether image and masks of these slices belong together.",
            certainty=rate_certainty((MOST_SHARE * usual / max(here, 0.01)) ** 0.5),
        )  # fmt: skip


def _find_out_of_line(
    following: FloatArray, second: FloatArray, *, least: float
) -> Iterator[tuple[int, float, float]]:
    """Yield ``(z, likeness to its better neighbour, likeness of the neighbours)``, both sides."""
    if len(following) < 3:
        return
    before, after, across = following[:-2], following[1:-1], second[:-2]
    better = np.fmax(np.nan_to_num(before), np.nan_to_num(after))
    for index in np.flatnonzero(across - better > least).tolist():
        yield index + 1, float(better[index]), float(across[index])


def _find_jumps(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    for index, organ in enumerate(ORGANS):
        usual = find_median(masks.next_iou[index])
        for z, measured, across in _find_out_of_line(
            masks.next_iou[index], masks.second_iou[index], least=LEAST_IOU_GAIN
        ):
            if min(masks.pixels[index, z - 1], masks.pixels[index, z + 1]) < LEAST_PIXELS:
                continue
            yield Suspect(
                kind="mask jump", scan_id=scan.scan_id, slice_number=scan.first_number + z,
                organ=organ,
                measured=f"IoU {measured:.2f} with its neighbours, which have {across:.2f}",
                usual=f"IoU {usual:.2f} of neighbours in this scan",
                remedy="Look at the three slices; correct the row, or leave the scan out.",
                certainty=rate_certainty((across - measured) / LEAST_IOU_GAIN),
            )  # fmt: skip


def _find_exchanged(scan: ScanMeasures) -> Iterator[Suspect]:
    """Find neighbours that would be more like the slices around them in each other's place."""
    following, second = scan.next_correlation, scan.second_correlation
    if len(following) < 4:
        return
    now = following[:-3] + following[2:-1]
    exchanged = second[:-3] + second[1:-2]
    rise = exchanged - now
    margin = max(0.01, abs(find_median(rise)) / 2)
    around = np.pad(rise, 1, constant_values=-np.inf)
    best = ~(around[:-2] > rise) & ~(around[2:] > rise)
    for index in np.flatnonzero((rise > margin) & best).tolist():
        number = scan.first_number + index + 1
        yield Suspect(
            kind="slice order", scan_id=scan.scan_id, slice_number=number,
            exchanged_with=number + 1,
            measured=f"likeness {now[index] / 2:.3f} at the joints, {exchanged[index] / 2:.3f} "
            f"with slices {number} and {number + 1} exchanged",
            usual=f"likeness {find_median(following):.3f} of neighbours in this scan",
            remedy="Look at these slices; put the files in order, or leave the scan out.",
            certainty=rate_certainty(rise[index] / margin),
        )  # fmt: skip


def _find_foreign(scan: ScanMeasures) -> Iterator[Suspect]:
    """Find slices that are less like both neighbours than these are like each other."""
    for z, measured, across in _find_out_of_line(
        scan.next_correlation, scan.second_correlation, least=LEAST_CORRELATION_GAIN
    ):
        yield Suspect(
            kind="slice order", scan_id=scan.scan_id, slice_number=scan.first_number + z,
            measured=f"likeness {measured:.3f} to its neighbours, which have {across:.3f}",
            usual=f"likeness {find_median(scan.next_correlation):.3f} of neighbours in this scan",
            remedy="Look whether this slice belongs here; else leave the scan out.",
            certainty=rate_certainty((across - measured) / LEAST_CORRELATION_GAIN),
        )  # fmt: skip
