"""What a job does on its node: run one command line; queue itself again when warned."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.errors import EngineError
from gi2nnunet.files import write_json


@dataclass(frozen=True, kw_only=True)
class CommandRun:
    """A command line as submitit runs it.

    Attributes
    ----------
    words
        The words after ``gi2nnunet``.
    outcomes
        Folder of the files that say how a job ended.
    """

    words: tuple[str, ...]
    outcomes: Path

    def __call__(self) -> int:
        """Run the command; how it ended is written for ``gi2nnunet jobs``.

        Raises
        ------
        EngineError
            Where it failed, so that jobs that wait for this one do not start.
        """
        from submitit import JobEnvironment

        outcome = self.outcomes / f"{JobEnvironment().job_id}.json"
        outcome.unlink(missing_ok=True)
        code = subprocess.run(
            [sys.executable, "-m", "gi2nnunet", *self.words],
            check=False,
            # Slurm warns every process of a job; this one answers for all, and what it runs goes
            # on until the job is taken down.
            preexec_fn=_pass_over_the_warning,
        ).returncode
        if code >= 0:  # else it was taken down from outside, and may well be queued again
            write_json(outcome, {"exit_code": code})
        if code:
            raise EngineError(f"gi2nnunet {self.words[0]} ended with exit code {code}")
        return code

    def checkpoint(self) -> Any:
        """Say what to run when the job starts again: the same, which resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _pass_over_the_warning() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
