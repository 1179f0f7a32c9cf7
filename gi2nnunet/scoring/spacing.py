"""Voxel spacing of the scans in a table: of its label volumes, or from what lies beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_kind, find_record
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.tables import MaskTable, find_sizes, group_rows
from gi2nnunet.scoring.medical import Spacing
from gi2nnunet.scoring.record import TRUTH, find_scores
from gi2nnunet.scoring.result import Score
from gi2nnunet.source.dataset import find_manifest

_Known = Mapping[str, tuple[Spacing, tuple[int, int] | None]]  # with (height, width), if known


def find_spacings(
    truth: MaskTable,
    given: Path,
    table: MaskTable,
    *,
    workspace: Workspace,
    dataset_id: int | None = None,
) -> dict[str, Spacing]:
    """Return the voxel spacing ``(z, y, x)`` in mm of the scans of a truth that are known.

    The first that knows a scan is taken: the converted dataset or the label volumes that the truth
    is, a recorded score beside it, the workspace's dataset if the image size agrees.

    Parameters
    ----------
    given
        The path of the truth, or of the submission that it is beside.
    table
        What was read from there.

    Raises
    ------
    InputError
        If a manifest cannot be read.
    """
    missing = set(truth.scan_ids)
    sizes: dict[str, tuple[int, int]] = {}
    if truth.height is not None:
        sizes = dict(find_sizes(truth, group_rows(truth), sizes=None))
    found: dict[str, Spacing] = {}
    for known in _list_known(given, table, workspace, dataset_id):
        for scan_id in sorted(missing & known.keys()):
            spacing_mm, size = known[scan_id]
            if size is None or sizes.get(scan_id, size) == size:
                found[scan_id] = spacing_mm
        missing -= found.keys()
        if not missing:
            break
    return found


def _list_known(
    given: Path, table: MaskTable, workspace: Workspace, dataset_id: int | None
) -> Iterator[_Known]:
    yield from _list_beside(given)
    yield {scan_id: (spacing_mm, None) for scan_id, spacing_mm in table.spacing_mm.items()}
    if workspace.list_datasets(dataset_id):
        try:
            dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
        except InputError:
            return  # none that is whole, or several
        yield {scan.scan_id: (scan.spacing_mm, scan.shape[1:]) for scan in dataset.scans}


def _list_beside(given: Path) -> Iterator[_Known]:
    is_folder = find_kind(given) == "folder"
    if (manifest := find_manifest(given / TRUTH if is_folder else given)) is not None:
        yield {scan.scan_id: (scan.spacing_mm, None) for scan in manifest.scans}
    folder = given if is_folder else given.parent
    for path in find_scores(folder).values():
        if (score := find_record(path, Score)) is not None:
            yield {s.scan_id: (s.spacing_mm, None) for s in score.per_scan if s.spacing_mm}
