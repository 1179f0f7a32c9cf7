"""Suspects among the slices of one scan: each slice against the slices around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.check.measures import FloatArray, MaskMeasures, ScanMeasures
from gi2nnunet.source.check.suspects import Suspect, rate_certainty

# A slice is out of line where its two neighbours agree with each other so much better than either
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
    order = list(_find_slices_out_of_order(scan))
    repeated = list(_find_repeated(scan))
    yield from order
    yield from repeated
    taken = {n for s in order for n in (s.slice_number, s.exchanged_with) if n is not None}
    yield from _find_joints(scan, taken)


def find_in_masks(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    """Yield what is unusual in a scan's masks, slice by slice."""
    yield from _find_jumps(scan, masks)
    yield from _find_gaps(scan, masks)
    yield from _find_misfits(scan, masks)


def find_runs(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last position of each unbroken run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def find_median(values: FloatArray) -> float:
    """Return the median of the finite values; NaN without one."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _find_no_signal(scan: ScanMeasures) -> Iterator[Suspect]:
    depth = len(scan.signal)
    for first, last in find_runs(~scan.signal):
        whole = last - first + 1 == depth
        yield Suspect(
            kind="no signal",
            scan_id=scan.scan_id,
            slice_number=None if whole else scan.first_number + first,
            last_slice_number=None if whole else scan.first_number + last,
            organ=None,
            measured="one value in every slice"
            if whole
            else f"one value in {last - first + 1} of {depth} slices",
            usual="many values in every slice",
            remedy="Get the image again, or leave the scan out.",
            certainty="certain",
        )


def _find_repeated(scan: ScanMeasures) -> Iterator[Suspect]:
    same = scan.signal.copy()
    same[-1:] = False
    same[:-1] &= (scan.prints[:-1] == scan.prints[1:]) & (scan.next_correlation[:-1] > 0.9999)
    for first, last in find_runs(same):
        yield Suspect(
            kind="repeated slices",
            scan_id=scan.scan_id,
            slice_number=scan.first_number + first,
            last_slice_number=scan.first_number + last + 1,
            organ=None,
            measured=f"{last - first + 2} slices with the same image",
            usual="no two slices with the same image",
            remedy="Get these slices again, or leave the scan out.",
            certainty="certain",
        )


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
            kind="joint",
            scan_id=scan.scan_id,
            slice_number=number,
            last_slice_number=number + 1,
            organ=None,
            measured=f"likeness {1 - away[z]:.3f} of slices {number} and {number + 1}",
            usual=f"likeness {usual:.3f} of neighbours in this scan",
            remedy="Look at both sides of the joint; put the right slices there, or leave the scan "
            "out.",
            certainty=rate_certainty(times / LEAST_JOINT),
        )


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
                kind="gap",
                scan_id=scan.scan_id,
                slice_number=scan.first_number + first,
                last_slice_number=scan.first_number + last,
                organ=organ,
                measured=f"no mask in {last - first + 1} slices, {beside} pixels or more beside "
                "them",
                usual="an organ without gaps",
                remedy="Look at these slices; draw the organ, or leave the scan out.",
                certainty=rate_certainty(beside / least),
            )


def _find_misfits(scan: ScanMeasures, masks: MaskMeasures) -> Iterator[Suspect]:
    """Find stretches of slices whose outlines have no contrast while those of the others have."""
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
            kind="masks do not fit",
            scan_id=scan.scan_id,
            slice_number=scan.first_number + first,
            last_slice_number=scan.first_number + last,
            organ=None,
            measured=f"contrast {here:.2f} across the outlines",
            usual=f"contrast {usual:.2f} in the rest of this scan",
            remedy="Look whether image and masks of these slices belong together.",
            certainty=rate_certainty((MOST_SHARE * usual / max(here, 0.01)) ** 0.5),
        )


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
                kind="mask jump",
                scan_id=scan.scan_id,
                slice_number=scan.first_number + z,
                organ=organ,
                measured=f"IoU {measured:.2f} with its neighbours, which have {across:.2f}",
                usual=f"IoU {usual:.2f} of neighbours in this scan",
                remedy="Look at the three slices; correct the row, or leave the scan out.",
                certainty=rate_certainty((across - measured) / LEAST_IOU_GAIN),
            )


def _find_slices_out_of_order(scan: ScanMeasures) -> Iterator[Suspect]:
    following, second = scan.next_correlation, scan.second_correlation
    usual = find_median(following)
    swapped = set()
    # Were slices z and z + 1 exchanged, the likeness at both joints would rise.
    if len(following) >= 4:
        now = following[:-3] + following[2:-1]
        exchanged = second[:-3] + second[1:-2]
        rise = exchanged - now
        margin = max(0.01, abs(find_median(rise)) / 2)
        for index in np.flatnonzero(rise > margin).tolist():
            if index and rise[index - 1] > rise[index]:
                continue
            if index + 1 < len(rise) and rise[index + 1] > rise[index]:
                continue
            z = index + 1
            swapped |= {z, z + 1}
            number = scan.first_number + z
            yield Suspect(
                kind="slice order",
                scan_id=scan.scan_id,
                slice_number=number,
                organ=None,
                measured=f"likeness {now[index] / 2:.3f} at the joints, {exchanged[index] / 2:.3f} "
                f"with slices {number} and {number + 1} exchanged",
                usual=f"likeness {usual:.3f} of neighbours in this scan",
                remedy="Look at these slices; put the files in order, or leave the scan out.",
                exchanged_with=number + 1,
                certainty=rate_certainty(rise[index] / margin),
            )
    for z, measured, across in _find_out_of_line(following, second, least=LEAST_CORRELATION_GAIN):
        if {z - 1, z, z + 1} & swapped:
            continue
        yield Suspect(
            kind="slice order",
            scan_id=scan.scan_id,
            slice_number=scan.first_number + z,
            organ=None,
            measured=f"likeness {measured:.3f} to its neighbours, which have {across:.3f}",
            usual=f"likeness {usual:.3f} of neighbours in this scan",
            remedy="Look whether this slice belongs here; else leave the scan out.",
            certainty=rate_certainty((across - measured) / LEAST_CORRELATION_GAIN),
        )
