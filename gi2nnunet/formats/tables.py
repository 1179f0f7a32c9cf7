"""Tables of masks: the competition's CSV files, read, checked, grouped by scan and painted.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/data
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import (
    MOST_SIDE,
    MOST_TABLE_BYTES,
    InputError,
    Problem,
    count,
    is_table_bomb,
    name_some,
    raise_problems,
    shorten,
)
from gi2nnunet.core.files import find_kind, is_stray
from gi2nnunet.formats.ids import ORGANS, SLICE_ID, scan_order, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.rle import RleProblem, RowRuns, decode_rows, run_pixels

Row = tuple[str, str, str]
"""``(slice_id, organ, RLE text)``."""
Size = tuple[int, int]
"""Height and width of an image in pixels."""
MaskColumn = Literal["segmentation", "predicted"]
"""The column of RLE texts: the truth has the first, a submission the second."""

_ZIP_START = b"PK\x03\x04"
_NO_TABLES = {
    _ZIP_START: "a zip (or an Excel workbook)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"\x89PNG": "a PNG",
}
_LONG_FIELD = 64
_SLICE_ID_OF_ANY_SCAN = re.compile(r"(\S.*)_slice_(\d{4,9})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class MaskTable:
    """Rows of a competition CSV: ``train.csv``, a submission, a grader's answers.

    All arrays have one entry per row, in the file's order.

    Attributes
    ----------
    scan_ids
        Distinct scan ids in order of first appearance.
    scan, organ
        Index into ``scan_ids`` and into :data:`~gi2nnunet.formats.ids.ORGANS`.
    texts
        RLE text; empty for an empty mask.
    height, width
        Image size in pixels; ``None`` if the table has no such columns.
    warnings
        Reasons to doubt that label volumes were read as they were meant.
    spacing_mm
        Voxel spacing ``(z, y, x)`` by scan id, if these are rows of label volumes.
    """

    name: str
    scan_ids: tuple[str, ...]
    scan: NDArray[np.int64]
    number: NDArray[np.int64]
    organ: NDArray[np.int64]
    texts: tuple[str, ...]
    height: NDArray[np.int64] | None = None
    width: NDArray[np.int64] | None = None
    warnings: tuple[str, ...] = ()
    spacing_mm: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

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

    def row_name(self, row: int) -> str:
        """Return the slice and organ of a row for a message."""
        name = slice_id(self.scan_ids[int(self.scan[row])], int(self.number[row]))
        return f"{name}, {ORGANS[int(self.organ[row])]}"

    def row_label(self, row: int) -> str:
        """Return the file, line, slice and organ of a row for a message."""
        return f"{self.name}, line {row + 2} ({self.row_name(row)})"


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
        The file, or its name for messages if ``data`` is given.
    data
        The file's content, for one inside a zip.
    mask_column
        The column of RLE texts; by default the one of the two that the file has.
    any_scan
        Accept scan ids of any form, as a dataset made of volumes has them.

    Returns
    -------
    MaskTable
        The rows; a file that holds only a header gives an empty table.

    Raises
    ------
    InputError
        If the file cannot be read as UTF-8 CSV, a column is missing, or a row has an id of another
        form, an unknown organ, the same slice and organ as another, or a wrong image size.
    """
    name = str(path)
    columns = read_csv(path, data)
    wanted = [mask_column] if mask_column else ["segmentation", "predicted"]
    mask_columns = [column for column in wanted if column in columns]
    if not {"id", "class"} <= set(columns) or len(mask_columns) != 1:
        raise InputError(
            f"{name}: found the columns {shorten(str(list(columns)))}; expected id, class and "
            f"{' or '.join(wanted)}. Give a CSV of the competition's form."
        )
    problems: list[Problem] = []
    scan_ids, keys = _read_keys(name, columns, problems, any_scan=any_scan)
    sizes = {
        axis: _read_sizes(name, columns, f"image_{axis}", problems)
        for axis in ("height", "width")
        if {"image_height", "image_width"} <= set(columns)
    }
    raise_problems(problems, remedy=f"Correct these rows of {name}.")
    scan, number, organ = np.array(keys, np.int64).reshape(-1, 3).T.copy()
    texts = tuple(columns[mask_columns[0]])
    return MaskTable(
        name=name, scan_ids=scan_ids, scan=scan, number=number, organ=organ, texts=texts,
        height=sizes.get("height"), width=sizes.get("width"),
    )  # fmt: skip


def _read_keys(
    name: str, columns: Mapping[str, list[str]], problems: list[Problem], *, any_scan: bool
) -> tuple[tuple[str, ...], list[tuple[int, int, int]]]:
    """Return the scan ids, and each row's scan, slice number and organ; add what is wrong."""

    def refuse(line: int, found: str, expected: str) -> None:
        problems.append(Problem(where=f"{name}, line {line}", found=found, expected=expected))

    pattern = _SLICE_ID_OF_ANY_SCAN if any_scan else SLICE_ID
    scans: dict[str, int] = {}

    def parse(text: str) -> tuple[int, int] | None:
        match = pattern.fullmatch(text)
        return (scans.setdefault(match[1], len(scans)), int(match[2])) if match else None

    parsed = {text: parse(text) for text in dict.fromkeys(columns["id"])}
    keys: dict[tuple[int, int, int], None] = {}
    for line, (text, organ) in enumerate(zip(columns["id"], columns["class"], strict=True), 2):
        if (of_slice := parsed[text]) is None:
            refuse(line, f"id {text!r}", "an id such as case123_day20_slice_0065")
        if organ not in ORGANS:
            refuse(line, f"class {organ!r} of {text}", ", ".join(ORGANS))
        elif of_slice is not None:
            # Compared by what the id means, so that slice_0065 and slice_00065 are the same row.
            if (key := (*of_slice, ORGANS.index(organ))) in keys:
                refuse(line, f"a second row for {text}, {organ}", "one row per slice and organ")
            keys[key] = None
    return tuple(scans), list(keys)


def _read_sizes(
    name: str, columns: Mapping[str, list[str]], column: str, problems: list[Problem]
) -> NDArray[np.int64]:
    """Return a column of image sizes; add those that are wrong to the problems."""
    values = to_numbers(columns[column])
    bad = ~((values >= 1) & (values <= MOST_SIDE) & (values == np.floor(values)))
    problems += [
        Problem(
            where=f"{name}, line {row + 2} ({columns['id'][row]})",
            found=f"{column} {columns[column][row]!r}",
            expected=f"a whole number of pixels from 1 to {MOST_SIDE}",
        )
        for row in np.flatnonzero(bad)
    ]
    return np.where(bad, 1, values).astype(np.int64)


def to_numbers(texts: Iterable[str]) -> NDArray[np.float64]:
    """Return texts as numbers; NaN for a text that is not one."""

    def convert(text: str) -> float:
        try:
            return float(text) if text.isascii() and "_" not in text else math.nan
        except ValueError:
            return math.nan

    return np.array([convert(text) for text in texts], np.float64)


def read_csv(path: Path | str, data: bytes | None = None) -> dict[str, list[str]]:
    """Read a CSV, plain, gzipped or the only file of a zip: the texts of each column by its name.

    Parameters
    ----------
    path
        The file, or its name for messages if ``data`` is given.

    Raises
    ------
    InputError
        If it cannot be read, is larger than any real one, is not a UTF-8 CSV, names a column
        twice, or has rows with another number of fields than its header.
    """
    content = _read_bytes(path, data)
    kind = next((kind for start, kind in _NO_TABLES.items() if content.startswith(start)), None)
    if kind or b"\0" in content:
        raise _not_csv(path, kind or "NUL bytes")
    csv.field_size_limit(MOST_TABLE_BYTES)
    lines = io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")
    reader = csv.reader(lines, strict=True)
    columns: dict[str, list[str]] = {}
    problems: list[Problem] = []
    try:
        header = _check_header(path, next(row for row in reader if "".join(row).strip()))
        columns = {name: [] for name in header}
        kept = [columns[name] for name in header]
        for row in reader:
            if len(row) == len(header):
                for column, field in zip(kept, row, strict=True):
                    # Ids and names come many times: each is kept in memory once.
                    column.append(sys.intern(field) if len(field) < _LONG_FIELD else field)
            elif len(row) > 1 or "".join(row).strip():  # else a blank line
                where = f"{path}, line {reader.line_num}"
                problems.append(
                    Problem(where=where, found=count(len(row), "field"), expected=str(len(header)))
                )
    except StopIteration as error:
        raise _not_csv(path, "nothing") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise _not_csv(path, f"{error} in line {reader.line_num}") from error
    raise_problems(problems, remedy=f"Correct these rows of {path}, or download it again.")
    return columns


def _check_header(path: Path | str, header: list[str]) -> list[str]:
    """Return the names of columns; refuse a name that is there twice."""
    names = Counter(name.strip() for name in header)
    if twice := next((name for name, count in names.items() if name and count > 1), None):
        raise InputError(
            f"{path}, line 1: found the column {shorten(twice)!r} twice; expected every column "
            "once. Remove one of the two."
        )
    return header


def _read_bytes(path: Path | str, data: bytes | None) -> bytes:
    """Return a file's content, unpacked, which has at most :data:`MOST_TABLE_BYTES`."""
    try:
        if data is None:
            if find_kind(Path(path)) == "device":
                raise OSError("a device, not a file")
            with Path(path).open("rb") as file:
                data = file.read(MOST_TABLE_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MOST_TABLE_BYTES + 1)
        elif data.startswith(_ZIP_START):
            data = _unpack_zip(data)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Give the path of a CSV file.") from error
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{shorten(str(path))}: cannot be read ({reason}).") from error
    if len(data) > MOST_TABLE_BYTES:
        raise InputError(
            f"{path}: found more than {MOST_TABLE_BYTES} bytes; expected a smaller table. "
            "Give a CSV of the competition's form."
        )
    return data


def _unpack_zip(data: bytes) -> bytes:
    """Return the one CSV of a zip, as Kaggle gives single files; of other zips the zip itself."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as members:
        tables = [m for m in members.infolist() if not is_stray(m.filename)]
        if len(tables) != 1 or not tables[0].filename.lower().endswith(".csv"):
            return data
        size, packed = tables[0].file_size, tables[0].compress_size
        if size > MOST_TABLE_BYTES or is_table_bomb(size, packed=packed):
            raise zipfile.BadZipFile(f"{size} bytes packed into {packed}, more than in any table")
        return members.read(tables[0])


def _not_csv(path: Path | str, found: str) -> InputError:
    return InputError(
        f"{path}: is not a UTF-8 CSV file: found {shorten(found)}; expected text. "
        "Unpack it, save it as CSV in UTF-8, or download it again."
    )


def raise_refused(table: MaskTable, refused: Iterable[RleProblem]) -> None:
    """Raise an :class:`InputError` with the RLE texts of a table that were refused, if any."""
    raise_problems(
        (
            Problem(where=table.row_label(p.row), found=f"RLE {p.found}", expected=p.expected)
            for p in sorted(refused, key=lambda p: p.row)
        ),
        remedy=f"Correct these rows of {table.name}.",
    )


def format_rows(
    rows: Iterable[Row], column: MaskColumn, *, sizes: Iterable[Size] | None = None
) -> str:
    """Return rows as the text of a CSV in the competition's form; :func:`read_mask_table` reads it.

    ``sizes`` is the image size ``(height, width)`` in pixels of each row, for the columns
    ``image_height`` and ``image_width``; without it, the text has no such columns.

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
    """Return a table's rows of some scans; ``None`` if it has none."""
    chosen = np.isin(table.scan_ids, list(scan_ids))
    keep = np.flatnonzero(chosen[table.scan]) if len(table) else np.zeros(0, np.int64)
    if not len(keep):
        return None
    return replace(
        table,
        scan_ids=tuple(np.array(table.scan_ids)[chosen].tolist()),
        scan=(np.cumsum(chosen) - 1)[table.scan[keep]],
        number=table.number[keep],
        organ=table.organ[keep],
        texts=tuple(table.texts[row] for row in keep.tolist()),
        height=None if table.height is None else table.height[keep],
        width=None if table.width is None else table.width[keep],
    )


def tabulate_rows(
    name: str, scan_rows: Mapping[str, Sequence[Row]], sizes: Mapping[str, Size] | None = None
) -> MaskTable | None:
    """Make a table of rows ``(slice_id, organ, RLE text)`` by scan id; ``None`` if there are none.

    ``sizes`` are image sizes ``(height, width)`` by scan id; without it the table has none.
    """
    named = [row for rows in scan_rows.values() for row in rows]
    known = None
    if sizes is not None:
        known = [sizes[scan_id] for scan_id, rows in scan_rows.items() for _ in rows]
    text = format_rows(named, "segmentation", sizes=known)
    return read_mask_table(name, data=text.encode(), any_scan=True) if named else None


@dataclass(frozen=True, kw_only=True)
class ScanRows:
    """The rows of one scan in a table.

    Attributes
    ----------
    numbers
        Its slice numbers in the table, ascending; not necessarily consecutive.
    rows
        ``(slices, organs)`` int64 row of the table; -1 if the table has none.
    """

    scan_id: str
    numbers: tuple[int, ...]
    rows: NDArray[np.int64]


def group_rows(table: MaskTable) -> tuple[ScanRows, ...]:
    """Return the rows of each scan, scans in numeric order of patient and day."""
    order = np.lexsort((table.number, table.scan))
    bounds = np.searchsorted(table.scan[order], np.arange(len(table.scan_ids) + 1))
    scans = []
    for index in sorted(range(len(table.scan_ids)), key=lambda i: scan_order(table.scan_ids[i])):
        mine = order[bounds[index] : bounds[index + 1]]
        numbers, position = np.unique(table.number[mine], return_inverse=True)
        rows = np.full((len(numbers), len(ORGANS)), -1, np.int64)
        rows[position, table.organ[mine]] = mine
        scan_id = table.scan_ids[index]
        scans.append(ScanRows(scan_id=scan_id, numbers=tuple(numbers.tolist()), rows=rows))
    return tuple(scans)


def find_sizes(
    table: MaskTable, scans: Iterable[ScanRows], *, sizes: Mapping[str, Size] | None = None
) -> dict[str, Size]:
    """Return the image size ``(height, width)`` in pixels of each scan.

    They are those of the columns ``image_height`` and ``image_width``; ``sizes`` of the images by
    scan id are for a table without these columns.

    Raises
    ------
    InputError
        If a scan's size is known from neither, its rows disagree, or its image has another size.
    """
    found: dict[str, Size] = {}
    unknown: list[str] = []
    problems: list[Problem] = []
    for scan in scans:
        of_image = (sizes or {}).get(scan.scan_id)
        if table.height is not None and table.width is not None:
            rows = scan.rows[scan.rows >= 0]
            pairs = np.unique(np.stack([table.height[rows], table.width[rows]], axis=1), axis=0)
            size = (int(pairs[0, 0]), int(pairs[0, 1]))
            listed = ", ".join(f"{width} x {height}" for height, width in pairs.tolist())
            wrong = None
            if len(pairs) > 1:
                wrong = f"the image sizes {listed} (width x height)", "one size for each scan"
            elif of_image is not None and size != tuple(of_image):
                height, width = of_image
                wrong = (
                    f"the image size {listed} (width x height), but an image of {width} x {height}",
                    "the images of these masks",
                )
            if wrong:
                where = f"{table.name}, {scan.scan_id}"
                problems.append(Problem(where=where, found=wrong[0], expected=wrong[1]))
        elif of_image is not None:
            size = (int(of_image[0]), int(of_image[1]))
        else:
            unknown.append(scan.scan_id)
            continue
        found[scan.scan_id] = size
    if unknown:
        raise InputError(
            f"{table.name}: the image size of {name_some(unknown)} is not known; expected the "
            "columns image_height and image_width. Give the source that holds the images "
            "(--images SOURCE)."
        )
    raise_problems(
        problems, remedy=f"Correct the image sizes in {table.name}, or give the images it is of."
    )
    return found


def paint_runs(runs: RowRuns, rows: NDArray[np.int64], *, height: int, width: int) -> LabelMap:
    """Paint the rows of one scan into a bit-coded label map ``(slices, height, width)``.

    ``rows`` is a ``(slices, organs)`` int64 index into ``runs``; -1 leaves the slice empty.
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
    """Decode a table to one bit-coded label map per scan.

    Parameters
    ----------
    sizes
        Image size ``(height, width)`` in pixels by scan id; by default the table's own columns.

    Returns
    -------
    iterator of tuple
        ``(scan_id, slice numbers, (z, y, x) uint8 map)``, scans in numeric order, slices by
        number. A slice without a row for an organ has none of it.

    Raises
    ------
    InputError
        If a size is unknown or an RLE text is refused; all refused texts are reported together.
    """
    scans = group_rows(table)
    found = find_sizes(table, scans, sizes=sizes)
    pixels = np.array([np.prod(found[scan_id]) for scan_id in table.scan_ids], np.int64)
    runs, refused = decode_rows(table.texts, pixels=pixels[table.scan])
    raise_refused(table, refused)
    return (
        (
            scan.scan_id,
            scan.numbers,
            paint_runs(
                runs, scan.rows, height=found[scan.scan_id][0], width=found[scan.scan_id][1]
            ),
        )
        for scan in scans
    )
