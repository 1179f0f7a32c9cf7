"""Time the conversion of a source beside a plain script and beside the floor.

    python scripts/bench_convert.py SOURCE [--sample N] [--jobs N] [--keep FOLDER]

Three ways, one after another, each in a fresh process over the same files:

floor       decode every PNG with imagecodecs and compress the image volumes with ISA-L's deflate,
            on all cores, from and into memory: nothing is checked, painted or written
convert     ``gi2nnunet.dataset.convert.convert``: everything
plain       what a hand-written script does: pandas, a loop over the rows that decodes the RLE run
            by run, scikit-image slice by slice, SimpleITK writing compressed NIfTI; one process

``--sample N`` takes N scans, evenly spread over the source.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

WAYS = ("floor", "convert", "plain")
ORGANS = ("large_bowel", "small_bowel", "stomach")


def list_scans(source: Path) -> list[Path]:
    return sorted(source.glob("train/case*/case*_day*"))


def run_floor(source: Path, _: Path, jobs: int) -> int:
    import imagecodecs
    import numpy as np
    from isal import isal_zlib

    def work(scan: Path) -> int:
        files = sorted((scan / "scans").iterdir())
        image = np.stack([imagecodecs.png_decode(file.read_bytes()) for file in files])
        isal_zlib.compress(image.data, 1)
        return len(files)

    with ThreadPoolExecutor(jobs) as pool:
        return sum(pool.map(work, list_scans(source)))


def run_convert(source: Path, out: Path, jobs: int) -> int:
    from gi2nnunet.dataset.convert import convert
    from gi2nnunet.dataset.splits import SplitOptions
    from gi2nnunet.dataset.workspace import open_workspace
    from gi2nnunet.source.scan import SourceOptions

    dataset = convert(
        source,
        workspace=open_workspace(out, environ={}),
        split=SplitOptions(keep_known_bad=True),
        options=SourceOptions(jobs=jobs),
    )
    return sum(scan.depth for scan in dataset.scans)


def run_plain(source: Path, out: Path, _jobs: int) -> int:
    import numpy as np
    import pandas as pd
    import SimpleITK
    from skimage.io import imread

    table = pd.read_csv(source / "train.csv").fillna("")
    rows = {(i, c): s for i, c, s in zip(*(table[k] for k in table.columns), strict=True)}
    count = 0
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir(parents=True)
    for scan in list_scans(source):
        images, labels, spacing = [], [], (1.5, 1.5)
        for file in sorted((scan / "scans").iterdir()):
            _, digits, width, height, spacing_x, spacing_y = file.stem.split("_")
            spacing = (float(spacing_x), float(spacing_y))
            images.append(imread(file))
            label = np.zeros(int(width) * int(height), np.uint8)
            for value, organ in enumerate(ORGANS, 1):
                numbers = rows[f"{scan.name}_slice_{digits}", organ].split()
                for start, length in zip(numbers[::2], numbers[1::2], strict=True):
                    label[int(start) - 1 : int(start) - 1 + int(length)] = value
            labels.append(label.reshape(int(height), int(width)))
        for folder, slices in (("imagesTr", images), ("labelsTr", labels)):
            volume = SimpleITK.GetImageFromArray(np.stack(slices))
            volume.SetSpacing((*spacing, 3.0))
            SimpleITK.WriteImage(volume, str(out / folder / f"{scan.name}.nii.gz"), True)
        count += len(images)
    return count


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One way's figures: wall clock, processor time of all cores, peak resident memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    slices: int


def measure(way: str, source: Path, out: Path, jobs: int) -> Measured:
    """Run one way in a process of its own; time and memory of the whole process."""
    command = [sys.executable, __file__, str(source), "--way", way, "--keep", str(out)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--jobs", str(jobs)], check=True, stdout=subprocess.PIPE, text=True
    )
    seconds = time.perf_counter() - started
    slices, peak_kb, cpu = done.stdout.split()[-3:]
    return Measured(
        seconds=seconds, cpu_seconds=float(cpu), peak_mb=int(peak_kb) / 1024, slices=int(slices)
    )


def sample_source(source: Path, count: int, folder: Path) -> Path:
    """Make a source of some of the scans, by links."""
    scans = list_scans(source)
    chosen = scans[:: max(1, len(scans) // count)][:count]
    for scan in chosen:
        link = folder / scan.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(scan.resolve(), target_is_directory=True)
    wanted = {scan.name for scan in chosen}
    with (source / "train.csv").open() as rows, (folder / "train.csv").open("w") as kept:
        kept.write(next(rows))
        kept.writelines(row for row in rows if row[: row.index("_slice")] in wanted)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("--sample", type=int)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--keep", type=Path, help="write here and keep it")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way:
        run = {"floor": run_floor, "convert": run_convert, "plain": run_plain}[asked.way]
        slices = run(asked.source, asked.keep, asked.jobs)
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(slices, used.ru_maxrss, used.ru_utime + used.ru_stime)
        return
    with tempfile.TemporaryDirectory() as temporary:
        source = asked.source.resolve()
        if asked.sample:
            source = sample_source(source, asked.sample, Path(temporary) / "sample")
        for folder, _, names in os.walk(source, followlinks=True):
            for name in names:  # so that all ways find the files in the page cache
                (Path(folder) / name).read_bytes()
        measured = {}
        for way in asked.ways.split(","):
            out = (asked.keep or Path(temporary)) / way
            measured[way] = measure(way, source, out, asked.jobs)
            if not asked.keep:
                shutil.rmtree(out, ignore_errors=True)
    print(f"{len(list_scans(asked.source))} scans in the source, {asked.jobs} cores")
    heads = ("seconds", "x floor", "cpu s", "peak MB", "slices", "slices/s")
    print(" " * 10 + "".join(f"{head:>10}" for head in heads))
    floor = measured[asked.ways.split(",")[0]].seconds
    for way, row in measured.items():
        print(
            f"{way:10}{row.seconds:10.2f}{row.seconds / floor:10.2f}{row.cpu_seconds:10.1f}"
            f"{row.peak_mb:10.0f}{row.slices:10}{row.slices / row.seconds:10.0f}"
        )


if __name__ == "__main__":
    main()
