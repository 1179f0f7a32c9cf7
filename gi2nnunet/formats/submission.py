"""Submission CSV: bit-coded label maps to rows, and the file.

A row is ``(slice_id, organ, RLE text)``. The file's columns are ``id,class,predicted``.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/overview/evaluation
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from gi2nnunet.core.errors import count, name_some
from gi2nnunet.core.files import replace_file
from gi2nnunet.formats.ids import ORGANS, scan_order, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.rle import encode_slices
from gi2nnunet.formats.tables import MaskTable, Row, format_rows

SUBMISSION_BEGINS = "id,class,predicted"


def encode_rows(bit_map: LabelMap) -> list[tuple[str, ...]]:
    """Return the RLE texts of each slice of a bit-coded label map ``(z, y, x)``.

    They are in the order of :data:`~gi2nnunet.formats.ids.ORGANS`; an empty mask has the empty
    text.
    """
    return list(zip(*encode_slices(bit_map, bits=ORGAN_BITS), strict=True))


def name_rows(scan_id: str, numbers: Sequence[int], rows: Sequence[Sequence[str]]) -> list[Row]:
    """Return rows ``(slice_id, organ, RLE text)`` of one scan, slice by slice.

    ``rows`` are those of :func:`encode_rows`, ``numbers`` the slice number of each.
    """
    return [
        (slice_id(scan_id, number), organ, text)
        for number, texts in zip(numbers, rows, strict=True)
        for organ, text in zip(ORGANS, texts, strict=True)
    ]


def encode_scan(scan_id: str, numbers: Sequence[int], bit_map: LabelMap) -> list[Row]:
    """Encode one scan: a row for every slice and organ."""
    return name_rows(scan_id, numbers, encode_rows(bit_map))


def write_submission(
    path: Path, rows: Iterable[Row], *, sample: MaskTable | None = None
) -> tuple[str, ...]:
    """Write a submission.

    Parameters
    ----------
    path
        The CSV to write; its folder is made if it is missing.
    rows
        ``(slice_id, organ, RLE text)``, in any order.
    sample
        The competition's ``sample_submission.csv``. If it has rows, the submission has exactly
        these in the same order; if it has none, or is not given, every row is written in numeric
        order of patient, day and slice.

    Returns
    -------
    tuple of str
        Warnings: sample rows that were not predicted (written empty), predicted rows that are not
        in the sample (left out), no mask in any row.

    Raises
    ------
    OutputError
        If the file cannot be written; an earlier file of that name is then untouched.
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
        keys = [(row_id, organ) for row_id, organ, _ in sample.list_rows()]
        missing = [", ".join(key) for key in keys if key not in texts]
        wanted = set(keys)
        extra = [", ".join(key) for key in texts if key not in wanted]
        if missing:
            warnings.append(
                f"{count(len(missing), 'row')} of {sample.name} had no prediction and stayed "
                "empty: " + name_some(missing, separator="; ")
            )
        if extra:
            warnings.append(
                f"{sample.name} does not have {count(len(extra), 'predicted row')}, left out: "
                + name_some(extra, separator="; ")
            )
    else:
        keys = sorted(texts, key=_row_order)
    if keys and not any(texts.get(key) for key in keys):
        warnings.append(f"{path.name}: no organ in any of its {count(len(keys), 'row')}")
    rows_in_order = ((*key, texts.get(key, "")) for key in keys)
    replace_file(path, format_rows(rows_in_order, "predicted"))
    return tuple(warnings)


def _row_order(key: tuple[str, str]) -> tuple[tuple[int, int, str], int, int]:
    scan_id, _, number = key[0].rpartition("_slice_")
    return scan_order(scan_id), int(number), ORGANS.index(key[1])
