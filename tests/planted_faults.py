"""Faults of many kinds, planted into one scan in memory; by the tests and by the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

LARGE, SMALL, STOMACH = 1, 2, 4


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Image ``(z, y, x)`` and bit-coded label map, with spacing ``(z, y, x)`` in mm."""

    image: np.ndarray
    labels: np.ndarray
    spacing_mm: tuple[float, float, float]


Donor = Literal["none", "in the source", "not in the source"]
Plant = Callable[[Scan, Scan, np.random.Generator], Scan]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A kind of fault: how it is planted, and the kinds of suspect that name it rightly.

    Attributes
    ----------
    name
        What is wrong.
    plant
        Given the scan, a scan of another patient and randomness, gives the faulty scan.
    kinds
        Kinds of suspect of which any is right.
    donor
        Whether a scan of another patient with the same shape is needed, and whether it is in the
        source too.
    """

    name: str
    plant: Plant
    kinds: frozenset[str]
    donor: Donor = "none"


def find_middle(scan: Scan, bit: int = 7) -> int:
    """Return the middle slice of the masks."""
    filled = np.flatnonzero(((scan.labels & bit) != 0).any(axis=(1, 2)))
    return int(filled[len(filled) // 2])


def _relabel(scan: Scan, order: dict[int, int]) -> Scan:
    table = np.array([sum(order[b] for b in order if value & b) for value in range(8)], np.uint8)
    return replace(scan, labels=table[scan.labels])


def _shift(array: np.ndarray, by: int, axis: int) -> np.ndarray:
    """Move an array; what comes in is empty."""
    moved = np.roll(array, by, axis)
    edge = [slice(None)] * array.ndim
    edge[axis] = slice(0, by) if by > 0 else slice(by, None)
    moved[tuple(edge)] = 0
    return moved


def _pixels(scan: Scan, mm: float) -> int:
    return max(1, round(mm / scan.spacing_mm[2]))


def _sideways(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    by = int(rng.choice((-1, 1))) * _pixels(scan, 20)
    return replace(scan, labels=_shift(scan.labels, by, int(rng.choice((1, 2)))))


def _along(slices: int) -> Plant:
    def plant(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
        return replace(scan, labels=_shift(scan.labels, int(rng.choice((-1, 1))) * slices, 0))

    return plant


def _organ_sideways(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    bit = int(rng.choice((LARGE, SMALL, STOMACH)))
    moved = _shift(scan.labels & bit, _pixels(scan, 30), 1)
    return replace(scan, labels=(scan.labels & (7 - bit)) | moved)


def _organ_gone(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    return replace(scan, labels=scan.labels & (7 - int(rng.choice((LARGE, SMALL, STOMACH)))))


def _five_without(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    labels, middle = scan.labels.copy(), find_middle(scan, LARGE)
    labels[middle - 2 : middle + 3] &= 7 - LARGE
    return replace(scan, labels=labels)


def _emptied(caudal: bool) -> Plant:
    def plant(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
        labels, middle = scan.labels.copy(), find_middle(scan)
        labels[middle:] *= not caudal
        labels[:middle] *= caudal
        return replace(scan, labels=labels)

    return plant


def _black_slices(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    image, start = scan.image.copy(), int(rng.integers(2, len(scan.image) - 12))
    image[start : start + 10] = 0
    return replace(scan, image=image)


def _half(masks: bool) -> Plant:
    def plant(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
        middle = find_middle(scan)
        image, labels = scan.image.copy(), scan.labels.copy()
        image[middle:] = donor.image[middle:]
        if masks:
            labels[middle:] = donor.labels[middle:]
        return replace(scan, image=image, labels=labels)

    return plant


def _exchanged_slices(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    image, z = scan.image.copy(), int(rng.integers(4, len(scan.image) - 5))
    image[[z, z + 1]] = image[[z + 1, z]]
    return replace(scan, image=image)


def _foreign_slice(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    image, depth = scan.image.copy(), len(scan.image)
    z = int(rng.integers(depth // 3, 2 * depth // 3))
    image[z] = image[z - depth // 4]
    return replace(scan, image=image)


def _repeated(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    image, middle = scan.image.copy(), find_middle(scan)
    image[middle : middle + 6] = image[middle]
    return replace(scan, image=image)


def _jump(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    labels, middle = scan.labels.copy(), find_middle(scan, STOMACH)
    moved = _shift(labels[middle] & STOMACH, -_pixels(scan, 40), 1)
    labels[middle] = (labels[middle] & (7 - STOMACH)) | moved
    return replace(scan, labels=labels)


def _one_slice(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    labels, middle = scan.labels.copy(), find_middle(scan, STOMACH)
    others = np.arange(len(labels)) != middle
    labels[others] &= 7 - STOMACH
    return replace(scan, labels=labels)


def _too_large(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
    reach = 2 * _pixels(scan, 8) + 1
    labels = np.zeros_like(scan.labels)
    for bit in (LARGE, SMALL, STOMACH):
        mask = (scan.labels & bit) != 0
        labels |= ndimage.maximum_filter(mask, (1, reach, reach)).astype(np.uint8) * np.uint8(bit)
    return replace(scan, labels=labels)


def _turn(masks: bool, images: bool, axes: tuple[int, ...]) -> Plant:
    def plant(scan: Scan, donor: Scan, rng: np.random.Generator) -> Scan:
        return replace(
            scan,
            labels=np.flip(scan.labels, axes).copy() if masks else scan.labels,
            image=np.flip(scan.image, axes).copy() if images else scan.image,
        )

    return plant


def _fault(name: str, plant: Plant, *kinds: str, donor: Donor = "none") -> Fault:
    return Fault(name=name, plant=plant, kinds=frozenset(kinds), donor=donor)


FAULTS = (
    _fault("masks upside down", _turn(True, False, (0,)), "masks turned"),
    _fault("masks mirrored", _turn(True, False, (2,)), "masks turned"),
    _fault("masks back to front", _turn(True, False, (1,)), "masks turned"),
    _fault("masks rotated by 180 degrees", _turn(True, False, (1, 2)), "masks turned"),
    _fault(
        "masks transposed",
        lambda scan, donor, rng: replace(scan, labels=scan.labels.transpose(0, 2, 1).copy()),
        "masks turned",
    ),
    _fault("masks moved sideways by 20 mm", _sideways, "masks moved"),
    _fault("masks moved by 2 slices", _along(2), "masks moved"),
    _fault("masks moved by 4 slices", _along(4), "masks moved"),
    _fault("masks moved by 8 slices", _along(8), "masks moved"),
    _fault("one organ moved by 30 mm", _organ_sideways, "masks moved", "place"),
    _fault("masks drawn 8 mm too large", _too_large, "outline"),
    _fault(
        "large and small bowel exchanged",
        lambda scan, donor, rng: _relabel(scan, {LARGE: SMALL, SMALL: LARGE, STOMACH: STOMACH}),
        "organs exchanged",
    ),
    _fault(
        "stomach and large bowel exchanged",
        lambda scan, donor, rng: _relabel(scan, {LARGE: STOMACH, STOMACH: LARGE, SMALL: SMALL}),
        "organs exchanged",
    ),
    _fault(
        "another patient's masks, in the source",
        lambda scan, donor, rng: replace(scan, labels=donor.labels),
        "copied masks", "masks do not fit", donor="in the source",
    ),
    _fault(
        "another patient's masks, not in the source",
        lambda scan, donor, rng: replace(scan, labels=donor.labels),
        "masks do not fit", donor="not in the source",
    ),
    _fault("organ gone", _organ_gone, "missing organ"),
    _fault("stomach in one slice only", _one_slice, "volume"),
    _fault("five slices without large bowel", _five_without, "gap"),
    _fault("one slice's stomach moved", _jump, "mask jump"),
    _fault("caudal half of the masks emptied", _emptied(True), "cut off", "missing organ"),
    _fault("cranial half of the masks emptied", _emptied(False), "cut off", "missing organ"),
    _fault(
        "black scan",
        lambda scan, donor, rng: replace(scan, image=np.zeros_like(scan.image)),
        "no signal",
    ),
    _fault(
        "constant scan",
        lambda scan, donor, rng: replace(scan, image=np.full_like(scan.image, 700)),
        "no signal",
    ),
    _fault("ten black slices", _black_slices, "no signal"),
    _fault(
        "scan copied from another patient",
        lambda scan, donor, rng: donor,
        "copied images", donor="in the source",
    ),
    _fault(
        "images copied from another patient, brighter",
        lambda scan, donor, rng: replace(
            scan, image=np.minimum(donor.image * 1.7, 65535).astype(np.uint16)
        ),
        "copied images", "masks do not fit", donor="in the source",
    ),
    _fault(
        "caudal half of the images another patient's", _half(False), "joint",
        donor="not in the source",
    ),
    _fault(
        "caudal half of images and masks another patient's", _half(True), "joint",
        donor="not in the source",
    ),
    _fault(
        "caudal half of images and masks copied", _half(True), "joint", "copied images",
        donor="in the source",
    ),
    _fault("two slices exchanged", _exchanged_slices, "slice order"),
    _fault("one slice from elsewhere", _foreign_slice, "slice order", "joint"),
    _fault("six slices with the same image", _repeated, "repeated slices"),
    _fault("image and masks upside down", _turn(True, True, (0,)), "scan turned"),
    _fault("image and masks mirrored", _turn(True, True, (2,)), "scan turned"),
)  # fmt: skip
"""All kinds that are planted."""
