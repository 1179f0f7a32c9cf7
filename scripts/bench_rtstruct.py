"""Time RTSTRUCT writing and reading against rt-utils and other readers, side by side in one run.

The masks are the three organs of a scan of the phantom, 144 slices of 266 x 266. Every program
starts with the folder of images and ends with the file, or with one mask per organ; starting Python
and imports are not counted. The programs take turns, and the best of --repeats counts. rt-utils,
DicomRTTool and dcmrtstruct2nii run in the environments that scripts/roundtrip_rtstruct.py makes,
plastimatch from Debian as a command, with the time of starting it (milliseconds).

    python scripts/bench_rtstruct.py --folder build/roundtrip
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from roundtrip_rtstruct import PROGRAMS, make_environment  # noqa: E402

from gi2nnunet.formats.dicom_series import read_series  # noqa: E402
from gi2nnunet.formats.ids import ORGANS  # noqa: E402
from gi2nnunet.formats.rtstruct import write_rtstruct  # noqa: E402
from gi2nnunet.formats.rtstruct_reading import read_rtstruct  # noqa: E402
from gi2nnunet.source.phantom.frame import Geometry  # noqa: E402
from gi2nnunet.source.phantom.scan import draw_scan  # noqa: E402
from tests.dicom_factory import SeriesPlan, write_series  # noqa: E402

SHAPE = (144, 266, 266)
# Positions with as many digits as scanners write, and short ones, which favour rt-utils.
ORIGINS = {
    "scanner's digits": (-198.54321289062, -183.29876708984, -211.51231384277),
    "short positions": (-198.75, -183.25, -211.5),
}


def run_timed(python: Path, task: str, *arguments: Path) -> float:
    """Let a program do one task in its own environment; return the seconds that it reports."""
    command: list[str | Path] = [python, PROGRAMS / "time_program.py", task, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task}: {done.stderr}")
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def time_call(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def bench(folder: Path, origin: tuple[float, float, float], *, patient: int, repeats: int) -> None:
    geometry = Geometry(slices=SHAPE[0], height=SHAPE[1], width=SHAPE[2], spacing_mm=(1.5, 1.5))
    drawn = draw_scan(f"case{patient}_day0", geometry).masks[:, ::-1]  # slices from feet to head
    masks = {organ: np.ascontiguousarray(mask) for organ, mask in zip(ORGANS, drawn, strict=True)}
    shutil.rmtree(folder, ignore_errors=True)
    images, ours, theirs = folder / "images", folder / "ours.dcm", folder / "rt_utils.dcm"
    write_series(images, SeriesPlan(shape=SHAPE, origin_mm=origin))
    np.save(folder / "masks.npy", np.stack(list(masks.values())))
    pythons = {
        name: make_environment(name, folder.parent)
        for name in ("rt_utils", "dcmrtstruct2nii", "dicomrttool")
    }

    def write() -> None:
        write_rtstruct(ours, masks, series=read_series(images))

    def read() -> None:
        read_rtstruct(ours, series=read_series(images))

    def read_with_plastimatch() -> None:
        subprocess.run(
            [
                "plastimatch", "convert", "--input", ours, "--referenced-ct", images,
                "--output-prefix", folder / "plastimatch", "--prefix-format", "nrrd",
            ],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def read_with(name: str) -> float:
        return run_timed(pythons[name], f"read_{name}", images, ours)

    writers: dict[str, Callable[[], float]] = {
        "ours": lambda: time_call(write),
        "rt-utils": lambda: run_timed(
            pythons["rt_utils"], "write_rt_utils", images, folder / "masks.npy", theirs
        ),
    }
    readers: dict[str, Callable[[], float]] = {
        "ours": lambda: time_call(read),
        "plastimatch": lambda: time_call(read_with_plastimatch),
        **{name.replace("_", "-"): partial(read_with, name) for name in pythons},
    }
    for title, programs in (("write", writers), ("read", readers)):
        best = dict.fromkeys(programs, float("inf"))
        for _ in range(repeats):
            for name, run in programs.items():
                best[name] = min(best[name], run())
        for name, seconds in best.items():
            ratio = seconds / best["ours"]
            print(f"  {title:5}  {name:16} {seconds:7.2f} s   {ratio:6.1f} times ours")
    found = read_rtstruct(ours, series=read_series(images)).masks
    if not all(np.array_equal(found[organ], mask) for organ, mask in masks.items()):
        raise SystemExit("masks read back differ")
    size, their_size = ours.stat().st_size, theirs.stat().st_size
    print(f"  size   ours {size / 1000:.0f} kB, rt-utils {their_size / 1000:.0f} kB "
          f"({their_size / size:.2f} times ours)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "roundtrip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patient", type=int, default=1, help="number of the phantom's patient")
    arguments = parser.parse_args()
    for title, origin in ORIGINS.items():
        print(title)
        bench(
            arguments.folder / "bench", origin,
            patient=arguments.patient, repeats=arguments.repeats,
        )  # fmt: skip


if __name__ == "__main__":
    main()
