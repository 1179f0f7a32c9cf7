"""Time prediction of an ensemble against nnU-Net's own commands, side by side in one run.

    python scripts/bench_predict.py --scans 3 --folder /tmp/bench-predict

A phantom at the real size is converted and a tiny network trained for a few batches (2d and
3d_fullres, two folds each). Then the held-out scans are predicted twice: by nnU-Net's commands
(predict with saved probabilities for each configuration, then ensemble) and by gi2nnunet. Both get
all cores. Tells seconds a scan, the bytes of probabilities on disk, and the peak memory of all
processes together.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.volumes import read_volume

CONFIGURATIONS = ("2d", "3d_fullres")
PLANS = "gi2nnunetTinyPlans"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What commands took: wall-clock seconds, and the most memory at any moment (PSS)."""

    seconds: float
    peak_bytes: int


def run(words: Sequence[str], *, environment: Mapping[str, str], cwd: Path) -> Cost:
    """Run a command; watch the memory of it and all that it starts, shared pages counted once."""
    began = time.monotonic()
    process = subprocess.Popen(
        words, cwd=cwd, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.5):  # often enough for peaks of seconds, and cheap
            peak = max(peak, sum(map(read_pss, list_family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{said.decode()[-3000:]}")
    return Cost(seconds=time.monotonic() - began, peak_bytes=peak)


def list_family(pid: int) -> list[int]:
    """Return a process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        tasks = [entry.name for entry in Path(f"/proc/{pid}/task").iterdir()]
        for task in tasks:
            children += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(found for child in set(children) for found in list_family(int(child)))]


def read_pss(pid: int) -> int:
    """Return a process's proportional share of memory in bytes."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def prepare(folder: Path, *, scans: int) -> None:
    """Make the source, the dataset and the models."""
    ours = [sys.executable, "-m", "gi2nnunet"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    for words in (
        ["phantom", "--out", "source.zip", "--patients", str(4 + scans), "--days", "1",
         "--size", "266x266x144@1.5", "--easy", "--seed", "5"],
        ["convert", "source.zip", "--folds", "2", "--holdout", str(scans / (4 + scans))],
        ["train", "--fold", "cv", "--preset", "tiny", "--device", "cpu", "--epochs", "1",
         "--iterations", "10", "--trainer", "nnUNetTrainerAdam", "--lr", "0.006"],
    ):  # fmt: skip
        cost = run([*ours, *words], environment=environment, cwd=folder)
        print(f"prepared: {words[0]} ({cost.seconds:.0f} s)", flush=True)


def predict_plainly(folder: Path) -> tuple[Cost, int]:
    """Predict by nnU-Net's own commands; return the cost and the bytes of probabilities."""
    workspace = open_workspace(folder / "gi2nnunet-workspace", environ={})
    cores = count_cores()
    environment = {  # nothing but where its data lies: the rest is as its commands have it
        **os.environ,
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
    }
    tools = Path(sys.executable).parent
    costs, outs = [], []
    for configuration in CONFIGURATIONS:
        out = folder / f"plain_{configuration}"
        words = [
            str(tools / "nnUNetv2_predict"), "-i", str(folder / "images"), "-o", str(out),
            "-d", "501", "-c", configuration, "-p", PLANS, "-tr", "nnUNetTrainerAdam",
            "-f", "0", "1", "--save_probabilities", "-device", "cpu",
            "-npp", str(cores), "-nps", str(cores),
        ]  # fmt: skip
        costs.append(run(words, environment=environment, cwd=folder))
        outs.append(str(out))
    words = [str(tools / "nnUNetv2_ensemble"), "-i", *outs, "-o", str(folder / "plain"),
             "-np", str(cores)]  # fmt: skip
    costs.append(run(words, environment=environment, cwd=folder))
    stored = sum(path.stat().st_size for path in folder.glob("plain_*/*.npz"))
    return (
        Cost(
            seconds=sum(cost.seconds for cost in costs),
            peak_bytes=max(cost.peak_bytes for cost in costs),
        ),
        stored,
    )


def main() -> None:
    """Prepare, predict both ways, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scans", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="gi2nnunet-bench-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    workspace = folder / "gi2nnunet-workspace"
    if not list(workspace.glob("results/*/*/fold_1/checkpoint_final.pth")):
        prepare(folder, scans=options.scans)
    for path in [*folder.glob("plain*"), folder / "images", folder / "out"]:
        shutil.rmtree(path, ignore_errors=True)
    dataset = read_dataset(workspace / "raw", dataset_id=None)
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"][: options.scans]
    (folder / "images").mkdir()
    for scan_id in held_out:
        shutil.copy(dataset.image_path(scan_id), folder / "images")
    plain, stored = predict_plainly(folder)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    words = [sys.executable, "-m", "gi2nnunet", "predict", "images", "--fold", "cv", "--nifti",
             "--device", "cpu", "--out", "out"]  # fmt: skip
    ours = run(words, environment=environment, cwd=folder)
    equal = total = 0
    for scan_id in held_out:
        bits = read_volume(folder / "out" / "labels" / f"{scan_id}.nii.gz").array
        theirs = read_volume(folder / "plain" / f"{scan_id}.nii.gz").array
        painted = np.zeros_like(bits)
        alone = np.ones(bits.shape, np.bool_)
        for bit in ORGAN_BITS:
            painted[(bits & bit) != 0] = bit
            alone &= ((bits & bit) == 0) | (bits == bit)
        equal += int(np.count_nonzero((painted == theirs) & alone))
        total += int(np.count_nonzero(alone))
    n = len(held_out)
    print(
        f"\n{n} scans of 266x266x144, 2d + 3d_fullres, 2 folds each, tiny, {count_cores()} cores\n"
    )
    print("| | nnU-Net's commands | gi2nnunet | ratio |")
    print("|---|---|---|---|")
    print(
        f"| seconds a scan | {plain.seconds / n:.1f} | {ours.seconds / n:.1f} | "
        f"{plain.seconds / ours.seconds:.2f} |"
    )
    print(f"| probabilities on disk (MB a scan) | {stored / n / 1e6:.0f} | 0 | |")
    print(
        f"| peak memory (MB) | {plain.peak_bytes / 1e6:.0f} | {ours.peak_bytes / 1e6:.0f} | "
        f"{plain.peak_bytes / ours.peak_bytes:.2f} |"
    )
    print(f"\nEqual voxels where organs do not overlap: {equal} of {total} ({equal / total:.6%}).")
    if options.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
