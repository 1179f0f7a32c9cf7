"""Label volumes to a submission CSV: the way back from any tool that writes NIfTI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import check_place, find_kind, read_json
from gi2nnunet.dataset.manifest import DATASET_JSON, MANIFEST, Dataset, open_dataset
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ALL_BITS, LABEL_SCHEMES, LabelMap, LabelScheme, to_bits
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.tables import Row, read_mask_table
from gi2nnunet.source.nifti import (
    NiftiIndex,
    NiftiScan,
    choose_scheme,
    read_declared_labels,
    read_labels,
    read_nifti_index,
)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What was encoded.

    Attributes
    ----------
    path
        The CSV.
    n_scans, n_rows
        How many scans and rows were encoded.
    warnings
        What was assumed or passed over, one sentence each.
    """

    path: Path
    n_scans: int
    n_rows: int
    warnings: tuple[str, ...]


def encode_labels(
    labels: Path, out: Path, *, scheme: str = "auto", sample: Path | None = None
) -> Encoded:
    """Turn label volumes into a submission.

    Parameters
    ----------
    labels
        A NIfTI file, or a folder of such named by scan id. Each is brought to slice order by the
        orientation that it states. The first slice's number comes from the manifest of the
        dataset that the folder belongs to (``manifest.json`` in it or one folder up), else it
        is 1, with a warning.
    out
        The CSV to write.
    scheme
        ``regions`` (bit-coded), ``exclusive``, or ``auto``: what the manifest says, else nnU-Net's
        ``dataset.json`` in the same places, else what the values tell.
    sample
        A sample submission whose rows and order to follow.

    Raises
    ------
    InputError
        Where there is no volume, a volume cannot be read, holds values that are no labels or has
        another number of slices than the manifest says, or nothing tells how labels are coded.
    """
    if scheme not in ("auto", *LABEL_SCHEMES):
        raise InputError(
            f"--labels: found {scheme!r}; expected auto, {' or '.join(LABEL_SCHEMES)}."
        )
    check_place(out)
    files = _find_volumes(labels)
    dataset = find_dataset_of(labels)
    warnings: list[str] = []
    if scheme == "auto":
        declared = dataset.label_scheme if dataset else _find_declared(labels)
        scheme = declared or _tell_scheme(labels, files)
        if scheme == "regions" and not declared:
            warnings.append(
                f"labels are taken as bit-coded (1, 2, 4, up to {ALL_BITS}); "
                "say --labels exclusive if they are 1, 2, 3"
            )
    numbers_of = {scan.scan_id: scan.numbers for scan in dataset.scans} if dataset else {}
    rows: list[Row] = []
    unknown = []
    problems: list[Problem] = []
    for scan_id, path in files.items():
        label_map = _read_label_file(path)
        if scheme == "exclusive":
            if label_map.max(initial=0) > len(ORGANS):
                raise InputError(
                    f"{path}: found the label {label_map.max()}; expected at most 3, as labels are "
                    "exclusive. Give --labels regions if they are bit-coded."
                )
            label_map = to_bits(label_map)
        numbers = numbers_of.get(scan_id)
        if numbers is None:
            unknown.append(scan_id)
            numbers = tuple(range(1, len(label_map) + 1))
        if dataset and len(numbers) != len(label_map):
            problems.append(
                Problem(
                    where=str(path),
                    found=f"{len(label_map)} slices",
                    expected=f"{len(numbers)}, as {dataset.folder / MANIFEST} says of {scan_id}",
                )
            )
        else:
            rows += encode_scan(scan_id, numbers, label_map)
    raise_problems(
        problems, remedy="Give label volumes of these scans, or keep them apart from that dataset."
    )
    if unknown:
        warnings.insert(
            0,
            f"no manifest tells the first slice's number of {len(unknown)} scans "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}): taken as 1",
        )
    warnings += write_submission(out, rows, sample=read_mask_table(sample) if sample else None)
    return Encoded(path=out, n_scans=len(files), n_rows=len(rows), warnings=tuple(warnings))


def _find_volumes(labels: Path) -> dict[str, Path]:
    kind = find_kind(labels)
    if kind == "file":
        return {scan_id_of(labels): labels}
    if kind != "folder":
        raise InputError(f"{labels}: no such file or folder. Give a folder of label volumes.")
    scans = read_nifti_index(labels).scans
    # A folder that holds images too, as a whole dataset does, keeps its labels apart from them.
    apart = {scan_id: scan.label for scan_id, scan in scans.items() if scan.label}
    return apart or {scan_id: scan.image for scan_id, scan in scans.items()}


def _read_label_file(path: Path) -> LabelMap:
    scan = NiftiScan(scan_id=scan_id_of(path), part="train", image=path, label=path)
    return read_labels(scan).array


def _folders_around(labels: Path) -> tuple[Path, Path]:
    """Return where to look for what describes label volumes: their folder, then one up."""
    start = labels if labels.is_dir() else labels.parent
    return start, start.absolute().parent


def _find_declared(labels: Path) -> LabelScheme | None:
    for folder in _folders_around(labels):
        if "labels" in read_json(folder / DATASET_JSON):
            return read_declared_labels(folder / DATASET_JSON)
    return None


def _tell_scheme(labels: Path, files: Mapping[str, Path]) -> LabelScheme:
    """Decide by the values of all volumes, up to the first one that settles it."""
    values: dict[str, NDArray[np.bool_]] = {}
    for scan_id, path in files.items():
        array = _read_label_file(path)
        values[scan_id] = np.bincount(array.reshape(-1), minlength=ALL_BITS + 1) > 0
        if values[scan_id][len(ORGANS) + 1 :].any():
            break
    index = NiftiIndex(path=labels, scans={}, declared_labels=None)
    return choose_scheme(index, values, asked=None, option="scheme (--labels)")


def scan_id_of(volume: Path) -> str:
    """Return the scan id that a volume's name tells, without nnU-Net's ``_0000``."""
    return volume.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")


def find_dataset_of(labels: Path) -> Dataset | None:
    """Return the dataset whose manifest lies in a volume's folder or one folder up, if any.

    Raises
    ------
    InputError
        Where the manifest is damaged or of another format; one of another program is passed over.
    """
    for folder in _folders_around(labels):
        if (folder / MANIFEST).is_file() and _is_own_manifest(folder / MANIFEST):
            return open_dataset(folder)
    return None


def _is_own_manifest(path: Path) -> bool:
    content = read_json(path)
    if content:
        return isinstance(content.get("format"), int)
    # No JSON object: own if it starts like one that was cut off, or lies in a dataset of this tool.
    try:
        start = path.read_bytes()[:100]
    except OSError:
        return False
    beside = read_json(path.parent / DATASET_JSON).get("converted_by")
    return bool(re.match(rb'\s*\{\s*"format"\s*:\s*\d', start)) or beside == "gi2nnunet"
