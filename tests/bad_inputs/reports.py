"""What ``report`` is given: predictions, scans, records, places."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gi2nnunet.formats.volumes import write_volume
from gi2nnunet.upkeep import jobs
from tests.bad_inputs.entry import BadInput
from tests.bad_inputs.making import NAME, RAW, Make, cut, edit, remove, then, write

HOME = "gi2nnunet-workspace/predictions/held-out"
JOBS = "gi2nnunet-workspace/jobs"
ROW = "case10_day0_slice_0001,stomach"
HEAD = "id,class,predicted\n"
TRAINING = f"gi2nnunet-workspace/results/{NAME}/nnUNetTrainer__gi2nnunetTinyPlans__2d/fold_all"
JUNK = {"settings": 5, "runs": {"a": 1}, "versions": [1], "patch_size": 7, "preset": None}


def predicted(text: str, *more: Make) -> Make:
    """A prediction with these rows, and the dataset's whole truth."""

    def copy_truth(here: Path) -> None:
        (here / HOME / "truth.csv").write_bytes((here / RAW / "truth.csv").read_bytes())

    return then(write(f"{HOME}/submission.csv", HEAD + text), copy_truth, *more)


def bad(name: str, make: Make, *message: str, command: str = "report") -> BadInput:
    name = f"report: {name}"
    return BadInput(name=name, start="converted", make=make, command=command, message=message)


def other_shape(here: Path) -> None:
    (path, *_) = sorted((here / RAW / "labelsTr").glob("*.nii.gz"))
    write_volume(path, np.zeros((2, 3, 4), np.uint8), spacing_mm=(3.0, 1.5, 1.5))


def damage_first_image(here: Path) -> None:
    (path, *_) = sorted((here / RAW / "imagesTr").glob("*.nii.gz"))
    path.write_bytes(cut(path.read_bytes()))


REPORTS = (
    BadInput(
        name="report in no workspace",
        command="report -w empty",
        message=("empty/raw: holds no dataset", "gi2nnunet convert --workspace empty SOURCE"),
    ),
    bad(
        "a scan that the dataset does not have",
        lambda here: None,
        "--scan: found case99_day1; expected scans of Dataset501_UWGI, for example case",
        command="report --scan case99_day1",
    ),
    bad(
        "a folder without a prediction",
        lambda here: None,
        "source: holds no submission.csv; expected the output folder of gi2nnunet predict",
        command="report --prediction source",
    ),
    bad(
        "a submission whose masks cannot be read",
        write(f"{HOME}/submission.csv", f"{HEAD}{ROW},5 nonsense\n"),
        "submission.csv, line 2 (case10_day0_slice_0001, stomach)",
    ),
    bad(
        "a submission without its columns",
        then(write(f"{HOME}/submission.csv", "a,b\n1,2\n")),
        "submission.csv",
        "expected",
    ),
    bad(
        "a truth that is cut off",
        predicted(f"{ROW},\n", edit(f"{HOME}/truth.csv", lambda data: data[:40])),
        "truth.csv",
    ),
    bad("an image that is cut off", damage_first_image, "imagesTr", "case10_day0_0000.nii.gz"),
    bad(
        "an image that is gone",
        remove(f"{RAW}/imagesTr/case10_day0_0000.nii.gz"),
        "case10_day0_0000.nii.gz",
    ),
    bad(
        "labels of another shape than their image",
        other_shape,
        "labelsTr/case10_day0.nii.gz",
        "as manifest.json says Restore them with: gi2nnunet convert SOURCE",
    ),
    BadInput(
        name="report: a page that is a folder",
        start="converted",
        command="report --out source",
        message=("Invalid value for '--out'",),
        exit_code=2,
    ),
    BadInput(
        name="report: a page below a file",
        start="converted",
        make=write("file", "x"),
        command="report --out file/report.html",
        message=("file",),
        exit_code=5,
    ),
    BadInput(
        name="report: records of another form",
        start="model",
        make=then(
            write(f"{TRAINING}/gi2nnunet_training.json", json.dumps(JUNK)),
            write(f"{TRAINING}/training_log_2026_1_1_00_00_00.txt", b"\xff\x00 Epoch x\n"),
            write(f"{HOME}/submission.csv", HEAD),
            write(f"{HOME}/cost.json", '{"scans": "many", "seconds_per_scan": null}'),
            write(
                f"{HOME}/prediction.json",
                '{"options": [1], "computing": 3, "tuning": {"gains": 2}, "versions": "x"}',
            ),
        ),
        command="report",
        message=(
            "prediction.json: computing: found 3; expected an object",
            "options: found [1]; expected an object",
            "prediction.json is damaged, so its settings are not shown. Predict again",
        ),
        exit_code=0,
    ),
    BadInput(
        name="report: records that are no JSON",
        start="model",
        make=then(
            write(f"{TRAINING}/gi2nnunet_training.json", "{"),
            write(f"gi2nnunet-workspace/results/{NAME}/gi2nnunet_tuning_0.json", "[]"),
        ),
        command="report",
        message=("Nothing is predicted yet", "gi2nnunet_tuning_0.json is damaged"),
        exit_code=0,
    ),
    *(
        BadInput(
            name=f"report: {what}",
            start="model",
            make=then(write(f"{HOME}/submission.csv", HEAD), write(name, content)),
            command="report",
            message=(said,),
            exit_code=0,
        )
        for what, name, content, said in (
            (
                "a score that is cut off",
                f"{HOME}/score-per-class.json",
                '{"score": 0.9, "per',
                "score-per-class.json is damaged, so its settings are not shown",
            ),
            (
                "a score of another form",
                f"{HOME}/score-per-class.json",
                '{"sha256": [], "intervals": {"dice": "x"}, "versions": 7}',
                "score-per-class.json: versions: found 7; expected an object",
            ),
            ("a cost of text", f"{HOME}/cost.json", '{"scans": "3"}', "has no truth.csv"),
            (
                "a lock that is no JSON",
                f"{HOME}/.prediction.lock",
                b"\xff{",
                "has no truth.csv",
            ),
        )
    ),
    BadInput(
        name="jobs: an outcome of another form",
        start="converted",
        make=then(
            write(f"{JOBS}/records/train.json", '{"name": "train", "job_id": "7", "words": []}'),
            write(f"{JOBS}/outcomes/7.json", '{"exit_code": false}'),
        ),
        command="jobs",
        message=("train: stopped; log", "Run the same command with --on slurm again"),
        exit_code=0,
        patch=lambda monkeypatch: monkeypatch.setattr(jobs, "_read_queue", dict),
    ),
    BadInput(
        name="jobs: a record of another form",
        start="converted",
        make=write(f"{JOBS}/records/train.json", '{"name": "train", "job_id": 7, "words": []}'),
        command="jobs",
        message=("records/train.json: job_id: found 7; expected a valid string", "Remove the file"),
    ),
)
