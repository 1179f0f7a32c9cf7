"""Masks to score: the rows of a CSV, of a folder of predictions, or of label volumes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.core.errors import InputError, Problem, raise_problems
from gi2nnunet.core.files import find_kind
from gi2nnunet.formats.ids import Orientation
from gi2nnunet.formats.tables import MaskTable, Row, read_mask_table, tabulate_rows, take_rows
from gi2nnunet.formats.volumes import is_nifti_name
from gi2nnunet.scoring.record import SUBMISSION, TRUTH, read_truth

if TYPE_CHECKING:
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.source.scan import Scan


def read_masks(
    given: Path | MaskTable, *, truth: bool = False, orientation: Orientation = "affine"
) -> MaskTable:
    """Return the rows of what can be scored.

    Parameters
    ----------
    given
        A CSV of the competition's form; a folder with ``submission.csv`` or, for the truth,
        ``truth.csv``, such as that of a prediction or a converted dataset; or label volumes: a
        folder of them, or one NIfTI file. A table is returned as it is.
    orientation
        Axes of label volumes, see :func:`~gi2nnunet.source.open.open_source`.

    Raises
    ------
    InputError
        If it cannot be read, or it is not known how label volumes are coded.
    """
    if isinstance(given, MaskTable):
        return given
    is_folder = find_kind(given) == "folder"
    table = given / (TRUTH if truth else SUBMISSION) if is_folder else given
    if table.is_file() if is_folder else not is_nifti_name(given.name):
        return read_truth(table) if truth else read_mask_table(table, any_scan=True)
    rows = given / "train.csv"
    if truth and rows.is_file():
        raise InputError(
            f"{given}: found the competition's files; expected a table or label volumes. Give "
            f"the table and the images: --truth {shlex.quote(str(rows))} --images "
            f"{shlex.quote(str(given))}"
        )
    from gi2nnunet.source.open import open_source  # takes as long as a small score
    from gi2nnunet.source.scan import SourceOptions

    source = open_source(given, SourceOptions(labels_only=True, orientation=orientation))
    if source.coding_is_from.startswith("by their values"):
        raise InputError(
            f"{given}: found label volumes, but not how they are coded; expected dataset.json or "
            "manifest.json beside them. Score the CSV that one of these makes: gi2nnunet encode "
            f"{shlex.quote(str(given))} --out labels.csv --labels regions (1, 2, 4: bit-coded), or "
            "with --labels exclusive (1, 2, 3)."
        )
    found = read_rows(str(given), source.scans.values())
    if found is None:
        raise InputError(f"{given}: holds no scan. Give a CSV, or a folder of label volumes.")
    spacing_mm = {scan.scan_id: scan.spacing_mm for scan in source.scans.values()}
    return replace(found, warnings=source.warnings, spacing_mm=spacing_mm)


def find_truth(
    submission: Path, predicted: MaskTable, *, workspace: Workspace, dataset_id: int | None = None
) -> MaskTable:
    """Return the truth of a submission: ``truth.csv`` beside it, otherwise the workspace's dataset.

    Of a dataset these are the training scans, the held-out scans, or both, as the submission has
    some of either.

    Parameters
    ----------
    submission
        The file, or the folder that it is in.
    predicted
        Its rows.

    Raises
    ------
    InputError
        If there is neither, several datasets fit, or the truth is not as it was recorded.
    """
    beside = (submission if find_kind(submission) == "folder" else submission.parent) / TRUTH
    if beside.is_file() and beside != submission:
        return read_truth(beside)
    from gi2nnunet.dataset.manifest import read_dataset  # takes as long as a small score

    if not workspace.list_datasets(dataset_id):
        wanted = "" if dataset_id is None else f" of number {dataset_id}"
        raise InputError(
            f"{submission}: its truth is not known: found no {beside}, and no dataset{wanted} in "
            f"{workspace.raw.parent}; expected one of them. Give the truth with --truth TRUTH."
        )
    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    part_of = {scan.scan_id: scan.part for scan in dataset.scans if scan.labelled}
    parts = {part_of[scan_id] for scan_id in predicted.scan_ids if scan_id in part_of}
    scan_ids = [scan_id for scan_id, part in part_of.items() if part in parts or not parts]
    truth = take_rows(read_truth(dataset.truth_path), scan_ids)
    if truth is None:
        raise InputError(f"{dataset.folder}: holds no scan with truth; expected some.")
    return truth


def read_rows(name: str, scans: Iterable[Scan]) -> MaskTable | None:
    """Return the true rows of labelled scans as a table with image sizes; ``None`` without scans.

    They are decoded, and :class:`InputError` lists all that is wrong with them.
    """
    rows: dict[str, list[Row]] = {}
    sizes = {}
    problems: list[Problem] = []
    for scan in scans:
        rows[scan.scan_id], wrong = scan.load_rows()
        sizes[scan.scan_id] = scan.size
        problems += wrong
    raise_problems(problems, remedy=f"Correct these in {name}.")
    return tabulate_rows(name, rows, sizes)
