"""Run-length encoding in the competition's form: text <-> runs <-> masks.

Vocabulary
----------
*RLE text*: ``"start length start length ..."`` in decimal digits and spaces; starts count from 1.
*runs*: the same as integers, ``starts`` counted from 0, with ``lengths`` of at least 1.
*canonical*: runs sorted, none touching another. The competition's own rows are canonical, so
encoding a decoded row gives the row back byte for byte.

Pixels are numbered row by row (row-major, stride = image width). The competition's page says "top
to bottom, then left to right"; its rows say otherwise: at 360 x 310 a mask decodes row-major to 2
connected components, column-major to 74.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import most_rle_characters

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_MOST_DIGITS = 18  # every number of 18 digits fits in int64
_LONG_TEXT = 10_000  # the length of shorter texts is not checked
# Maps digits to 0, spaces to themselves and all else to x, so that a text's form can be searched.
_FORM = bytes(48 if 48 <= code <= 57 else 32 if code == 32 else 120 for code in range(256))
_LONG_NUMBER = b"0" * (_MOST_DIGITS + 1)


@dataclass(frozen=True, kw_only=True)
class RowRuns:
    """The runs of many RLE rows, one after another.

    Attributes
    ----------
    offsets
        ``(n_rows + 1,)`` int64; the runs of row ``i`` are ``offsets[i]:offsets[i + 1]``.
    starts
        ``(n_runs,)`` int64, first pixel of each run, counted from 0.
    lengths
        ``(n_runs,)`` int64, pixels in each run, at least 1.
    """

    offsets: IntArray
    starts: IntArray
    lengths: IntArray

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[IntArray, IntArray]:
        """Return ``(starts, lengths)`` of one row."""
        part = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return self.starts[part], self.lengths[part]


@dataclass(frozen=True, kw_only=True)
class RleProblem:
    """Why one row's RLE text was refused."""

    row: int
    found: str
    expected: str


def decode_rows(
    texts: Sequence[str], *, pixels: IntArray | int | None = None
) -> tuple[RowRuns, list[RleProblem]]:
    """Decode many RLE texts at once, checking each.

    Parameters
    ----------
    texts
        One RLE text per row; an empty one is an empty mask.
    pixels
        Pixels in the image, for all rows or one number per row; ``None`` leaves the end unchecked.

    Returns
    -------
    tuple
        The runs, with no runs for a refused row, and the refused rows in order. A row is refused
        for characters other than ASCII digits and spaces, a number of more than 18 digits, an odd
        count of numbers, a zero, runs out of order or overlapping, a run past ``pixels``, or more
        characters than that many pixels can need.

    References
    ----------
    https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
    """
    n_rows = len(texts)
    limits = None if pixels is None else np.broadcast_to(np.asarray(pixels, np.int64), n_rows)
    refused: dict[int, RleProblem] = {}
    tidy: list[str] = []
    for row, text in enumerate(texts):
        if problem := _find_fault(row, text, None if limits is None else int(limits[row])):
            refused[row] = problem
        tidy.append("" if problem else _tidy(text))

    runs_of_row = np.fromiter(((text.count(" ") + 1) // 2 for text in tidy), np.int64, n_rows)
    row_of_run = np.repeat(np.arange(n_rows), runs_of_row)
    numbers = np.fromstring(" ".join(filter(None, tidy)), np.int64, sep=" ")
    starts, lengths = numbers[0::2] - 1, numbers[1::2].copy()
    ends = starts + lengths
    follows = row_of_run[1:] == row_of_run[:-1]
    checks = [
        (row_of_run[(starts < 0) | (lengths < 1)], "starts and lengths of at least 1"),
        (row_of_run[1:][follows & (starts[1:] < starts[:-1])], "runs in ascending order"),
        (row_of_run[1:][follows & (starts[1:] < ends[:-1])], "runs that do not overlap"),
    ]
    if limits is not None:
        past_end = row_of_run[ends > limits[row_of_run]]
        checks.append((past_end, "runs that end by pixel {}, the image's last"))
    for rows, expected in checks:
        for row in np.unique(rows).tolist():
            wanted = expected.format("" if limits is None else limits[row])
            refused.setdefault(
                row, RleProblem(row=row, found=_excerpt(texts[row]), expected=wanted)
            )

    fine = np.ones(n_rows, np.bool_)
    fine[list(refused)] = False
    keep = fine[row_of_run]
    offsets = np.zeros(n_rows + 1, np.int64)
    np.cumsum(runs_of_row * fine, out=offsets[1:])
    runs = RowRuns(offsets=offsets, starts=starts[keep], lengths=lengths[keep])
    return runs, [refused[row] for row in sorted(refused)]


def _find_fault(row: int, text: str, pixels: int | None) -> RleProblem | None:
    """Return what is wrong with the characters of one text."""
    form = text.encode("ascii", "replace").translate(_FORM)
    size = expected = ""
    if pixels is not None and len(text) > max(_LONG_TEXT, most_rle_characters(pixels)):
        size = f" of {len(text)} characters"
        expected = f"at most {most_rle_characters(pixels)} for {pixels} pixels"
    elif b"x" in form:
        expected = "decimal digits and spaces only"
    elif _LONG_NUMBER in form:
        expected = f"numbers of at most {_MOST_DIGITS} digits"
    elif (tidy := _tidy(text)) and tidy.count(" ") % 2 == 0:
        expected = f"pairs of start and length (counted {tidy.count(' ') + 1} numbers)"
    if not expected:
        return None
    return RleProblem(row=row, found=_excerpt(text) + size, expected=expected)


def _tidy(text: str) -> str:
    """Return a text with one space between numbers and none around them."""
    if "  " in text or text[:1] == " " or text[-1:] == " ":
        return " ".join(text.split())
    return text


def _excerpt(text: str, most: int = 60) -> str:
    return ascii(text if len(text) <= most else text[:most] + "...")


def decode_mask(text: str, *, shape: tuple[int, int]) -> BoolArray:
    """Decode one RLE text to a mask.

    Parameters
    ----------
    text
        RLE text; empty gives an empty mask.
    shape
        ``(height, width)`` of the image, and of the returned bool array, in pixels.

    Raises
    ------
    ValueError
        If the text breaks a rule of :func:`decode_rows`.
    """
    mask = np.zeros(shape, np.bool_)
    runs, problems = decode_rows([text], pixels=mask.size)
    if problems:
        raise ValueError(f"RLE {problems[0].found}: expected {problems[0].expected}")
    mask.reshape(-1)[run_pixels(runs.starts, runs.lengths)] = True
    return mask


def run_pixels(starts: IntArray, lengths: IntArray) -> IntArray:
    """Return the flat index of every pixel in the runs, in order, as ``(sum(lengths),)`` int64."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))


def encode_mask(mask: NDArray[np.generic]) -> str:
    """Return the canonical RLE text of a ``(height, width)`` mask; non-zero is foreground."""
    [[text]] = encode_slices(np.not_equal(mask, 0).view(np.uint8)[None], bits=(1,))
    return text


def encode_slices(bit_map: NDArray[np.uint8], *, bits: Sequence[int]) -> list[list[str]]:
    """Return the canonical RLE texts of several masks that share one bit-coded volume.

    One pass over the voxels serves all masks: a run can only start or end where the value
    changes, or where a slice begins.

    Parameters
    ----------
    bit_map
        ``(z, y, x)``; a voxel belongs to each mask of which it has the bit.
    bits
        The bit of each mask, such as ``(1, 2, 4)``.

    Returns
    -------
    list
        For each bit the text of every slice. A run never joins the end of one slice to the start
        of the next.
    """
    flat = np.ascontiguousarray(bit_map).reshape(-1)
    plane = max(bit_map.shape[1] * bit_map.shape[2], 1)
    changed = np.empty(flat.size, np.bool_)
    changed[:1] = True
    np.not_equal(flat[1:], flat[:-1], out=changed[1:])
    changed[::plane] = True
    position = np.flatnonzero(changed)
    after = flat[position]
    before = np.concatenate([np.zeros(1, np.uint8), flat[position[1:] - 1]])
    at_border = position % plane == 0
    closing = np.where(at_border, before, before & ~after)
    opening = np.where(at_border, after, after & ~before)
    slice_starts = np.arange(len(bit_map) + 1) * plane
    texts = []
    for bit in bits:
        starts, ends = position[(opening & bit) != 0], position[(closing & bit) != 0]
        if len(ends) < len(starts):  # the last run reaches the end of the volume
            ends = np.append(ends, flat.size)
        numbers = np.stack([starts % plane + 1, ends - starts], axis=1).reshape(-1)
        words = list(map(str, numbers.tolist()))
        bounds = np.searchsorted(starts, slice_starts).tolist()
        texts.append([" ".join(words[2 * first : 2 * last]) for first, last in pairwise(bounds)])
    return texts
