"""Jobs on Slurm: their profile and order, submitted, recorded, and their state."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.core.errors import EngineError, InputError, Problem, raise_problems
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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job.

    Attributes
    ----------
    name
        Its name, unique in the run.
    words
        The words after ``gi2nnunet`` that it runs.
    after
        Names of the jobs that must have succeeded before.
    array
        Name of the array that it belongs to, whose jobs stand beside each other and wait for the
        same; empty for a job of its own.
    leaves
        Where none of these is there any more, a finished job is no longer done; without any, it is
        done for good.
    """

    name: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()
    array: str = ""
    leaves: tuple[Path, ...] = ()


def make_training_graph(
    *,
    configurations: Sequence[str],
    folds: Sequence[int | str],
    n_folds: int,
    plan_words: Sequence[str],
    train_words: Sequence[str],
    score_words: Sequence[str],
) -> tuple[Job, ...]:
    """Return the jobs of a whole training: a plan, every training, then the score.

    Parameters
    ----------
    configurations, folds
        One training for each pair.
    n_folds
        Folds of the split; only where all are trained is there a job that scores.
    plan_words, train_words, score_words
        Command lines without ``--config`` and ``--fold``.
    """
    chosen = [word for name in configurations for word in ("--config", name)]
    plan = Job(name="plan", words=(*plan_words, *chosen))
    trainings = [
        Job(
            name=f"train_{configuration}_fold_{fold}",
            words=(*train_words, "--config", configuration, "--fold", str(fold)),
            after=("plan",),
        )
        for configuration in configurations
        for fold in folds
    ]
    jobs = [plan, *trainings]
    if n_folds and set(range(n_folds)) <= set(folds):
        numbered = tuple(job.name for job in trainings if not job.name.endswith("_all"))
        words = (*score_words, *chosen, "--fold", "cv")
        jobs.append(Job(name="score", words=words, after=numbered))
    return tuple(jobs)


def make_prediction_graph(
    *,
    name: str,
    parts: int,
    part_words: Sequence[str],
    join_words: Sequence[str],
    kept: Path,
    result: Path,
) -> tuple[Job, ...]:
    """Return the jobs of a prediction: an array of parts, and one that joins what they keep.

    Parameters
    ----------
    name
        What is predicted and where to; no other prediction's.
    parts
        How many, each of every so-manieth scan.
    part_words, join_words
        Command lines, the former without ``--part``.
    kept
        Folder of what the parts leave for the last job, which takes it away.
    result
        The file that the last job writes.
    """
    shards = [
        Job(
            name=f"{name}_part_{part}",
            words=(*part_words, "--part", f"{part}/{parts}"),
            array=name,
            leaves=(kept, result),
        )
        for part in range(1, parts + 1)
    ]
    join = Job(
        name=f"{name}_join",
        words=tuple(join_words),
        after=tuple(job.name for job in shards),
        leaves=(result,),
    )
    return (*shards, join)


_LOOK_SECONDS = 0.2


@dataclass(kw_only=True)
class CommandRun:
    """A command line as submitit runs it.

    Attributes
    ----------
    words
        The words after ``gi2nnunet``.
    outcomes
        Folder of the files that say how a job ended.
    patience
        How many seconds a warned command may go on before the job queues itself again.
    """

    words: tuple[str, ...]
    outcomes: Path
    patience: float
    _command: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> int:
        """Run the command; how it ended is written for ``gi2nnunet jobs``.

        Raises
        ------
        SystemExit
            Where it failed, so that jobs that wait for this one do not start, and nothing is
            printed after what the command said itself.
        """
        from submitit import JobEnvironment

        outcome = self.outcomes / f"{JobEnvironment().job_id}.json"
        outcome.unlink(missing_ok=True)
        self._command = subprocess.Popen(
            [sys.executable, "-m", "gi2nnunet", *self.words],
            # Slurm may warn every process of a job; a command that knows nothing of it goes on.
            preexec_fn=_pass_over_the_warning,
        )
        code = self._command.wait()
        if code >= 0:  # else it was taken down from outside, and may well be queued again
            write_json(outcome, {"exit_code": code})
        if code:
            raise SystemExit(code if code > 0 else 128 - code)
        return code

    def checkpoint(self) -> Any:
        """Say what to run when the job starts again: the same, which resumes by itself.

        submitit calls this in its signal handler and queues the job again afterwards, which ends
        it. Until then a training, which is told, has time to save and end, and any other command
        to get on.
        """
        from submitit.helpers import DelayedSubmission

        if self._command is not None:
            until = time.monotonic() + self.patience
            while _is_running(self._command.pid) and time.monotonic() < until:
                if self._command.returncode is None:
                    os.kill(self._command.pid, signal.SIGUSR2)
                time.sleep(_LOOK_SECONDS)
        return DelayedSubmission(replace(self))


def _is_running(pid: int) -> bool:
    """Return whether a child runs, without the lock that the interrupted wait for it holds."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _pass_over_the_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


_NUMBERS = ("gpus", "cpus", "warning_seconds", "most_timeouts")


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What every job asks for.

    Attributes
    ----------
    partition, account
        Slurm's; by default the cluster's own.
    time
        Limit of one job, ``[days-]hours:minutes:seconds``; one that reaches it is queued again
        and goes on from its checkpoint.
    memory
        Of one job, as ``32G``.
    gpus, cpus
        Of one job.
    warning_seconds
        How long before its limit a job is warned. A training then saves at the end of its epoch,
        and the job queues itself again, after three quarters of this time at the latest.
    most_timeouts
        How often a job may reach its limit before it fails.
    flags
        Further options of ``sbatch`` by name, without the dashes.
    """

    partition: str | None = None
    account: str | None = None
    time: str = "24:00:00"
    memory: str | None = None
    gpus: int = 1
    cpus: int = 8
    warning_seconds: int = 300
    most_timeouts: int = 100
    flags: Mapping[str, str] = field(default_factory=dict)


def read_profile(file: Path | None, *, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile.

    Parameters
    ----------
    file
        The TOML file; ``None`` for the defaults.
    overrides
        ``key=value`` texts that go before the file.

    Raises
    ------
    InputError
        For a file that cannot be read or is no TOML, unknown keys, values of the wrong type.
    """
    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{file}: cannot be read ({error.strerror}). Give another --profile."
            ) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(
                f'{file}: is no TOML: {error}. Expected lines such as partition = "gpu".'
            ) from error
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--slurm {text}: expected KEY=VALUE, such as --slurm partition=gpu.")
        found[key] = int(value) if key in _NUMBERS and value.isdecimal() else value
    known = {entry.name for entry in fields(Profile)}
    where = str(file) if file else "--slurm"
    problems = []
    for key, value in found.items():
        if key not in known:
            problems.append(
                Problem(where=where, found=f"the key {key!r}", expected=", ".join(sorted(known)))
            )
        elif (expected := _describe_wrong(key, value)) is not None:
            problems.append(Problem(where=f"{where}: {key}", found=repr(value), expected=expected))
    raise_problems(problems, remedy="Correct the profile.")
    made = Profile(**found)
    if 2 * made.warning_seconds > 60 * count_minutes(made.time):
        raise InputError(
            f"{where}: found the limit {made.time} and warning_seconds = {made.warning_seconds}; "
            "expected a warning in the second half of the time, or jobs only queue themselves "
            "again. Give more time, or fewer warning_seconds."
        )
    return made


def _describe_wrong(key: str, value: object) -> str | None:
    if key in _NUMBERS:
        least = 0 if key == "gpus" else 1
        good = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return None if good else f"a whole number from {least} on"
    if key == "flags":
        good = isinstance(value, dict) and all(isinstance(v, str) for v in value.values())
        return None if good else 'a table of texts, such as flags = {qos = "long"}'
    if key == "time":
        good = isinstance(value, str) and re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", value) is not None
        return None if good else "[days-]hours:minutes:seconds, such as 24:00:00"
    return None if isinstance(value, str) and value else "a text"


def count_minutes(time: str) -> int:
    """Return a time limit in whole minutes, at least one."""
    days, _, rest = time.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0))
