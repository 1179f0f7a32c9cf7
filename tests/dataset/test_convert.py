import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK

from gi2nnunet.core.errors import EngineError, InputError, OutputError
from gi2nnunet.core.files import write_json
from gi2nnunet.core.locks import hold_dataset
from gi2nnunet.dataset.checks import list_dataset_checks
from gi2nnunet.dataset.convert import ScanWriter
from gi2nnunet.dataset.manifest import open_dataset, read_dataset, require_unaltered
from gi2nnunet.dataset.splits import hold_out
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import KNOWN_BAD_SCANS, patient_of
from gi2nnunet.formats.labels import to_exclusive
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.formats.volumes import encode_volume, read_volume, write_volume
from gi2nnunet.source.check.check import check_source
from gi2nnunet.source.competition import SliceScan
from gi2nnunet.source.dataset import list_files
from gi2nnunet.upkeep.verify import run_checks, verify_workspace
from tests.converting import convert
from tests.source_factory import (
    ORGANS,
    MadeSource,
    make_scan,
    make_source,
    write_files,
    write_source,
    write_zip,
)

NAME = "Dataset501_UWGI"
SIX = ["case1_day0", "case1_day5", "case2_day0", "case3_day0", "case4_day2", "case5_day1"]


def folders(root):
    return open_workspace(root, environ={})


def tree(root):
    """Every file under a folder with its content's digest, but no manifest."""
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def no_trace(root):
    space = folders(root)
    return not any(
        folder.exists() and any(folder.iterdir())
        for folder in (space.raw, space.preprocessed, space.results)
    )


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.fixture
def ws(tmp_path):
    return folders(tmp_path / "ws")


def test_a_whole_conversion(tmp_path, ws):
    made = make_source(SIX, test_ids=["case9_day9"])
    source = write_source(tmp_path / "source", made)
    told = []
    dataset = convert(source, workspace=ws, progress=lambda *args: told.append(args))
    folder = ws.raw / NAME
    held = {s.scan_id for s in dataset.scans if s.part == "holdout"}
    training = set(SIX) - held
    assert held == set(hold_out(SIX))
    assert {p.name for p in ws.raw.iterdir()} == {NAME}
    assert set(tree(folder)) == {
        "dataset.json",
        "manifest.json",
        "sample_submission.csv",
        "splits_final.json",
        "truth.csv",
        "imagesTs/case9_day9_0000.nii.gz",
        *(f"imagesTr/{s}_0000.nii.gz" for s in training),
        *(f"labelsTr/{s}.nii.gz" for s in training),
        *(f"imagesTs/{s}_0000.nii.gz" for s in held),
        *(f"labelsTs/{s}.nii.gz" for s in held),
    }
    for scan in (*made.train, *made.test):
        image = SimpleITK.ReadImage(str(dataset.image_path(scan.scan_id)))
        assert image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
        assert image.GetSpacing() == pytest.approx((*scan.spacing_xy, 3.0))
        array = SimpleITK.GetArrayFromImage(image)
        assert array.dtype == np.uint16
        np.testing.assert_array_equal(array[::-1], scan.image)
    for scan in made.train:
        labels = SimpleITK.ReadImage(str(dataset.label_path(scan.scan_id)))
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(labels)[::-1], scan.bits)
        assert labels.GetSpacing() == pytest.approx((*scan.spacing_xy, 3.0))
    with pytest.raises(ValueError, match="no labels"):
        dataset.label_path("case9_day9")
    assert told[0] == (0, 7, "converting scans")
    assert told[-1] == (7, 7, "converting scans")
    scan = dataset.scan("case9_day9")
    assert (scan.part, scan.labelled, scan.numbers) == ("test", False, (1, 2, 3, 4, 5))
    assert read_dataset(ws.raw) == dataset


def test_dataset_json_satisfies_nnunet(source, ws):
    """nnU-Net's own integrity check reads it and the volumes."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (
        get_normalization_scheme,
    )

    folder = convert(source, workspace=ws).folder
    verify_dataset_integrity(str(folder), num_processes=1)
    table = json.loads((folder / "dataset.json").read_text())
    assert table["numTraining"] == 4
    assert table["regions_class_order"] == [1, 2, 4]
    assert get_normalization_scheme(table["channel_names"]["0"]).__name__ == "ZScoreNormalization"


def test_exclusive_labels_are_declared_and_painted_but_truth_keeps_the_rows(tmp_path, ws):
    made = make_source()
    dataset = convert(write_source(tmp_path / "s", made), labels="exclusive", workspace=ws)
    table = json.loads((dataset.folder / "dataset.json").read_text())
    assert table["labels"] == {"background": 0, "large_bowel": 1, "small_bowel": 2, "stomach": 3}
    assert "regions_class_order" not in table
    assert dataset.label_scheme == "exclusive"
    for scan in made.train:
        labels = read_volume(dataset.label_path(scan.scan_id)).array
        np.testing.assert_array_equal(labels, to_exclusive(scan.bits))
    assert truth_rows(dataset) == set(made.rows)


def truth_rows(dataset):
    rows = list(csv.DictReader(io.StringIO(dataset.truth_path.read_text())))
    for row in rows:
        scan = dataset.scan(row["id"].rsplit("_slice_", 1)[0])
        assert (row["image_height"], row["image_width"]) == (str(scan.height), str(scan.width))
    return {(row["id"], row["class"], row["segmentation"]) for row in rows}


def test_truth_holds_the_rows_of_every_labelled_scan(tmp_path, ws):
    made = make_source(SIX)
    dataset = convert(write_source(tmp_path / "s", made), workspace=ws)
    assert truth_rows(dataset) == set(made.rows)
    assert len(dataset.truth_path.read_text().splitlines()) == len(made.rows) + 1


def test_output_does_not_depend_on_jobs_file_order_or_container(tmp_path):
    made = make_source(SIX, test_ids=["case9_day9"])
    files = made.files()
    ways = {
        "folder": (write_files(tmp_path / "a", files), 1),
        "threads": (tmp_path / "a", 5),
        "reversed": (write_files(tmp_path / "b", dict(reversed(files.items()))), 2),
        "deeper": (write_files(tmp_path / "c" / "d", files).parent, 2),
        "zip": (write_zip(tmp_path / "e.zip", files), 2),
        "deep zip": (write_zip(tmp_path / "f.zip", files, prefix="uw/"), 3),
    }
    trees = []
    for name, (path, jobs) in ways.items():
        convert(path, workspace=folders(tmp_path / "out" / name), jobs=jobs)
        found = tree(tmp_path / "out" / name)
        found.pop(f"raw/{NAME}/manifest.json")  # names the source's path
        trees.append(found)
    assert all(found == trees[0] for found in trees)
    assert len(trees[0]) == 7 + 6 + 5


def test_a_second_run_changes_nothing_and_the_zip_of_the_folder_is_the_same_source(tmp_path, ws):
    files = make_source().files()
    source = write_files(tmp_path / "s", files)
    convert(source, workspace=ws)

    def stamps():  # a lock comes and goes in the folder around the dataset
        found = [*(tmp_path / "ws").rglob("*")]
        return {f: f.stat().st_mtime_ns for f in found if f != ws.raw}

    before = stamps()
    convert(source, workspace=ws)
    assert stamps() == before
    convert(write_zip(tmp_path / "s.zip", files, prefix="x/"), folds=3, workspace=ws)
    changed = {path for path, stamp in stamps().items() if stamp != before[path]}
    # The zip's own checksums are noted in place of the folder's time stamps.
    assert changed == {ws.raw / NAME, ws.raw / NAME / "manifest.json"}


def write_plain(folder, scan_id="case2_day1", pixel=None):
    """Write a source of uncompressed PNGs, all of one size; one pixel of a scan may be changed."""
    made = make_source()
    for scan in made.train:
        if scan.scan_id == scan_id and pixel is not None:
            scan.image[2, 3, 4] = pixel
    files = {
        name: imagecodecs.png_encode(imagecodecs.png_decode(data), level=0)
        if name.endswith(".png")
        else data
        for name, data in made.files().items()
    }
    for name, data in files.items():
        if not (folder / name).is_file() or (folder / name).read_bytes() != data:
            write_files(folder, {name: data})
    return folder


def test_a_slice_that_changed_at_equal_size_is_converted_again(tmp_path, ws):
    source = write_plain(tmp_path / "s")
    sizes = {path: path.stat().st_size for path in source.rglob("*.png")}
    before = convert(source, workspace=ws)
    write_plain(source, pixel=4711)
    assert sizes == {path: path.stat().st_size for path in source.rglob("*.png")}
    (finding,) = run_checks(list_dataset_checks(before, quick=False), jobs=1)
    assert finding.file == source
    assert "other time stamps of the files of case2_day1" in finding.found
    assert "gi2nnunet convert" in finding.remedy
    after = convert(source, workspace=ws)
    assert before.digest != after.digest
    assert after.read_image("case2_day1")[2, 3, 4] == 4711
    assert run_checks(list_dataset_checks(after, quick=False), jobs=1) == []
    trained = ws.results / NAME / "t__p__2d" / "fold_0" / "checkpoint_final.pth"
    trained.parent.mkdir(parents=True)
    trained.touch()
    write_plain(source, pixel=4712)
    with pytest.raises(InputError, match=r"files of case2_day1, which were changed.*another"):
        convert(source, workspace=ws)
    assert open_dataset(after.folder).digest == after.digest


def test_files_with_other_time_stamps_are_read_once_and_nothing_is_written(
    tmp_path, ws, monkeypatch
):
    source = write_plain(tmp_path / "s")
    dataset = convert(source, workspace=ws)
    before = {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*.nii.gz")}
    for path in source.rglob("*.png"):
        os.utime(path, (1, 1))
    assert len(run_checks(list_dataset_checks(dataset, quick=False), jobs=1)) == 1
    again = convert(source, workspace=ws)
    assert again.digest == dataset.digest
    assert before == {path: path.stat().st_mtime_ns for path in dataset.folder.rglob("*.nii.gz")}
    assert run_checks(list_dataset_checks(again, quick=False), jobs=1) == []
    monkeypatch.setattr(SliceScan, "load", None)
    assert convert(source, workspace=ws).digest == dataset.digest


def test_a_volume_of_equal_size_with_another_voxel_is_another_source(tmp_path, ws):
    path = tmp_path / "s" / "imagesTr" / "case1_day0_0000.nii"
    path.parent.mkdir(parents=True)
    image = make_scan("case1_day0").image.astype(np.int32)

    def write():
        path.write_bytes(gzip.decompress(encode_volume(image, spacing_mm=(3, 1.5, 1.5))))

    write()
    before = convert(path.parent.parent, workspace=ws)
    image[2, 3, 4] += 1
    write()
    after = convert(path.parent.parent, workspace=ws)
    assert after.read_image("case1_day0")[2, 3, 4] == image[2, 3, 4]
    assert after.digest != before.digest


@pytest.mark.parametrize("of_organs", [False, True])
@pytest.mark.parametrize("touched", [False, True])
def test_a_label_corrected_in_an_uncompressed_file_is_converted_again(
    tmp_path, ws, of_organs, touched
):
    scan = make_scan("case1_day0")
    source = tmp_path / "s"

    def write(name, array):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.decompress(encode_volume(array, spacing_mm=(3, 1.5, 1.5))))
        return path

    def write_labels(bits):
        if of_organs:
            masks = {o: ((bits >> n) & 1).astype(np.uint8) for n, o in enumerate(ORGANS)}
            return [write(f"labels/case1_day0_{organ}.nii", masks[organ]) for organ in ORGANS]
        return [write("labels/case1_day0.nii", bits)]

    write("images/case1_day0.nii", scan.image.astype(np.int32))
    files = write_labels(scan.bits)
    options = {} if of_organs else {"source_labels": "regions"}
    dataset = convert(source, workspace=ws, folds=None, holdout=0, **options)
    assert run_checks(list_dataset_checks(dataset, quick=False), jobs=1) == []
    corrected = scan.bits.copy()
    corrected[1:4] = 0  # neither the first nor the last voxels
    assert (corrected != scan.bits).any()
    stamps = [(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    write_labels(corrected)
    for file, size, modified_ns in stamps:
        assert file.stat().st_size == size
        stamp = (modified_ns + 10**9) if touched else modified_ns
        os.utime(file, ns=(stamp, stamp))
    assert len(run_checks(list_dataset_checks(dataset, quick=False), jobs=1)) == 1
    again = convert(source, workspace=ws, folds=None, holdout=0, **options)
    labels = read_volume(again.label_path("case1_day0")).array
    np.testing.assert_array_equal(labels, corrected)


@pytest.mark.parametrize("name", ["truth.csv", "labelsTr", "imagesTr", "dataset.json"])
def test_a_file_altered_at_equal_size_is_restored(source, ws, name):
    dataset = convert(source, workspace=ws)
    path = dataset.folder / name
    path = path if path.is_file() else sorted(path.iterdir())[0]
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    relative = path.relative_to(dataset.folder).as_posix()
    with pytest.raises(InputError, match=rf"{path.name}: found .* changed") as refused:
        require_unaltered(dataset, [relative])
    assert "gi2nnunet convert SOURCE" in str(refused.value)
    convert(source, workspace=ws)
    assert path.read_bytes() == content
    require_unaltered(dataset, [relative])


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ((), ["no foreground: every mask is empty"]),
        ((0, 1), ["no stomach in any mask"]),
        ((0, 1, 2), []),
    ],
)
def test_a_truth_without_an_organ_is_reported(tmp_path, ws, shown, expected):
    made = make_source()
    rows = [
        (slice_id, organ, text if ORGANS.index(organ) in shown else "")
        for slice_id, organ, text in made.rows
    ]
    source = write_source(tmp_path / "s", dataclasses.replace(made, rows=tuple(rows)))
    for warnings in (convert(source, workspace=ws).warnings, check_source(source).warnings):
        said = [warning for warning in warnings if "mask" in warning]
        assert len(said) == len(expected)
        assert all(found.startswith(start) for found, start in zip(said, expected, strict=True))


def test_what_is_missing_is_mended_and_only_that(tmp_path, source, ws):
    dataset = convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    kept = dataset.image_path("case2_day10")
    stamp = kept.stat().st_mtime_ns
    dataset.image_path("case2_day1").unlink()
    dataset.label_path("case10_day0").write_bytes(b"cut")
    dataset.truth_path.unlink()
    shutil.rmtree(ws.preprocessed)
    convert(source, workspace=ws)
    assert tree(tmp_path / "ws") == before
    assert kept.stat().st_mtime_ns == stamp


class Stop(BaseException):
    """Stands for Ctrl-C or a kill."""


def interrupt_after(count):
    def progress(done, total, what):
        if done >= count:
            raise Stop

    return progress


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_interrupted_run_shows_no_dataset_and_is_completed(tmp_path, source, ws, count):
    convert(source, workspace=folders(tmp_path / "straight"))
    with pytest.raises(Stop):
        convert(source, workspace=ws, jobs=1, progress=interrupt_after(count))
    assert not (ws.raw / NAME).exists()
    with pytest.raises(InputError, match="gi2nnunet convert"):
        read_dataset(ws.raw)
    hidden = ws.raw / f".{NAME}.part"
    stamps = {f: f.stat().st_mtime_ns for f in hidden.glob("*/*.nii.gz")}
    assert len(stamps) >= 2 * count
    (hidden / "imagesTr").mkdir(exist_ok=True)
    (hidden / "imagesTr" / ".half.1.part").write_bytes(b"half")
    convert(source, workspace=ws)
    done = {f.name: f.stat().st_mtime_ns for f in (ws.raw / NAME).glob("*/*.nii.gz")}
    assert {f.name: stamp for f, stamp in stamps.items()}.items() <= done.items()
    assert tree(tmp_path / "ws") == tree(tmp_path / "straight")


def test_an_interrupted_run_of_another_recipe_is_not_gone_on_with(tmp_path, source, ws):
    convert(source, workspace=folders(tmp_path / "straight"), labels="exclusive")
    with pytest.raises(Stop):
        convert(source, workspace=ws, progress=interrupt_after(2))
    convert(source, workspace=ws, labels="exclusive")
    assert tree(tmp_path / "ws") == tree(tmp_path / "straight")


def test_what_an_interrupted_run_of_another_recipe_left_is_removed(tmp_path, source, ws):
    convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    with pytest.raises(Stop):
        convert(source, workspace=ws, labels="exclusive", jobs=1, progress=interrupt_after(1))
    hidden = ws.raw / f".{NAME}.part"
    (finding,) = verify_workspace(ws).findings
    assert finding.file == hidden
    assert "the one that made the dataset that is there now removes it" in finding.remedy
    convert(source, workspace=ws)
    assert not hidden.exists()
    assert tree(tmp_path / "ws") == before
    assert verify_workspace(ws).sound


def test_a_failing_disk_is_told_and_nothing_is_mistaken_as_whole(tmp_path, source, ws, monkeypatch):
    convert(source, workspace=folders(tmp_path / "straight"))
    write = Path.write_bytes

    def fill(self, data):
        if "labelsTr" in str(self) and "case10" in str(self):
            write(self, data[:10])
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OutputError, match=r"case10_day0\.nii\.gz: .*No space left") as error:
        convert(source, workspace=ws)
    assert error.value.exit_code == 5
    assert not (ws.raw / NAME).exists()
    monkeypatch.undo()
    convert(source, workspace=ws)
    assert tree(tmp_path / "ws") == tree(tmp_path / "straight")


def test_an_unwritable_place_is_told(tmp_path, source):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        convert(
            source,
            workspace=dataclasses.replace(folders(tmp_path / "ws"), raw=tmp_path / "file" / "raw"),
        )


def test_too_little_memory_is_told(source, ws, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(ScanWriter, "write", fail)
    with pytest.raises(EngineError, match="fewer jobs"):
        convert(source, workspace=ws)


def test_everything_wrong_with_a_source_is_told_together_and_nothing_is_left(tmp_path, ws):
    made = make_source()
    files = made.files()
    files[made.train[0].image_path(1)] = b""
    files[made.train[3].image_path(2)] = files[made.train[3].image_path(2)][:70]
    bad = "case10_day0_slice_0002"
    files["train.csv"] = b"".join(
        b"%s,stomach,7 7 7\n" % bad.encode() if line.startswith(f"{bad},stomach".encode()) else line
        for line in files["train.csv"].splitlines(keepends=True)
    )
    with pytest.raises(InputError) as error:
        convert(write_files(tmp_path / "s", files), workspace=ws)
    message = str(error.value)
    for part in ("slice_0002_16_12", "slice_0003_13_14", f"{bad}, stomach", "'7 7 7'"):
        assert part in message
    assert len(message.splitlines()) == 4
    assert no_trace(tmp_path / "ws")


def test_a_refused_source_leaves_no_folder_behind_but_those_that_were_there(tmp_path):
    made = make_source()
    bad = write_files(tmp_path / "s", {**made.files(), made.train[0].image_path(0): b"x"})
    with pytest.raises(InputError):
        convert(bad, workspace=folders(tmp_path / "deep" / "ws"))
    assert {p.name for p in tmp_path.iterdir()} == {"s"}
    (tmp_path / "ws").mkdir()
    with pytest.raises(InputError):
        convert(bad, workspace=folders(tmp_path / "ws"))
    assert not list((tmp_path / "ws").iterdir())
    (tmp_path / "ws" / "raw" / "Dataset007_Mine").mkdir(parents=True)
    with pytest.raises(InputError):
        convert(bad, workspace=folders(tmp_path / "ws"))
    assert [p.name for p in (tmp_path / "ws").rglob("*")] == ["raw", "Dataset007_Mine"]


def test_a_bad_source_leaves_the_dataset_that_was_to_be_mended(tmp_path, ws):
    """Same names, sizes and rows, so the same recipe; but a picture can no longer be read."""
    made = make_source()
    files = made.files()
    source = write_files(tmp_path / "s", files)
    dataset = convert(source, workspace=ws)
    for scan_id in ("case2_day1", "case10_day0"):
        dataset.image_path(scan_id).unlink()
    manifest = (dataset.folder / "manifest.json").read_bytes()
    before = tree(tmp_path / "ws")
    name = made.truth["case10_day0"].image_path(1)
    (source / name).write_bytes(bytes(len(files[name])))
    with pytest.raises(InputError, match="case10_day0"):
        convert(source, workspace=ws)
    assert read_dataset(ws.raw).scans == dataset.scans
    assert (dataset.folder / "manifest.json").read_bytes() == manifest
    assert {p.name for p in ws.raw.iterdir()} == {NAME}
    assert before.items() <= tree(tmp_path / "ws").items()
    (source / name).write_bytes(files[name])
    assert convert(source, workspace=ws).image_path("case10_day0").is_file()


def test_a_bad_source_leaves_the_former_dataset(tmp_path, source, ws):
    convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    made = make_source(seed=1)
    bad = write_files(tmp_path / "bad", {**made.files(), made.train[0].image_path(0): b"x"})
    with pytest.raises(InputError):
        convert(bad, workspace=ws)
    assert tree(tmp_path / "ws") == before


def test_another_recipe_replaces_everything(tmp_path, source, ws):
    convert(write_source(tmp_path / "other", make_source(SIX)), workspace=ws)
    data = ws.preprocessed / NAME / "nnUNetPlans_2d"
    data.mkdir()
    (data / "case1_day0.b2nd").write_bytes(b"old")
    (ws.preprocessed / NAME / "nnUNetPlans.json").write_text("{}")
    (ws.preprocessed / NAME / "mine.txt").write_text("notes")
    dataset = convert(source, workspace=ws)
    assert any("nnUNetPlans_2d" in w and "removed" in w for w in dataset.warnings)
    (ws.preprocessed / NAME / "mine.txt").unlink()
    convert(source, workspace=folders(tmp_path / "straight"))
    assert tree(tmp_path / "ws") == tree(tmp_path / "straight")
    assert not data.exists()


def train_something(ws):
    model = ws.results / NAME / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    model.mkdir(parents=True)
    (model / "checkpoint_latest.pth").write_bytes(b"")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"labels": "exclusive"}, "labels regions, now exclusive"),
        ({"folds": 2}, "4 folds, now 2"),
        ({"holdout": 0.5}, "case10_day0 train, now holdout"),
        ({"seed": 3, "holdout": 0.5}, "now holdout"),
    ],
)
def test_what_was_trained_on_is_not_changed(tmp_path, ws, options, difference):
    ids = ["case1_day1", "case2_day1", "case10_day0", "case11_day3"]
    source = write_source(tmp_path / "source", make_source(ids))
    convert(source, workspace=ws)
    train_something(ws)
    before = tree(tmp_path / "ws")
    with pytest.raises(InputError) as error:
        convert(source, workspace=ws, **options)
    assert difference in str(error.value)
    assert "--id" in str(error.value)
    assert tree(tmp_path / "ws") == before
    convert(source, workspace=ws)  # the same is fine
    assert convert(source, workspace=ws, **options, dataset_id=502).dataset_id == 502


def test_an_empty_fold_folder_is_no_trained_model(tmp_path, source, ws):
    convert(source, workspace=ws)
    fold = ws.results / NAME / "nnUNetTrainer__nnUNetPlans__2d" / "fold_0"
    fold.mkdir(parents=True)
    assert convert(source, workspace=ws, labels="exclusive").label_scheme == "exclusive"
    (fold / "weights").mkdir()
    (fold / "weights" / "checkpoint_final.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint_final\.safetensors: a model was trained"):
        convert(source, workspace=ws)


def test_another_source_after_training_is_refused(tmp_path, source, ws):
    convert(source, workspace=ws)
    train_something(ws)
    with pytest.raises(InputError, match="the source's files"):
        convert(write_source(tmp_path / "other", make_source(seed=5)), workspace=ws)
    files = make_source().files()
    files["train.csv"] = files["train.csv"].replace(b" 192 1", b" 191 1")
    with pytest.raises(InputError, match="the source's files"):
        convert(write_files(tmp_path / "edited", files), workspace=ws)


def test_a_raw_dataset_removed_after_training_can_be_made_again_but_not_otherwise(
    tmp_path, source, ws
):
    convert(source, workspace=ws)
    train_something(ws)
    before = tree(tmp_path / "ws")
    table = (ws.raw / NAME / "dataset.json").read_text()
    (ws.preprocessed / NAME / "dataset.json").write_text(table)
    shutil.rmtree(ws.raw)
    with pytest.raises(InputError, match="is gone and cannot be compared"):
        convert(source, workspace=ws, folds=2)
    convert(source, workspace=ws)
    (ws.preprocessed / NAME / "dataset.json").unlink()
    assert tree(tmp_path / "ws") == before


def test_a_removed_dataset_is_not_replaced_with_one_of_other_masks(tmp_path, ws):
    """Its trainings would count as trained on that one."""
    files = make_source().files()
    dataset = convert(write_files(tmp_path / "s", files), workspace=ws)
    train_something(ws)
    (checkpoint,) = ws.results.rglob("checkpoint*.pth")
    write_json(checkpoint.parent / "gi2nnunet_training.json", {"dataset": dataset.digest})
    table = (ws.raw / NAME / "dataset.json").read_text()
    (ws.preprocessed / NAME / "dataset.json").write_text(table)
    shutil.rmtree(ws.raw)
    before = tree(ws.results.parent)
    lines = files["train.csv"].splitlines()
    masks = [line.rpartition(b",")[2] for line in lines]
    full = [number for number, mask in enumerate(masks) if number and mask]
    lines[full[0]] = lines[full[0]].rpartition(b",")[0] + b","
    changed = write_files(tmp_path / "changed", {**files, "train.csv": b"\n".join(lines) + b"\n"})
    with pytest.raises(InputError, match="this conversion makes another one") as refused:
        convert(changed, workspace=ws)
    assert str(checkpoint.parent) in str(refused.value)
    assert "Convert into another workspace" in str(refused.value)
    assert tree(ws.results.parent) == before
    assert convert(tmp_path / "s", workspace=ws).digest == dataset.digest


def test_files_of_others_are_left_alone(tmp_path, source, ws):
    theirs = ws.raw / NAME / "imagesTr" / "a_0000.nii.gz"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"precious")
    with pytest.raises(InputError, match="did not write"):
        convert(source, workspace=ws)
    assert theirs.read_bytes() == b"precious"
    (ws.results / "Dataset502_Other").mkdir(parents=True)
    with pytest.raises(InputError, match="another dataset of number 502"):
        convert(source, workspace=ws, dataset_id=502)
    assert convert(source, workspace=ws, dataset_id=502, name="Other").name == "Dataset502_Other"


def test_a_dataset_is_not_replaced_with_what_is_in_it(tmp_path, source, ws):
    dataset = convert(source, workspace=ws)
    linked = tmp_path / "linked"
    linked.mkdir()
    for image in (dataset.folder / "imagesTr").iterdir():
        (linked / image.name).symlink_to(image)
    before = tree(ws.raw)
    for inside in (
        dataset.folder,
        dataset.folder / "imagesTr",
        dataset.folder / "labelsTr",
        linked,
    ):
        with pytest.raises(InputError, match="is read, and this conversion would replace"):
            convert(inside, workspace=ws, labels="exclusive")
    assert tree(ws.raw) == before
    other = convert(dataset.folder, workspace=ws, dataset_id=502, labels="exclusive")
    assert len(other.scans) == len(dataset.scans)


def test_files_of_others_in_a_dataset_are_not_replaced_with_it(source, ws):
    """Nor a volume beside its own; empty folders and what systems leave do not count."""
    folder = convert(source, workspace=ws).folder
    (folder / "empty").mkdir()
    (folder / ".DS_Store").touch()
    theirs = [folder / "labelsTr" / "mine.nii.gz", folder / "mine" / "notes.txt"]
    for file in theirs:
        file.parent.mkdir(exist_ok=True)
        file.write_text("precious")
    convert(source, workspace=ws)  # by the same recipe, nothing is replaced
    with pytest.raises(InputError, match=r"found labelsTr/mine.nii.gz, mine/notes.txt, which"):
        convert(source, workspace=ws, folds=2)
    for file in theirs:
        assert file.read_text() == "precious"
        file.unlink()
    assert len(convert(source, workspace=ws, folds=2).splits) == 2


def test_a_dataset_without_manifest_is_made_again(tmp_path, source, ws):
    dataset = convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    (dataset.folder / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no manifest\.json.*\n?.*gi2nnunet convert"):
        read_dataset(ws.raw)
    convert(source, workspace=ws)
    assert tree(tmp_path / "ws") == before


def test_a_manifest_without_the_prints_of_a_scan_is_named_and_made_again(tmp_path, source, ws):
    dataset = convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    path = dataset.folder / "manifest.json"
    path.write_text(path.read_text().replace('"prints"', '"print"', 1))
    with pytest.raises(InputError, match=r"scans\[0\]\.prints: found nothing.*\n.* convert"):
        read_dataset(ws.raw)
    dataset.image_path(dataset.scans[0].scan_id).unlink()  # so that it is to be mended as well
    convert(source, workspace=ws)
    assert tree(tmp_path / "ws") == before


def test_splits_are_where_nnunet_reads_them_and_by_patient(tmp_path, ws):
    dataset = convert(
        write_source(tmp_path / "s", make_source(SIX)), workspace=ws, folds=2, holdout=0
    )
    texts = {
        (getattr(ws, root) / NAME / "splits_final.json").read_text()
        for root in ("raw", "preprocessed")
    }
    assert len(texts) == 1
    splits = json.loads(texts.pop())
    assert splits == [dict(fold) for fold in dataset.splits]
    assert len(splits) == 2
    for fold in splits:
        assert sorted(fold["train"] + fold["val"]) == sorted(SIX)
        assert not {patient_of(s) for s in fold["train"]} & {patient_of(s) for s in fold["val"]}


def test_fewer_patients_than_folds(tmp_path, ws):
    source = write_source(tmp_path / "s", make_source(["case1_day0", "case2_day0", "case2_day1"]))
    with pytest.raises(InputError, match="5 for 2 training patients"):
        convert(source, workspace=ws, folds=5)
    assert no_trace(tmp_path / "ws")
    dataset = convert(source, workspace=ws)
    assert len(dataset.splits) == 2
    assert any("2 folds instead of 5" in w for w in dataset.warnings)


def test_one_patient_has_no_split_file(tmp_path, ws):
    source = write_source(tmp_path / "s", make_source(["case2_day0", "case2_day1"]))
    dataset = convert(source, workspace=ws)
    assert dataset.splits == ()
    assert not list((tmp_path / "ws").rglob("splits_final.json"))
    assert any("fold all" in w for w in dataset.warnings)
    with pytest.raises(InputError, match="2 for 1 training patient;"):
        convert(source, workspace=ws, folds=2)


def test_a_source_with_test_alone(tmp_path, ws):
    made = make_source([], test_ids=["case5_day0", "case6_day0"])
    dataset = convert(write_source(tmp_path / "s", made), workspace=ws)
    assert {s.part for s in dataset.scans} == {"test"}
    assert json.loads((dataset.folder / "dataset.json").read_text())["numTraining"] == 0
    assert len(list((dataset.folder / "imagesTs").iterdir())) == 2
    assert dataset.truth_path.read_text().count("\n") == 1


def test_known_bad_scans_are_left_out_told_and_recorded(tmp_path, ws):
    ids = ["case7_day0", "case7_day1", "case8_day0"]
    source = write_source(tmp_path / "s", make_source(ids, test_ids=["case9_day27"]))
    assert {"case7_day0", "case9_day27"} <= KNOWN_BAD_SCANS.keys()
    dataset = convert(source, workspace=ws)
    assert [s.scan_id for s in dataset.scans] == ["case7_day1", "case8_day0", "case9_day27"]
    assert dataset.manifest["left_out"] == {"case7_day0": "wrong masks"}
    assert any("case7_day0 is left out (wrong masks)" in w for w in dataset.warnings)
    assert not list(dataset.folder.rglob("case7_day0*"))
    kept = convert(source, workspace=folders(tmp_path / "kept"), keep_known_bad=True)
    assert kept.scan("case7_day0").part == "train"
    assert kept.manifest["left_out"] == {}


def test_suspects_are_left_out_if_asked_and_recorded(tmp_path, faults):
    suspects = check_source(faults.source).suspects
    sure = {s.scan_id for s in suspects if s.certainty == "certain"}
    likely = sure | {s.scan_id for s in suspects if s.certainty == "likely"}
    assert 0 < len(sure) < len(likely)
    for certainty, wanted in (("certain", sure), ("likely", likely)):
        dataset = convert(
            faults.source, workspace=folders(tmp_path / certainty),
            leave_out_suspects=certainty,
        )  # fmt: skip
        assert set(dataset.manifest["left_out"]) == wanted
        assert not wanted & {scan.scan_id for scan in dataset.scans}
        assert dataset.manifest["options"]["leave_out_suspects"] == certainty
        assert any("is left out (suspect: " in warning for warning in dataset.warnings)
    kept = convert(faults.source, workspace=folders(tmp_path / "kept"))
    assert kept.manifest["left_out"] == {}


def test_a_source_of_known_bad_scans_alone(tmp_path, ws):
    source = write_source(tmp_path / "s", make_source(["case7_day0"]))
    with pytest.raises(InputError, match="--keep-known-bad"):
        convert(source, workspace=ws)


def test_mle_bench_holdout(tmp_path, ws):
    """Its test set is drawn from all scans and keeps known bad ones; training goes without."""
    days = {7: range(6), 9: (0, 3, 5, 8, 27)}
    ids = [f"case{i}_day{d}" for i in range(1, 13) for d in days.get(i, (0,))]
    made = make_source(ids, shape=(3, 6, 6))
    made = MadeSource(
        train=made.train, rows=sorted(made.rows, key=lambda r: int(r[0][4:6].strip("_")))
    )
    source = write_source(tmp_path / "s", made)
    assert {"case7_day0", "case9_day27"} <= KNOWN_BAD_SCANS.keys()
    held = {"case7_day4", "case7_day5", "case9_day27", "case10_day0", "case11_day0"}
    order = [f"case{i}" for i in range(1, 13)]
    assert set(hold_out(ids, rule="mle-bench", patient_order=order)) == held
    dataset = convert(source, workspace=ws, holdout="mle-bench")
    parts = {s.scan_id: s.part for s in dataset.scans}
    assert {s for s, part in parts.items() if part == "holdout"} == held
    assert {s for s, part in parts.items() if part == "train"} == {*ids} - held - {"case7_day0"}
    assert dataset.manifest["left_out"] == {"case7_day0": "wrong masks"}
    assert dataset.manifest["shared_patients"] == ["case7", "case9"]
    assert dataset.manifest["held_out_patients"] == ["case7", "case9", "case10", "case11"]
    told = "\n".join(dataset.warnings)
    assert "case7_day0 is left out (wrong masks)" in told
    assert "case9_day27 stays in the held-out test set" in told
    assert "training and the held-out test set share 2 patients, as the benchmark has" in told
    kept = convert(
        source, workspace=folders(tmp_path / "kept"), holdout="mle-bench", keep_known_bad=True
    )
    parts = {s.scan_id: s.part for s in kept.scans}
    assert {s for s, part in parts.items() if part == "holdout"} == held
    assert parts["case7_day0"] == "train"
    assert kept.manifest["left_out"] == {}


def test_missing_rows_and_images(tmp_path, ws):
    made = make_source()
    rows = tuple(row for row in made.rows if not row[0].startswith("case2_day10_slice_0002"))
    source = write_source(tmp_path / "s", MadeSource(train=made.train, rows=rows))
    with pytest.raises(InputError, match="--allow-missing"):
        convert(source, workspace=ws)
    assert no_trace(tmp_path / "ws")
    dataset = convert(source, workspace=ws, allow_missing=True)
    labels = read_volume(dataset.label_path("case2_day10")).array
    expected = made.truth["case2_day10"].bits.copy()
    expected[1] = 0
    np.testing.assert_array_equal(labels, expected)


def test_a_scan_in_train_and_test_is_refused(tmp_path, ws):
    made = make_source(["case1_day0", "case2_day0"], test_ids=["case1_day0"])
    with pytest.raises(InputError, match=r"case1_day0 in train/ and in test/"):
        convert(write_source(tmp_path / "s", made), workspace=ws)


def test_eight_bit_slices_are_one_warning(tmp_path, ws):
    made = make_source()
    eight = tuple(dataclasses.replace(s, image=(s.image >> 8).astype(np.uint8)) for s in made.train)
    source = write_source(tmp_path / "s", MadeSource(train=eight, rows=made.rows))
    dataset = convert(source, workspace=ws)
    assert sum("8-bit" in w for w in dataset.warnings) == 1
    volume = read_volume(dataset.image_path("case2_day1")).array
    assert volume.dtype == np.uint16
    np.testing.assert_array_equal(volume, eight[0].image)


def test_first_slice_number_is_kept(tmp_path, ws):
    made = make_source(["case1_day0"])
    scan = dataclasses.replace(made.train[0], first_number=61)
    rows = tuple((f"{i[:-4]}{int(i[-4:]) + 60:04d}", organ, text) for i, organ, text in made.rows)
    source = write_source(tmp_path / "s", MadeSource(train=(scan,), rows=rows))
    dataset = convert(source, workspace=ws)
    assert dataset.scan("case1_day0").numbers == (61, 62, 63, 64, 65)
    assert truth_rows(dataset) == set(rows)
    assert any("starts at slice 61" in w for w in dataset.warnings)


def test_manifest_describes_every_file(source, ws):
    dataset = convert(source, workspace=ws, seed=4)
    described = list_files(dataset.manifest)
    assert set(described) == set(tree(dataset.folder)) - {"manifest.json"}
    for name, entry in described.items():
        content = (dataset.folder / name).read_bytes()
        assert entry == {
            "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
    assert dataset.manifest["options"]["seed"] == 4
    assert dataset.manifest["source"]["path"] == str(source)
    assert dataset.manifest["made_by"]["gi2nnunet"] != "unknown"


def test_a_filled_sample_submission_is_kept_in_order(tmp_path, ws):
    files = make_source(test_ids=["case5_day0"]).files()
    lines = ["id,class,predicted"]
    lines += [
        f"case5_day0_slice_000{n},{o},1 1" for n in (3, 1) for o in ("stomach", "large_bowel")
    ]
    files["sample_submission.csv"] = ("\r\n".join(lines) + "\r\n").encode()
    dataset = convert(write_files(tmp_path / "s", files), workspace=ws)
    assert (dataset.folder / "sample_submission.csv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    "options", [{"dataset_id": 0}, {"dataset_id": 1000}, {"name": ""}, {"name": "a/b"}]
)
def test_impossible_names_are_refused(source, ws, options):
    with pytest.raises(InputError, match="from 1 to 999"):
        convert(source, workspace=ws, **options)


@pytest.mark.parametrize("options", [{"labels": "bits"}, {"jobs": 0}])
def test_mistakes_of_the_caller(source, ws, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        convert(source, workspace=ws, **options)


def test_read_dataset_tells_what_is_wrong(tmp_path, source, ws):
    with pytest.raises(InputError, match=r"holds no dataset.*gi2nnunet convert"):
        read_dataset(tmp_path / "nowhere")
    convert(source, workspace=ws)
    convert(source, workspace=ws, dataset_id=7, name="B")
    with pytest.raises(InputError, match="several"):
        read_dataset(ws.raw)
    assert read_dataset(ws.raw, dataset_id=7).name == "Dataset007_B"
    assert read_dataset(ws.raw, name="UWGI").dataset_id == 501
    path = ws.raw / NAME / "manifest.json"
    path.write_text("{")
    with pytest.raises(InputError, match="convert"):
        read_dataset(ws.raw, dataset_id=501)


# --- NIfTI sources -------------------------------------------------------------------------------


def write_nifti(folder, *, images="images", labels="labels", suffix="", scheme="regions"):
    made = make_source()
    for scan in made.train:
        spacing = (3.0, *scan.spacing_xy[::-1])
        path = folder / images / f"{scan.scan_id}{suffix}.nii.gz"
        write_volume(path, scan.image.astype(np.float32) / 8, spacing_mm=spacing)
        if labels:
            bits = scan.bits if scheme == "regions" else to_exclusive(scan.bits)
            path = folder / labels / f"{scan.scan_id}.nii.gz"
            write_volume(path, bits, spacing_mm=spacing)
    return made


@pytest.mark.parametrize(
    ("images", "labels", "suffix"),
    [
        ("images", "labels", ""),
        ("imagesTr", "labelsTr", "_0000"),
        ("imagesTr", None, "_0000"),
        ("imagesTs", None, "_0000"),
        ("images", None, ""),
        (".", None, "_0000"),
        (".", None, ""),
    ],
)
def test_nifti_layouts(tmp_path, ws, images, labels, suffix):
    made = write_nifti(tmp_path / "n", images=images, labels=labels, suffix=suffix)
    dataset = convert(tmp_path / "n", workspace=ws)
    assert {s.scan_id for s in dataset.scans} == set(made.truth)
    assert {s.part for s in dataset.scans} == {"train" if labels else "test"}
    for scan in made.train:
        volume = read_volume(dataset.image_path(scan.scan_id))
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array, scan.image.astype(np.float32) / 8)
        assert volume.spacing_mm == (3.0, *scan.spacing_xy[::-1])
        if labels:
            found = read_volume(dataset.label_path(scan.scan_id)).array
            np.testing.assert_array_equal(found, scan.bits)
    assert truth_rows(dataset) == (set(made.rows) if labels else set())


def test_nifti_of_any_orientation_gives_the_same_dataset(tmp_path):
    write_nifti(tmp_path / "a")
    for index, path in enumerate(sorted((tmp_path / "a").rglob("*.nii.gz"))):
        copy = tmp_path / "b" / path.relative_to(tmp_path / "a")
        copy.parent.mkdir(parents=True, exist_ok=True)
        turned = SimpleITK.DICOMOrient(
            SimpleITK.ReadImage(str(path)), ("RAS", "PIR", "LPI", "SAL")[index % 4]
        )
        SimpleITK.WriteImage(turned, str(copy))
    trees = []
    for name in "ab":
        convert(tmp_path / name, workspace=folders(tmp_path / f"out_{name}"))
        trees.append(tree(tmp_path / f"out_{name}"))
        trees[-1].pop(f"raw/{NAME}/manifest.json")
    assert trees[0] == trees[1]


def test_nifti_scans_without_labels_are_test_scans(tmp_path, ws):
    write_nifti(tmp_path / "n")
    (tmp_path / "n" / "labels" / "case2_day1.nii.gz").unlink()
    dataset = convert(tmp_path / "n", workspace=ws)
    assert dataset.scan("case2_day1").part == "test"
    assert dataset.scan("case2_day10").part == "train"


def write_visits(folder, names, *, images="images", labels="labels"):
    for name in names:
        scan = make_scan(name)
        write_volume(folder / images / f"{name}.nii.gz", scan.image, spacing_mm=(3, 1, 1))
        if labels:
            write_volume(folder / labels / f"{name}.nii.gz", scan.bits, spacing_mm=(3, 1, 1))


def test_nifti_ids_that_do_not_tell_the_patient_are_a_warning(tmp_path, ws):
    write_visits(tmp_path / "n", ["pat1_visit2", "pat1_visit3", "pat2_day0", "pat2_day7"])
    dataset = convert(tmp_path / "n", workspace=ws)
    (told,) = (w for w in dataset.warnings if "<patient>_day<N>" in w)
    assert "2 of 4 scan ids" in told
    assert "pat1_visit2, pat1_visit3)" in told
    assert "each counts as a patient of its own" in told
    assert "Rename to <patient>_day<N>" in told
    assert told in dataset.manifest["warnings"]
    write_visits(tmp_path / "good", ["pat1_day2", "pat1_day3", "pat2_day0"])
    good = convert(tmp_path / "good", workspace=folders(tmp_path / "other"))
    assert not any("<patient>" in w for w in good.warnings)


def test_labelled_nifti_test_scans_are_held_out_and_no_others(tmp_path, ws):
    train = [f"case{i}_day{d}" for i in range(1, 7) for d in (0, 1)]
    write_visits(tmp_path / "n", train, images="imagesTr", labels="labelsTr")
    write_visits(tmp_path / "n", ["case9_day0"], images="imagesTs", labels="labelsTs")
    write_visits(tmp_path / "n", ["case8_day0"], images="imagesTs", labels=None)
    dataset = convert(tmp_path / "n", workspace=ws)
    parts = {s.scan_id: s.part for s in dataset.scans}
    assert parts == {**dict.fromkeys(train, "train"), "case9_day0": "holdout", "case8_day0": "test"}
    assert dataset.manifest["held_out_patients"] == ["case9"]
    assert dataset.label_path("case9_day0").is_file()
    assert {row[0][:10] for row in truth_rows(dataset)} == {s[:10] for s in (*train, "case9_day0")}
    assert not any("in training and in" in w for w in dataset.warnings)
    more = convert(tmp_path / "n", workspace=folders(tmp_path / "more"), holdout=0.3)
    held = {s.patient_id for s in more.scans if s.part == "holdout"}
    assert len(held) == 3
    assert "case9" in held
    assert more.scan("case8_day0").part == "test"


def test_a_patient_in_training_and_among_given_test_scans_is_a_warning(tmp_path, ws):
    train = ["case1_day0", "case2_day0"]
    write_visits(tmp_path / "n", train, images="imagesTr", labels="labelsTr")
    write_visits(tmp_path / "n", ["case2_day5"], images="imagesTs", labels="labelsTs")
    dataset = convert(tmp_path / "n", workspace=ws)
    assert dataset.manifest["shared_patients"] == ["case2"]
    assert any(
        "training and the held-out test set share 1 patient, as the source has it: case2" in w
        for w in dataset.warnings
    )


def test_exclusive_nifti_labels_need_to_be_said_where_they_could_be_bits(tmp_path, ws):
    made = write_nifti(tmp_path / "n", scheme="exclusive")
    with pytest.raises(InputError, match="the label 3 and none above"):
        convert(tmp_path / "n", workspace=ws)
    assert no_trace(tmp_path / "ws")
    dataset = convert(tmp_path / "n", workspace=ws, source_labels="exclusive")
    expected = to_exclusive(made.train[0].bits)
    found = read_volume(dataset.label_path(made.train[0].scan_id)).array
    np.testing.assert_array_equal(to_exclusive(found), expected)
    assert set(np.unique(found)) <= {0, 1, 2, 4}
    table = {"labels": {"background": 0, "large_bowel": 1, "small_bowel": 2, "stomach": 3}}
    (tmp_path / "n" / "dataset.json").write_text(json.dumps(table))
    again = convert(tmp_path / "n", workspace=folders(tmp_path / "declared"))
    assert tree(again.folder / "labelsTr") == tree(dataset.folder / "labelsTr")
    table["labels"]["stomach"] = 4
    (tmp_path / "n" / "dataset.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"found the labels \[3\]; expected those of .*stomach=4"):
        convert(tmp_path / "n", workspace=ws)


def test_bit_coded_nifti_labels_said_to_be_exclusive_are_refused(tmp_path, ws):
    write_nifti(tmp_path / "n")
    with pytest.raises(InputError, match="expected those of exclusive"):
        convert(tmp_path / "n", workspace=ws, source_labels="exclusive")


def test_a_converted_dataset_is_a_source_itself(tmp_path, ws):
    first = convert(write_source(tmp_path / "s", make_source(SIX)), workspace=ws)
    second = convert(first.folder, workspace=ws, dataset_id=2, name="Again", holdout=0)
    assert {s.scan_id: s.part for s in second.scans} == {s.scan_id: s.part for s in first.scans}
    for scan in first.scans:
        np.testing.assert_array_equal(
            read_volume(second.label_path(scan.scan_id)).array,
            read_volume(first.label_path(scan.scan_id)).array,
        )


def rewrite(path, change):
    volume = read_volume(path)
    array, spacing = change(volume.array, volume.spacing_mm)
    write_volume(path, array, spacing_mm=spacing)


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("labels", lambda a, s: (a[:-1], s), "the geometry"),
        ("labels", lambda a, s: (a, (3.0, 1.5, 1.55)), "the geometry"),
        ("labels", lambda a, s: (a.transpose(0, 2, 1).copy(), s), "the geometry"),
        ("labels", lambda a, s: (a + 5, s), "expected those of regions"),
        ("labels", lambda a, s: (a * np.float32(0.5), s), "expected labels, whole numbers"),
        ("labels", lambda a, s: (a.astype(np.int16) - 1, s), "expected labels, whole numbers"),
        ("images", lambda a, s: (np.where(a > 100, np.nan, a), s), "NaN or infinity"),
    ],
)
def test_nifti_files_that_do_not_fit_are_told(tmp_path, ws, name, change, found):
    write_nifti(tmp_path / "n")
    rewrite(tmp_path / "n" / name / "case2_day1.nii.gz", change)
    with pytest.raises(InputError, match=found) as error:
        convert(tmp_path / "n", workspace=ws)
    assert f"{name}/case2_day1.nii.gz" in str(error.value)
    assert no_trace(tmp_path / "ws")


def test_labels_in_another_place_are_told(tmp_path, ws):
    write_nifti(tmp_path / "n")
    path = tmp_path / "n" / "labels" / "case2_day1.nii.gz"
    image = SimpleITK.ReadImage(str(path))
    image.SetOrigin((0, 0, 1))
    SimpleITK.WriteImage(image, str(path))
    with pytest.raises(InputError, match="the geometry"):
        convert(tmp_path / "n", workspace=ws)


def test_nifti_names_that_do_not_fit_are_told_together(tmp_path, ws):
    made = write_nifti(tmp_path / "n", suffix="_0000")
    images, labels = tmp_path / "n" / "images", tmp_path / "n" / "labels"
    shutil.copy(images / "case2_day1_0000.nii.gz", images / "case2_day1_0001.nii.gz")
    shutil.copy(images / "case2_day1_0000.nii.gz", images / "case2_day10.nii.gz")
    shutil.copy(labels / "case2_day1.nii.gz", labels / "case99_day1.nii.gz")
    with pytest.raises(InputError) as error:
        convert(tmp_path / "n", workspace=ws)
    for part in ("channel 0001", "a second image of case2_day10", "labels without an image"):
        assert part in str(error.value)
    assert len(made.train) == 4


def test_a_damaged_nifti_file_is_told(tmp_path, ws):
    write_nifti(tmp_path / "n")
    path = tmp_path / "n" / "images" / "case2_day1.nii.gz"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"case2_day1\.nii\.gz: found a truncated"):
        convert(tmp_path / "n", workspace=ws)
    with pytest.raises(InputError, match="needs the order of patients"):
        convert(tmp_path / "n", workspace=ws, holdout="mle-bench")


def test_a_mended_nifti_dataset_has_its_truth(tmp_path, ws):
    write_nifti(tmp_path / "n")
    dataset = convert(tmp_path / "n", workspace=ws)
    before = tree(tmp_path / "ws")
    dataset.truth_path.unlink()
    dataset.image_path("case2_day1").unlink()
    convert(tmp_path / "n", workspace=ws)
    assert tree(tmp_path / "ws") == before


def test_nifti_ids_of_any_form(tmp_path, ws):
    scan = make_scan("liver")
    write_volume(tmp_path / "n" / "images" / "liver 1.nii.gz", scan.image, spacing_mm=(3, 1, 1))
    write_volume(tmp_path / "n" / "labels" / "liver 1.nii.gz", scan.bits, spacing_mm=(3, 1, 1))
    dataset = convert(tmp_path / "n", workspace=ws)
    assert dataset.scans[0].patient_id == "liver 1"
    table = read_mask_table(dataset.truth_path, any_scan=True)
    assert table.scan_ids == ("liver 1",)
    assert len(table) == 15


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.real
def test_real_scans_keep_their_rows_byte_for_byte(ws, real_data):
    real = real_data / "mini"
    dataset = convert(real, workspace=ws)
    rows = list(csv.reader((real / "train.csv").read_text().splitlines()))[1:]
    from gi2nnunet.formats.rle import encode_slices

    encoded = {}
    for scan in dataset.scans:
        labels = read_volume(dataset.label_path(scan.scan_id)).array
        for organ, texts in zip(
            ("large_bowel", "small_bowel", "stomach"),
            encode_slices(labels, bits=(1, 2, 4)),
            strict=True,
        ):
            for number, text in zip(scan.numbers, texts, strict=True):
                encoded[f"{scan.scan_id}_slice_{number:04d}", organ] = text
    assert encoded == {(row[0], row[1]): row[2] for row in rows}
    assert truth_rows(dataset) == {tuple(row) for row in rows}


def test_memory_holds_a_few_scans_only(tmp_path, ws, monkeypatch):
    """However many scans there are, no more than ``jobs`` are loaded at once."""
    import threading

    ids = [f"case{i}_day0" for i in range(1, 25)]
    source = write_source(tmp_path / "s", make_source(ids, shape=(2, 4, 4)))
    loaded, most, lock = 0, 0, threading.Lock()
    write = ScanWriter.write

    def count(self, scan_id, part):
        nonlocal loaded, most
        with lock:
            loaded += 1
            most = max(most, loaded)
        try:
            return write(self, scan_id, part)
        finally:
            with lock:
                loaded -= 1

    monkeypatch.setattr(ScanWriter, "write", count)
    convert(source, workspace=ws, jobs=3)
    assert most <= 3


def test_made_scans_hold_what_the_tests_need():
    scan = make_scan("case1_day1")
    assert (scan.bits == 3).any()
    assert not scan.bits[0].any()
    assert scan.masks[2, 2, -1, -1]


def test_a_dataset_in_use_is_not_made_anew_and_two_runs_are_kept_apart(tmp_path, source, ws):
    dataset = convert(source, workspace=ws)
    before = tree(tmp_path / "ws")
    with (
        hold_dataset(ws.raw, dataset.dataset_id, purpose="training"),
        pytest.raises(OutputError, match=r"Dataset501: is in use by another run: .*training"),
    ):
        convert(source, labels="exclusive", workspace=ws)
    assert tree(tmp_path / "ws") == before
