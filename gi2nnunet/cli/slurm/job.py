"""What a job does on its node: run one command line; queue itself again when warned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gi2nnunet.core.files import write_json

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
