"""How large an input may be: what no real one comes near, and what a damaged or hostile one claims.

A size is checked before memory is taken for it. A few kilobytes of PNG, gzip or zip can ask for
gigabytes.
"""

from __future__ import annotations

MOST_SIDE = 4096
"""Pixels along a side of a slice; the competition's have 360 at most."""

MOST_VOXELS = 2**30
"""Voxels of a scan; the competition's have 16 million."""

MOST_TABLE_BYTES = 2**30
"""Bytes of a CSV, unpacked; the competition's has 25 million."""

MOST_TABLE_RATIO = 250
"""To how many times its packed size a CSV may unpack; real ones reach 40."""

_SMALL_TABLE_BYTES = 2**24  # the ratio says nothing of less
_PNG_EXTRA_BYTES = 2**16  # chunks, text, a colour profile
_MOST_BYTES_A_PIXEL = 8  # RGBA of 16 bits, so that a coloured one is told as such


def most_png_bytes(*, width: int, height: int) -> int:
    """Return how large a PNG of these pixels can be, of whatever kind and not compressed at all."""
    return height * (width * _MOST_BYTES_A_PIXEL + 1) + _PNG_EXTRA_BYTES


def most_rle_characters(pixels: int) -> int:
    """Return how long the RLE text of an image of so many pixels can be: each pixel its own run."""
    return 2 * pixels * (len(str(pixels)) + 1)


def is_table_bomb(size: int, *, packed: int) -> bool:
    """Return whether a packed CSV of ``size`` bytes unpacks to more than any real one."""
    return size > _SMALL_TABLE_BYTES and size > MOST_TABLE_RATIO * max(packed, 1)
