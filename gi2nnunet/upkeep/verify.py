"""Check a whole workspace against its manifests; nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import Check, Finding, InputError
from gi2nnunet.core.files import PART_SUFFIX
from gi2nnunet.core.progress import Progress, ignore
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.checks import CONVERT_AGAIN, list_dataset_checks
from gi2nnunet.dataset.manifest import Dataset, open_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.source.dataset import MANIFEST
from gi2nnunet.upkeep.checks import (
    inspect_checkpoints,
    list_model_checks,
    list_preprocessed_checks,
)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a check of a workspace came to.

    Attributes
    ----------
    datasets
        Names of the datasets that were looked at.
    checks
        How many checks were made.
    quick
        Whether names and sizes alone were looked at.
    findings
        What is wrong; empty where all is well.
    notes
        What could not be checked, one sentence each.
    """

    datasets: tuple[str, ...]
    checks: int
    quick: bool
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.findings

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {
            "sound": self.sound,
            "datasets": list(self.datasets),
            "checks": self.checks,
            "quick": self.quick,
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


def verify_workspace(
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    quick: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> Verification:
    """Find what is missing, altered, stale, half-made or left behind in a workspace.

    Parameters
    ----------
    workspace
        The workspace.
    dataset_id
        Which dataset; ``None`` for all of them.
    quick
        Look at names, sizes, splits and marks alone; else also read every file of the datasets
        (digests, label values, geometry) and every checkpoint (checksums).
    jobs
        Checks at once; ``None`` for one a core. The result does not depend on it.
    progress
        Told ``(done, total, what)``.
    engine
        What loads the checkpoints, to see whether they are of their folds and their weights finite;
        by default, and with ``quick``, nothing does.

    Raises
    ------
    InputError
        Where there is nothing to check.
    EngineError
        Where the process that loads them fails.
    """
    roots = (workspace.raw, workspace.preprocessed, workspace.results)
    pattern = "Dataset[0-9][0-9][0-9]_*" if dataset_id is None else f"Dataset{dataset_id:03d}_*"
    names = sorted({path.name for root in roots for path in root.glob(pattern) if path.is_dir()})
    hidden = sorted(workspace.raw.glob(f".{pattern}{PART_SUFFIX}"))
    if not names and not hidden:
        raise InputError(
            f"{workspace.raw}: holds no dataset{f' {dataset_id}' if dataset_id else ''} to check. "
            "Make one with: gi2nnunet convert SOURCE"
        )
    findings = [_leftover_dataset(path) for path in hidden]
    checks: list[Check] = []
    notes: list[str] = []
    for name in names:
        dataset, problem = _open(workspace.raw / name)
        preprocessed, results = workspace.preprocessed / name, workspace.results / name
        findings += problem
        if dataset is not None:
            checks += list_dataset_checks(dataset, quick=quick)
            checks += list_preprocessed_checks(dataset, preprocessed, quick=quick)
        else:
            notes.append(
                f"{name}: no dataset to hold plans and models to, so only the checkpoints' own "
                "files were checked"
            )
        checks += list_model_checks(dataset, results, preprocessed, quick=quick)
    findings += run_checks(checks, jobs=jobs or count_cores(), progress=progress)
    if engine is not None and not quick:
        damaged = {finding.file for finding in findings}
        for name in names:
            refused = inspect_checkpoints(workspace.results / name, engine)
            findings += [finding for finding in refused if finding.file not in damaged]
    folders = [root / name for root in roots for name in names]
    for folder in (*folders, workspace.predictions, workspace.logs):
        findings += [_leftover_file(path) for path in _find_part_files(folder)]
    return Verification(
        datasets=tuple(names),
        checks=len(checks),
        quick=quick,
        findings=tuple(dict.fromkeys(findings)),  # a model's folds share files
        notes=tuple(notes),
    )


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
    report = progress or ignore
    found: list[Finding] = []
    with ThreadPoolExecutor(jobs, thread_name_prefix="check") as pool:
        for done, findings in enumerate(pool.map(lambda check: check(), checks), start=1):
            found += findings
            report(done, len(checks), "checking files")
    return found


def _open(folder: Path) -> tuple[Dataset | None, list[Finding]]:
    """Open a dataset; one that is not there at all is no finding."""
    if not folder.is_dir():
        return None, []
    path = folder / MANIFEST
    if not path.is_file():
        found, expected = "nothing", "the manifest of a whole dataset"
    else:
        try:
            return open_dataset(folder), []
        except InputError as error:
            found = f"a manifest that cannot be used ({str(error).removeprefix(f'{path}: ')})"
            expected = "one of this version"
    return None, [Finding(file=path, found=found, expected=expected, remedy=CONVERT_AGAIN)]


def _leftover_dataset(path: Path) -> Finding:
    return Finding(
        file=path,
        found="a conversion that was interrupted",
        expected="a whole dataset",
        remedy="Run the same gi2nnunet convert again to complete it, or delete it.",
    )


def _leftover_file(path: Path) -> Finding:
    return Finding(
        file=path,
        found="a temporary file of a run that was killed",
        expected="none, unless a command is at work here now",
        remedy="Delete it.",
    )


def _find_part_files(folder: Path) -> Iterator[Path]:
    """Yield the temporary files under a folder, sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                yield Path(parent, name)
