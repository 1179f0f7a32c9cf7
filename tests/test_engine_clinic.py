"""A clinic's archive through all steps with the real nnU-Net, and nothing of the patients left."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGLosslessSV1

from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.rtstruct import write_rtstruct
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.source.open import open_source
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from gi2nnunet.source.scan import SourceOptions
from tests.clinic_traces import (
    FOLDER,
    IDENTIFYING,
    INVALID,
    PREFIX,
    find_traces,
    identify,
)
from tests.dicom_factory import SeriesPlan, write_series
from tests.test_engine import run

pytestmark = pytest.mark.engine


def write_archive(folder: Path, source: Path) -> None:
    """Write the scans of a source as DICOM series with their truth; one patient is identified."""
    opened = open_source(source)
    for number, scan in enumerate(opened.scans.values()):
        loaded = scan.read()
        plan = SeriesPlan(
            shape=scan.shape, pixel_spacing_mm=scan.spacing_mm[1:],
            slice_spacing_mm=scan.spacing_mm[0],
        )  # fmt: skip

        place = folder / (FOLDER if number == 0 else str(number))
        write_series(
            place, plan, pixels=loaded.image[::-1], patient_id=f"P{number}",
            change=identify if number == 0 else None, prefix=PREFIX if number == 0 else "i",
        )  # fmt: skip
        masks = split_organs(loaded.label_map[::-1])
        write_rtstruct(
            place / "truth.dcm", dict(zip(ORGANS, masks, strict=True)), series=read_series(place)
        )


def test_the_whole_way_leaves_nothing_of_the_patient(tmp_path: Path) -> None:
    write_phantom(
        tmp_path / "phantom", patients=3, days=1, detail="easy", seed=5,
        geometries=[Geometry(width=48, height=40, slices=16, spacing_mm=(3.0, 3.0))],
    )  # fmt: skip
    archive, here = tmp_path / "archive", tmp_path / "here"
    here.mkdir()
    write_archive(archive, tmp_path / "phantom")
    patient = archive / FOLDER
    for path in patient.glob("MRN*"):  # no date: a library that warns of it shows it
        path.write_bytes(path.read_bytes().replace(b"19310217", INVALID.encode()))
    said = []

    def call(*words: object, code: int = 0) -> None:
        done = run(*map(str, words), cwd=here, code=code)
        said.append(done.stdout + done.stderr)

    call("check", archive, "--html", "check.html")
    call("convert", archive, "--holdout", "0", "--folds", "2")
    call(
        "train", "--fold", "all", "--config", "2d", "--preset", "tiny", "--epochs", "1",
        "--iterations", "4",
    )  # fmt: skip
    call(
        "predict-and-score", archive, "--out", "out", "--nifti", "--rtstruct", "--seg",
        "--device", "cpu",
    )  # fmt: skip
    call("report")
    call("verify")
    call("export-model", "--out", "model.zip")
    scored = (here / "out" / "score-per-class.json").read_text()
    assert "in-sample" in scored

    # The same scan as NIfTI gives the same voxels.
    series = read_series(patient)
    (scan,) = open_source(patient, SourceOptions(truth=False)).scans.values()
    affine = np.diag([-1.0, -1, 1, 1]) @ series.affine
    pixels = scan.read().image[::-1]
    nibabel.save(nibabel.Nifti1Image(pixels, affine), here / "scan_day1.nii.gz")
    call("predict", "scan_day1.nii.gz", "--out", "nifti", "--nifti", "--device", "cpu")
    (of_nifti,) = (here / "nifti" / "labels").iterdir()
    two = read_volume(of_nifti)
    assert two.array.any()
    assert (
        sum(
            one.geometry.is_close(two.geometry, most_mm=0.01)
            and np.array_equal(one.array, two.array)
            for one in map(read_volume, (here / "out" / "labels").iterdir())
        )
        == 1
    )
    tables = [read_mask_table(here / name / "submission.csv", any_scan=True) for name in
              ("out", "nifti")]  # fmt: skip
    assert set(filter(None, tables[1].texts)) <= set(tables[0].texts)

    # What fails tells nothing either.
    def spoil(dataset: Dataset, index: int) -> None:
        identify(dataset, index)
        dataset.PixelData = encapsulate([b"\xff\xd8 no picture"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    bad = tmp_path / "Zwiebelkuchen bad"
    write_series(bad, SeriesPlan(shape=(4, 40, 48)), change=spoil, prefix=PREFIX)
    call("predict", bad, "--out", "out2", "--device", "cpu", code=3)
    call("check", bad, code=3)
    assert "its pixels cannot be read" in said[-1]
    (bad / f"{PREFIX}00001.dcm").unlink()
    call("convert", bad, code=3)
    (bad / f"{PREFIX}00002.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"PatientName")
    call("convert", bad, code=3)

    assert len(IDENTIFYING) > 20
    assert list((here / "out" / "dicom").rglob("seg.dcm"))
    assert find_traces(here, "\n".join(said)) == []
