"""Preprocessed folder of a dataset: our marks beside nnU-Net's files, and what is not whole there.

Small JSON marks record from which dataset the fingerprint and the plans were made, and of each file
of a folder of preprocessed scans its size, SHA-256 and time stamp: nnU-Net itself trains on a
half-filled or outdated folder without warning.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

from pydantic import PositiveFloat
from typing_extensions import TypedDict

from gi2nnunet.core.errors import Check, Finding, InputError, count, name_some
from gi2nnunet.core.files import Count, find_record, write_json
from gi2nnunet.core.seals import Seal, find_changed, hash_file, renew_seals, seal_files
from gi2nnunet.dataset.checks import check_file, compare_split
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.nnunet.models import Plans
from gi2nnunet.nnunet.presets import spell_preset
from gi2nnunet.source.dataset import FileEntry, list_files
from gi2nnunet.source.nifti import DATASET_JSON

FINGERPRINT, TRUTH_FOLDER = "dataset_fingerprint.json", "gt_segmentations"
FINGERPRINT_MARK = "gi2nnunet_fingerprint.json"
PLAN_AGAIN = "Make it again with: gi2nnunet plan"
"""The start of every remedy that ``plan`` is; ``train`` begins with the same."""

_MARK, _COMPLETE = "gi2nnunet_", ".complete.json"
_PREPROCESSING_OF_PLANS = (
    "image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel",
)  # fmt: skip
_PREPROCESSING_OF_CONFIGURATION = (
    "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm",
    "resampling_fn_data", "resampling_fn_data_kwargs",
    "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip
_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")  # of a preprocessed scan
_MOST_NAMED = 20


class PlannedEntry(TypedDict):
    """What a plan's mark says of a configuration, in nnU-Net's words."""

    data_identifier: str
    batch_size: Count
    patch_size: tuple[Count, ...]
    spacing: tuple[PositiveFloat, ...]


class PlanMark(TypedDict):
    """Our mark beside nnU-Net's plans: from what they were made, their digest, what they hold."""

    recipe: dict[str, Any]
    plans: str | None
    configurations: dict[str, PlannedEntry]


class FingerprintMark(TypedDict):
    """Our mark of nnU-Net's fingerprint: of which dataset it is, and its digest.

    ``modified_ns`` are the time stamps of the dataset's files when their content was compared with
    the manifest, ``organs`` the organs that each training scan has. ``sha256`` is that of the other
    keys: no other file would show that they were altered.
    """

    dataset: str
    fingerprint: str | None
    modified_ns: dict[str, int]
    organs: dict[str, list[str]]
    sha256: NotRequired[str]


class DataMark(TypedDict):
    """Our mark of a folder of preprocessed scans that was whole: the files in it."""

    dataset: str
    preprocessing: str
    files: dict[str, Seal]


@dataclass(frozen=True, kw_only=True)
class PlannedConfiguration:
    """What nnU-Net planned for one configuration, such as ``2d``.

    Patch size (voxels) and target spacing have their slowest axis first.
    """

    name: str
    data_folder: Path
    batch_size: int
    patch_size: tuple[int, ...]
    spacing_mm: tuple[float, ...]


def plan_mark(folder: Path, plans_name: str) -> Path:
    """Return our mark of plans in a preprocessed folder."""
    return folder / f"{_MARK}{plans_name}.json"


def completion_mark(folder: Path) -> Path:
    """Return the file that records that a data folder is complete."""
    # Beside the data folder: nnU-Net reads every file inside as a scan.
    return folder.with_name(f"{_MARK}{folder.name}{_COMPLETE}")


def read_planned(folder: Path, plans_name: str) -> dict[str, PlannedConfiguration]:
    """Return what was planned under a name in a preprocessed folder; empty if nothing was."""
    mark = find_record(plan_mark(folder, plans_name), PlanMark)
    return {
        name: PlannedConfiguration(
            name=name,
            data_folder=folder / values["data_identifier"],
            batch_size=values["batch_size"],
            patch_size=values["patch_size"],
            spacing_mm=values["spacing"],
        )
        for name, values in (mark["configurations"] if mark else {}).items()
    }


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """State of a folder of preprocessed scans.

    Attributes
    ----------
    mark
        ``None`` if there is none of this dataset, plan and preprocessing: all has to be made.
    changed
        Files that are missing or damaged.
    strangers
        Files that are not of a training scan; nnU-Net trains on them, or fails.
    """

    mark: DataMark | None
    changed: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Return whether it can be trained on."""
        return self.mark is not None and not self.changed and not self.strangers

    @property
    def scans_to_make(self) -> tuple[str, ...]:
        """Return the scans with a missing or damaged file."""
        return tuple(dict.fromkeys(map(_scan_of, self.changed)))


def inspect_data(
    folder: Path, dataset: Dataset, *, preprocessing: str, read: bool = False
) -> PreparedData:
    """Compare a folder of preprocessed scans with its mark, as :func:`find_changed` does.

    ``preprocessing`` is :func:`digest_preprocessing` of the plan to train by.
    """
    mark = find_record(completion_mark(folder), DataMark)
    if (
        mark is None
        or mark["dataset"] != dataset.digest
        or mark["preprocessing"] != preprocessing
        or mark["files"].keys() != set(name_data_files(_training_scans(dataset)))
    ):
        return PreparedData(mark=None)
    return PreparedData(
        mark=mark,
        changed=tuple(find_changed(folder, mark["files"], read=read)),
        strangers=tuple(sorted(_list_names(folder) - mark["files"].keys())),
    )


def seal_data(
    folder: Path, dataset: Dataset, *, preprocessing: str, kept: Mapping[str, Seal] | None = None
) -> None:
    """Write the mark of a folder of preprocessed scans that is whole.

    ``kept`` are seals of files that are known to be as they were; only their time stamps are read
    again.
    """
    known = dict(kept or {})
    new = [name for name in name_data_files(_training_scans(dataset)) if name not in known]
    files = renew_seals(folder, known) | seal_files(folder, new)
    mark = {"dataset": dataset.digest, "preprocessing": preprocessing, "files": files}
    write_json(completion_mark(folder), mark)


def name_data_files(scan_ids: Iterable[str]) -> list[str]:
    """Return the names of nnU-Net's files of preprocessed scans."""
    return [f"{scan_id}{ending}" for scan_id in scan_ids for ending in _ENDINGS]


def _scan_of(name: str) -> str:
    return name.removesuffix(".pkl").removesuffix(".b2nd").removesuffix("_seg")


def _training_scans(dataset: Dataset) -> list[str]:
    return [scan.scan_id for scan in dataset.scans if scan.part == "train"]


def _list_names(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        return set()


def seal_source(dataset: Dataset, modified_ns: Mapping[str, int]) -> dict[str, Seal]:
    """Return the seals of the dataset's files that training depends on, from its manifest."""
    return {
        name: {
            "bytes": described["bytes"],
            "sha256": described["sha256"],
            "modified_ns": modified_ns.get(name, 0),
        }
        for name, described in list_files(dataset.manifest).items()
        if "sha256" in described and name.startswith(("imagesTr/", "labelsTr/", DATASET_JSON))
    }


def find_fingerprint(folder: Path) -> FingerprintMark | None:
    """Return the mark of the fingerprint; ``None`` if it is missing, damaged or altered."""
    mark = find_record(folder / FINGERPRINT_MARK, FingerprintMark)
    return mark if mark and mark.get("sha256") == _digest_mark(mark) else None


def mark_fingerprint(folder: Path, mark: FingerprintMark) -> None:
    """Write the mark of the fingerprint."""
    write_json(folder / FINGERPRINT_MARK, {**mark, "sha256": _digest_mark(mark)})


def _digest_mark(mark: FingerprintMark) -> str:
    content = {key: value for key, value in mark.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_truth_copies(dataset: Dataset) -> dict[str, FileEntry]:
    """Return what the manifest says of the labels that nnU-Net copies, by the copies' names."""
    return {
        name.removeprefix("labelsTr/"): described
        for name, described in list_files(dataset.manifest).items()
        if name.startswith("labelsTr/")
    }


def digest_preprocessing(plans_file: Path, configuration: str) -> str:
    """Return a short digest of everything in a plan that preprocessed scans depend on.

    Network, batch and patch size are left out: plans that differ in these share a data folder.
    """
    plans: dict[str, Any] = {**(find_record(plans_file, Plans, remedy=f"{PLAN_AGAIN}") or {})}
    configured = plans.get("configurations", {}).get(configuration, {})
    values = [
        *(plans.get(key) for key in _PREPROCESSING_OF_PLANS),
        *(configured.get(key) for key in _PREPROCESSING_OF_CONFIGURATION),
    ]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def digest_file(path: Path) -> str | None:
    """Return a short digest of a file; ``None`` if it cannot be read."""
    try:
        return hash_file(path)[:16]
    except OSError:
        return None


def list_prepared_checks(
    dataset: Dataset,
    folder: Path,
    *,
    read: bool,
    plans_name: str | None = None,
    configurations: Collection[str] | None = None,
) -> list[Check]:
    """Return the checks of the preprocessed folder of a dataset; none if it is missing.

    What plain nnU-Net made has no marks and is not checked.

    Parameters
    ----------
    read
        Read files, even if size and time stamp are those that were recorded.
    plans_name, configurations
        Only these, which are needed for a training; by default all that is marked.
    """
    if not folder.is_dir():
        return []
    marks = list_plan_marks(folder)
    if plans_name is not None:
        marks = {plans_name: marks.get(plans_name)}
    used: dict[str, list[tuple[str, str]]] = {}
    unmarked = _find_unmarked(folder, marks) if plans_name is None else []
    for name, mark in marks.items():
        for key, values in (mark["configurations"] if mark else {}).items():
            if configurations is None or key in configurations:
                used.setdefault(values["data_identifier"], []).append((name, key))
    made = [name for name in used if completion_mark(folder / name).is_file()]
    some = next(iter(used[made[0]] if made else ()), None)
    remedy = spell_plan(some[0], [some[1]]) if some else PLAN_AGAIN
    convert_again = "Restore it by running the same gi2nnunet convert again."
    checks: list[Check] = [partial(compare_split, folder / SPLITS, dataset, remedy=convert_again)]
    if marks:
        checks.append(partial(_check_description, dataset, folder, remedy))
        checks.append(partial(_check_fingerprint, dataset, folder, remedy))
    checks += [partial(_check_plans, dataset, folder, name, marks[name]) for name in marks]
    checks += [lambda: unmarked]
    if made:
        checks += [
            partial(check_file, folder / TRUTH_FOLDER / name, entry, quick=not read, remedy=remedy)
            for name, entry in list_truth_copies(dataset).items()
        ]
    return checks + [
        partial(
            _check_data, dataset, folder / name, plans, read=read,
            needed=configurations is not None,
        )
        for name, plans in used.items()
    ]  # fmt: skip


def spell_plan(plans_name: str, configurations: Iterable[str]) -> str:
    """Return the remedy that makes plans, and scans preprocessed by them, again."""
    words = [*spell_preset(plans_name), *(f"--config {name}" for name in configurations)]
    return " ".join([PLAN_AGAIN, *words])


def list_plan_marks(folder: Path) -> dict[str, PlanMark | None]:
    """Return our marks in a preprocessed folder by the plan's name; ``None`` for a damaged one."""
    return {
        path.stem.removeprefix(_MARK): find_record(path, PlanMark)
        for path in sorted(folder.glob(f"{_MARK}*.json"))
        if path.name != FINGERPRINT_MARK and not path.name.endswith(_COMPLETE)
    }


def _find_unmarked(folder: Path, marks: Mapping[str, PlanMark | None]) -> list[Finding]:
    """Return a finding for each marked folder of scans with plans that have no mark."""
    findings = []
    for path in sorted(folder.glob(f"{_MARK}*{_COMPLETE}")):
        data = path.name.removeprefix(_MARK).removesuffix(_COMPLETE)
        preset, ending, configuration = data.partition("Plans_")
        if not any(name.startswith(f"{preset}Plans") for name in marks) and ending:
            remedy = spell_plan(f"{preset}Plans", [configuration])
            mark = plan_mark(folder, f"{preset}Plans")
            findings.append(Finding(mark, "nothing", f"a mark, as {path.name} is there", remedy))
    return findings


def _check_description(dataset: Dataset, folder: Path, remedy: str) -> list[Finding]:
    path = folder / DATASET_JSON
    original = find_record(dataset.folder / DATASET_JSON, dict[str, Any])
    if not original or find_record(path, dict[str, Any]) == original:
        return []
    return [_stale(path, "another description than the dataset's, or none", remedy)]


def _check_fingerprint(dataset: Dataset, folder: Path, remedy: str) -> list[Finding]:
    path = folder / FINGERPRINT
    mark = find_fingerprint(folder)
    digest = digest_file(path)
    if digest is None:
        return [Finding(path, "nothing", "nnU-Net's fingerprint of the dataset", remedy)]
    if mark is None:
        found = "nothing, or a mark that was altered"
        return [Finding(folder / FINGERPRINT_MARK, found, "the mark of the fingerprint", remedy)]
    if mark["dataset"] != dataset.digest:
        return [_stale(path, "a fingerprint of another dataset", remedy)]
    if mark["fingerprint"] != digest:
        return [Finding(path, "a fingerprint that was altered", "it as extracted", remedy)]
    return []


def _check_plans(
    dataset: Dataset, folder: Path, name: str, mark: PlanMark | None
) -> list[Finding]:  # fmt: skip
    path = folder / f"{name}.json"
    made = [
        key
        for key, values in (mark["configurations"] if mark else {}).items()
        if completion_mark(folder / values["data_identifier"]).is_file()
    ]
    remedy = spell_plan(name, made)
    digest = digest_file(path)
    if digest is None:
        return [Finding(path, "nothing", "the plans", remedy)]
    findings = []
    if mark is None or digest != mark["plans"]:
        findings.append(Finding(path, "plans that were altered", "them as planned", remedy))
    if mark is not None and digest == mark["plans"] and not has_same_sizes(path, mark):
        altered = Finding(
            plan_mark(folder, name), "sizes that were altered", f"those of {path}", remedy
        )
        findings.append(altered)
    if mark is None or mark["recipe"].get("dataset") != dataset.digest:
        findings.append(_stale(path, "plans of another dataset", remedy))
    return findings


def has_same_sizes(plans_file: Path, mark: PlanMark) -> bool:
    """Return whether a mark says of each configuration what the plans say, if they say it."""
    planned = (find_record(plans_file, dict[str, Any]) or {}).get("configurations", {})
    return (
        all(
            shown == planned.get(name, {}).get(key, shown)
            for name, values in mark["configurations"].items()
            for key, value in values.items()
            if (shown := list(value) if isinstance(value, tuple) else value)
        )
        and mark["configurations"].keys() <= planned.keys()
    )


def _check_data(
    dataset: Dataset,
    folder: Path,
    plans: list[tuple[str, str]],
    *,
    read: bool,
    needed: bool,
) -> list[Finding]:
    """Check one folder of preprocessed scans, which plans use: by name and configuration."""
    remedy = spell_plan(plans[0][0], [plans[0][1]])
    path = completion_mark(folder)
    if not path.is_file() and not needed and not _list_names(folder):
        return []  # planned, and not preprocessed so far
    mark = find_record(path, DataMark)
    if mark is None:
        found = "no mark that it is whole: preprocessing was interrupted, or the mark is damaged"
        return [Finding(folder, found, path.name, remedy)]
    if mark["dataset"] != dataset.digest:
        return [_stale(folder, "scans of another dataset", remedy)]
    for name, configuration in plans:
        plans_file = folder.parent / f"{name}.json"
        if find_record(plans_file, Plans) and mark["preprocessing"] != digest_preprocessing(
            plans_file, configuration
        ):
            found = "scans preprocessed by another plan"
            return [Finding(folder, found, f"as {plans_file.name} says", remedy)]
    state = inspect_data(folder, dataset, preprocessing=mark["preprocessing"], read=read)
    if state.mark is None:
        return [Finding(path, "a mark of other files", "one of all training scans", remedy)]
    return [*_name_changes(folder, state, remedy), *name_strangers(folder, state)]


def _name_changes(folder: Path, state: PreparedData, remedy: str) -> Iterator[Finding]:
    files = state.mark["files"] if state.mark else {}
    if len(state.changed) > _MOST_NAMED:
        found = f"{len(state.changed)} of {count(len(files), 'file')} missing or damaged"
        found += f" ({name_some(state.changed)})"
        yield Finding(folder, found, "every training scan as preprocessed", remedy)
        return
    for name in state.changed:
        entry: FileEntry = {"bytes": files[name]["bytes"], "sha256": files[name]["sha256"]}
        yield from check_file(folder / name, entry, quick=False, remedy=remedy)


def name_strangers(folder: Path, state: PreparedData) -> Iterator[Finding]:
    """Give a finding for each file that is not of a preprocessed training scan."""
    for name in state.strangers:
        found = "a file that is not of a training scan"
        expected = "only preprocessed scans: nnU-Net trains on every file there, or fails"
        yield Finding(folder / name, found, expected, "Delete it, or move it elsewhere.")


def require_prepared(dataset: Dataset, folder: Path, plans_name: str, configuration: str) -> None:
    """Refuse to train on what is not whole; contents are read only if a time stamp has changed.

    Raises
    ------
    InputError
        Naming every file, and what to do.
    """
    checks = list_prepared_checks(
        dataset, folder, read=False, plans_name=plans_name, configurations=[configuration]
    )
    if findings := dict.fromkeys(str(finding) for check in checks for finding in check()):
        raise InputError("\n".join(findings))


def _stale(file: Path, found: str, remedy: str) -> Finding:
    return Finding(file, found, "the dataset as it is now", remedy)
