"""The advice to use --allow-missing: given where it helps, and it helps where it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gi2nnunet.formats.volumes import write_volume
from tests.command_line import run_in_process
from tests.dicom_factory import SeriesPlan, write_series
from tests.source_factory import make_source, write_files

ADVICE = "add --allow-missing"
Make = Callable[[Path], None]


def competition(*, without: tuple[tuple[int, int], ...], rows: bool = True, odd: bool = False):
    """Write a source without some slices ``(scan, z)``, and their rows if asked."""

    def make(path: Path) -> None:
        made = make_source()
        files = made.files()
        gone = {made.train[scan].slice_id(z) for scan, z in without}
        for scan, z in without:
            del files[made.train[scan].image_path(z)]
        if not rows:
            lines = files["train.csv"].decode().splitlines(keepends=True)
            files["train.csv"] = "".join(x for x in lines if x.split(",")[0] not in gone).encode()
        if odd:
            files["train/case2/odd.png"] = b""
        write_files(path, files)

    return make


def nifti(*, images: int, labels: int) -> Make:
    def make(path: Path) -> None:
        for kind, number in (("images", images), ("labels", labels)):
            for scan in make_source().train[:number]:
                array = scan.bits if kind == "labels" else scan.image
                write_volume(path / kind / f"{scan.scan_id}.nii.gz", array, spacing_mm=(3, 2, 2))

    return make


def dicom(*missing: int | None, damaged: bool = False) -> Make:
    """Write a series for each given number of a slice that is missing, or none."""

    def make(path: Path) -> None:
        for number, gap in enumerate(missing):
            plan = SeriesPlan(shape=(6, 8, 9), missing=() if gap is None else (gap,))
            files = write_series(path / str(number), plan, patient_id=f"p{number}")
            if damaged and number == 0:
                files[2].write_bytes(files[2].read_bytes()[:300])

    return make


HELPS: dict[str, Make] = {
    "a slice missing in the middle": competition(without=((0, 2),), rows=False),
    "a slice missing in the middle, its rows not": competition(without=((0, 2),)),
    "a slice missing at the end": competition(without=((0, 4),)),
    "labels without an image": nifti(images=2, labels=3),
    "a DICOM series with a gap": dicom(None, 3),
    "a damaged DICOM file": dicom(None, None, damaged=True),
}
HELPS_NOT: dict[str, Make] = {
    "a gap in every scan": competition(without=tuple((n, 1) for n in range(4)), rows=False),
    "another fault besides": competition(without=((0, 2),), odd=True),
    "a gap in the only series": dicom(3),
    "a gap in every series": dicom(3, 2),
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        return run_in_process(words, monkeypatch=monkeypatch, capsys=capsys)

    return run


@pytest.mark.parametrize("name", HELPS)
def test_the_advice_works(name, run, tmp_path):
    HELPS[name](tmp_path / "s")
    for command in ("check", "convert"):
        code, _, said = run(command, "s", "--jobs", "1")
        assert code == 3
        assert ADVICE in said
        code, _, said = run(command, "s", "--jobs", "1", "--allow-missing")
        assert code == 0
        assert "Warning: " in said
    [manifest] = tmp_path.glob("gi2nnunet-workspace/raw/*/manifest.json")
    found = json.loads(manifest.read_text())
    assert len(found["left_out"]) == (name != "a slice missing at the end")
    scans = {scan["scan_id"] for scan in found["scans"]}
    for left_out in found["left_out"]:
        assert left_out not in scans
        # Of a DICOM series the warning says which slices, as its id is made up.
        assert "series ..." in left_out or f"{left_out} is left out" in said


@pytest.mark.parametrize("name", HELPS_NOT)
def test_no_advice_that_would_not_help(name, run, tmp_path):
    HELPS_NOT[name](tmp_path / "s")
    assert run("check", "s", "--jobs", "1", "--allow-missing")[0] == 3
    code, _, said = run("check", "s", "--jobs", "1")
    assert code == 3
    assert "--allow-missing" not in said


def test_a_command_without_the_option_does_not_advise_it(run, tmp_path):
    dicom(None, None, damaged=True)(tmp_path / "s")
    nifti(images=0, labels=1)(tmp_path / "n")
    [labels] = (tmp_path / "n" / "labels").iterdir()
    code, _, said = run("export-dicom", str(labels), "--source", "s", "--out", "out")
    assert code == 3
    assert "--allow-missing" not in said
