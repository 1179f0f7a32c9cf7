"""Whole tables in, one score out: pairing, refusals, workers, plain values."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import parse_record
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.scoring.result import Score
from gi2nnunet.scoring.score import score_submission

SCANS = {
    "case2_day1": (5, 9, 12),
    "case2_day10": (4, 12, 9),
    "case10_day0": (6, 8, 8),
    "case3_day0": (3, 7, 5),
}
SIZES = {scan_id: shape[1:] for scan_id, shape in SCANS.items()}


def random_map(rng, shape):
    """Return a bit map of boxes, so that rows are empty, full and overlapping."""
    bit_map = np.zeros(shape, np.uint8)
    for bit in (1, 2, 4):
        if rng.random() < 0.85:
            low = rng.integers(0, np.array(shape) - 1)
            high = low + rng.integers(1, np.array(shape) - low + 1)
            bit_map[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] |= bit
    return bit_map


def make_rows(seed):
    rng = np.random.default_rng(seed)
    return [
        row
        for scan_id, shape in SCANS.items()
        for row in encode_scan(scan_id, range(3, 3 + shape[0]), random_map(rng, shape))
    ]


def write_rows(path, rows, *, mask="predicted", sizes=None):
    lines = [f"id,class,{mask}" + (",image_height,image_width" if sizes else "")]
    for row_id, organ, text in rows:
        line = f"{row_id},{organ},{text}"
        if sizes:
            height, width = sizes[row_id.partition("_slice_")[0]]
            line += f",{height}.0,{width}.0"
        lines.append(line)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path):
    return (
        write_rows(tmp_path / "pred.csv", make_rows(1)),
        write_rows(tmp_path / "truth.csv", make_rows(2), sizes=SIZES),
    )


# --- an oracle that goes from the files' text to the number on its own -------------------------


def plain_decode(text, height, width, *, column_major=False):
    pixels = np.zeros(height * width, bool)
    words = text.split()
    for start, length in zip(words[0::2], words[1::2], strict=True):
        pixels[int(start) - 1 : int(start) - 1 + int(length)] = True
    return pixels.reshape((height, width), order="F" if column_major else "C")


def plain_hausdorff(pred, truth, *, ten_times):
    if not pred.any() and not truth.any():
        return math.nan
    if (pred == truth).all():
        return 0.0
    if not pred.any() or not truth.any() or (ten_times and pred.sum() > 10 * truth.sum()):
        return 1.0
    pairs = cdist(np.argwhere(pred) / pred.shape, np.argwhere(truth) / pred.shape)
    return max(pairs.min(0).max(), pairs.min(1).max()) / math.sqrt(3)


def plain_edge(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner)


def plain_score(pred_rows, truth_rows, convention):
    pred_of = {row[:2]: row[2] for row in pred_rows}
    dices, masks = {organ: [] for organ in ORGANS}, {}
    distances = {organ: [] for organ in ORGANS}
    for row_id, organ, text in sorted(truth_rows):
        scan_id = row_id.partition("_slice_")[0]
        both = [
            plain_decode(t, *SIZES[scan_id], column_major=convention == "mle-bench")
            for t in (pred_of[row_id, organ], text)
        ]
        n_pred, n_true = both[0].sum(), both[1].sum()
        if n_true if convention == "slice-2d" else n_pred + n_true:
            dices[organ].append(2 * (both[0] & both[1]).sum() / (n_pred + n_true))
        unit = organ if convention == "per-class" else "joined"
        masks.setdefault((scan_id, unit), {}).setdefault(row_id, []).append(both)
        if convention == "slice-2d":
            if n_pred and n_true:
                pairs = cdist(plain_edge(both[0]), plain_edge(both[1]))
                distances[organ].append(pairs.min(1).max() / math.hypot(*SIZES[scan_id]))
            else:
                distances[organ].append(float(bool(n_pred) != bool(n_true)))
    if convention != "slice-2d":
        distances = {}
        for (_, unit), slices in masks.items():
            volumes = [
                np.stack([np.any([pair[side] for pair in pairs], axis=0)
                          for _, pairs in sorted(slices.items())])
                for side in (0, 1)
            ]  # fmt: skip
            value = plain_hausdorff(*volumes, ten_times=convention == "mle-bench")
            distances.setdefault(unit, []).append(value)
    return dices, distances


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_reading_of_the_files(tmp_path, convention, seed):
    pred_rows, truth_rows = make_rows([seed, 1]), make_rows([seed, 2])
    pred = write_rows(tmp_path / "pred.csv", pred_rows)
    truth = write_rows(tmp_path / "truth.csv", truth_rows, sizes=SIZES)
    score = score_submission(pred, truth, metric=convention)
    dices, distances = plain_score(pred_rows, truth_rows, convention)
    dice = np.nanmean(np.concatenate(list(dices.values())))
    hausdorff = np.nanmean(np.concatenate(list(distances.values())))
    assert score.metric == convention
    assert score.dice == pytest.approx(dice, abs=1e-12)
    assert score.hausdorff == pytest.approx(hausdorff, abs=1e-12)
    assert score.score == pytest.approx(0.4 * dice + 0.6 * (1 - hausdorff), abs=1e-12)
    for organ in ORGANS:
        mine = score.per_organ[organ]
        assert mine.n_rows == len(dices[organ])
        assert mine.dice == pytest.approx(np.mean(dices[organ]), abs=1e-12)
        if convention in ("per-class", "slice-2d"):
            known = [value for value in distances[organ] if not math.isnan(value)]
            assert mine.n_units == len(known)
            assert mine.hausdorff == pytest.approx(np.mean(known), abs=1e-12)
        else:
            assert mine.n_units == 0
            assert math.isnan(mine.score)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_scan_scores_as_it_does_alone(tmp_path, files, convention):
    whole = score_submission(*files, metric=convention)
    assert [s.scan_id for s in whole.per_scan] == sorted(
        SCANS, key=lambda s: tuple(map(int, s[4:].split("_day")))
    )
    for scan in whole.per_scan:
        alone = [
            write_rows(tmp_path / f"{name}.csv",
                       [r for r in make_rows(seed) if r[0].startswith(f"{scan.scan_id}_slice")],
                       sizes=SIZES)
            for name, seed in (("a", 1), ("b", 2))
        ]  # fmt: skip
        score = score_submission(*alone, metric=convention)
        assert scan.patient_id == scan.scan_id.partition("_")[0]
        for name in ("score", "dice", "hausdorff"):
            assert getattr(scan, name) == pytest.approx(
                getattr(score, name), abs=1e-12, nan_ok=True
            )


def test_workers_change_nothing(files):
    seen = []
    alone = score_submission(*files, jobs=1).to_json()
    both = score_submission(*files, jobs=2, progress=lambda *step: seen.append(step)).to_json()
    assert both == alone
    assert [step[:2] for step in seen] == [(n, 4) for n in range(1, 5)]
    assert {step[2] for step in seen} == {"scoring scans"}


def test_a_perfect_submission_scores_one(files):
    for convention in CONVENTIONS:
        assert score_submission(files[1], files[1], metric=convention).score == 1.0


@pytest.mark.parametrize("convention", ["per-class", "joined", "slice-2d"])
def test_rows_are_paired_by_slice_and_organ(tmp_path, files, convention):
    rows = make_rows(1)
    np.random.default_rng(0).shuffle(rows)
    shuffled = write_rows(tmp_path / "shuffled.csv", rows)
    a, b = (score_submission(path, files[1], metric=convention) for path in (files[0], shuffled))
    assert a.to_json() == b.to_json()


def test_mle_bench_pairs_by_position_and_says_so(tmp_path, files):
    rows = make_rows(1)
    rows[4], rows[7] = rows[7], rows[4]
    with pytest.raises(InputError, match=r"line 6 .*mle-bench pairs rows by position"):
        score_submission(write_rows(tmp_path / "x.csv", rows), files[1], metric="mle-bench")


def test_mle_bench_sorts_slices_of_a_shuffled_truth_as_its_grader_does(tmp_path, files):
    wanted = score_submission(*files, metric="mle-bench")
    order = np.random.default_rng(3).permutation(len(make_rows(1)))
    pred = write_rows(tmp_path / "a.csv", [make_rows(1)[i] for i in order])
    truth = write_rows(tmp_path / "b.csv", [make_rows(2)[i] for i in order], sizes=SIZES)
    assert score_submission(pred, truth, metric="mle-bench").score == pytest.approx(wanted.score)


def test_missing_and_extra_rows_are_named(tmp_path, files):
    rows = make_rows(1)
    missing = rows.pop(5)
    rows.append(("case2_day1_slice_0099", "stomach", ""))
    rows.append(("case99_day1_slice_0001", "stomach", ""))
    with pytest.raises(InputError) as caught:
        score_submission(write_rows(tmp_path / "x.csv", rows), files[1])
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert f"no row for {missing[0]}, {missing[1]}" in message
    assert "(case2_day1_slice_0099, stomach)" in message
    assert "rows of 1 scan that" in message
    assert "does not have (1 row): case99_day1; expected the same scans" in message
    assert len(message.splitlines()) == 4


def test_other_scans_are_counted_and_the_common_ones_scored_if_asked_for(tmp_path, files):
    kept = ("case2_day1_", "case10_day0_")
    some = [row for row in make_rows(1) if row[0].startswith(kept)]
    pred = write_rows(tmp_path / "some.csv", [*some, ("case99_day1_slice_0001", "stomach", "")])
    with pytest.raises(InputError) as caught:
        score_submission(pred, files[1])
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert "no row of 2 of the 4 scans" in lines[0]
    assert "(21 rows): case2_day10, case3_day0" in lines[0]
    assert lines[-1].endswith("by --scans common.")
    found = score_submission(pred, files[1], scans="common")
    assert "only 2 scans common to all files (3 in " in found.scope
    assert found.scope in str(found)
    text = json.dumps(found.to_json())
    assert parse_record(text, Score, where="", remedy="").scope == found.scope
    true = [row for row in make_rows(2) if row[0].startswith(kept)]
    alone = score_submission(
        write_rows(tmp_path / "p.csv", some), write_rows(tmp_path / "t.csv", true, sizes=SIZES)
    )
    assert found.score == alone.score
    assert score_submission(*files, scans="common").scope == alone.scope == ""
    strangers = write_rows(tmp_path / "s.csv", [("case99_day1_slice_0001", "stomach", "")])
    with pytest.raises(InputError, match="found no scan that"):
        score_submission(strangers, files[1], scans="common")


def test_a_line_of_a_common_scan_keeps_its_number(tmp_path, files):
    rows = [("case99_day1_slice_0001", "stomach", ""), *make_rows(1)]
    rows[1] = (*rows[1][:2], "x")
    with pytest.raises(InputError, match=r"line 3 \("):
        score_submission(write_rows(tmp_path / "x.csv", rows), files[1], scans="common")


def test_slices_that_are_left_out_in_the_middle_are_warned_of(tmp_path, files):
    assert score_submission(*files).warnings == ()
    without = [[row for row in make_rows(seed) if "case2_day1_slice_0005" not in row[0]]
               for seed in (1, 2)]  # fmt: skip
    found = score_submission(
        write_rows(tmp_path / "p.csv", without[0]),
        write_rows(tmp_path / "t.csv", without[1], sizes=SIZES),
    )
    (warning,) = found.warnings
    assert "1 scan with gaps between the slices (case2_day1)" in warning


def test_a_row_twice_is_refused(tmp_path, files):
    rows = make_rows(1)
    with pytest.raises(InputError, match=f"second row for {rows[0][0]}"):
        score_submission(write_rows(tmp_path / "x.csv", [*rows, rows[0]]), files[1])


def test_sizes_come_from_the_truth_or_from_the_caller(tmp_path, files):
    bare = write_rows(tmp_path / "train.csv", make_rows(2), mask="segmentation")
    with pytest.raises(InputError, match="--images SOURCE"):
        score_submission(files[0], bare)
    given_sizes = score_submission(files[0], bare, sizes=SIZES)
    assert given_sizes.to_json() == score_submission(*files).to_json()


def test_refused_rle_of_either_file_is_told_with_its_line(tmp_path, files):
    rows = make_rows(1)
    for line, text in ((2, "1 2 3"), (9, "4 1 2 1"), (30, "9999 1")):
        rows[line - 2] = (*rows[line - 2][:2], text)
    bad = write_rows(tmp_path / "bad.csv", rows, sizes=SIZES)
    for arguments in ((bad, files[1]), (files[1], bad)):
        with pytest.raises(InputError) as caught:
            score_submission(*arguments)
        found = [line for line in str(caught.value).splitlines() if "bad.csv, line" in line]
        assert [line.split(", line ")[1].split()[0] for line in found] == ["2", "9", "30"]
        assert "counted 3 numbers" in found[0]


def test_depth_is_the_number_of_slices_there_are(tmp_path):
    """Slices 1 and 9 are neighbours, as in a grader that stacks what it has."""
    rows = [("case1_day0_slice_0001", "stomach", "1 1"), ("case1_day0_slice_0009", "stomach", "")]
    swapped = [(rows[0][0], "stomach", ""), (rows[1][0], "stomach", "1 1")]
    paths = [write_rows(tmp_path / f"{i}.csv", r) for i, r in enumerate((rows, swapped))]
    score = score_submission(*paths, sizes={"case1_day0": (2, 2)})
    assert score.hausdorff == pytest.approx(1 / 2 / math.sqrt(3))
    # the organs that have no rows are no pairs of empty masks
    assert score_submission(*paths, sizes={"case1_day0": (2, 2)}, metric="slice-2d").hausdorff == 1


def test_nothing_to_count_gives_nan_and_null(tmp_path):
    rows = [("case1_day0_slice_0001", organ, "") for organ in ORGANS]
    path = write_rows(tmp_path / "a.csv", rows)
    score = score_submission(path, path, sizes={"case1_day0": (2, 2)})
    assert math.isnan(score.score)
    content = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert content["score"] is None
    assert content["per_organ"]["stomach"] == {
        "score": None, "dice": None, "hausdorff": None, "n_rows": 0, "n_units": 0,
        "n_missed": 0, "n_extra": 0,
    }  # fmt: skip
    empty = read_mask_table("e.csv", data=b"id,class,predicted\n")
    assert math.isnan(score_submission(empty, empty).score)


def test_json_holds_what_the_score_holds(files):
    score = score_submission(*files)
    content = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert list(content) == ["metric", "score", "dice", "hausdorff", "per_organ", "per_scan"]
    assert content["score"] == score.score
    assert list(content["per_organ"]) == list(ORGANS)
    assert content["per_organ"]["stomach"]["dice"] == score.per_organ["stomach"].dice
    assert [scan["scan_id"] for scan in content["per_scan"]] == [
        scan.scan_id for scan in score.per_scan
    ]


def test_an_unknown_convention_is_a_mistake_of_the_caller(files):
    with pytest.raises(ValueError, match="surface"):
        score_submission(*files, metric="surface")


def test_millimetres_need_a_spacing(files):
    with pytest.raises(InputError, match=r"spacing of case2_day1, .* is not known.*--images"):
        score_submission(*files, medical=True)
