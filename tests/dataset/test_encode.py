import csv
import gzip
import json
import re

import numpy as np
import pytest
import SimpleITK

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.encode import encode_labels
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import scan_order
from gi2nnunet.formats.labels import nnunet_labels, split_organs, to_exclusive
from gi2nnunet.formats.tables import decode_table, read_mask_table
from gi2nnunet.formats.volumes import read_volume, write_volume
from gi2nnunet.scoring.masks import read_masks
from tests.converting import convert
from tests.source_factory import (
    ORGANS,
    MadeSource,
    encode_plain,
    make_scan,
    make_source,
    write_source,
)
from tests.strays import add_strays


def convert_into(folder, made, **options):
    workspace = open_workspace(folder / "ws", environ={})
    return convert(write_source(folder / "source", made), workspace=workspace, **options)


def read_rows(path):
    with path.open(newline="") as file:
        assert file.readline() == "id,class,predicted\n"
        return [tuple(row) for row in csv.reader(file)]


def in_order(rows):
    def key(row):
        scan_id, _, number = row[0].partition("_slice_")
        return scan_order(scan_id), int(number), ORGANS.index(row[1])

    return sorted(rows, key=key)


def write_bits(folder, scan, *, orientation=None, exclusive=False):
    """Write a scan's labels with SimpleITK, in any orientation, without the package's own code."""
    bits = to_exclusive(scan.bits) if exclusive else scan.bits
    image = SimpleITK.GetImageFromArray(bits[::-1].copy())  # LPS: the caudal slice comes first
    image.SetSpacing((*scan.spacing_xy, 3.0))
    image.SetOrigin((-11.0, 7.5, 300.0))
    if orientation:
        image = SimpleITK.DICOMOrient(image, orientation)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{scan.scan_id}.nii.gz"
    SimpleITK.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("what", ["labelsTr", "dataset", "one file"])
def test_a_converted_dataset_encodes_to_the_source_rows(tmp_path, what):
    scans = (
        make_scan("case2_day1", first_number=61),
        make_scan("case10_day0", shape=(4, 14, 13), spacing_xy=(1.63, 1.25)),
        make_scan("case3_day20", seed=4),
    )
    rows = [
        (scan.slice_id(z), organ, encode_plain(scan.masks[index, z]))
        for scan in scans
        for index, organ in enumerate(ORGANS)
        for z in range(len(scan.image))
    ]
    dataset = convert_into(tmp_path, MadeSource(train=scans, rows=tuple(rows)))
    given = {
        "labelsTr": dataset.folder / "labelsTr",
        "dataset": dataset.folder,
        "one file": dataset.label_path("case2_day1"),
    }[what]
    encoded = encode_labels(given, tmp_path / "out.csv")
    wanted = in_order(r for r in rows if what != "one file" or r[0].startswith("case2_day1_"))
    assert read_rows(tmp_path / "out.csv") == wanted
    assert (encoded.n_rows, encoded.n_scans) == (len(wanted), 1 if what == "one file" else 3)
    assert encoded.warnings == ()


@pytest.mark.parametrize("form", ["volumes", "masks", "a folder of masks for each scan"])
def test_stray_files_beside_labels_change_neither_rows_nor_score(tmp_path, form):
    given, made = tmp_path / "labels", make_source()
    for scan in made.train:
        spacing = (3.0, *scan.spacing_xy[::-1])
        if form == "volumes":
            write_volume(given / f"{scan.scan_id}.nii.gz", scan.bits, spacing_mm=spacing)
            (given / "dataset.json").write_text(json.dumps({"labels": nnunet_labels("regions")[0]}))
            continue
        for organ, mask in zip(ORGANS, scan.masks, strict=True):
            name = f"{scan.scan_id}_{organ}" if form == "masks" else f"{scan.scan_id}/{organ}"
            write_volume(given / f"{name}.nii.gz", mask, spacing_mm=spacing)
    before = encode_labels(given, tmp_path / "before.csv")
    table = read_masks(given)
    assert add_strays(given) > 30
    (given / "._dataset.json").write_bytes(b"\0\5\x16\7")
    (given / "._case2_day1_duodenum.nii.gz").write_bytes(b"\0\5\x16\7")
    after = encode_labels(given, tmp_path / "after.csv")
    assert read_rows(tmp_path / "after.csv") == read_rows(tmp_path / "before.csv")
    assert (after.warnings, after.labels) == (before.warnings, before.labels)
    assert sorted(read_masks(given).list_rows()) == sorted(table.list_rows())


def test_held_out_labels_of_a_whole_dataset_are_encoded_too(tmp_path):
    made = make_source()
    dataset = convert_into(tmp_path, made, holdout=0.5)
    assert {scan.part for scan in dataset.scans} == {"train", "holdout"}
    encode_labels(dataset.folder, tmp_path / "out.csv")
    assert read_rows(tmp_path / "out.csv") == in_order(made.rows)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "RPS", "SAL", "PIR", "ASL"])
def test_the_orientation_of_the_file_does_not_matter(tmp_path, orientation):
    scan = make_scan("case2_day1", shape=(4, 14, 13))
    path = write_bits(tmp_path / "labels", scan, orientation=orientation)
    stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert (stored.shape == (4, 14, 13)) == (orientation[2] in "SI")  # it is stored another way
    encode_labels(tmp_path / "labels", tmp_path / "out.csv")
    assert read_rows(tmp_path / "out.csv") == [
        (scan.slice_id(z), organ, encode_plain(scan.masks[index, z]))
        for z in range(4)
        for index, organ in enumerate(ORGANS)
    ]


def test_exclusive_labels_are_known_by_the_manifest_or_by_word(tmp_path):
    made = make_source()
    dataset = convert_into(tmp_path, made, labels="exclusive")
    wanted = []
    for scan in made.train:
        painted = split_organs(to_exclusive(scan.bits), scheme="exclusive")
        wanted += [
            (scan.slice_id(z), organ, encode_plain(painted[index, z]))
            for z in range(len(scan.image))
            for index, organ in enumerate(ORGANS)
        ]
    assert in_order(wanted) != in_order(made.rows)  # the overlap is lost
    encode_labels(dataset.folder / "labelsTr", tmp_path / "auto.csv")
    assert read_rows(tmp_path / "auto.csv") == in_order(wanted)
    for scan in made.train:
        write_bits(tmp_path / "plain", scan, exclusive=True)
    said = encode_labels(tmp_path / "plain", tmp_path / "said.csv", scheme="exclusive")
    assert read_rows(tmp_path / "said.csv") == in_order(wanted)
    assert len(said.warnings) == 1  # where slices start is not known; how they are coded is
    # Said otherwise than the manifest: the word counts.
    encode_labels(dataset.folder / "labelsTr", tmp_path / "bits.csv", scheme="regions")
    assert read_rows(tmp_path / "bits.csv") != in_order(wanted)


def test_without_a_manifest_slices_start_at_1_with_a_warning(tmp_path):
    scan = make_scan("case2_day1", first_number=61)
    write_bits(tmp_path / "labels", scan)
    encoded = encode_labels(tmp_path / "labels", tmp_path / "out.csv")
    assert [row[0] for row in read_rows(tmp_path / "out.csv")[::3]] == [
        f"case2_day1_slice_{number:04d}" for number in range(1, 6)
    ]
    first, coding = encoded.warnings
    assert "case2_day1" in first
    assert "taken as 1" in first
    assert "--labels exclusive" in coding


def test_a_scan_that_the_manifest_does_not_know_starts_at_1_with_a_warning(tmp_path):
    made = MadeSource(train=(make_scan("case2_day1", first_number=61),))
    made = MadeSource(
        train=made.train,
        rows=tuple(
            (s.slice_id(z), o, encode_plain(s.masks[i, z]))
            for s in made.train
            for z in range(5)
            for i, o in enumerate(ORGANS)
        ),
    )
    dataset = convert_into(tmp_path, made)
    write_bits(dataset.folder / "mine", make_scan("case2_day1", first_number=61))
    write_bits(dataset.folder / "mine", make_scan("case7_day7"))
    encoded = encode_labels(dataset.folder / "mine", tmp_path / "out.csv")
    ids = [row[0] for row in read_rows(tmp_path / "out.csv")]
    assert ids[0] == "case2_day1_slice_0061"
    assert ids[15] == "case7_day7_slice_0001"
    assert len(encoded.warnings) == 1
    assert "1 scan (case7_day7)" in encoded.warnings[0]


def test_volumes_of_any_name_are_encoded_under_it(tmp_path):
    scan = make_scan("case2_day1")
    write_bits(tmp_path / "a", scan).rename(tmp_path / "a" / "liver_7_0000.nii.gz")
    encode_labels(tmp_path / "a", tmp_path / "folder.csv")
    encode_labels(tmp_path / "a" / "liver_7_0000.nii.gz", tmp_path / "file.csv")
    rows = read_rows(tmp_path / "folder.csv")
    assert rows[0][0] == "liver_7_0000_slice_0001"  # labels have no channel
    assert read_rows(tmp_path / "file.csv") == rows


def test_a_name_may_have_the_word_between_scan_and_number(tmp_path):
    scan = make_scan("case2_day1")
    write_bits(tmp_path / "a", scan).rename(tmp_path / "a" / "x_slice_0001.nii.gz")
    encode_labels(tmp_path / "a", tmp_path / "out.csv")
    rows = read_rows(tmp_path / "out.csv")
    names = [f"x_slice_0001_slice_{number:04d}" for number in range(1, 6)]
    assert [name for name, _, _ in rows[::3]] == names


def test_a_sample_gives_rows_and_order(tmp_path):
    scan = make_scan("case2_day1")
    write_bits(tmp_path / "labels", scan)
    keys = [
        ("case2_day1_slice_0003", "stomach"),
        ("case2_day1_slice_0002", "large_bowel"),
        ("case8_day0_slice_0001", "stomach"),
    ]
    sample = tmp_path / "sample.csv"
    sample.write_text("id,class,predicted\n" + "".join(f"{a},{b},\n" for a, b in keys))
    encoded = encode_labels(tmp_path / "labels", tmp_path / "out.csv", sample=sample)
    assert read_rows(tmp_path / "out.csv") == [
        (*keys[0], encode_plain(scan.masks[2, 2])),
        (*keys[1], encode_plain(scan.masks[0, 1])),
        (*keys[2], ""),
    ]
    told = " ".join(encoded.warnings)
    assert "1 row of" in told
    assert "13 predicted rows" in told
    assert (encoded.n_rows, encoded.n_scans) == (3, 2)  # what was written, not what was read
    sample.write_text("id,class,predicted\n")
    encoded = encode_labels(tmp_path / "labels", tmp_path / "out.csv", sample=sample)
    assert len(read_rows(tmp_path / "out.csv")) == 15
    assert (encoded.n_rows, encoded.n_scans) == (15, 1)


def write_exclusive(folder):
    """Two volumes: one with labels 1 and 2 alone, one with 3 too."""
    folder.mkdir(parents=True)
    for name, most in (("case1_day1", 2), ("case2_day1", 3)):
        array = np.zeros((3, 4, 5), np.uint8)
        array[1, 0, : most + 1] = range(most + 1)
        write_volume(folder / f"{name}.nii.gz", array, spacing_mm=(3, 1.5, 1.5))


def test_labels_that_could_be_coded_either_way_have_to_be_said(tmp_path):
    labels, out = tmp_path / "x" / "labels", tmp_path / "out.csv"
    write_exclusive(labels)
    with pytest.raises(
        InputError, match=r"label 3 and none above.*--labels\) exclusive or regions"
    ):
        encode_labels(labels, out)
    assert not out.exists()
    rows = {}
    for scheme in ("exclusive", "regions"):
        encode_labels(labels, out, scheme=scheme)
        rows[scheme] = {(a, b): c for a, b, c in read_rows(out)}
    assert rows["exclusive"]["case2_day1_slice_0002", "stomach"] == "4 1"
    assert rows["regions"]["case2_day1_slice_0002", "stomach"] == ""
    table = {"background": 0, "large_bowel": 1, "small_bowel": 2, "stomach": 3}
    for folder in (labels, labels.parent):  # nnU-Net's description in it, or one folder up
        (folder / "dataset.json").write_text(json.dumps({"labels": table}))
        encoded = encode_labels(labels, out)
        assert {(a, b): c for a, b, c in read_rows(out)} == rows["exclusive"]
        assert len(encoded.warnings) == 1  # the first slice's number
        (folder / "dataset.json").unlink()
    # Where one volume of the folder settles it, it is settled for all.
    write_bits(labels, make_scan("case3_day1"))
    encode_labels(labels, out)
    found = {(a, b): c for a, b, c in read_rows(out)}
    assert rows["regions"].items() <= found.items()
    (labels / "case2_day1.nii.gz").unlink()
    (labels / "case3_day1.nii.gz").unlink()
    encode_labels(labels, out)  # 1 and 2 mean the same either way
    assert {c for _, _, c in read_rows(out)} == {"", "2 1", "3 1"}


@pytest.mark.parametrize(
    "content",
    ["{}", '{"name": "an extension", "version": "1.0"}', "[1, 2]", "no JSON", '{"format": "tar"}'],
)
def test_a_manifest_of_another_program_is_passed_over(tmp_path, content):
    write_bits(tmp_path / "labels", make_scan("case2_day1"))
    encode_labels(tmp_path / "labels", tmp_path / "wanted.csv")
    for folder in (tmp_path, tmp_path / "labels"):
        (folder / "manifest.json").write_text(content)
    encode_labels(tmp_path / "labels", tmp_path / "out.csv")
    assert read_rows(tmp_path / "out.csv") == read_rows(tmp_path / "wanted.csv")


@pytest.mark.parametrize("damage", ["cut", "emptied", "newer", "without scans"])
def test_a_damaged_manifest_of_its_own_is_refused(tmp_path, damage):
    dataset = convert_into(tmp_path, make_source())
    path = dataset.folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(
        {
            "cut": path.read_text()[:300],
            "emptied": "",
            "newer": json.dumps({**content, "format": 2}),
            "without scans": json.dumps({k: v for k, v in content.items() if k != "scans"}),
        }[damage]
    )
    with pytest.raises(InputError, match=r"(?s)manifest\.json: .*gi2nnunet convert"):
        encode_labels(dataset.folder / "labelsTr", tmp_path / "out.csv")


def test_volumes_of_another_depth_than_the_manifest_says_are_refused_together(tmp_path):
    dataset = convert_into(tmp_path, make_source())
    for scan_id, depth in (("case2_day1", 4), ("case2_day10", 6), ("case10_day0", 5)):
        write_bits(dataset.folder / "mine", make_scan(scan_id, shape=(depth, 12, 16)))
    with pytest.raises(InputError) as error:
        encode_labels(dataset.folder / "mine", tmp_path / "out.csv")
    first, second, _ = str(error.value).splitlines()
    assert re.search(r"case2_day1\.nii\.gz: found 4 slices; expected 5, as .*manifest", first)
    assert re.search(r"case2_day10\.nii\.gz: found 6 slices; expected 5", second)
    assert not (tmp_path / "out.csv").exists()


def array_with(value, dtype=np.int16):
    array = np.zeros((3, 4, 5), dtype)
    array[1, 2, 3] = value
    return array


@pytest.mark.parametrize(
    ("array", "scheme", "message"),
    [
        (
            array_with(8),
            None,
            r"case1_day1\.nii\.gz: found the labels \[8\]; expected those of regions",
        ),
        (array_with(-1), None, r"case1_day1\.nii\.gz: found the values \[-1\]"),
        (array_with(257), "regions", r"case1_day1\.nii\.gz: found the values \[257\]"),
        (array_with(0.5, np.float32), None, r"case1_day1\.nii\.gz: found the values \[0\.5\]"),
        (
            array_with(4),
            "exclusive",
            r"found the labels \[4\]; expected those of exclusive(?s:.*)--labels regions",
        ),
        (array_with(1), "both", r"--labels: found 'both'; expected regions or exclusive"),
    ],
)
def test_what_is_no_label_is_refused_and_nothing_written(tmp_path, array, scheme, message):
    (tmp_path / "labels").mkdir()
    write_volume(tmp_path / "labels" / "case1_day1.nii.gz", array, spacing_mm=(3, 1.5, 1.5))
    with pytest.raises(InputError, match=message):
        encode_labels(tmp_path / "labels", tmp_path / "out" / "out.csv", scheme=scheme)
    assert {p.name for p in tmp_path.iterdir()} == {"labels"}


@pytest.mark.parametrize("kind", ["missing", "empty folder", "text file", "cut file"])
def test_what_holds_no_volume_is_refused(tmp_path, kind):
    given = tmp_path / "given"
    if kind == "empty folder":
        given.mkdir()
    elif kind == "text file":
        given.write_text("hello")
    elif kind == "cut file":
        given = write_bits(given, make_scan("case1_day1"))
        given.write_bytes(given.read_bytes()[:100])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="given"):
        encode_labels(given, tmp_path / "out.csv")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.real
def test_real_rows_survive_label_volumes_byte_for_byte(real_data, tmp_path):
    with gzip.open(real_data / "slices.csv.gz", "rt") as file:
        listing = {row["id"]: row for row in csv.DictReader(file)}
    of_scan = {slice_id.partition("_slice_")[0]: row for slice_id, row in listing.items()}
    sizes = {scan: (int(row["height"]), int(row["width"])) for scan, row in of_scan.items()}
    table = read_mask_table(real_data / "train_rows.csv.gz")
    for scan_id, numbers, bit_map in decode_table(table, sizes=sizes):
        assert numbers[0] == 1
        row = of_scan[scan_id]
        write_volume(
            tmp_path / "labels" / f"{scan_id}.nii.gz",
            bit_map,
            spacing_mm=(3.0, float(row["px_h"]), float(row["px_w"])),
        )
    encode_labels(tmp_path / "labels", tmp_path / "out.csv")
    with gzip.open(real_data / "train_rows.csv.gz", "rt", newline="") as file:
        wanted = [tuple(row) for row in csv.reader(file)][1:]
    assert len(wanted) == 4032
    assert sum(bool(text) for _, _, text in wanted) == 1674
    assert read_rows(tmp_path / "out.csv") == in_order(wanted)
    # A map with overlaps is what comes back, not one painted over another.
    shared = [
        int((np.bitwise_count(read_volume(path).array) > 1).sum())
        for path in (tmp_path / "labels").iterdir()
    ]
    assert sum(shared) > 0
