"""Bit-coded label maps <-> the rows of a submission CSV.

A row is ``(slice_id, organ, RLE text)``. The file's columns are ``id,class,predicted``.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.files import replace_file
from gi2nnunet.formats.ids import ORGANS, scan_order, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.tables import MaskTable, Row, _name_some


def encode_scan(scan_id: str, numbers: Sequence[int], bit_map: LabelMap) -> list[Row]:
    """Encode one scan: a row for every slice and organ, organs in the order of the competition.

    Parameters
    ----------
    scan_id
        The scan.
    numbers
        Slice number of each plane.
    bit_map
        ``(z, y, x)`` uint8, bit-coded.

    Returns
    -------
    list
        ``(slice_id, organ, RLE text)``, slice by slice; an empty mask has the empty text.

    Raises
    ------
    ValueError
        Where numbers and planes differ in count.
    """
    if bit_map.ndim != 3 or len(numbers) != len(bit_map):
        raise ValueError(f"{len(numbers)} slice numbers for a label map of shape {bit_map.shape}")
    texts = [_encode_bit(edges, bit, bit_map.shape) for edges, bit in _bit_edges(bit_map)]
    return [
        (slice_id(scan_id, number), organ, texts[index][plane])
        for plane, number in enumerate(numbers)
        for index, organ in enumerate(ORGANS)
    ]


def _bit_edges(
    bit_map: LabelMap,
) -> Iterator[tuple[tuple[NDArray[np.int64], NDArray[np.int64]], int]]:
    """Yield for each organ the flat index where its runs start and where they end (exclusive).

    One pass over the voxels serves all organs: only where the value changes, or a slice begins,
    can a run start or end.
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
    last = flat[-1] if flat.size else np.uint8(0)
    for bit in ORGAN_BITS:
        starts = position[(opening & bit) != 0]
        ends = position[(closing & bit) != 0]
        if last & bit:
            ends = np.append(ends, flat.size)
        yield (starts, ends), bit


def _encode_bit(
    edges: tuple[NDArray[np.int64], NDArray[np.int64]], bit: int, shape: tuple[int, ...]
) -> list[str]:
    starts, ends = edges
    depth, plane = shape[0], shape[1] * shape[2]
    bounds = np.searchsorted(starts, np.arange(depth + 1) * plane).tolist()
    numbers = np.stack([starts % max(plane, 1) + 1, ends - starts], axis=1).reshape(-1)
    names = _number_names(plane + 1)
    words = [names[number] for number in numbers.tolist()]
    return [" ".join(words[2 * first : 2 * last]) for first, last in pairwise(bounds)]


@lru_cache(maxsize=4)
def _number_names(count: int) -> tuple[str, ...]:
    """Return the decimal text of each number below ``count``; looking up beats formatting."""
    return tuple(map(str, range(count)))


def write_submission(
    path: Path, rows: Iterable[Row], *, sample: MaskTable | None = None
) -> tuple[str, ...]:
    """Write a submission.

    Parameters
    ----------
    path
        The CSV to write; its folder is made where it is missing.
    rows
        ``(slice_id, organ, RLE text)``, in any order.
    sample
        The competition's ``sample_submission.csv``. Where it has rows, the submission has exactly
        these in the same order; where it has none, or is not given, every row given is written in
        numeric order of patient, day and slice.

    Returns
    -------
    tuple of str
        Warnings: sample rows nobody predicted (written empty), slices the sample does not have
        (left out).

    Raises
    ------
    OutputError
        Where the file cannot be written; an earlier file of that name is then untouched.
    ValueError
        For a second row of one slice and organ, or an unknown organ.
    """
    texts: dict[tuple[str, str], str] = {}
    for row_id, organ, text in rows:
        if organ not in ORGANS:
            raise ValueError(f"organ {organ!r} is none of {ORGANS}")
        if (row_id, organ) in texts:
            raise ValueError(f"a second row for {row_id}, {organ}")
        texts[row_id, organ] = text
    warnings: list[str] = []
    if sample is not None and len(sample):
        keys = [
            (slice_id(sample.scan_ids[scan], number), ORGANS[organ])
            for scan, number, organ in zip(
                sample.scan.tolist(), sample.number.tolist(), sample.organ.tolist(), strict=True
            )
        ]
        missing = [key for key in keys if key not in texts]
        wanted = set(keys)
        extra = [key for key in texts if key not in wanted]
        if missing:
            warnings.append(
                f"{len(missing)} rows of {sample.name} were not predicted and are written empty: "
                + _name_some([f"{row_id}, {organ}" for row_id, organ in missing])
            )
        if extra:
            warnings.append(
                f"{len(extra)} predicted rows are not in {sample.name} and are left out: "
                + _name_some([f"{row_id}, {organ}" for row_id, organ in extra])
            )
    else:
        keys = sorted(texts, key=_row_order)
    lines = ["id,class,predicted"]
    lines += [f"{row_id},{organ},{texts.get((row_id, organ), '')}" for row_id, organ in keys]
    replace_file(path, "\n".join(lines) + "\n")
    return tuple(warnings)


def _row_order(key: tuple[str, str]) -> tuple[tuple[int, int, str], int, int]:
    scan_id, _, number = key[0].partition("_slice_")
    return scan_order(scan_id), int(number), ORGANS.index(key[1])
