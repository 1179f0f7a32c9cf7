"""Time ``check`` on a source of the competition's scale, beside the floor.

    python scripts/bench_check.py --listing slices.csv.gz [--distinct N] [--folder FOLDER] [--zip]

The source is made by a listing (a CSV with the columns id, width, height, px_w, px_h, one line a
slice): N distinct phantom scans of each geometry, which stand for all of that geometry by hard
links, so that it has every file and row of the real one and needs little room. In every seventh
scan one row of the stomach is emptied, so that there is something to be found and pictured.

floor       read and decode every PNG with imagecodecs on all cores, and nothing else
check       ``gi2nnunet check SOURCE``
page        ``gi2nnunet check SOURCE --html PAGE``

Each runs in a fresh process, start-up and all, with the files in the page cache.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gi2nnunet.source.phantom.listing import ListedScan, read_listing
from gi2nnunet.source.phantom.writing import write_phantom_like

FAULTY = 7
Row = tuple[int, str, str]  # slice number, organ, segmentation


def make_donors(listing: dict[str, ListedScan], folder: Path, *, distinct: int, jobs: int) -> Path:
    """Write the distinct phantom scans unless they are there."""
    if folder.exists():
        return folder
    of_geometry: dict[Any, list[ListedScan]] = {}
    for scan in listing.values():
        of_geometry.setdefault(scan.geometry, []).append(scan)
    sizes = folder.with_suffix(".csv")
    with sizes.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("id", "width", "height", "px_w", "px_h"))
        for scans in of_geometry.values():
            for scan in scans[:distinct]:
                size = scan.geometry
                for number in range(size.slices):
                    table.writerow(
                        (
                            f"{scan.scan_id}_slice_{scan.first_number + number:04d}",
                            size.width, size.height, *size.spacing_mm[::-1],
                        )
                    )  # fmt: skip
    write_phantom_like(folder, sizes=sizes, jobs=jobs)
    return folder


def read_rows(donors: Path) -> dict[str, list[Row]]:
    """Read train.csv by scan."""
    rows: dict[str, list[Row]] = {}
    with (donors / "train.csv").open(newline="") as file:
        for name, organ, text in list(csv.reader(file))[1:]:
            scan_id, _, number = name.rpartition("_slice_")
            rows.setdefault(scan_id, []).append((int(number), organ, text))
    return rows


def make_source(listing: dict[str, ListedScan], donors: Path, folder: Path) -> Path:
    """Repeat the donors by hard links until every scan of the listing is there."""
    if folder.exists():
        return folder
    rows = read_rows(donors)
    of_geometry: dict[Any, list[str]] = {}
    for scan_id in rows:
        of_geometry.setdefault(listing[scan_id].geometry, []).append(scan_id)
    made = folder.with_suffix(".part")
    made.mkdir()
    with (made / "train.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("id", "class", "segmentation"))
        for index, (scan_id, scan) in enumerate(listing.items()):
            choice = of_geometry[scan.geometry]
            donor = choice[index % len(choice)]
            where = Path("train", scan_id.split("_")[0], scan_id, "scans")
            (made / where).mkdir(parents=True)
            for source in (donors / "train" / donor.split("_")[0] / donor / "scans").iterdir():
                (made / where / source.name).hardlink_to(source)
            shown = [n for n, organ, text in rows[donor] if organ == "stomach" and text]
            faulty = shown[len(shown) // 2] if shown and index % FAULTY == 0 else None
            for number, organ, text in rows[donor]:
                emptied = organ == "stomach" and number == faulty
                name = f"{scan_id}_slice_{number:04d}"
                table.writerow((name, organ, "" if emptied else text))
    (made / "sample_submission.csv").write_text("id,class,predicted\n")
    made.rename(folder)
    return folder


def make_zip(source: Path, path: Path) -> Path:
    """Pack a source as the competition's zip is packed."""
    if not path.exists():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted(source.rglob("*")):
                archive.write(file, file.relative_to(source))
    return path


def run_floor(source: Path, jobs: int) -> None:
    import imagecodecs

    def work(scan: Path) -> None:
        for file in (scan / "scans").iterdir():
            imagecodecs.png_decode(file.read_bytes())

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, sorted(source.glob("train/case*/case*_day*"))))


def measure(command: list[str]) -> tuple[float, float, float]:
    """Return seconds, processor seconds and peak resident MB of one process."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listing", type=Path, help="CSV with id, width, height, px_w, px_h")
    parser.add_argument("--distinct", type=int, default=4, help="distinct scans a geometry")
    parser.add_argument("--folder", type=Path, help="where to make and keep the source")
    parser.add_argument("--zip", action="store_true", help="time the source as a zip too")
    parser.add_argument("--make-only", action="store_true", help="make the source, time nothing")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--floor", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.floor:
        run_floor(asked.floor, asked.jobs)
        return
    if asked.listing is None:
        parser.error("--listing is needed")
    listing = read_listing(asked.listing)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        donors = make_donors(listing, folder / "donors", distinct=asked.distinct, jobs=asked.jobs)
        source = make_source(listing, donors, folder / "source")
        archive = make_zip(source, folder / "source.zip") if asked.zip else None
        if not asked.make_only:
            print_figures(source, archive, folder / "check.html", jobs=asked.jobs)


def print_figures(source: Path, archive: Path | None, page: Path, *, jobs: int) -> None:
    for file in source.rglob("*.png"):  # so that all find the files in the page cache
        file.read_bytes()
    command = [sys.executable, "-m", "gi2nnunet", "check"]
    ways = {"floor": [sys.executable, __file__, "--floor", str(source)]}
    for name, path in (("", source), *([(", zip", archive)] if archive else [])):
        ways[f"check{name}"] = [*command, str(path)]
        ways[f"page{name}"] = [*command, str(path), "--html", str(page)]
    print(f"{len(list(source.glob('train/*/*')))} scans, {jobs} cores")
    print(" " * 12 + "".join(f"{head:>10}" for head in ("seconds", "x floor", "cpu s", "peak MB")))
    floor = None
    for name, arguments in ways.items():
        seconds, cpu, peak_mb = measure([*arguments, "--jobs", str(jobs)])
        floor = floor or seconds
        print(f"{name:12}{seconds:10.1f}{seconds / floor:10.2f}{cpu:10.1f}{peak_mb:10.0f}")
    print(f"the page: {page.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
