"""A small phantom, and one with a fault of every kind planted into it."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gi2nnunet.formats.rle import decode_mask, encode_mask
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom

SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Where faults were planted: scan ids, and the middle slice of the stomach in each scan."""

    source: Path
    swapped: str
    jumped: str
    displaced: str
    shrunken: str
    gone: str
    foreign: str
    middle: dict[str, int]

    @property
    def scans(self) -> set[str]:
        return {
            self.swapped, self.jumped, self.displaced, self.shrunken, self.gone, self.foreign,
        }  # fmt: skip


def write_clean(folder: Path) -> Path:
    geometry = Geometry(width=SIDE, height=SIDE, slices=24, spacing_mm=(6, 6))
    write_phantom(folder, patients=8, days=4, geometries=[geometry], seed=1, jobs=2)
    return folder


def plant_faults(clean: Path, measured: Sequence[ScanMeasures], source: Path) -> Faults:
    """Copy a source and plant one fault a scan: slices 11 and 12 swapped, slice 13 from elsewhere,
    a stomach moved aside in one slice, a large bowel moved, a stomach cut, a small bowel gone."""
    shutil.copytree(clean, source)
    names = [scan.scan_id for scan in measured[::3][:6]]
    made = Faults(
        source=source,
        middle={
            scan.scan_id: int(np.flatnonzero(scan.masks.pixels[2]).mean().round()) + 1
            for scan in measured
            if scan.masks is not None
        },
        **dict(
            zip(
                ("swapped", "jumped", "displaced", "shrunken", "gone", "foreign"),
                names,
                strict=True,
            )
        ),
    )

    def plant(scan: str, number: int, organ: str, mask: np.ndarray) -> np.ndarray:
        if scan == made.jumped and organ == "stomach" and number == made.middle[scan]:
            return np.roll(mask, 15, axis=1)
        if scan == made.displaced and organ == "large_bowel":
            return np.roll(mask, 20, axis=0)
        if scan == made.shrunken and organ == "stomach" and number != made.middle[scan]:
            return np.zeros_like(mask)
        return np.zeros_like(mask) if scan == made.gone and organ == "small_bowel" else mask

    change_rows(source, plant)
    files = sorted(source.glob(f"train/*/{made.swapped}/scans/*.png"))
    first, second = files[10].read_bytes(), files[11].read_bytes()
    files[10].write_bytes(second)
    files[11].write_bytes(first)
    files = sorted(source.glob(f"train/*/{made.foreign}/scans/*.png"))
    files[12].write_bytes(files[2].read_bytes())
    return made


def change_rows(source: Path, change: Callable[[str, int, str, np.ndarray], np.ndarray]) -> None:
    """Change masks: given scan, slice number, organ and mask, gives the mask to write."""
    table = source / "train.csv"
    with table.open() as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        scan, _, number = row[0].rpartition("_slice_")
        mask = decode_mask(row[2], shape=(SIDE, SIDE))
        row[2] = encode_mask(change(scan, int(number), row[1], mask))
    table.write_text("".join(",".join(row) + "\n" for row in rows))
