"""RLE text <-> runs <-> masks, and every refusal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gi2nnunet.formats import rle

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12))
VOLUMES = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
                     elements=st.sampled_from([0, 0, 1, 4, 5]))  # fmt: skip


def slow_encode(mask):
    """Walk the pixels one by one."""
    words, run = [], 0
    pixels = [bool(v) for row in mask for v in row] + [False]
    for index, on in enumerate(pixels):
        if on:
            run += 1
        elif run:
            words += [str(index - run + 1), str(run)]
            run = 0
    return " ".join(words)


@given(MASKS)
def test_encode_equals_a_walk_over_the_pixels(mask):
    assert rle.encode_mask(mask) == slow_encode(mask)


@given(MASKS)
def test_decode_gives_the_mask_back(mask):
    assert np.array_equal(rle.decode_mask(rle.encode_mask(mask), shape=mask.shape), mask)


@given(VOLUMES)
def test_each_slice_and_bit_is_encoded_separately(volume):
    assert rle.encode_slices(volume, bits=(1, 4)) == [
        [slow_encode((plane & bit) != 0) for plane in volume] for bit in (1, 4)
    ]


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_a_volume_without_voxels_has_no_runs(shape):
    assert rle.encode_slices(np.zeros(shape, np.uint8), bits=(1, 2)) == [[""] * shape[0]] * 2


@given(st.lists(MASKS, max_size=6))
def test_many_rows_decode_like_each_alone(masks):
    texts = [slow_encode(mask) for mask in masks]
    runs, problems = rle.decode_rows(texts, pixels=np.array([m.size for m in masks], np.int64))
    assert not problems
    assert len(runs) == len(masks)
    for index, mask in enumerate(masks):
        found = np.zeros(mask.size, bool)
        found[rle.run_pixels(*runs.row(index))] = True
        assert np.array_equal(found.reshape(mask.shape), mask)


def test_pixels_run_along_the_row_first():
    mask = rle.decode_mask("3 2 8 1", shape=(2, 5))
    assert mask.astype(int).tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]


def test_a_run_may_cross_the_end_of_a_row():
    assert rle.decode_mask("4 3", shape=(2, 5)).nonzero()[0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("text", ["", " ", "   "])
def test_blank_text_is_an_empty_mask(text):
    assert not rle.decode_mask(text, shape=(3, 3)).any()


@pytest.mark.parametrize("text", ["1 2 3 4", " 1  2   3 4 ", "001 2 3 00004"])
def test_spaces_and_leading_zeros_are_read(text):
    assert rle.decode_mask(text, shape=(3, 3)).sum() == 6


REFUSED = {
    "odd count": ("1 2 3", "pairs of start and length (counted 3 numbers)"),
    "start zero": ("0 3", "starts and lengths of at least 1"),
    "length zero": ("3 0", "starts and lengths of at least 1"),
    "negative": ("-1 3", "decimal digits and spaces only"),
    "plus sign": ("+1 3", "decimal digits and spaces only"),
    "text": ("one 2", "decimal digits and spaces only"),
    "float": ("1.0 2", "decimal digits and spaces only"),
    "exponent": ("1e1 2", "decimal digits and spaces only"),
    "underscore": ("1_0 2", "decimal digits and spaces only"),
    "nan": ("nan", "decimal digits and spaces only"),
    "unsorted": ("5 2 1 2", "runs in ascending order"),
    "overlapping": ("1 3 3 2", "runs that do not overlap"),
    "twice the same": ("1 3 1 3", "runs that do not overlap"),
    "past the end": ("95 7", "runs that end by pixel 100, the image's last"),
    "starts past the end": ("101 1", "runs that end by pixel 100, the image's last"),
    "Arabic digits": ("\u0661 \u0662", "decimal digits and spaces only"),
    "full-width digits": ("\uff11 \uff12", "decimal digits and spaces only"),
    "no-break space": ("1\u00a02", "decimal digits and spaces only"),
    "19 digits": ("1 9223372036854775808", "numbers of at most 18 digits"),
    "wraps round in int64": ("1 18446744073709551617", "numbers of at most 18 digits"),
    "newline": ("1 2\n5 2", "decimal digits and spaces only"),
    "trailing newline": ("1 2\n", "decimal digits and spaces only"),
    "carriage return": ("1 2\r", "decimal digits and spaces only"),
    "tab": ("1\t2", "decimal digits and spaces only"),
    "comma": ("1,2", "decimal digits and spaces only"),
    "NUL": ("1 2\0", "decimal digits and spaces only"),
    "lone surrogate": ("1 \ud800", "decimal digits and spaces only"),
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED)
def test_refusal_says_what_was_expected(text, expected):
    runs, problems = rle.decode_rows([text], pixels=100)
    assert [problem.expected for problem in problems] == [expected]
    assert len(runs.starts) == 0
    with pytest.raises(ValueError, match="expected"):
        rle.decode_mask(text, shape=(10, 10))


def test_18_digits_are_read_without_overflow():
    runs, problems = rle.decode_rows(["999999999999999999 999999999999999999"])
    assert not problems
    assert runs.starts.tolist() == [999999999999999998]
    assert runs.lengths.tolist() == [999999999999999999]
    _, problems = rle.decode_rows(["999999999999999999 999999999999999999"], pixels=100)
    assert len(problems) == 1


@given(
    st.lists(st.sampled_from(["", "1 2", "4 3 9 1"]), max_size=5),
    st.lists(st.sampled_from([text for text, _ in REFUSED.values()]), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_refused_rows_leave_the_others_alone(good, bad, random):
    rows = [(text, True) for text in good] + [(text, False) for text in bad]
    random.shuffle(rows)
    runs, problems = rle.decode_rows([text for text, _ in rows], pixels=100)
    assert [p.row for p in problems] == [i for i, (_, fine) in enumerate(rows) if not fine]
    for index, (text, fine) in enumerate(rows):
        mask = np.zeros((10, 10), np.bool_)
        mask.reshape(-1)[rle.run_pixels(*runs.row(index))] = True
        assert rle.encode_mask(mask) == (text if fine else "")


def test_rows_decode_together_as_each_by_itself():
    texts = ["1 2 5 3", "", " 7  1", "x", "2 2", "5", "3 1 2 1", " "] * 7
    whole, problems = rle.decode_rows(texts)
    assert len(problems) == 3 * 7
    for row, text in enumerate(texts):
        single, problem = rle.decode_rows([text])
        assert [p.expected for p in problem] == [p.expected for p in problems if p.row == row]
        for mine, other in zip(whole.row(row), single.row(0), strict=True):
            assert np.array_equal(mine, other)


def test_no_rows_give_no_runs():
    runs, problems = rle.decode_rows([])
    assert len(runs) == 0
    assert runs.offsets.tolist() == [0]
    assert problems == []


def test_the_end_is_checked_by_each_rows_own_size():
    _, problems = rle.decode_rows(["9 2", "9 2"], pixels=np.array([9, 10], np.int64))
    assert [problem.row for problem in problems] == [0]
    assert "pixel 9," in problems[0].expected
