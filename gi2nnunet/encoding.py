"""Label volumes to a submission CSV: the way back from any tool that writes NIfTI."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gi2nnunet.errors import InputError
from gi2nnunet.files import check_place, find_kind
from gi2nnunet.kaggle import ORGANS, read_mask_table
from gi2nnunet.labels import ALL_BITS, LABEL_SCHEMES, to_bits
from gi2nnunet.manifest import MANIFEST, Dataset, open_dataset
from gi2nnunet.nifti_source import NiftiScan, read_labels, read_nifti_index
from gi2nnunet.submission import Row, encode_scan, write_submission


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
        ``regions`` (bit-coded), ``exclusive``, or ``auto``: what the manifest says, else regions.
    sample
        A sample submission whose rows and order to follow.

    Raises
    ------
    InputError
        Where there is no volume, a volume cannot be read, or holds values that are no labels.
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
        scheme = dataset.label_scheme if dataset else "regions"
    numbers_of = {scan.scan_id: scan.numbers for scan in dataset.scans} if dataset else {}
    rows: list[Row] = []
    unknown = []
    for scan_id, path in files.items():
        label_map = read_labels(
            NiftiScan(scan_id=scan_id, part="train", image=path, label=path)
        ).array
        if scheme == "exclusive":
            if label_map.max(initial=0) > len(ORGANS):
                raise InputError(
                    f"{path}: found the label {label_map.max()}; expected at most 3, as labels are "
                    "exclusive. Give --labels regions if they are bit-coded."
                )
            label_map = to_bits(label_map)
        numbers = numbers_of.get(scan_id)
        if numbers is None or len(numbers) != len(label_map):
            unknown.append(scan_id)
            numbers = tuple(range(1, len(label_map) + 1))
        rows += encode_scan(scan_id, numbers, label_map)
    if unknown:
        warnings.append(
            f"no manifest tells the first slice's number of {len(unknown)} scans "
            f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''}): taken as 1"
        )
    if scheme == "regions" and dataset is None:
        warnings.append(
            f"labels are taken as bit-coded (1, 2, 4, up to {ALL_BITS}); "
            "say --labels exclusive if they are 1, 2, 3"
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


def scan_id_of(volume: Path) -> str:
    """Return the scan id that a volume's name tells, without nnU-Net's ``_0000``."""
    return volume.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_0000")


def find_dataset_of(labels: Path) -> Dataset | None:
    """Return the dataset whose manifest lies in a volume's folder or one folder up, if any."""
    start = labels if labels.is_dir() else labels.parent
    for folder in (start, start.absolute().parent):
        if (folder / MANIFEST).is_file():
            return open_dataset(folder)
    return None
