"""DICOM sources on the command line: ids, the table of patients, and what shows no patient."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pydicom
import pytest

import gi2nnunet.source.dicom as dicom_module
from gi2nnunet.cli.slurm import submit as submit_module
from gi2nnunet.cli.slurm.submit import CommandRun
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.formats.rtstruct import write_rtstruct
from tests.bad_inputs.making import finish_model
from tests.clinic_traces import FOLDER, IDENTIFYING, PREFIX, find_traces, identify
from tests.command_line import tree
from tests.dicom_factory import SeriesPlan, write_series
from tests.formats.test_rtstruct import make_masks
from tests.source_factory import make_source, write_files

PLAN = SeriesPlan(shape=(4, 12, 14))
TABLE = "gi2nnunet-workspace/dicom-patients.json"
ID = re.compile(r"p[0-9a-f]{6}-\d{4}_day\d+")


def write_labelled(folder: Path, *, patient: str = "A", change=None, **names) -> None:
    write_series(folder, PLAN, patient_id=patient, change=change, **names)
    series = read_series(folder)
    write_rtstruct(folder / "truth.dcm", make_masks(series.shape), series=series)


def ids_of(text: str) -> set[str]:
    return set(ID.findall(text))


def test_check_and_convert_name_the_same_scans_alike_before_and_after(run, here):
    for patient in "AB":
        write_labelled(here / "in" / patient, patient=patient)
    page = ("--html", "check.html", "--jobs", "1")
    assert run("check", "in", *page)[0] == 0
    checked = ids_of((here / "check.html").read_text())
    assert not (here / "gi2nnunet-workspace").exists()
    assert run("convert", "in", "--holdout", "0", "--folds", "2", "--jobs", "1")[0] == 0
    images = here / "gi2nnunet-workspace" / "raw" / "Dataset501_UWGI" / "imagesTr"
    converted = ids_of(" ".join(path.name for path in images.iterdir()))
    assert len(converted) == 2
    assert checked == converted
    # Of a part of it, and in another folder: by the table.
    assert run("check", "in/B", *page)[0] == 0
    assert ids_of((here / "check.html").read_text()) < converted
    assert run("check", "in/B", *page, "--workspace", "other")[0] == 0
    assert not ids_of((here / "check.html").read_text()) & converted
    assert not (here / "other").exists()


def test_a_refused_convert_leaves_the_table_as_it_was(run, here):
    write_labelled(here / "good" / "s", patient="A")
    write_labelled(here / "more" / "s", patient="B")
    write_labelled(here / "bad" / "s", patient="C")
    path = next(path for path in (here / "bad" / "s").iterdir() if path.name.startswith("image"))
    dataset = pydicom.dcmread(path)
    dataset.PhotometricInterpretation = "MONOCHROME1"  # which shows only when pixels are read
    dataset.save_as(path)
    for words in (
        ("bad",), ("good", "--roi", "stomach=Magen"), ("good", "--holdout", "mle-bench"),
    ):  # fmt: skip
        code, _, err = run("convert", *words, "--jobs", "1")
        assert code == 3, err
        assert not (here / TABLE).exists()
    assert run("convert", "good", "--jobs", "1")[0] == 0
    before = tree(here)
    assert TABLE in before
    assert run("convert", "bad", "--id", "7", "--jobs", "1")[0] == 3
    assert tree(here) == before
    # A convert that is not refused then adds to it.
    assert run("convert", "more", "--id", "7", "--jobs", "1")[0] == 0
    assert set(json.loads((here / TABLE).read_text())["patients"]) == {"A", "B"}


@pytest.fixture
def with_model(run, here):
    """A workspace with a model, and a DICOM series of the made-up patient outside of it."""
    (here / "ws").mkdir()
    write_files(here / "source", make_source(("case1_day0", "case2_day0")).files())
    words = ("--holdout", "0", "--folds", "2", "--jobs", "1")
    assert run("convert", "source", *words)[0] == 0
    finish_model(here)
    write_labelled(here / "clinic" / FOLDER, change=identify, prefix=PREFIX)
    return here


def test_a_part_is_refused_before_it_is_predicted(run, with_model):
    for more in (("--part", "1/2"), ("--on", "slurm", "--dry-run")):
        before = tree(with_model)
        code, _, err = run("predict", "source", "--rtstruct", "--device", "cpu", *more)
        assert code == 3
        assert "expected a DICOM series, on which" in err
        assert tree(with_model) == before


@pytest.mark.parametrize("wrong", ["in the files", "elsewhere"])
def test_a_bug_report_holds_nothing_of_the_patient(
    run, with_model, monkeypatch, tmp_path_factory, wrong
):
    kept = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    source = with_model / "clinic" / FOLDER

    def fail(*_, **__):
        raise FileNotFoundError(2, "No such file", str(source / f"{PREFIX}00001.dcm"))

    def fail_with_values(*_, **__):
        try:
            fail()
        except OSError as error:
            raise TypeError(f"no way to read {' '.join(IDENTIFYING.values())}") from error

    if wrong == "in the files":
        monkeypatch.setattr(dicom_module, "index_files", fail_with_values)
    else:
        monkeypatch.setattr("gi2nnunet.dataset.convert.open_source", fail)
    uid = IDENTIFYING["SeriesInstanceUID"]
    words = ("convert", source, "--series", uid, f"--structures={source / 'truth.dcm'}")
    code, out, err = run(*words)
    assert code == 1
    assert "this is a bug in gi2nnunet (" in err
    assert find_traces(kept, out + err) == []
    (log,) = kept.iterdir()
    text = log.read_text()
    assert "command: gi2nnunet convert SOURCE --series SERIES --structures STRUCTURES" in text
    assert "FileNotFoundError" in text
    assert ", in fail" in text
    log.unlink()
    assert run(*words, "--show-paths")[0] == 1
    (log,) = kept.iterdir()
    assert f"command: gi2nnunet convert {source}" in log.read_text()
    assert f"{PREFIX}00001.dcm" in log.read_text()


def test_the_files_of_jobs_hold_nothing_of_the_patient(run, with_model, monkeypatch):
    pytest.importorskip("submitit")
    tools = with_model / "tools"
    tools.mkdir()
    for name, text in (("sbatch", "cat $1 >> script; echo Submitted batch job 7"), ("squeue", ""),
                       ("srun", "")):  # fmt: skip
        (tools / name).write_text(f"#!/bin/sh\ncd {tools}\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    source = with_model / "clinic" / FOLDER
    uid = IDENTIFYING["SeriesInstanceUID"]
    words = (
        "predict-and-score", source, "--series", uid, "--structures", source / "truth.dcm",
        "--rtstruct", "--on", "slurm", "--slurm", "gpus=0", "--threads", "1",
    )  # fmt: skip
    code, shown, err = run(*words, "--dry-run")
    assert code == 0, err
    assert "predict-and-score SOURCE --config" in shown
    code, out, err = run(*words)
    assert code == 0, err
    assert find_traces(with_model / "gi2nnunet-workspace", shown + out + err) == []
    assert find_traces(tools, "") == []

    # The job gets what its files leave out.
    jobs = with_model / "gi2nnunet-workspace" / "jobs"
    (place,) = (jobs / "places").glob("*_join.json")
    record = json.loads(next((jobs / "records").glob("*_join.json")).read_text())
    started = []

    class Started:
        def __init__(self, command, **_):
            started.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(submit_module.subprocess, "Popen", Started)
    monkeypatch.setattr("submitit.JobEnvironment", lambda: type("", (), {"job_id": "7"}))
    CommandRun(words=record["words"], places=place, outcomes=jobs / "outcomes", patience=1.0)()
    (command,) = started
    assert command[3:5] == ["predict-and-score", str(source)]
    assert command[command.index("--series") + 1] == uid
    assert command[command.index("--structures") + 1] == str(source / "truth.dcm")
    assert not place.exists()
