"""A clinic's archive through all steps with the real nnU-Net, and nothing of the patients left."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
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
from tests.dicom_factory import SeriesPlan, write_series
from tests.test_engine import SHORT, run

pytestmark = pytest.mark.engine

IDENTIFYING = {
    "PatientName": "Zwiebelkuchen Hildegard",
    "PatientID": "MRN-93847261",
    "PatientBirthDate": "19310217",
    "OtherPatientIDs": "SSN-55512098",
    "OtherPatientNames": "Rosenstolz^Hilde",
    "PatientMotherBirthName": "Grashalm",
    "PatientAddress": "Kastanienallee 4711",
    "PatientTelephoneNumbers": "0815-424242",
    "EthnicGroup": "Atlantean",
    "Occupation": "Leuchtturmwart",
    "PatientComments": "Dritter Termin wegen Regen",
    "AdditionalPatientHistory": "Sturz vom Kamel",
    "AccessionNumber": "ACC-7712345",
    "StudyID": "ST-998877",
    "AdmissionID": "ADM-665544",
    "ReferringPhysicianName": "Sauerbruch^Quirin",
    "PerformingPhysicianName": "Blumenkohl^Xaver",
    "OperatorsName": "Fernglas^Ute",
    "InstitutionName": "Klinikum Wolkenkuckucksheim",
    "InstitutionAddress": "Am Ende der Welt 99",
    "StationName": "TOMO-GRAF-7",
    "DeviceSerialNumber": "SN-31415926",
    "StudyDescription": "Bestrahlung Zwiebel",
    "StudyDate": "20190827",
    "SeriesDate": "20190827",
    "StudyTime": "134455",
    "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.1234567890123456789",
    "SeriesInstanceUID": "1.2.826.0.1.3680043.8.498.9876543210987654321",
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.8.498.5555544444333332222",
}

INVALID = "193102XY"


def write_archive(folder: Path, source: Path) -> None:
    """Write the scans of a source as DICOM series with their truth; one patient is identified."""
    opened = open_source(source, SourceOptions(source_labels="regions"))
    for number, scan in enumerate(opened.scans.values()):
        loaded = scan.read()
        plan = SeriesPlan(
            shape=scan.shape, pixel_spacing_mm=scan.spacing_mm[1:],
            slice_spacing_mm=scan.spacing_mm[0],
        )  # fmt: skip

        def identify(dataset: Dataset, index: int, number: int = number) -> None:
            for keyword, value in IDENTIFYING.items():
                if number == 0:
                    setattr(dataset, keyword, value)
                    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.777666555444.{index + 1}"

        place = folder / ("Zwiebelkuchen_Hildegard" if number == 0 else str(number))
        write_series(
            place, plan, pixels=loaded.image[::-1], patient_id=f"P{number}", change=identify,
            prefix="MRN-93847261_" if number == 0 else "i",
        )  # fmt: skip
        masks = split_organs(loaded.label_map[::-1])
        write_rtstruct(
            place / "truth.dcm", dict(zip(ORGANS, masks, strict=True)), series=read_series(place)
        )


def unpack(path: Path) -> Iterator[bytes]:
    """Yield what a file holds, and what is in it if it is packed."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            for name in members.namelist():
                yield name.encode() + members.read(name)


def find_traces(folder: Path, said: str) -> list[str]:
    """Return where a value of an identifying attribute is, in files, their names or output."""
    words = {INVALID, *IDENTIFYING.values()}
    for keyword, value in IDENTIFYING.items():
        words |= set(value.replace("^", " ").split()) if "Name" in keyword else set()
    found = [f"output: {word}" for word in words if word in said]
    for path in folder.rglob("*"):
        if path.name in ("rtstruct.dcm", "seg.dcm", "dicom-patients.json") or path.is_dir():
            continue
        texts = [str(path.relative_to(folder)).encode(), *unpack(path)]
        found += [f"{path}: {w}" for w in words for text in texts if w.encode() in text]
    return found


def test_the_whole_way_leaves_nothing_of_the_patient(tmp_path: Path) -> None:
    write_phantom(
        tmp_path / "phantom", patients=3, days=1, detail="easy", seed=5,
        geometries=[Geometry(width=48, height=40, slices=16, spacing_mm=(3.0, 3.0))],
    )  # fmt: skip
    archive, here = tmp_path / "archive", tmp_path / "here"
    here.mkdir()
    write_archive(archive, tmp_path / "phantom")
    patient = archive / "Zwiebelkuchen_Hildegard"
    for path in patient.glob("MRN*"):  # no date: a library that warns of it shows it
        path.write_bytes(path.read_bytes().replace(b"19310217", INVALID.encode()))
    said = []

    def call(*words: object, code: int = 0) -> None:
        done = run(*map(str, words), cwd=here, code=code)
        said.append(done.stdout + done.stderr)

    call("check", archive, "--html", "check.html")
    call("convert", archive, "--holdout", "0", "--folds", "2")
    call("train", "--fold", "all", *SHORT)
    call("predict", patient, "--out", "out", "--nifti", "--rtstruct", "--seg", "--device", "cpu")
    call("predict-and-score", archive, "--out", "scored", "--device", "cpu")
    call("report")
    call("verify")
    call("export-model", "model.zip")
    scored = (here / "scored" / "score.json").read_text()
    assert "in-sample" in scored

    # The same scan as NIfTI gives the same voxels.
    series = read_series(patient)
    (scan,) = open_source(patient, SourceOptions(truth=False)).scans.values()
    affine = np.diag([-1.0, -1, 1, 1]) @ series.affine
    pixels = scan.read().image[::-1]
    nibabel.save(nibabel.Nifti1Image(pixels, affine), here / "scan_day1.nii.gz")
    call("predict", "scan_day1.nii.gz", "--out", "nifti", "--nifti", "--device", "cpu")
    tables = [read_mask_table(here / name / "submission.csv", any_scan=True) for name in
              ("out", "nifti")]  # fmt: skip
    assert tables[0].texts == tables[1].texts
    assert any(tables[0].texts)
    (of_dicom,) = (here / "out" / "labels").iterdir()
    (of_nifti,) = (here / "nifti" / "labels").iterdir()
    one, two = read_volume(of_dicom), read_volume(of_nifti)
    np.testing.assert_array_equal(one.array, two.array)
    assert one.geometry.is_close(two.geometry, most_mm=0.01)

    # What fails tells nothing either.
    def spoil(dataset: Dataset, index: int) -> None:
        for keyword, value in IDENTIFYING.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = encapsulate([b"\xff\xd8 no picture"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    bad = tmp_path / "Zwiebelkuchen bad"
    write_series(bad, SeriesPlan(shape=(4, 40, 48)), change=spoil, prefix="MRN-93847261_")
    call("predict", bad, "--out", "out2", "--device", "cpu", code=3)
    call("check", bad, code=3)
    assert "its pixels cannot be read" in said[-1]
    (bad / "MRN-93847261_00001.dcm").unlink()
    call("convert", bad, code=3)
    (bad / "MRN-93847261_00002.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"PatientName")
    call("convert", bad, code=3)

    assert len(IDENTIFYING) > 20
    assert list((here / "out" / "dicom").rglob("seg.dcm"))
    assert find_traces(here, "\n".join(said)) == []
