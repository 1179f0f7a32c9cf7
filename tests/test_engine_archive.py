"""A DICOM archive that is real: series sent in, fetched, predicted, and structures sent back.

Orthanc and the clients of dcmtk, as scripts/dicom_testbed.sh installs them; docs/clinic.md shows
the same commands.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pydicom
import pytest

from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from tests.test_engine import SHORT, run
from tests.test_engine_clinic import write_archive

PROGRAMS = ("Orthanc", "echoscu", "storescu", "findscu", "getscu")

pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, PROGRAMS)), reason="scripts/dicom_testbed.sh was not run"
    ),
]


def call(*words: object) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, errors="replace", timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Archive:
    """An Orthanc that answers this machine only, and what a client asks of it."""

    def __init__(self, port: int) -> None:
        self.address = ("-aec", "ARCHIVE", "-aet", "CLIENT", "127.0.0.1", str(port))

    def answers(self) -> bool:
        return subprocess.run(["echoscu", *self.address], capture_output=True).returncode == 0

    def store(self, *paths: Path) -> None:
        call("storescu", "--required", *self.address, *paths)  # else no SEG

    def find_series(self, study: str) -> dict[str, str]:
        """Return the instance UID of the series of each modality in a study."""
        keys = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}", "SeriesInstanceUID",
                "Modality")  # fmt: skip
        said = call("findscu", "-S", *(word for key in keys for word in ("-k", key)), *self.address)
        found: dict[str, list[str]] = {"(0008,0060)": [], "(0020,000e)": []}
        for line in said.splitlines():
            for tag, values in found.items():
                if tag in line and "[" in line:
                    values.append(line.partition("[")[2].partition("]")[0].strip("\0 "))
        modalities, series = found.values()
        return dict(zip(modalities, series, strict=True))

    def fetch(self, study: str, series: str, folder: Path) -> list[Path]:
        folder.mkdir()
        keys = ("QueryRetrieveLevel=SERIES", f"StudyInstanceUID={study}",
                f"SeriesInstanceUID={series}")  # fmt: skip
        words = [word for key in keys for word in ("-k", key)]
        call("getscu", "-S", *words, "-od", folder, *self.address)
        return sorted(folder.iterdir())


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "StorageDirectory": str(tmp_path / "orthanc"), "IndexDirectory": str(tmp_path / "orthanc"),
        "HttpServerEnabled": False, "Plugins": [], "DicomAet": "ARCHIVE", "DicomPort": port,
        "DicomCheckModalityHost": True, "DicomAlwaysAllowEcho": False,
        "DicomAlwaysAllowStore": False,
        "DicomModalities": {"client": {"AET": "CLIENT", "Host": "127.0.0.1", "Port": 104}},
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    with (tmp_path / "orthanc.log").open("w") as log:
        server = subprocess.Popen(
            ["Orthanc", str(tmp_path / "orthanc.json")], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            found = Archive(port)
            waited_until = time.monotonic() + 60
            while not found.answers():
                assert server.poll() is None, (tmp_path / "orthanc.log").read_text()
                assert time.monotonic() < waited_until
                time.sleep(0.2)
            yield found
        finally:
            server.terminate()
            server.wait(60)


def test_a_series_goes_through_an_archive_and_its_structures_come_back(
    tmp_path: Path, archive: Archive
) -> None:
    write_phantom(
        tmp_path / "phantom", patients=3, days=1, detail="easy", seed=5,
        geometries=[Geometry(width=48, height=40, slices=16, spacing_mm=(3.0, 3.0))],
    )  # fmt: skip
    write_archive(tmp_path / "known", tmp_path / "phantom")
    here = tmp_path / "here"
    here.mkdir()
    run("convert", str(tmp_path / "known"), "--holdout", "0", "--folds", "2", cwd=here)
    run("train", "--fold", "all", *SHORT, cwd=here)

    sent = sorted((tmp_path / "known" / "1").glob("i*.dcm"))
    images = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, sent)}
    study = next(iter(images.values())).StudyInstanceUID
    archive.store(*sent)
    fetched = archive.fetch(study, archive.find_series(study)["MR"], tmp_path / "fetched")
    assert len(fetched) == len(images) == 16
    for path in fetched:
        image = pydicom.dcmread(path)
        assert image == images[image.SOPInstanceUID]

    words = ("--rtstruct", "--seg", "--device", "cpu")
    run("predict", str(tmp_path / "fetched"), "--out", "out", *words, cwd=here)
    written = sorted((here / "out" / "dicom").glob("*/*.dcm"))
    assert [path.name for path in written] == ["rtstruct.dcm", "seg.dcm"]
    archive.store(*written)
    found = archive.find_series(study)
    assert sorted(found) == ["MR", "RTSTRUCT", "SEG"]
    for path, modality in zip(written, ("RTSTRUCT", "SEG"), strict=True):
        (back,) = archive.fetch(study, found[modality], tmp_path / modality)
        assert pydicom.dcmread(back) == pydicom.dcmread(path)  # the meta header may differ
