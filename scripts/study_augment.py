"""Trainings with our data pipeline against trainings with nnU-Net's: the same budget, several each.

    python scripts/study_augment.py --labels train.csv --sizes slices.csv

Images are painted onto given masks (``phantom --labels``) and converted once. Each way trains a
model on all training patients, several times, as a training has no seed; each model is scored on
the patients that were held out. What each model scored is kept in the folder, which continues.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from gi2nnunet.nnunet.presets import Augment


def run(*words: str, cwd: Path) -> str:
    """Run one of our commands and return its standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *words],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"gi2nnunet {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def train_and_score(folder: Path, augment: str, options: argparse.Namespace) -> float:
    """Train one model from the start and return its score on the patients held out."""
    name = ("--preset", "tiny", "--config", options.config, "--device", options.device)
    run("train", "--fold", "all", *name, "--augment", augment, "--restart",
        "--epochs", str(options.epochs), "--iterations", str(options.iterations),
        "--trainer", "nnUNetTrainerAdam", "--lr", "0.006", "--no-checks", cwd=folder)  # fmt: skip
    run("predict-and-score", "--fold", "all", *name, "--no-tuning", "--out", "out", cwd=folder)
    score: float = json.loads((folder / "out" / "score.json").read_text())["score"]
    return score


def main() -> None:
    """Train and score in turn: each way once, then each way again; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--labels", type=Path, required=True, help="CSV of the competition's form")
    parser.add_argument("--sizes", type=Path, required=True, help="see gi2nnunet phantom --sizes")
    parser.add_argument("--holdout", default="0.3", help="share of the patients")
    parser.add_argument("--config", default="2d")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="kept, and continued; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"scores_{options.config}.json"
        if not (folder / "gi2nnunet-workspace").exists():
            run("phantom", "source.zip", "--labels", str(options.labels.absolute()),
                "--sizes", str(options.sizes.absolute()), cwd=folder)  # fmt: skip
            run("convert", "source.zip", "--holdout", options.holdout, cwd=folder)
        scores: dict[str, list[float]] = {way: [] for way in get_args(Augment)}
        if kept.exists():
            scores.update(json.loads(kept.read_text()))
        for repeat in range(options.repeats):
            for way, found in scores.items():
                if len(found) <= repeat:
                    found.append(train_and_score(folder, way, options))
                    kept.write_text(json.dumps(scores))
                    print(f"{way}: {found[-1]:.4f}", file=sys.stderr, flush=True)
    stock = statistics.fmean(scores["nnunet"])
    print(f"{options.config}, tiny, {options.epochs} epochs of {options.iterations} batches\n")
    print("| | score of each training | mean | mean - nnU-Net's | highest - lowest |")
    print("|---|---|---|---|---|")
    for way, found in scores.items():
        mean = statistics.fmean(found)
        print(
            f"| `{way}` | {', '.join(f'{score:.4f}' for score in found)} | {mean:.4f} | "
            f"{mean - stock:+.4f} | {max(found) - min(found):.4f} |"
        )


if __name__ == "__main__":
    main()
