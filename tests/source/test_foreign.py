"""What is said of files that are no source: that it names them, and that its remedy works."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions
from tests.command_line import run_in_process
from tests.source_factory import make_scan, make_source, write_files

SCANS = [make_scan(name) for name in ("case1_day2", "case2_day0")]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str]:
        code, _, said = run_in_process(words, monkeypatch=monkeypatch, capsys=capsys)
        return code, said

    return run


def write_foreign(folder: Path, ending: str) -> None:
    """Write scans as another tool does, with another orientation and place than ours."""
    for scan in SCANS:
        for kind, array in (("images", scan.image), ("labels", scan.bits)):
            image = SimpleITK.GetImageFromArray(array[::-1].copy())
            image.SetSpacing((*scan.spacing_xy, 3.0))
            image.SetOrigin((-11.0, 7.5, 300.0))
            (folder / kind).mkdir(parents=True, exist_ok=True)
            if ending not in (".hdr",):  # Analyze does not keep an orientation
                image = SimpleITK.DICOMOrient(image, "RAS")
            SimpleITK.WriteImage(image, str(folder / kind / f"{scan.scan_id}{ending}"))


def find_line(said: str) -> list[str]:
    """Return the words of the command that a message gives, of this Python."""
    found = re.search(r"with: (python -c .*?\)\]['\"]) (and|with) ", said)
    assert found, said
    words = shlex.split(found[1])
    return [sys.executable, *words[1:]]


@pytest.mark.parametrize("ending", [".mha", ".mhd", ".nrrd", ".nhdr", ".hdr", ".MHA"])
@pytest.mark.parametrize("name", ["scans", "it's [1] of $HOME!"])
def test_the_line_for_other_formats_works(ending, name, run, tmp_path):
    write_foreign(tmp_path / name, ending.lower())
    if ending.isupper():
        for file in (tmp_path / name).rglob("*.mha"):
            file.rename(file.with_suffix(".MHA"))
    (tmp_path / name / "images" / f"._case1_day2{ending}").write_bytes(b"\0\5\x16\7")
    code, said = run("check", name, "--source-labels", "regions", "--jobs", "1")
    assert code == 3
    assert f"Found 4 {ending} files" in said
    subprocess.run(find_line(said), check=True, cwd=tmp_path)
    assert run("check", name, "--source-labels", "regions", "--jobs", "1")[0] == 0
    source = open_source(tmp_path / name, SourceOptions(source_labels="regions"))
    for scan in SCANS:
        loaded = source.scans[scan.scan_id].load()
        np.testing.assert_array_equal(loaded.image, scan.image)
        np.testing.assert_array_equal(loaded.label_map, scan.bits)
        assert loaded.spacing_mm == pytest.approx((3.0, *scan.spacing_xy[::-1]))


def test_the_line_for_labels_and_for_one_file_works(run, tmp_path):
    write_foreign(tmp_path / "s", ".mha")
    code, said = run("encode", "s/labels", "--labels", "regions", "--out", "out.csv")
    assert code == 3
    subprocess.run(find_line(said), check=True, cwd=tmp_path)
    assert run("encode", "s/labels", "--labels", "regions", "--out", "out.csv")[0] == 0
    code, said = run("check", "s/images/case1_day2.mha")
    assert code == 3
    subprocess.run(find_line(said), check=True, cwd=tmp_path)
    assert run("check", "s/images/case1_day2.nii.gz")[0] == 0


def test_the_line_for_arrays_works(run, tmp_path):
    (tmp_path / "s").mkdir()
    for scan in SCANS:
        np.save(tmp_path / "s" / f"{scan.scan_id}.npy", scan.image)
    code, said = run("check", "s")
    assert code == 3
    subprocess.run(find_line(said), check=True, cwd=tmp_path)
    assert "--orientation as-stored" in said
    assert run("check", "s", "--orientation", "as-stored")[0] == 0
    source = open_source(tmp_path / "s", SourceOptions(orientation="as-stored"))
    for scan in SCANS:
        np.testing.assert_array_equal(source.scans[scan.scan_id].load().image, scan.image)
        assert source.scans[scan.scan_id].spacing_mm == (3.0, 1.5, 1.5)


@pytest.mark.parametrize(
    ("files", "given", "message"),
    [
        (["s/a.mha"], "zip", "Found 1 .mha file: the format MetaImage. Unpack it, then give"),
        (["s/a.nii.gz", "s/b.nii.gz"], "zip", "Found 2 .nii.gz files: the format NIfTI. Unpack"),
        (["s/p1/ct.nii.gz"], "s", "right in the folder that is given, or in its images/"),
        (["s/fold_0/checkpoint_final.pth"], "s", "nnUNetv2_export_model_to_zip"),
        (["D/a__b__2d/fold_0/checkpoint_final.pth"], "zip", "gi2nnunet import-model given.zip"),
        (["s/case1_day0.b2nd", "s/case1_day0.pkl"], "s", "nnU-Net's raw dataset"),
        (["s/case1/case1_day0/scans/slice_0001_9_9_1.50_1.50.png"], "s", "the folder that holds"),
        (["s/a.csv"], "s", "a table, which has no images. Score"),
        (["a.csv"], "a.csv", "gi2nnunet score a.csv --truth TRUTH"),
        (["s/a.dcm"], "s", "Found 1 .dcm file: none of which begins as"),
        (["s/a.tif", "s/b.tif"], "s", "Found 2 .tif files: pictures"),
        (["a.tar.gz"], "a.tar.gz", "packed files, but not a zip. Unpack them"),
        (["s/train.tar"], "s", "packed files, but not a zip. Unpack them"),
    ],
)  # fmt: skip
def test_the_message_says_what_files_are(files, given, message, run, tmp_path):
    write_files(tmp_path, dict.fromkeys(files, b"x"))
    if given == "zip":
        given = "given.zip"
        with zipfile.ZipFile(tmp_path / given, "w") as archive:
            for name in files:
                archive.writestr(name, b"x")
    code, said = run("convert", given)
    assert code == 3
    assert message in said


def test_a_competition_is_not_a_folder_of_labels(run, tmp_path):
    scans = "s/train/case1/case1_day0/scans"
    slices = {f"{scans}/slice_000{number}_9_9_1.50_1.50.png": b"x" for number in (1, 2)}
    write_files(tmp_path, {**slices, "s/train.csv": b"id,class,segmentation\n"})
    code, said = run("encode", "s", "--out", "out.csv")
    assert code == 3
    assert "slices of the competition, which are images. Give label volumes" in said
    assert "the folder that holds" not in said


def test_files_that_are_zips_by_their_nature_are_named(run, tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "c.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    assert "nnU-Net's preprocessed scans or other arrays" in run("convert", "a.npz")[1]
    assert "weights of a model" in run("convert", "c.pth")[1]
    for name in ("a.npz", "c.pth"):
        code, said = run("import-model", name)
        assert code == 3
        assert "found no manifest.json" in said
        assert "data are taken by gi2nnunet convert" in said


def test_a_gzipped_table_beside_the_images_is_read(tmp_path):
    files = make_source().files()
    plain = open_source(write_files(tmp_path / "plain", files)).fingerprint()
    files["train.csv.gz"] = gzip.compress(files.pop("train.csv"))
    assert open_source(write_files(tmp_path / "given", files)).fingerprint() == plain


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_in_its_own_zip_is_read(packed, run, tmp_path):
    """As Kaggle gives a single file of the competition."""
    files = make_source().files()
    with zipfile.ZipFile(tmp_path / "train.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", files["train.csv"])
        archive.writestr("__MACOSX/._train.csv", b"\0\5\x16\7")
    plain = open_source(write_files(tmp_path / "plain", files))
    files["train.csv.zip"] = (tmp_path / "train.csv.zip").read_bytes()
    del files["train.csv"]
    given = write_files(tmp_path / "given", files)
    if packed:
        with zipfile.ZipFile(tmp_path / "given.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(f"uw/{name}", content)
        given = tmp_path / "given.zip"
    source = open_source(given)
    assert source.fingerprint()["rows_sha256"] == plain.fingerprint()["rows_sha256"]
    assert [s.rows for s in source.scans.values()] == [s.rows for s in plain.scans.values()]
    assert run("score", "plain/train.csv", "--truth", "train.csv.zip", "--images", "plain")[0] == 0


def test_a_table_that_unpacks_to_too_much_is_refused(run, tmp_path):
    files = make_source().files()
    with zipfile.ZipFile(tmp_path / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", files.pop("train.csv") + b"," * 100_000_000)
    files["train.csv.zip"] = (tmp_path / "t.zip").read_bytes()
    write_files(tmp_path / "s", files)
    code, said = run("convert", "s")
    assert code == 3
    assert "more than in any table" in said
