"""On a stand-in Slurm: sbatch and squeue as scripts that keep a queue in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gi2nnunet.cli.slurm.submit import Job, Profile, submit
from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.upkeep.jobs import read_jobs

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


def read_script(slurm: Slurm, number: int) -> tuple[set[str], str]:
    """The names of sbatch's options in a script, and its command."""
    lines = (slurm.folder / f"script_{number}").read_text().splitlines()
    options = {line.split()[1].split("=")[0] for line in lines if line.startswith("#SBATCH --")}
    [command] = [line for line in lines if line.startswith("srun ")]
    return options, command


def test_a_jobs_step_gets_its_cores_where_srun_does_not_inherit_them(
    slurm: Slurm, tmp_path: Path
) -> None:
    submit(JOBS, profile=Profile(gpus=0, cpus=6), folder=tmp_path / "jobs", mark="m")
    options, command = read_script(slurm, 2)
    assert "--cpus-per-task" in options
    assert "--cpus-per-task=6" in command.split()


def test_jobs_that_compute_nothing_ask_for_no_gpu(slurm: Slurm, tmp_path: Path) -> None:
    gpus = {
        "gpus-per-task": "1", "gpu_bind": "closest", "cpus-per-gpu": "4", "gres": "gpu:a100:1",
        "gres-flags": "enforce-binding",
    }  # fmt: skip
    profile = Profile(gpus=2, cpus=6, partition="p", flags={**gpus, "qos": "long"})
    jobs = (replace(JOBS[0], on_gpu=False), JOBS[1])
    submit(jobs, profile=profile, folder=tmp_path / "jobs", mark="m")
    without, _ = read_script(slurm, 1)
    having, _ = read_script(slurm, 2)
    assert having - without - {"--dependency", "--kill-on-invalid-dep"} == {
        "--gpus-per-node", "--gpus-per-task", "--gpu-bind", "--cpus-per-gpu", "--gres",
        "--gres-flags",
    }  # fmt: skip
    assert {"--partition", "--qos", "--cpus-per-task", "--time"} <= without


@pytest.mark.parametrize(
    ("key", "value", "left"),
    [
        ("gres", "gpu:a100:1,lscratch:100", "lscratch:100"),
        ("gres", "lscratch:100", "lscratch:100"),
        ("tres_per_task", "cpu=2,gres/gpu:1", "cpu=2"),
        ("gres", "gpu", None),
        ("constraint", "gpu", "gpu"),
    ],
)
def test_other_resources_are_still_asked_for(key: str, value: str, left: str | None) -> None:
    profile = Profile(flags={key: value}).without_gpus()
    assert (profile.gpus, profile.flags.get(key)) == (0, left)


def make_parts(count: int, *, leaves: tuple[Path, ...] = ()) -> tuple[Job, ...]:
    parts = tuple(
        Job(name=f"part_{n}", words=("predict", f"{n}/{count}"), array="p", leaves=leaves)
        for n in range(1, count + 1)
    )
    return (*parts, Job(name="join", words=("predict",), after=tuple(p.name for p in parts)))


def test_an_array_is_one_submission_and_its_jobs_are_told_apart(
    slurm: Slurm, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    assert send(jobs, make_parts(3))[0] == {
        "part_1": "1_0", "part_2": "1_1", "part_3": "1_2", "join": "2",
    }  # fmt: skip
    assert "--array=0-2" in (slurm.folder / "script_1").read_text()
    assert "--dependency=afterok:1_0:1_1:1_2" in (slurm.folder / "script_2").read_text()
    slurm.show("1_1|RUNNING|None", "1_2|PENDING|Resources", "2|PENDING|Dependency")
    end(jobs, "1_0", 3)
    (jobs / "logs" / "1_0_0_log.out").write_text("a bad slice\n")
    found = {job.name: job for job in read_jobs(jobs)}
    assert list(found) == ["part_1", "part_2", "part_3", "join"]
    assert [job.state for job in found.values()] == ["failed", "running", "waiting", "waiting"]
    assert found["part_1"].last_lines == "a bad slice"
    assert found["part_1"].to_json()["log"] == str(jobs / "logs" / "1_0_0_log.out")

    slurm.show()
    end(jobs, "1_1", 0)
    end(jobs, "1_2", 0)
    assert send(jobs, make_parts(3)) == (
        {"part_1": "3", "join": "4"}, {"part_2": "finished", "part_3": "finished"},
    )  # fmt: skip
    assert "--dependency=afterok:3" in (slurm.folder / "script_4").read_text()


def test_fewer_parts_than_before_wait_for_the_former_and_then_replace_them(
    slurm: Slurm, tmp_path: Path
) -> None:
    jobs = tmp_path / "jobs"
    send(jobs, make_parts(3))
    slurm.show("1_2|RUNNING|None")
    with pytest.raises(InputError, match=r"part_3: job 1_2 is running with other options"):
        send(jobs, make_parts(2))
    slurm.show()
    send(jobs, make_parts(2))
    assert [job.name for job in read_jobs(jobs)] == ["part_1", "part_2", "join"]


def test_what_finished_and_was_taken_away_is_made_again(slurm: Slurm, tmp_path: Path) -> None:
    jobs, kept = tmp_path / "jobs", tmp_path / "kept"
    parts = make_parts(2, leaves=(kept, tmp_path / "result"))
    for job_id in send(jobs, parts)[0].values():
        end(jobs, job_id, 0)
    again = send(jobs, parts)[0]
    assert again == {"part_1": "3_0", "part_2": "3_1", "join": "4"}
    for job_id in again.values():
        end(jobs, job_id, 0)
    kept.touch()
    assert send(jobs, parts)[0] == {}


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
