"""The competition's test scans, read so that one bad scan does not stop the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.archive import Source
from gi2nnunet.errors import InputError, Problem
from gi2nnunet.kaggle import MaskTable, read_mask_table
from gi2nnunet.source import Scan, build_scans, find_root, group_images


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
