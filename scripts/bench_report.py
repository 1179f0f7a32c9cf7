"""Time and weigh the report of a workspace at the real size.

    python scripts/bench_report.py --scans 50

The scans are phantoms of 144 slices of 266x266, three of them many times over; the predictions are
their true masks, moved and with slices lost, so no network is needed, and they are scored as
predict-and-score does. Ten trainings of 1000 epochs are made up as well. With ``--folder`` the
workspace is kept and used again. ``--against`` names a checkout of another version, which makes the
same page in turn with this one:

    git worktree add --detach ../before b0bfa68
    python scripts/bench_report.py --scans 50 --against ../before
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.convert import convert
from gi2nnunet.dataset.manifest import Dataset, read_dataset
from gi2nnunet.dataset.splits import SplitOptions
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.formats.submission import encode_scan, write_submission
from gi2nnunet.formats.tables import read_mask_table
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.scoring.record import write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom

DISTINCT = 3
SIZE = Geometry(width=266, height=266, slices=144, spacing_mm=(1.5, 1.5))
STAMP = "2026-01-01 00:00:00.000000:"


def make_workspace(folder: Path, *, scans: int) -> Workspace:
    workspace = open_workspace(folder / "workspace", environ={})
    done = workspace.predictions / "made-up" / "submission.csv"
    if done.is_file():
        return workspace
    source = folder / "source"
    if not source.exists():
        write_phantom(
            source, patients=DISTINCT, days=1, geometries=[SIZE], seed=1,
            as_zip=False, jobs=count_cores(),
        )  # fmt: skip
        multiply(source / "train", source / "train.csv", scans=scans)
    dataset = convert(source, workspace=workspace, split=SplitOptions(holdout=0))
    shutil.rmtree(source)
    for configuration in ("2d", "3d_fullres"):
        for fold in range(5):
            model = f"nnUNetTrainer__nnUNetPlans__{configuration}"
            training = workspace.results / dataset.name / model / f"fold_{fold}"
            training.mkdir(parents=True)
            (training / "training_log_2026_1_1_00_00_00.txt").write_text(make_log(1000))
    done.parent.mkdir(parents=True, exist_ok=True)
    write_submission(done, predict(dataset))
    truth = read_mask_table(dataset.truth_path)
    spacing_mm = {scan.scan_id: scan.spacing_mm for scan in dataset.scans}
    score = score_submission(done, truth, medical=True, spacing_mm=spacing_mm)
    write_score(score, done.parent, truth=truth, about={})
    return workspace


def multiply(train: Path, table: Path, *, scans: int) -> None:
    """Give the same scans to more patients, until there are as many scans as asked for."""
    header, *rows = table.read_text().splitlines()
    folders = sorted(train.glob("case*/case*_day*"))
    for number in range(scans - len(folders)):
        old = folders[number % len(folders)].name
        new = f"case{900 + number}_day0"
        shutil.copytree(
            train / old.partition("_")[0] / old,
            train / new.partition("_")[0] / new,
            copy_function=os.link,
        )
        rows += [row.replace(old, new, 1) for row in rows if row.startswith(f"{old}_")]
    table.write_text("\n".join([header, *rows, ""]))


def predict(dataset: Dataset) -> list[tuple[str, str, str]]:
    """Return rows of masks that are wrong in a way of their own in each scan."""
    rows: list[tuple[str, str, str]] = []
    for number, scan in enumerate(dataset.scans):
        chance = np.random.default_rng(number)
        masks = read_volume(dataset.label_path(scan.scan_id)).array.astype(np.uint8)
        masks = np.roll(masks, chance.integers(-2, 3, 2), axis=(1, 2))
        masks[chance.random(len(masks)) < 0.03] = 0
        rows += encode_scan(scan.scan_id, scan.numbers, masks)
    return rows


def make_log(epochs: int) -> str:
    chance = np.random.default_rng(0)
    lines = []
    for epoch in range(epochs):
        loss, dice = chance.normal(-0.8, 0.02, 2), chance.normal(0.85, 0.03, 3).clip(0, 1)
        lines += [
            f"{STAMP} Epoch {epoch} ",
            f"{STAMP} Current learning rate: {0.01 * (1 - epoch / epochs) ** 0.9:.5f} ",
            f"{STAMP} train_loss {loss[0]:.4f} ",
            f"{STAMP} val_loss {loss[1]:.4f} ",
            f"{STAMP} Pseudo dice [{', '.join(f'np.float32({value:.4f})' for value in dice)}] ",
            f"{STAMP} Epoch time: 60.00 s ",
        ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one page: wall-clock and processor seconds, its size, the process at its height."""

    seconds: float
    processor: float
    megabytes: float
    gib: float


def measure(code: Path, workspace: Workspace, *options: str) -> Cost:
    root = workspace.predictions.parent.resolve()
    command = [
        sys.executable, "-m", "gi2nnunet", "report", "--workspace", str(root),
        "--out", str(root / "report.html"), *options,
    ]  # fmt: skip
    began = time.monotonic()
    child = subprocess.Popen(
        command, cwd=code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed in {code}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        seconds=time.monotonic() - began,
        processor=usage.ru_utime + usage.ru_stime,
        megabytes=(root / "report.html").stat().st_size / 1e6,
        gib=usage.ru_maxrss * unit / 2**30,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time and weigh the report.")
    parser.add_argument("--scans", type=int, default=50)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--against", type=Path, help="checkout of another version")
    parser.add_argument("--repeat", type=int, default=3, help="runs, of which the fastest counts")
    given = parser.parse_args()
    codes = {"this version": Path(__file__).resolve().parents[1]}
    if given.against:
        codes["the other"] = given.against.resolve()
    with tempfile.TemporaryDirectory() as scratch:
        workspace = make_workspace(given.folder or Path(scratch), scans=given.scans)
        n_scans = len(read_dataset(workspace.raw).scans)
        print(f"{n_scans} scans of {SIZE.slices} x {SIZE.height} x {SIZE.width}")
        heads = ("seconds", "cpu s", "MB", "memory GiB")
        print(f"{'':24}" + "".join(f"{head:>12}" for head in heads))
        for name, options in (("default", ()), ("--all", ("--all",))):
            costs: dict[str, list[Cost]] = {code: [] for code in codes}
            for _ in range(given.repeat):
                for code, path in codes.items():
                    costs[code].append(measure(path, workspace, *options))
            best = {
                code: min(some, key=lambda cost: cost.processor) for code, some in costs.items()
            }
            for code, cost in best.items():
                values = (cost.seconds, cost.processor, cost.megabytes, cost.gib)
                print(f"{name + ', ' + code:24}" + "".join(f"{value:12.2f}" for value in values))
            if len(best) == 2:
                mine, other = (cost.processor for cost in best.values())
                print(f"{name}: {mine / other:.2f} of the other's processor time")


if __name__ == "__main__":
    main()
