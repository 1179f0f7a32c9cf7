"""Bit-coded labels against exclusive ones: two trainings of the same budget, scored out of fold.

    python scripts/study_labels.py --masks train.csv --sizes slices.csv

Images are painted onto given masks (``phantom --masks``), converted twice, and each workspace is
planned and trained alike: every fold, the same epochs and batches. Every scan is predicted by the
fold that did not see its patient, masks are decided plainly, and the two submissions are held
against the truth. Told besides: the score that a flawless network would reach under each coding
(the labels themselves, encoded), and what either found of the voxels that belong to two organs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import ORGAN_BITS
from gi2nnunet.formats.volumes import read_volume

SCHEMES = ("exclusive", "regions")
OUT = Path("predictions/out")


def run(*words: str, cwd: Path) -> str:
    """Run one of our commands and return its standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "gi2nnunet", *words],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"gi2nnunet {' '.join(words)} failed:\n{done.stderr[-3000:]}")
    print(f"{cwd.name}: {words[0]} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    return done.stdout


def follow(folder: Path, *, scheme: str, options: argparse.Namespace) -> None:
    """Convert under one scheme, train every fold, predict out of fold and encode the labels."""
    folder.mkdir(exist_ok=True)
    device = ("--device", options.device)
    configurations = [word for name in options.config for word in ("--config", name)]
    run("convert", "../source.zip", "--labels", scheme, "--holdout", "0",
        "--folds", str(options.folds), cwd=folder)  # fmt: skip
    run("train", "--fold", "cv", "--preset", options.preset, *configurations, *device,
        "--epochs", str(options.epochs), "--iterations", str(options.iterations),
        "--trainer", "nnUNetTrainerAdam", "--lr", "0.006", cwd=folder)  # fmt: skip
    run("predict", "--fold", "cv", *configurations, *device, "--nifti", "--no-tuning",
        "--out", str(OUT), cwd=folder)  # fmt: skip
    raw = read_dataset(folder / "gi2nnunet-workspace" / "raw", dataset_id=None)
    run("encode", str(raw.folder / "labelsTr"), "--out", "labels.csv", cwd=folder)


def count_overlap(folder: Path, truth: Path) -> tuple[int, int]:
    """Return how many voxels of two organs were predicted in both, and how many there are."""
    space = open_workspace(truth / "gi2nnunet-workspace", environ={})
    dataset = read_dataset(space.raw, dataset_id=None)
    found = total = 0
    for scan in dataset.scans:
        true = read_volume(dataset.label_path(scan.scan_id)).array.astype(np.uint8)
        made = read_volume(folder / OUT / "labels" / f"{scan.scan_id}.nii.gz").array
        many = sum((true & bit) != 0 for bit in ORGAN_BITS) > 1
        total += int(np.count_nonzero(many))
        found += int(np.count_nonzero((made[many] & true[many]) == true[many]))
    return found, total


def main() -> None:
    """Follow both ways and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--masks", type=Path, required=True, help="CSV of the competition's form")
    parser.add_argument("--sizes", type=Path, required=True, help="see gi2nnunet phantom --sizes")
    parser.add_argument("--config", action="append", help="2d by default; may be repeated")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="kept, and gone on with; else a temporary one")
    options = parser.parse_args()
    options.config = options.config or ["2d"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "source.zip").exists():
            run("phantom", "--out", "source.zip", "--masks", str(options.masks.absolute()),
                "--sizes", str(options.sizes.absolute()), cwd=folder)  # fmt: skip
        for scheme in SCHEMES:
            follow(folder / scheme, scheme=scheme, options=options)
        show(folder, options=options)


def show(folder: Path, *, options: argparse.Namespace) -> None:
    """Hold both to the truth and print."""
    exclusive, regions = (folder / scheme for scheme in SCHEMES)
    # The bit-coded labels give the source's own rows back byte for byte: they are the truth.
    truth = str(regions / "labels.csv")
    words = ("--truth", truth, "--images", str(folder / "source.zip"), "--json")

    def compare(name: str) -> dict[str, dict[str, float]]:
        a, b = (str(where / name) for where in (exclusive, regions))
        differences: dict[str, dict[str, float]] = json.loads(
            run("compare", a, b, *words, cwd=folder)
        )["differences"]
        return differences

    ceiling = compare("labels.csv")
    made = compare(str(OUT / "submission.csv"))
    print(
        f"{' + '.join(options.config)}, {options.preset}, {options.folds} folds, "
        f"{options.epochs} epochs of {options.iterations} batches\n"
    )
    print("| | exclusive | regions | regions - exclusive | 95 % interval |")
    print("|---|---|---|---|---|")
    rows = [("labels themselves, score", ceiling["score"])]
    rows += [(f"out of fold, {part}", made[part]) for part in ("score", "dice", "hausdorff")]
    rows += [
        (f"out of fold, {organ.replace('_', ' ')}, Dice", made[f"{organ}.dice"]) for organ in ORGANS
    ]
    for name, d in rows:
        print(
            f"| {name} | {d['a']:.4f} | {d['b']:.4f} | {d['difference']:+.4f} | "
            f"{d['low']:+.4f} to {d['high']:+.4f} |"
        )
    for scheme in SCHEMES:
        found, total = count_overlap(folder / scheme, regions)
        print(
            f"\n{scheme}: {found} of {total} voxels of two organs found in both "
            f"({found / total:.1%})"
        )


if __name__ == "__main__":
    main()
