"""Label maps <-> submission rows and files."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.rle import encode_mask
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.tables import decode_table, group_rows, read_mask_table

BIT_MAPS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5, 6, 7]),
)


def table_of(text, name="table.csv"):
    return read_mask_table(name, data=text.encode())


def rows_csv(rows, *, mask="predicted", size=None):
    header = f"id,class,{mask}" + (",image_height,image_width" if size else "")
    tail = f",{size[0]},{size[1]}" if size else ""
    return "\n".join([header, *(f"{a},{b},{c}{tail}" for a, b, c in rows)]) + "\n"


@given(BIT_MAPS, st.integers(0, 9990))
def test_rows_are_the_encoding_of_each_slice_and_organ(bit_map, first):
    numbers = range(first, first + len(bit_map))
    rows = encode_scan("case1_day2", numbers, bit_map)
    assert rows == [
        (f"case1_day2_slice_{number:04d}", organ, encode_mask(bit_map[plane] & (1 << index)))
        for plane, number in enumerate(numbers)
        for index, organ in enumerate(ORGANS)
    ]


@given(BIT_MAPS, st.randoms(use_true_random=False))
def test_table_decodes_to_the_map_whatever_the_row_order(bit_map, random):
    rows = encode_scan("case1_day2", range(5, 5 + len(bit_map)), bit_map)
    random.shuffle(rows)
    table = table_of(rows_csv(rows))
    [(scan_id, numbers, found)] = decode_table(table, sizes={"case1_day2": bit_map.shape[1:]})
    assert (scan_id, numbers) == ("case1_day2", tuple(range(5, 5 + len(bit_map))))
    assert found.dtype == np.uint8
    assert np.array_equal(found, bit_map)


def test_a_view_that_is_not_contiguous_is_encoded_as_it_looks():
    bit_map = np.zeros((4, 6, 5), np.uint8)
    bit_map[1, 2, 3] = 4
    turned = bit_map[::-1, ::-1].transpose(0, 2, 1)
    rows = encode_scan("case1_day2", range(1, 5), turned)
    assert rows == encode_scan("case1_day2", range(1, 5), turned.copy())


def test_overlaps_survive():
    bit_map = np.full((1, 2, 2), 7, np.uint8)
    assert [text for _, _, text in encode_scan("case1_day2", [1], bit_map)] == ["1 4"] * 3


def test_encode_refuses_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="longer"):
        encode_scan("case1_day2", [1, 2], np.zeros((3, 2, 2), np.uint8))


def test_scans_come_in_numeric_order_with_their_own_sizes():
    rows = []
    shapes = {"case10_day2": (2, 3, 4), "case2_day10": (1, 5, 2), "case2_day9": (3, 2, 2)}
    for scan_id, shape in shapes.items():
        rows += encode_scan(scan_id, range(1, shape[0] + 1), np.ones(shape, np.uint8))
    sizes = {scan_id: shape[1:] for scan_id, shape in shapes.items()}
    found = [
        (scan_id, m.shape) for scan_id, _, m in decode_table(table_of(rows_csv(rows)), sizes=sizes)
    ]
    assert found == [
        (scan_id, shapes[scan_id]) for scan_id in ("case2_day9", "case2_day10", "case10_day2")
    ]


def test_gaps_and_missing_organs_are_kept_apart():
    text = rows_csv([
        ("case1_day2_slice_0009", "stomach", "1 1"),
        ("case1_day2_slice_0003", "large_bowel", "2 1"),
    ])  # fmt: skip
    [scan] = group_rows(table_of(text))
    assert scan.numbers == (3, 9)
    assert scan.rows.tolist() == [[1, -1, -1], [-1, -1, 0]]
    [(_, numbers, bit_map)] = decode_table(table_of(text), sizes={"case1_day2": (1, 3)})
    assert numbers == (3, 9)
    assert bit_map[:, 0].tolist() == [[0, 1, 0], [4, 0, 0]]


def test_image_size_columns_are_used_and_images_of_another_size_are_refused():
    rows = [("case1_day2_slice_0001", "stomach", "1 1")]
    table = table_of(rows_csv(rows, size=("3.0", "4.0")))
    for sizes in (None, {}, {"case1_day2": (3, 4)}):
        assert next(decode_table(table, sizes=sizes))[2].shape == (1, 3, 4)
    with pytest.raises(InputError, match=r"case1_day2: found .* 4 x 3 .*, but an image of 3 x 4;"):
        decode_table(table, sizes={"case1_day2": (4, 3)})


def test_unknown_size_names_the_remedy():
    table = table_of(rows_csv([("case1_day2_slice_0001", "stomach", "1 1")]))
    with pytest.raises(InputError, match=r"case1_day2 is not known.*--images SOURCE"):
        decode_table(table)
    with pytest.raises(InputError, match="case1_day2"):
        decode_table(table, sizes={"case1_day3": (3, 3)})


def test_two_sizes_in_one_scan_are_refused():
    text = (
        "id,class,predicted,image_height,image_width\n"
        "case1_day2_slice_0001,stomach,,3,4\n"
        "case1_day2_slice_0002,stomach,,4,3\n"
    )
    with pytest.raises(InputError, match="4 x 3, 3 x 4"):
        decode_table(table_of(text))


def test_all_refused_texts_are_told_with_their_line():
    rows = [
        ("case1_day2_slice_0001", "stomach", "1 1"),
        ("case1_day2_slice_0002", "stomach", "1"),
        ("case1_day2_slice_0003", "small_bowel", "9 9"),
    ]
    with pytest.raises(InputError) as caught:
        decode_table(table_of(rows_csv(rows)), sizes={"case1_day2": (3, 4)})
    message = str(caught.value)
    assert "table.csv, line 3 (case1_day2_slice_0002, stomach): found RLE '1'" in message
    assert "table.csv, line 4 (case1_day2_slice_0003, small_bowel)" in message
    assert "pixel 12" in message
    assert "line 2" not in message


ROWS = [
    ("case10_day0_slice_0002", "stomach", "1 2"),
    ("case10_day0_slice_0002", "large_bowel", ""),
    ("case2_day10_slice_0010", "small_bowel", "5 1"),
    ("case2_day9_slice_0011", "small_bowel", ""),
    ("case2_day9_slice_0002", "small_bowel", "7 3 11 1"),
]


def test_written_in_numeric_order_without_sample(tmp_path):
    path = tmp_path / "new" / "submission.csv"
    assert write_submission(path, ROWS) == ()
    assert path.read_bytes().decode() == (
        "id,class,predicted\n"
        "case2_day9_slice_0002,small_bowel,7 3 11 1\n"
        "case2_day9_slice_0011,small_bowel,\n"
        "case2_day10_slice_0010,small_bowel,5 1\n"
        "case10_day0_slice_0002,large_bowel,\n"
        "case10_day0_slice_0002,stomach,1 2\n"
    )


def test_a_sample_that_is_only_a_header_changes_nothing(tmp_path):
    sample = table_of("id,class,predicted\n")
    write_submission(tmp_path / "a.csv", ROWS)
    assert write_submission(tmp_path / "b.csv", ROWS, sample=sample) == ()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_filled_sample_gives_rows_and_order(tmp_path):
    sample = table_of(
        "id,class,predicted\n"
        "case10_day0_slice_0002,stomach,1 1\n"
        "case2_day9_slice_0002,stomach,1 1\n"
        "case2_day9_slice_0002,small_bowel,1 1\n",
        name="sample.csv",
    )
    warnings = write_submission(tmp_path / "a.csv", iter(ROWS), sample=sample)
    assert (tmp_path / "a.csv").read_text() == (
        "id,class,predicted\n"
        "case10_day0_slice_0002,stomach,1 2\n"
        "case2_day9_slice_0002,stomach,\n"
        "case2_day9_slice_0002,small_bowel,7 3 11 1\n"
    )
    assert len(warnings) == 2
    assert "1 row of sample.csv had no prediction" in warnings[0]
    assert "case2_day9_slice_0002, stomach" in warnings[0]
    assert "sample.csv does not have 3 predicted rows" in warnings[1]


def test_the_file_reads_back_as_a_table(tmp_path):
    write_submission(tmp_path / "a.csv", ROWS)
    table = read_mask_table(tmp_path / "a.csv")
    found = {
        (f"{table.scan_ids[s]}_slice_{n:04d}", ORGANS[o]): text
        for s, n, o, text in zip(table.scan, table.number, table.organ, table.texts, strict=True)
    }
    assert found == {(a, b): c for a, b, c in ROWS}


def test_the_same_row_twice_and_unknown_organs_are_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="second row for case10_day0_slice_0002, stomach"):
        write_submission(tmp_path / "a.csv", [*ROWS, ROWS[0]])
    with pytest.raises(ValueError, match="liver"):
        write_submission(tmp_path / "a.csv", [("case1_day0_slice_0001", "liver", "")])
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_former_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "submission.csv"
    path.write_text("before")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OutputError, match=r"submission\.csv"):
        write_submission(path, ROWS)
    assert path.read_text() == "before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["submission.csv"]


@pytest.mark.real
def test_real_rows_come_back_byte_for_byte(real_data):
    with gzip.open(real_data / "slices.csv.gz", "rt") as file:
        sizes = {
            row["id"].partition("_slice_")[0]: (int(row["height"]), int(row["width"]))
            for row in csv.DictReader(file)
        }
    with gzip.open(real_data / "train_rows.csv.gz", "rt", newline="") as file:
        wanted = {(row["id"], row["class"]): row["segmentation"] for row in csv.DictReader(file)}
    table = read_mask_table(real_data / "train_rows.csv.gz")
    found = {}
    for scan_id, numbers, bit_map in decode_table(table, sizes=sizes):
        found |= {(a, b): c for a, b, c in encode_scan(scan_id, numbers, bit_map)}
    assert len(found) == 4032
    assert sum(bool(text) for text in found.values()) == 1674
    assert found == wanted


def test_a_submission_without_a_mask_is_warned_of(tmp_path: Path) -> None:
    rows = [("case1_day0_slice_0001", organ, "") for organ in ORGANS]
    assert write_submission(tmp_path / "a.csv", rows) == ("a.csv: no organ in any of its 3 rows",)
    one = [*rows[:2], (*rows[2][:2], "1 2")]
    assert write_submission(tmp_path / "b.csv", one) == ()
    assert write_submission(tmp_path / "c.csv", []) == ()
