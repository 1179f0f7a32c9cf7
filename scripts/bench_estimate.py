"""Estimate a training from a short run, then train it, and set the two side by side.

    python scripts/bench_estimate.py --epochs 4 --iterations 15

Makes a small phantom, converts and plans it, runs what ``gi2nnunet estimate --measure`` runs, then
what ``gi2nnunet train`` runs, all with the tiny preset on the CPU, in a temporary folder. Measures
once more at the end: if the two short runs differ, the machine was busy with other things, and the
ratios depend on these as well.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from gi2nnunet.dataset.convert import convert
from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.splits import SplitOptions
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.presets import CONFIGURATIONS, PRESETS, PlanOptions, TrainingSettings
from gi2nnunet.source.phantom.frame import Geometry
from gi2nnunet.source.phantom.writing import write_phantom
from gi2nnunet.training.estimate import MEASURE_SECONDS, Request, estimate_costs
from gi2nnunet.training.plan import plan_dataset
from gi2nnunet.training.train import TrainingOrder, train_folds

GEOMETRY = Geometry(width=96, height=96, slices=32, spacing_mm=(3.0, 3.0))


def main() -> None:
    """Measure, train, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=15)
    parser.add_argument("--config", nargs="+", default=list(CONFIGURATIONS))
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(Path(name), epochs=asked.epochs, iterations=asked.iterations, names=asked.config)


def run(folder: Path, *, epochs: int, iterations: int, names: list[str]) -> None:
    """Do all of it in a folder, and print the ratios."""
    write_phantom(
        folder / "source", patients=5, days=1, geometries=[GEOMETRY], detail="easy",
        test_patients=0, fill_sample=True, seed=3,
    )  # fmt: skip
    space = open_workspace(folder / "workspace", environ={})
    convert(folder / "source", workspace=space, split=SplitOptions(holdout=0))
    dataset = read_dataset(space.raw)
    engine = Engine(workspace=space, environ=os.environ, device="cpu")
    plan = plan_dataset(
        dataset, PlanOptions(preset="tiny", configurations=tuple(names)), engine=engine
    )
    settings = TrainingSettings(epochs=epochs, iterations=iterations)
    known = Request(
        preset=PRESETS["tiny"], configurations=names, folds=(0,), settings=settings
    )  # fmt: skip
    short_run = replace(known, measure_seconds=MEASURE_SECONDS)
    before = estimate_costs(dataset, engine=engine, request=short_run)
    actual = {}
    for name in names:
        one = replace(plan, configurations={name: plan.configurations[name]})
        began = time.monotonic()
        train_folds(
            TrainingOrder(dataset=dataset, plan=one, engine=engine, settings=settings), (0,)
        )
        actual[name] = time.monotonic() - began
    trained = estimate_costs(dataset, engine=engine, request=known)
    again = estimate_costs(dataset, engine=engine, request=short_run)
    print(f"{engine.hardware.name}; {epochs} epochs of {iterations} batches")
    print("what                          predicted   actual    ratio")
    for training in before.trainings:
        name = training.configuration
        epoch = trained.paces[name].epoch_seconds
        for what, guess, real in (
            ("an epoch, s", training.epoch_seconds, epoch),
            ("measured after, s", again.paces[name].epoch_seconds, epoch),
            ("the training, s", training.seconds, actual[name]),
        ):
            print(f"{name:<10} {what:<18} {guess:8.2f} {real:8.2f} {guess / real:8.2f}")


if __name__ == "__main__":
    main()
