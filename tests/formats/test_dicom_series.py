"""Slices in order along the normal, and what cannot be one series."""

import builtins
import importlib.util

import numpy as np
import pydicom
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats import dicom_series
from gi2nnunet.formats.dicom_series import read_series
from tests.dicom_factory import AXIAL, FEET_FIRST, SAGITTAL, SeriesPlan, oblique, write_series


@pytest.mark.parametrize("directions", [AXIAL, FEET_FIRST, SAGITTAL, oblique(20.0)])
def test_slices_are_in_order_along_the_normal(tmp_path, directions):
    plan = SeriesPlan(shape=(6, 4, 5), directions=directions, missing=(2,))
    paths = write_series(tmp_path, plan)
    (tmp_path / "notes.txt").write_text("not DICOM")
    series = read_series(tmp_path)
    assert series.shape == (5, 4, 5)
    assert series.sop_instance_uids == tuple(str(pydicom.dcmread(p).SOPInstanceUID) for p in paths)
    steps = np.diff(series.positions_mm @ series.normal)
    assert np.allclose(steps, [3, 6, 3, 3])
    assert np.allclose(series.normal, plan.normal)
    assert [d.SOPInstanceUID for d in series.datasets] == list(series.sop_instance_uids)


def test_several_series_are_refused(tmp_path):
    write_series(tmp_path / "a", SeriesPlan(shape=(2, 4, 4)))
    for path in write_series(tmp_path / "b", SeriesPlan(shape=(2, 4, 4))):
        path.rename(tmp_path / "a" / f"other_{path.name}")
    with pytest.raises(InputError, match="found 2 series of images; expected one"):
        read_series(tmp_path / "a")


def test_what_differs_between_slices_is_listed_together(tmp_path):
    paths = write_series(tmp_path, SeriesPlan(shape=(3, 4, 4)))
    datasets = [pydicom.dcmread(path) for path in paths]
    datasets[1].ImagePositionPatient = datasets[0].ImagePositionPatient
    datasets[2].PixelSpacing = [1.5, 1.6]
    with pytest.raises(InputError) as caught:
        dicom_series.build_series([f for d in datasets for f in dicom_series.list_frames(d)])
    assert "both at [-101.25, -87.3, -13.7] mm; expected one image" in str(caught.value)
    assert "slice 3 of the series: found PixelSpacing [1.5, 1.6]" in str(caught.value)


def test_a_missing_package_names_the_extra(monkeypatch, tmp_path):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        dicom_series, "find_spec", lambda name: None if name == "highdicom" else real(name)
    )
    with pytest.raises(InputError, match=r"pip install 'gi2nnunet\[dicom\]'"):
        read_series(tmp_path)


def test_importing_the_module_does_not_import_pydicom(monkeypatch):
    used = []
    real = builtins.__import__

    def record(name, *args, **kwargs):
        used.append(name.partition(".")[0])
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", record)
    spec = importlib.util.find_spec("gi2nnunet.formats.dicom_series")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    assert "numpy" in used
    assert not {"pydicom", "highdicom"} & set(used)
