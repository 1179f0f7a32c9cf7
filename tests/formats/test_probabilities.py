"""Probabilities in eight bits: what is written comes back, what is damaged is named."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.probabilities import (
    read_about,
    read_probabilities,
    to_eight_bits,
    write_probabilities,
)

VALUES = {"scan_id": "case1_day2", "spacing_mm": (3.0, 1.5, 1.25), "about": {"fold": 0}}


@given(
    array=array_shapes(min_dims=3, max_dims=3, max_side=6).flatmap(
        lambda shape: arrays(np.uint8, (3, *shape))
    ),
    first=st.integers(1, 100),
)
def test_what_is_written_comes_back(tmp_path_factory, array, first):
    path = tmp_path_factory.mktemp("p") / "scan"
    numbers = tuple(range(first, first + array.shape[1]))
    write_probabilities(path, array, numbers=numbers, **VALUES)
    found = read_probabilities(path)
    assert np.array_equal(found.array, array)
    assert (found.scan_id, found.numbers) == ("case1_day2", numbers)
    assert (found.spacing_mm, found.about) == ((3.0, 1.5, 1.25), {"fold": 0})
    assert read_about(path) == {"fold": 0}
    before = path.read_bytes()
    write_probabilities(path, array, numbers=numbers, **VALUES)
    assert path.read_bytes() == before


def test_eight_bits_are_the_nearest_of_255_steps_and_keep_one_half_apart():
    values = np.linspace(0, 1, 10_001, dtype=np.float32)
    rounded = to_eight_bits(values)
    assert (rounded[0], rounded[-1]) == (0, 255)
    assert np.abs(rounded / 255 - values).max() <= 0.5 / 255 + 1e-6
    assert (np.diff(rounded.astype(int)) >= 0).all()
    assert to_eight_bits(np.array([0.4979, 0.5021], np.float32)).tolist() == [127, 128]


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "scan"
    array = np.arange(3 * 2 * 4 * 5, dtype=np.uint8).reshape(3, 2, 4, 5)
    write_probabilities(path, array, numbers=(1, 2), **VALUES)
    return path


def change_header(content, **values):
    line, _, array = gzip.decompress(content).partition(b"\n")
    return gzip.compress(json.dumps({**json.loads(line), **values}).encode() + b"\n" + array)


def test_any_gzip_reader_reads_the_file(written):
    line, _, voxels = gzip.decompress(written.read_bytes()).partition(b"\n")
    assert json.loads(line)["shape"] == [3, 2, 4, 5]
    assert voxels == bytes(range(3 * 2 * 4 * 5))


def test_every_truncation_and_every_altered_byte_is_named(written):
    whole = written.read_bytes()
    # Bytes 3 to 9 of a gzip file are flags, its time stamp and where it came from: no values.
    altered = [
        whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :]
        for position in [0, 1, 2, *range(10, len(whole))]
    ]
    for content in [*altered, *(whole[:length] for length in range(len(whole)))]:
        written.write_bytes(content)
        with pytest.raises(InputError, match=r"scan(, header)?: .*found .*; expected "):
            read_probabilities(written)
        assert read_about(written) in ({}, {"fold": 0})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: b"[]\n" + content,
        lambda content: content + b"more",
        lambda content: gzip.compress(b"[]\n"),
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
        lambda content: gzip.compress(gzip.decompress(content) + b"\0"),
        lambda content: change_header(content, shape=[3, 2, 4, 6]),
        lambda content: change_header(content, shape=[3, 2, 1 << 40, 1 << 40]),
        lambda content: change_header(content, shape=[3, 2, -4, -5]),
        lambda content: change_header(content, shape=[3, 2, "4", 5]),
        lambda content: change_header(content, shape=[3, 2, 20]),
        lambda content: change_header(content, format=1),
        lambda content: change_header(content, numbers=[1]),
        lambda content: change_header(content, numbers=[1, None]),
        lambda content: change_header(content, organs=["liver"]),
        lambda content: change_header(content, spacing_mm=[3, 1]),
        lambda content: change_header(content, spacing_mm=[3, float("nan"), 1]),
        lambda content: change_header(content, about=3),
    ],
)
def test_a_damaged_file_is_named(written, spoil):
    written.write_bytes(spoil(written.read_bytes()))
    with pytest.raises(InputError, match=r"scan(, header)?: .*found .*; expected "):
        read_probabilities(written)


def test_a_missing_file_is_named_and_tells_nothing(tmp_path):
    with pytest.raises(InputError, match=r"none: cannot be read"):
        read_probabilities(tmp_path / "none")
    assert read_about(tmp_path / "none") == {}


def test_arrays_of_another_kind_are_a_callers_mistake(tmp_path):
    for array in (np.zeros((3, 2, 4, 5)), np.zeros((2, 2, 4, 5), np.uint8)):
        with pytest.raises(ValueError, match="for 2 slices"):
            write_probabilities(tmp_path / "scan", array, numbers=(1, 2), **VALUES)
