"""Label volumes to RTSTRUCT and SEG files on the DICOM series that they were made on.

Voxels are matched by where they lie in the patient, so that volumes may have any order and
direction of axes, and may be cut or padded; labels that do not lie on the series are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, raise_problems
from gi2nnunet.formats.dicom_series import Series, check_masks, find_voxels
from gi2nnunet.formats.ids import ORGANS, LabelScheme
from gi2nnunet.formats.labels import ALL_BITS, split_organs
from gi2nnunet.formats.structures import StructureOptions, choose_names, find_organ
from gi2nnunet.formats.volumes import nifti_stem, read_volume_at
from gi2nnunet.source.dicom import DicomScan, write_on_series
from gi2nnunet.source.nifti_files import volumes_of
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import DicomOptions, SourceOptions

_TOLERANCE_MM = 0.01
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class ExportedDicom:
    """Files that were written, and the voxels of each organ."""

    files: tuple[Path, ...]
    voxels: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"files": [str(file) for file in self.files], "voxels": dict(self.voxels)}


def export_dicom(
    labels: Path,
    source: Path,
    out: Path,
    *,
    scheme: LabelScheme | None = None,
    names: Mapping[str, str] | None = None,
    dicom: DicomOptions | None = None,
) -> ExportedDicom:
    """Write ``rtstruct.dcm`` and ``seg.dcm`` of label volumes.

    Parameters
    ----------
    labels
        A NIfTI file of labels; or a folder of one mask per organ, with the organ's name at the end
        of each file's name.
    scheme
        How labels are coded; by default as their values show.
    names
        Name of an organ's structure where it is not to be that of TG-263.
    dicom
        How to open the series. Its slices may lie at unequal distances.

    Raises
    ------
    InputError
        If labels or series cannot be read, or do not lie on one another to 0.01 mm; if the values
        do not show how they are coded; if the series does not have a frame of reference.
    OutputError
        If a file cannot be written.
    """
    choose_names(names)
    how = replace(dicom or DicomOptions(), uneven=True)
    opened = open_source(source, SourceOptions(truth=False, dicom=how))
    scans = [scan for scan in opened.scans.values() if isinstance(scan, DicomScan)]
    if len(scans) != 1 or len(scans) != len(opened.scans):
        raise InputError(
            f"--source: found {opened.described}; expected one DICOM series. Give the folder of "
            "the series that the labels were made on."
        )
    of_series = scans[0].read_series()
    check_masks({}, of_series)
    masks = _read_masks(labels, of_series, scheme)
    files = write_on_series(out, masks, of_series, StructureOptions(names=names))
    return ExportedDicom(
        files=tuple(files),
        voxels={organ: int(np.count_nonzero(mask)) for organ, mask in masks.items()},
    )


def _read_masks(
    labels: Path, series: Series, scheme: LabelScheme | None
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks ``(slices, rows, columns)`` of all organs that the labels can hold."""
    files = volumes_of(labels) if labels.is_dir() else [labels]
    of_file = {path: find_organ(nifti_stem(path.name)) for path in files}
    organs = [organ for organ in of_file.values() if organ]
    whole = len(files) == 1 and not organs
    if not whole and (not organs or not len(files) == len(organs) == len(set(organs))):
        raise InputError(
            f"{labels}: found {count(len(files), 'NIfTI file')}, {len(organs)} with an organ's "
            f"name; expected one file of labels, or one for each of {', '.join(ORGANS)}. Give one "
            "file, or a folder with only these."
        )
    masks: dict[str, NDArray[np.bool_]] = {}
    for path, organ in of_file.items():
        on_series = _lay_on_series(path, series)
        if organ:
            masks[organ] = on_series != 0
        else:
            coded = scheme or _find_scheme(on_series, path)
            masks = dict(zip(ORGANS, split_organs(on_series, scheme=coded), strict=True))
    return {organ: masks[organ] for organ in ORGANS if organ in masks}


def _find_scheme(labels: NDArray[np.uint8], path: Path) -> LabelScheme:
    highest = int(labels.max())
    if highest == len(ORGANS):
        raise InputError(
            f"{path}: found the label 3 and none above it; that is stomach in exclusive labels, "
            "large with small bowel in bit-coded ones. Say which: --labels exclusive or regions."
        )
    return "regions" if highest > len(ORGANS) else "exclusive"


def _lay_on_series(path: Path, series: Series) -> NDArray[np.uint8]:
    """Return labels ``(slices, rows, columns)`` of a file, voxel by voxel on those of the series.

    Raises
    ------
    InputError
        If its values are no labels, or its voxels do not lie on those of the series.
    """
    array, affine = read_volume_at(path)
    found = np.nonzero(array)
    values = array[found]
    if not np.isin(values, np.arange(1, ALL_BITS + 1)).all():
        wrong = sorted(set(np.unique(values).tolist()) - set(range(ALL_BITS + 1)))
        raise InputError(
            f"{path}: found the values {wrong[:5]}; expected labels from 0 to {ALL_BITS}. Give "
            f"label volumes of {', '.join(ORGANS)}."
        )
    affine = _TO_LPS @ affine
    problems = list(_compare_axes(affine, array.shape, series, path))
    voxels = np.stack(found, axis=-1) if len(values) else _list_corners(array.shape)
    indices, away = find_voxels(voxels @ affine[:3, :3].T + affine[:3, 3], series=series)
    if not problems and away.max() > _TOLERANCE_MM:
        problems.append(
            Problem(
                where=str(path),
                found=f"labels up to {away.max():.3g} mm away from the voxels of the series",
                expected=f"at most {_TOLERANCE_MM} mm",
            )
        )
    raise_problems(problems, remedy="Give the series that the labels were made on.")
    labels = np.zeros(series.shape, np.uint8)
    if len(values):
        labels[tuple(indices.T)] = values
    return labels


def _list_corners(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.stack(np.meshgrid(*((0, size - 1) for size in shape)), axis=-1).reshape(-1, 3)


def _compare_axes(
    affine: NDArray[np.float64], shape: tuple[int, ...], series: Series, path: Path
) -> list[Problem]:
    """Return what is wrong if the axes are not those of the series, in any order and direction."""
    gap = float(np.diff(series.positions_mm @ series.normal).min())
    steps = np.stack(
        [
            series.normal * gap,
            np.array(series.column_direction) * series.pixel_spacing_mm[0],
            np.array(series.row_direction) * series.pixel_spacing_mm[1],
        ]
    )
    own = affine[:3, :3].T
    turns = np.rint(own @ np.linalg.inv(steps))
    away = np.linalg.norm(own - turns @ steps, axis=1) * (np.array(shape) - 1)
    if np.array_equal(np.abs(turns).sum(axis=0), [1, 1, 1]) and away.max() <= _TOLERANCE_MM:
        return []
    return [
        Problem(
            where=str(path),
            found=f"voxels of {np.linalg.norm(own, axis=1).round(4).tolist()} mm along "
            f"{(own / np.linalg.norm(own, axis=1)[:, None]).round(3).tolist()} (LPS)",
            expected=f"those of the series, {np.linalg.norm(steps, axis=1).round(4).tolist()} mm "
            f"along {(steps / np.linalg.norm(steps, axis=1)[:, None]).round(3).tolist()}",
        )
    ]
