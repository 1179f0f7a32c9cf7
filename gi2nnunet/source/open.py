"""Source of either kind, opened: what its scans are and how to load one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem
from gi2nnunet.formats.ids import ORGANS, patient_of, slice_id
from gi2nnunet.formats.labels import ALL_BITS, LabelMap, LabelScheme
from gi2nnunet.formats.tables import MaskTable, read_mask_table
from gi2nnunet.source.archive import Source
from gi2nnunet.source.competition import (
    Part,
    Scan,
    ScanIndex,
    build_scans,
    find_root,
    group_images,
    read_index,
)
from gi2nnunet.source.nifti import (
    choose_scheme,
    describe_file,
    read_labels,
    read_nifti_index,
    read_scan,
)
from gi2nnunet.source.slices import decode_image, decode_label_map

Rows = Sequence[Sequence[str]]  # for each slice the RLE texts in the order of ORGANS


@dataclass(frozen=True, kw_only=True)
class LoadedScan:
    """One scan in memory.

    Attributes
    ----------
    image
        ``(z, y, x)`` in slice order, values untouched.
    label_map
        ``(z, y, x)`` uint8, bit-coded; ``None`` without truth.
    spacing_mm
        Voxel spacing ``(z, y, x)`` in mm.
    first_number
        The competition's number of slice z = 0.
    problems
        What is wrong with it; then the arrays mean nothing.
    eight_bit
        How many slices were 8-bit.
    """

    image: NDArray[Any]
    label_map: LabelMap | None
    spacing_mm: tuple[float, float, float]
    first_number: int
    problems: tuple[Problem, ...] = ()
    eight_bit: int = 0


@dataclass(frozen=True, kw_only=True)
class SourceScan:
    """What is known of a scan before it is loaded.

    Attributes
    ----------
    part
        Where the source puts it.
    labelled
        Whether truth is known; a labelled test scan is held out.
    stratum
        What is to be spread evenly over the folds.
    """

    part: Part
    labelled: bool
    stratum: str


@dataclass(frozen=True, kw_only=True)
class OpenSource:
    """A source of either kind, ready to be converted.

    Attributes
    ----------
    path, kind
        Where and what it is.
    fingerprint
        What tells it from another one; a key that only one of two fingerprints has says nothing.
    scans
        By scan id, in numeric order of patient and day.
    patient_order
        Training patients in order of first appearance in ``train.csv``; ``None`` without one.
    sample
        The content of ``sample_submission.csv`` where there is one.
    warnings
        What was passed over.
    load
        Reads one scan.
    rows
        The competition's rows of a labelled scan; ``None`` where they are to be made from its
        label map.
    """

    path: Path
    kind: Literal["folder", "zip", "nifti"]
    fingerprint: Mapping[str, Any]
    scans: Mapping[str, SourceScan]
    patient_order: tuple[str, ...] | None
    sample: str | None
    warnings: tuple[str, ...]
    load: Callable[[str], LoadedScan]
    rows: Callable[[str], Rows | None]


def open_competition(path: Path, *, allow_missing: bool) -> OpenSource:
    """Open a folder or zip in the competition's layout.

    Raises
    ------
    InputError
        As :func:`~gi2nnunet.source.competition.read_index`, and for a scan in both ``train/`` and
        ``test/``.
    """
    index = read_index(path, allow_missing=allow_missing)
    both = [scan_id for scan_id in index.train if scan_id in index.test]
    if both:
        raise InputError(
            f"{path}: found {', '.join(both[:5])} in train/ and in test/; expected each scan once. "
            "Remove one of the two."
        )
    every = {**index.train, **index.test}

    def load(scan_id: str) -> LoadedScan:
        scan = every[scan_id]
        label_map, refused = decode_label_map(scan) if scan.texts is not None else (None, ())
        decoded = decode_image(index.source, scan)
        return LoadedScan(
            image=decoded.image,
            label_map=label_map,
            spacing_mm=scan.spacing_mm,
            first_number=scan.numbers[0],
            problems=decoded.problems + refused,
            eight_bit=decoded.eight_bit,
        )

    return OpenSource(
        path=path,
        kind="zip" if index.source.is_zip else "folder",
        fingerprint=_fingerprint_competition(index),
        scans={
            scan_id: SourceScan(
                part=scan.part,
                labelled=scan.texts is not None,
                stratum=f"{scan.height} x {scan.width}, organs {_organs_in(scan.texts or ())}",
            )
            for scan_id, scan in every.items()
        },
        patient_order=index.patient_order,
        sample=_format_sample(index.sample) if index.sample is not None else None,
        warnings=index.warnings,
        load=load,
        rows=lambda scan_id: every[scan_id].texts,
    )


def _organs_in(texts: Rows) -> str:
    return "".join(str(organ) for organ in range(len(ORGANS)) if any(row[organ] for row in texts))


def _fingerprint_competition(index: ScanIndex) -> dict[str, Any]:
    scans = [*index.train.values(), *index.test.values()]
    paths = [path for scan in scans for path in scan.paths]
    sizes = index.source.sizes(paths)
    listing, rows = hashlib.sha256(), hashlib.sha256("\n".join(index.patient_order).encode())
    position = 0
    for scan in scans:
        listing.update(f"{scan.part} {scan.scan_id}\n".encode())
        for path in scan.paths:
            listing.update(f"{path.rpartition('/')[2]} {sizes[position]}\n".encode())
            position += 1
        for texts in scan.texts or ():
            rows.update("\n".join(["", *texts]).encode())
    if index.sample is not None:
        rows.update(_format_sample(index.sample).encode())
    fingerprint = {
        "scans": len(scans),
        "images": len(paths),
        "bytes": sum(sizes),
        "names_and_sizes_sha256": listing.hexdigest(),
        "rows_sha256": rows.hexdigest(),
    }
    checksums = index.source.digest_checksums(paths)
    return fingerprint if checksums is None else {**fingerprint, "zip_crc_sha256": checksums}


def _format_sample(table: MaskTable) -> str:
    rows = zip(
        table.scan.tolist(), table.number.tolist(), table.organ.tolist(), table.texts, strict=True
    )
    lines = [
        f"{slice_id(table.scan_ids[scan], number)},{ORGANS[organ]},{text}"
        for scan, number, organ, text in rows
    ]
    return "\n".join(["id,class,predicted", *lines, ""])


def open_nifti(path: Path, *, source_labels: LabelScheme | None, workers: int) -> OpenSource:
    """Open a folder of NIfTI volumes.

    Raises
    ------
    InputError
        As :func:`~gi2nnunet.source.nifti.read_nifti_index`, and where the coding of the labels
        cannot be told.
    """
    index = read_nifti_index(path)
    labelled = [scan_id for scan_id, scan in index.scans.items() if scan.label]
    scheme: LabelScheme | None = None
    if labelled:
        with ThreadPoolExecutor(workers) as pool:
            found = pool.map(
                lambda scan_id: _values_in(read_labels(index.scans[scan_id]).array), labelled
            )
            values = dict(zip(labelled, found, strict=True))
        scheme = choose_scheme(index, values, asked=source_labels)

    def load(scan_id: str) -> LoadedScan:
        image, label_map, problems = read_scan(index.scans[scan_id], scheme=scheme)
        return LoadedScan(
            image=image.array,
            label_map=label_map,
            spacing_mm=image.spacing_mm,
            first_number=1,
            problems=problems,
        )

    files = [file for scan in index.scans.values() for file in (scan.image, scan.label) if file]
    listing = hashlib.sha256()
    for file in files:
        described = describe_file(file)
        name = file.relative_to(path).as_posix()
        listing.update(f"{name} {described['bytes']} {described['end']}\n".encode())
    return OpenSource(
        path=path,
        kind="nifti",
        fingerprint={
            "scans": len(index.scans),
            "files": len(files),
            "names_and_sizes_sha256": listing.hexdigest(),
            "labels": scheme,
        },
        scans={
            scan_id: SourceScan(part=scan.part, labelled=scan.label is not None, stratum="")
            for scan_id, scan in index.scans.items()
        },
        patient_order=None,
        sample=None,
        warnings=_warn_of_unknown_patients(index.scans),
        load=load,
        rows=lambda scan_id: None,
    )


def _warn_of_unknown_patients(scan_ids: Collection[str]) -> tuple[str, ...]:
    """Warn of ids that do not tell the patient: two scans of one could part in a split."""
    alone = [scan_id for scan_id in scan_ids if patient_of(scan_id) == scan_id]
    if not alone:
        return ()
    return (
        f"{len(alone)} of {len(scan_ids)} scan ids do not have the form <patient>_day<N> "
        f"({', '.join(alone[:3])}{', ...' if len(alone) > 3 else ''}): each counts as a patient of "
        "its own, so scans of one patient may be trained on and validated or held out. Rename to "
        "<patient>_day<N> where patients have several scans",
    )


def _values_in(labels: NDArray[Any]) -> NDArray[np.bool_]:
    return np.bincount(labels.reshape(-1), minlength=ALL_BITS + 1) > 0


@dataclass(frozen=True, kw_only=True)
class HiddenScans:
    """What ``test/`` holds.

    Attributes
    ----------
    scans
        The scans that can be tried.
    numbers
        Slice numbers by scan id, of the scans that cannot be tried too.
    sample
        ``sample_submission.csv`` where there is a readable one with rows.
    warnings
        What was passed over, one sentence each.
    """

    scans: tuple[Scan, ...]
    numbers: dict[str, tuple[int, ...]]
    sample: MaskTable | None
    warnings: tuple[str, ...]


def read_hidden(path: Path) -> HiddenScans:
    """Read the scans in a source's ``test/``; neither ``train/`` nor a bad scan matters.

    Parameters
    ----------
    path
        The competition's folder or zip.

    Returns
    -------
    HiddenScans
        Without a ``test/``, or with an empty one, no scans.

    Raises
    ------
    InputError
        Where the path is no source of the competition at all.
    """
    source = Source(path)
    names = source.names()
    warnings: list[str] = []
    present = set(names)
    try:
        root = find_root(source, names)
    except InputError:
        if "sample_submission.csv" not in present:
            raise
        root = ""
    sample = None
    table = f"{root}sample_submission.csv"
    if table in present:
        try:
            sample = read_mask_table(f"{path}/{table}", data=source.read_table(table))
        except InputError as error:
            warnings.append(f"the sample's rows are passed over: {error}")
    found: list[Problem] = []
    images = group_images(source, names, f"{root}test/", found)
    warnings += [f"passed over: {problem}" for problem in found]
    scans: list[Scan] = []
    for scan_id, slices in images.items():
        problems: list[Problem] = []
        made = build_scans(source, "test", {scan_id: slices}, None, problems, warnings)
        if problems:
            warnings.append(f"{scan_id} is left empty: {problems[0]}")
        else:
            scans.append(made[scan_id])
    return HiddenScans(
        scans=tuple(scans),
        numbers={scan_id: tuple(sorted(slices)) for scan_id, slices in images.items()},
        sample=sample if sample is not None and len(sample) else None,
        warnings=tuple(warnings),
    )
