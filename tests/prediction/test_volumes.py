"""What a prediction writes for viewers: label volumes by default, ITK-SNAP's labels, Slicer's file.

The engine is a stand-in that thresholds each scan and writes its label volume as the real one does.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import slicerio

import gi2nnunet
from gi2nnunet.api import Prediction, ScoredPrediction
from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.source.open import scan_from_json
from tests.command_line import tree
from tests.dicom_factory import SeriesPlan, write_series
from tests.engines import make_engine
from tests.model_factory import write_model
from tests.source_factory import make_source, write_source

AFFINE = np.diag([-1.5, -1.4, 3, 1.0])


def predict_by_threshold(task: str, options: Any, *, on_event: Any, **_: Any) -> dict[str, Any]:
    for each in json.loads(json.dumps(options))["scans"]:
        scan = scan_from_json(each["scan"])
        image = scan.read().image
        bits = ((image > 250) + 2 * (image > 500) + 4 * (image < 100)).astype(np.uint8)
        if options["nifti_folder"]:
            scan.write_volumes(Path(options["nifti_folder"]), bits)
        for folder in options["probability_folders"] or ():
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / f"{scan.scan_id}{SUFFIX}").touch()
        rows = encode_scan(scan.scan_id, scan.numbers, bits)
        on_event({"event": "scan", "scan_id": scan.scan_id, "rows": rows, "seconds": 1.0})
    return {}


@pytest.fixture
def model(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(engine_module, "run_engine", predict_by_threshold)
    workspace = open_workspace(here / "w", environ={})
    write_model(workspace.results)
    return here / "w"


@pytest.fixture
def scan(here: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 1000, (11, 9, 6), dtype=np.uint16)
    nibabel.save(nibabel.Nifti1Image(pixels, AFFINE), here / "scan.nii.gz")
    return here / "scan.nii.gz"


def test_one_nifti_file_gives_masks_beside_the_csv(model: Path, scan: Path, here: Path) -> None:
    done = gi2nnunet.predict(scan, out=here / "o", workspace=model, device="cpu", slicer=True)
    assert [path.name for path in done.files] == [
        "submission.csv", "labels", "organs", "itk-snap-labels.txt", "slicer",
    ]  # fmt: skip
    pixels = np.asarray(nibabel.load(scan).dataobj)
    bits = (pixels > 250) + 2 * (pixels > 500) + 4 * (pixels < 100)
    labels = nibabel.load(here / "o" / "labels" / "scan.nii.gz")
    assert np.array_equal(np.asarray(labels.dataobj), bits)
    assert np.allclose(labels.affine, AFFINE)
    found = slicerio.read_segmentation(here / "o" / "slicer" / "scan.seg.nrrd")
    assert np.allclose(found["ijkToLPS"], np.diag([-1, -1, 1, 1]) @ AFFINE)
    for number, segment in enumerate(found["segments"]):
        mask = found["voxels"][segment["layer"]] == segment["labelValue"]
        assert np.array_equal(mask, bits & (1 << number) > 0)
    recorded = json.loads((here / "o" / "prediction.json").read_text())["options"]
    assert (recorded["nifti"], recorded["slicer"]) == (True, True)


def test_masks_are_written_by_default_where_they_are_wanted(
    model: Path, scan: Path, here: Path
) -> None:
    write_series(here / "s", SeriesPlan(shape=(4, 9, 11)))
    write_source(here / "c", make_source(("case1_day0",)))
    engine = make_engine(open_workspace(model, environ={}))

    def write_by_default(source: Path, **given: Any) -> bool:
        kind = ScoredPrediction if source.name == "c" else Prediction
        asked = kind(source, workspace=model, **given)
        return asked.make_options(asked.choose_work(engine)).nifti

    assert write_by_default(scan)
    assert write_by_default(here / "s")
    assert not write_by_default(here / "c")
    assert not write_by_default(scan, nifti=False)
    assert write_by_default(here / "c", nifti=True)
    assert write_by_default(here / "c", slicer=True)


def test_no_volumes_if_they_are_refused(model: Path, scan: Path, run: Any, here: Path) -> None:
    words = ("predict", scan, "--workspace", model, "--device", "cpu")
    code, _, _ = run(*words, "--out", "o", "--no-nifti")
    assert code == 0
    assert {path.name for path in (here / "o").iterdir()} == {
        "submission.csv", "prediction.json", "cost.json",
    }  # fmt: skip
    code, _, err = run(*words, "--out", "p", "--no-nifti", "--slicer")
    assert code == 3
    assert "Leave out --no-nifti" in err
    assert not (here / "p").exists()
    assert run(*words, "--out", "p", "--slicer")[0] == 0
    assert (here / "p" / "slicer" / "scan.seg.nrrd").is_file()


def test_a_new_prediction_leaves_no_masks_of_the_former(
    model: Path, scan: Path, run: Any, here: Path
) -> None:
    def predict(source: Path, *options: str) -> None:
        words = ("predict", source, "--workspace", model, "--device", "cpu", "--out", "o")
        assert run(*words, *options)[0] == 0

    def find(pattern: str) -> set[str]:
        return {str(path.relative_to(here / "o")) for path in (here / "o").glob(pattern)}

    volumes = {"labels/scan.nii.gz", *(f"organs/scan_{organ}.nii.gz" for organ in ORGANS)}
    forms = {*volumes, "slicer/scan.seg.nrrd", f"probabilities/2d/scan{SUFFIX}"}
    predict(scan, "--slicer", "--save-probabilities")
    assert find("**/scan*.*") == forms
    predict(scan, "--no-nifti")  # the same prediction, so the masks are its own
    assert find("**/scan*.*") == forms
    mine = here / "o" / "labels" / "scan2.nii.gz"
    mine.write_text("mine")
    predict(scan, "--no-nifti", "--again")
    assert find("**/scan*.*") == {"labels/scan2.nii.gz"}
    mine.unlink()
    predict(scan)
    scan.rename(here / "other.nii.gz")
    predict(here / "other.nii.gz")
    assert find("labels/*") == {"labels/other.nii.gz"}
    assert find("*") >= {"labels", "organs"}


@pytest.mark.parametrize("options", [(), ("--again",), ("--no-nifti", "--no-mirroring")])
def test_a_corrected_volume_is_not_lost(
    model: Path, scan: Path, run: Any, here: Path, options: tuple[str, ...]
) -> None:
    words = ("predict", scan, "--workspace", model, "--device", "cpu", "--out", "o")
    assert run(*words)[0] == 0
    corrected = here / "o" / "organs" / "scan_stomach.nii.gz"
    corrected.write_bytes(b"corrected by hand")
    before = tree(here / "o")
    code, _, err = run(*words, *options)
    assert code == 5
    assert "found organs/scan_stomach.nii.gz, changed since the prediction wrote it" in err
    assert tree(here / "o") == before
    corrected.rename(here / "mine.nii.gz")
    assert run(*words, *options)[0] == 0
    assert run(*words)[0] == 0
    assert corrected.is_file()


def test_volumes_that_somebody_else_put_there_stay(
    model: Path, scan: Path, run: Any, here: Path
) -> None:
    truth = here / "o" / "labels" / "scan.nii.gz"
    truth.parent.mkdir(parents=True)
    truth.write_text("mine")
    words = ("predict", scan, "--workspace", model, "--device", "cpu", "--out", "o")
    assert run(*words, "--no-nifti")[0] == 0
    code, _, err = run(*words)
    assert code == 5
    assert "found labels/scan.nii.gz, which no prediction seems to have written" in err
    assert truth.read_text() == "mine"


def test_a_folder_of_the_source_is_not_predicted_into(
    model: Path, scan: Path, run: Any, here: Path
) -> None:
    images, labels = here / "data" / "images", here / "data" / "labels"
    for folder in (images, labels):
        folder.mkdir(parents=True)
    scan.rename(images / "scan.nii.gz")
    (labels / "note.txt").write_text("mine")
    words = ("predict", "data/images", "--workspace", model, "--device", "cpu", "--out")
    code, _, err = run(*words, images / "more")
    assert code == 0, err
    (images / "other").mkdir()
    (images / "other" / "note.txt").write_text("mine")
    code, _, err = run(*words, images / "other")
    assert code == 5
    assert "found note.txt, which no prediction" in err


def test_masks_of_a_replaced_prediction_are_not_those_of_the_new_one(
    model: Path, scan: Path, here: Path
) -> None:
    call = partial(gi2nnunet.predict, scan, out=here / "o", workspace=model, device="cpu")
    first, read = call(), call()
    masks = read["scan"].masks
    second = call(mirroring=False, again=True)
    (here / "o" / "submission.csv").write_text("id,class,segmentation\n")
    for prediction in (first, second):
        with pytest.raises(InputError, match="found another file, or none"):
            _ = prediction["scan"].masks
    assert read["scan"].masks["stomach"].tolist() == masks["stomach"].tolist()


def test_a_missing_pynrrd_is_said_before_the_prediction(
    model: Path, scan: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "run_engine", None)
    monkeypatch.setitem(sys.modules, "nrrd", None)
    with pytest.raises(InputError, match=r"pip install 'gi2nnunet\[slicer\]'"):
        gi2nnunet.predict(scan, out=here / "o", workspace=model, device="cpu", slicer=True)
    assert not (here / "o").exists()


def test_a_sample_without_rows_is_one_of_any_rows(model: Path, here: Path) -> None:
    """As the competition publishes it: only a header."""
    gi2nnunet.phantom("s", patients=1, days=1, test_patients=1, size="40x36x6@6", jobs=1)
    assert (here / "s/sample_submission.csv").read_text().count("\n") == 1
    done = gi2nnunet.predict("s", out=here / "o", workspace=model, device="cpu")
    assert len(done.submission.read_text().splitlines()) == 1 + 3 * 6
