import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats import tables
from gi2nnunet.formats.ids import (
    KNOWN_BAD_SCANS,
    ORGANS,
    day_of,
    image_name,
    patient_of,
    scan_order,
    slice_id,
)
from gi2nnunet.formats.tables import format_rows, read_mask_table

HEAD = "id,class,segmentation\n"


def read(text, **options):
    data = text.encode() if isinstance(text, str) else text
    return read_mask_table("t.csv", data=data, **options)


def refuse(text, *parts, **options):
    with pytest.raises(InputError) as error:
        read(text, **options)
    assert error.value.exit_code == 3
    for part in ("t.csv", *parts):
        assert part in str(error.value)
    return str(error.value)


def test_ids():
    assert patient_of("case123_day20") == "case123"
    assert day_of("case123_day20") == 20
    assert day_of("something") == -1
    assert slice_id("case123_day20", 65) == "case123_day20_slice_0065"
    assert slice_id("case1_day0", 12345) == "case1_day0_slice_12345"
    scans = ["case10_day0", "liver", "case2_day10", "case2_day9", "abdomen"]
    assert sorted(scans, key=scan_order) == [
        "case2_day9", "case2_day10", "case10_day0", "abdomen", "liver",
    ]  # fmt: skip


def test_image_names_put_width_and_x_first():
    name = image_name(65, width=360, height=310, spacing_mm=(1.25, 1.5))
    assert name == "slice_0065_360_310_1.50_1.25.png"


def test_known_bad_scans_have_ids_and_reasons():
    assert all(day_of(scan_id) >= 0 and why for scan_id, why in KNOWN_BAD_SCANS.items())
    assert len(KNOWN_BAD_SCANS) == 12


rows = st.lists(
    st.tuples(
        st.integers(1, 30), st.integers(0, 40), st.integers(1, 200), st.integers(0, 2),
        st.sampled_from(["", "1 1", "5 3 90 2"]),
    ),
    unique_by=lambda row: row[:4],
    max_size=30,
)  # fmt: skip


@given(rows=rows, newline=st.sampled_from(["\n", "\r\n"]), bom=st.booleans())
def test_a_table_holds_every_row_in_the_order_of_the_file(rows, newline, bom):
    lines = ["id,class,segmentation"]
    lines += [f"case{p}_day{d}_slice_{n:04d},{ORGANS[o]},{t}" for p, d, n, o, t in rows]
    table = read(("\ufeff" if bom else "") + newline.join([*lines, ""]))
    assert len(table) == len(rows)
    found = [
        (table.scan_ids[scan], number, organ, text)
        for scan, number, organ, text in zip(
            table.scan.tolist(), table.number.tolist(), table.organ.tolist(), table.texts,
            strict=True,
        )
    ]  # fmt: skip
    assert found == [(f"case{p}_day{d}", n, o, t) for p, d, n, o, t in rows]
    assert list(table.scan_ids) == list(dict.fromkeys(f"case{p}_day{d}" for p, d, *_ in rows))
    for row in range(len(rows)):
        assert f"line {row + 2} (" in table.row_label(row)
        assert lines[row + 1].split(",")[0] in table.row_label(row)


@given(
    rows=rows,
    # The csv module does not quote a lone carriage return; no run length holds one.
    ending=st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=5),
    column=st.sampled_from(["segmentation", "predicted"]),
    size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
)
def test_written_rows_are_read_again(rows, ending, column, size):
    given = [(f"case{p}_day{d}_slice_{n:04d}", ORGANS[o], t + ending) for p, d, n, o, t in rows]
    sizes = None if size is None else [size] * len(given)
    text = format_rows(given, column, sizes=sizes)
    table = read(text, mask_column=column)
    assert table.list_rows() == given
    if size is None:
        assert table.height is table.width is None
        assert text.startswith(f"id,class,{column}\n")
    else:
        assert list(zip(table.height.tolist(), table.width.tolist(), strict=True)) == sizes


def test_rows_are_written_as_the_competition_writes_them():
    written = [("case1_day0_slice_0001", "stomach", "1 2 9 1"), ("case1_day0_slice_0002", "x", "")]
    assert format_rows(written, "predicted") == (
        "id,class,predicted\ncase1_day0_slice_0001,stomach,1 2 9 1\ncase1_day0_slice_0002,x,\n"
    )
    assert format_rows(iter(written), "segmentation", sizes=iter([(310, 360), (266, 276)])) == (
        "id,class,segmentation,image_height,image_width\n"
        "case1_day0_slice_0001,stomach,1 2 9 1,310,360\ncase1_day0_slice_0002,x,,266,276\n"
    )
    with pytest.raises(ValueError, match="shorter"):
        format_rows(written, "predicted", sizes=[(1, 1)])


def test_columns_in_another_order_and_further_ones_are_fine():
    table = read("segmentation,extra,class,id\n1 2,x,stomach,case1_day0_slice_0001\n")
    assert table.texts == ("1 2",)
    assert table.organ.tolist() == [2]


def test_a_header_alone_gives_an_empty_table():
    table = read("id,class,predicted\n")
    assert len(table) == 0
    assert table.scan_ids == ()
    assert read(HEAD + "\n").texts == ()


def test_image_sizes_may_be_floats():
    head = "id,class,predicted,image_height,image_width\n"
    table = read(head + "case1_day0_slice_0001,stomach,,310.0,360\n")
    assert (table.height.tolist(), table.width.tolist()) == ([310], [360])
    assert table.height.dtype == np.int64
    for value in ("", "0", "-3", "2.5", "nan", "inf", "wide", "1e9"):
        refuse(
            head + f"case1_day0_slice_0001,stomach,,{value},360\n",
            "line 2", "image_height", "whole number",
        )  # fmt: skip


@pytest.mark.parametrize(
    "header",
    [
        "id,class",
        "id,segmentation",
        "class,segmentation",
        "a,b,c",
        "id,class,segmentation,predicted",
    ],
)
def test_wrong_columns(header):
    refuse(header + "\n", "found the columns", header.split(",")[0], "expected id, class")


def test_the_wanted_mask_column_is_insisted_on():
    refuse(
        "id,class,predicted\n", "expected id, class and segmentation", mask_column="segmentation"
    )
    text = "id,class,segmentation,predicted\ncase1_day0_slice_0001,stomach,1 1,2 2\n"
    assert read(text, mask_column="predicted").texts == ("2 2",)


@pytest.mark.parametrize(
    "bad",
    [
        "", "case1", "case1_day0", "case1_day0_slice_1", "Case1_day0_slice_0001",
        "case1_day0_slice_0001 ", "case_day0_slice_0001", "case1_day0_slice_0001_x",
        "case\u0661_day0_slice_0001",
    ],
)  # fmt: skip
def test_an_id_that_does_not_parse(bad):
    refuse(HEAD + f"case1_day0_slice_0001,stomach,\n{bad},stomach,\n", "line 3", repr(bad))


def test_scan_ids_of_any_form_where_asked_for():
    text = HEAD + "liver 3_day_slice_0001,stomach,1 1\nA_slice_0002_slice_0003,stomach,\n"
    table = read(text, any_scan=True)
    assert table.scan_ids == ("liver 3_day", "A_slice_0002")
    assert table.number.tolist() == [1, 3]
    refuse(text, "line 2", "line 3")
    refuse(HEAD + "_slice_0001,stomach,\n", "line 2", any_scan=True)


def test_unknown_organs():
    refuse(
        HEAD + "case1_day0_slice_0001,Stomach,\ncase1_day0_slice_0001,liver,1 1\n",
        "line 2", "'Stomach'", "line 3", "'liver'", "large_bowel, small_bowel, stomach",
    )  # fmt: skip


def test_the_same_row_twice_however_its_number_is_written():
    refuse(
        HEAD
        + "case1_day0_slice_0001,stomach,\ncase1_day0_slice_0001,large_bowel,\n"
        + "case1_day0_slice_00001,stomach,1 1\n",
        "line 4", "a second row for case1_day0_slice_00001, stomach",
    )  # fmt: skip


def test_all_bad_rows_are_told_together_and_many_are_counted():
    text = HEAD + "x,liver,\n" * 3 + "case1_day0_slice_0001,stomach,\n" * 2
    assert len(refuse(text).splitlines()) == 3 + 3 + 1 + 1
    assert "and 80 more" in refuse(HEAD + "x,stomach,\n" * 100)


def test_what_is_no_csv(tmp_path):
    refuse(b"", "UTF-8 CSV")
    refuse(b"\xff\xfe\x00", "UTF-8 CSV")
    refuse(HEAD + 'case1_day0_slice_0001,stomach,"1 1\n', "UTF-8 CSV", "line 2")
    refuse(HEAD + "a,b,c,d,e\n", "line 2: found 5 fields; expected 3")
    refuse(HEAD + "a,b,c\na,b,c,d,e\n", "line 3")
    refuse(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InputError, match="no such file"):
        read_mask_table(tmp_path / "none.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_mask_table(tmp_path)


def test_rows_that_are_too_short_or_too_long_do_not_pass_silently():
    whole = HEAD + "case1_day0_slice_0001,stomach,1 1\n\ncase1_day0_slice_0002,stomach,\n"
    assert read(whole).texts == ("1 1", "")
    refuse(whole + "case1_day0_slice_0003\n", "line 5: found 1 field; expected 3")
    refuse(whole + "case1_day0_slice_0003,stomach", "line 5: found 2 fields; expected 3")
    refuse(HEAD + "case1_day0_slice_0001,stomach,1 1,2\n")
    refuse(HEAD + 'case1_day0_slice_0001,stomach,"1 1",2\n')
    assert read(HEAD + 'case1_day0_slice_0001,stomach,"1 1"\n').texts == ("1 1",)


def test_a_table_is_unpacked_no_further_than_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_TABLE_BYTES", 10_000)
    path = tmp_path / "bomb.csv"
    for content in (gzip.compress(bytes(1_000_000)), b"," * 10_001):
        path.write_bytes(content)
        with pytest.raises(InputError, match="found more than 10000 bytes"):
            read_mask_table(path)
