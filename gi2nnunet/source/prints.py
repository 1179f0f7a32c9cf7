"""Prints of slices: small fingerprints of pixels, by which copies of a scan are found.

A print is of where neighbouring pixels rise and fall, so it is the same in every file format, and
hardly changes with the bit depth, the scale of the intensities or a little noise.
"""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import patient_of

Prints = NDArray[np.uint64]
"""``(z,)``: the print of each slice; 0 for a slice of one value."""

_GRID = 8
_BANDS = 4  # of 16 bits; copies share at least one of them
_MOST_BITS_APART = 12
_MOST_OF_A_BAND = 64  # slices that share a band: more say nothing
LEAST_SLICES = 3
"""So many slices in the same order make a copy."""


def take_prints(image: NDArray[Any]) -> Prints:
    """Return the print of each slice of an image ``(z, y, x)``."""
    rows, columns = (
        np.linspace(size * 0.25, size * 0.75, _GRID).astype(np.int64) for size in image.shape[1:]
    )
    here = image[:, rows[:, None], columns]
    there = image[:, rows[:, None], np.maximum(columns - 2, 0)]
    bits = (here > there).reshape(len(image), -1)
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint64).reshape(-1)


def find_copies(
    prints: Sequence[Prints],
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Return the pairs of scans that share slices in the same order.

    Returns
    -------
    dict
        By pair of positions in ``prints`` the pairs of slices, in order: those of which at least
        :data:`LEAST_SLICES` are at the same distance from each other.
    """
    if not prints:
        return {}
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
    found = {}
    for pair, by_distance in sorted(by_pair.items()):
        enough = [pairs for pairs in by_distance.values() if len(pairs) >= LEAST_SLICES]
        if enough:
            found[pair] = sorted(chain.from_iterable(enough))
    return found


def _find_alike(
    prints: Prints, usable: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of positions, the first one lower, with prints that hardly differ."""
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


def take_mirrored_prints(image: NDArray[Any]) -> tuple[Prints, ...]:
    """Return the prints of an image and of its seven mirror images.

    A volume that was saved with another orientation than it has is still recognised by one of them.
    """
    of_planes = [
        take_prints(image[:, ::along_y, ::along_x]) for along_y in (1, -1) for along_x in (1, -1)
    ]
    return (*of_planes, *(prints[::-1] for prints in of_planes))


def find_originals(
    given: Mapping[str, Sequence[Prints]], known: Mapping[str, Prints]
) -> dict[str, str]:
    """Return the scans that are copies of known ones, and of which.

    Parameters
    ----------
    given
        By scan id, its prints or those of all its mirror images.

    Returns
    -------
    dict
        The id of a known scan by that of a given one. A copy shares at least half of the slices of
        the one that has fewer.
    """
    names = [*known, *(scan_id for scan_id, several in given.items() for _ in several)]
    prints = [*known.values(), *(of_one for several in given.values() for of_one in several)]
    return {
        names[second]: names[first]
        for first, second in _list_whole(prints)
        if first < len(known) <= second
    }


def find_twins(known: Mapping[str, Prints]) -> list[tuple[str, str]]:
    """Return the pairs of scans of different patients that have the same image, or nearly so."""
    names = list(known)
    twins = [(names[first], names[second]) for first, second in _list_whole([*known.values()])]
    return [(one, other) for one, other in twins if patient_of(one) != patient_of(other)]


def _list_whole(prints: Sequence[Prints]) -> list[tuple[int, int]]:
    """Return the pairs that share at least half of the slices of the scan that has fewer."""
    return [
        (first, second)
        for (first, second), slices in find_copies(prints).items()
        if 2 * len(slices) >= min(len(prints[first]), len(prints[second]))
    ]


def pack_prints(prints: Prints) -> str:
    """Return prints as text, for a JSON file; :func:`unpack_prints` reads it."""
    return base64.b64encode(prints.astype("<u8").tobytes()).decode()


def unpack_prints(text: str) -> Prints:
    """Return what :func:`pack_prints` packed; no prints for a damaged text."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u8").astype(np.uint64)
    except (binascii.Error, ValueError):
        return np.zeros(0, np.uint64)
