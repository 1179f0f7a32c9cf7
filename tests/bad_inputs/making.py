"""What the entries are made with."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np

from tests.source_factory import ORGANS, make_source, write_files, write_zip

NAME = "Dataset501_UWGI"
SCANS = ("case2_day1", "case2_day10", "case10_day0", "case11_day3")
FIRST_ROW = "case10_day0_slice_0002, large_bowel"  # 16 - 2 rows of 12 + 1 columns
THIRD = "case2_day10/scans/slice_0003_13_14_"

Files = dict[str, bytes]
Change = Callable[[Files], object]
Make = Callable[[Path], None]

RAW = f"gi2nnunet-workspace/raw/{NAME}"
PREPROCESSED = f"gi2nnunet-workspace/preprocessed/{NAME}"
MODEL = f"gi2nnunet-workspace/results/{NAME}/nnUNetTrainer__gi2nnunetTinyPlans__2d"


# -- sources


def folder(*changes: Change) -> Make:
    """Write a source as the folder ``source``, after some changes to its files."""

    def make(here: Path) -> None:
        write_files(here / "source", spoil(*changes))

    return make


def zipped(*changes: Change, after: Callable[[Path], None] | None = None) -> Make:
    """Write a source as ``source.zip``, after some changes; then change the zip itself."""

    def make(here: Path) -> None:
        write_zip(here / "source.zip", spoil(*changes))
        if after:
            after(here / "source.zip")

    return make


def then(*steps: Make) -> Make:
    """Do one after another."""

    def make(here: Path) -> None:
        for step in steps:
            step(here)

    return make


def spoil(*changes: Change) -> Files:
    files = make_source(SCANS).files()
    for change in changes:
        change(files)
    return files


def write(name: str, content: bytes | str) -> Make:
    """Write one file."""

    def make(here: Path) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make


def remove(name: str) -> Make:
    return lambda here: (here / name).unlink()


def edit(name: str, change: Callable[[bytes], bytes]) -> Make:
    """Change one file's content."""

    def make(here: Path) -> None:
        (here / name).write_bytes(change((here / name).read_bytes()))

    return make


def edit_json(name: str, change: Callable[[dict], object]) -> Make:
    """Change one file's JSON."""

    def make(here: Path) -> None:
        content = json.loads((here / name).read_text())
        change(content)
        (here / name).write_text(json.dumps(content))

    return make


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def picture(files: Files, scan_id: str, number: int) -> str:
    return next(n for n in files if f"{scan_id}/scans/slice_{number:04d}_" in n)


def edit_rows(change: Callable[[list[str]], list[str]]) -> Change:
    """Change train.csv's lines; the first row of a mask comes first."""

    def edit_files(files: Files) -> None:
        header, *rows = files["train.csv"].decode().splitlines()
        rows.sort(key=lambda row: (row.endswith(","), row))
        files["train.csv"] = "\n".join(change([header, *rows])).encode() + b"\n"

    return edit_files


def with_table(change: Callable[[bytes], bytes]) -> Change:
    """Change train.csv's bytes."""

    def edit_files(files: Files) -> None:
        files["train.csv"] = change(files["train.csv"])

    return edit_files


def with_rle(text: str) -> Change:
    """Give the first row of a mask another RLE text."""
    return edit_rows(lambda rows: [rows[0], rows[1].rpartition(",")[0] + f",{text}", *rows[2:]])


def with_picture(
    change: Callable[[bytes], bytes | None] = lambda data: data,
    name: Callable[[str], str] | None = None,
) -> Change:
    """Change the third slice of case2_day10, its bytes or its name; ``None`` removes it."""

    def edit_files(files: Files) -> None:
        old = picture(files, "case2_day10", 3)
        content = change(files.pop(old))
        if content is not None:
            files[name(old) if name else old] = content

    return edit_files


def without_rows(slice_id: str) -> Change:
    return edit_rows(lambda rows: [row for row in rows if slice_id not in row])


def recode(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Decode the third slice of case2_day10, change its pixels, encode it again."""
    return with_picture(lambda data: imagecodecs.png_encode(change(imagecodecs.png_decode(data))))


# -- PNGs


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(
    pixels: np.ndarray,
    *,
    bits: int = 16,
    colour: int = 0,
    size: tuple[int, int] | None = None,
    extra: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    """Return a PNG chunk by chunk, so that it can lie."""
    height, width = pixels.shape[:2]
    stated = size or (width, height)
    header = struct.pack(">IIBBBBB", *stated, bits, colour, 0, 0, int(interlaced))
    planes = [pixels]
    if interlaced:
        passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2),
                  (0, 2, 1, 2), (1, 2, 0, 1))  # fmt: skip
        planes = [pixels[y::dy, x::dx] for y, dy, x, dx in passes]
    lines = b"".join(
        b"\0" + row.tobytes()
        for plane in planes
        if plane.size
        for row in plane.astype(">u2" if bits == 16 else "u1")
    )
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(lines))
        + png_chunk(b"IEND", b"")
    )


# -- tables for score


TRUTH = "id,class,segmentation,image_height,image_width\n"
ROW = "case1_day0_slice_0001"
ROWS = tuple(f"{ROW},{organ},1 2" for organ in ORGANS)


def write_tables(folder: Path) -> None:
    """The truth of one slice, and submissions that are wrong in one way each."""
    (folder / "truth.csv").write_text(TRUTH + "".join(f"{row},4,5\n" for row in ROWS))
    tables = {
        "right": ROWS,
        "missing": ROWS[:2],
        "extra": [*ROWS, "case1_day0_slice_0002,stomach,"],
        "doubled": [*ROWS, ROWS[0]],
        "rle": [f"{ROW},large_bowel,20 2", *ROWS[1:]],
        "order": ROWS[::-1],
    }
    for name, lines in tables.items():
        text = "\n".join(["id,class,predicted", *lines, ""])
        (folder / f"{name}.csv").write_text(text)


def with_submission(content: bytes | str) -> Make:
    """Write the tables, and ``bad.csv``."""
    return then(write_tables, write("bad.csv", content))


def with_truth(rows: str) -> Make:
    """Write the tables, and ``bad.csv`` as a truth with these size columns."""
    return with_submission(TRUTH + "".join(f"{row},{rows}\n" for row in ROWS))


# -- models


def finish_model(folder: Path, *, folds=("all",), plans="gi2nnunetTinyPlans") -> None:
    """Make what looks like a finished model."""
    for fold in folds:
        place = folder / "gi2nnunet-workspace" / "results" / NAME
        place = place / f"nnUNetTrainer__{plans}__2d" / f"fold_{fold}"
        place.mkdir(parents=True)
        (place / "checkpoint_final.pth").touch()
