"""Trainings with our data pipeline against trainings with nnU-Net's: the same budget, several each.

    python scripts/study_augment.py --masks train.csv --sizes slices.csv

Images are painted onto given masks (``phantom --masks``) and converted once. Each way trains fold
0 several times, as a training has no seed. Compared are nnU-Net's own measures on patches of the
patients that the fold leaves out, averaged over the last epochs: its loss and its "pseudo Dice".
What was found is kept in the folder, which continues.
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

import numpy as np

from gi2nnunet.nnunet.presets import Augment
from gi2nnunet.training.record import read_curves


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


def train(folder: Path, augment: str, options: argparse.Namespace) -> dict[str, float]:
    """Train from the start and return the measures."""
    words = ("train", "--fold", "0", "--preset", "tiny", "--config", options.config, "--restart",
             "--batch-size", str(options.batch_size), "--epochs", str(options.epochs),
             "--iterations", str(options.iterations), "--device", options.device,
             "--trainer", "nnUNetTrainerAdam", "--lr", "0.006", "--augment", augment,
             "--threads", str(options.threads), "--no-checks", "--json",
             *(("--patch-size", options.patch_size) if options.patch_size else ()))  # fmt: skip
    (training,) = json.loads(run(*words, cwd=folder))["trainings"]
    last = read_curves(Path(training["folder"]))[-options.last :]
    return {
        "validation loss": statistics.fmean(epoch.val_loss for epoch in last),
        "pseudo Dice": statistics.fmean(float(np.nanmean(e.pseudo_dice)) for e in last),
    }


def main() -> None:
    """Train each way once, then each way again; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--masks", type=Path, required=True, help="CSV of the competition's form")
    parser.add_argument("--sizes", type=Path, required=True, help="see gi2nnunet phantom --sizes")
    parser.add_argument("--config", default="2d")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--patch-size", help="as for train; by default the preset's")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--last", type=int, default=3, help="epochs to average over")
    parser.add_argument("--augment", action="append", choices=get_args(Augment), help="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="kept, and continued; else a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"found_{options.config}.json"
        if not (folder / "gi2nnunet-workspace").exists():
            run("phantom", "--out", "source.zip", "--masks", str(options.masks.absolute()),
                "--sizes", str(options.sizes.absolute()), cwd=folder)  # fmt: skip
            run("convert", "source.zip", "--holdout", "0.3", cwd=folder)
        found: dict[str, list[dict[str, float]]] = {}
        if kept.exists():
            found = json.loads(kept.read_text())
        for repeat in range(options.repeats):
            for way in options.augment or get_args(Augment):
                measures = found.setdefault(way, [])
                if len(measures) <= repeat:
                    measures.append(train(folder, way, options))
                    kept.write_text(json.dumps(found))
                    print(f"{way}: {measures[-1]}", file=sys.stderr, flush=True)
    print(
        f"{options.config}, tiny, {options.epochs} epochs of {options.iterations} batches of "
        f"{options.batch_size}, patches of {options.patch_size or 'the preset'}\n\n"
        "| | | each training | mean | mean - nnU-Net's | highest - lowest |"
        "\n|---|---|---|---|---|---|"
    )
    if "nnunet" not in found:
        sys.exit(f"{kept}: no training by nnunet yet to compare with; run it with --augment nnunet")
    for name in found["nnunet"][0]:
        stock = statistics.fmean(measure[name] for measure in found["nnunet"])
        for way, measures in found.items():
            values = [measure[name] for measure in measures]
            mean = statistics.fmean(values)
            print(
                f"| {name} | `{way}` | {', '.join(f'{value:.3f}' for value in values)} | "
                f"{mean:.3f} | {mean - stock:+.3f} | {max(values) - min(values):.3f} |"
            )


if __name__ == "__main__":
    main()
