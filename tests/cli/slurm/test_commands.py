"""What is submitted, as --dry-run prints it."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from tests.bad_inputs.making import finish_model
from tests.cli.slurm.test_submit import Slurm, end
from tests.remedies import follow
from tests.source_factory import make_source, write_files

SCANS = ("case1_day0", "case1_day5", "case2_day0", "case3_day0")


@pytest.fixture
def with_model(run, here):
    write_files(here / "source", make_source(SCANS).files())
    assert run("convert", "source", "--holdout", "0", "--folds", "2", "--jobs", "1")[0] == 0
    finish_model(here)
    return here


def dry_run(run, *words):
    code, out, err = run(*words, "--on", "slurm", "--dry-run")
    assert code == 0, err
    lines = out.splitlines()
    return dict(zip(lines[::2], [shlex.split(line)[1:] for line in lines[1::2]], strict=True))


def test_a_prediction_is_dealt_out_and_what_its_jobs_could_see_otherwise_is_fixed(run, with_model):
    jobs = dry_run(
        run, "predict-and-score", "source", "--parts", "2", "--metric", "joined", "--nifti",
        "--slurm", "gpus=0", "--slurm", "cpus=3",
    )  # fmt: skip
    (one, first), (two, second), (join, last) = jobs.items()
    assert re.fullmatch("predict_source_[0-9a-f]{6}_part_1", one)
    assert two == one[:-1] + "2"
    assert join == f"{one[:-7]}_join  after {one}, {two}"
    assert (first[0], last[0]) == ("predict", "predict-and-score")
    shared = [
        str(with_model / "source"), "--config", "2d", "--fold", "all",
        "--preset", "gi2nnunetTinyPlans", "--trainer", "nnUNetTrainer", "--nifti",
        "--device", "cpu", "--threads", "3",
    ]  # fmt: skip
    assert first[1 : len(shared) + 1] == shared
    assert first[len(shared) + 1] == "--out"
    assert first[len(shared) + 2].startswith(str(with_model / "gi2nnunet-workspace/predictions"))
    assert first[-2:] == ["--part", "1/2"]
    assert second[:-1] == first[:-1]
    assert last[1:] == [*first[1:-2], "--metric", "joined"]


def test_by_default_a_gpu_each_and_no_more_jobs_than_scans(run, with_model):
    jobs = dry_run(run, "predict", "--out", "o", "--threads", "2", "--workspace",
                   "gi2nnunet-workspace")  # fmt: skip
    assert len(jobs) == len(SCANS) + 1
    for words in jobs.values():
        assert words[words.index("--device") + 1] == "cuda"
        assert words[words.index("--threads") + 1] == "2"
        assert words[words.index("--out") + 1] == str(with_model / "o")
        assert words[words.index("--workspace") + 1] == str(with_model / "gi2nnunet-workspace")


def test_a_training_is_a_plan_its_folds_and_a_score(run, with_model):
    jobs = dry_run(run, "train", "--fold", "cv", "--config", "2d", "--epochs", "3")
    assert list(jobs) == [
        "plan",
        "train_2d_fold_0  after plan",
        "train_2d_fold_1  after plan",
        "score  after train_2d_fold_0, train_2d_fold_1",
    ]
    assert jobs["train_2d_fold_0  after plan"] == [
        "train", "--epochs", "3", "--device", "cuda", "--config", "2d", "--fold", "0",
    ]  # fmt: skip
    on_cpu = dry_run(run, "train", "--fold", "1", "--slurm", "gpus=0", "-w", "gi2nnunet-workspace")
    for words in on_cpu.values():
        place = words.index("--device")
        assert words[place + 1 : place + 3] == ["cpu", "--workspace"]


def test_a_training_that_was_removed_is_submitted_again(run, with_model, tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    (tmp_path / "bin").mkdir()
    Slurm(tmp_path / "bin", monkeypatch)
    words = ("train", "--config", "2d", "--preset", "tiny", "--on", "slurm", "--slurm", "gpus=0")
    assert run(*words)[1] == "plan: submitted as job 1\ntrain_2d_fold_all: submitted as job 2\n"
    jobs = with_model / "gi2nnunet-workspace" / "jobs"
    for job_id in ("1", "2"):
        end(jobs, job_id, 0)
    assert "train_2d_fold_all: finished, not submitted again" in run(*words)[1]
    _, _, err = run(*words, "--restart")
    follow(
        "Leave it out, and before that: gi2nnunet remove TRAINING", err, run, "--yes", TRAINING="2d"
    )
    out = run(*words)[1]
    assert "plan: finished" in out
    assert "train_2d_fold_all: submitted as job 3" in out


def test_a_plan_needs_a_gpu_only_to_choose_the_preset(run, with_model):
    for preset, device, gpus in (("auto", "cuda", 1), ("resenc-m", "cpu", 0)):
        words = ("train", "--fold", "cv", "--config", "2d", "--preset", preset, "--on", "slurm")
        code, out, err = run(*words, "--dry-run", "--json")
        assert code == 0, err
        plan, *trainings, score = json.loads(out)["jobs"]
        assert plan["words"][plan["words"].index("--device") + 1] == device
        assert plan["gpus"] == gpus
        for job in (*trainings, score):
            assert job["words"][job["words"].index("--device") + 1] == "cuda"
            assert job["gpus"] == 1


def test_jobs_tells_in_json_that_there_are_none(run, with_model):
    code, out, _ = run("jobs", "--json")
    assert (code, out.split()) == (
        0,
        ["{", '"format":', "1,", '"jobs":', "[],", '"left":', "0", "}"],
    )
