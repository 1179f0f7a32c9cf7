"""Time the choice of thresholds on made-up out-of-fold predictions at the real size.

    python scripts/bench_tune.py --scans 40

The probabilities are those of a phantom's masks, blurred and disturbed, of two configurations; 144
slices of 266x266. They lie on disk as out-of-fold predictions do and are read as often.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gi2nnunet.core.workers import count_cores
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap, join_organs
from gi2nnunet.formats.probabilities import (
    EightBits,
    TuningScan,
    read_probabilities,
    to_eight_bits,
    write_probabilities,
)
from gi2nnunet.formats.volumes import read_volume, write_volume
from gi2nnunet.tuning.search import tune_decision

CONFIGURATIONS = ("2d", "3d_fullres")
SHAPE = (144, 266, 266)
SPACING_MM = (3.0, 1.5, 1.5)


def make_masks(seed: int) -> list[NDArray[np.bool_]]:
    """Return an organ-sized wavy body an organ, about 1 % of the volume each."""
    chance = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    masks = []
    for _ in ORGANS:
        found = np.zeros(SHAPE, np.bool_)
        for _ in range(4):
            centre = chance.uniform(0.3, 0.7, 3) * SHAPE
            size = chance.uniform(0.05, 0.11, 3) * SHAPE
            far = sum(((a - c) / s) ** 2 for a, c, s in zip((z, y, x), centre, size, strict=True))
            found |= far < 1
        masks.append(found)
    return masks


def write_scan(folder: Path, number: int) -> TuningScan:
    """Write one scan's truth and probabilities."""
    scan_id = f"case{number // 2 + 1}_day{number % 2}"
    masks = make_masks(number)
    chance = np.random.default_rng((1, number))
    write_volume(folder / f"{scan_id}.nii.gz", join_organs(masks), spacing_mm=SPACING_MM)
    for name in CONFIGURATIONS:
        array = np.stack(
            [
                to_eight_bits(
                    ndimage.gaussian_filter(mask.astype(np.float32), (0.7, 2, 2))
                    + ndimage.gaussian_filter(
                        chance.normal(0, 1.5, SHAPE).astype(np.float32), (1, 3, 3)
                    )
                    * ndimage.gaussian_filter(mask.astype(np.float32), (2, 6, 6))
                )
                for mask in masks
            ]
        )
        write_probabilities(
            folder / name / scan_id, array, scan_id=scan_id, numbers=range(1, SHAPE[0] + 1),
            spacing_mm=SPACING_MM, about={},
        )  # fmt: skip
    return TuningScan(
        scan_id=scan_id, fold=(number // 2) % 5, load=partial(load_scan, folder, scan_id)
    )


def load_scan(
    folder: Path, scan_id: str
) -> tuple[dict[str, EightBits], LabelMap, tuple[float, float, float]]:
    """Read it as the command does."""
    truth = read_volume(folder / f"{scan_id}.nii.gz")
    found = {name: read_probabilities(folder / name / scan_id).array for name in CONFIGURATIONS}
    return found, truth.array.astype(np.uint8), SPACING_MM


def main() -> None:
    """Make the scans, choose, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scans", type=int, default=40)
    options = parser.parse_args()
    if options.scans < 3:
        parser.error(f"--scans: found {options.scans}; expected 3 or more, of two patients")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scans = [write_scan(folder, number) for number in range(options.scans)]
        stored = sum(path.stat().st_size for path in folder.glob("*/case*"))
        began = time.monotonic()
        found = tune_decision(scans, configurations=CONFIGURATIONS)
        seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    gain = found.gains["all"]
    print(f"{options.scans} scans of {SHAPE}, {len(CONFIGURATIONS)} configurations, ", end="")
    print(f"{stored / options.scans / 1e6:.1f} MB stored a scan")
    print(
        f"chosen in {seconds:.0f} s on {count_cores()} cores, {peak:.0f} MB at the height; ", end=""
    )
    print(f"gain {gain.gain:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})")


if __name__ == "__main__":
    main()
