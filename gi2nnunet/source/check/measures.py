"""Measures of one scan: the few numbers by which scans are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS, patient_of
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, find_box
from gi2nnunet.source.check.fit import FloatArray, OutlineFit, measure_fit
from gi2nnunet.source.prints import Prints, take_prints
from gi2nnunet.source.scan import LoadedScan

_STEP = 4  # every fourth pixel each way is looked at in images; masks are looked at whole
_DIP = 2.0  # times the usual unlikeness of neighbours
_PAIRS = tuple((a, b) for a in range(len(ORGANS)) for b in range(a + 1, len(ORGANS)))


@dataclass(frozen=True, kw_only=True)
class MaskMeasures:
    """What is measured on one scan's masks; organs in the order of ``ORGANS``.

    Attributes
    ----------
    pixels
        ``(organs, z)`` int64, pixels of each organ in each slice.
    next_iou, second_iou
        ``(organs, z)``: intersection over union of a slice's mask with the one of the next slice,
        and of the slice after that; NaN where both are empty and past the end.
    volume_ml
        ``(organs,)``.
    centre
        ``(organs, 3)``: centre of mass as relative height (0 first slice, 1 last) and mm from the
        image's middle, to posterior and to the patient's left; NaN without the organ.
    spread_mm
        ``(organs, 3)``: standard deviation of the organ's voxels along z, y and x.
    level
        ``(organs,)``: mean of the image inside, in units of the mean of its slice.
    overlap_pixels, overlap_slices
        For each pair of organs, in the order large with small bowel, large bowel with stomach,
        small bowel with stomach.
    """

    pixels: NDArray[np.int64]
    next_iou: FloatArray
    second_iou: FloatArray
    volume_ml: FloatArray
    centre: FloatArray
    spread_mm: FloatArray
    level: FloatArray
    fit: OutlineFit
    overlap_pixels: tuple[int, ...]
    overlap_slices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ScanMeasures:
    """What is measured on one scan.

    Attributes
    ----------
    shape, spacing_mm
        ``(z, y, x)``.
    intensity
        Least, median, 99th percentile and greatest value, on every fourth pixel each way.
    next_correlation, second_correlation
        ``(z,)``: correlation of a slice's image with the next one's and with the one after that's;
        NaN past the end and where an image is of one value.
    next_likeness
        ``(z,)``: as ``next_correlation``, but where that dips, of what lies outside the masks of
        the two slices: the gut changes from slice to slice, what lies around it does not.
    signal
        ``(z,)`` bool: whether the slice holds more than one value.
    """

    scan_id: str
    part: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    first_number: int
    intensity: tuple[float, float, float, float]
    next_correlation: FloatArray
    second_correlation: FloatArray
    next_likeness: FloatArray
    signal: NDArray[np.bool_]
    prints: Prints
    masks: MaskMeasures | None

    @property
    def patient_id(self) -> str:
        """Return the patient's id."""
        return patient_of(self.scan_id)


def measure_scan(loaded: LoadedScan, *, scan_id: str, part: str) -> ScanMeasures:
    """Measure one scan that was read without problems."""
    image, label_map = loaded.image, loaded.label_map
    seen = image[:, ::_STEP, ::_STEP].reshape(len(image), -1)
    least, middle, high, most = np.percentile(seen, (0, 50, 99, 100)).tolist()
    signal = seen.max(axis=1) > seen.min(axis=1)
    level = seen.mean(axis=1, dtype=np.float64)
    centred = np.subtract(seen, level[:, None], dtype=np.float32)
    likeness = correlation = _correlate(centred, 1)
    if label_map is not None:
        labels = label_map[:, ::_STEP, ::_STEP].reshape(centred.shape)
        likeness = _correlate_outside(centred, labels, correlation)
    second = _correlate(centred, 2)
    del seen, centred  # the masks need memory too
    masks = None
    if label_map is not None:
        masks = measure_masks(label_map, spacing_mm=loaded.spacing_mm, image=image, level=level)
    return ScanMeasures(
        scan_id=scan_id, part=part, shape=(image.shape[0], image.shape[1], image.shape[2]),
        spacing_mm=loaded.spacing_mm, first_number=loaded.first_number,
        intensity=(least, middle, high, most),
        next_correlation=correlation, second_correlation=second, next_likeness=likeness,
        signal=signal, prints=take_prints(image), masks=masks,
    )  # fmt: skip


def _correlate(centred: NDArray[np.float32], ahead: int) -> FloatArray:
    """Return ``(z,)`` the correlation of each slice, a row with the mean 0, with one ``ahead``."""
    found = np.full(len(centred), np.nan)
    if len(centred) > ahead:
        norms = np.sqrt(np.einsum("ij,ij->i", centred, centred)).astype(np.float64)
        products = np.einsum("ij,ij->i", centred[:-ahead], centred[ahead:]).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:-ahead] = products / (norms[:-ahead] * norms[ahead:])
    return found


def _correlate_outside(
    centred: NDArray[np.float32], labels: LabelMap, correlation: FloatArray
) -> FloatArray:
    """Return ``(z,)`` the correlation of each slice with the next, outside the masks if it dips."""
    found, away = correlation.copy(), 1 - correlation
    if not np.isfinite(away).any():
        return found
    with np.errstate(invalid="ignore"):
        dips = np.flatnonzero(away > _DIP * np.nanmedian(away))
    for z in dips.tolist():
        outside = (labels[z] | labels[z + 1]) == 0
        pair = centred[z : z + 2, outside]
        pair = pair - pair.mean(axis=1, keepdims=True) if pair.size else pair
        norm = float(np.sqrt((pair[0] @ pair[0]) * (pair[1] @ pair[1])))
        found[z] = float(pair[0] @ pair[1]) / norm if norm > 0 else np.nan
    return found


def measure_masks(
    label_map: LabelMap, *, spacing_mm: tuple[float, float, float], image: NDArray[Any],
    level: FloatArray,
) -> MaskMeasures:  # fmt: skip
    """Measure one scan's masks.

    Parameters
    ----------
    label_map, image
        ``(z, y, x)``; the labels uint8, bit-coded.
    level
        ``(z,)``: mean of each slice's image.
    """
    depth, height, width = label_map.shape
    inside, rows, columns = find_box(label_map)
    box = np.ascontiguousarray(label_map[inside, rows, columns])
    pixels = np.zeros((len(ORGANS), depth), np.int64)
    next_iou, second_iou = (np.full((len(ORGANS), depth), np.nan) for _ in range(2))
    centre, spread = np.full((len(ORGANS), 3), np.nan), np.full((len(ORGANS), 3), np.nan)
    for organ, bit in enumerate(ORGAN_BITS):
        mask = (box & bit) != 0
        pixels[organ, inside] = _count(mask)
        next_iou[organ] = _overlap(mask, pixels[organ], inside, 1)
        second_iou[organ] = _overlap(mask, pixels[organ], inside, 2)
        if pixels[organ].any():
            plane = mask.sum(axis=0, dtype=np.int64)
            middles, widths = zip(
                _locate(pixels[organ], 0),
                _locate(plane.sum(axis=1), rows.start),
                _locate(plane.sum(axis=0), columns.start),
                strict=True,
            )
            centre[organ] = (
                middles[0] / max(depth - 1, 1),
                (middles[1] - (height - 1) / 2) * spacing_mm[1],
                (middles[2] - (width - 1) / 2) * spacing_mm[2],
            )
            spread[organ] = np.multiply(widths, spacing_mm)
    both = [
        _count((box & bits) == bits) for bits in (ORGAN_BITS[a] | ORGAN_BITS[b] for a, b in _PAIRS)
    ]
    return MaskMeasures(
        pixels=pixels, next_iou=next_iou, second_iou=second_iou,
        volume_ml=pixels.sum(axis=1) * float(np.prod(spacing_mm)) / 1000, centre=centre,
        spread_mm=spread, level=_measure_level(label_map, image, level),
        fit=measure_fit(image, label_map, level=level),
        overlap_pixels=tuple(int(counted.sum()) for counted in both),
        overlap_slices=tuple(int(np.count_nonzero(counted)) for counted in both),
    )  # fmt: skip


def _locate(counted: NDArray[np.int64], start: int) -> tuple[float, float]:
    """Return mean and standard deviation of the places ``start``, ... that were counted."""
    places = np.arange(start, start + len(counted))
    middle = float(np.average(places, weights=counted))
    return middle, float(np.sqrt(np.average((places - middle) ** 2, weights=counted)))


def _measure_level(label_map: LabelMap, image: NDArray[Any], level: FloatArray) -> FloatArray:
    """Return ``(organs,)`` the mean of the image in each organ, on every fourth pixel each way."""
    labels = label_map[:, ::_STEP, ::_STEP]
    at = np.flatnonzero(labels)
    bits = labels.reshape(-1)[at]
    z = at // (labels.shape[1] * labels.shape[2])
    values = image[:, ::_STEP, ::_STEP].reshape(-1)[at] / np.where(level > 0, level, 1)[z]
    return np.array(
        [values[(bits & bit) != 0].mean() if (bits & bit).any() else np.nan for bit in ORGAN_BITS]
    )


def _count(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.array([np.count_nonzero(of_slice) for of_slice in mask], np.int64)


def _overlap(
    mask: NDArray[np.bool_], pixels: NDArray[np.int64], inside: slice, ahead: int
) -> FloatArray:
    """Return ``(z,)`` the IoU of each slice's mask with the one ``ahead`` of it."""
    depth = len(pixels)
    shared = np.zeros(depth, np.int64)
    if len(mask) > ahead:
        shared[inside.start : inside.stop - ahead] = _count(mask[:-ahead] & mask[ahead:])
    found = np.full(depth, np.nan)
    if depth > ahead:
        union = pixels[:-ahead] + pixels[ahead:] - shared[:-ahead]
        some = union > 0
        found[:-ahead][some] = shared[:-ahead][some] / union[some]
    return found
