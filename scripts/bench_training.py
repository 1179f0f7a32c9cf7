"""Data loading and augmentation of trainings: ours beside nnU-Net's own, in one run.

Each way loads batches of the same preprocessed scans in a process of its own, with one thread, in
the order nnU-Net, ours, ours with ``device`` (of which this counts what is left for the processor),
nnU-Net, and so on. A whole epoch of the tiny network, and on a machine with a card one of the stock
network, is trained both ways too.

    python scripts/bench_training.py --json bench.json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("nnunet", "processor", "device")
CASES = {
    "2d": ("nnUNetPlans", "2d"),
    "3d_fullres": ("nnUNetPlans", "3d_fullres"),
    "3d_fullres, ResEnc L": ("nnUNetResEncUNetLPlans", "3d_fullres"),
}
TRAININGS = {
    "2d of tiny, trained": ("gi2nnunetTinyPlans", "2d"),
    "3d_fullres of tiny, trained": ("gi2nnunetTinyPlans", "3d_fullres"),
    "3d_fullres, trained on a card": ("nnUNetPlans", "3d_fullres"),
}
DATASET = "Dataset501_UWGI"


def prepare(folder: Path) -> None:
    """Make up three scans as large as most of the competition's, and preprocess them."""
    for words in (
        ["phantom", "--out", "source.zip", "--patients", "4", "--days", "1",
         "--size", "266x266x144@1.5", "--easy", "--seed", "5"],
        ["convert", "source.zip", "--folds", "2", "--holdout", "0.25"],
        ["plan", "--preset", "default", "--device", "cpu", "--no-checks"],
        ["plan", "--preset", "resenc-l", "--config", "3d_fullres", "--device", "cpu",
         "--no-checks"],
        ["plan", "--preset", "tiny", "--device", "cpu", "--no-checks"],
    ):  # fmt: skip
        run([sys.executable, "-m", "gi2nnunet", *words], folder)
        print(f"prepared: {words[0]}", flush=True)


def run(words: list[str], folder: Path, **variables: str) -> str:
    """Run a command in the folder, without nnU-Net's variables; return its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")} | variables
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def measure(folder: Path, *what: str) -> dict[str, Any]:
    """Run one of the measurements below in a process of its own."""
    workspace = folder / "gi2nnunet-workspace"
    results = tempfile.mkdtemp(prefix="gi2nnunet-bench-results-")
    output = run(
        [sys.executable, str(Path(__file__).absolute()), "--inside", *what], folder,
        nnUNet_raw=str(workspace / "raw"), nnUNet_preprocessed=str(workspace / "preprocessed"),
        nnUNet_results=results, nnUNet_n_proc_DA=what[-1], OMP_NUM_THREADS="1",
        nnUNet_compile="f",
    )  # fmt: skip
    shutil.rmtree(results)
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def _make_trainer(plans: str, configuration: str, way: str, device: str) -> Any:
    from gi2nnunet.nnunet.child.pipeline import use_pipeline
    from gi2nnunet.nnunet.child.trainer import prepare_training

    dataset = str(Path("gi2nnunet-workspace", "preprocessed", DATASET))
    return prepare_training(
        "nnUNetTrainer", lambda base: use_pipeline(base, way, print), dataset_folder=dataset,
        plans_name=plans, configuration=configuration, fold="all", device=device, epochs=1000,
        iterations=None, threads=1, trust=False,
    )  # fmt: skip


def load(plans: str, configuration: str, way: str, wanted: str, workers: str) -> dict[str, Any]:
    """Load training batches; count seconds, bytes that were read and unpacked, and memory.

    Each batch begins with a seed of its own, so that all ways rotate the same samples, nearly.
    """
    import blosc2
    import numpy as np
    import torch

    run = _make_trainer(plans, configuration, way, "cpu")
    run._set_batch_size_and_oversample()
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    run.dataset_class = infer_dataset_class(run.preprocessed_dataset_folder)
    batches, _ = run.get_dataloaders()
    source = batches
    if way == "device":  # what its workers do; the thread beside them is the card's part
        source = batches._samples
        batches.finish()
    read = [0]
    plain = blosc2.NDArray.__getitem__

    def count(array: Any, key: Any) -> Any:
        found = plain(array, key)
        read[0] += found.nbytes
        return found

    blosc2.NDArray.__getitem__ = count
    next(source)
    read[0] = samples = 0
    wall, processor = time.perf_counter(), time.process_time()
    while samples < int(wanted):
        np.random.seed(samples)  # noqa: NPY002 - nnU-Net draws from it
        torch.manual_seed(samples)
        samples += len(next(source)["keys"])
    return {
        "processor_seconds": (time.process_time() - processor) / samples,
        "wall_seconds": (time.perf_counter() - wall) / samples,
        "read_bytes": read[0] / samples,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "samples": samples,
    }


def train(
    plans: str, configuration: str, way: str, iterations: str, workers: str
) -> dict[str, Any]:
    """Train and validate one epoch; count seconds and, on a card, the share that it computes.

    As in nnU-Net, a fifth as many batches are validated as are trained.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() and plans == "nnUNetPlans" else "cpu"
    run = _make_trainer(plans, configuration, way, device)
    run.on_train_start()
    run.on_epoch_start()
    run.on_train_epoch_start()
    for _ in range(3):
        run.train_step(next(run.dataloader_train))
    computing = 0.0
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(int(iterations)):
        batch = next(run.dataloader_train)
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            run.train_step(batch)
            end.record()
            end.synchronize()
            computing += begin.elapsed_time(end) / 1000
        else:
            run.train_step(batch)
    training = time.perf_counter() - wall
    with torch.no_grad():
        run.on_validation_epoch_start()
        for _ in range(int(iterations) // 5):
            run.validation_step(next(run.dataloader_val))
    seconds = time.perf_counter() - wall
    found = {
        "wall_seconds": seconds / int(iterations),
        "processor_seconds": (time.process_time() - processor) / int(iterations),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    if device == "cuda":
        found["computing_share"] = computing / training
    run.output_folder = None  # nothing of it is kept
    sys.stdout.flush()
    return found


def summarize(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def print_table(title: str, found: dict[str, dict[str, float]], *, unit: str) -> None:
    """Print a table of one case, with how many times less each way needs than nnU-Net's."""
    print(f"\n{title}\n\n| | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    stock = found["nnunet"]
    names = {
        "processor_seconds": (f"processor ms a {unit}", 1e3),
        "wall_seconds": (f"wall ms a {unit}", 1e3),
        "read_bytes": (f"MB read a {unit}", 1e-6),
        "peak_bytes": ("peak memory, MB", 1e-6),
        "computing_share": ("share that the card computes", 1.0),
    }
    for key, (name, factor) in names.items():
        if key in stock:
            cells = [
                f"{way[key] * factor:.3g}"
                + ("" if way is stock else f" ({stock[key] / way[key]:.2f} times less)")
                for way in found.values()
            ]
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Prepare, measure each case in turn, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument(
        "--case", action="append", choices=[*CASES, *TRAININGS], help="by default all"
    )
    parser.add_argument("--samples", type=int, default=60, help="for each measurement, in 3D")
    parser.add_argument("--repeats", type=int, default=2, help="of ours; nnU-Net's one more")
    parser.add_argument("--iterations", type=int, default=40, help="trained in an epoch")
    parser.add_argument("--workers", type=int, default=8, help="of the epoch on a card")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--inside", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        task, *words = options.inside
        print(json.dumps({"load": load, "train": train}[task](*words)))
        sys.stdout.flush()
        os._exit(0)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="gi2nnunet-bench-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "gi2nnunet-workspace").exists():
        prepare(folder)
    figures: dict[str, Any] = {}

    def compare(title: str, ways: tuple[str, ...], unit: str, *words: str, last: str) -> None:
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for way in [*ways * options.repeats, "nnunet"]:
            runs[way].append(measure(folder, *words[:3], way, *words[3:], last))
        figures[title] = {way: {"median": summarize(runs[way]), "runs": runs[way]} for way in ways}
        print_table(title, {way: figures[title][way]["median"] for way in ways}, unit=unit)

    for case in options.case or [*CASES, *TRAININGS]:
        if case in CASES:
            samples = options.samples * (10 if case == "2d" else 1)
            compare(case, WAYS, "sample", "load", *CASES[case], str(samples), last="0")
        elif TRAININGS[case][0] == "gi2nnunetTinyPlans":
            words = ("train", *TRAININGS[case], str(options.iterations))
            compare(case, WAYS[:2], "trained batch", *words, last="0")
        elif shutil.which("nvidia-smi"):
            words = ("train", *TRAININGS[case], str(options.iterations))
            compare(case, WAYS, "trained batch", *words, last=str(options.workers))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
