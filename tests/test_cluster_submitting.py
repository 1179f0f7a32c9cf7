"""On a stand-in Slurm: sbatch and squeue as scripts that keep a queue in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from gi2nnunet.cluster.graph import Job
from gi2nnunet.cluster.profile import Profile
from gi2nnunet.cluster.submitting import read_jobs, submit
from gi2nnunet.errors import InputError
from gi2nnunet.files import write_json

pytest.importorskip("submitit")
JOBS = (Job(name="plan", words=("plan",)), Job(name="train", words=("train",), after=("plan",)))


class Slurm:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.queue: dict[str, str] = {}
        for name in ("sbatch", "squeue", "srun"):
            script = folder / name
            script.write_text(
                {
                    "sbatch": f"#!/bin/sh\n[ -f {folder}/refuse ] && "
                    "{ echo 'sbatch: error: Invalid account' >&2; exit 1; }\n"
                    f"n=$(cat {folder}/n 2>/dev/null || echo 0); n=$((n+1)); echo $n > {folder}/n\n"
                    f'cp "$1" {folder}/script_$n\necho "Submitted batch job $n"\n',
                    "squeue": f"#!/bin/sh\ncat {folder}/queue 2>/dev/null\nexit 0\n",
                    "srun": "#!/bin/sh\n",
                }[name]
            )
            script.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")

    def show(self, *rows: str) -> None:
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    (tmp_path / "bin").mkdir()
    return Slurm(tmp_path / "bin", monkeypatch)


def send(folder: Path, jobs: tuple[Job, ...] = JOBS) -> tuple[dict[str, str], dict[str, str]]:
    done = submit(jobs, profile=Profile(gpus=0, flags={"qos": "x"}), folder=folder, mark="m")
    return done.submitted, dict(done.kept)


def end(folder: Path, job_id: str, code: int) -> None:
    write_json(folder / "outcomes" / f"{job_id}.json", {"exit_code": code})


def test_only_what_is_missing_is_submitted(slurm: Slurm, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    assert send(jobs) == ({"plan": "1", "train": "2"}, {})
    script = (slurm.folder / "script_2").read_text()
    assert "--dependency=afterok:1" in script
    assert "--qos=x" in script
    assert "--requeue" in script

    slurm.show("1|RUNNING|None", "2|PENDING|Dependency")
    assert send(jobs) == ({}, {"plan": "running", "train": "waiting"})

    slurm.show()
    end(jobs, "1", 0)
    end(jobs, "2", 4)
    (jobs / "logs" / "2_0_log.out").write_text("first\nout of luck\n")
    plan, train = read_jobs(jobs)
    assert (plan.state, train.state) == ("finished", "failed")
    assert train.last_lines == "first\nout of luck"
    assert send(jobs) == ({"train": "3"}, {"plan": "finished"})
    assert "dependency" not in (slurm.folder / "script_3").read_text()


def test_a_job_that_is_queued_again_waits(slurm: Slurm, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    send(jobs)
    slurm.show("1|PENDING|BeginTime", "2|PENDING|Dependency")
    assert [(job.state, job.reason) for job in read_jobs(jobs)] == [
        ("waiting", "BeginTime"),
        ("waiting", "Dependency"),
    ]


def test_other_options_wait_for_the_end_of_a_running_job(slurm: Slurm, tmp_path: Path) -> None:
    jobs = tmp_path / "jobs"
    send(jobs)
    slurm.show("1|RUNNING|None")
    with pytest.raises(InputError, match=r"job 1 is running with other options: gi2nnunet plan\."):
        send(jobs, (Job(name="plan", words=("plan", "--preset", "tiny")),))


def test_what_slurm_says_of_a_refused_job_is_told(slurm: Slurm, tmp_path: Path) -> None:
    (slurm.folder / "refuse").touch()
    with pytest.raises(InputError, match=r"refused the job plan(.|\n)*Invalid account"):
        send(tmp_path / "jobs")


def test_without_slurm_nothing_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="found no sbatch and no squeue and no srun here"):
        send(tmp_path / "jobs")
    assert read_jobs(tmp_path / "jobs") == ()
