"""What a check of files found, and many such checks run side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be.

    Attributes
    ----------
    file
        The file or folder.
    found, expected
        What it is and what it should be.
    remedy
        What to do, one sentence.
    """

    file: Path
    found: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        """Return the finding as one line."""
        return f"{self.file}: found {self.found}; expected {self.expected}. {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """Return the finding as plain values."""
        return {
            "file": str(self.file),
            "found": self.found,
            "expected": self.expected,
            "remedy": self.remedy,
        }


Check = Callable[[], list[Finding]]


def run_checks(
    checks: Sequence[Check], *, jobs: int, progress: Progress | None = None
) -> list[Finding]:
    """Run checks in threads; the findings come in the order of ``checks``, whatever ``jobs``.

    Parameters
    ----------
    checks
        Each looks at its own files alone.
    jobs
        How many run at once.
    progress
        Told ``(done, total, what)``.
    """
    if jobs < 1:
        raise ValueError(f"jobs {jobs}")
    report = progress or (lambda done, total, what: None)
    found: list[Finding] = []
    with ThreadPoolExecutor(jobs, thread_name_prefix="check") as pool:
        for done, findings in enumerate(pool.map(lambda check: check(), checks), start=1):
            found += findings
            report(done, len(checks), "checking files")
    return found
