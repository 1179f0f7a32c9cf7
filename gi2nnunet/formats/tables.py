"""Tables of masks: the competition's CSV files read, checked, grouped by scan, painted.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/data
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import (
    MOST_SIDE,
    MOST_TABLE_BYTES,
    InputError,
    Problem,
    raise_problems,
    shorten,
)
from gi2nnunet.core.files import find_kind
from gi2nnunet.formats.ids import ORGANS, SLICE_ID, scan_order, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.rle import RowRuns, decode_rows, run_pixels

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Row = tuple[str, str, str]
"""``(slice_id, organ, RLE text)``."""
Size = tuple[int, int]
"""Height and width of an image in pixels."""
MaskColumn = Literal["segmentation", "predicted"]
"""Where a CSV has its RLE texts: the truth in the first, a submission in the second."""

_NO_TABLES = {
    b"PK\x03\x04": "a zip (or an Excel workbook)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"\x89PNG": "a PNG",
}
_MOST_NAMED = 5
_SLICE_ID_OF_ANY_SCAN = re.compile(r"(\S.*)_slice_(\d{4,9})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """Rows of a competition CSV: ``train.csv``, a submission, a grader's answers.

    All arrays have one entry a row, in the file's order.

    Attributes
    ----------
    name
        What to call the table in a message (its path).
    scan_ids
        Distinct scan ids in order of first appearance.
    scan
        int64 index into ``scan_ids``.
    number
        int64 slice number.
    organ
        int64 index into :data:`ORGANS`.
    texts
        RLE text; empty for an empty mask.
    height, width
        int64 image size in pixels where the table has the columns, else ``None``.
    """

    name: str
    scan_ids: tuple[str, ...]
    scan: NDArray[np.int64]
    number: NDArray[np.int64]
    organ: NDArray[np.int64]
    texts: tuple[str, ...]
    height: NDArray[np.int64] | None = None
    width: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def list_rows(self) -> list[Row]:
        """Return the rows ``(slice_id, organ, RLE text)`` in the file's order."""
        columns = (self.scan.tolist(), self.number.tolist(), self.organ.tolist(), self.texts)
        return [
            (slice_id(self.scan_ids[scan], number), ORGANS[organ], text)
            for scan, number, organ, text in zip(*columns, strict=True)
        ]

    def row_label(self, row: int) -> str:
        """Return how a message names a row: file, line, slice and organ."""
        scan_id = self.scan_ids[int(self.scan[row])]
        where = slice_id(scan_id, int(self.number[row]))
        return f"{self.name}, line {row + 2} ({where}, {ORGANS[int(self.organ[row])]})"


def read_mask_table(
    path: Path | str,
    *,
    data: bytes | None = None,
    mask_column: MaskColumn | None = None,
    any_scan: bool = False,
) -> MaskTable:
    """Read a CSV of the competition's form and check all but the RLE texts.

    Parameters
    ----------
    path
        The file, or what to call it where ``data`` is given.
    data
        The file's content, for one inside a zip.
    mask_column
        ``"segmentation"`` or ``"predicted"``; by default whichever the file has.
    any_scan
        Take scan ids of any form, as a dataset made of volumes has them.

    Returns
    -------
    MaskTable
        The rows; a file that holds only a header gives an empty table.

    Raises
    ------
    InputError
        Where the file cannot be read as UTF-8 CSV, lacks a column, or holds an id that does not
        parse, an unknown organ, the same row twice, or an image size that is no whole number.
    """
    name = str(path)
    frame = read_csv(path, data)
    columns = list(frame.columns)
    wanted = [mask_column] if mask_column else ["segmentation", "predicted"]
    mask_columns = [column for column in wanted if column in columns]
    if not {"id", "class"} <= set(columns) or len(mask_columns) != 1:
        raise InputError(
            f"{name}: found the columns {shorten(str(columns))}; expected id, class and "
            f"{' or '.join(wanted)}. Give a CSV of the competition's form."
        )
    problems: list[Problem] = []
    ids = frame["id"]
    id_index, unique_ids = ids.factorize()
    pattern = _SLICE_ID_OF_ANY_SCAN if any_scan else SLICE_ID
    parsed = [pattern.fullmatch(text) for text in unique_ids]
    bad_ids = np.array([match is None for match in parsed], np.bool_)
    scan_ids: dict[str, int] = {}
    scan_of_id = np.array(
        [scan_ids.setdefault(m[1] if m else "", len(scan_ids)) for m in parsed], np.int64
    )
    number_of_id = np.array([int(m[2]) if m else 0 for m in parsed], np.int64)
    problems += [
        Problem(
            where=f"{name}, line {row + 2}",
            found=f"id {ids.iloc[row]!r}",
            expected="an id such as case123_day20_slice_0065",
        )
        for row in np.flatnonzero(bad_ids[id_index])
    ]
    organ_index = {name: index for index, name in enumerate(ORGANS)}
    organ = np.array([organ_index.get(text, -1) for text in frame["class"]], np.int64)
    problems += [
        Problem(
            where=f"{name}, line {row + 2} ({ids.iloc[row]})",
            found=f"class {frame['class'].iloc[row]!r}",
            expected=", ".join(ORGANS),
        )
        for row in np.flatnonzero(organ < 0)
    ]
    scan, number = scan_of_id[id_index], number_of_id[id_index]
    # Compared by what the id means, so that slice_0065 and slice_00065 are the same row.
    key = frame.assign(scan=scan, number=number, organ=organ)
    repeated = key.duplicated(["scan", "number", "organ"]).to_numpy()
    repeated = repeated & ~bad_ids[id_index] & (organ >= 0)
    problems += [
        Problem(
            where=f"{name}, line {row + 2}",
            found=f"a second row for {ids.iloc[row]}, {frame['class'].iloc[row]}",
            expected="one row a slice and organ",
        )
        for row in np.flatnonzero(repeated)
    ]
    sizes: dict[str, NDArray[np.int64]] = {}
    if {"image_height", "image_width"} <= set(columns):
        for axis in ("height", "width"):
            values = to_numbers(frame[f"image_{axis}"])
            bad = ~((values >= 1) & (values <= MOST_SIDE) & (values == np.floor(values)))
            problems += [
                Problem(
                    where=f"{name}, line {row + 2} ({ids.iloc[row]})",
                    found=f"image_{axis} {frame[f'image_{axis}'].iloc[row]!r}",
                    expected=f"a whole number of pixels from 1 to {MOST_SIDE}",
                )
                for row in np.flatnonzero(bad)
            ]
            sizes[axis] = np.where(bad, 1, values).astype(np.int64)
    raise_problems(problems, remedy=f"Correct these rows of {name}.")
    return MaskTable(
        name=name,
        scan_ids=tuple(scan_ids),
        scan=scan,
        number=number,
        organ=organ,
        texts=tuple(frame[mask_columns[0]]),
        height=sizes.get("height"),
        width=sizes.get("width"),
    )


def to_numbers(column: Series[str]) -> NDArray[np.float64]:
    """Return a column of :func:`read_csv` as numbers; NaN for a text that is not one."""
    from pandas import to_numeric

    return to_numeric(column, errors="coerce").to_numpy(np.float64)


def read_csv(path: Path | str, data: bytes | None = None) -> DataFrame:
    """Read a CSV, gzipped or not, with every field as text.

    Parameters
    ----------
    path
        The file, or what to call it where ``data`` is given.
    data
        The file's content.

    Raises
    ------
    InputError
        Where it cannot be read, is larger than any real one, is no UTF-8 CSV, names a column
        twice, or has rows of another number of fields than its header.
    """
    import pandas as pd

    try:
        content = _read_at_most(Path(path)) if data is None else data
        if content.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
                content = packed.read(MOST_TABLE_BYTES + 1)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give the path of a CSV file.") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shorten(str(path))}: cannot be read ({reason}).") from error
    if len(content) > MOST_TABLE_BYTES:
        raise InputError(
            f"{path}: found more than {MOST_TABLE_BYTES} bytes; expected a table of fewer. "
            "Give a CSV of the competition's form."
        )
    kind = next((kind for start, kind in _NO_TABLES.items() if content.startswith(start)), None)
    if b"\0" in content:
        kind = kind or "NUL bytes"
    if kind:
        raise InputError(
            f"{path}: is no UTF-8 CSV file: found {kind}; expected text. "
            "Unpack it, or save it as CSV in UTF-8."
        )
    try:
        with warnings.catch_warnings():
            # Rows longer than the header would lose their end with no more than a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                io.BytesIO(content),
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                index_col=False,
            )
    except (
        UnicodeDecodeError,
        pd.errors.ParserError,
        pd.errors.ParserWarning,
        pd.errors.EmptyDataError,
    ) as error:
        raise InputError(
            f"{path}: is no UTF-8 CSV file ({shorten(str(error))}). Save it as CSV in UTF-8, one "
            "row a line, or download it again."
        ) from error
    _check_header(path, content, frame)
    commas = len(frame.columns) - 1
    if b'"' not in content and content.count(b",") != commas * (len(frame) + 1):
        # pandas takes a row that ends early, as in a file cut off, for one with empty fields.
        raise_problems(
            [
                Problem(
                    where=f"{path}, line {line}",
                    found=f"{text.count(b',') + 1} fields",
                    expected=f"{commas + 1}",
                )
                for line, text in enumerate(content.splitlines(), 1)
                if text.strip() and text.count(b",") != commas
            ],
            remedy=f"Correct these rows of {path}, or download it again.",
        )
    return frame


def _read_at_most(path: Path) -> bytes:
    if find_kind(path) == "device":
        raise OSError("a device, not a file")
    with path.open("rb") as file:
        return file.read(MOST_TABLE_BYTES + 1)


def _check_header(path: Path | str, content: bytes, frame: DataFrame) -> None:
    """Refuse a header that names a column twice, of which pandas would take the first."""
    lines = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").splitlines()[:1]
    named = [field.strip() for field in b"".join(lines).decode("utf-8").split(",")]
    twice = [field for field in dict.fromkeys(named) if named.count(field) > 1 and field]
    if twice and '"' not in "".join(named):
        raise InputError(
            f"{path}, line 1: found the column {shorten(twice[0])!r} twice; expected every column "
            "once. Remove one of the two."
        )


def format_rows(
    rows: Iterable[Row], column: MaskColumn, *, sizes: Iterable[Size] | None = None
) -> str:
    """Return rows as the text of a CSV in the competition's form; :func:`read_mask_table` reads it.

    Parameters
    ----------
    rows
        ``(slice_id, organ, RLE text)``; without any, the text holds only the header.
    column
        The name of the column of RLE texts.
    sizes
        For each row the image size ``(height, width)`` in pixels, for the columns ``image_height``
        and ``image_width``; without, the text has no such columns.

    Raises
    ------
    ValueError
        If rows and sizes differ in count.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["id", "class", column]
    if sizes is None:
        writer.writerows([header, *rows])
    else:
        writer.writerow([*header, "image_height", "image_width"])
        writer.writerows((*row, *size) for row, size in zip(rows, sizes, strict=True))
    return text.getvalue()


def take_rows(table: MaskTable, scan_ids: Sequence[str]) -> MaskTable | None:
    """Return a table's rows of some scans; ``None`` where it has none."""
    wanted = set(scan_ids)
    chosen = np.array([scan_id in wanted for scan_id in table.scan_ids], np.bool_)
    keep = np.flatnonzero(chosen[table.scan]) if len(table) else np.zeros(0, np.int64)
    if not len(keep):
        return None
    position = np.cumsum(chosen) - 1
    return MaskTable(
        name=table.name,
        scan_ids=tuple(s for s in table.scan_ids if s in wanted),
        scan=position[table.scan[keep]],
        number=table.number[keep],
        organ=table.organ[keep],
        texts=tuple(table.texts[row] for row in keep.tolist()),
        height=None if table.height is None else table.height[keep],
        width=None if table.width is None else table.width[keep],
    )


def tabulate_rows(
    name: str, scan_rows: Mapping[str, Iterable[Row]], sizes: Mapping[str, Size] | None = None
) -> MaskTable | None:
    """Make a table of rows ``(slice_id, organ, RLE text)`` by scan id; ``None`` of no rows.

    Without ``sizes``, image sizes ``(height, width)``, the table has none that can be used.
    """
    known = sizes or {}
    listed = [
        (
            index,
            int(row_id.rpartition("_")[2]),
            ORGANS.index(organ),
            text,
            *known.get(scan_id, (1, 1)),
        )
        for index, (scan_id, rows) in enumerate(scan_rows.items())
        for row_id, organ, text in rows
    ]
    if not listed:
        return None
    scan, number, organ, texts, height, width = zip(*listed, strict=True)
    return MaskTable(
        name=name,
        scan_ids=tuple(scan_rows),
        scan=np.array(scan, np.int64),
        number=np.array(number, np.int64),
        organ=np.array(organ, np.int64),
        texts=tuple(texts),
        height=np.array(height, np.int64),
        width=np.array(width, np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class ScanRows:
    """Where the rows of one scan stand in a table.

    Attributes
    ----------
    scan_id
        The scan.
    numbers
        Its slice numbers in the table, ascending; not necessarily consecutive.
    rows
        ``(slices, organs)`` int64 row of the table; -1 where the table has none.
    """

    scan_id: str
    numbers: tuple[int, ...]
    rows: NDArray[np.int64]


def group_rows(table: MaskTable) -> tuple[ScanRows, ...]:
    """Return where each scan's rows stand, scans in numeric order of patient and day.

    An empty table gives an empty tuple.
    """
    order = np.lexsort((table.number, table.scan))
    bounds = np.searchsorted(table.scan[order], np.arange(len(table.scan_ids) + 1))
    scans = []
    for index in sorted(range(len(table.scan_ids)), key=lambda i: scan_order(table.scan_ids[i])):
        mine = order[bounds[index] : bounds[index + 1]]
        numbers, position = np.unique(table.number[mine], return_inverse=True)
        rows = np.full((len(numbers), len(ORGANS)), -1, np.int64)
        rows[position, table.organ[mine]] = mine
        scans.append(
            ScanRows(
                scan_id=table.scan_ids[index], numbers=tuple(numbers.tolist()), rows=rows
            )
        )  # fmt: skip
    return tuple(scans)


def find_sizes(
    table: MaskTable, scans: Iterable[ScanRows], *, sizes: Mapping[str, Size] | None = None
) -> dict[str, Size]:
    """Return the image size ``(height, width)`` in pixels of each scan.

    Parameters
    ----------
    table
        Supplies the sizes from its ``image_height`` and ``image_width`` columns.
    scans
        The scans to look up.
    sizes
        Sizes known from elsewhere; they stand before the table's.

    Raises
    ------
    InputError
        Where a scan's size is known from neither, or its rows disagree.
    """
    found: dict[str, Size] = {}
    unknown: list[str] = []
    problems: list[Problem] = []
    for scan in scans:
        if sizes is not None and scan.scan_id in sizes:
            height, width = sizes[scan.scan_id]
            found[scan.scan_id] = (int(height), int(width))
        elif table.height is None or table.width is None:
            unknown.append(scan.scan_id)
        else:
            rows = scan.rows[scan.rows >= 0]
            pairs = np.unique(np.stack([table.height[rows], table.width[rows]], axis=1), axis=0)
            found[scan.scan_id] = (int(pairs[0, 0]), int(pairs[0, 1]))
            if len(pairs) > 1:
                listed = ", ".join(f"{width} x {height}" for height, width in pairs.tolist())
                problems.append(
                    Problem(
                        where=f"{table.name}, {scan.scan_id}",
                        found=f"the image sizes {listed} (width x height)",
                        expected="one size a scan",
                    )
                )
    if unknown:
        raise InputError(
            f"{table.name}: the image size of {name_some(unknown)} is not known; expected the "
            "columns image_height and image_width. Give the source that holds the images "
            "(--images SOURCE)."
        )
    raise_problems(problems, remedy=f"Correct the image sizes in {table.name}.")
    return found


def paint_runs(
    runs: RowRuns, rows: NDArray[np.int64], *, height: int, width: int
) -> LabelMap:  # fmt: skip
    """Paint the rows of one scan into a bit-coded label map.

    Parameters
    ----------
    runs
        Decoded rows.
    rows
        ``(slices, organs)`` int64 index into ``runs``; -1 leaves the slice empty.
    height, width
        Image size in pixels.

    Returns
    -------
    numpy.ndarray
        ``(slices, height, width)`` uint8.
    """
    volume = np.zeros((len(rows), height, width), np.uint8)
    flat = volume.reshape(-1)
    for organ, bit in enumerate(ORGAN_BITS):
        index = rows[:, organ]
        present = np.flatnonzero(index >= 0)
        first, last = runs.offsets[index[present]], runs.offsets[index[present] + 1]
        counts = last - first
        picked = run_pixels(first, counts)
        base = np.repeat(present * (height * width), counts)
        flat[run_pixels(runs.starts[picked] + base, runs.lengths[picked])] |= np.uint8(bit)
    return volume


def decode_table(
    table: MaskTable, *, sizes: Mapping[str, Size] | None = None
) -> Iterator[tuple[str, tuple[int, ...], LabelMap]]:
    """Decode a table to one bit-coded label map a scan.

    Parameters
    ----------
    table
        Rows of a competition CSV.
    sizes
        Image size ``(height, width)`` in pixels by scan id; by default the table's own columns.

    Yields
    ------
    tuple
        ``(scan_id, slice numbers, (z, y, x) uint8 map)``, scans in numeric order, slices by
        number. A slice without a row for an organ has none of it.

    Raises
    ------
    InputError
        Before anything is yielded: where a size is unknown or an RLE text is refused; all
        refused texts are told together.
    """
    scans = group_rows(table)
    found = find_sizes(table, scans, sizes=sizes)
    pixels = np.array([np.prod(found[scan_id]) for scan_id in table.scan_ids], np.int64)
    runs, refused = decode_rows(table.texts, pixels=pixels[table.scan])
    raise_problems(
        (
            Problem(where=table.row_label(p.row), found=f"RLE {p.found}", expected=p.expected)
            for p in refused
        ),
        remedy=f"Correct these rows of {table.name}.",
    )

    def paint() -> Iterator[tuple[str, tuple[int, ...], LabelMap]]:
        for scan in scans:
            height, width = found[scan.scan_id]
            yield (
                scan.scan_id,
                scan.numbers,
                paint_runs(runs, scan.rows, height=height, width=width),
            )

    return paint()


def name_some(names: Sequence[str]) -> str:
    """Return the first five of some names, and how many more there are, for a message."""
    shown = "; ".join(names[:_MOST_NAMED])
    more = len(names) - _MOST_NAMED
    return shown + (f"; and {more} more" if more > 0 else "")
