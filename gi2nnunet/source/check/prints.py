"""Fingerprints of slices, and slices of different scans that are copies of each other.

A fingerprint has 64 bits: at the points of a grid of 8 x 8 in the middle of the slice, whether the
image is brighter than two pixels further left. Noise decides most bits, so two slices share half
of them unless one is a copy of the other; another gain or a few changed pixels leave most as they
are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRID = 8
_BANDS = 4  # of 16 bits; copies share at least one of them
_MOST_BITS_APART = 12
_MOST_OF_A_BAND = 64  # slices that share a band: more say nothing
LEAST_SLICES = 3
"""So many slices in the same order make a copy."""


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Slices of one scan that are in another one too.

    Attributes
    ----------
    first, second
        Which scans, as positions in what was given.
    slices
        ``(z in the first, z in the second)`` of each, in order.
    """

    first: int
    second: int
    slices: tuple[tuple[int, int], ...]


def take_prints(image: NDArray[Any]) -> NDArray[np.uint64]:
    """Return ``(z,)`` uint64: the fingerprint of each slice of an image ``(z, y, x)``.

    A slice of one value has the fingerprint 0.
    """
    rows, columns = (
        np.linspace(size * 0.25, size * 0.75, _GRID).astype(np.int64) for size in image.shape[1:]
    )
    here = image[:, rows[:, None], columns]
    there = image[:, rows[:, None], np.maximum(columns - 2, 0)]
    bits = (here > there).reshape(len(image), -1)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64).reshape(-1)


def find_copies(prints: Sequence[NDArray[np.uint64]]) -> tuple[Copy, ...]:
    """Return the pairs of scans that share slices in the same order.

    Parameters
    ----------
    prints
        The fingerprints of each scan's slices.

    Returns
    -------
    tuple of Copy
        Pairs with at least :data:`LEAST_SLICES` slices at the same distance from each other.
    """
    if not prints:
        return ()
    every = np.concatenate(prints)
    scan = np.repeat(np.arange(len(prints)), [len(of_scan) for of_scan in prints])
    z = np.concatenate([np.arange(len(of_scan)) for of_scan in prints])
    ones = np.bitwise_count(every)
    usable = np.flatnonzero((ones >= 8) & (ones <= 56))
    one, two = _find_alike(every, usable)
    other = scan[one] != scan[two]
    one, two = one[other], two[other]
    by_pair: dict[tuple[int, int], dict[int, list[tuple[int, int]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    rows = zip(scan[one], scan[two], z[one], z[two], strict=True)
    for first, second, z_first, z_second in ([int(n) for n in row] for row in rows):
        by_pair[first, second][z_second - z_first].append((z_first, z_second))
    found = []
    for (first, second), by_distance in sorted(by_pair.items()):
        slices = sorted(
            pair for pairs in by_distance.values() if len(pairs) >= LEAST_SLICES for pair in pairs
        )
        if slices:
            found.append(Copy(first=first, second=second, slices=tuple(slices)))
    return tuple(found)


def _find_alike(
    prints: NDArray[np.uint64], usable: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of positions, the first one lower, with fingerprints that hardly differ."""
    width = len(prints) + 1
    pairs = [np.zeros(0, np.int64)]
    for band in range(_BANDS):
        key = (prints[usable] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        position, sorted_key = usable[order], key[order]
        for ahead in range(1, _MOST_OF_A_BAND):
            same = np.flatnonzero(sorted_key[:-ahead] == sorted_key[ahead:])
            if not len(same):
                break
            one, two = position[same], position[same + ahead]
            close = np.bitwise_count(prints[one] ^ prints[two]) <= _MOST_BITS_APART
            pairs.append(one[close] * width + two[close])
    unique = np.unique(np.concatenate(pairs))
    return unique // width, unique % width
