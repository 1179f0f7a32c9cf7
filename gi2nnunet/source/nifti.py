"""A source of NIfTI volumes: which scans it holds, how their labels are coded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, raise_problems, shorten
from gi2nnunet.core.files import find_kind, read_json_object
from gi2nnunet.formats.ids import ORGANS, patient_of, scan_order
from gi2nnunet.formats.labels import (
    ALL_BITS,
    LABEL_SCHEMES,
    LabelMap,
    LabelScheme,
    nnunet_labels,
    to_bits,
)
from gi2nnunet.formats.volumes import Volume, read_volume
from gi2nnunet.source.competition import Part

_ENDINGS = (".nii.gz", ".nii")
# Folder of images, folder of labels, part; the first row that is there decides the layout.
_LAYOUTS: tuple[tuple[tuple[str, str, Part], ...], ...] = (
    (("imagesTr", "labelsTr", "train"), ("imagesTs", "labelsTs", "test")),
    (("images", "labels", "train"),),
)
_CLOSE_MM = 0.01
_SCAN_ID = re.compile(r"\w(?:[\w.+=@ -]{0,198}[\w.+=@-])?")


@dataclass(frozen=True, kw_only=True)
class NiftiScan:
    """One scan of a NIfTI source.

    Attributes
    ----------
    scan_id, patient_id
        Who and when, from the file's name.
    part
        ``"train"`` where it is labelled and not set apart as a test scan, else ``"test"``.
    image, label
        The files; a scan without labels has no second one.
    """

    scan_id: str
    part: Part
    image: Path
    label: Path | None

    @property
    def patient_id(self) -> str:
        """Return the patient's id."""
        return patient_of(self.scan_id)


@dataclass(frozen=True, kw_only=True)
class NiftiIndex:
    """Everything a NIfTI source holds, no voxel read.

    Attributes
    ----------
    path
        The folder.
    scans
        Scans by id, in numeric order of patient and day where the ids tell them.
    declared_labels
        How the folder's dataset.json says that labels are coded, where it has one.
    """

    path: Path
    scans: Mapping[str, NiftiScan]
    declared_labels: LabelScheme | None


def is_nifti_source(path: Path) -> bool:
    """Return whether a path is a folder of NIfTI volumes in one of the known layouts."""
    if find_kind(path) != "folder":
        return False
    folders = [path, *(path / images for layout in _LAYOUTS for images, _, _ in layout)]
    return any(_volumes_of(folder) for folder in folders)


def _volumes_of(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        file
        for file in folder.iterdir()
        if file.name.endswith(_ENDINGS)
        and not file.name.startswith(".")
        and (file.is_file() or file.is_symlink())  # a link that leads nowhere is told when read
    )


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".nii")


def read_nifti_index(path: Path) -> NiftiIndex:
    """List the scans of a folder of NIfTI volumes.

    Parameters
    ----------
    path
        A folder that holds ``imagesTr/`` (with ``labelsTr/``, ``imagesTs/``, ``labelsTs/`` where
        there are any), ``images/`` (with ``labels/``), or volumes right away. Image names may end
        in ``_0000`` as nnU-Net's do.

    Raises
    ------
    InputError
        Where the folder holds no volume, two images of one scan, a second channel, or labels
        without an image; all of them are told together.
    """
    problems: list[Problem] = []
    scans: dict[str, NiftiScan] = {}
    for images, labels, part in _find_layout(path):
        label_of = {_stem(file): file for file in _volumes_of(labels)} if labels else {}
        for file in _volumes_of(images):
            stem = _stem(file)
            scan_id, _, channel = stem.rpartition("_")
            if not (scan_id and len(channel) == 4 and channel.isdecimal()):
                scan_id, channel = stem, "0000"
            if not _SCAN_ID.fullmatch(scan_id):
                label_of.pop(scan_id, None)
                problems.append(
                    Problem(
                        where=repr(str(file)),
                        found=f"the scan id {scan_id!r}",
                        expected="letters, digits, blanks and . _ + = @ -, fit for a CSV",
                    )
                )
                continue
            if channel != "0000" or scan_id in scans:
                found = (
                    f"a second image of {scan_id}" if channel == "0000" else f"channel {channel}"
                )
                problems.append(
                    Problem(where=str(file), found=found, expected="one image a scan, channel 0000")
                )
                continue
            label = label_of.pop(scan_id, None)
            scans[scan_id] = NiftiScan(
                scan_id=scan_id, part=part if label else "test", image=file, label=label
            )
        problems += [
            Problem(where=str(file), found="labels without an image", expected=f"one in {images}")
            for file in label_of.values()
        ]
    raise_problems(problems, remedy=f"Correct these in {path}.")
    if not scans:
        raise InputError(
            f"{path}: holds no NIfTI image. Expected .nii or .nii.gz files in it, in images/ or "
            "in imagesTr/."
        )
    return NiftiIndex(
        path=path,
        scans={scan_id: scans[scan_id] for scan_id in sorted(scans, key=scan_order)},
        declared_labels=read_declared_labels(path / "dataset.json"),
    )


def _find_layout(path: Path) -> list[tuple[Path, Path | None, Part]]:
    for layout in _LAYOUTS:
        if any(_volumes_of(path / images) for images, _, _ in layout):
            return [(path / images, path / labels, part) for images, labels, part in layout]
    return [(path, None, "test")]


def read_declared_labels(dataset_json: Path) -> LabelScheme | None:
    """Return how an nnU-Net dataset.json says that labels are coded; ``None`` without the file.

    Raises
    ------
    InputError
        Where it declares other labels than the two ways that are known.
    """
    if not dataset_json.is_file():
        return None
    remedy = "Restore it, or remove it and say how the labels are coded."
    declared = read_json_object(dataset_json, remedy=remedy).get("labels")
    for scheme in LABEL_SCHEMES:
        if declared == nnunet_labels(scheme)[0]:
            return scheme
    raise InputError(
        f"{dataset_json}: found the labels {shorten(str(declared))}; expected "
        f"{' or '.join(str(nnunet_labels(scheme)[0]) for scheme in LABEL_SCHEMES)}. "
        "Convert the labels, or remove the file and say how they are coded."
    )


def read_labels(scan: NiftiScan) -> Volume:
    """Read a scan's label volume as uint8.

    Raises
    ------
    InputError
        Where a value is no label: a fraction, below 0 or above 7.
    """
    if scan.label is None:
        raise ValueError(f"{scan.scan_id} has no labels")
    volume = read_volume(scan.label)
    array = volume.array
    with np.errstate(invalid="ignore"):
        labels = array.astype(np.uint8)
    if not np.array_equal(labels, array) or int(labels.max()) > ALL_BITS:
        wrong = np.unique(array[(labels != array) | (labels > ALL_BITS)])[:5]
        raise InputError(
            f"{scan.label}: found the values {wrong.tolist()}; expected labels from 0 to "
            f"{ALL_BITS}. Give label volumes of {', '.join(ORGANS)}."
        )
    return Volume(array=labels, spacing_mm=volume.spacing_mm, corner_mm=volume.corner_mm)


def choose_scheme(
    index: NiftiIndex,
    values: Mapping[str, NDArray[np.bool_]],
    *,
    asked: LabelScheme | None,
    option: str = "source_labels (--source-labels)",
) -> LabelScheme:
    """Decide how a source's labels are coded.

    Parameters
    ----------
    index
        The source.
    values
        For each labelled scan, which of the values 0 to 7 occur: ``(8,)`` bool.
    asked
        What the user said; else what dataset.json says; else what the values tell.
    option
        How a message names the way to say it.

    Raises
    ------
    InputError
        Where the values do not fit, or tell nothing: 3 without anything above it is the stomach
        in exclusive labels and both bowels in bit-coded ones.
    """
    scheme = asked or index.declared_labels
    found = np.zeros(ALL_BITS + 1, np.bool_)
    for of_scan in values.values():
        found |= of_scan
    above = len(ORGANS) + 1
    if scheme is None:
        if found[above:].any():
            return "regions"
        if found[above - 1]:
            raise InputError(
                f"{index.path}: found the label 3 and none above it; that is stomach in exclusive "
                f"labels, large with small bowel in bit-coded ones. Say which: {option} exclusive "
                "or regions."
            )
        return "exclusive"  # only 1 and 2, which mean the same in both
    if scheme == "exclusive":
        raise_problems(
            [
                Problem(
                    where=str(index.scans[scan_id].label),
                    found=f"the labels {(np.flatnonzero(of_scan[above:]) + above).tolist()}",
                    expected="at most 3, as labels are exclusive",
                )
                for scan_id, of_scan in values.items()
                if of_scan[above:].any()
            ],
            remedy="Say that the source's labels are regions, or correct the files.",
        )
    return scheme


def read_scan(
    scan: NiftiScan, *, scheme: LabelScheme | None
) -> tuple[Volume, LabelMap | None, tuple[Problem, ...]]:
    """Read a scan's image and, bit-coded, its labels.

    Parameters
    ----------
    scan
        Which scan.
    scheme
        How the source's labels are coded.

    Returns
    -------
    tuple
        The image in the file's own type, the ``(z, y, x)`` uint8 labels or ``None``, and what is
        wrong: an image value that is not finite, labels of another geometry than the image's.

    Raises
    ------
    InputError
        Where a file cannot be read or holds values that are no labels.
    """
    image = read_volume(scan.image)
    problems: list[Problem] = []
    if image.array.dtype.kind == "f" and not np.isfinite(image.array).all():
        problems.append(
            Problem(where=str(scan.image), found="NaN or infinity", expected="finite intensities")
        )
    if scan.label is None:
        return image, None, tuple(problems)
    labels = read_labels(scan)
    if _geometry_differs(image, labels):
        problems.append(
            Problem(
                where=str(scan.label),
                found=f"the geometry {_describe(labels)}",
                expected=f"the image's, {_describe(image)}",
            )
        )
    label_map: LabelMap = labels.array
    return image, to_bits(label_map) if scheme == "exclusive" else label_map, tuple(problems)


def _geometry_differs(first: Volume, second: Volume) -> bool:
    return first.array.shape != second.array.shape or not np.allclose(
        [*first.spacing_mm, *first.corner_mm],
        [*second.spacing_mm, *second.corner_mm],
        rtol=0,
        atol=_CLOSE_MM,
    )


def _describe(volume: Volume) -> str:
    return (
        f"{tuple(volume.array.shape)} voxels of {volume.spacing_mm} mm (z, y, x), first voxel at "
        f"{volume.corner_mm} mm"
    )


def describe_file(file: Path) -> dict[str, Any]:
    """Return what tells a file from another one of its name: its size and its last bytes.

    The last eight bytes of a ``.gz`` file are the checksum and the size of its content.
    """
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(max(0, size - 8))
            return {"bytes": size, "end": opened.read().hex()}
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror or error}).") from error
