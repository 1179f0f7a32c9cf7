"""Checks of what was made from a dataset: plans, preprocessed scans, models.

Age is told by digests, not by dates: each of our marks names what a file was made from, and it is
stale once that is no longer what lies there. What plain nnU-Net made has no marks, and is held only
to what can be seen from the files themselves.
"""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gi2nnunet.core.errors import Check, Finding
from gi2nnunet.core.files import read_json
from gi2nnunet.dataset.checks import check_file, check_split
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, TRAINING_RECORD, list_folds
from gi2nnunet.nnunet.process import new_log
from gi2nnunet.source.dataset import list_files
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.plan import (
    FINGERPRINT_MARK,
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
    """Return the checks of nnU-Net's preprocessed folder of a dataset.

    Parameters
    ----------
    dataset
        As it is now.
    folder
        The preprocessed folder; where there is none, there is nothing to check.
    quick
        Look at names and sizes alone.
    """
    if not folder.is_dir():
        return []
    checks: list[Check] = [
        partial(
            check_split,
            folder / SPLITS,
            dataset,
            remedy="Restore it with: gi2nnunet convert SOURCE",
        ),
        partial(_check_copied_description, dataset, folder),
        partial(_check_fingerprint, dataset, folder),
    ]
    marks = _list_plan_marks(folder)
    checks += [partial(_check_plans, dataset, folder, name, marks[name]) for name in marks]
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

    Parameters
    ----------
    dataset
        As it is now; ``None`` where it is not at hand: then only the files themselves are looked
        at.
    results, preprocessed
        nnU-Net's folders of the dataset.
    quick
        Look at the end of a checkpoint alone; else read it all.
    """
    return [
        partial(_check_fold, dataset, found.folder, preprocessed, quick=quick)
        for found in list_folds(results)
    ]


def inspect_checkpoints(results: Path, engine: Engine) -> list[Finding]:
    """Load every checkpoint as a prediction does, in a process of nnU-Net's; nothing is written.

    Raises
    ------
    EngineError
        Where that process fails.
    """
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


def _list_plan_marks(folder: Path) -> dict[str, dict[str, Any]]:
    """Return our mark of each plan by the plan's name."""
    marks = {}
    for path in sorted(folder.glob(f"{_MARK}*.json")):
        if path.name != FINGERPRINT_MARK and not path.name.endswith(_COMPLETE):
            marks[path.stem.removeprefix(_MARK)] = read_json(path)
    return marks


def _check_copied_description(dataset: Dataset, folder: Path) -> list[Finding]:
    path = folder / DATASET_JSON
    original = read_json(dataset.folder / DATASET_JSON)
    if not path.is_file() or not original or read_json(path) == original:
        return []
    return [_stale(path, "another description than the dataset's", PLAN_AGAIN)]


def _check_fingerprint(dataset: Dataset, folder: Path) -> list[Finding]:
    mark = folder / FINGERPRINT_MARK
    path = folder / "dataset_fingerprint.json"
    if not mark.is_file():
        return []
    if not path.is_file():
        return [_finding(path, "nothing", "nnU-Net's fingerprint of the dataset", PLAN_AGAIN)]
    if read_json(mark).get("dataset") != dataset.digest:
        return [_stale(path, "a fingerprint of another dataset", PLAN_AGAIN)]
    return []


def _check_plans(
    dataset: Dataset, folder: Path, name: str, mark: dict[str, Any]
) -> list[Finding]:  # fmt: skip
    path = folder / f"{name}.json"
    digest = digest_file(path)
    if digest is None:
        return [_finding(path, "nothing", "the plans", PLAN_AGAIN)]
    findings = []
    if digest != mark.get("plans"):
        findings.append(_finding(path, "plans that were altered", "them as planned", PLAN_AGAIN))
    if mark.get("recipe", {}).get("dataset") != dataset.digest:
        findings.append(_stale(path, "plans of another dataset", PLAN_AGAIN))
    return findings


def _list_truth_checks(dataset: Dataset, folder: Path, *, quick: bool) -> list[Check]:
    """Hold nnU-Net's copies of the training labels to the manifest."""
    return [
        partial(
            check_file, folder / name.removeprefix("labelsTr/"), described,
            quick=quick, remedy="Delete its folder, then run: gi2nnunet plan",
        )
        for name, described in list_files(dataset.manifest).items()
        if name.startswith("labelsTr/")
    ]  # fmt: skip


def _check_data(dataset: Dataset, folder: Path, marks: dict[str, dict[str, Any]]) -> list[Finding]:
    """Check one folder of preprocessed scans."""
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    if not any(name.endswith((".pkl", ".b2nd", ".npz")) for name in sizes):
        return []  # nothing of nnU-Net's
    train = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    findings = []
    lacking = sorted(scan_id for scan_id in train if not _is_whole(scan_id, sizes))
    if lacking:
        found = f"{len(train) - len(lacking)} of {len(train)} scans (not {_name_some(lacking)})"
        findings.append(_finding(folder, found, "every training scan", PLAN_AGAIN))
    strangers = sorted({name[:-4] for name in sizes if name.endswith(".pkl")} - train)
    if strangers:
        found = f"{_name_some(strangers)}, which is no training scan"
        remedy = "Delete the folder, then run: gi2nnunet plan"
        findings.append(_finding(folder, found, "training scans alone", remedy))
    findings += [
        _finding(folder / name, f"{size} bytes, a part of the file", f"{length} bytes", PLAN_AGAIN)
        for name, size in sorted(sizes.items())
        if name.endswith(".b2nd") and size and size != (length := _frame_length(folder / name))
    ]
    plans = {
        name: configuration
        for name, mark in marks.items()
        for configuration, values in mark.get("configurations", {}).items()
        if values.get("data_identifier") == folder.name
    }
    return findings + _check_completion(dataset, folder, plans, whole=not findings)


def _check_completion(
    dataset: Dataset, folder: Path, plans: dict[str, str], *, whole: bool
) -> list[Finding]:
    """Hold a data folder's mark to the dataset and to the plans that use the folder."""
    path = completion_mark(folder)
    mark = read_json(path)
    if not path.is_file():
        if plans and whole:
            found = "no mark that it is whole: preprocessing was interrupted"
            return [_finding(folder, found, path.name, PLAN_AGAIN)]
        return []  # plain nnU-Net's, or told already
    if mark.get("dataset") != dataset.digest:
        return [_stale(folder, "scans of another dataset", PLAN_AGAIN)]
    for name, configuration in plans.items():
        plans_file = folder.parent / f"{name}.json"
        if plans_file.is_file() and mark.get("preprocessing") != digest_preprocessing(
            plans_file, configuration
        ):
            found = "scans preprocessed by another plan"
            return [_finding(folder, found, f"as {plans_file.name} has it", PLAN_AGAIN)]
    return []


def _is_whole(scan_id: str, sizes: dict[str, int]) -> bool:
    """Return whether a scan has all its files, none of them empty."""
    packed = (f"{scan_id}.b2nd", f"{scan_id}_seg.b2nd")
    arrays = all(sizes.get(name) for name in packed) or sizes.get(f"{scan_id}.npz")
    return bool(arrays and sizes.get(f"{scan_id}.pkl"))


def _frame_length(path: Path) -> int:
    """Return how long a Blosc2 file says it is; 0 where it is no such file.

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
    record = read_json(folder / TRAINING_RECORD)
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
    folder: Path, record: dict[str, Any], plans_file: Path, *, finished: bool
) -> list[Finding]:
    if record.get("plans") != digest_file(plans_file):
        found, expected = "a model trained on another plan", f"{plans_file} as it is now"
        return [_finding(folder, found, expected, TRAIN_AGAIN)]
    copy = read_json(folder.parent / "plans.json")
    copy.pop("continue_training", None)  # nnU-Net's note to itself
    if finished and copy and copy != read_json(plans_file):
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


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _stale(file: Path, found: str, remedy: str) -> Finding:
    return _finding(file, found, "the dataset as it is now", remedy)


def _finding(file: Path, found: str, expected: str, remedy: str) -> Finding:
    return Finding(file=file, found=found, expected=expected, remedy=remedy)
