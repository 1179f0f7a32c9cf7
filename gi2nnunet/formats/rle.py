"""Run-length encoding as the competition's rows hold it: text <-> runs <-> masks.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import most_rle_characters

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_MOST_DIGITS = 18  # every number of 18 digits fits in int64
_LONG_TEXT = 10_000  # no shorter one is looked at for its length
_CHUNK_CHARACTERS = 2_000_000  # bounds the working memory of a parse to some 100 MB
_SPACE, _NEWLINE, _ZERO, _NINE = 32, 10, 48, 57


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
        One RLE text a row; an empty one is an empty mask.
    pixels
        Pixels in the image, for all rows or one number a row; ``None`` leaves the end unchecked.

    Returns
    -------
    tuple
        The runs, with no runs for a refused row, and the refused rows in order. A row is refused
        for characters other than ASCII digits and spaces, a number of more than 18 digits, an odd
        count of numbers, a zero, runs out of order or overlapping, a run past ``pixels``, or more
        characters than so many pixels can need.

    References
    ----------
    https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
    """
    limits = None if pixels is None else np.broadcast_to(np.asarray(pixels, np.int64), len(texts))
    too_long = [] if limits is None else _find_too_long(texts, limits)
    if too_long:
        texts = list(texts)
        for problem in too_long:
            texts[problem.row] = ""
    counts: list[IntArray] = []
    starts: list[IntArray] = []
    lengths: list[IntArray] = []
    problems: list[RleProblem] = []
    for first, last in _chunks(texts):
        limit = None if limits is None else limits[first:last]
        part, found = _decode_chunk(texts[first:last], limit)
        counts.append(np.diff(part.offsets))
        starts.append(part.starts)
        lengths.append(part.lengths)
        problems.extend(
            RleProblem(row=first + p.row, found=p.found, expected=p.expected) for p in found
        )
    offsets = np.zeros(len(texts) + 1, np.int64)
    if counts:
        np.cumsum(np.concatenate(counts), out=offsets[1:])
    empty = np.empty(0, np.int64)
    runs = RowRuns(
        offsets=offsets,
        starts=np.concatenate([empty, *starts]),
        lengths=np.concatenate([empty, *lengths]),
    )
    return runs, sorted([*problems, *too_long], key=lambda problem: problem.row)


def _find_too_long(texts: Sequence[str], limits: IntArray) -> list[RleProblem]:
    """Return the texts that are longer than any mask's, which are not worth their memory."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return [
        RleProblem(
            row=row,
            found=f"{_excerpt(texts[row])} of {len(texts[row])} characters",
            expected=f"at most {most_rle_characters(pixels)} for {pixels} pixels",
        )
        for row in np.flatnonzero(lengths > _LONG_TEXT).tolist()
        if len(texts[row]) > most_rle_characters(pixels := int(limits[row]))
    ]


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    first = size = 0
    for index, text in enumerate(texts):
        size += len(text) + 1
        if size >= _CHUNK_CHARACTERS:
            yield first, index + 1
            first, size = index + 1, 0
    if first < len(texts):
        yield first, len(texts)


def _decode_chunk(
    texts: Sequence[str], limits: IntArray | None
) -> tuple[RowRuns, list[RleProblem]]:
    """Decode one chunk by whole-array operations on its bytes."""
    n_rows = len(texts)
    reasons: dict[int, str] = {}
    joined = "\n".join(texts)
    if not joined.isascii() or joined.count("\n") != n_rows - 1:
        # Rare: a row holds a line break or a character outside ASCII, which would shift the bytes.
        texts = list(texts)
        for row, text in enumerate(texts):
            if not text.isascii() or "\n" in text:
                reasons[row] = "decimal digits and spaces only"
                texts[row] = ""
        joined = "\n".join(texts)
    data = np.frombuffer(joined.encode("ascii"), np.uint8)
    digit = (data >= _ZERO) & (data <= _NINE)
    newline = data == _NEWLINE
    line_starts = np.concatenate([[0], np.flatnonzero(newline) + 1])

    other = np.flatnonzero(~(digit | newline | (data == _SPACE)))
    for row in np.unique(np.searchsorted(line_starts, other, side="right") - 1).tolist():
        reasons.setdefault(row, "decimal digits and spaces only")

    padded = np.concatenate([[False], digit, [False]])
    edges = np.flatnonzero(padded[1:] != padded[:-1])
    token_start, token_end = edges[0::2], edges[1::2]
    token_row = np.searchsorted(line_starts, token_start, side="right") - 1
    width = token_end - token_start
    for row in np.unique(token_row[width > _MOST_DIGITS]).tolist():
        reasons.setdefault(row, f"numbers of at most {_MOST_DIGITS} digits")
    per_row = np.bincount(token_row, minlength=n_rows)
    for row in np.flatnonzero(per_row % 2).tolist():
        reasons.setdefault(row, f"pairs of start and length (counted {per_row[row]} numbers)")

    refused = np.zeros(n_rows, np.bool_)
    refused[list(reasons)] = True
    keep = ~refused[token_row]
    values = _token_values(data, token_start[keep], width[keep])
    starts, lengths = values[0::2] - 1, values[1::2].copy()
    run_row = token_row[keep][0::2]

    ends = starts + lengths
    checks = [
        (run_row[(starts < 0) | (lengths < 1)], "starts and lengths of at least 1"),
        (
            run_row[1:][(run_row[1:] == run_row[:-1]) & (starts[1:] < starts[:-1])],
            "runs in ascending order",
        ),
        (
            run_row[1:][(run_row[1:] == run_row[:-1]) & (starts[1:] < ends[:-1])],
            "runs that do not overlap",
        ),
    ]
    for rows, expected in checks:
        for row in np.unique(rows).tolist():
            reasons.setdefault(row, expected)
    if limits is not None:
        for row in np.unique(run_row[ends > limits[run_row]]).tolist():
            reasons.setdefault(row, f"runs that end by pixel {limits[row]}, the image's last")

    refused[list(reasons)] = True
    keep = ~refused[run_row]
    starts, lengths, run_row = starts[keep], lengths[keep], run_row[keep]
    offsets = np.zeros(n_rows + 1, np.int64)
    np.cumsum(np.bincount(run_row, minlength=n_rows), out=offsets[1:])
    problems = [
        RleProblem(row=row, found=_excerpt(texts[row]), expected=reasons[row])
        for row in sorted(reasons)
    ]
    return RowRuns(offsets=offsets, starts=starts, lengths=lengths), problems


def _token_values(data: NDArray[np.uint8], start: IntArray, width: IntArray) -> IntArray:
    """Return the value of each run of digits, taking one decimal place of all tokens at a time."""
    values = np.zeros(len(start), np.int64)
    for place in range(int(width.max(initial=0))):
        has = np.flatnonzero(width > place) if place else slice(None)
        values[has] = values[has] * 10 + (data[start[has] + place] - _ZERO)
    return values


def _excerpt(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[:most] + "...")


def decode_mask(text: str, *, shape: tuple[int, int]) -> BoolArray:
    """Decode one RLE text to a mask.

    Parameters
    ----------
    text
        RLE text; empty gives an empty mask.
    shape
        ``(height, width)`` of the image in pixels.

    Returns
    -------
    numpy.ndarray
        ``(height, width)`` bool.

    Raises
    ------
    ValueError
        Where the text breaks a rule of :func:`decode_rows`.
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
