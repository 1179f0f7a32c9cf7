"""Slurm jobs: their profile, their order, how they are submitted and recorded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import find_record, parse_record, read_record, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.upkeep.jobs import JobRecord, JobStatus, State, read_jobs, record_path

_ACTIVE = ("waiting", "running")
# Of the time between the warning and the end, for saving; the rest is for queueing the job again.
_PATIENT_PART = 0.75


@dataclass(frozen=True, kw_only=True)
class Submission:
    """New jobs with Slurm's ids, and the states of jobs that were there already, by name."""

    submitted: dict[str, str]
    kept: dict[str, State]


def submit(jobs: Sequence[Job], *, profile: Profile, folder: Path, mark: str) -> Submission:
    """Submit what is missing of a run; each job comes after those it waits for.

    Jobs that finished, run or wait are kept. A job is submitted again if it failed, was stopped, or
    its results are gone, and so is what finished after such a job. Jobs of one array go to Slurm as
    one. ``folder`` is on a file system that all nodes see. ``mark`` says what the jobs work on: a
    finished job of another mark does not count.

    Raises
    ------
    InputError
        If Slurm is missing or refuses a job, or a job of the same name with other words waits or
        runs.
    """
    _require_slurm()
    submitted: dict[str, str] = {}
    with hold(folder / "submitting", purpose="submitting jobs"):
        states = {status.name: status for status in read_jobs(folder)}
        _drop_former(jobs, states, folder=folder)
        todo, kept = _list_missing(jobs, states, folder=folder, mark=mark)
        active = {name: states[name].job_id for name, state in kept.items() if state in _ACTIVE}
        for _, group in groupby(todo, key=lambda job: job.array or job.name):
            together = list(group)
            after = [active[name] for name in together[0].after if name in active]
            job_ids = _submit_together(together, profile=profile, folder=folder, after=after)
            for job, job_id in zip(together, job_ids, strict=True):
                about = {"name": job.name, "job_id": job_id, "array": job.array}
                write_json(record_path(folder, job.name), {**about, **_identify(job, mark)})
                submitted[job.name] = active[job.name] = job_id
    return Submission(submitted=submitted, kept=kept)


def _require_slurm() -> None:
    if find_spec("submitit") is None:
        raise InputError(
            "--on slurm: found no submitit. Install it: pip install 'gi2nnunet[slurm]'."
        )
    if missing := [tool for tool in ("sbatch", "squeue", "srun") if shutil.which(tool) is None]:
        raise InputError(
            f"--on slurm: found no {' and no '.join(missing)} here. "
            "Run it on a machine of the cluster that submits jobs, or leave out --on slurm."
        )


def _list_missing(
    jobs: Sequence[Job], states: Mapping[str, JobStatus], *, folder: Path, mark: str
) -> tuple[list[Job], dict[str, State]]:
    """Return the jobs to submit, and the states of those that are kept."""
    todo: list[Job] = []
    kept: dict[str, State] = {}
    for job in jobs:
        status = states.get(job.name)
        record = find_record(record_path(folder, job.name), JobRecord) if status else None
        same = record is not None and _identify(job, mark).items() <= record.items()
        again = {other.name for other in todo} & set(job.after)
        gone = job.leaves and not any(path.exists() for path in job.leaves)
        if status and record and status.state in _ACTIVE and not same:
            raise _busy(status, record)
        if status and (
            status.state in _ACTIVE
            or (same and status.state == "finished" and not again and not gone)
        ):
            kept[job.name] = status.state
        else:
            todo.append(job)
    return todo, kept


def _identify(job: Job, mark: str) -> dict[str, Any]:
    return {"words": list(job.words), "mark": mark}


def _busy(status: JobStatus, record: JobRecord) -> InputError:
    return InputError(
        f"{status.name}: job {status.job_id} is {status.state} with other options: "
        f"gi2nnunet {' '.join(record['words'])}. Wait for it, or stop it with "
        f"scancel {status.job_id}."
    )


def _drop_former(
    jobs: Sequence[Job], states: Mapping[str, JobStatus], *, folder: Path
) -> None:  # fmt: skip
    """Forget the jobs of an array that is now submitted in fewer parts."""
    arrays = {job.array for job in jobs if job.array}
    for name in states.keys() - {job.name for job in jobs}:
        record = find_record(record_path(folder, name), JobRecord)
        if record and record.get("array") in arrays:
            if states[name].state in _ACTIVE:
                raise _busy(states[name], record)
            record_path(folder, name).unlink(missing_ok=True)


def _submit_together(
    jobs: Sequence[Job], *, profile: Profile, folder: Path, after: Iterable[str]
) -> list[str]:
    """Submit one job, or several as an array; return Slurm's ids."""
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    outcomes = folder / "outcomes"
    outcomes.mkdir(parents=True, exist_ok=True)
    profile = profile if jobs[0].on_gpu else profile.without_gpus()
    executor = SlurmExecutor(folder=folder / "logs", max_num_timeout=profile.most_timeouts)
    more: dict[str, Any] = {**profile.flags, "requeue": True}
    if waits_for := ":".join(after):
        more |= {"dependency": f"afterok:{waits_for}", "kill_on_invalid_dep": "yes"}
    asked: dict[str, Any] = {
        "job_name": f"gi2nnunet_{jobs[0].array or jobs[0].name}",
        "time": count_minutes(profile.time),
        "cpus_per_task": profile.cpus,
        # Slurm 22.05 to 23.02 do not pass it on from sbatch: the job would get one core.
        "srun_args": [f"--cpus-per-task={profile.cpus}"],
        "signal_delay_s": profile.warning_seconds,
        "stderr_to_stdout": True,
        "additional_parameters": {key.replace("-", "_"): value for key, value in more.items()},
        "partition": profile.partition,
        "account": profile.account,
        "mem": profile.memory,
        "gpus_per_node": profile.gpus or None,
    }
    executor.update_parameters(**{key: value for key, value in asked.items() if value is not None})
    patience = profile.warning_seconds * _PATIENT_PART
    runs = [
        CommandRun(
            words=job.words, places=_write_places(job, folder), outcomes=outcomes, patience=patience
        )
        for job in jobs
    ]  # fmt: skip
    try:
        with executor.batch():
            submitted = [executor.submit(run) for run in runs]
    except FailedJobError as error:
        raise InputError(
            f"Slurm refused the job {jobs[0].name}: {error}\n"
            "Change the profile or --slurm KEY=VALUE, and run the same command again."
        ) from error
    return [str(job.job_id) for job in submitted]


def _write_places(job: Job, folder: Path) -> Path | None:
    """Write what a job's words leave out to a file that only its owner may read."""
    if not job.places:
        return None
    path = folder / "places" / f"{job.name}.json"
    write_json(path, job.places, private=True)
    return path


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job: the words after ``gi2nnunet``, under a name that is unique in the run.

    ``places`` are words that are not to be seen, such as a path with a patient's name, by what is
    in the words in place of them. The job waits until the jobs in ``after`` have succeeded. Jobs of
    one ``array`` run side by side and wait for the same. If there are ``leaves`` and all of them
    are gone, a finished job has to run again. Jobs that are not ``on_gpu`` ask for none.
    """

    name: str
    words: tuple[str, ...]
    places: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    array: str = ""
    leaves: tuple[Path, ...] = ()
    on_gpu: bool = True


def make_training_graph(
    *,
    configurations: Sequence[str],
    folds: Sequence[int | str],
    n_folds: int,
    plan_words: Sequence[str],
    train_words: Sequence[str],
    score_words: Sequence[str],
    plan_on_gpu: bool = False,
    list_leaves: Callable[[str, int | str], Iterable[Path]] = lambda *_: (),
) -> tuple[Job, ...]:
    """Return the jobs of a whole training: a plan, every training, then the score.

    There is one training for each configuration and fold, and a score only if all ``n_folds`` folds
    of the split are trained. The words are command lines without ``--config`` and ``--fold``.
    ``list_leaves`` lists what a configuration's training on a fold may leave.
    """
    chosen = [word for name in configurations for word in ("--config", name)]
    plan = Job(name="plan", words=(*plan_words, *chosen), on_gpu=plan_on_gpu)
    trainings = [
        Job(
            name=f"train_{configuration}_fold_{fold}",
            words=(*train_words, "--config", configuration, "--fold", str(fold)),
            after=("plan",),
            leaves=tuple(list_leaves(configuration, fold)),
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
    """Return the jobs of a prediction: an array of parts, and one that joins them.

    The parts leave their rows in the folder ``kept`` for the last job, which removes it and writes
    the file ``result`` without computing anything. ``part_words`` is a command line without
    ``--part``.
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
        on_gpu=False,
    )
    return (*shards, join)


_LOOK_SECONDS = 0.2
_NUMBERS = ("gpus", "cpus", "warning_seconds", "most_timeouts")


@dataclass(kw_only=True)
class CommandRun:
    """A command line as submitit runs it.

    ``places`` is the file of what the words leave out, which is removed after success. ``outcomes``
    is the folder of the files that say how a job ended. A warned command may go on for ``patience``
    seconds before the job queues itself again.
    """

    words: tuple[str, ...]
    places: Path | None = None
    outcomes: Path
    patience: float
    _command: subprocess.Popen[bytes] | None = field(default=None, init=False, repr=False)

    def __call__(self) -> int:
        """Run the command, and record how it ended for ``gi2nnunet jobs``.

        If it failed, this process exits too, so that jobs that wait for it do not start.
        """
        from submitit import JobEnvironment

        outcome = self.outcomes / f"{JobEnvironment().job_id}.json"
        outcome.unlink(missing_ok=True)
        self._command = subprocess.Popen(
            [sys.executable, "-m", "gi2nnunet", *self._fill_in()],
            # Slurm may warn every process of a job; a command that ignores the warning goes on.
            preexec_fn=_ignore_the_warning,
        )
        code = self._command.wait()
        if code >= 0:  # else it was killed from outside, and may be queued again
            write_json(outcome, {"exit_code": code})
        if code == 0 and self.places:
            self.places.unlink(missing_ok=True)
        if code:
            raise SystemExit(code if code > 0 else 128 - code)
        return code

    def _fill_in(self) -> list[str]:
        remedy = "Run the same command with --on slurm again."
        places = read_record(self.places, dict[str, str], remedy=remedy) if self.places else {}
        return [places.get(word, word) for word in self.words]

    def checkpoint(self) -> Any:
        """Return what to run when the job starts again: the same, which resumes by itself.

        submitit calls this in its signal handler, then queues the job again, which ends it. Until
        then a training, which is warned, has time to save, and any other command to go on.
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


def _ignore_the_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _check_text(text: str) -> str:
    if not text or not text.isprintable():  # a new line would become one of the job's script
        raise ValueError("a text without control characters")
    return text


def _check_time(text: str) -> str:
    if re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", text, re.ASCII) is None:
        raise ValueError("[days-]hours:minutes:seconds, such as 24:00:00")
    return text


_Text = Annotated[str, AfterValidator(_check_text)]
_Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What every job asks for, as ``sbatch`` takes it; ``time`` and ``memory`` are of one job.

    A job that reaches its limit is queued again and goes on from its checkpoint, ``most_timeouts``
    times at most. It is warned ``warning_seconds`` before: a training then saves at the end of its
    epoch, and the job queues itself again, after three quarters of this time at the latest.
    ``flags`` are further options of ``sbatch``, without the dashes.
    """

    partition: _Text | None = None
    account: _Text | None = None
    time: Annotated[str, AfterValidator(_check_time)] = "24:00:00"
    memory: _Text | None = None
    gpus: Annotated[int, Field(ge=0)] = 1
    cpus: _Positive = 8
    warning_seconds: _Positive = 300
    most_timeouts: _Positive = 100
    flags: dict[_Text, _Text] = field(default_factory=dict)

    def without_gpus(self) -> Profile:
        """Return the profile of a job that computes on no GPU: its options for GPUs are gone."""
        flags = {
            key: left
            for key, value in self.flags.items()
            if "gpu" not in key and (left := _drop_gpus(key, value))
        }
        return replace(self, gpus=0, flags=flags)


def _drop_gpus(key: str, value: str) -> str:
    """Return a flag's value without GPUs among its generic resources, such as ``gpu:a100:1``."""
    if key.replace("_", "-") == "gres-flags":
        return ""
    if key.replace("_", "-") not in ("gres", "tres-per-task", "tres-bind", "tres-freq"):
        return value
    left = [part for part in value.split(",") if not re.match(r"(gres[/:])?gpu\b", part.strip())]
    return ",".join(left)


def read_profile(file: Path | None, *, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile from a TOML file, if any; ``key=value`` texts override its values."""
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
                f'{file}: is not TOML: {error}. Expected lines such as partition = "gpu".'
            ) from error
    made, changed = _make_profile(found, str(file)), set[str]()
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--slurm {text}: expected KEY=VALUE, such as --slurm partition=gpu.")
        found[key] = int(value) if key in _NUMBERS and value.isdecimal() else value
        made = _make_profile(found, "--slurm")
        changed.add(key)
    where = "--slurm" if file is None or changed & {"time", "warning_seconds"} else file
    if 2 * made.warning_seconds > 60 * count_minutes(made.time):
        raise InputError(
            f"{where}: found the limit {made.time} and warning_seconds = {made.warning_seconds}; "
            "expected a warning in the second half of the time, as jobs would only queue "
            "themselves again. Give more time, or fewer warning_seconds."
        )
    return made


def _make_profile(values: Mapping[str, Any], where: str) -> Profile:
    known = sorted(entry.name for entry in fields(Profile))
    remedy = "Correct it." if where == "--slurm" else "Correct the profile."
    problems = [
        Problem(where=where, found=f"the key {key!r}", expected=", ".join(known))
        for key in sorted(values.keys() - set(known))
    ]
    raise_problems(problems, remedy=remedy)
    return parse_record(json.dumps(values, default=str), Profile, where=where, remedy=remedy)


def count_minutes(time: str) -> int:
    """Return a time limit in whole minutes, at least one."""
    days, _, rest = time.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return max(1, int(days or 0) * 1440 + hours * 60 + minutes + (seconds > 0))
