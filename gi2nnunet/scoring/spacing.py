"""Voxel spacing of scans in a table, which has none of its own: from what lies beside the truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_kind, find_record
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import Orientation
from gi2nnunet.formats.tables import MaskTable, find_sizes, group_rows
from gi2nnunet.formats.volumes import is_nifti_name
from gi2nnunet.scoring.medical import Spacing
from gi2nnunet.scoring.record import SUBMISSION, TRUTH, find_scores
from gi2nnunet.scoring.result import Score
from gi2nnunet.source.dataset import find_manifest
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions

_Known = Mapping[str, tuple[Spacing, tuple[int, int] | None]]  # with (height, width), if known


def find_spacings(
    truth: MaskTable,
    given: Path,
    *,
    workspace: Workspace,
    dataset_id: int | None = None,
    orientation: Orientation = "affine",
) -> dict[str, Spacing]:
    """Return the voxel spacing ``(z, y, x)`` in mm of the scans of a truth that are known.

    The first that knows a scan is taken: the converted dataset or the label volumes that the truth
    is, a recorded score beside it, the workspace's dataset if the image size agrees.

    Parameters
    ----------
    given
        The path of the truth, or of the submission that it is beside.
    orientation
        Axes of label volumes, see :func:`~gi2nnunet.source.open.open_source`.

    Raises
    ------
    InputError
        If a manifest or the label volumes cannot be read.
    """
    missing = set(truth.scan_ids)
    sizes: dict[str, tuple[int, int]] = {}
    if truth.height is not None:
        sizes = dict(find_sizes(truth, group_rows(truth), sizes=None))
    found: dict[str, Spacing] = {}
    for known in _list_known(given, workspace, dataset_id, orientation):
        for scan_id in sorted(missing & known.keys()):
            spacing_mm, size = known[scan_id]
            if size is None or sizes.get(scan_id, size) == size:
                found[scan_id] = spacing_mm
        missing -= found.keys()
        if not missing:
            break
    return found


def _list_known(
    given: Path, workspace: Workspace, dataset_id: int | None, orientation: Orientation
) -> Iterator[_Known]:
    yield from _list_beside(given, orientation)
    if workspace.list_datasets(dataset_id):
        try:
            dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
        except InputError:
            return  # none that is whole, or several
        yield {scan.scan_id: (scan.spacing_mm, scan.shape[1:]) for scan in dataset.scans}


def _list_beside(given: Path, orientation: Orientation) -> Iterator[_Known]:
    is_folder = find_kind(given) == "folder"
    if (manifest := find_manifest(given / TRUTH if is_folder else given)) is not None:
        yield {scan.scan_id: (scan.spacing_mm, None) for scan in manifest.scans}
    folder = given if is_folder else given.parent
    for path in find_scores(folder).values():
        if (score := find_record(path, Score)) is not None:
            yield {s.scan_id: (s.spacing_mm, None) for s in score.per_scan if s.spacing_mm}
    is_table = any((given / name).is_file() for name in (TRUTH, SUBMISSION))
    inside = (path.name for depth in ("*", "*/*") for path in given.glob(depth))
    holds_volumes = is_folder and not is_table and any(map(is_nifti_name, inside))
    if is_nifti_name(given.name) or holds_volumes:
        source = open_source(given, SourceOptions(labels_only=True, orientation=orientation))
        yield {scan.scan_id: (scan.spacing_mm, None) for scan in source.scans.values()}
