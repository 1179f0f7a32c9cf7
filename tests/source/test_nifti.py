"""NIfTI labels of any coding and ids of any form: taken as they are meant, or refused."""

from __future__ import annotations

import json
import re

import nibabel
import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.encode import encode_labels
from gi2nnunet.formats.volumes import read_volume, write_volume
from gi2nnunet.source.open import open_source, scan_from_json
from gi2nnunet.source.scan import SourceOptions
from tests.command_line import run_in_process
from tests.source_factory import ORGANS, make_scan

NAMED = {"stomach": 1, "small_bowel": 2, "large_bowel": 3}
OPTION = "stomach=1,small_bowel=2,large_bowel=3"
FOLDERS = {"images": ("images", "labels"), "imagesTr": ("imagesTr", "labelsTr")}


def make_labels(scan_id, values=NAMED):
    """Return exclusive labels with these values, and their bit-coded map."""
    bits = make_scan(scan_id).bits
    one = np.where(bits & 4, 4, np.where(bits & 1, 1, bits & 2)).astype(np.uint8)
    given = np.zeros_like(one)
    for bit, organ in zip((1, 2, 4), ORGANS, strict=True):
        given[one == bit] = values[organ]
    return given, one


def write_scans(folder, names, *, layout="images", suffix="", values=NAMED):
    images, labels = FOLDERS[layout]
    for name in names:
        given, _ = make_labels(name, values)
        image = make_scan(name).image
        write_volume(folder / images / f"{name}{suffix}.nii.gz", image, spacing_mm=(3, 1.5, 1.5))
        write_volume(folder / labels / f"{name}.nii.gz", given, spacing_mm=(3, 1.5, 1.5))
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run_command(*words):
        return run_in_process([str(w) for w in words], monkeypatch=monkeypatch, capsys=capsys)

    return run_command


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        (NAMED, NAMED),
        (
            {"Colon": 20, "SmallBowel": 18, "stomach": 6, "liver": 5},
            {"large_bowel": 20, "small_bowel": 18, "stomach": 6},
        ),
        (
            {"stomach": 9, "small bowel": [4, 5], "large bowel": 1},
            {"large_bowel": 1, "small_bowel": 5, "stomach": 9},
        ),
    ],
)  # fmt: skip
def test_names_in_dataset_json_say_what_labels_mean(tmp_path, declared, values):
    folder = write_scans(tmp_path / "in", ["case1_day0"], values=values)
    content = {"labels": {"background": 0, **declared}}
    (folder / "dataset.json").write_text(json.dumps(content))
    source = open_source(folder)
    (scan,) = source.scans.values()
    assert np.array_equal(scan.read().label_map, make_labels("case1_day0")[1])
    (note,) = source.label_notes
    assert f"stomach {values['stomach']}" in note
    assert "dataset.json" in note
    assert ("background 5" in note) == ("liver" in declared)


def test_voxels_that_nnunet_ignores_are_background_only_on_purpose(tmp_path, run):
    folder = write_scans(tmp_path / "in", ["case1_day0", "case2_day0"])
    (folder / "dataset.json").write_text(json.dumps({"labels": {**NAMED, "ignore": 8}}))
    convert = ("convert", folder, "--holdout", "0")
    assert run(*convert, "-w", "none")[0] == 0  # declared, but on no voxel
    label = folder / "labels" / "case1_day0.nii.gz"
    given, _ = make_labels("case1_day0")
    given[:, :2, :2] = 8
    write_volume(label, given, spacing_mm=(3, 1.5, 1.5))
    code, _, err = run(*convert)
    assert code == 3
    assert "found voxels of label 8, which dataset.json calls ignore" in err
    option = re.search(r"convert or encode with (--label-map) (\S+)", err).groups()
    assert run(*convert, *option)[0] == 0


@pytest.mark.parametrize("command", ["check", "convert", "encode"])
def test_label_map_says_what_labels_mean_in_every_command(tmp_path, run, command):
    folder = write_scans(tmp_path / "in", ["case1_day0", "case2_day0"])
    words = {
        "check": ["check", "in"],
        "convert": ["convert", "in", "--holdout", "0", "--jobs", "1"],
        "encode": ["encode", folder / "labels", "--out", "out.csv"],
    }[command]
    unsaid = run(*words)
    assert unsaid[0] == 3
    assert f"--label-map {OPTION}" in unsaid[2]
    shown = run(*words, "--label-map", OPTION)
    assert shown[0] == 0
    assert "labels: stomach 1; small bowel 2; large bowel 3 (--label-map)" in shown[2]
    told = json.loads(run(*words, "--label-map", OPTION, "--json")[1])
    assert "large bowel 3" in told["labels"][0]
    if command == "encode":
        wanted = tmp_path / "own"
        write_volume(
            wanted / "case1_day0.nii.gz", make_labels("case1_day0")[1], spacing_mm=(3, 1.5, 1.5)
        )
        encode_labels(wanted, tmp_path / "own.csv", scheme="regions")
        assert set((tmp_path / "own.csv").read_text().splitlines()) <= set(
            (tmp_path / "out.csv").read_text().splitlines()
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stomach=1", r"found the labels \[2, 3\]; expected those of stomach=1"),
        ("stomach=1,stomach=2", "--label-map 'stomach=1,stomach=2': expected"),
        ("stomach=1,small_bowel=1", "each from 1 to 255 and once"),
        ("stomach=0", "each from 1 to 255"),
        ("liver=1", "--label-map 'liver=1'"),
        ("others=1", "--label-map 'others=1'"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused(tmp_path, given, message):
    folder = write_scans(tmp_path / "in", ["case1_day0"])
    with pytest.raises(InputError, match=message):
        encode_labels(folder / "labels", tmp_path / "out.csv", label_map=given)


def test_a_dataset_json_that_names_no_organ_or_one_twice_is_refused(tmp_path):
    folder = write_scans(tmp_path / "in", ["case1_day0"])
    for labels in ({"background": 0, "liver": 1}, {"stomach": 1, "the stomach": 2}):
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
        with pytest.raises(InputError, match=f"(?s)dataset.json: found.*--label-map {OPTION}"):
            open_source(folder)
        opened = open_source(folder, SourceOptions(label_map=OPTION))  # the remedy
        assert len(opened.scans) == 1


@pytest.mark.parametrize("declared", [NAMED, {"large_bowel": 1, "small_bowel": 2, "stomach": 3}])
def test_a_dataset_json_that_contradicts_the_label_map_is_warned_of(tmp_path, run, declared):
    folder = write_scans(tmp_path / "in", ["case1_day0"])
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, **declared}}))
    warnings = open_source(folder, SourceOptions(label_map=OPTION)).warnings
    told = run("encode", folder / "labels", "--out", "out.csv", "--label-map", OPTION)
    assert told[0] == 0
    shown = " ".join(told[2].split())
    if declared == NAMED:
        assert warnings == ()
        assert "leave the option out" not in shown
    else:
        assert "dataset.json says that labels are exclusive, but they are read as" in warnings[0]
        assert "leave the option out if the file is right" in shown
        undone = open_source(folder)  # the remedy
        assert "stomach 3" in undone.label_notes[0]


def write_images(folder, names):
    for name in names:
        array = np.zeros((3, 4, 5), np.uint8)
        array[1, 2, 3] = 1
        write_volume(folder / f"{name}.nii.gz", array, spacing_mm=(3, 1.5, 1.5))
    return folder


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["genius_0800"], ["genius_0800"]),
        (["img_0000", "img_0001"], ["img_0000", "img_0001"]),
        (["genius_0000", "genius_0800", "other"], ["genius_0000", "genius_0800", "other"]),
        (["a_0000", "b_0000"], ["a", "b"]),
        (["img_0001_0000", "img_0002_0000"], ["img_0001", "img_0002"]),
    ],
)
def test_four_digits_are_a_channel_only_in_nnunets_form(tmp_path, names, ids):
    folder = write_images(tmp_path / "in", names)
    assert list(open_source(folder).scans) == ids
    for name, scan_id in zip(names, ids, strict=True):
        assert list(open_source(folder / f"{name}.nii.gz").scans) == [scan_id]
    labels = open_source(folder, SourceOptions(labels_only=True))
    assert list(labels.scans) == names  # labels have no channel


@pytest.mark.parametrize("layout", FOLDERS)
def test_labels_say_whether_images_have_channels(tmp_path, layout):
    names = ["img_0000", "img_0001"]
    bare = write_scans(tmp_path / "bare", names, layout=layout)
    suffixed = write_scans(tmp_path / "suffixed", names, layout=layout, suffix="_0000")
    for folder in (bare, suffixed):
        opened = open_source(folder, SourceOptions(label_map=OPTION))
        assert list(opened.scans) == names
        assert all(scan.labelled for scan in opened.scans.values())
    (alone := write_scans(tmp_path / "one", ["img_0000"], layout=layout))
    assert list(open_source(alone, SourceOptions(label_map=OPTION)).scans) == ["img_0000"]


def test_several_channels_are_refused(tmp_path):
    folder = write_images(tmp_path / "in", ["a_0000", "a_0001", "b_0000", "b_0001"])
    with pytest.raises(InputError, match=r"(?s)a_0001.*channel 0001.*b_0001"):
        open_source(folder)
    labelled = write_scans(tmp_path / "l", ["a"], suffix="_0000")
    write_images(labelled / "images", ["a_0001"])
    with pytest.raises(InputError, match="channel 0001"):
        open_source(labelled, SourceOptions(label_map=OPTION))


def test_ids_with_four_digits_survive_convert_and_encode(tmp_path, run):
    names = ["genius_0800", "genius_0801"]
    write_scans(tmp_path / "in", names)
    made = run("convert", "in", "--holdout", "0", "--label-map", OPTION, "--jobs", "1", "--json")
    dataset = json.loads(made[1])["dataset"]
    assert list(open_source(dataset).scans) == names
    assert run("encode", f"{dataset}/labelsTr", "--out", "out.csv")[0] == 0
    ids = {
        line.partition("_slice_")[0] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]
    }
    assert ids == set(names)


TOTAL = {"large_bowel": "colon", "small_bowel": "small_bowel", "stomach": "stomach"}


def write_masks(folder, scan_id, form, *, names=TOTAL, value=1):
    """Write the masks of one scan, one file an organ, and return its bit-coded labels."""
    bits = make_scan(scan_id).bits
    for bit, organ in zip((1, 2, 4), ORGANS, strict=True):
        path = {
            "flat": folder / f"{scan_id}_{names[organ]}.nii.gz",
            "folders": folder / scan_id / f"{names[organ]}.nii.gz",
            "segmentations": folder / scan_id / "segmentations" / f"{names[organ]}.nii.gz",
        }[form]
        mask = ((bits & bit) != 0).astype(np.uint8) * np.uint8(value)
        write_volume(path, mask, spacing_mm=(3, 1.5, 1.5))
    return bits


def encode_whole(tmp_path, bits_of):
    for scan_id, bits in bits_of.items():
        write_volume(tmp_path / "whole" / f"{scan_id}.nii.gz", bits, spacing_mm=(3, 1.5, 1.5))
    encode_labels(tmp_path / "whole", tmp_path / "whole.csv", scheme="regions")
    return (tmp_path / "whole.csv").read_text()


FORMS = ("flat", "folders", "segmentations")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_single_organs_make_the_rows_of_whole_volumes(tmp_path, form, value):
    given = tmp_path / "given"
    bits_of = {s: write_masks(given, s, form, value=value) for s in ("case2_day0", "case10_day3")}
    if form != "flat":  # other structures, as TotalSegmentator writes
        for place in given.rglob("colon.nii.gz"):
            write_volume(
                place.parent / "liver.nii.gz", np.ones((5, 12, 16), np.uint8), spacing_mm=(3, 1, 1)
            )
    encoded = encode_labels(given, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, bits_of)
    (note,) = encoded.labels
    assert "large bowel colon; small bowel small_bowel; stomach stomach" in note


def test_the_folder_of_one_scan_is_taken_under_its_name(tmp_path):
    bits = write_masks(tmp_path / "given", "case2_day0", "folders")
    encode_labels(tmp_path / "given" / "case2_day0", tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, {"case2_day0": bits})


def test_duodenum_joins_the_small_bowel_only_if_it_is_asked_for(tmp_path, run):
    bits = write_masks(tmp_path / "given", "case2_day0", "folders")
    extra = np.zeros_like(bits)
    extra[0, :2, :3] = 1
    place = tmp_path / "given" / "case2_day0" / "duodenum.nii.gz"
    write_volume(place, extra, spacing_mm=(3, 1.5, 1.5))
    told = run("encode", "given", "--out", "out.csv")[2]
    option = re.search(r"--label-map (\S+)", " ".join(told.split()))[1]  # the printed remedy
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, {"case2_day0": bits})
    assert run("encode", "given", "--out", "out.csv", "--label-map", option)[0] == 0
    joined = bits | extra * np.uint8(2)
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, {"case2_day0": joined})


def test_an_organ_without_a_mask_is_warned_of(tmp_path):
    bits = write_masks(tmp_path / "given", "case2_day0", "flat")
    (tmp_path / "given" / "case2_day0_colon.nii.gz").unlink()
    encoded = encode_labels(tmp_path / "given", tmp_path / "out.csv")
    expected = "no mask of large_bowel for 1 scan (case2_day0)"
    assert any(expected in told for told in encoded.warnings)
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, {"case2_day0": bits & 6})


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("form", FORMS)
def test_convert_takes_masks_of_single_organs_as_labels(tmp_path, run, layout, form):
    images, labels = FOLDERS[layout]
    ids = ("case2_day0", "case10_day3")
    bits_of = {s: write_masks(tmp_path / "in" / labels, s, form) for s in ids}
    for scan_id in ids:
        place = tmp_path / "in" / images / f"{scan_id}.nii.gz"
        write_volume(place, make_scan(scan_id).image, spacing_mm=(3, 1.5, 1.5))
    made = run("convert", "in", "--holdout", "0", "--jobs", "1", "--json")
    content = json.loads(made[1])
    assert "one mask an organ" in content["labels"][0]
    for scan_id, bits in bits_of.items():
        found = read_volume(tmp_path / content["dataset"] / "labelsTr" / f"{scan_id}.nii.gz")
        assert np.array_equal(found.array, bits)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("case7_day0.nii.gz", "a volume beside masks of single organs"),
        ("case2_day0_large_bowel.nii.gz", "a second mask of large_bowel of case2_day0"),
    ],
)
def test_masks_are_refused_if_it_is_not_clear_what_they_are(tmp_path, extra, message):
    folder = tmp_path / "given"
    bits = write_masks(folder, "case2_day0", "flat")
    write_volume(folder / extra, bits, spacing_mm=(3, 1.5, 1.5))
    with pytest.raises(InputError, match=message) as raised:
        encode_labels(folder, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
    if "second" in message:  # the printed way out
        write_volume(folder / extra, np.zeros_like(bits), spacing_mm=(3, 1.5, 1.5))
        option = re.search(r"such as (\S+stomach=stomach)", str(raised.value))[1]
        encode_labels(folder, tmp_path / "out.csv", label_map=option)
    else:
        (folder / extra).rename(tmp_path / extra)
        encode_labels(folder, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == encode_whole(tmp_path, {"case2_day0": bits})


def test_a_single_mask_and_labels_under_a_masks_name_are_refused(tmp_path):
    bits = write_masks(tmp_path / "given", "case2_day0", "flat")
    path = tmp_path / "given" / "case2_day0_stomach.nii.gz"
    with pytest.raises(InputError, match="Give the folder of the masks"):
        encode_labels(path, tmp_path / "out.csv")
    write_volume(path, bits, spacing_mm=(3, 1.5, 1.5))
    with pytest.raises(InputError, match="0 and one other value in a mask of stomach"):
        encode_labels(tmp_path / "given", tmp_path / "out.csv")
    with pytest.raises(InputError, match="have no numbers"):
        encode_labels(tmp_path / "given", tmp_path / "out.csv", label_map=OPTION)


def write_stored(path, array, affine):
    """Write an array (z, y, x) as columns, rows and slices with an affine that is not its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), affine), path)


MADE_UP = {
    "identity": np.eye(4),
    "ITK's identity": np.diag([-1.0, -1, 1, 1]),
    "without origin": np.diag([1.5, 1.5, 3, 1]),
    "without spacing": np.array([[1.0, 0, 0, -80], [0, 1, 0, -90], [0, 0, 1, 30], [0, 0, 0, 1]]),
}
IN_PLACE = {
    "with both": np.array([[1.5, 0, 0, -80], [0, 1.5, 0, -90], [0, 0, 3, 30], [0, 0, 0, 1]]),
    "as this package writes": np.diag([-1.5, -1.5, 3, 1]),
    "other axes": np.array([[0.0, 0, 1, -80], [1, 0, 0, -90], [0, 1, 0, 30], [0, 0, 0, 1]]),
}


def test_a_mirrored_volume_scores_0_with_a_warning_and_is_right_as_stored(tmp_path, run):
    scan_id = "case1_day0"
    bits = np.zeros((6, 12, 16), np.uint8)
    for z, bit in enumerate((1, 2, 4)):
        bits[z, z : z + 3, 1:5] = bit
    write_volume(tmp_path / "true" / f"{scan_id}.nii.gz", bits, spacing_mm=(3, 1.5, 1.5))
    truth = encode_labels(tmp_path / "true", tmp_path / "true.csv", scheme="regions").path
    write_stored(tmp_path / "given" / f"{scan_id}.nii.gz", bits, np.eye(4))
    scores = {}
    for words in ([], ["--orientation", "as-stored"]):
        made = run("encode", "given", "--labels", "regions", "--out", "out.csv", *words)
        assert made[0] == 0
        scored = run("score", "out.csv", "--truth", "true.csv", "--images", "given", "--json")
        scores[tuple(words)] = json.loads(scored[1])["dice"]
        assert ("--orientation as-stored" in made[2]) == (words == [])
    assert scores == {(): 0.0, ("--orientation", "as-stored"): 1.0}
    assert (tmp_path / "out.csv").read_text() == truth.read_text()


@pytest.mark.parametrize("name", [*MADE_UP, *IN_PLACE])
def test_affines_that_say_nothing_of_the_patient_are_warned_of(tmp_path, name):
    affine = (MADE_UP | IN_PLACE)[name]
    write_stored(tmp_path / "case1_day0.nii.gz", make_scan("case1_day0").bits, affine)
    (told, *_) = open_source(tmp_path).warnings or ("",)
    assert ("case1_day0" in told and "--orientation as-stored" in told) == (name in MADE_UP)
    assert open_source(tmp_path, SourceOptions(orientation="as-stored")).warnings == ()


@pytest.mark.parametrize("name", [*MADE_UP, *IN_PLACE, "no form"])
def test_as_stored_takes_columns_rows_slices_whatever_the_affine(tmp_path, name):
    affine = (MADE_UP | IN_PLACE).get(name)
    scan = make_scan("case1_day0")
    path = tmp_path / "case1_day0.nii.gz"
    write_stored(path, scan.bits, affine)
    if name == "no form":
        with pytest.raises(InputError, match="--orientation as-stored"):
            open_source(tmp_path)
    opened = open_source(tmp_path, SourceOptions(orientation="as-stored")).scans["case1_day0"]
    assert np.array_equal(opened.read().image, scan.bits)
    if affine is not None:
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
        assert np.allclose(opened.spacing_mm, sizes[::-1])
    # What is predicted for it lies in the file as the image does.
    again = scan_from_json(opened.to_json())
    again.write_labels(tmp_path / "out.nii.gz", scan.bits)
    assert np.array_equal(
        np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj).transpose(2, 1, 0), scan.bits
    )


def test_convert_takes_volumes_as_stored_and_verify_opens_them_so(tmp_path, run):
    scan = make_scan("case1_day0")
    given, bits = make_labels("case1_day0")
    write_stored(tmp_path / "in" / "images" / "case1_day0.nii.gz", scan.image, np.eye(4))
    write_stored(tmp_path / "in" / "labels" / "case1_day0.nii.gz", given, np.eye(4))
    words = ["convert", "in", "--holdout", "0", "--jobs", "1", "--json", "--label-map", OPTION]
    mirrored = run(*words, "--id", "502")
    assert "--orientation as-stored" in json.loads(mirrored[1])["warnings"][-1] + mirrored[2]
    made = json.loads(run(*words, "--orientation", "as-stored")[1])
    assert not any("as-stored" in told for told in made["warnings"])
    (image,) = (tmp_path / made["dataset"] / "imagesTr").iterdir()
    (labels,) = (tmp_path / made["dataset"] / "labelsTr").iterdir()
    assert np.array_equal(read_volume(image).array, scan.image)
    assert np.array_equal(read_volume(labels).array, bits)
    assert run("verify", "--id", "501")[0] == 0


def test_capitals_in_endings_change_nothing(tmp_path, run):
    names = ["case1_day0", "case2_day0", "case3_day0"]
    for folder in ("small", "large"):
        write_scans(tmp_path / folder, names, layout="imagesTr", suffix="_0000")
    for file in (tmp_path / "large").rglob("*.nii.gz"):
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))
    small, large = (
        open_source(tmp_path / folder, SourceOptions(label_map=OPTION))
        for folder in ("small", "large")
    )
    assert [*large.scans] == [*small.scans] == names
    for scan_id, scan in large.scans.items():
        assert scan.labelled
        np.testing.assert_array_equal(scan.load().image, small.scans[scan_id].load().image)
    for folder in ("small", "large"):
        words = ("encode", tmp_path / folder, "--label-map", OPTION, "--out", f"{folder}.csv")
        assert run(*words)[0] == 0
    assert (tmp_path / "small.csv").read_bytes() == (tmp_path / "large.csv").read_bytes()
    one = tmp_path / "large" / "imagesTr" / "case1_day0_0000.NII.GZ"
    assert open_source(one).name == "case1_day0_0000"


def test_a_second_label_volume_of_a_scan_is_refused(tmp_path):
    folder = write_scans(tmp_path / "s", ["case1_day0", "case2_day0"])
    label = folder / "labels" / "case1_day0.nii.gz"
    (folder / "labels" / "case1_day0.NII.GZ").write_bytes(label.read_bytes())
    with pytest.raises(InputError, match="a second label volume of case1_day0; expected one"):
        open_source(folder, SourceOptions(label_map=OPTION))
