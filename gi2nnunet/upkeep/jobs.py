"""Slurm jobs of a workspace: what was recorded when they were submitted, and their states.

States come from squeue and from a file that each job writes at its end. submitit would ask sacct,
which needs a database that many clusters do not have, and does not say why a job waits.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from gi2nnunet.core.errors import EngineError
from gi2nnunet.core.files import find_record, read_record
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.dataset.workspace import Workspace

if TYPE_CHECKING:
    from pandas import DataFrame

State = Literal["waiting", "running", "finished", "failed", "stopped"]
_LAST_LINES = 8


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """State of one submitted job.

    ``job_id`` is Slurm's, such as ``12_3`` in an array; ``reason`` is Slurm's reason for waiting. A
    job is ``stopped`` if Slurm no longer knows it and it did not record how it ended.
    ``last_lines`` are the end of its log if it failed or was stopped.
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
class SlurmJobs(ShownAsTable):
    """All jobs of a workspace, in the order of submission."""

    jobs: tuple[JobStatus, ...]

    @property
    def left(self) -> int:
        """Return how many are not finished."""
        return sum(job.state != "finished" for job in self.jobs)

    def to_json(self) -> dict[str, Any]:
        """Return them as plain values."""
        return {"jobs": [job.to_json() for job in self.jobs], "left": self.left}

    def to_frame(self) -> DataFrame:
        """Return a table of the jobs, indexed by their names."""
        return make_frame(JobStatus, self.jobs, index="name")


class JobRecord(TypedDict):
    """What is recorded of a submitted job."""

    name: str
    job_id: Annotated[str, Field(pattern=r"^[0-9]+(_[0-9]+)?$")]
    words: list[str]
    array: NotRequired[str | None]
    mark: NotRequired[str]


class Outcome(TypedDict):
    """How a job's command ended."""

    exit_code: int


def find_jobs_folder(workspace: Workspace) -> Path:
    """Return the folder of a workspace's jobs."""
    return workspace.logs.parent / "jobs"


def read_jobs(folder: Path) -> tuple[JobStatus, ...]:
    """Return the state of every recorded job, in the order of submission."""
    remedy = "Remove the file and run the same command with --on slurm again."
    paths = (folder / "records").glob("*.json")
    records = [read_record(path, JobRecord, remedy=remedy) for path in paths]
    queue = _read_queue() if records else {}
    records.sort(key=lambda record: [int(number) for number in record["job_id"].split("_")])
    return tuple(_describe_job(record, folder, queue) for record in records)


def _describe_job(
    record: JobRecord, folder: Path, queue: Mapping[str, tuple[str, str]]
) -> JobStatus:
    job_id = record["job_id"]
    outcome = find_record(folder / "outcomes" / f"{job_id}.json", Outcome)
    queued, reason = queue.get(job_id, ("", ""))
    state: State = "running" if queued else "stopped"
    if queued.startswith(("PENDING", "REQUEUE")):
        state = "waiting"
    elif outcome:
        state = "failed" if outcome["exit_code"] else "finished"
    log = folder / "logs" / f"{job_id}_0_log.out"
    return JobStatus(
        name=record["name"],
        job_id=job_id,
        state=state,
        reason=reason if state == "waiting" and reason != "None" else "",
        log=log,
        last_lines=_last_lines(log) if state in ("failed", "stopped") else "",
    )


def _read_queue() -> dict[str, tuple[str, str]]:
    # One line for each job, also for those of a waiting array.
    command = ["squeue", "--noheader", "--array", "--format=%i|%T|%r"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"squeue: cannot be asked ({error}). Is Slurm there?") from error
    if asked.returncode:
        raise EngineError(f"squeue failed: {asked.stderr.strip()}")
    rows = [line.split("|", 2) for line in asked.stdout.splitlines()]
    return {job_id: (state, reason) for job_id, state, reason in rows}


def record_path(folder: Path, name: str) -> Path:
    """Return the file that records a submitted job."""
    return folder / "records" / f"{name}.json"


def _last_lines(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join([line for line in lines if line.strip()][-_LAST_LINES:])
