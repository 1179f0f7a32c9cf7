"""Submission CSV of label volumes that any tool wrote as NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError, Problem, count, name_some, raise_problems
from gi2nnunet.core.files import check_place
from gi2nnunet.formats.ids import LABEL_SCHEMES, LabelScheme, Orientation
from gi2nnunet.formats.labels import ALL_BITS
from gi2nnunet.formats.submission import SUBMISSION_BEGINS, write_submission
from gi2nnunet.formats.tables import Row, read_mask_table
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """A written submission, and the number of scans and rows in it.

    ``warnings`` say what was assumed or left out, one sentence each; ``labels`` says how the label
    volumes were read.
    """

    path: Path
    n_scans: int
    n_rows: int
    warnings: tuple[str, ...]
    labels: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "file": str(self.path),
            "rows": self.n_rows,
            "scans": self.n_scans,
            "labels": list(self.labels),
        }


def encode_labels(
    labels: Path,
    out: Path,
    *,
    scheme: LabelScheme | None = None,
    label_map: str | None = None,
    orientation: Orientation = "affine",
    sample: Path | None = None,
) -> Encoded:
    """Turn label volumes into a submission.

    Parameters
    ----------
    labels
        A NIfTI file, or a folder of NIfTI files named by scan id. Each is brought to slice order
        by its own orientation. The first slice's number comes from the manifest of the dataset
        that the folder belongs to (``manifest.json`` in it or one folder up), else it is 1, with a
        warning.
    scheme
        ``regions`` (bit-coded) or ``exclusive``; by default as the manifest says, else nnU-Net's
        ``dataset.json`` in the same places, else the values.
    label_map
        Which values mean which organ: ``stomach=1,small_bowel=2,large_bowel=3``.
    orientation
        ``affine``: axes as the files say. ``as-stored``: arrays are columns, rows and slices.
    sample
        A sample submission: its rows are written, in its order.

    Raises
    ------
    InputError
        If it holds none; if a volume cannot be read, has values that are not labels, or another
        number of slices than in the manifest; if it is unknown how labels are coded.
    """
    if scheme not in (None, *LABEL_SCHEMES):
        raise InputError(f"--labels: found {scheme!r}; expected {' or '.join(LABEL_SCHEMES)}.")
    out = check_place(out, begins=SUBMISSION_BEGINS, reads=[sample] if sample else [])
    options = SourceOptions(
        labels_only=True,
        source_labels=scheme,
        label_map=label_map,
        orientation=orientation,
    )
    source = open_source(labels, options)
    rows: list[Row] = []
    problems: list[Problem] = []
    for scan in source.scans.values():
        of_scan, wrong = scan.load_rows()
        rows += of_scan
        problems += wrong
    raise_problems(
        problems, remedy="Give --labels regions if they are bit-coded, or correct the files."
    )
    warnings = list(source.warnings)
    if unknown := source.unnumbered:
        warnings.append(
            f"no manifest gives the first slice's number of {count(len(unknown), 'scan')} "
            f"({name_some(unknown, most=3)}): taken as 1"
        )
    if source.coding_is_from == "by their values: regions":
        warnings.append(
            f"labels are taken as bit-coded (1, 2, 4, up to {ALL_BITS}); "
            "use --labels exclusive if they are 1, 2, 3"
        )
    table = read_mask_table(sample) if sample else None
    warnings += write_submission(out, rows, sample=table)
    return Encoded(
        path=out,
        n_scans=len(table.scan_ids) if table else len(source.scans),
        n_rows=len(table) if table else len(rows),
        warnings=tuple(warnings),
        labels=source.label_notes,
    )
