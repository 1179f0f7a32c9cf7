"""What stands in the report, read from a workspace and a folder of predictions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.compare import Interval, estimate_intervals
from gi2nnunet.errors import InputError
from gi2nnunet.files import read_json
from gi2nnunet.kaggle import patient_of, read_mask_table
from gi2nnunet.labels import LabelMap, to_bits
from gi2nnunet.manifest import Dataset, DatasetScan, read_dataset
from gi2nnunet.metric import CONVENTIONS
from gi2nnunet.nnunet.models import TRAINING_RECORD
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.report.curves import Epoch, read_curves
from gi2nnunet.report.viewer import PackedScan, pack_scan
from gi2nnunet.scores import Score
from gi2nnunet.scoring import score_submission
from gi2nnunet.splits import check_leaks
from gi2nnunet.submission import decode_table
from gi2nnunet.volumes import read_volume

Progress = Callable[[int, int, str], None]
Masks = dict[str, tuple[tuple[int, ...], LabelMap]]

MOST_SHOWN = 6
TUNING_FILE = "gi2nnunet_tuning.json"


@dataclass(frozen=True, kw_only=True)
class TrainedFold:
    """One training: which, with what settings, and its epochs.

    Attributes
    ----------
    configuration, fold, trainer, plans_name
        nnU-Net's names.
    finished
        Whether there is a final checkpoint.
    record
        What was recorded beside it; empty for a training of plain nnU-Net.
    epochs
        From its logs; empty for none.
    """

    configuration: str
    fold: str
    trainer: str
    plans_name: str
    finished: bool
    record: Mapping[str, Any]
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One folder of predictions.

    Attributes
    ----------
    folder
        Where.
    about
        ``prediction.json``, or ``score.json`` where that is missing.
    score
        Taken anew from ``submission.csv`` and ``truth.csv``; ``None`` without truth.
    intervals
        Over patients, by quantity.
    """

    folder: Path
    about: Mapping[str, Any]
    score: Score | None
    intervals: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the page shows.

    Attributes
    ----------
    dataset
        What was trained on.
    leaks
        Patients in two parts, one sentence each; empty is well.
    trainings
        Every configuration and fold, finished or not.
    prediction
        ``None`` where nothing was predicted yet.
    tuning
        What tuning recorded; empty for none.
    shown
        Scans of the viewer.
    missing
        What is not there yet, and the command that makes it.
    """

    dataset: Dataset
    leaks: tuple[str, ...]
    trainings: tuple[TrainedFold, ...]
    prediction: Prediction | None
    tuning: Mapping[str, Any]
    shown: tuple[PackedScan, ...]
    missing: tuple[str, ...]


def gather_report(
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    prediction: Path | None = None,
    scans: Sequence[str] = (),
    show_all: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Read everything the page shows.

    Parameters
    ----------
    workspace, dataset_id
        Of what.
    prediction
        A folder with ``submission.csv``; by default the workspace's newest.
    scans
        Scans to show in the viewer; by default some of the worst, middle and best, or, where
        nothing was scored, the first.
    show_all
        Show every scan that was predicted.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        Where there is no dataset, no such folder, no such scan, or a damaged file.
    """
    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    results = workspace.results / dataset.name
    trainings = find_trainings(results)
    missing = []
    if not trainings:
        missing.append("Nothing is trained yet: gi2nnunet train --fold all")
    folder = prediction or find_newest_prediction(workspace.predictions)
    predicted: Prediction | None = None
    masks: Masks = {}
    if folder is None:
        missing.append("Nothing is predicted yet: gi2nnunet predict-and-score")
    else:
        predicted, masks = read_prediction(folder, dataset=dataset, progress=progress)
        if predicted.score is None:
            missing.append(f"{folder.name} has no truth.csv, so it has no score.")
    names = choose_scans(dataset, predicted, masks, scans=scans, show_all=show_all)
    shown = []
    for done, scan_id in enumerate(names):
        shown.append(_pack(dataset, dataset.scan(scan_id), masks.get(scan_id)))
        if progress:
            progress(done + 1, len(names), "packing scans")
    if not shown:
        missing.append("None of the predicted scans lies in the dataset, so none can be shown.")
    tuning = dict(predicted.about.get("tuning") or {}) if predicted else {}
    return Report(
        dataset=dataset,
        leaks=find_leaks(dataset),
        trainings=trainings,
        prediction=predicted,
        tuning=tuning or read_json(results / TUNING_FILE),
        shown=tuple(shown),
        missing=tuple(missing),
    )


def find_leaks(dataset: Dataset) -> tuple[str, ...]:
    """Return the patients that stand in two parts or on both sides of a fold."""
    trained = {scan.patient_id for scan in dataset.scans if scan.part == "train"}
    held = {scan.patient_id for scan in dataset.scans if scan.part == "holdout"}
    both = [f"{patient} is in training and hold-out" for patient in sorted(trained & held)]
    return (*both, *check_leaks(dataset.splits))


def find_trainings(results: Path) -> tuple[TrainedFold, ...]:
    """Return every training under nnU-Net's results folder of one dataset, in order of name."""
    found = []
    for folder in sorted(results.glob("*__*__*/fold_*")):
        trainer, plans_name, configuration = folder.parent.name.split("__", 2)
        found.append(
            TrainedFold(
                configuration=configuration,
                fold=folder.name.removeprefix("fold_"),
                trainer=trainer,
                plans_name=plans_name,
                finished=(folder / "checkpoint_final.pth").is_file(),
                record=read_json(folder / TRAINING_RECORD),
                epochs=read_curves(folder),
            )
        )
    return tuple(found)


def find_newest_prediction(predictions: Path) -> Path | None:
    """Return the folder under a workspace's predictions whose submission is newest."""
    found = predictions.glob("**/submission.csv") if predictions.is_dir() else ()
    newest = max(found, key=lambda path: (path.stat().st_mtime, str(path)), default=None)
    return None if newest is None else newest.parent


def read_prediction(
    folder: Path, *, dataset: Dataset, progress: Progress | None = None
) -> tuple[Prediction, Masks]:
    """Read, decode and score one folder of predictions."""
    path = folder / "submission.csv"
    if not path.is_file():
        raise InputError(
            f"{folder}: holds no submission.csv; expected the output folder of "
            "gi2nnunet predict or predict-and-score."
        )
    about = read_json(folder / "prediction.json") or read_json(folder / "score.json")
    table = read_mask_table(path, any_scan=True)
    known = {scan.scan_id: (scan.height, scan.width) for scan in dataset.scans}
    masks: Masks = {}
    if set(table.scan_ids) <= set(known):
        for scan_id, numbers, label_map in decode_table(table, sizes=known):
            masks[scan_id] = (numbers, label_map)
            if progress:
                progress(len(masks), len(table.scan_ids), "reading masks")
    score: Score | None = None
    intervals: dict[str, Interval] = {}
    if (folder / "truth.csv").is_file():
        recorded = read_json(folder / "score.json").get("metric")
        metric = recorded if recorded in CONVENTIONS else "per-class"
        score = score_submission(path, folder / "truth.csv", metric=metric)  # type: ignore[arg-type]
        intervals = estimate_intervals(score)
    return Prediction(folder=folder, about=about, score=score, intervals=intervals), masks


def choose_scans(
    dataset: Dataset,
    prediction: Prediction | None,
    masks: Masks,
    *,
    scans: Sequence[str] = (),
    show_all: bool = False,
) -> tuple[str, ...]:
    """Choose what the viewer shows, worst first."""
    known = [scan.scan_id for scan in dataset.scans]
    unknown = [scan_id for scan_id in scans if scan_id not in known]
    if unknown:
        raise InputError(
            f"--scans: found {', '.join(unknown)}; expected scans of {dataset.name}, "
            f"for example {known[0]}."
        )
    if scans:
        return tuple(dict.fromkeys(scans))
    ranked = [scan_id for scan_id in known if scan_id in masks]
    if prediction is not None and prediction.score is not None:
        values = {s.scan_id: s.score for s in prediction.score.per_scan}
        # A scan without a value (nothing was counted) goes last.
        ranked.sort(key=lambda s: math.inf if math.isnan(v := values.get(s, math.nan)) else v)
    elif prediction is None:
        ranked = known
    if show_all or len(ranked) <= MOST_SHOWN:
        return tuple(ranked)
    middle = len(ranked) // 2
    return tuple(dict.fromkeys([*ranked[:3], ranked[middle], *ranked[-2:]]))


def _pack(
    dataset: Dataset, scan: DatasetScan, mask: tuple[tuple[int, ...], LabelMap] | None
) -> PackedScan:
    image = read_volume(dataset.image_path(scan.scan_id)).array
    truth = None
    if scan.labelled:
        truth = read_volume(dataset.label_path(scan.scan_id)).array
        truth = to_bits(truth) if dataset.label_scheme == "exclusive" else truth
    pred = None
    if mask is not None and mask[1].shape == image.shape and mask[0] == scan.numbers:
        pred = mask[1]
    return pack_scan(
        scan.scan_id,
        image=image,
        truth=truth,
        pred=pred,
        spacing_mm=scan.spacing_mm,
        first_number=scan.first_number,
    )


def list_patients(scan_ids: Sequence[str]) -> list[str]:
    """Return the patients of some scans, each once, in numeric order."""
    patients = {patient_of(scan_id) for scan_id in scan_ids}
    return sorted(patients, key=lambda p: [int(n) for n in re.findall(r"\d+", p)] or [0])
