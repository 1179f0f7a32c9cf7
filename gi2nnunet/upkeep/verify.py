"""Verification of a whole workspace against its manifests; nothing is changed."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gi2nnunet.core.errors import Check, Finding, InputError, name_some
from gi2nnunet.core.files import PART_SUFFIX, find_record
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.checks import CONVERT_AGAIN, check_file, compare_split, list_dataset_checks
from gi2nnunet.dataset.manifest import SPLITS, Dataset, open_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    Plans,
    TrainingRecord,
    find_training_record,
    list_folds,
)
from gi2nnunet.nnunet.process import new_log
from gi2nnunet.source.dataset import MANIFEST, list_files
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.plan import (
    FINGERPRINT_MARK,
    DataMark,
    PlanMark,
    completion_mark,
    digest_file,
    digest_preprocessing,
)

PLAN_AGAIN = "Make it again with: gi2nnunet plan"
TRAIN_AGAIN = "Train it again with: gi2nnunet train --restart"
_TRUTH_FOLDER = "gt_segmentations"
_MARK, _COMPLETE = "gi2nnunet_", ".complete.json"
_FRAME_MAGIC, _FRAME_LENGTH = slice(2, 10), slice(16, 24)  # of a Blosc2 frame, length big-endian


def list_preprocessed_checks(dataset: Dataset, folder: Path, *, quick: bool) -> list[Check]:
    """Return the checks of nnU-Net's preprocessed folder of a dataset; none if it is missing.

    ``quick`` only looks at names and sizes.
    """
    if not folder.is_dir():
        return []
    remedy = "Restore it with: gi2nnunet convert SOURCE"
    checks: list[Check] = [
        partial(compare_split, folder / SPLITS, dataset, remedy=remedy),
        partial(_check_copied_description, dataset, folder),
        partial(_check_fingerprint, dataset, folder),
    ]
    marks = _list_plan_marks(folder)
    checks += [partial(_check_plan_file, dataset, folder, name, marks[name]) for name in marks]
    for data in sorted(path for path in folder.iterdir() if path.is_dir()):
        if data.name == _TRUTH_FOLDER:
            checks += _list_truth_checks(dataset, data, quick=quick)
        else:
            checks.append(partial(_check_data, dataset, data, marks))
    return checks


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
    return [
        _finding(
            Path(path), f"a checkpoint that is refused ({why})", "one that predicts",
            TRAIN_AGAIN if Path(path).name == FINAL_CHECKPOINT else "Delete it.",
        )
        for path, why in done["refused"].items()
    ]  # fmt: skip


def _list_plan_marks(folder: Path) -> dict[str, PlanMark | None]:
    """Return our mark of each plan by the plan's name; ``None`` for a damaged one."""
    marks = {}
    for path in sorted(folder.glob(f"{_MARK}*.json")):
        if path.name != FINGERPRINT_MARK and not path.name.endswith(_COMPLETE):
            marks[path.stem.removeprefix(_MARK)] = find_record(path, PlanMark)
    return marks


def _check_copied_description(dataset: Dataset, folder: Path) -> list[Finding]:
    path = folder / DATASET_JSON
    original = find_record(dataset.folder / DATASET_JSON, dict[str, Any])
    if not path.is_file() or not original or find_record(path, dict[str, Any]) == original:
        return []
    return [_stale(path, "another description than the dataset's", PLAN_AGAIN)]


def _check_fingerprint(dataset: Dataset, folder: Path) -> list[Finding]:
    mark = folder / FINGERPRINT_MARK
    path = folder / "dataset_fingerprint.json"
    if not mark.is_file():
        return []
    if not path.is_file():
        return [_finding(path, "nothing", "nnU-Net's fingerprint of the dataset", PLAN_AGAIN)]
    if (find_record(mark, DataMark) or {}).get("dataset") != dataset.digest:
        return [_stale(path, "a fingerprint of another dataset", PLAN_AGAIN)]
    return []


def _check_plan_file(
    dataset: Dataset, folder: Path, name: str, mark: PlanMark | None
) -> list[Finding]:  # fmt: skip
    path = folder / f"{name}.json"
    digest = digest_file(path)
    if digest is None:
        return [_finding(path, "nothing", "the plans", PLAN_AGAIN)]
    findings = []
    if mark is None or digest != mark["plans"]:
        findings.append(_finding(path, "plans that were altered", "them as planned", PLAN_AGAIN))
    if mark is None or mark["recipe"].get("dataset") != dataset.digest:
        findings.append(_stale(path, "plans of another dataset", PLAN_AGAIN))
    return findings


def _list_truth_checks(dataset: Dataset, folder: Path, *, quick: bool) -> list[Check]:
    """Compare nnU-Net's copies of the training labels with the manifest."""
    return [
        partial(
            check_file, folder / name.removeprefix("labelsTr/"), described,
            quick=quick, remedy="Delete its folder, then run: gi2nnunet plan",
        )
        for name, described in list_files(dataset.manifest).items()
        if name.startswith("labelsTr/")
    ]  # fmt: skip


def _check_data(dataset: Dataset, folder: Path, marks: dict[str, PlanMark | None]) -> list[Finding]:
    """Check one folder of preprocessed scans."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    if not any(name.endswith((".pkl", ".b2nd", ".npz")) for name in sizes):
        return []  # nothing of nnU-Net's
    train = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    findings = []
    missing = sorted(scan_id for scan_id in train if not _is_whole(scan_id, sizes))
    if missing:
        found = f"{len(train) - len(missing)} of {len(train)} scans (not {name_some(missing)})"
        findings.append(_finding(folder, found, "every training scan", PLAN_AGAIN))
    strangers = sorted({name[:-4] for name in sizes if name.endswith(".pkl")} - train)
    if strangers:
        found = f"{name_some(strangers)}, not among the training scans"
        remedy = "Delete the folder, then run: gi2nnunet plan"
        findings.append(_finding(folder, found, "only training scans", remedy))
    findings += [
        _finding(folder / name, f"{size} bytes, a part of the file", f"{length} bytes", PLAN_AGAIN)
        for name, size in sorted(sizes.items())
        if name.endswith(".b2nd") and size and size != (length := _frame_length(folder / name))
    ]
    plans = {
        name: configuration
        for name, mark in marks.items()
        for configuration, values in (mark["configurations"] if mark else {}).items()
        if values["data_identifier"] == folder.name
    }
    return findings + _check_completion(dataset, folder, plans, whole=not findings)


def _check_completion(
    dataset: Dataset, folder: Path, plans: dict[str, str], *, whole: bool
) -> list[Finding]:
    """Compare a data folder's mark with the dataset and with the plans that use the folder."""
    path = completion_mark(folder)
    mark = find_record(path, DataMark) or {}
    if not path.is_file():
        if plans and whole:
            found = "no mark that it is whole: preprocessing was interrupted"
            return [_finding(folder, found, path.name, PLAN_AGAIN)]
        return []  # plain nnU-Net's, or reported already
    if mark.get("dataset") != dataset.digest:
        return [_stale(folder, "scans of another dataset", PLAN_AGAIN)]
    for name, configuration in plans.items():
        plans_file = folder.parent / f"{name}.json"
        if not find_record(plans_file, Plans):
            continue  # reported already
        if mark.get("preprocessing") != digest_preprocessing(plans_file, configuration):
            found = "scans preprocessed by another plan"
            return [_finding(folder, found, f"as {plans_file.name} says", PLAN_AGAIN)]
    return []


def _is_whole(scan_id: str, sizes: dict[str, int]) -> bool:
    """Return whether a scan has all its files, none of them empty."""
    packed = (f"{scan_id}.b2nd", f"{scan_id}_seg.b2nd")
    arrays = all(sizes.get(name) for name in packed) or sizes.get(f"{scan_id}.npz")
    return bool(arrays and sizes.get(f"{scan_id}.pkl"))


def _frame_length(path: Path) -> int:
    """Return how long a Blosc2 file says it is; 0 if it is another kind of file.

    References
    ----------
    https://github.com/Blosc/c-blosc2/blob/main/README_CFRAME_FORMAT.rst
    """
    try:
        with path.open("rb") as file:
            start = file.read(_FRAME_LENGTH.stop)
    except OSError:
        return 0
    return int.from_bytes(start[_FRAME_LENGTH], "big") if start[_FRAME_MAGIC] == b"b2frame\0" else 0


def _check_fold(
    dataset: Dataset | None, folder: Path, preprocessed: Path, *, quick: bool
) -> list[Finding]:
    findings = []
    for path in sorted(folder.glob("checkpoint*.pth")):
        if damage := _find_damage(path, quick=quick):
            remedy = TRAIN_AGAIN if path.name == FINAL_CHECKPOINT else "Delete it."
            findings.append(_finding(path, damage, "a whole checkpoint", remedy))
    finished = (folder / FINAL_CHECKPOINT).is_file()
    if finished:
        findings += [
            _finding(folder.parent / name, "nothing", "a copy made by the training", TRAIN_AGAIN)
            for name in ("plans.json", DATASET_JSON)
            if not (folder.parent / name).is_file()
        ]
    if dataset is None:
        return findings
    number = folder.name.removeprefix("fold_")
    if number.isdecimal() and int(number) >= len(dataset.splits):
        found = f"fold {number}, which nnU-Net trained on a random split that mixes patients"
        expected = f"one of the split's {len(dataset.splits)} folds, or fold_all"
        findings.append(_finding(folder, found, expected, "Delete it."))
    record = find_training_record(folder)
    if not record:
        return findings  # plain nnU-Net's
    if record.get("dataset") != dataset.digest:
        findings.append(_stale(folder, "a model trained on another dataset", TRAIN_AGAIN))
    plans_name = folder.parent.name.split("__")[1]
    plans_file = preprocessed / f"{plans_name}.json"
    if plans_file.is_file():
        findings += _compare_plans(folder, record, plans_file, finished=finished)
    return findings


def _compare_plans(
    folder: Path, record: TrainingRecord, plans_file: Path, *, finished: bool
) -> list[Finding]:
    if record.get("plans") != digest_file(plans_file):
        found, expected = "a model trained on another plan", f"{plans_file} as it is now"
        return [_finding(folder, found, expected, TRAIN_AGAIN)]
    copy = find_record(folder.parent / "plans.json", dict[str, Any]) or {}
    copy.pop("continue_training", None)  # nnU-Net's note to itself
    if finished and copy and copy != find_record(plans_file, dict[str, Any]):
        found, expected = "plans that were altered", f"a copy of {plans_file}"
        remedy = "Copy that file here."
        return [_finding(folder.parent / "plans.json", found, expected, remedy)]
    return []


def _find_damage(path: Path, *, quick: bool) -> str | None:
    """Say what is wrong with a checkpoint, which is a zip with checksums; nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = None if quick else archive.testzip()
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        return f"a truncated or damaged file ({error})"
    return f"{damaged} inside it damaged" if damaged else None


def _stale(file: Path, found: str, remedy: str) -> Finding:
    return _finding(file, found, "the dataset as it is now", remedy)


def _finding(file: Path, found: str, expected: str, remedy: str) -> Finding:
    return Finding(file=file, found=found, expected=expected, remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class Verification:
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
    names = sorted({path.name for root in roots for path in root.glob(pattern) if path.is_dir()})
    hidden = sorted(workspace.raw.glob(f".{pattern}{PART_SUFFIX}"))
    if not names and not hidden:
        raise InputError(
            f"{workspace.raw}: holds no dataset{f' {dataset_id}' if dataset_id else ''} to check. "
            "Make one with: gi2nnunet convert SOURCE"
        )
    again = "Run the same gi2nnunet convert again to complete it, or delete it."
    findings = [
        _finding(path, "a conversion that was interrupted", "a whole dataset", again)
        for path in hidden
    ]
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
                f"{name}: its dataset is missing, so plans and models cannot be compared with it; "
                "only the files of the checkpoints were checked"
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
        findings += _list_leftovers(folder)
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
    return None, [_finding(path, found, expected, CONVERT_AGAIN)]


def _list_leftovers(folder: Path) -> Iterator[Finding]:
    """Yield a finding for each temporary file under a folder, sorted."""
    found = "a temporary file of a run that was killed"
    expected = "none, unless a command is running here now"
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if name.startswith(".") and name.endswith(PART_SUFFIX):
                yield _finding(Path(parent, name), found, expected, "Delete it.")
