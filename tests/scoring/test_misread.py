"""Submissions of another form of RLE are noticed; ones that are only bad are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.scoring.score import score_submission

SHAPES = {"case1_day0": (6, 40, 56), "case2_day0": (5, 48, 48), "case3_day1": (5, 52, 36)}
SIZES = {scan_id: shape[1:] for scan_id, shape in SHAPES.items()}


def make_truth(seed, shape):
    """Return a bit map of three ellipses."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices(shape)
    bit_map = np.zeros(shape, np.uint8)
    for bit in (1, 2, 4):
        at = [rng.uniform(0.2, 0.8) * size for size in shape[1:]]
        radius = [rng.uniform(0.08, 0.2) * size for size in shape[1:]]
        inside = ((y - at[0]) / radius[0]) ** 2 + ((x - at[1]) / radius[1]) ** 2 <= 1
        bit_map[inside & (z > 0)] |= bit
    return bit_map


def write_rows(path, maps, change=lambda row: row):
    rows = [
        row for scan_id, m in maps.items() for row in encode_scan(scan_id, range(1, len(m) + 1), m)
    ]
    lines = [",".join(change(row)) for row in rows]
    path.write_text("\n".join(["id,class,predicted", *lines]) + "\n")
    return path


def column_major(bit_map):
    """Return the map that row-major RLE decodes from a column-major encoding of this one."""
    depth, height, width = bit_map.shape
    return bit_map.transpose(0, 2, 1).reshape(depth, height, width)


def from_zero(row):
    numbers = [int(word) for word in row[2].split()]
    numbers[0::2] = [start - 1 for start in numbers[0::2]]
    return (*row[:2], " ".join(map(str, numbers)))


def spoil(bit_map, seed):
    """Return a prediction as a fair model makes it: its edges wrong."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=bit_map.shape), (0, 2, 2))
    return np.where(noise > 0.17, 0, bit_map).astype(np.uint8)


@pytest.mark.parametrize("metric", ["per-class", "mle-bench"])
@pytest.mark.parametrize("fair", [False, True])
def test_a_column_major_submission_is_noticed(tmp_path, metric, fair):
    truth = {s: make_truth(i, shape) for i, (s, shape) in enumerate(SHAPES.items())}
    pred = {s: spoil(m, 1) if fair else m for s, m in truth.items()}
    right = write_rows(tmp_path / "right.csv", pred)
    wrong = write_rows(tmp_path / "wrong.csv", {s: column_major(m) for s, m in pred.items()})
    solution = write_rows(tmp_path / "truth.csv", truth)
    assert score_submission(right, solution, sizes=SIZES, metric=metric).warnings == ()
    scored = score_submission(wrong, solution, sizes=SIZES, metric=metric)
    (told,) = scored.warnings
    assert "column-major" in told
    assert "gi2nnunet encode" in told
    assert scored.to_json()["misread"] == "column-major"
    truth_wrong = write_rows(tmp_path / "w.csv", {s: column_major(m) for s, m in truth.items()})
    assert score_submission(right, truth_wrong, sizes=SIZES, metric=metric).misread == (
        "column-major"
    )


def test_starts_that_count_from_zero_are_noticed(tmp_path):
    truth = {s: make_truth(i, shape) for i, (s, shape) in enumerate(SHAPES.items())}
    solution = write_rows(tmp_path / "truth.csv", truth)
    wrong = write_rows(tmp_path / "wrong.csv", truth, from_zero)
    scored = score_submission(wrong, solution, sizes=SIZES)
    assert scored.misread == "zero-based"
    (told,) = scored.warnings
    assert "add 1 to every start" in told


def make_bad(kind, bit_map, seed):
    rng = np.random.default_rng(seed)
    if kind == "moved":
        by = rng.integers(2, 9, 2) * rng.choice([-1, 1], 2)
        return np.roll(bit_map, by, axis=(1, 2))
    if kind == "mirrored":
        return np.flip(bit_map, int(rng.integers(1, 3))).copy()
    if kind == "exchanged organs":
        order = rng.permutation(3)
        return sum(((bit_map >> i) & 1) << int(order[i]) for i in range(3)).astype(np.uint8)
    if kind == "another's":
        return make_truth(seed + 1000, bit_map.shape)
    if kind == "noise":
        return rng.integers(0, 8, bit_map.shape, dtype=np.uint8)
    if kind == "full":
        return np.full_like(bit_map, 7)
    if kind == "eroded":
        return (bit_map * ndimage.binary_erosion(bit_map > 0, np.ones((1, 3, 3)))).astype(np.uint8)
    return spoil(bit_map, seed)


KINDS = (
    "moved", "mirrored", "exchanged organs", "another's", "noise", "full", "eroded", "fair",
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**20), kind=st.sampled_from(KINDS), scans=st.integers(1, 3))
def test_a_submission_that_is_only_bad_is_never_called_so(tmp_path_factory, seed, kind, scans):
    folder = tmp_path_factory.mktemp("bad")
    shapes = dict(list(SHAPES.items())[:scans])
    truth = {s: make_truth(seed + i, shape) for i, (s, shape) in enumerate(shapes.items())}
    pred = {s: make_bad(kind, m, seed) for s, m in truth.items()}
    solution = write_rows(folder / "truth.csv", truth)
    submission = write_rows(folder / "pred.csv", pred)
    scored = score_submission(submission, solution, sizes=SIZES, jobs=1)
    assert scored.warnings == ()
    assert "misread" not in scored.to_json()
