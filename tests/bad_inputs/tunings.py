"""What ``out-of-fold``, ``tune`` and ``compare-models`` are given: models, folds, truth, files.

All of it is told before nnU-Net is started.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from gi2nnunet.dataset.manifest import read_dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.probabilities import SUFFIX, write_probabilities
from gi2nnunet.nnunet.models import IMPORT_RECORD, choose_ensemble, list_models
from gi2nnunet.nnunet.postprocess import tuning_path
from gi2nnunet.prediction.out_of_fold import predict_out_of_fold
from gi2nnunet.prediction.predict import PredictedScans
from tests.bad_inputs.entry import BadInput, make_nothing
from tests.bad_inputs.making import NAME, RAW, Make, edit_json, remove, then
from tests.engines import compute

SPACE = "gi2nnunet-workspace"
RESULTS = f"{SPACE}/results/{NAME}"
MANIFEST = f"{RAW}/manifest.json"
THREE = ("out-of-fold", "tune", "compare-models")
WITH_TRUTH = ("tune", "compare-models")
COMPUTING = "--device cpu --threads 1"
FIRST = "case2_day1"
FOLDS = (0, 1)


def train(*folds: int, configuration: str = "2d", plans: str = "gi2nnunetTinyPlans") -> Make:
    """Make what looks like a model of these folds."""

    def make(here: Path) -> None:
        folder = here / RESULTS / f"nnUNetTrainer__{plans}__{configuration}"
        for fold in folds:
            (folder / f"fold_{fold}").mkdir(parents=True)
            (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(b"weights")
        (folder / "dataset.json").write_bytes((here / RAW / "dataset.json").read_bytes())

    return make


def code_otherwise(configuration: str) -> Make:
    return edit_json(
        f"{RESULTS}/nnUNetTrainer__gi2nnunetTinyPlans__{configuration}/dataset.json",
        lambda described: described["labels"].update(stomach=3),
    )


def forget(here: Path) -> None:
    """Make the model one that came without the list of what it saw."""
    for folder in (here / RESULTS).glob("*__2d/fold_*"):
        (folder / IMPORT_RECORD).write_text(json.dumps({"trained_on": None, "n_folds": 2}))


def deal_out_twice(manifest: dict) -> None:
    """Put the two days of one patient into the validation of two folds."""
    mine, other = ["case2_day1", "case2_day10"], ["case10_day0"]
    manifest["recipe"]["splits"] = [
        {"train": other, "val": mine[:1]},
        {"train": other, "val": mine[1:]},
        {"train": mine, "val": other},
    ]


def hide_label(manifest: dict) -> None:
    for scan in manifest["scans"]:
        scan["labelled"] = scan["labelled"] and scan["scan_id"] != FIRST


def predict_all(here: Path) -> None:
    """Leave probabilities of every scan, as if they had been predicted."""
    workspace = open_workspace(here / SPACE, environ={})

    def engine(ensemble: Any, scans: Any, **given: Any) -> PredictedScans:
        for scan in scans:
            shape = read_dataset(workspace.raw).scan(scan.scan_id).shape
            write_probabilities(
                given["probability_folders"][ensemble.models[0].folder.name]
                / f"{scan.scan_id}{SUFFIX}",
                np.zeros((len(ORGANS), *shape), np.uint8), scan_id=scan.scan_id,
                numbers=scan.numbers, spacing_mm=(3, 1.5, 1.5), about=given["about"][scan.scan_id],
            )  # fmt: skip
        return PredictedScans(scans=())

    with mock.patch("gi2nnunet.prediction.out_of_fold.predict_scans", engine):
        predict_out_of_fold(
            read_dataset(workspace.raw),
            choose_ensemble(workspace.results / NAME, n_folds=2, folds=["cv"]),
            **compute(workspace, threads=1),
        )  # fmt: skip


def cut_probabilities(here: Path) -> None:
    (path,) = (here / SPACE / "predictions").rglob(f"{FIRST}{SUFFIX}")
    path.write_bytes(path.read_bytes()[:-5])


def write_tuning(content: str) -> Make:
    def make(here: Path) -> None:
        tuning_path(list_models(here / RESULTS)).write_text(content)

    return make


def lock_results(monkeypatch: Any) -> None:
    allowed = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode, **how: not str(path).endswith(RESULTS) and allowed(path, mode, **how),
    )


def entries(
    name: str, commands: tuple[str, ...], make: Make, *message: str, **more: Any
) -> tuple[BadInput, ...]:
    return tuple(
        BadInput(
            name=f"{command}: {name}",
            start="converted",
            make=make,
            command=f"{command} {COMPUTING}",
            message=message,
            **more,
        )
        for command in commands
    )


CHOICE = {
    "weights": {"4d": 1}, "threshold": 7, "gate": 0, "smallest_ml": 0, "fill_slices": 0,
}  # fmt: skip
FOR_NONE = {"format": 1, "gains": {}, "models": ["x"], "decision": {}, "checkpoints": {}}
MODEL = "nnUNetTrainer__gi2nnunetTinyPlans__2d"
FOR_MODEL = FOR_NONE | {"models": [MODEL], "checkpoints": {MODEL: {}}}
WHOLE = train(*FOLDS)
TRAIN_THEM = "gi2nnunet train"

TUNINGS = (
    *entries("no model", WITH_TRUTH, make_nothing, "Dataset501_UWGI: ", TRAIN_THEM),
    *entries(
        "a fold that is not trained",
        ("out-of-fold", "tune"),
        train(0),
        "no finished model with these options",
        "Finished: 2d fold 0 (",
        TRAIN_THEM,
    ),
    *entries(
        "a fold that is not trained",
        ("compare-models",),
        train(0),
        "no configuration with every fold of the split",
        "nnUNetTrainer__gi2nnunetTinyPlans__2d: left out, as fold 1 is not trained",
        TRAIN_THEM,
    ),
    *entries(
        "no such configuration",
        ("out-of-fold --config 3d_lowres", "tune --config 4d"),
        WHOLE,
        "no finished model with these options (--config ",
        "Finished: 2d fold 0, 1",
        TRAIN_THEM,
    ),
    *entries(
        "no such preset",
        ("compare-models --preset resenc-l",),
        WHOLE,
        "no configuration with every fold of the split",
        TRAIN_THEM,
    ),
    *entries(
        "a model that does not tell what it saw",
        THREE,
        then(WHOLE, forget),
        "2d, fold 0, 1, nnUNetTrainer, gi2nnunetTinyPlans",
        "it is not known which scans the models were trained on",
        TRAIN_THEM,
    ),
    *entries(
        "labels that are exclusive",
        THREE,
        then(WHOLE, edit_json(MANIFEST, lambda m: m["recipe"].update(labels="exclusive"))),
        f"{RAW}: its labels are exclusive",
        "Convert it with --labels regions",
    ),
    *entries(
        "models of different label schemes",
        ("out-of-fold", "tune"),
        then(WHOLE, train(*FOLDS, configuration="3d_fullres"), code_otherwise("3d_fullres")),
        "nnUNetTrainer__gi2nnunetTinyPlans__3d_fullres: found labels",
        "expected those of",
        "Choose models of one label scheme with --config, --preset or --trainer",
    ),
    *entries(
        "a model of another label scheme than the dataset's",
        THREE,
        then(WHOLE, code_otherwise("2d")),
        "nnUNetTrainer__gi2nnunetTinyPlans__2d: found labels",
        f"{RAW}/dataset.json",
        "Choose models of this dataset with --config, --preset or --trainer",
    ),
    *entries(
        "a label file missing",
        WITH_TRUTH,
        then(WHOLE, remove(f"{RAW}/labelsTr/{FIRST}.nii.gz")),
        f"{RAW}/labelsTr/{FIRST}.nii.gz: found a file that is missing or was changed after",
        "Restore them with: gi2nnunet convert SOURCE",
    ),
    *entries(
        "an image missing",
        THREE,
        then(WHOLE, remove(f"{RAW}/imagesTr/{FIRST}_0000.nii.gz")),
        f"{RAW}: found imagesTr/{FIRST}_0000.nii.gz missing or of another size",
        "Repair it with: gi2nnunet convert SOURCE",
    ),
    *entries(
        "a training scan that is marked as not labelled",
        WITH_TRUTH,
        then(WHOLE, edit_json(MANIFEST, hide_label)),
        f"{MANIFEST}: found {FIRST} marked as not labelled",
        "expected the truth of every training scan",
        "gi2nnunet convert SOURCE",
    ),
    *entries(
        "a patient in two folds of the split",
        THREE,
        then(train(0, 1, 2), edit_json(MANIFEST, deal_out_twice)),
        f"{FIRST.partition('_')[0]}: found in two folds; expected one",
        "Convert the source again",
    ),
    *entries(
        "stored probabilities that are cut off",
        WITH_TRUTH,
        then(WHOLE, predict_all, cut_probabilities),
        f"{FIRST}{SUFFIX}: found a damaged file",
        "Delete it and run that again",
    ),
    *entries(
        "a results folder that takes no file",
        ("tune",),
        WHOLE,
        "gi2nnunet_tuning_",
        "cannot be written (no right to write)",
        "check its rights",
        exit_code=5,
        patch=lock_results,
    ),
    *(
        BadInput(
            name=f"predict-and-score: a tuning file {what}",
            start="model",
            make=write_tuning(content),
            command="predict-and-score --device cpu",
            message=("gi2nnunet_tuning_", said, "gi2nnunet tune, or predict with --no-tuning"),
        )
        for what, content, said in (
            ("cut off", '{"format": 1, "models": [', "found no JSON"),
            ("of a list", "[1]", "found [1]; expected an object"),
            ("of nothing", "{}", "format: found nothing; expected this key"),
            (
                "of an impossible threshold",
                json.dumps(FOR_NONE | {"decision": {"stomach": CHOICE}}),
                "decision.stomach.threshold: found 7; expected less than or equal to 1",
            ),
            (
                "of a network that the model does not have",
                json.dumps(FOR_MODEL | {"decision": {"stomach": CHOICE | {"threshold": 0.5}}}),
                "decision: found a weight of 4d",
            ),
            (
                "of other models",
                json.dumps(FOR_NONE),
                "models: found the choice for other models",
            ),
        )
    ),
)
