"""Checks of a converted dataset: its files are those of its manifest, and are sound.

Nothing is changed. Each check reads a few files of its own, so that checks can run in parallel.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import Check, Finding, InputError, count, name_some
from gi2nnunet.core.files import find_kind, find_record, is_stray
from gi2nnunet.core.seals import hash_file
from gi2nnunet.dataset.manifest import SPLITS, Dataset
from gi2nnunet.dataset.splits import check_leaks, shared_patients
from gi2nnunet.formats.ids import ORGANS, LabelScheme
from gi2nnunet.formats.labels import ALL_BITS, nnunet_labels
from gi2nnunet.formats.volumes import Volume, is_nifti_name, read_volume
from gi2nnunet.source.dataset import MANIFEST, DatasetScan, FileEntry, Fold, list_files
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import RECORDED, SourceOptions

CONVERT_AGAIN = "Make it again with: gi2nnunet convert SOURCE"
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_SAME_MM = 1e-3  # NIfTI keeps geometry in 32-bit numbers


def list_dataset_checks(dataset: Dataset, *, quick: bool) -> list[Check]:
    """Return the checks of one dataset.

    ``quick`` checks only names and sizes; else every file is read: digests, voxels, geometry.
    """
    of_scans = {entry["scan_id"]: entry["files"] for entry in dataset.manifest["scans"]}
    return [
        *([] if quick else [partial(_check_source, dataset)]),
        *(
            partial(_check_scan, dataset, scan, of_scans[scan.scan_id], quick=quick)
            for scan in dataset.scans
        ),
        *(
            partial(check_file, dataset.folder / name, described, quick=quick)
            for name, described in dataset.manifest["files"].items()
        ),
        partial(find_strangers, dataset),
        partial(_check_description, dataset),
        partial(_check_parts, dataset),
        partial(compare_split, dataset.folder / SPLITS, dataset, remedy=CONVERT_AGAIN),
    ]


def check_file(
    path: Path, described: FileEntry, *, quick: bool, remedy: str = CONVERT_AGAIN
) -> list[Finding]:
    """Compare a file with the manifest: its size and, unless ``quick``, its SHA-256."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            return [Finding(path, "no file of that name", "a file", remedy)]
        if size != described["bytes"]:
            return [Finding(path, f"{size} bytes", f"{described['bytes']} bytes", remedy)]
        if quick or "sha256" not in described:
            return []
        digest = hash_file(path)
    except FileNotFoundError:
        return [Finding(path, "nothing", f"a file of {described['bytes']} bytes", remedy)]
    except OSError as error:
        return [Finding(path, f"that it cannot be read ({error})", "a readable file", remedy)]
    if digest == described["sha256"]:
        return []
    found = f"other content (SHA-256 {digest[:16]})"
    return [Finding(path, found, f"SHA-256 {described['sha256'][:16]}, as recorded", remedy)]


def compare_split(path: Path, dataset: Dataset, *, remedy: str) -> list[Finding]:
    """Compare a copy of the split with the manifest's folds; find patients on both sides of one.

    A dataset without a split has no such file.
    """
    expected = list(dataset.splits)
    if not path.is_file():
        if not expected:
            return []
        found = "nothing (nnU-Net would draw a random split that mixes patients)"
        return [Finding(path, found, f"the split's {count(len(expected), 'fold')}", remedy)]
    splits = find_record(path, list[Fold])
    if splits is None:
        return [Finding(path, "no list of folds", "nnU-Net's splits_final.json", remedy)]
    findings = [
        Finding(path, leak, "each patient on one side only, each scan validating once", remedy)
        for leak in check_leaks(splits, allowed=dataset.leaking_patients)
    ]
    train = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    for number, fold in enumerate(splits):
        strangers = sorted({*fold["train"], *fold["val"]} - train)
        if strangers:
            found = f"fold {number}: {name_some(strangers)}, not among the training scans"
            findings.append(Finding(path, found, "only training scans of the dataset", remedy))
    if splits != expected:
        found = f"{count(len(splits), 'fold')}, not as in the manifest"
        own = f"To use these folds: gi2nnunet convert SOURCE --splits {shlex.quote(str(path))}"
        expected_folds = f"the manifest's {count(len(expected), 'fold')}"
        findings.append(Finding(path, found, expected_folds, f"{remedy} {own}"))
    return findings


def _check_source(dataset: Dataset) -> list[Finding]:
    """Find files of the source, if it is still there, that changed after the conversion."""
    path = Path(dataset.manifest["source"]["path"])
    options: Mapping[str, Any] = dataset.manifest["options"]
    if not path.is_absolute() or find_kind(path) is None:
        return []
    remedy = "Compare it, and convert again if it differs, with: gi2nnunet convert SOURCE"
    expected = "the files that the dataset was made of"
    try:
        given = {name: options[name] for name in RECORDED if name in options}
        source = open_source(path, SourceOptions(**given))
        former, now = dataset.manifest["recipe"]["source"], source.fingerprint()
        stamps = {s: scan.take_stamp() for s, scan in source.scans.items()}
    except InputError as error:
        return [Finding(path, f"a source that cannot be used ({error})", expected, remedy)]
    if any(former[key] != now[key] for key in former.keys() & now.keys() if "sha256" in key):
        return [Finding(path, "files of other names, sizes, contents or rows", expected, remedy)]
    scans = dataset.manifest["scans"]
    changed = [s["scan_id"] for s in scans if s.get("stamp") != stamps.get(s["scan_id"])]
    if not changed:
        return []
    found = f"other time stamps of the files of {name_some(changed)}"
    return [Finding(path, found, expected, remedy)]


def find_shared_patients(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the patients both in training and in the held-out set: the intended ones, and others.

    The manifest names the intended ones: MLE-bench's hold-out has them, and so has a NIfTI source
    with test scans of patients that it trains on.
    """
    of_part = {
        part: [scan.scan_id for scan in dataset.scans if scan.part == part]
        for part in ("train", "holdout")
    }
    shared = shared_patients(of_part["train"], of_part["holdout"])
    named = set(dataset.manifest.get("shared_patients", ()))
    return (
        tuple(patient for patient in shared if patient in named),
        tuple(patient for patient in shared if patient not in named),
    )


def warn_of_leaking_folds(dataset: Dataset) -> list[str]:
    """Return a warning for scores if the folds are those of ``--allow-leaks`` and do leak."""
    if not dataset.leaking_patients:
        return []
    return [
        f"the folds of {dataset.name} leak, as convert --allow-leaks let them: "
        f"{name_some(dataset.leaking_patients)} are in training and in validation of a fold, so "
        "scores over the folds are too optimistic"
    ]


def _check_parts(dataset: Dataset) -> list[Finding]:
    """Find patients in training and in the held-out set, except for those that are intended."""
    _, unexpected = find_shared_patients(dataset)
    if not unexpected:
        return []
    found = f"{name_some(unexpected)} in training and in the held-out set"
    path = dataset.folder / MANIFEST
    return [Finding(path, found, "each patient on one side only", CONVERT_AGAIN)]


def _check_description(dataset: Dataset) -> list[Finding]:
    """Compare nnU-Net's dataset.json with the manifest."""
    path = dataset.folder / DATASET_JSON
    described = find_record(path, dict[str, Any]) or {}
    labels, order = nnunet_labels(dataset.label_scheme)
    if path.is_file() and (
        described.get("labels") != labels or described.get("regions_class_order") != order
    ):
        found = f"labels {described.get('labels')}"
        return [Finding(path, found, f"those of the scheme {dataset.label_scheme}", CONVERT_AGAIN)]
    return []


def find_strangers(dataset: Dataset) -> list[Finding]:
    """Find volumes that are not in the manifest: nnU-Net trains on every file there."""
    known = set(list_files(dataset.manifest))
    findings = []
    for folder in _FOLDERS:
        try:
            names = sorted(entry.name for entry in (dataset.folder / folder).iterdir())
        except OSError:
            continue  # its missing files are reported one by one
        found, expected = "a file that is not in the manifest", "only the dataset's own files"
        findings += [
            Finding(dataset.folder / folder / name, found, expected, "Move it elsewhere.")
            for name in names
            if f"{folder}/{name}" not in known and (is_nifti_name(name) or not is_stray(name))
        ]
    return findings


def _check_scan(
    dataset: Dataset, scan: DatasetScan, files: Mapping[str, FileEntry], *, quick: bool
) -> list[Finding]:
    findings = []
    for name, described in files.items():
        findings += check_file(dataset.folder / name, described, quick=quick)
    if quick:
        return findings
    image_path = dataset.image_path(scan.scan_id)
    image, problems = _read(image_path)
    findings += problems
    if image is not None:
        findings += _compare_with_manifest(image_path, image, scan)
    if scan.labelled:
        label_path = dataset.label_path(scan.scan_id)
        labels, problems = _read(label_path)
        findings += problems
        if labels is not None:
            findings += _check_values(label_path, labels.array, dataset.label_scheme)
        if image is not None and labels is not None:
            findings += _compare_geometry(image_path, image, label_path, labels)
    return findings


def _read(path: Path) -> tuple[Volume | None, list[Finding]]:
    if not path.is_file():
        return None, []  # already reported
    try:
        return read_volume(path), []
    except InputError as error:
        found = f"an unreadable volume ({str(error).removeprefix(f'{path}: ')})"
        return None, [Finding(path, found, "a NIfTI volume", CONVERT_AGAIN)]


def _compare_with_manifest(path: Path, image: Volume, scan: DatasetScan) -> list[Finding]:
    same = image.array.shape == scan.shape and np.allclose(
        image.spacing_mm, scan.spacing_mm, rtol=0, atol=_SAME_MM
    )
    if same:
        return []
    found = _describe(image.array.shape, image.spacing_mm)
    expected = f"{_describe(scan.shape, scan.spacing_mm)}, as in the manifest"
    return [Finding(path, found, expected, CONVERT_AGAIN)]


def _check_values(path: Path, labels: NDArray[Any], scheme: LabelScheme) -> list[Finding]:
    highest = ALL_BITS if scheme == "regions" else len(ORGANS)
    outside = [value for value in np.unique(labels).tolist() if value not in range(highest + 1)]
    if not outside:
        return []
    found = f"the values {name_some(list(map(str, outside)))}"
    expected = f"0 to {highest} (labels {scheme})"
    return [Finding(path, found, expected, CONVERT_AGAIN)]


def _compare_geometry(
    image_path: Path, image: Volume, label_path: Path, labels: Volume
) -> list[Finding]:
    import nibabel  # a third of a second that other commands do not need

    if image.array.shape != labels.array.shape:
        found, expected = f"{labels.array.shape} voxels", f"{image.array.shape}, like its image"
        return [Finding(label_path, found, expected, CONVERT_AGAIN)]
    # nnU-Net pairs voxels by their order in the files, so that has to agree as well.
    of_image, of_labels = (nibabel.load(path).affine for path in (image_path, label_path))
    if np.allclose(of_image, of_labels, rtol=0, atol=_SAME_MM):
        return []
    found = f"an affine {np.round(of_labels, 3).tolist()}"
    expected = f"its image's, {np.round(of_image, 3).tolist()}"
    return [Finding(label_path, found, expected, CONVERT_AGAIN)]


def _describe(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    voxels = " x ".join(map(str, shape))
    return f"{voxels} voxels of {' x '.join(f'{value:g}' for value in spacing_mm)} mm"
