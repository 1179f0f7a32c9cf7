import pickle
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.convert import convert
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions
from tests.source_factory import (
    MadeSource,
    make_scan,
    make_source,
    write_files,
    write_source,
    write_zip,
)


def described(index):
    return {
        scan.scan_id: (
            scan.part, scan.numbers, scan.shape, scan.spacing_mm, scan.rows,
            [path.rpartition("train/")[2].rpartition("test/")[2] for path in scan.names],
        )
        for scan in index.scans.values()
    }  # fmt: skip


def test_folder_and_zip_hold_the_same(tmp_path):
    made = make_source(test_ids=["case1_day0"])
    files = {**made.files(), "train/.DS_Store": b"", "notes.txt": b"", "__MACOSX/._x": b""}
    write_files(tmp_path / "a", files)
    write_files(tmp_path / "b" / "uw-madison", files)
    places = [
        tmp_path / "a",
        tmp_path / "b",
        write_zip(tmp_path / "c.zip", files),
        write_zip(tmp_path / "d.zip", files, prefix="uw-madison/"),
    ]
    indices = [open_source(place) for place in places]
    assert all(described(index) == described(indices[0]) for index in indices)
    index = indices[0]
    assert list(index.scans_in("train")) == [
        "case2_day1",
        "case2_day10",
        "case10_day0",
        "case11_day3",
    ]
    assert list(index.scans_in("test")) == ["case1_day0"]
    assert index.scans["case1_day0"].rows is None
    assert index.warnings == ()
    assert len(index.sample) == 0
    for scan in made.train:
        found = index.scans[scan.scan_id]
        assert found.shape == scan.image.shape
        assert found.spacing_mm == (3.0, scan.spacing_xy[1], scan.spacing_xy[0])
        assert found.numbers == (1, 2, 3, 4, 5)
        rows = {(i, o): text for i, o, text in made.rows}
        assert found.rows == tuple(
            tuple(rows[scan.slice_id(z), organ] for organ in ORGANS) for z in range(5)
        )
    first = dict.fromkeys(row[0].split("_")[0] for row in made.rows)
    assert index.patient_order == tuple(first)


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(4)), st.integers(0, 100))
def test_rows_in_any_order_give_the_same_scans(tmp_path_factory, order, seed):
    made = make_source(["case1_day0", "case1_day2"], seed=seed, shape=(4, 6, 6))
    folder = tmp_path_factory.mktemp("source")
    write_source(folder, made)
    before = described(open_source(folder))
    blocks = [made.rows[part::4] for part in order]
    rows = tuple(row for block in blocks for row in block)
    write_source(folder, MadeSource(train=made.train, rows=rows))
    assert described(open_source(folder)) == before


def test_sources_read_bytes_sizes_and_travel_to_other_processes(tmp_path):
    files = make_source().files()
    folder = write_files(tmp_path / "a", files)
    archive = write_zip(tmp_path / "a.zip", files)
    for path in (folder, archive):
        source = pickle.loads(pickle.dumps(Archive(path)))
        assert source.names() == sorted(files)
        assert source.sizes(sorted(files)) == [len(files[name]) for name in sorted(files)]
        assert all(source.read_bytes(name) == content for name, content in files.items())
        assert source.read_bytes("train.csv", limit=2) == b"id"
        with pytest.raises(InputError, match=r"nothing\.png"):
            source.read_bytes("nothing.png")
        with pytest.raises(InputError, match="gone"):
            source.sizes(["nothing.png"])
    assert Archive(folder).digest_checksums(["train.csv"]) is None
    other = write_zip(tmp_path / "b.zip", {**files, "train.csv": b"x"})
    digests = {Archive(path).digest_checksums(["train.csv"]) for path in (archive, other)}
    assert len(digests) == 2


def refuse(path, *parts, allow_missing=False):
    with pytest.raises(InputError) as error:
        open_source(path, SourceOptions(allow_missing=allow_missing))
    assert error.value.exit_code == 3
    for part in parts:
        assert part in str(error.value)
    return str(error.value)


def test_what_is_no_source_is_refused(tmp_path):
    refuse(tmp_path / "nowhere", "no such file or folder")
    refuse(tmp_path, "is not a source of the competition", "train.csv", "DICOM series")
    (tmp_path / "text.zip").write_text("no zip")
    refuse(tmp_path / "text.zip", "text.zip", "neither a folder nor a readable zip")
    whole = write_zip(tmp_path / "whole.zip", make_source().files()).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "half.zip", "readable zip", "Download")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "train.csv").write_text("id,class,segmentation\n")
    refuse(tmp_path / "empty", "holds no slice image")
    write_source(tmp_path / "two" / "a")
    write_source(tmp_path / "two" / "b")
    refuse(tmp_path / "two", "several sources", "a/, b/")


def test_a_damaged_member_of_a_zip_is_told(tmp_path):
    made = make_source()
    path = write_zip(tmp_path / "a.zip", made.files())
    content = bytearray(path.read_bytes())
    name = made.train[0].image_path(0).encode()
    content[content.index(name) + len(name) + 30] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"slice_0001.* cannot be read"):
        Archive(path).read_bytes(name.decode())


def test_an_encrypted_zip_is_told(tmp_path):
    """Only the flag is set here: what Python does with a locked member is the same."""
    path = write_zip(tmp_path / "a.zip", {"train.csv": b"id,class,segmentation\n"})
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train\.csv cannot be read"):
        Archive(path).read_bytes("train.csv")


def test_no_train_csv(tmp_path):
    files = make_source().files()
    del files["train.csv"]
    refuse(write_files(tmp_path, files), "no train.csv", "Put the competition's train.csv beside")


def test_train_csv_with_predicted_instead_of_segmentation(tmp_path):
    files = make_source().files()
    files["train.csv"] = files["train.csv"].replace(b"segmentation", b"predicted")
    refuse(
        write_files(tmp_path, files), "train.csv", "['id', 'class', 'predicted']", "segmentation"
    )


def drop(rows, slice_id, organ=None):
    return tuple(r for r in rows if not (r[0] == slice_id and organ in (None, r[1])))


def test_rows_and_images_that_do_not_match_are_told_together(tmp_path):
    made = make_source()
    rows = drop(made.rows, "case2_day1_slice_0002")
    rows = drop(rows, "case2_day1_slice_0003", "stomach")
    rows = (*rows, *((f"case77_day1_slice_000{n}", o, "") for n in (1, 2) for o in ORGANS))
    files = MadeSource(train=made.train, rows=rows).files()
    del files[made.train[2].image_path(4)]  # case10_day0, last slice
    path = write_files(tmp_path, files)
    message = refuse(
        path,
        "case2_day1/scans/slice_0002_16_12_1.50_1.50.png: found an image without rows",
        "case2_day1_slice_0003: found 2 of 3 rows",
        "case77_day1_slice_0001: found rows without an image",
        "case77_day1_slice_0002: found rows without an image",
        "case10_day0_slice_0005: found rows without an image",
        "--allow-missing",
    )
    assert len(message.splitlines()) == 6
    index = open_source(path, SourceOptions(allow_missing=True))
    assert list(index.scans_in("train")) == [scan.scan_id for scan in made.train]
    assert index.scans["case2_day1"].rows[1] == ("", "", "")
    assert index.scans["case2_day1"].rows[2][2] == ""
    assert index.scans["case2_day1"].rows[2][0] != ""
    assert index.scans["case10_day0"].numbers == (1, 2, 3, 4)
    assert index.warnings == (
        f"rows of 3 slices without an image are passed over, first {path}/train.csv, "
        "case10_day0_slice_0005",
        "masks without a row in train.csv count as empty, in training and in scores: "
        "case2_day1 (1 slice and 1 row)",
    )


def test_every_scan_with_masks_without_a_row_is_named(tmp_path):
    made = make_source()
    rows = made.rows
    for scan_id, *numbers in (("case2_day1", 1, 2), ("case10_day0", 3)):
        for number in numbers:
            rows = drop(rows, f"{scan_id}_slice_000{number}")
    for organ in ("stomach", "large_bowel"):
        rows = drop(rows, "case11_day3_slice_0004", organ)
    path = write_source(tmp_path / "s", MadeSource(train=made.train, rows=rows))
    workspace = open_workspace(tmp_path / "w", environ={})
    dataset = convert(path, workspace=workspace, options=SourceOptions(allow_missing=True))
    assert (
        "masks without a row in train.csv count as empty, in training and in scores: "
        "case2_day1 (2 slices), case10_day0 (1 slice), case11_day3 (2 rows)"
    ) in dataset.manifest["warnings"]
    numbers = {scan.scan_id: len(scan.numbers) for scan in dataset.scans}
    assert numbers == {scan.scan_id: 5 for scan in made.train}


def test_missing_rows_do_not_hide_other_problems(tmp_path):
    made = make_source()
    files = MadeSource(train=made.train, rows=drop(made.rows, "case2_day1_slice_0002")).files()
    files["train/case2/case2_day1/scans/odd.png"] = b""
    refuse(write_files(tmp_path, files), "odd.png", "slice_0002")


def test_a_gap_in_the_slice_numbers(tmp_path):
    made = make_source(test_ids=["case1_day0"])
    rows = drop(made.rows, "case2_day1_slice_0003")
    files = MadeSource(train=made.train, test=made.test, rows=rows).files()
    del files[made.train[0].image_path(2)]
    del files[made.test[0].image_path(1, "test")]
    path = write_files(tmp_path, files)
    refuse(
        path,
        "train, case2_day1: found no slice 3; expected every slice from 1 to 5",
        "test, case1_day0: found no slice 2",
    )
    source = open_source(path, SourceOptions(allow_missing=True))
    assert source.left_out == {"case2_day1": "no slice 3", "case1_day0": "no slice 2"}
    assert set(source.scans) == {s.scan_id for s in made.train[1:]}
    assert len(source.warnings) == 2  # and none of rows that were passed over with the scan
    assert source.warnings[0] == (
        "case2_day1 is left out (no slice 3; expected every slice from 1 to 5)"
    )


def rename(files, old, new):
    return {name.replace(old, new): content for name, content in files.items()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("slice_0003_16_13_1.50_1.50.png", "found 16 x 13 at"),
        ("slice_0003_12_16_1.50_1.50.png", "found 12 x 16 at"),
        ("slice_0003_16_12_1.63_1.50.png", "found 16 x 12 at"),
    ],
)
def test_a_slice_of_another_size_or_spacing_than_its_scan(tmp_path, name, found):
    files = rename(
        make_source().files(), "case2_day1/scans/slice_0003_16_12_1.50_1.50.png",
        f"case2_day1/scans/{name}",
    )  # fmt: skip
    refuse(write_files(tmp_path, files), f"case2_day1/scans/{name}", found, "slice_0001")


@pytest.mark.parametrize(
    "name",
    [
        "train/case2/case2_day1/scans/slice_3_16_12_1.50_1.50.png",
        "train/case2/case2_day1/scans/slice_0003_16_12.png",
        "train/case2/case3_day1/scans/slice_0006_16_12_1.50_1.50.png",
        "train/case2/case2_day1/slice_0006_16_12_1.50_1.50.png",
        "train/case2/case2_day1/scans/slice_0006_-16_12_1.50_1.50.png",
        "train/case2/case2_day1/scans/mask.PNG",
    ],
)
def test_a_png_of_another_name_is_told(tmp_path, name):
    refuse(write_files(tmp_path, {**make_source().files(), name: b""}), name, "expected case1/")


def test_two_files_of_one_slice(tmp_path):
    name = "train/case2/case2_day1/scans/slice_00003_16_12_1.50_1.50.png"
    files = {**make_source().files(), name: b""}
    refuse(write_files(tmp_path, files), "slice 3 a second time")


def test_a_size_or_spacing_of_zero(tmp_path):
    scan = make_scan("case1_day0", spacing_xy=(0.0, 1.5))
    refuse(write_source(tmp_path, MadeSource(train=(), test=(scan,))), "size or spacing of zero")


def test_test_only_and_train_only_sources(tmp_path):
    made = make_source([], test_ids=["case5_day1"])
    index = open_source(write_source(tmp_path / "a", made))
    assert (list(index.scans_in("train")), list(index.scans_in("test"))) == ([], ["case5_day1"])
    assert index.patient_order == ()
    index = open_source(write_source(tmp_path / "b"))
    assert index.scans_in("test") == {}


def test_a_folder_of_links_is_a_source(tmp_path):
    write_source(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train").symlink_to(tmp_path / "a" / "train", target_is_directory=True)
    shutil.copy(tmp_path / "a" / "train.csv", tmp_path / "b")
    assert described(open_source(tmp_path / "b")) == described(open_source(tmp_path / "a"))
