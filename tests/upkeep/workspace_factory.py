"""Pieces of a workspace as the commands leave them, small."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gi2nnunet.core.files import write_json
from gi2nnunet.core.seals import hash_file
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.probabilities import SUFFIX, to_eight_bits, write_probabilities
from gi2nnunet.formats.tables import format_rows, read_mask_table, take_rows
from gi2nnunet.nnunet.models import DIGESTS
from gi2nnunet.prediction.out_of_fold import describe_stored
from gi2nnunet.scoring.record import write_score
from gi2nnunet.scoring.score import score_submission

NAME = "Dataset501_UWGI"
STOCK = "nnUNetTrainer__gi2nnunetTinyPlans"
SETTINGS = {
    "trainer": "nnUNetTrainer", "epochs": 40, "iterations": 50, "learning_rate": None,
    "pretrained_weights": None,
}  # fmt: skip
_STAMP = "2026-11-24 00:55:09.567062:"


def write_log(epochs: int) -> str:
    """Return nnU-Net's log of some epochs of 10.38 s."""
    lines = []
    for epoch in range(epochs):
        lines += [
            f"{_STAMP} Epoch {epoch} ",
            f"{_STAMP} train_loss -0.5 ",
            f"{_STAMP} val_loss -0.3013 ",
            f"{_STAMP} Pseudo dice [np.float32(0.6759), np.float32(nan), np.float32(0.25)] ",
            f"{_STAMP} Epoch time: 10.38 s ",
        ]
    return "\n".join(lines) + "\n"


def add_training(
    workspace: Workspace,
    *,
    model: str = f"{STOCK}__2d",
    fold: object = 0,
    epochs: int = 40,
    done: bool = True,
    name: str = NAME,
    **record: Any,
) -> Path:
    """Write a fold's folder as a training leaves it; return it."""
    folder = workspace.results / name / model / f"fold_{fold}"
    folder.mkdir(parents=True)
    (folder / "training_log_2026_1_1_00_00_00.txt").write_text(write_log(epochs))
    runs = [{"device": "cpu", "threads": 2}]
    write_json(
        folder / "gi2nnunet_training.json",
        {"settings": SETTINGS, "preset": "tiny", "runs": runs, **record},
    )
    (folder.parent / "plans.json").write_text("{}")
    checkpoint = folder / f"checkpoint_{'final' if done else 'latest'}.pth"
    checkpoint.write_bytes(b"weights" * 100)
    write_json(folder / DIGESTS, {checkpoint.name: [hash_file(checkpoint)]})
    return folder


def add_out_of_fold(
    workspace: Workspace,
    dataset: Dataset,
    *,
    model: str = f"{STOCK}__2d",
    without: Mapping[str, str] | None = None,
    scan_ids: Collection[str] | None = None,
) -> Path:
    """Store out-of-fold predictions that are the truth; return their folder.

    ``without`` names an organ that is missed by scan id; ``scan_ids`` are all by default.
    """
    folder = workspace.predictions / dataset.name / "out_of_fold" / model
    results = workspace.results / dataset.name
    for scan_id, stored in describe_stored(dataset).items():
        about = stored | _read_checkpoint(results / model / f"fold_{stored['fold']}", "checkpoint")
        if scan_ids is not None and scan_id not in scan_ids:
            continue
        scan, masks = dataset.scan(scan_id), dataset.read_masks(scan_id)
        if missed := (without or {}).get(scan_id):
            masks[missed][:] = False
        write_probabilities(
            folder / f"{scan_id}{SUFFIX}", to_eight_bits(np.stack(list(masks.values()))),
            scan_id=scan_id, numbers=scan.numbers, spacing_mm=scan.spacing_mm, about=about,
        )  # fmt: skip
    return folder


def add_prediction(
    workspace: Workspace,
    dataset: Dataset,
    *,
    folder: str = f"held-out/{STOCK}__2d__fold_0",
    trained: tuple[str, ...] = (f"{STOCK}__2d",),
    folds: tuple[object, ...] = (0,),
    scan_ids: Sequence[str] = (),
) -> Path:
    """Write a scored prediction that is the truth of scans, by default one; return its folder."""
    out = workspace.predictions / folder
    out.mkdir(parents=True)
    wanted = scan_ids or [dataset.scans[0].scan_id]
    table = take_rows(read_mask_table(dataset.truth_path, any_scan=True), wanted)
    assert table is not None
    (out / "submission.csv").write_text(format_rows(table.list_rows(), "predicted"))
    about: dict[str, Any] = {
        "standing": "held-out", "command": "gi2nnunet predict-and-score",
        "scans": "the held-out test scans", "dataset": dataset.name, "models": "2d",
        "options": {"source": None, "trained": list(trained), "folds": list(folds)},
    }  # fmt: skip
    results = workspace.results / dataset.name
    checkpoints: dict[str, dict[str, str]] = {model: {} for model in trained}
    for model, fold in product(trained, folds):
        checkpoints[model] |= _read_checkpoint(results / model / f"fold_{fold}", str(fold))
    about["checkpoints"] = checkpoints
    noted = {**about, "sha256": {"submission.csv": hash_file(out / "submission.csv")}}
    write_json(out / "prediction.json", noted)
    score = score_submission(out / "submission.csv", table)
    write_score(score, out, truth=table, about=about)
    return out


def replace_checkpoint(fold: Path) -> None:
    """Put another checkpoint in the place of a fold's, as another training does."""
    checkpoint = fold / "checkpoint_final.pth"
    checkpoint.write_bytes(b"others" * 100)
    write_json(fold / DIGESTS, {checkpoint.name: [hash_file(checkpoint)]})


def _read_checkpoint(fold: Path, key: str) -> dict[str, str]:
    """Return the short digest of a fold's checkpoint under a key; nothing of a missing one."""
    checkpoint = fold / "checkpoint_final.pth"
    return {key: hash_file(checkpoint)[:16]} if checkpoint.is_file() else {}


def add_tuning(workspace: Workspace, *folds: Path) -> Path:
    """Write the file of a tuning of these folds' checkpoints; return it."""
    choice = {"threshold": 0.4, "gate": 0.6, "smallest_ml": 1.0, "fill_slices": 2, "weights": {}}
    checkpoints: dict[str, dict[str, str]] = {}
    for folder in folds:
        digest = hash_file(folder / "checkpoint_final.pth")[:16]
        fold = folder.name.removeprefix("fold_")
        checkpoints.setdefault(folder.parent.name, {})[fold] = digest
    path = folds[0].parent.parent / "gi2nnunet_tuning_0123456789ab.json"
    content = {
        "format": 1, "models": sorted(checkpoints), "checkpoints": checkpoints,
        "metric": "per-class", "decision": {"stomach": choice},
        "gains": {"all": {"plain": 0.7, "tuned": 0.75, "gain": 0.05, "low": 0.01, "high": None}},
        "n_scans": 9, "n_patients": 6, "n_folds": 3,
    }  # fmt: skip
    path.write_text(json.dumps(content))
    return path
