"""The competition's formats: ids, file names, organs, CSV tables.

Vocabulary: ``patient_id`` is ``case123``; ``scan_id`` is ``case123_day20`` (nnU-Net's case
identifier too); ``slice_id`` is ``case123_day20_slice_0065``. Slice 1 is the most cranial one.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/data
"""

from __future__ import annotations

import gzip
import io
import re
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gi2nnunet.errors import InputError, Problem, raise_problems, shorten
from gi2nnunet.files import find_kind
from gi2nnunet.limits import MOST_SIDE, MOST_TABLE_BYTES

ORGANS = ("large_bowel", "small_bowel", "stomach")
SLICE_THICKNESS_MM = 3.0

KNOWN_BAD_SCANS: Mapping[str, str] = {
    "case7_day0": "wrong masks",
    "case81_day30": "wrong masks",
    "case43_day18": "on the organisers' list of bad scans",
    "case43_day26": "on the organisers' list of bad scans",
    "case138_day0": "on the organisers' list of bad scans",
    "case124_day19": "on the organisers' list of bad scans",
    "case144_day15": "on the organisers' list of bad scans",
    "case61_day14": "on the organisers' list of bad scans",
    "case9_day27": "on the organisers' list of bad scans",
    "case34_day20": "on the organisers' list of bad scans",
    "case83_day11": "on the organisers' list of bad scans",
    "case13_day0": "on the organisers' list of bad scans",
}

# Scan id, number.
SLICE_ID = re.compile(r"(case\d{1,9}_day\d{1,9})_slice_(\d{4,9})", re.ASCII)
# Patient id, day, number, width, height, spacing x, spacing y.
IMAGE_PATH = re.compile(
    r"(?:.*/)?(case\d{1,9})/\1_day(\d{1,9})/scans/"
    r"slice_(\d{4,9})_(\d{1,6})_(\d{1,6})_(\d{1,6}\.\d{1,6})_(\d{1,6}\.\d{1,6})\.png",
    re.ASCII,
)
_NO_TABLES = {
    b"PK\x03\x04": "a zip (or an Excel workbook)",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"\x89PNG": "a PNG",
}
_SLICE_ID_OF_ANY_SCAN = re.compile(r"(\S.*)_slice_(\d{4,9})", re.ASCII)
_SCAN_ID = re.compile(r"(case\d{1,9})_day(\d{1,9})", re.ASCII)


def patient_of(scan_id: str) -> str:
    """Return the patient a scan belongs to: ``case123_day20`` gives ``case123``."""
    return scan_id.partition("_day")[0]


def day_of(scan_id: str) -> int:
    """Return the day of a scan: ``case123_day20`` gives 20; -1 for an id of another form."""
    found = _SCAN_ID.fullmatch(scan_id)
    return int(found[2]) if found else -1


def scan_order(scan_id: str) -> tuple[int, int, str]:
    """Return a sort key that puts scans in numeric order of patient and day."""
    found = _SCAN_ID.fullmatch(scan_id)
    return (int(found[1][4:]), int(found[2]), "") if found else (2**62, 0, scan_id)


def slice_id(scan_id: str, number: int) -> str:
    """Return the competition's slice id: ``("case123_day20", 65)`` gives ``..._slice_0065``."""
    return f"{scan_id}_slice_{number:04d}"


def image_name(number: int, *, width: int, height: int, spacing_mm: tuple[float, float]) -> str:
    """Return the competition's file name of one slice.

    Parameters
    ----------
    number
        Slice number, from 1.
    width, height
        Image size in pixels; the width comes first in the name.
    spacing_mm
        Pixel spacing ``(y, x)`` in mm; x comes first in the name.
    """
    spacing_y, spacing_x = spacing_mm
    return f"slice_{number:04d}_{width}_{height}_{spacing_x:.2f}_{spacing_y:.2f}.png"


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

    def row_label(self, row: int) -> str:
        """Return how a message names a row: file, line, slice and organ."""
        scan_id = self.scan_ids[int(self.scan[row])]
        where = slice_id(scan_id, int(self.number[row]))
        return f"{self.name}, line {row + 2} ({where}, {ORGANS[int(self.organ[row])]})"


def read_mask_table(
    path: Path | str,
    *,
    data: bytes | None = None,
    mask_column: str | None = None,
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
    unique_ids, first_seen = pd.factorize(ids)[::-1]
    pattern = _SLICE_ID_OF_ANY_SCAN if any_scan else SLICE_ID
    parsed = [pattern.fullmatch(text) for text in unique_ids]
    bad_ids = np.array([match is None for match in parsed], np.bool_)
    scan_names = pd.Series([m[1] if m else "" for m in parsed], dtype=object)
    scan_of_id, scan_ids = pd.factorize(scan_names)
    number_of_id = np.array([int(m[2]) if m else 0 for m in parsed], np.int64)
    problems += [
        Problem(
            where=f"{name}, line {row + 2}",
            found=f"id {ids.iloc[row]!r}",
            expected="an id such as case123_day20_slice_0065",
        )
        for row in (np.flatnonzero(bad_ids[first_seen]) if len(bad_ids) else [])
    ]
    organ = pd.Index(ORGANS).get_indexer(pd.Index(frame["class"]))
    problems += [
        Problem(
            where=f"{name}, line {row + 2} ({ids.iloc[row]})",
            found=f"class {frame['class'].iloc[row]!r}",
            expected=", ".join(ORGANS),
        )
        for row in np.flatnonzero(organ < 0)
    ]
    scan = scan_of_id[first_seen].astype(np.int64) if len(frame) else np.zeros(0, np.int64)
    number = number_of_id[first_seen] if len(frame) else np.zeros(0, np.int64)
    # Compared by what the id means, so that slice_0065 and slice_00065 are the same row.
    key = pd.DataFrame({"scan": scan, "number": number, "organ": organ})
    repeated = key.duplicated().to_numpy() & ~bad_ids[first_seen] & (organ >= 0)
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
            values = pd.to_numeric(frame[f"image_{axis}"], errors="coerce").to_numpy(np.float64)
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
        organ=organ.astype(np.int64),
        texts=tuple(frame[mask_columns[0]]),
        height=sizes.get("height"),
        width=sizes.get("width"),
    )


def read_csv(path: Path | str, data: bytes | None = None) -> pd.DataFrame:
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


def _check_header(path: Path | str, content: bytes, frame: pd.DataFrame) -> None:
    """Refuse a header that names a column twice, of which pandas would take the first."""
    lines = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n").splitlines()[:1]
    named = [field.strip() for field in b"".join(lines).decode("utf-8").split(",")]
    twice = [field for field in dict.fromkeys(named) if named.count(field) > 1 and field]
    if twice and '"' not in "".join(named):
        raise InputError(
            f"{path}, line 1: found the column {shorten(twice[0])!r} twice; expected every column "
            "once. Remove one of the two."
        )
