"""What jobs ask of a cluster: a small TOML file, overridden by options."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, Problem, raise_problems

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
