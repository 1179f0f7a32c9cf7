"""CSVs and the RLE texts in them."""

from __future__ import annotations

import gzip

from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import (
    FIRST_ROW,
    ROW,
    ROWS,
    edit_rows,
    folder,
    with_rle,
    with_submission,
    with_table,
    with_truth,
    write_tables,
)

CONVERT = "convert source --jobs 1"
SCORE = "score bad.csv --truth truth.csv"
HEADER = "id,class,predicted\n"
HUGE = 100_000_000


def source(name: str, change, *message: str) -> BadInput:
    """An entry for a bad train.csv."""
    return BadInput(name=name, make=folder(change), command=CONVERT, message=message)


def submission(name: str, content: bytes | str, *message: str) -> BadInput:
    """An entry for a bad submission against the truth of one slice."""
    return BadInput(name=name, make=with_submission(content), command=SCORE, message=message)


def size(text: str) -> BadInput:
    """An entry for an image size that is none."""
    return BadInput(
        name=f"an image size of {text or 'nothing'}",
        make=with_truth(f"{text},5"),
        command="score right.csv --truth bad.csv",
        message=(
            f"bad.csv, line 2 ({ROW}): found image_height '{text}'",
            "expected a whole number of pixels from 1 to 4096",
            "Correct these rows of",
        ),
    )


def rle(name: str, text: str, *message: str) -> BadInput:
    return source(
        f"RLE: {name}",
        with_rle(text),
        FIRST_ROW,
        "found RLE",
        *message,
        "expected",
        "Correct these",
    )


ALL_ROWS = HEADER + "".join(f"{row}\n" for row in ROWS)
TABLES = (
    source(
        "wrong columns",
        edit_rows(lambda rows: ["id,organ,segmentation", *rows[1:]]),
        "source/train.csv: found the columns ['id', 'organ', 'segmentation']",
        "expected id, class and segmentation",
        "Give a CSV of the competition's form",
    ),
    source(
        "another separator",
        with_table(lambda data: data.replace(b",", b";")),
        "source/train.csv: found the columns ['id;class;segmentation']",
        "Give a CSV",
    ),
    source(
        "a column twice",
        edit_rows(
            lambda rows: ["id,class,segmentation,class", *(f"{row},stomach" for row in rows[1:])]
        ),
        "source/train.csv, line 1: found the column 'class' twice",
        "expected every column once",
        "Remove one",
    ),
    source(
        "an id of another form",
        edit_rows(lambda rows: [*rows, "case2_slice_0001,stomach,"]),
        "source/train.csv, line 62",
        "found id 'case2_slice_0001'",
        "expected an id such as case123_day20_slice_0065",
        "Correct these rows",
    ),
    source(
        "an id beyond 64 bits",
        edit_rows(lambda rows: [*rows, f"case{'9' * 25}_day1_slice_0001,stomach,"]),
        "source/train.csv, line 62",
        "found id 'case9999",
        "Correct these rows",
    ),
    source(
        "an id in other digits",
        edit_rows(lambda rows: [*rows, "case\u0662_day1_slice_0001,stomach,"]),
        "source/train.csv, line 62",
        "found id 'case\u0662",
        "expected an id such as",
    ),
    source(
        "an id of 100 MB",
        edit_rows(lambda rows: [*rows, f"case{'9' * HUGE},stomach,"]),
        "source/train.csv, line 62",
        "found id 'case9999",
        "(100000009 characters)",
        "Correct these rows",
    ),
    source(
        "an unknown organ",
        edit_rows(lambda rows: [rows[0], rows[1].replace("large_bowel", "liver"), *rows[2:]]),
        "source/train.csv, line 2",
        "found class 'liver' of case10_day0_slice_0002",
        "expected large_bowel, small_bowel, stomach",
        "Correct these rows",
    ),
    source(
        "a row twice",
        edit_rows(lambda rows: [*rows, rows[1]]),
        "source/train.csv, line 62: found a second row for case10_day0_slice_0002, large_bowel",
        "expected one row per slice and organ",
        "Correct these rows",
    ),
    source(
        "an empty train.csv",
        with_table(lambda data: b""),
        "source/train.csv: is not a UTF-8 CSV",
        "found nothing",
        "download it again",
    ),
    source(
        "a train.csv of its header",
        with_table(lambda data: data[: data.index(b"\n") + 1]),
        "found an image without rows",
        "expected 3 rows in source/train.csv",
        "--allow-missing",
    ),
    source(
        "a train.csv cut off",
        with_table(lambda data: data + b"case2_day1_slice_0006,sto"),
        "source/train.csv, line 62: found 2 fields; expected 3",
        "or download it again",
    ),
    source(
        "a row of four fields",
        edit_rows(lambda rows: [*rows[:-1], rows[-1] + ",x"]),
        "source/train.csv",
        "line 61: found 4 fields; expected 3",
        "download it again",
    ),
    source(
        "NUL bytes",
        with_table(lambda data: data.replace(b"stomach", b"stom\0ch", 1)),
        "source/train.csv: is not a UTF-8 CSV file: found NUL bytes",
        "expected text",
        "save it",
    ),
    source(
        "UTF-16",
        with_table(lambda data: data.decode().encode("utf-16")),
        "source/train.csv: is not a UTF-8 CSV file: found text in UTF-16",
        "save it as CSV",
    ),
    source(
        "UTF-16 without a mark",
        with_table(lambda data: data.decode().encode("utf-16-le")),
        "source/train.csv: is not a UTF-8 CSV file: found NUL bytes",
        "save it as CSV",
    ),
    source(
        "Latin-1",
        with_table(lambda data: data.replace(b"stomach", b"Magen\xe4", 1)),
        "source/train.csv: is not a UTF-8 CSV file",
        "can't decode byte 0xe4",
        "save it as CSV",
    ),
    source(
        "a quote that is never closed",
        edit_rows(lambda rows: [rows[0], '"' + rows[1], *rows[2:]]),
        "source/train.csv: is not a UTF-8 CSV file",
        "unexpected end of data",
        "download it again",
    ),
    source(
        "quotes around two rows",
        edit_rows(
            lambda rows: [
                rows[0],
                rows[1].replace(",large_bowel,", ',large_bowel,"'),
                rows[2] + '"',
                *rows[3:],
            ]
        ),
        "source/train.csv, case10_day0_slice_0002: found 2 of 3 rows",
        "--allow-missing",
    ),
    submission(
        "a header of 100 MB",
        "id," + "x" * HUGE + "\n",
        "bad.csv: found the columns ['id', 'xx",
        "expected id, class and segmentation or predicted",
        "Give a CSV",
    ),
    submission(
        "a gzip cut off",
        gzip.compress(ALL_ROWS.encode())[:-10],
        "bad.csv: cannot be read",
        "ended before the end-of-stream marker",
    ),
    submission(
        "a gzip with a wrong checksum",
        gzip.compress(ALL_ROWS.encode())[:-8] + bytes(8),
        "bad.csv: cannot be read",
        "CRC check failed",
    ),
    submission(
        "an image as table", b"\x89PNG\r\n\x1a\n", "bad.csv: is not a UTF-8 CSV file: found a PNG"
    ),
    submission(
        "an Excel workbook",
        b"PK\x03\x04" + bytes(50),
        "bad.csv: is not a UTF-8 CSV file: found a zip (or an Excel workbook)",
        "save it as CSV",
    ),
    submission(
        "a slice number beyond 64 bits",
        HEADER + f"case1_day0_slice_{'1' * 30},stomach,\n",
        "bad.csv, line 2: found id 'case1_day0_slice_111",
        "expected an id such as",
    ),
    submission(
        "an RLE of 100 MB",
        HEADER
        + f"{ROW},large_bowel,{'1 1 ' * (HUGE // 4)}\n"
        + "".join(f"{row}\n" for row in ROWS[1:]),
        f"bad.csv, line 2 ({ROW}, large_bowel): found RLE '1 1 1 1",
        "of 100000000 characters",
        "expected at most 120 for 20 pixels",
        "Correct these rows",
    ),
    size("0"),
    size("-4"),
    size("4.5"),
    size("1048576"),
    size("99999999999999999999"),
    size("nan"),
    size("four"),
    size(""),
    BadInput(
        name="two image sizes of one scan",
        make=with_submission(
            "id,class,segmentation,image_height,image_width\n"
            f"{ROWS[0]},4,5\n{ROWS[1]},5,4\n{ROWS[2]},4,5\n"
        ),
        command="score right.csv --truth bad.csv",
        message=(
            "bad.csv, case1_day0: found the image sizes",
            "expected one size for each scan",
            "Correct the image sizes in bad.csv",
        ),
    ),
    BadInput(
        name="no such table",
        make=write_tables,
        command="score none.csv --truth truth.csv",
        message=(
            "none.csv: found no such file, and no prediction or model of that name",
            "expected a path",
        ),
    ),
    BadInput(
        name="a folder as table",
        make=folder(),
        command="score source --truth source/train.csv",
        message=("source: holds no NIfTI image", "Expected .nii or .nii.gz files"),
    ),
    BadInput(
        name="an endless device as table",
        make=write_tables,
        command="score /dev/zero --truth truth.csv",
        message=("/dev/zero: cannot be read (a device, not a file)",),
    ),
    BadInput(
        name="Windows line ends: taken",
        exit_code=0,
        command=CONVERT,
        make=folder(with_table(lambda data: data.replace(b"\n", b"\r\n"))),
        message=("Next: gi2nnunet train",),
    ),
    BadInput(
        name="a byte-order mark: taken",
        exit_code=0,
        command=CONVERT,
        make=folder(with_table(lambda data: b"\xef\xbb\xbf" + data)),
        message=("Next: gi2nnunet train",),
    ),
    BadInput(
        name="a gzipped table: taken",
        exit_code=0,
        command="score bad.csv --truth truth.csv",
        make=with_submission(gzip.compress(ALL_ROWS.encode())),
        message=(),
    ),
)

TEXTS = (
    rle("an odd count", "1 2 3", "1 2 3", "pairs of start and length (counted 3 numbers)"),
    rle("a start of zero", "0 2", "starts and lengths of at least 1"),
    rle("no length", "3 0", "starts and lengths of at least 1"),
    rle("a negative number", "-4 2", "-4", "decimal digits and spaces only"),
    rle("a plus sign", "+4 2", "decimal digits and spaces only"),
    rle("a word", "1 two", "two", "decimal digits and spaces only"),
    rle("nan", "nan", "decimal digits and spaces only"),
    rle("a fraction", "1.0 2", "decimal digits and spaces only"),
    rle("a tab", "1\t2", "decimal digits and spaces only"),
    rle("other digits", "\u0661 \u0662", "decimal digits and spaces only"),
    rle("a blank of another kind", "1\u00a02", "decimal digits and spaces only"),
    rle("a line break", '"1 2\n3 4"', "decimal digits and spaces only"),
    rle("beyond 64 bits", f"{2**64} 1", "numbers of at most 18 digits"),
    rle("5000 digits", f"{'9' * 5000} 1", "numbers of at most 18 digits"),
    rle("a length beyond the image", "1 999999999999999999", "runs that end by pixel 192"),
    rle("runs unsorted", "50 2 20 2", "50", "runs in ascending order"),
    rle("runs that overlap", "20 9 25 2", "20", "runs that do not overlap"),
    rle("past the end", "190 4", "runs that end by pixel 192, the image's last"),
    rle(
        "100 MB",
        "1 1 " * (HUGE // 4),
        "of 100000000 characters",
        "expected at most 1536 for 192 pixels",
    ),
    BadInput(
        name="RLE: all that is wrong, told together",
        command=CONVERT,
        make=folder(
            edit_rows(lambda rows: [rows[0], *(row.rpartition(",")[0] + ",x" for row in rows[1:])])
        ),
        message=(
            "train.csv, case2_day1_slice_0001, large_bowel: found RLE 'x'",
            "case2_day10_slice_0002, small_bowel: found RLE 'x'",
            "... and 40 more",
            "Correct these",
        ),
    ),
)
