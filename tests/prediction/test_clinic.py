"""Predictions of DICOM series: those of the same scan as NIfTI, as RTSTRUCT and SEG on the series.

The engine is a stand-in that reads each scan as the real one does and thresholds it.
"""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pydicom
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import split_organs
from gi2nnunet.formats.rtstruct_reading import read_rtstruct
from gi2nnunet.formats.seg import read_seg
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.engine import PredictionOptions
from gi2nnunet.nnunet.models import ModelChoice
from gi2nnunet.prediction.choose import choose_work
from gi2nnunet.prediction.evaluate import evaluate
from gi2nnunet.source.open import scan_from_json
from gi2nnunet.source.scan import SourceOptions
from tests.dicom_factory import AXIAL, FEET_FIRST, SAGITTAL, SeriesPlan, write_series
from tests.engines import compute
from tests.model_factory import write_model

TO_RAS = np.diag([-1.0, -1, 1, 1])


def predict_by_threshold(task, options, *, on_event, **_):
    assert task == "predict"
    for task_of_scan in json.loads(json.dumps(options))["scans"]:
        scan = scan_from_json(task_of_scan["scan"])
        image = scan.read().image.astype(np.float64)
        bits = ((image > 250) + 2 * (image > 500) + 4 * (image < 100)).astype(np.uint8)
        rows = encode_scan(scan.scan_id, scan.numbers, bits)
        on_event({"event": "scan", "scan_id": scan.scan_id, "rows": rows, "seconds": 1.0})
    return {}


@pytest.fixture
def predict(tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "run_engine", predict_by_threshold)
    workspace = open_workspace(tmp_path / "w", environ={})
    write_model(workspace.results)

    def run(source, name, **options):
        opening = SourceOptions(truth=False)
        work = choose_work(
            source, models=ModelChoice(), workspace=workspace, out=tmp_path / name, options=opening
        )
        return evaluate(work, **compute(workspace), options=PredictionOptions(**options))

    return run


@pytest.mark.parametrize("directions", [AXIAL, FEET_FIRST, SAGITTAL])
def test_a_series_is_predicted_as_the_same_scan_in_nifti(tmp_path, predict, directions):
    plan = SeriesPlan(shape=(6, 9, 11), directions=directions, pixel_spacing_mm=(2.0, 1.5))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1000, plan.shape, dtype=np.uint16)
    write_series(tmp_path / "s", plan, pixels=pixels)
    series = read_series(tmp_path / "s")
    nibabel.save(nibabel.Nifti1Image(pixels, TO_RAS @ series.affine), tmp_path / "a_day1.nii.gz")
    of_nifti = predict(tmp_path / "a_day1.nii.gz", "n")
    done = predict(tmp_path / "s", "d", rtstruct=True, seg=True, roi_names={"stomach": "Magen"})
    expected = of_nifti.read_masks("a_day1")
    found = done.read_masks(done.scan_ids[0])
    for organ in ORGANS:
        np.testing.assert_array_equal(found[organ], expected[organ])

    folder = tmp_path / "d" / "dicom" / done.scan_ids[0]
    assert done.files[1:] == (folder / "rtstruct.dcm", folder / "seg.dcm")
    bits = ((pixels > 250) + 2 * (pixels > 500) + 4 * (pixels < 100)).astype(np.uint8)
    names = {"stomach": "Magen"}
    for read, path in ((read_rtstruct, folder / "rtstruct.dcm"), (read_seg, folder / "seg.dcm")):
        masks = read(path, series=series, names=names).masks
        for organ, mask in zip(ORGANS, split_organs(bits), strict=True):
            np.testing.assert_array_equal(masks[organ], mask)
    description = pydicom.dcmread(folder / "rtstruct.dcm").StructureSetDescription
    assert "gi2nnunet" in description
    assert "the model 2d, digest " in description


def test_what_cannot_be_written_is_refused_before_the_prediction(tmp_path, predict, monkeypatch):
    monkeypatch.setattr(engine_module, "run_engine", None)
    write_series(tmp_path / "s", SeriesPlan(shape=(4, 9, 11), without=("FrameOfReferenceUID",)))
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.diag([1, 1, 3, 1]))
    nibabel.save(image, tmp_path / "a_day1.nii.gz")
    with pytest.raises(InputError, match="does not have a FrameOfReferenceUID"):
        predict(tmp_path / "s", "d", rtstruct=True)
    with pytest.raises(InputError, match="expected a DICOM series, on which"):
        predict(tmp_path / "a_day1.nii.gz", "n", seg=True)
    with pytest.raises(InputError, match="Give other names with --roi-name"):
        predict(tmp_path / "s", "d", seg=True, roi_names={"stomach": ""})
    assert not (tmp_path / "d").exists()


def test_scans_keep_their_ids_and_standing_over_runs(tmp_path, predict):
    for name, patient in (("b", "Beta"), ("a", "Alpha")):
        write_series(tmp_path / name, SeriesPlan(shape=(4, 9, 11)), patient_id=patient)
    (first,) = predict(tmp_path / "b", "1").scan_ids
    (second,) = predict(tmp_path / "a", "2").scan_ids
    assert first != second
    assert predict(tmp_path / "b", "3").scan_ids == (first,)
