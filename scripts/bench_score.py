"""Time scoring and RLE coding against a plain implementation, side by side in one run.

The masks are made here, at the true scale of a listing: smooth random blobs, seeded, about as many
pixels and runs a row as in real rows. The plain side is written as such code is written today: one
row after another, Hausdorff over all coordinates. On the whole listing it would take hours, so it
runs on a sample of the scans.

    python scripts/bench_score.py --listing slices.csv.gz --sample 32 --folder /tmp/bench

The listing is a CSV with the columns id, width, height; one line a slice.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import edt
import numpy as np
import scipy.ndimage
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.spatial import cKDTree
from scipy.spatial.distance import directed_hausdorff

from gi2nnunet.formats.ids import ORGANS, scan_order
from gi2nnunet.formats.submission import encode_scan
from gi2nnunet.formats.tables import decode_table, read_mask_table
from gi2nnunet.scoring.conventions import CONVENTIONS
from gi2nnunet.scoring.hausdorff import SHIFT, find_farthest, make_field
from gi2nnunet.scoring.medical import measure_label_maps, silence_library
from gi2nnunet.scoring.score import score_submission

Mask = NDArray[np.bool_]
Listing = dict[str, tuple[int, int, list[int]]]  # scan -> height, width, slice numbers

SPACING_MM = (3.0, 1.5, 1.5)
SHARE_OF_BOX = 0.12  # foreground of an organ's box: about 1,400 pixels in an annotated row


# --- masks at true scale -----------------------------------------------------------------------


def read_listing(path: Path) -> Listing:
    scans: Listing = {}
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    for row in csv.DictReader(text.splitlines()):
        scan_id, _, number = row["id"].partition("_slice_")
        height, width = int(float(row["height"])), int(float(row["width"]))
        scans.setdefault(scan_id, (height, width, []))[2].append(int(number))
    return {scan: scans[scan] for scan in sorted(scans, key=scan_order)}


def spline_weights(size: int, knots: int) -> NDArray[np.float32]:
    """Return ``(size, knots)`` weights of a uniform cubic B-spline."""
    spline = BSpline(np.arange(-3, knots + 1), np.eye(knots), 3)
    return np.asarray(spline(np.linspace(0, knots - 3, size, endpoint=False)), np.float32)


def smooth_noise(
    rng: np.random.Generator, shape: tuple[int, ...], knots: tuple[int, ...]
) -> NDArray[np.float32]:
    values = rng.standard_normal(knots).astype(np.float32)
    for axis, (size, count) in enumerate(zip(shape, knots, strict=True)):
        values = np.moveaxis(np.tensordot(spline_weights(size, count), values, (1, axis)), 0, axis)
    return np.ascontiguousarray(values)


def make_masks(
    rng: np.random.Generator, shape: tuple[int, int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return bit-coded truth and prediction: blobs in a box, the second a disturbed copy."""
    truth, pred = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for organ in range(len(ORGANS)):
        sides = [int(size * rng.uniform(*part)) for size, part in zip(
            shape, ((0.22, 0.38), (0.35, 0.5), (0.35, 0.5)), strict=True
        )]  # fmt: skip
        corner = [
            int(rng.integers(0, size - side)) for size, side in zip(shape, sides, strict=True)
        ]
        box = tuple(slice(at, at + side) for at, side in zip(corner, sides, strict=True))
        knots = (8, 12, 12) if organ < 2 else (6, 6, 6)
        values = smooth_noise(rng, tuple(sides), knots)
        level = np.quantile(values[::3, ::3, ::3], 1 - SHARE_OF_BOX)
        spread = float(values[::3, ::3, ::3].std())
        disturbed = values + 0.2 * spread * smooth_noise(rng, tuple(sides), (10, 16, 16))
        bit = np.uint8(1 << organ)
        truth[box] |= (values > level) * bit
        pred[box] |= (disturbed > level) * bit
    return truth, pred


def make_tables(listing: Listing, folder: Path, *, name: str, seed: int) -> tuple[Path, Path]:
    """Write ``NAME_truth.csv`` (with image sizes) and ``NAME_pred.csv`` unless they are there."""
    paths = folder / f"{name}_truth.csv", folder / f"{name}_pred.csv"
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    with paths[0].open("w") as truth_file, paths[1].open("w") as pred_file:
        truth_file.write("id,class,predicted,image_height,image_width\n")
        pred_file.write("id,class,predicted\n")
        for index, (scan_id, (height, width, numbers)) in enumerate(listing.items()):
            rng = np.random.default_rng([seed, index])
            truth, pred = make_masks(rng, (len(numbers), height, width))
            for row_id, organ, text in encode_scan(scan_id, numbers, truth):
                truth_file.write(f"{row_id},{organ},{text},{height},{width}\n")
            for row_id, organ, text in encode_scan(scan_id, numbers, pred):
                pred_file.write(f"{row_id},{organ},{text}\n")
    return paths


# --- the plain side ----------------------------------------------------------------------------


def plain_decode(text: str, height: int, width: int, check: bool = False) -> NDArray[np.bool_]:
    image = np.zeros(height * width, dtype=bool)
    numbers = [int(word) for word in text.split()]
    if check and (numbers[0::2] != sorted(numbers[0::2]) or any(n < 1 for n in numbers)):
        raise SystemExit(f"bad RLE {text!r}")
    for start, length in zip(numbers[0::2], numbers[1::2], strict=True):
        if check and image[start - 1 : start - 1 + length].any():
            raise SystemExit(f"overlapping runs in {text!r}")
        image[start - 1 : start - 1 + length] = True
    return image


def plain_encode(mask: NDArray[np.bool_]) -> str:
    pixels = np.concatenate([[0], mask.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def walking_encode(mask: NDArray[np.bool_]) -> str:
    words: list[int] = []
    before = -2
    for pixel in np.where(mask.flatten() == 1)[0]:
        if pixel > before + 1:
            words.extend((pixel + 1, 0))
        words[-1] += 1
        before = pixel
    return " ".join(str(x) for x in words)


def plain_distance(pred: NDArray[np.bool_], truth: NDArray[np.bool_], ten_times: bool) -> float:
    if pred.sum() == 0 and truth.sum() == 0:
        return math.nan
    if np.array_equal(pred, truth):
        return 0.0
    if pred.sum() == 0 or truth.sum() == 0 or (ten_times and pred.sum() > 10 * truth.sum()):
        return 1.0
    a = np.argwhere(truth) / truth.shape
    b = np.argwhere(pred) / truth.shape
    farthest = max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])
    return float(farthest / np.sqrt(3))


def plain_score(pred_path: Path, truth_path: Path, metric: str) -> float:
    """Score row by row and scan by scan, every mask of the table held at once."""
    with pred_path.open() as file:
        pred_rows = list(csv.DictReader(file))
    with truth_path.open() as file:
        truth_rows = list(csv.DictReader(file))
    dices = []
    units: dict[tuple[str, str], dict[str, list[NDArray[np.bool_]]]] = {}
    for mine, theirs in zip(pred_rows, truth_rows, strict=True):
        height, width = int(theirs["image_height"]), int(theirs["image_width"])
        pred = plain_decode(mine["predicted"], height, width, check=True)
        truth = plain_decode(theirs["predicted"], height, width, check=True)
        total = pred.sum() + truth.sum()
        dices.append(2 * (pred & truth).sum() / total if total else math.nan)
        if metric == "mle-bench":
            pred, truth = pred.reshape(width, height).T, truth.reshape(width, height).T
        else:
            pred, truth = pred.reshape(height, width), truth.reshape(height, width)
        scan_id = theirs["id"].split("_slice_")[0]
        organ = theirs["class"] if metric == "per-class" else ""
        slices = units.setdefault((scan_id, organ), defaultdict(list))
        slices[theirs["id"]] += [pred, truth]
    distances = []
    for slices in units.values():
        ordered = [slices[row_id] for row_id in sorted(slices)]
        volume_pred = np.stack([np.logical_or.reduce(masks[0::2]) for masks in ordered])
        volume_true = np.stack([np.logical_or.reduce(masks[1::2]) for masks in ordered])
        distances.append(plain_distance(volume_pred, volume_true, metric == "mle-bench"))
    return float(0.4 * np.nanmean(dices) + 0.6 * (1 - np.nanmean(distances)))


# --- tasks, each run in a process of its own ---------------------------------------------------


def run_task(task: str, options: argparse.Namespace) -> dict[str, float]:
    begin = time.perf_counter()
    if task == "plain":
        score = plain_score(options.pred, options.truth, options.metric)
        return {"seconds": time.perf_counter() - begin, "score": score}
    if task in ("ours", "medical"):
        medical = task == "medical"
        if medical:  # the imports are not timed on either side
            with silence_library():
                measure_label_maps(*[np.ones((1, 1, 1), np.uint8)] * 2, spacing_mm=SPACING_MM)
            begin = time.perf_counter()
        spacing_mm = dict.fromkeys(read_mask_table(options.truth).scan_ids, SPACING_MM)
        score = score_submission(
            options.pred, options.truth, metric=options.metric, jobs=options.jobs,
            medical=medical, spacing_mm=spacing_mm,
        ).score  # fmt: skip
        return {"seconds": time.perf_counter() - begin, "score": score}
    return code_rows(task, options)


def code_rows(task: str, options: argparse.Namespace) -> dict[str, float]:
    """Decode every row to a mask and encode it again; the text must come back."""
    table = read_mask_table(options.truth)
    with options.sizes.open() as file:
        sizes = {scan: (size[0], size[1]) for scan, size in json.load(file).items()}
    begin = time.perf_counter()
    if task == "floor-rows":
        # no mask at all: the numbers of each text read and written again
        back = [" ".join(map(str, list(map(int, text.split())))) for text in table.texts]
        seconds = time.perf_counter() - begin
        same = back == list(table.texts)
    elif task in ("plain-rows", "walking-rows"):
        encode = plain_encode if task == "plain-rows" else walking_encode
        back = []
        for text, scan in zip(table.texts, table.scan.tolist(), strict=True):
            height, width = sizes[table.scan_ids[scan]]
            back.append(encode(plain_decode(text, height, width).reshape(height, width)))
        seconds = time.perf_counter() - begin
        same = back == list(table.texts)
    else:
        rows = [row for part in decode_table(table, sizes=sizes) for row in encode_scan(*part)]
        seconds = time.perf_counter() - begin
        wanted = {
            (f"{table.scan_ids[scan]}_slice_{number:04d}", ORGANS[organ]): text
            for scan, number, organ, text in zip(
                table.scan.tolist(), table.number.tolist(), table.organ.tolist(), table.texts,
                strict=True,
            )
        }  # fmt: skip
        same = {(row_id, organ): text for row_id, organ, text in rows} == wanted
    return {"seconds": seconds, "score": float(same)}


# --- ways to the distance ----------------------------------------------------------------------


def by_scipy(source: Mask, target: Mask, step: NDArray[np.float64]) -> float:
    distance = scipy.ndimage.distance_transform_edt(~target, sampling=step)
    return float(distance[source].max())


def by_edt(source: Mask, target: Mask, step: NDArray[np.float64]) -> float:
    distance = edt.edt(~target, anisotropy=tuple(step), black_border=False, parallel=1)
    return float(distance[source].max())


def by_tree(source: Mask, target: Mask, step: NDArray[np.float64]) -> float:
    points = np.argwhere(source & ~target)
    if not len(points):
        return 0.0
    return float(cKDTree(np.argwhere(target) * step).query(points * step)[0].max())


def by_ours(source: Mask, target: Mask, step: NDArray[np.float64]) -> float:
    field = make_field(source.astype(np.uint8), target.astype(np.uint8))
    return find_farthest(field, 1, 1 << SHIFT, step)


def bench_distances(tables: tuple[Path, Path], *, n_scans: int = 6) -> list[tuple[str, ...]]:
    """Time the directed distance between two scans' joined masks, both ways, one core each."""
    maps = []
    for path in (tables[1], tables[0]):
        parts = decode_table(read_mask_table(path), sizes=read_sizes(tables[0]))
        maps.append([bit_map for _, _, bit_map in islice(parts, n_scans)])
    pairs = []
    for pred, truth in zip(*maps, strict=True):
        found = [np.flatnonzero((pred | truth).any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        box = tuple(slice(line[0], line[-1] + 1) for line in found)
        pairs.append((pred[box] != 0, truth[box] != 0, 1.0 / np.array(pred.shape)))
    exact: list[float] = []
    rows: list[tuple[str, ...]] = [("directed distance", "ms a scan", "largest error")]
    for name, way in (
        ("SciPy distance transform", by_scipy),
        ("edt distance transform (float32)", by_edt),
        ("k-d tree of all voxels", by_tree),
        ("gi2nnunet", by_ours),
    ):
        begin = time.perf_counter()
        values = [way(*order, step) for a, b, step in pairs for order in ((a, b), (b, a))]
        seconds = time.perf_counter() - begin
        exact = exact or values
        error = max(abs(a - b) for a, b in zip(values, exact, strict=True))
        rows.append((name, f"{1000 * seconds / len(pairs):.0f}", f"{error:.1e}"))
    return rows


def read_sizes(path: Path) -> dict[str, tuple[int, int]]:
    with path.open() as file:
        return {
            row["id"].partition("_slice_")[0]: (int(row["image_height"]), int(row["image_width"]))
            for row in csv.DictReader(file)
        }


# --- measuring ---------------------------------------------------------------------------------


def descendants(pid: int) -> Iterator[int]:
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from descendants(int(child))
    except OSError:
        return


def memory_of(pid: int) -> int:
    """Return the bytes a process and its children hold, shared pages counted once (PSS)."""
    return sum(pss_of(process) for process in descendants(pid))


def pss_of(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(arguments: list[str]) -> dict[str, float]:
    """Run a task in a child process and watch its memory every 50 ms."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True
    )
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            peak = max(peak, memory_of(child.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = child.communicate()
    ended.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed")
    result: dict[str, float] = json.loads(output)
    return result | {"peak": float(peak), "wall": time.perf_counter() - begin}


def print_table(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        print("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |")
        if index == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def table_row(
    what: str, result: dict[str, float], n_rows: int, plain: dict[str, float] | None, *, note: str
) -> tuple[str, ...]:
    return (
        what,
        f"{n_rows:,}",
        f"{result['seconds']:.2f}",
        f"{result['cpu']:.2f}",
        f"{plain['seconds'] / result['seconds']:.1f}" if plain else "",
        f"{result['peak'] / 1e6:,.0f}",
        f"{n_rows / result['seconds']:,.0f}",
        note,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--listing", type=Path, help="CSV with id, width, height")
    parser.add_argument("--sample", type=int, default=32, help="scans the plain side gets")
    parser.add_argument("--folder", type=Path, help="where the made tables are kept")
    parser.add_argument("--rows", type=Path, help="CSV of real rows for the coding bench")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=None)
    parser.add_argument("--no-plain", action="store_true", help="leave the plain side out")
    parser.add_argument("--no-whole", action="store_true", help="leave the whole listing out")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--pred", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--truth", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--metric", default="per-class", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        started = time.process_time()
        result = run_task(options.task, options)
        print(json.dumps(result | {"cpu": time.process_time() - started}))
        return
    if options.listing is None:
        parser.error("--listing is needed")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="bench_score_"))
    listing = read_listing(options.listing)
    chosen = np.random.default_rng(options.seed).permutation(len(listing))[: options.sample]
    names = [list(listing)[index] for index in sorted(chosen.tolist())]
    sample = {scan_id: listing[scan_id] for scan_id in names}
    begin = time.perf_counter()
    whole = make_tables(listing, folder, name=f"whole{options.seed}", seed=options.seed)
    part = make_tables(
        sample, folder, name=f"sample{options.seed}_{len(sample)}", seed=options.seed
    )
    n_whole = sum(len(numbers) for _, _, numbers in listing.values()) * len(ORGANS)
    n_part = sum(len(numbers) for _, _, numbers in sample.values()) * len(ORGANS)
    print(
        f"{len(listing)} scans, {n_whole:,} rows; sample of {len(sample)} scans, {n_part:,} rows; "
        f"{os.cpu_count()} cores; tables made or found in {time.perf_counter() - begin:.0f} s\n",
        flush=True,
    )
    jobs = [] if options.jobs is None else ["--jobs", str(options.jobs)]
    rows: list[tuple[str, ...]] = [
        ("what", "rows", "seconds", "CPU s", "times faster", "peak MB", "rows/s", "")
    ]
    for metric in ("mle-bench", "per-class"):
        arguments = ["--pred", str(part[1]), "--truth", str(part[0]), "--metric", metric]
        plain = None
        if not options.no_plain:
            plain = measure(["--task", "plain", *arguments])
            rows.append(table_row(f"plain, {metric}", plain, n_part, None, note="sample"))
        ours = measure(["--task", "ours", *arguments, *jobs])
        gap = "" if plain is None else f", differs by {abs(plain['score'] - ours['score']):.1e}"
        rows.append(table_row(f"gi2nnunet, {metric}", ours, n_part, plain, note=f"sample{gap}"))
    more = measure(["--task", "medical", *arguments, *jobs])
    each = (more["seconds"] - ours["seconds"]) / len(sample)
    note = f"sample, {each:.2f} s a scan more"
    rows.append(table_row(f"the same with --medical, {metric}", more, n_part, None, note=note))
    for metric in () if options.no_whole else CONVENTIONS:
        arguments = ["--pred", str(whole[1]), "--truth", str(whole[0]), "--metric", metric]
        ours = measure(["--task", "ours", *arguments, *jobs])
        rows.append(table_row(f"gi2nnunet, {metric}", ours, n_whole, None, note="whole"))
    rows += bench_coding(options.rows or part[0], listing, folder, plain=not options.no_plain)
    print_table(rows)
    print()
    print_table(bench_distances(part))


def bench_coding(
    path: Path, listing: Listing, folder: Path, *, plain: bool
) -> list[tuple[str, ...]]:  # fmt: skip
    sizes = folder / "sizes.json"
    sizes.write_text(json.dumps({scan: [h, w] for scan, (h, w, _) in listing.items()}))
    for scan_id in read_mask_table(path).scan_ids:
        if scan_id not in listing:
            raise SystemExit(f"{path}: {scan_id} is not in the listing")
    n_rows = len(read_mask_table(path))
    arguments = ["--truth", str(path), "--sizes", str(sizes)]
    rows = []
    theirs: dict[str, dict[str, float]] = {}
    for task, what in (
        ("walking-rows", "plain, rows and pixels in loops"),
        ("plain-rows", "plain, rows in a loop, NumPy within"),
        ("floor-rows", "floor: the numbers only, no masks"),
        ("our-rows", "gi2nnunet, decode + encode"),
    ):
        if plain or task == "our-rows":
            theirs[task] = result = measure(["--task", task, *arguments])
            note = "same text" if result["score"] else "TEXT DIFFERS"
            if task == "our-rows" and plain:
                faster = theirs["walking-rows"]["seconds"] / result["seconds"]
                note += f", {faster:.1f} times faster than the pixel loop"
            against = theirs.get("plain-rows") if task == "our-rows" else None
            rows.append(table_row(what, result, n_rows, against, note=note))
    return rows


if __name__ == "__main__":
    main()
