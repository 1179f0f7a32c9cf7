"""Submit jobs to Slurm, keep record of them, and tell how they stand."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.cli.slurm.graph import Job
from gi2nnunet.cli.slurm.job import CommandRun
from gi2nnunet.cli.slurm.profile import Profile, count_minutes
from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.files import read_json, write_json
from gi2nnunet.core.locks import hold

State = Literal["waiting", "running", "finished", "failed", "stopped"]
_ACTIVE = ("waiting", "running")
_LAST_LINES = 8
# Of the time between the warning and the end, for saving; the rest is for being queued again.
_PATIENT_PART = 0.75


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """How one submitted job stands.

    Attributes
    ----------
    name, job_id
        Ours and Slurm's; that of a job in an array is the array's with its place, as ``12_3``.
    state
        ``stopped``: Slurm no longer knows it, and it did not say how it ended.
    reason
        Slurm's word on why it waits; else empty.
    log
        What it printed.
    last_lines
        The log's end where the job failed or was stopped; else empty.
    """

    name: str
    job_id: str
    state: State
    reason: str
    log: Path
    last_lines: str

    def to_json(self) -> dict[str, str]:
        """Return it as plain values."""
        return {**asdict(self), "log": str(self.log)}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a call submitted, and what was there already.

    Attributes
    ----------
    submitted
        Names and Slurm's ids of new jobs.
    kept
        Names and states of those left alone.
    """

    submitted: dict[str, str]
    kept: dict[str, State]


def submit(jobs: Sequence[Job], *, profile: Profile, folder: Path, mark: str) -> Submission:
    """Submit what is missing of a run.

    Jobs that finished, run or wait are left alone; what failed, was stopped, or finished but left
    nothing that is still there, is submitted again, and so is what finished after such a job. Jobs
    of one array go to Slurm as one.

    Parameters
    ----------
    jobs
        In an order in which each stands after those it waits for.
    profile
        What each asks for.
    folder
        The workspace's folder of jobs, on a file system that all nodes see.
    mark
        What the jobs work on; a finished job of another mark does not count.

    Raises
    ------
    InputError
        Where Slurm is not there or refuses a job; where a job of the same name with other words
        waits or runs.
    OutputError
        Where another run is submitting.
    """
    if find_spec("submitit") is None:
        raise InputError(
            "--on slurm: found no submitit. Install it: pip install 'gi2nnunet[slurm]'."
        )
    if missing := [tool for tool in ("sbatch", "squeue", "srun") if shutil.which(tool) is None]:
        raise InputError(
            f"--on slurm: found no {' and no '.join(missing)} here. "
            "Run it on a machine of the cluster that submits jobs, or leave out --on slurm."
        )
    submitted: dict[str, str] = {}
    kept: dict[str, State] = {}
    active: dict[str, str] = {}
    with hold(folder / "submitting", purpose="submitting jobs"):
        states = {status.name: status for status in read_jobs(folder)}
        _drop_former(jobs, states, folder=folder)
        todo: list[Job] = []
        for job in jobs:
            status = states.get(job.name)
            record = read_json(_record(folder, job.name)) if status else {}
            same = _identify(job, mark).items() <= record.items()
            if status and status.state in _ACTIVE:
                if not same:
                    raise _busy(status, record)
                kept[job.name] = status.state
                active[job.name] = status.job_id
            elif (
                status
                and same
                and status.state == "finished"
                and _is_there(job)
                and not {other.name for other in todo} & set(job.after)
            ):
                kept[job.name] = status.state
            else:
                todo.append(job)
        for _, group in groupby(todo, key=lambda job: job.array or job.name):
            together = list(group)
            after = [active[name] for name in together[0].after if name in active]
            job_ids = _submit_together(together, profile=profile, folder=folder, after=after)
            for job, job_id in zip(together, job_ids, strict=True):
                write_json(
                    _record(folder, job.name),
                    {
                        "name": job.name,
                        "job_id": job_id,
                        "array": job.array,
                        **_identify(job, mark),
                    },
                )
                submitted[job.name] = active[job.name] = job_id
    return Submission(submitted=submitted, kept=kept)


def _identify(job: Job, mark: str) -> dict[str, Any]:
    return {"words": list(job.words), "mark": mark}


def _busy(status: JobStatus, record: Mapping[str, Any]) -> InputError:
    return InputError(
        f"{status.name}: job {status.job_id} is {status.state} with other options: "
        f"gi2nnunet {' '.join(record['words'])}. Wait for it, or stop it by "
        f"scancel {status.job_id}."
    )


def _is_there(job: Job) -> bool:
    return not job.leaves or any(path.exists() for path in job.leaves)


def _drop_former(
    jobs: Sequence[Job], states: Mapping[str, JobStatus], *, folder: Path
) -> None:  # fmt: skip
    """Forget the jobs of an array that is submitted in fewer parts than before."""
    arrays = {job.array for job in jobs if job.array}
    for name in states.keys() - {job.name for job in jobs}:
        record = read_json(_record(folder, name))
        if record.get("array") in arrays:
            if states[name].state in _ACTIVE:
                raise _busy(states[name], record)
            _record(folder, name).unlink(missing_ok=True)


def read_jobs(folder: Path) -> tuple[JobStatus, ...]:
    """Return how every job on record stands, in the order of submission.

    Raises
    ------
    InputError
        Where a record is damaged.
    EngineError
        Where Slurm does not answer.
    """
    records = [_read_record(path) for path in (folder / "records").glob("*.json")]
    queue = _read_queue() if records else {}
    statuses = []
    for record in sorted(records, key=lambda r: [int(n) for n in r["job_id"].split("_")]):
        job_id = record["job_id"]
        state, reason = _find_state(folder, job_id, queue)
        log = folder / "logs" / f"{job_id}_0_log.out"
        statuses.append(
            JobStatus(
                name=record["name"],
                job_id=job_id,
                state=state,
                reason=reason,
                log=log,
                last_lines=_last_lines(log) if state in ("failed", "stopped") else "",
            )
        )
    return tuple(statuses)


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    whole = isinstance(record.get("name"), str) and isinstance(record.get("words"), list)
    if not whole or re.fullmatch(r"\d+(_\d+)?", str(record.get("job_id"))) is None:
        raise InputError(
            f"{path}: is damaged: found no record of a job; expected its name, words and job_id. "
            "Remove the file and run the same command with --on slurm again."
        )
    return record


def _find_state(folder: Path, job_id: str, queue: dict[str, tuple[str, str]]) -> tuple[State, str]:
    outcome = read_json(folder / "outcomes" / f"{job_id}.json")
    state, reason = queue.get(job_id, ("", ""))
    if state.startswith(("PENDING", "REQUEUE")):
        return "waiting", "" if reason == "None" else reason
    if "exit_code" in outcome:
        return ("failed" if outcome["exit_code"] else "finished"), ""
    return ("running" if state else "stopped"), ""


def _read_queue() -> dict[str, tuple[str, str]]:
    # A line a job, also of an array that waits.
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"squeue: cannot be asked ({error}). Is Slurm there?") from error
    if asked.returncode:
        raise EngineError(f"squeue failed: {asked.stderr.strip()}")
    rows = [line.split("|", 2) for line in asked.stdout.splitlines()]
    return {job_id: (state, reason) for job_id, state, reason in rows}


def _submit_together(
    jobs: Sequence[Job], *, profile: Profile, folder: Path, after: Iterable[str]
) -> list[str]:
    """Submit one job, or several as an array; return Slurm's ids."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    outcomes = folder / "outcomes"
    outcomes.mkdir(parents=True, exist_ok=True)
    executor = SlurmExecutor(folder=folder / "logs", max_num_timeout=profile.most_timeouts)
    more: dict[str, Any] = {**profile.flags, "requeue": True}
    if waits_for := ":".join(after):
        more |= {"dependency": f"afterok:{waits_for}", "kill_on_invalid_dep": "yes"}
    asked: dict[str, Any] = {
        "job_name": f"gi2nnunet_{jobs[0].array or jobs[0].name}",
        "time": count_minutes(profile.time),
        "cpus_per_task": profile.cpus,
        "signal_delay_s": profile.warning_seconds,
        "stderr_to_stdout": True,
        "additional_parameters": {key.replace("-", "_"): value for key, value in more.items()},
    }
    optional = {
        "partition": profile.partition,
        "account": profile.account,
        "mem": profile.memory,
        "gpus_per_node": profile.gpus or None,
    }
    executor.update_parameters(**asked, **{k: v for k, v in optional.items() if v is not None})
    patience = profile.warning_seconds * _PATIENT_PART
    runs = [CommandRun(words=job.words, outcomes=outcomes, patience=patience) for job in jobs]
    try:
        with executor.batch():
            submitted = [executor.submit(run) for run in runs]
    except FailedJobError as error:
        raise InputError(
            f"Slurm refused the job {jobs[0].name}: {error}\n"
            "Change the profile or --slurm KEY=VALUE, and run the same command again."
        ) from error
    return [str(job.job_id) for job in submitted]


def _record(folder: Path, name: str) -> Path:
    return folder / "records" / f"{name}.json"


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])
