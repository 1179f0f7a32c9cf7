"""Verification of a whole workspace against its manifests; nothing is changed."""

from __future__ import annotations

import os
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gi2nnunet.core.errors import Check, Finding, InputError, count, name_some
from gi2nnunet.core.files import PART_SUFFIX, find_record, find_removals, show_name
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.checks import CONVERT_AGAIN, list_dataset_checks
from gi2nnunet.dataset.manifest import Dataset, open_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import (
    DIGESTS,
    FINAL_CHECKPOINT,
    IMPORT_RECORD,
    TRAINING_RECORD,
    check_digest,
    find_digests,
    find_training_record,
    list_folds,
    spell_restore,
    spell_restore_model,
)
from gi2nnunet.nnunet.process import new_log
from gi2nnunet.source.dataset import MANIFEST
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.prepared import digest_file, list_prepared_checks
from gi2nnunet.upkeep.predictions import list_prediction_checks

if TYPE_CHECKING:
    from pandas import DataFrame


def list_model_checks(
    dataset: Dataset | None, results: Path, preprocessed: Path, *, quick: bool
) -> list[Check]:
    """Return the checks of the models in nnU-Net's results folder of a dataset.

    Without the dataset, only the files themselves are checked. ``quick`` only looks at the end of a
    checkpoint.
    """
    return [
        partial(_check_fold, dataset, found.folder, preprocessed, quick=quick)
        for found in list_folds(results)
    ]


def inspect_checkpoints(results: Path, engine: Engine) -> list[Finding]:
    """Load every checkpoint as a prediction does, in a process of nnU-Net; nothing is written."""
    paths = [path for fold in list_folds(results) for path in fold.folder.glob("checkpoint*.pth")]
    if not paths:
        return []
    with TemporaryDirectory() as logs:
        done = engine.run(
            "inspect", {"checkpoints": sorted(map(str, paths))}, log=new_log(Path(logs), "inspect")
        )
    return [_name_refused(Path(path), why) for path, why in done["refused"].items()]


def _name_refused(path: Path, why: str) -> Finding:
    """Return the finding for a checkpoint from the message that refuses it."""
    restore = spell_restore(path.parent)
    remedy = restore if path.name == FINAL_CHECKPOINT else "Delete it."
    why = why.removesuffix(restore).rstrip()
    found, _, expected = why.removeprefix("found ").partition("; expected ")
    if why.startswith("found ") and expected:
        return Finding(path, found, expected.rstrip("."), remedy)
    return Finding(
        path, f"a checkpoint that is refused ({why.rstrip('.')})", "one that predicts", remedy
    )


def _check_fold(
    dataset: Dataset | None, folder: Path, preprocessed: Path, *, quick: bool
) -> list[Finding]:
    findings, restore = _check_digests(folder), spell_restore(folder)
    readable = not findings
    for path in sorted(folder.glob("checkpoint*.pth")):
        if damage := _find_damage(path, quick=quick):
            remedy = restore if path.name == FINAL_CHECKPOINT else "Delete it."
            findings.append(Finding(path, damage, "a whole checkpoint", remedy))
        elif readable and not quick:
            try:
                check_digest(path)
            except InputError as error:
                findings.append(_name_refused(path, str(error).removeprefix(f"{path}: ")))
    finished = (folder / FINAL_CHECKPOINT).is_file()
    saved = readable and bool(find_digests(folder / FINAL_CHECKPOINT))
    if saved and not finished and not (folder / "checkpoint_latest.pth").is_file():
        gone = "nothing, though it was saved"
        findings.append(Finding(folder / FINAL_CHECKPOINT, gone, "a checkpoint", restore))
    record = find_training_record(folder)
    plans_file = preprocessed / f"{folder.parent.name.split('__')[1]}.json"
    own = dataset is not None and record.get("dataset") == dataset.digest
    own_plans = bool(record) and record.get("plans") == digest_file(plans_file)
    if finished:
        findings += _compare_copies(
            folder.parent,
            plans_file=plans_file if own_plans else None,
            description=dataset.folder / DATASET_JSON if dataset is not None and own else None,
        )
    if dataset is None:
        return findings
    number = folder.name.removeprefix("fold_")
    if number.isdecimal() and int(number) >= len(dataset.splits):
        found = f"fold {number}, which nnU-Net trained on a random split that mixes patients"
        expected = f"one of the split's {count(len(dataset.splits), 'fold')}, or fold_all"
        findings.append(Finding(folder, found, expected, "Delete it."))
    if not record:
        return findings  # plain nnU-Net's
    if not own:
        findings.append(
            Finding(
                folder, "a model trained on another dataset", "the dataset as it is now", restore
            )
        )
    if plans_file.is_file() and not own_plans:
        expected = f"{plans_file} as it is now"
        findings.append(Finding(folder, "a model trained on another plan", expected, restore))
    return findings


def _check_digests(folder: Path) -> list[Finding]:
    """Check that the recorded digests of a fold's checkpoints can be read."""
    try:
        find_digests(folder / FINAL_CHECKPOINT)
    except InputError:
        expected = "the SHA-256 of the fold's checkpoints"
        remedy = "Delete it; then only PyTorch's own checksums are compared."
        return [Finding(folder / DIGESTS, "a file that is damaged", expected, remedy)]
    return []


def _compare_copies(
    model: Path, *, plans_file: Path | None, description: Path | None
) -> list[Finding]:
    """Compare a model's plans.json and dataset.json with what they are copies of, if that is known.

    Otherwise they need only be there and be JSON.
    """
    findings = []
    for path, source in ((model / "plans.json", plans_file), (model / DATASET_JSON, description)):
        copy = find_record(path, dict[str, Any])
        original = find_record(source, dict[str, Any]) if source else None
        if copy is not None:
            copy.pop("continue_training", None)  # nnU-Net's note to itself
        if copy == original if original else copy is not None:
            continue
        found = "a file that is damaged or was altered" if path.is_file() else "nothing"
        if original:
            findings.append(Finding(path, found, f"a copy of {source}", "Copy that file here."))
        else:
            of_model = spell_restore_model(model)
            findings.append(Finding(path, found, "a copy made by the training", of_model))
    return findings


def _find_damage(path: Path, *, quick: bool) -> str | None:
    """Say what is wrong with a checkpoint, which is a zip with checksums; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = None if quick else archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return f"a truncated or damaged file ({error})"
    return f"{damaged} inside it damaged" if damaged else None


@dataclass(frozen=True, kw_only=True)
class Verification(ShownAsTable):
    """Result of checking a workspace.

    ``quick`` says that only names and sizes were checked, ``notes`` what could not be checked.
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

    def to_frame(self) -> DataFrame:
        """Return a table of the findings."""
        return make_frame(Finding, self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain values."""
        findings = [finding.to_json() for finding in self.findings]
        return {"sound": self.sound, **asdict(self), "findings": findings}


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

    ``quick`` only checks names, sizes, splits and marks. Otherwise every file of the datasets is
    read (digests, label values, geometry), and every checkpoint (checksums); an engine also loads
    these, to see whether they belong to their folds and their weights are finite. The result does
    not depend on ``jobs``, the checks at once.

    Raises
    ------
    InputError
        If there is nothing to check.
    EngineError
        If the process that loads checkpoints fails.
    """
    roots = (workspace.raw, workspace.preprocessed, workspace.results)
    pattern = "Dataset[0-9][0-9][0-9]_*" if dataset_id is None else f"Dataset{dataset_id:03d}_*"
    names = workspace.list_datasets(dataset_id)
    hidden = sorted(workspace.raw.glob(f".{pattern}{PART_SUFFIX}"))
    imports = sorted(workspace.results.glob(f".{pattern}{PART_SUFFIX}"))
    if not names and not hidden and not imports:
        raise InputError(
            f"{workspace.raw}: holds no dataset{f' {dataset_id}' if dataset_id else ''} to check. "
            "Make one with: gi2nnunet convert SOURCE"
        )
    findings = _list_interrupted(hidden, imports)
    checks: list[Check] = []
    notes: list[str] = []
    opened: dict[str, Dataset] = {}
    for name in names:
        dataset, problem = _open(workspace.raw / name)
        findings += problem
        if dataset is not None:
            opened[name] = dataset
        checks += _list_checks(name, dataset, workspace, quick=quick)
        notes += _list_notes(name, dataset, workspace)
    checks += list_prediction_checks(workspace, opened, quick=quick)
    findings += run_checks(checks, jobs=jobs or count_cores(), progress=progress)
    if engine is not None and not quick:
        damaged = {finding.file for finding in findings}
        for name in names:
            refused = inspect_checkpoints(workspace.results / name, engine)
            findings += [finding for finding in refused if finding.file not in damaged]
    findings += _list_removals(*roots, workspace.predictions)
    folders = [root / name for root in roots for name in names]
    for folder in (*folders, workspace.predictions, workspace.logs):
        findings += _list_leftovers(folder)
    return Verification(
        datasets=tuple(names),
        checks=len(checks),
        quick=quick,
        findings=tuple(dict.fromkeys(findings)),  # a model's folds share files
        notes=tuple(notes),
    )


def _list_checks(
    name: str, dataset: Dataset | None, workspace: Workspace, *, quick: bool
) -> list[Check]:
    """Return the checks of a dataset, if it is there, its preprocessed data and its models."""
    preprocessed, results = workspace.preprocessed / name, workspace.results / name
    checks: list[Check] = []
    if dataset is not None:
        checks += list_dataset_checks(dataset, quick=quick)
        checks += list_prepared_checks(dataset, preprocessed, read=not quick)
    return checks + list_model_checks(dataset, results, preprocessed, quick=quick)


def _list_notes(name: str, dataset: Dataset | None, workspace: Workspace) -> list[str]:
    """Return what cannot be checked of a dataset's models, and why."""
    missing = (
        f"{name}: its dataset is missing, so plans and models cannot be compared with it; only the "
        "files of the checkpoints were checked"
    )
    return [missing] * (dataset is None) + _note_unrecorded(workspace.results / name)


def _list_interrupted(conversions: Sequence[Path], imports: Sequence[Path]) -> list[Finding]:
    """Return a finding for each hidden folder of an interrupted conversion or import."""
    again = (
        "Run that gi2nnunet convert again to complete it; the one that made the dataset that is "
        "there now removes it."
    )
    findings = [
        Finding(path, "a conversion that was interrupted", "a whole dataset", again)
        for path in conversions
    ]
    again = (
        "Run that gi2nnunet import-model again to complete it; another import of this dataset's "
        "models removes it."
    )
    findings += [
        Finding(path, "an import that was interrupted", "a whole model", again) for path in imports
    ]
    return findings


def _list_removals(*roots: Path) -> list[Finding]:
    """Return a finding for each piece that an interrupted removal left below some folders."""
    return [
        Finding(
            path,
            "what an interrupted removal left",
            "nothing",
            f"Finish it with: gi2nnunet remove {shlex.quote(str(show_name(path)))}",
        )
        for path in find_removals(*roots)
    ]


def _note_unrecorded(results: Path) -> list[str]:
    """Return sentences on the final checkpoints without a recorded digest, if there are any."""
    plain, notes = [], []
    for fold in list_folds(results):
        path = fold.folder / FINAL_CHECKPOINT
        with suppress(InputError):  # a damaged record is a finding
            if not fold.finished or find_digests(path):
                continue
            if any((fold.folder / name).is_file() for name in (TRAINING_RECORD, IMPORT_RECORD)):
                notes.append(
                    f"{path.with_name(DIGESTS)}: it is missing, so only PyTorch's own checksums "
                    f"of {FINAL_CHECKPOINT} were compared. If you doubt it: "
                    f"{spell_restore(fold.folder)}"
                )
            else:
                plain.append(str(path))
    if plain:
        notes.append(
            f"{name_some(plain)}: no SHA-256 was recorded, as plain nnU-Net saved it; only "
            "PyTorch's own checksums were compared"
        )
    return notes


def run_checks(
    checks: Sequence[Check], *, jobs: int, progress: Progress | None = None
) -> list[Finding]:
    """Run checks, ``jobs`` at once; the findings come in the order of ``checks``."""
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
    """Open a dataset; none at all is not a finding."""
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
    return None, [Finding(path, found, expected, CONVERT_AGAIN)]


def _list_leftovers(folder: Path) -> Iterator[Finding]:
    """Yield a finding for each temporary file under a folder, sorted."""
    found = "a temporary file of a run that was killed"
    expected = "none, unless a command is running here now"
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                yield Finding(Path(parent, name), found, expected, "Delete it.")
