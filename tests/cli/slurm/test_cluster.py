"""On a real Slurm, as ``scripts/slurm_testbed.sh start`` makes one: ``make test-slurm``."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.cli.slurm.submit import Job, Profile, submit
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from gi2nnunet.training.record import parse_log
from gi2nnunet.upkeep.jobs import JobStatus, read_jobs

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
PROFILE = Profile(time="0:10:00", gpus=0, cpus=1, warning_seconds=60)
GEOMETRY = Geometry(width=48, height=40, slices=16, spacing_mm=(3.0, 3.0))
ON_SLURM = ("--on", "slurm", "--slurm", "gpus=0", "--slurm", "cpus=1")
TRAINING = ("--config", "2d", "--preset", "tiny", "--device", "cpu", "--threads", "1",
            "--iterations", "1", "--jobs", "1")  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def slurm() -> None:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: make test-slurm starts one")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "jobs"
    yield folder
    cancel(folder)


def cancel(folder: Path) -> None:
    for job in read_jobs(folder):
        subprocess.run(["scancel", job.job_id], check=False)


def wait(
    folder: Path, enough: Callable[[dict[str, JobStatus]], bool], *, seconds: float = 400
) -> dict[str, JobStatus]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = {job.name: job for job in read_jobs(folder)}
        if enough(found):
            return found
        time.sleep(1)
    raise AssertionError(f"not in time: {found}")


def wait_all(folder: Path) -> dict[str, JobStatus]:
    """Wait until every job has ended, well or not."""
    ended = ("finished", "failed", "stopped")
    return wait(folder, lambda found: all(job.state in ended for job in found.values()))


def send(folder: Path, *graph: Job) -> tuple[list[str], dict[str, str]]:
    done = submit(graph, profile=PROFILE, folder=folder, mark="m")
    return list(done.submitted), dict(done.kept)


def gi2nnunet(*words: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *map(str, words)],
        cwd=cwd, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done


def convert_phantom(folder: Path, *, patients: int) -> Path:
    """Make a workspace with two folds; return its folder of jobs."""
    write_phantom(
        folder / "source", patients=patients, days=1, geometries=[GEOMETRY], detail="easy",
        test_patients=0, seed=3,
    )  # fmt: skip
    gi2nnunet("convert", "source", "--folds", "2", "--holdout", "0", "--jobs", "1", cwd=folder)
    return folder / "gi2nnunet-workspace" / "jobs"


def runs_of(folder: Path, name: str) -> list[list[int]]:
    """The epochs, from 1, that a training finished, by each time that it was started.

    From nnU-Net's own logs, one a start: what the job prints is only a line now and then.
    """
    configuration, fold = re.fullmatch(r"train_(\w+)_fold_(\w+)", name).groups()
    logs = folder.parent.glob(f"results/*/*__{configuration}/fold_{fold}/training_log_*.txt")
    told = [
        [epoch.number + 1 for epoch in parse_log(log.read_text().splitlines())]
        for log in sorted(logs, key=lambda log: log.stat().st_mtime)
    ]
    return [run for run in told if run]


def wait_for_epoch(folder: Path, name: str, epoch: int) -> JobStatus:
    return wait(folder, lambda _: any(epoch in run for run in runs_of(folder, name)))[name]


def test_a_job_waits_for_another_and_a_second_submission_adds_nothing(jobs: Path) -> None:
    graph = (
        Job(name="first", words=("--version",)),
        Job(name="second", words=("--version",), after=("first",)),
    )
    assert send(jobs, *graph)[0] == ["first", "second"]
    assert send(jobs, *graph)[0] == []
    found = wait(jobs, lambda all_: all(j.state == "finished" for j in all_.values()))
    assert "gi2nnunet " in found["second"].log.read_text()
    assert send(jobs, *graph) == ([], {"first": "finished", "second": "finished"})


def test_a_job_that_fails_for_good_stops_what_waits_for_it(jobs: Path) -> None:
    """In an array too: the others of it finish, and only it and the last are submitted again."""
    graph = (
        Job(name="part_1", words=("train", "--no-such-option"), array="part"),
        Job(name="part_2", words=("--version",), array="part"),
        Job(name="join", words=("--version",), after=("part_1", "part_2")),
    )
    send(jobs, *graph)
    found = wait_all(jobs)
    assert {name: job.state for name, job in found.items()} == {
        "part_1": "failed", "part_2": "finished", "join": "stopped",
    }  # fmt: skip
    assert "No such option: --no-such-option" in found["part_1"].last_lines
    assert "Traceback" not in found["part_1"].log.read_text()
    assert send(jobs, *graph) == (["part_1", "join"], {"part_2": "finished"})


def test_a_job_on_a_drained_node_waits_and_starts_when_it_is_back(jobs: Path) -> None:
    change_node("state=drain", "reason=test")
    try:
        send(jobs, Job(name="only", words=("--version",)))
        time.sleep(5)
        (waiting,) = read_jobs(jobs)
        assert waiting.state == "waiting"
    finally:
        change_node("state=resume")
    wait(jobs, lambda all_: all_["only"].state == "finished")


def change_node(*words: str, check: bool = True) -> None:
    node = subprocess.check_output(["sinfo", "-h", "-o", "%n"], text=True).strip()
    subprocess.run(["scontrol", "update", f"nodename={node}", *words], check=check)


def test_a_training_at_its_limit_queues_itself_again_and_loses_nothing(tmp_path: Path) -> None:
    """Slurm's own limit of a minute; then the node goes down under the job, and comes back."""
    jobs = convert_phantom(tmp_path, patients=2)
    gi2nnunet("plan", "--config", "2d", "--preset", "tiny", "--device", "cpu", "--jobs", "1",
              cwd=tmp_path)  # fmt: skip
    gi2nnunet(
        "train", "--fold", "0", *TRAINING, "--epochs", "100000", *ON_SLURM,
        "--slurm", "time=0:02:00", "--slurm", "warning_seconds=40", cwd=tmp_path,
    )  # fmt: skip
    name = "train_2d_fold_0"
    try:
        found = wait(jobs, lambda _: len(runs_of(jobs, name)) == 2)
        first, second = runs_of(jobs, name)
        assert "this job is timed-out" in found[name].log.read_text()
        assert second[0] == first[-1] + 1

        change_node("state=down", "reason=test")
        wait(jobs, lambda all_: all_[name].state == "waiting")
        change_node("state=resume", check=False)  # it may have come back by itself
        wait(jobs, lambda _: len(runs_of(jobs, name)) == 3)
        _, second, third = runs_of(jobs, name)
        assert second[0] <= third[0] <= second[-1] + 2
    finally:
        cancel(jobs)


@pytest.fixture(scope="module")
def trained(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cross-validation sent twice; one training struck down, the other warned, in the middle.

    One is queued again with no warning, as after a node's failure; the other is sent the signal
    that Slurm sends before it preempts a job or at the end of its time.
    """
    folder = tmp_path_factory.mktemp("cv")
    jobs = convert_phantom(folder, patients=4)
    words = ("train", "--fold", "cv", *TRAINING, "--epochs", "40", *ON_SLURM)
    first = gi2nnunet(*words, cwd=folder).stdout
    assert re.findall(r"(\w+): submitted as job", first) == [
        "plan", "train_2d_fold_0", "train_2d_fold_1", "score",
    ]  # fmt: skip
    second = gi2nnunet(*words, cwd=folder).stdout
    assert "submitted as job" not in second
    assert second.count("not submitted again") == 4
    try:
        warned = wait_for_epoch(jobs, "train_2d_fold_1", 3)
        subprocess.run(["scancel", "--signal=USR2", warned.job_id], check=True)
        struck = wait_for_epoch(jobs, "train_2d_fold_0", 12)
        subprocess.run(["scontrol", "requeue", struck.job_id], check=True)
        found = wait_all(jobs)
        assert {job.state for job in found.values()} == {"finished"}, found
        assert gi2nnunet(*words, cwd=folder).stdout.count("finished, not submitted again") == 4
        yield folder
    finally:
        cancel(jobs)


def test_a_training_struck_down_goes_on_from_its_last_checkpoint(trained: Path) -> None:
    folder = trained / "gi2nnunet-workspace" / "jobs"
    found = {job.name: job for job in read_jobs(folder)}
    before, after = runs_of(folder, "train_2d_fold_0")
    assert "resumed and finished" in found["train_2d_fold_0"].log.read_text()
    assert before[0] == 1
    assert after[-1] == 40
    # Ten epochs were saved, or more where a later one was the best so far; one may have been saved
    # in the instant before it was logged.
    assert 10 < after[0] <= before[-1] + 2


def test_a_warned_training_loses_nothing(trained: Path) -> None:
    folder = trained / "gi2nnunet-workspace" / "jobs"
    found = {job.name: job for job in read_jobs(folder)}
    before, after = runs_of(folder, "train_2d_fold_1")
    said = f"stopped as asked after epoch {before[-1]}, which is saved"
    assert said in found["train_2d_fold_1"].log.read_text()
    assert [*before, *after] == list(range(1, 41))


def test_the_last_job_scores_out_of_fold(trained: Path) -> None:
    (file,) = (trained / "gi2nnunet-workspace" / "predictions").glob("*/*/score-per-class.json")
    score = json.loads(file.read_text())
    assert score["standing"] == "out-of-fold"
    dataset = read_dataset(trained / "gi2nnunet-workspace" / "raw")
    scans = [scan.scan_id for scan in dataset.scans if scan.part == "train"]
    rows = list(csv.DictReader((file.parent / "score-per-class.csv").read_text().splitlines()))
    assert [row["scan_id"] for row in rows] == scans
    table = read_mask_table(file.parent / "submission.csv")
    assert table.scan_ids == tuple(scans)
    assert len(table.texts) == len(scans) * GEOMETRY.slices * 3
    again = gi2nnunet("score", "submission.csv", "--truth", "truth.csv", "--json", cwd=file.parent)
    assert json.loads(again.stdout)["score"] == score["score"]
    told = json.loads(gi2nnunet("jobs", "--json", cwd=trained).stdout)
    assert told["left"] == 0
    assert [job["name"] for job in told["jobs"]] == [
        "plan", "train_2d_fold_0", "train_2d_fold_1", "score",
    ]  # fmt: skip


def test_a_prediction_in_shards_is_byte_for_byte_the_local_one(trained: Path) -> None:
    gi2nnunet("predict", "source", "--threads", "1", "--device", "cpu", "--out", "here",
              cwd=trained)  # fmt: skip
    words = ("predict", "source", *ON_SLURM, "--parts", "2", "--nifti", "--out", "there")
    jobs = trained / "gi2nnunet-workspace" / "jobs"
    first = gi2nnunet(*words, cwd=trained).stdout
    names = re.findall(r"(\S+): submitted as job", first)
    assert [re.sub("_[0-9a-f]{6}_", "_", name) for name in names] == [
        "predict_source_part_1", "predict_source_part_2", "predict_source_join",
    ]  # fmt: skip
    assert len({number.partition("_")[0] for number in re.findall(r"as job (\S+)", first)}) == 2
    assert "submitted as job" not in gi2nnunet(*words, cwd=trained).stdout
    found = wait_all(jobs)
    assert {found[name].state for name in names} == {"finished"}, [found[n] for n in names]
    made = trained / "there" / "submission.csv"
    assert made.read_bytes() == (trained / "here" / "submission.csv").read_bytes()
    # Each scan was predicted by its part; the last job only joined them.
    log = found[names[-1]].log.read_text()
    assert "predicting scans: 4 of 4" in log
    assert list(made.parent.rglob(".predicting*")) == []
    assert len(list((made.parent / "labels").iterdir())) == 4

    assert "submitted as job" not in gi2nnunet(*words, cwd=trained).stdout
    made.unlink()
    again = gi2nnunet(*words, cwd=trained).stdout
    assert again.count("submitted as job") == 3
    table = {job["name"]: job for job in json.loads(
        gi2nnunet("jobs", "--json", cwd=trained).stdout)["jobs"]}  # fmt: skip
    assert all(table[name]["state"] in ("waiting", "running") for name in names)
    cancel(jobs)


def test_what_fails_for_good_is_told_and_only_that_is_submitted_again(trained: Path) -> None:
    """One scan's slice is damaged: its part fails, the others finish, the last does not start."""
    shutil.copytree(trained / "source", trained / "damaged")
    victim = sorted((trained / "damaged" / "train").rglob("*.png"))[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    words = ("predict-and-score", "damaged", *ON_SLURM, "--parts", "2", "--out", "scored")
    names = re.findall(r"(\S+): submitted as job", gi2nnunet(*words, cwd=trained).stdout)
    jobs = trained / "gi2nnunet-workspace" / "jobs"
    found = wait_all(jobs)
    assert [found[name].state for name in names] == ["failed", "finished", "stopped"]
    told = gi2nnunet("jobs", cwd=trained)
    assert f"{names[0]}: failed" in told.stderr
    assert victim.name in told.stderr
    assert "submit what is missing" in told.stderr
    victim.write_bytes(whole)
    os.utime(victim, (0, 0))
    gi2nnunet(*words, cwd=trained)
    found = wait_all(jobs)
    assert {found[name].state for name in names} == {"finished"}
    score = json.loads((trained / "scored" / "score-per-class.json").read_text())
    assert len(score["per_scan"]) == 4


def test_a_refused_partition_is_told_in_sbatchs_words(tmp_path: Path) -> None:
    convert_phantom(tmp_path, patients=2)
    words: list[Any] = ["train", "--fold", "cv", *ON_SLURM, "--slurm", "partition=none"]
    told = gi2nnunet(*words, cwd=tmp_path, code=3)
    assert "invalid partition" in told.stderr
