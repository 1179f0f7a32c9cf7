"""Benchmark of ``check``: planted faults that it finds, false alarms, time and memory.

    python scripts/bench_check.py --faults SOURCE... [--patients case34,case35] [--each 3]
    python scripts/bench_check.py --listing slices.csv.gz [--against CHECKOUT] [--folder FOLDER]

``--faults`` takes clean sources, such as phantoms and real rows painted (``phantom --masks``).
Into each, faults of every kind of ``tests/planted_faults.py`` are planted, one scan at a time, in
memory; all other scans stay as they are. *Found*: the right scan is a suspect, and at most two
others are. *Right kind*: one of its kinds is right too. False alarms are scans with a suspect in
the source as it is, and in halves of its patients.

``--listing`` makes a source of a true size (a CSV with the columns id, width, height, px_w, px_h,
one line a slice): N phantom scans of each geometry, stretched by another factor each way for each
scan that they stand for, so that no scan is a copy. In every seventh scan one row of the stomach is
emptied, so that there is something to be found and pictured. Then it times

floor       read and decode every PNG with imagecodecs on all cores, and nothing else
check       ``gi2nnunet check SOURCE``; with ``--against``, that checkout's too
page        ``gi2nnunet check SOURCE --html PAGE``

Each runs in a fresh process, start-up and all, with the files in the page cache.
"""

from __future__ import annotations

import argparse
import csv
import functools
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for the planter, which tests use too

from gi2nnunet.formats.ids import ORGANS, image_name, patient_of, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.rle import encode_slices
from gi2nnunet.source.check.check import find_suspects
from gi2nnunet.source.check.measures import ScanMeasures, measure_scan
from gi2nnunet.source.open import open_source
from gi2nnunet.source.phantom.listing import ListedScan, read_listing
from gi2nnunet.source.phantom.writing import PhantomOptions, write_phantom_like
from gi2nnunet.source.scan import LoadedScan
from tests.planted_faults import FAULTS, Fault
from tests.planted_faults import Scan as PlantedScan

FAULTY = 7


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
    write_phantom_like(folder, sizes=sizes, options=PhantomOptions(jobs=jobs))
    return folder


def make_source(listing: dict[str, ListedScan], donors: Path, folder: Path, jobs: int) -> Path:
    """Write a stretched donor for every scan of the listing."""
    if folder.exists():
        return folder
    opened = open_source(donors)
    of_geometry: dict[Any, list[str]] = {}
    for scan_id in opened.scans:
        of_geometry.setdefault(listing[scan_id].geometry, []).append(scan_id)
    made = folder.with_suffix(".part")
    made.mkdir()
    tasks: list[tuple[str, int, str, Path]] = []
    for index, (scan_id, scan) in enumerate(listing.items()):
        choice = of_geometry[scan.geometry]
        tasks.append((scan_id, index, choice[index % len(choice)], made))
    # The donors' scans in turn: a scan is loaded once for all that it stands for.
    by_donor: dict[str, list[tuple[str, int, str, Path]]] = {}
    for task in tasks:
        by_donor.setdefault(task[2], []).append(task)
    rows: dict[str, list[str]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        for donor, of_donor in by_donor.items():
            loaded = opened.scans[donor].load()
            work = functools.partial(write_stretched, loaded, listing)
            rows.update(pool.map(work, of_donor))
    lines = ["id,class,segmentation", *(row for scan_id in listing for row in rows[scan_id])]
    (made / "train.csv").write_text("\n".join([*lines, ""]))
    (made / "sample_submission.csv").write_text("id,class,predicted\n")
    made.rename(folder)
    return folder


def write_stretched(
    loaded: LoadedScan, listing: dict[str, ListedScan], task: tuple[str, int, str, Path]
) -> tuple[str, list[str]]:
    """Write one scan's images, stretched by its own factors; return its id and its rows."""
    scan_id, index, _, made = task
    rng = np.random.default_rng(index)
    rows, columns = (
        np.clip((np.arange(n) - n / 2) * rng.uniform(0.93, 1.07) + n / 2, 0, n - 1).astype(int)
        for n in loaded.image.shape[1:]
    )
    image = np.ascontiguousarray(loaded.image[:, rows[:, None], columns])
    assert loaded.label_map is not None  # noqa: S101
    labels = np.ascontiguousarray(loaded.label_map[:, rows[:, None], columns])
    shown = np.flatnonzero((labels & 4).any(axis=(1, 2)))
    if len(shown) and index % FAULTY == 0:
        labels[shown[len(shown) // 2]] &= 3
    geometry = listing[scan_id].geometry
    folder = made / "train" / patient_of(scan_id) / scan_id / "scans"
    folder.mkdir(parents=True)
    for z, pixels in enumerate(image):
        name = image_name(
            listing[scan_id].first_number + z, width=geometry.width, height=geometry.height,
            spacing_mm=geometry.spacing_mm,
        )  # fmt: skip
        (folder / name).write_bytes(imagecodecs.png_encode(pixels, level=2, filter=1))
    texts = encode_slices(labels, bits=ORGAN_BITS)
    return scan_id, [
        f"{slice_id(scan_id, listing[scan_id].first_number + z)},{organ},{text}"
        for z, of_slice in enumerate(zip(*texts, strict=True))
        for organ, text in zip(ORGANS, of_slice, strict=True)
    ]


def make_zip(source: Path, path: Path) -> Path:
    """Pack a source as the competition's zip is packed."""
    if not path.exists():
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for file in sorted(source.rglob("*")):
                archive.write(file, file.relative_to(source))
    return path


def run_floor(source: Path, jobs: int) -> None:
    def work(scan: Path) -> None:
        for file in (scan / "scans").iterdir():
            imagecodecs.png_decode(file.read_bytes())

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(work, sorted(source.glob("train/case*/case*_day*"))))


def measure(command: list[str], checkout: Path) -> tuple[float, float, float]:
    """Return seconds, processor seconds and peak resident MB of one process of a checkout."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd=checkout
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faults", type=Path, nargs="+", help="clean sources to plant faults into")
    parser.add_argument("--patients", default="", help="plant only into these, comma-separated")
    parser.add_argument("--each", type=int, default=3, help="scans a kind of fault")
    parser.add_argument("--seed", type=int, default=0, help="which scans, and where in them")
    parser.add_argument("--against", type=Path, help="checkout of another commit to time too")
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
    if asked.faults:
        patients = set(filter(None, asked.patients.split(",")))
        for source in asked.faults:
            print_faults(source, patients=patients, each=asked.each, seed=asked.seed)
        return
    if asked.listing is None:
        parser.error("--listing or --faults is needed")
    listing = read_listing(asked.listing)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        donors = make_donors(listing, folder / "donors", distinct=asked.distinct, jobs=asked.jobs)
        source = make_source(listing, donors, folder / "source", asked.jobs)
        archive = make_zip(source, folder / "source.zip") if asked.zip else None
        if not asked.make_only:
            print_figures(
                source, archive, folder / "check.html", jobs=asked.jobs, against=asked.against
            )


def print_figures(
    source: Path, archive: Path | None, page: Path, *, jobs: int, against: Path | None
) -> None:
    for file in source.rglob("*.png"):  # so that all find the files in the page cache
        file.read_bytes()
    here = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "gi2nnunet", "check"]
    ways = {"floor": ([sys.executable, __file__, "--floor", str(source)], here)}
    for name, path in (("", source), *([(", zip", archive)] if archive else [])):
        if against is not None:
            ways[f"before{name}"] = ([*command, str(path)], against)
        ways[f"check{name}"] = ([*command, str(path)], here)
        ways[f"page{name}"] = ([*command, str(path), "--html", str(page)], here)
    print(f"{len(list(source.glob('train/*/*')))} scans, {jobs} cores")
    print(" " * 14 + "".join(f"{head:>10}" for head in ("seconds", "x floor", "cpu s", "peak MB")))
    floor = None
    for name, (arguments, checkout) in ways.items():
        seconds, cpu, peak_mb = measure([*arguments, "--jobs", str(jobs)], checkout)
        floor = floor or seconds
        print(
            f"{name:14}{seconds:10.1f}{seconds / floor:10.2f}{cpu:10.1f}{peak_mb:10.0f}", flush=True
        )
    print(f"the page: {page.stat().st_size / 1e6:.2f} MB")


def print_faults(source: Path, *, patients: set[str], each: int, seed: int) -> None:
    """Plant every kind of fault into some scans of a source, one at a time; print what is found."""
    opened = open_source(source)
    scans = {}
    for scan_id, scan in opened.scans.items():
        loaded = scan.load()
        if loaded.label_map is not None:
            scans[scan_id] = PlantedScan(
                image=loaded.image, labels=loaded.label_map, spacing_mm=loaded.spacing_mm
            )
    clean = {scan_id: measure_planted(scan_id, scan) for scan_id, scan in scans.items()}
    print(f"{source.name}: {len(scans)} scans of {len(set(map(patient_of, scans)))} patients")
    print_false_alarms(clean, seed)
    hosts = [s for s in scans if not patients or patient_of(s) in patients]
    print(f"faults planted into {len(hosts)} scans of {len(set(map(patient_of, hosts)))} patients")
    print(f"{'':52}{'planted':>8}{'found':>7}{'kind':>6}  kinds named otherwise")
    sums = np.zeros(3, int)
    for index, fault in enumerate(FAULTS):
        rng = np.random.default_rng([seed, index])
        row = np.zeros(3, int)
        otherwise: set[str] = set()
        for scan_id in rng.permutation(hosts)[:each].tolist():
            planted = plant_one(fault, scan_id, scans, clean, rng)
            if planted is None:
                continue
            suspects = find_suspects(list(planted.values()))
            kinds = {s.kind for s in suspects if s.scan_id == scan_id}
            found = bool(kinds) and len({s.scan_id for s in suspects} - {scan_id}) <= 2
            right = found and bool(kinds & fault.kinds)
            row += (1, found, right)
            otherwise.update(() if right else kinds or {"nothing"})
        sums += row
        print(f"{fault.name:52}{row[0]:8}{row[1]:7}{row[2]:6}  {', '.join(sorted(otherwise))}")
    shares = f"{sums[1] / sums[0]:.0%} found, {sums[2] / sums[0]:.0%} with the right kind"
    print(f"{'all':52}{sums[0]:8}{sums[1]:7}{sums[2]:6}  {shares}", flush=True)


def plant_one(
    fault: Fault, scan_id: str, scans: dict[str, PlantedScan], clean: dict[str, ScanMeasures],
    rng: np.random.Generator,
) -> dict[str, ScanMeasures] | None:  # fmt: skip
    """Return the source's measures with one fault; None without a donor."""
    measured, donor = dict(clean), scans[scan_id]
    if fault.donor != "none":
        shape = donor.image.shape
        others = [
            other for other, scan in scans.items()
            if patient_of(other) != patient_of(scan_id) and scan.image.shape == shape
        ]  # fmt: skip
        if not others:
            return None
        chosen = str(rng.choice(others))
        donor = scans[chosen]
        if fault.donor == "not in the source":
            del measured[chosen]
    measured[scan_id] = measure_planted(scan_id, fault.plant(scans[scan_id], donor, rng))
    return measured


def print_false_alarms(clean: dict[str, ScanMeasures], seed: int) -> None:
    every = list(clean.values())
    whole = find_suspects(every)
    patients = sorted({scan.patient_id for scan in every})
    rng = np.random.default_rng(seed)
    scans = alarms = 0
    for _ in range(20):
        chosen = set(rng.permutation(patients)[: -(-len(patients) // 2)].tolist())
        half = [scan for scan in every if scan.patient_id in chosen]
        scans += len(half)
        alarms += len({suspect.scan_id for suspect in find_suspects(half)})
    named = {suspect.scan_id for suspect in whole}
    print(f"false alarms: {len(named)} of {len(every)} scans {sorted({s.kind for s in whole})}")
    print(f"in 20 halves of the patients: {alarms} of {scans} scans")


def measure_planted(scan_id: str, scan: PlantedScan) -> ScanMeasures:
    loaded = LoadedScan(
        image=scan.image, label_map=scan.labels, spacing_mm=scan.spacing_mm, first_number=1
    )
    return measure_scan(loaded, scan_id=scan_id, part="train")


if __name__ == "__main__":
    main()
