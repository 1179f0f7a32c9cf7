"""A made-up patient with 29 identifying attributes, and a search for what is left of him."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset

FOLDER = "Zwiebelkuchen_Hildegard"
PREFIX = "MRN-93847261_"
"""What a folder and the names of files of this patient's series are called."""

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


def identify(dataset: Dataset, index: int) -> None:
    """Make an image of a series one of this patient."""
    for keyword, value in IDENTIFYING.items():
        setattr(dataset, keyword, value)
    dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.8.498.777666555444.{index + 1}"


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
        if path.parent.name == "places":  # of jobs that have to know a path
            assert path.stat().st_mode & 0o077 == 0
            continue
        texts = [str(path.relative_to(folder)).encode(), *unpack(path)]
        found += [f"{path}: {w}" for w in words for text in texts if w.encode() in text]
    return found
