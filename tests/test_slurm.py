"""On a real Slurm, as ``scripts/slurm_testbed.sh start`` makes one: ``make test-slurm``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gi2nnunet.cluster.graph import Job
from gi2nnunet.cluster.profile import Profile
from gi2nnunet.cluster.submitting import JobStatus, read_jobs, submit

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
PROFILE = Profile(time="0:10:00", gpus=0, cpus=1, warning_seconds=60)


@pytest.fixture(autouse=True)
def slurm() -> None:
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: make test-slurm starts one")


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "jobs"
    yield folder
    for job in read_jobs(folder):
        subprocess.run(["scancel", job.job_id], check=False)


def wait(folder: Path, enough: Callable[[dict[str, JobStatus]], bool]) -> dict[str, JobStatus]:
    until = time.monotonic() + 300
    while time.monotonic() < until:
        found = {job.name: job for job in read_jobs(folder)}
        if enough(found):
            return found
        time.sleep(1)
    raise AssertionError(f"not in time: {found}")


def send(folder: Path, *graph: Job) -> tuple[list[str], dict[str, str]]:
    done = submit(graph, profile=PROFILE, folder=folder, mark="m")
    return list(done.submitted), dict(done.kept)


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
    graph = (
        Job(name="first", words=("train", "--no-such-option")),
        Job(name="second", words=("--version",), after=("first",)),
    )
    send(jobs, *graph)
    found = wait(jobs, lambda all_: all_["second"].state == "stopped")
    assert found["first"].state == "failed"
    assert "exit code 2" in found["first"].last_lines
    assert send(jobs, *graph)[0] == ["first", "second"]


def test_a_job_on_a_drained_node_waits_and_starts_when_it_is_back(jobs: Path) -> None:
    node = subprocess.check_output(["sinfo", "-h", "-o", "%n"], text=True).strip()
    change = ["scontrol", "update", f"nodename={node}"]
    subprocess.run([*change, "state=drain", "reason=test"], check=True)
    try:
        send(jobs, Job(name="only", words=("--version",)))
        time.sleep(5)
        (waiting,) = read_jobs(jobs)
        assert waiting.state == "waiting"
    finally:
        subprocess.run([*change, "state=resume"], check=True)
    wait(jobs, lambda all_: all_["only"].state == "finished")


def test_a_refused_partition_is_told_in_sbatchs_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gi2nnunet", "phantom", "s", "--patients", "3", "--days", "1",
               "--size", "64x64x16", "--jobs", "1"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, env=dict(os.environ), check=True)
    for words, code in (
        (["convert", "s", "--folds", "2", "--holdout", "0", "--jobs", "1"], 0),
        (
            [
                "train",
                "--on",
                "slurm",
                "--fold",
                "cv",
                "--slurm",
                "partition=none",
                "--slurm",
                "gpus=0",
            ],
            3,
        ),
    ):
        told = subprocess.run(
            [sys.executable, "-m", "gi2nnunet", *words],
            cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert told.returncode == code, told.stderr
    assert "invalid partition" in told.stderr
