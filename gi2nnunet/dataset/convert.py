"""Conversion of a source to an nnU-Net raw dataset, complete or not at all.

A conversion fills a hidden folder beside the final one and renames it as its last step, so every
visible dataset is complete. An interrupted run leaves the hidden folder, and the next run with the
same recipe continues there.

References
----------
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NotRequired

from gi2nnunet.core.errors import (
    EngineError,
    InputError,
    OutputError,
    count,
    name_some,
    raise_problems,
)
from gi2nnunet.core.files import PART_SUFFIX, check_room, find_record, replace_file, write_json
from gi2nnunet.core.locks import hold_dataset
from gi2nnunet.core.workers import Notice, Progress, ignore
from gi2nnunet.dataset.destination import Target, inspect_target
from gi2nnunet.dataset.manifest import (
    SAMPLE,
    SPLITS,
    TRUTH,
    Dataset,
    dataset_name_of,
    find_damaged,
    image_name_of,
    label_name_of,
    list_damaged,
    open_dataset,
)
from gi2nnunet.dataset.own_folds import OwnFolds, read_own_folds
from gi2nnunet.dataset.splits import (
    SplitOptions,
    check_folds_asked,
    check_leaks,
    find_leaking_patients,
    hold_out,
    make_folds,
    shared_patients,
)
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import (
    KNOWN_BAD_SCANS,
    LABEL_SCHEMES,
    LabelScheme,
    patient_of,
    scan_order,
)
from gi2nnunet.formats.labels import nnunet_labels, to_exclusive, warn_of_absence
from gi2nnunet.formats.submission import encode_rows, name_rows
from gi2nnunet.formats.tables import Row, Size, format_rows
from gi2nnunet.formats.volumes import encode_volume
from gi2nnunet.source.check.check import check_opened
from gi2nnunet.source.dataset import (
    FORMAT,
    MANIFEST,
    DatasetPart,
    FileEntry,
    Fold,
    ManifestContent,
    ScanEntry,
)
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.source.open import open_source
from gi2nnunet.source.prints import find_twins, pack_prints, take_prints, unpack_prints
from gi2nnunet.source.scan import RECORDED, LoadedScan, Rows, Source, SourceOptions


class ScanRecord(ScanEntry):
    """What is noted of a finished scan: its entry in the manifest, and rows that were made."""

    slices_of_8_bits: NotRequired[Any]
    rows: NotRequired[Rows]


_NOTES, _RECIPE = ".notes", "recipe.json"
_PACKAGES = ("gi2nnunet", "nnunetv2", "numpy", "nibabel", "imagecodecs", "isal")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")


def convert(
    source: Path,
    *,
    workspace: Workspace,
    dataset_id: int = 501,
    name: str = "UWGI",
    labels: LabelScheme = "regions",
    split: SplitOptions | None = None,
    options: SourceOptions | None = None,
    command: str = "",
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Dataset:
    """Convert a source to an nnU-Net raw dataset with its splits.

    Parameters
    ----------
    source
        The competition's folder or zip, a folder of NIfTI volumes, or DICOM series.
    workspace
        The dataset goes into its ``raw``, its split also into its ``preprocessed``; its
        ``results`` are only read.
    dataset_id, name
        nnU-Net's number (1 to 999) and name of the dataset.
    labels
        ``"regions"`` (bit-coded, overlaps kept) or ``"exclusive"``.
    options
        How to open the source, and how many scans to convert at the same time, on which the output
        does not depend. The patients of a DICOM source get ids from the workspace's table.
    on_notice
        Called with a sentence that says how label volumes are read.

    Returns
    -------
    Dataset
        The complete dataset. If it exists, made by the same recipe from the same files, only
        missing files are written.

    Raises
    ------
    InputError
        For a source that cannot be used, with all its problems; for options that do not fit it;
        if another dataset is in the way, or one of another recipe that a model was trained on.
        Then nothing was changed.
    OutputError
        If a file cannot be written; finished files are kept, hidden, for the next run. If another
        run works on the dataset.
    EngineError
        If there is not enough memory.
    """
    _check_asked(dataset_id, name, labels)
    options = (options or SourceOptions()).name_patients(workspace.patients)
    opened, workers = open_source(source, options), options.workers
    for note in opened.label_notes:
        (on_notice or ignore)(note)
    split = split or SplitOptions()
    plan = _plan_parts(opened, split, _find_suspects(opened, split, workers, progress))
    recipe: dict[str, Any] = {
        "source": opened.fingerprint(),
        "labels": labels,
        "parts": plan.parts,
        "splits": plan.splits,
    }
    with hold_dataset(workspace.raw, dataset_id, purpose="converting", shared=False):
        target = inspect_target(
            workspace, dataset_id=dataset_id, recipe=recipe,
            folder_name=dataset_name_of(dataset_id, name),
            find_changed=partial(_find_changed, opened, workers=workers),
            reads=(source, *(file for scan in opened.scans.values() for file in scan.files)),
        )  # fmt: skip
        same = target.manifest if target.same_recipe else None
        if same and not find_damaged(target.folder, same, read=True):
            opened.keep_ids()
            _note_stamps(target.folder / MANIFEST, same, opened)
            target.write_split(plan.splits)
            target.discard()  # of an interrupted conversion by another recipe
            return open_dataset(target.folder)
        writer = ScanWriter(
            source=opened, folder=target.hidden, notes=target.hidden / _NOTES, scheme=labels
        )
        if not target.hidden.exists():  # else part of it is already written
            check_room(workspace.raw, needed=int(recipe["source"].get("bytes", 0)))
        keep = _prepare_hidden(target, writer, recipe)
        records, wrong = write_scans(writer, plan.parts, workers=workers, progress=progress)
        if wrong:
            _undo(target, keep=keep)
            raise_problems(wrong, remedy=f"Correct these in {opened.path}, or download them again.")
        asked = {"dataset_id": dataset_id, "name": name, "labels": labels, **split.describe()}
        asked |= {name: getattr(options, name) for name in RECORDED}
        _write_tables(target, opened, plan, records, recipe=recipe, asked=asked, command=command)
        try:
            target.check_trained(open_dataset(target.hidden).digest)
        except InputError:
            target.discard()
            raise
        opened.keep_ids()
        warnings = target.put_in_place(plan.splits, notes=_NOTES)
        dataset = open_dataset(target.folder)
        return replace(dataset, warnings=(*dataset.warnings, *warnings))


def _check_asked(dataset_id: int, name: str, labels: LabelScheme) -> None:
    if not 1 <= dataset_id <= 999 or not _NAME.fullmatch(name):
        raise InputError(
            f"found dataset {dataset_id}, {name!r}; expected a number from 1 to 999 and a name of "
            "letters, digits, _ and -."
        )
    if labels not in LABEL_SCHEMES:
        raise ValueError(f"labels {labels!r}")


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The part of each scan, and why scans are left out."""

    parts: Mapping[str, DatasetPart]
    splits: list[Fold]
    left_out: Mapping[str, str]
    held_out_patients: tuple[str, ...]
    shared_patients: tuple[str, ...]
    leaking_patients: tuple[str, ...]
    warnings: tuple[str, ...]


def _find_suspects(
    opened: Source, split: SplitOptions, workers: int, progress: Progress | None
) -> dict[str, str]:
    """Return the scans that are not to be trained on, and why, if the source is to be checked."""
    if split.leave_out_suspects is None:
        return {}
    found = check_opened(opened, workers=workers, progress=progress)
    return found.list_suspect_scans(split.leave_out_suspects)


def _plan_parts(opened: Source, split: SplitOptions, suspects: Mapping[str, str]) -> _Plan:
    given = {s for s, scan in opened.scans_in("test").items() if scan.labelled}
    strata = {s: scan.stratum for s, scan in opened.scans_in("train").items()}
    known_bad = {} if split.keep_known_bad else KNOWN_BAD_SCANS
    doubtful = {s: why for s, why in {**suspects, **known_bad}.items() if s in strata}
    own = read_own_folds(split.splits, scan_ids=opened.scans) if split.splits else None
    held = _hold_out(opened, split, strata, doubtful, none_asked=bool(given))
    held = set() if own and split.holdout is None and held & own.scan_ids else held
    left_out = {s: why for s, why in doubtful.items() if s not in held}
    _require_some(opened, left_out)
    warnings = [*opened.warnings, *opened.warn_of_unknown_patients()]
    warnings += [f"{s} is left out ({why})" for s, why in left_out.items()]
    warnings += [
        f"{s} stays in the held-out test set, as the benchmark has it ({why})"
        for s, why in doubtful.items()
        if s in held
    ]
    training = {s: x for s, x in strata.items() if s not in held and s not in left_out}
    splits, notes = _split(training, split, own)
    leaking = find_leaking_patients(splits)
    warnings += notes
    if leaks := check_leaks(splits, allowed=leaking if own else ()):
        raise ValueError("; ".join(leaks))
    held |= given
    if shared := shared_patients(training, held):
        owner = "benchmark" if split.holdout == "mle-bench" else "source"
        warnings.append(
            f"training and the held-out test set share {count(len(shared), 'patient')}, as the "
            f"{owner} has it: {', '.join(shared)}"
        )
    parts: dict[str, DatasetPart] = {
        s: "holdout" if s in held else scan.part
        for s, scan in opened.scans.items()
        if s not in left_out
    }
    return _Plan(
        parts=parts,
        splits=splits,
        left_out={**opened.left_out, **left_out},
        held_out_patients=tuple(dict.fromkeys(patient_of(s) for s in opened.scans if s in held)),
        shared_patients=shared,
        leaking_patients=leaking,
        warnings=tuple(warnings),
    )


def _require_some(opened: Source, left_out: Mapping[str, str]) -> None:
    if len(left_out) == len(opened.scans):
        raise InputError(
            f"{opened.path}: every scan is left out: "
            f"{'; '.join(f'{s} ({why})' for s, why in left_out.items())}. Keep known bad ones with "
            "--keep-known-bad, and suspects without --leave-out-suspects."
        )


def _split(
    training: Mapping[str, str], split: SplitOptions, own: OwnFolds | None
) -> tuple[list[Fold], list[str]]:
    """Return the folds of the training scans, given by their strata, and warnings."""
    if own is None:
        patients = len(set(map(patient_of, training)))
        count, warning = check_folds_asked(split.folds, patients=patients)
        splits = make_folds(training, folds=count, seed=split.seed) if count else []
        return splits, [warning] if warning else []
    splits = own.fit(training, allow_leaks=split.allow_leaks)
    notes = []
    if others := sorted(own.scan_ids - training.keys(), key=scan_order):
        words = (
            "is not trained on, so it is" if len(others) == 1 else "are not trained on, so they are"
        )
        notes.append(f"{own.path}: {name_some(others)} {words} in no fold")
    if leaking := find_leaking_patients(splits):
        notes.append(
            f"{name_some(leaking)} are in training and in validation of a fold (--allow-leaks), so "
            "scores over the folds are too optimistic"
        )
    return splits, notes


def _hold_out(
    opened: Source,
    split: SplitOptions,
    scan_ids: Iterable[str],
    doubtful: Collection[str],
    *,
    none_asked: bool,
) -> set[str]:
    """Return the training scans that are held out; by default none if test scans were given."""
    benchmark = split.holdout == "mle-bench"
    if benchmark and opened.patient_order is None:
        raise InputError(
            f"{opened.path}: holdout mle-bench needs the order of patients in train.csv, which a "
            "folder of volumes does not have. Give the competition's folder or zip."
        )
    return set(
        hold_out(
            # The benchmark's test set is drawn from all scans and holds known bad ones.
            [s for s in scan_ids if benchmark or s not in doubtful],
            rule=0 if none_asked and split.holdout is None else split.holdout,
            patient_order=opened.patient_order,
            seed=split.seed,
        )
    )


def _prepare_hidden(target: Target, writer: ScanWriter, recipe: Mapping[str, Any]) -> bool:
    """Prepare the hidden folder; return whether to keep it after a failure."""
    hidden, recipe_file = target.hidden, writer.notes / _RECIPE
    as_json = json.loads(json.dumps(recipe))
    try:
        if target.manifest and target.same_recipe:  # whole once, now damaged: mend it
            shutil.rmtree(hidden, ignore_errors=True)
            target.folder.replace(hidden)
            shutil.rmtree(writer.notes, ignore_errors=True)
            writer.notes.mkdir()
            (hidden / MANIFEST).replace(writer.notes / MANIFEST)
            for record in target.manifest["scans"]:
                if not record["labelled"] or writer.source.scans[record["scan_id"]].rows:
                    write_json(writer.notes / f"{record['scan_id']}.json", record)
            write_json(recipe_file, as_json)
            return True
        if find_record(recipe_file, dict[str, Any]) == as_json:  # interrupted: go on
            (hidden / MANIFEST).unlink(missing_ok=True)
            for part in hidden.rglob(f".*{PART_SUFFIX}"):
                part.unlink()
            return True
        if hidden.exists():
            shutil.rmtree(hidden)
    except OSError as error:
        raise OutputError(
            f"{hidden}: cannot be prepared ({error.strerror or error}). Check its rights."
        ) from error
    write_json(recipe_file, as_json)
    return False


def _undo(target: Target, *, keep: bool) -> None:
    """Leave the dataset that was there, and the hidden folder only if it is to be kept."""
    if target.same_recipe:
        target.move_back(notes=_NOTES)
    elif not keep:
        target.discard()


def _write_tables(
    target: Target,
    opened: Source,
    plan: _Plan,
    records: Mapping[str, ScanRecord],
    *,
    recipe: Mapping[str, Any],
    asked: Mapping[str, Any],
    command: str,
) -> None:
    """Write everything but the volumes, the manifest last."""
    truth, sizes = _list_truth(opened, records)
    contents = {TRUTH: format_rows(truth, "segmentation", sizes=sizes)}
    if opened.sample is not None:
        contents[SAMPLE] = format_rows(opened.sample.list_rows(), "predicted")
    if plan.splits:
        contents[SPLITS] = _format_json(plan.splits)
    contents[DATASET_JSON] = _format_json(_describe(target, plan, asked["labels"]))
    for folder in ("imagesTr", "labelsTr"):  # nnU-Net expects both, even empty
        (target.hidden / folder).mkdir(parents=True, exist_ok=True)
    files = {}
    for name, text in contents.items():
        files[name] = _write_file(target.hidden / name, text.encode())
    warnings = [*plan.warnings, *_warn_of_twins(records)]
    if truth:
        warnings += warn_of_absence({organ for _, organ, text in truth if text})
    if eight_bit := [s for s, record in records.items() if "slices_of_8_bits" in record]:
        warnings.append(
            f"8-bit slices in {name_some(eight_bit)}: the competition's own are 16-bit; "
            "values are taken as they are"
        )
    manifest = {
        "format": FORMAT,
        "dataset_id": asked["dataset_id"],
        "name": target.folder.name,
        "made_by": {"python": platform.python_version(), **_versions()},
        "source": {
            "path": opened.recorded_path,
            "kind": opened.kind,
            "labels": list(opened.label_notes),
        },
        "command": command,
        "options": dict(asked),
        "recipe": dict(recipe),
        "left_out": dict(plan.left_out),
        "held_out_patients": list(plan.held_out_patients),
        "shared_patients": list(plan.shared_patients),
        "leaking_patients": list(plan.leaking_patients),
        "warnings": warnings,
        "scans": [
            {key: value for key, value in record.items() if key != "rows"}
            for record in records.values()
        ],
        "files": files,
    }
    replace_file(target.hidden / MANIFEST, _format_json(manifest))


def _describe(target: Target, plan: _Plan, scheme: LabelScheme) -> dict[str, Any]:
    """Return the content of nnU-Net's dataset.json."""
    labels, order = nnunet_labels(scheme)
    return {
        "name": target.folder.name,
        "description": "Large bowel, small bowel and stomach on abdominal MR of radiotherapy days",
        "reference": "https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation",
        "licence": "the source's own terms",
        "converted_by": "gi2nnunet",
        # nnU-Net normalises a channel of this name by z-score, scan by scan.
        "channel_names": {"0": "MRI"},
        "labels": labels,
        **({"regions_class_order": order} if order else {}),
        "numTraining": sum(part == "train" for part in plan.parts.values()),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
    }


def _warn_of_twins(records: Mapping[str, ScanRecord]) -> list[str]:
    """Return a warning of each pair of scans of different patients that have one image."""
    prints = {scan_id: unpack_prints(record["prints"]) for scan_id, record in records.items()}
    return [
        f"{one} and {other} have the same image, or nearly so, and count as different patients: "
        "the same slices may be trained on and scored. Remove one of them from the source"
        for one, other in find_twins(prints)
    ]


def _list_truth(opened: Source, records: Mapping[str, ScanRecord]) -> tuple[list[Row], list[Size]]:
    """Return the true rows of all labelled scans, and the image size of each row."""
    named: list[Row] = []
    sizes: list[Size] = []
    for scan_id, record in records.items():
        if record["labelled"]:
            first, (depth, height, width) = record["first_number"], record["shape"]
            rows = opened.scans[scan_id].rows or record["rows"]
            named += name_rows(scan_id, range(first, first + depth), rows)
            sizes += [(height, width)] * (len(named) - len(sizes))
    return named, sizes


def _format_json(content: object) -> str:
    return json.dumps(content, indent=2) + "\n"


def _versions() -> dict[str, str]:
    return {
        package: next((found.version for found in distributions(name=package)), "unknown")
        for package in _PACKAGES
    }


@dataclass(frozen=True, kw_only=True)
class ScanWriter:
    """Writes scans into the folder of a new dataset, and a note of each finished one."""

    source: Source
    folder: Path
    notes: Path
    scheme: LabelScheme

    def find_done(self, scan_id: str, part: DatasetPart) -> ScanRecord | None:
        """Return the record of a scan if an earlier run wrote all its files."""
        record = find_record(self.notes / f"{scan_id}.json", ScanRecord)
        if (
            record is None
            or record["part"] != part
            or record.get("stamp") != self.source.scans[scan_id].take_stamp()
            or list_damaged(self.folder, record["files"], read=True)
        ):
            return None
        return record

    def write(self, scan_id: str, part: DatasetPart) -> ScanRecord | tuple[object, ...]:
        """Convert one scan; return its record, or its problems, and then nothing was written."""
        try:
            stamp = self.source.scans[scan_id].take_stamp()  # before it is read
            scan = self.source.scans[scan_id].load()
        except InputError as error:
            return (error,)
        if scan.problems:
            return scan.problems
        contents = _encode(scan, scan_id, part, self.scheme)
        files = {name: _write_file(self.folder / name, data) for name, data in contents.items()}
        record: ScanRecord = {
            "scan_id": scan_id,
            "patient_id": patient_of(scan_id),
            "part": part,
            "first_number": scan.first_number,
            "shape": scan.image.shape,
            "spacing_mm": scan.spacing_mm,
            "labelled": scan.label_map is not None,
            "files": files,
            "stamp": stamp,
            "prints": pack_prints(take_prints(scan.image)),
        }
        if scan.eight_bit:
            record["slices_of_8_bits"] = scan.eight_bit
        if scan.label_map is not None and self.source.scans[scan_id].rows is None:
            record["rows"] = encode_rows(scan.label_map)
        write_json(self.notes / f"{scan_id}.json", record)
        return record


def _encode(
    scan: LoadedScan, scan_id: str, part: DatasetPart, scheme: LabelScheme
) -> dict[str, bytes]:
    """Return the content of a scan's files by their paths in the dataset."""
    volumes = {image_name_of(scan_id, part): scan.image}
    if scan.label_map is not None:
        labels = to_exclusive(scan.label_map) if scheme == "exclusive" else scan.label_map
        volumes[label_name_of(scan_id, part)] = labels
    return {
        name: encode_volume(array, spacing_mm=scan.spacing_mm) for name, array in volumes.items()
    }


def _write_file(path: Path, content: bytes) -> FileEntry:
    """Write a file; return its entry in the manifest."""
    replace_file(path, content)
    return _describe_file(content)


def _describe_file(content: bytes) -> FileEntry:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _find_changed(opened: Source, manifest: ManifestContent, *, workers: int) -> list[str]:
    """Return the scans that would be converted to other files than those of the manifest.

    A scan is only read if its source's files have other sizes or time stamps than they had.
    """

    def is_changed(record: ScanEntry) -> bool:
        scan_id, part = record["scan_id"], record["part"]
        scan = opened.scans[scan_id]
        if scan.take_stamp() == record.get("stamp"):
            return False
        loaded = scan.load()
        if loaded.problems:
            return True
        contents = _encode(loaded, scan_id, part, manifest["recipe"]["labels"])
        return record["files"] != {name: _describe_file(data) for name, data in contents.items()}

    records = manifest["scans"]
    with ThreadPoolExecutor(workers, thread_name_prefix="compare") as pool:
        changed = pool.map(is_changed, records)
        return [record["scan_id"] for record, bad in zip(records, changed, strict=True) if bad]


def _note_stamps(path: Path, manifest: ManifestContent, opened: Source) -> None:
    """Write the time stamps of unchanged files to the manifest, if they are others now."""
    stamps = {s: scan.take_stamp() for s, scan in opened.scans.items()}
    records = manifest["scans"]
    noted = [{**record, "stamp": stamps[record["scan_id"]]} for record in records]
    if noted != records:
        replace_file(path, _format_json({**manifest, "scans": noted}))


def write_scans(
    writer: ScanWriter,
    parts: Mapping[str, DatasetPart],
    *,
    workers: int,
    progress: Progress | None,
) -> tuple[dict[str, ScanRecord], list[str]]:
    """Convert all scans that no earlier run converted, ``workers`` of them at a time.

    Returns each scan's record in the order of ``parts``, and the problems of the source.
    """
    found = {s: writer.find_done(s, part) for s, part in parts.items()}
    done = {s: record for s, record in found.items() if record}
    to_do = [s for s in parts if s not in done]
    wrong: list[str] = []
    report = progress or ignore
    report(len(done), len(parts), "converting scans")
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convert")
    try:
        results = pool.map(writer.write, to_do, [parts[s] for s in to_do])
        for number, (scan_id, result) in enumerate(zip(to_do, results, strict=True), 1):
            if isinstance(result, tuple):
                wrong += map(str, result)
            else:
                done[scan_id] = result
            report(len(parts) - len(to_do) + number, len(parts), "converting scans")
    except MemoryError as error:
        raise EngineError(
            f"There is not enough memory for {count(workers, 'scan')} at the same time. Use fewer "
            "jobs."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return {scan_id: done[scan_id] for scan_id in parts if scan_id in done}, wrong
