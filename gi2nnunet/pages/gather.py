"""Content of the report, read from a workspace and a folder of predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from gi2nnunet.core.errors import InputError, count
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.checks import (
    find_shared_patients,
    warn_of_leaking_folds,
)
from gi2nnunet.dataset.manifest import Dataset, read_dataset, require_unaltered
from gi2nnunet.dataset.splits import check_leaks
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.labels import LabelMap, to_bits
from gi2nnunet.formats.tables import MaskTable, decode_table, read_mask_table, take_rows
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.nnunet.models import list_replaced
from gi2nnunet.pages import history
from gi2nnunet.pages.viewer import PackedScan, pack_scan
from gi2nnunet.prediction.folders import (
    OUT_OF_FOLD,
    PredictionFolder,
    PredictionRecord,
    find_predictions,
    read_prediction_record,
    warn_of_replaced,
)
from gi2nnunet.scoring.bootstrap import estimate_intervals
from gi2nnunet.scoring.record import SUBMISSION, TRUTH, ScoreRecord, find_scores, read_score
from gi2nnunet.scoring.result import Interval, ScanScore, Score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.source.prints import find_twins
from gi2nnunet.source.scan import LoadedScan
from gi2nnunet.training.record import TrainedFold, find_trainings

Mask = tuple[tuple[int, ...], LabelMap]

MOST_SHOWN = 6
PREDICTION = "prediction"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One folder of predictions.

    Attributes
    ----------
    about
        The content of ``prediction.json``, or of the newest score if that is missing.
    score
        ``None`` without truth.
    intervals
        Over patients, by quantity.
    others
        Recorded scores by other conventions.
    note
        Why it was scored again although there is a recorded one; empty if it was not.
    damage
        What is wrong with the file of ``about``; empty if nothing is.
    """

    folder: Path
    about: PredictionRecord
    score: Score | None
    intervals: Mapping[str, Interval]
    others: tuple[ScoreRecord, ...]
    note: str
    damage: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows.

    Attributes
    ----------
    leaks
        Patients in training and held out, or on both sides of a fold, one sentence each.
    shared
        Patients in training and held out because the hold-out is meant to be so.
    trainings
        Every configuration and fold, finished or not.
    tunings
        Those for the prediction's models first.
    commands
        The command lines that made all of it, as recorded; a remark begins with ``#``.
    missing
        What is not there yet, and the command that makes it.
    """

    dataset: Dataset
    leaks: tuple[str, ...]
    shared: tuple[str, ...]
    trainings: tuple[TrainedFold, ...]
    prediction: Prediction | None
    tunings: tuple[history.TuningFound, ...]
    costs: tuple[history.Cost, ...]
    commands: tuple[str, ...]
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
    prediction
        A folder with ``submission.csv``; by default the workspace's newest.
    scans
        Scans to show in the viewer; by default some of the worst, middle and best, or, if nothing
        was scored, the first.

    Raises
    ------
    InputError
        If the dataset, the folder or a scan is missing, or a file is damaged.
    """
    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    results = workspace.results / dataset.name
    trainings = find_trainings(results)
    predictions = find_predictions(workspace.predictions)
    folder = prediction or _find_newest(predictions)
    predicted, table = (
        _read_prediction(folder, workspace, progress=progress) if folder else (None, None)
    )
    about = predicted.about if predicted else None
    tunings, damaged = history.find_tunings(results, about)
    names = _choose_scans(dataset, predicted, table, scans=scans, show_all=show_all)
    score = predicted.score if predicted else None
    scores = {scan.scan_id: scan for scan in (score.per_scan if score else ())}
    shown = _pack_all(dataset, names, table, scores=scores, progress=progress)
    missing = history.find_unfinished(trainings, n_folds=len(dataset.splits))
    missing += [] if trainings else ["Nothing is trained yet: gi2nnunet train --fold all"]
    missing += _find_unfinished(predictions, workspace.predictions)
    if predicted is None:
        missing.append("Nothing is predicted yet: gi2nnunet predict-and-score")
    elif predicted.score is None:
        missing.append(f"{predicted.folder.name} has no truth.csv, so it has no score.")
        missing += [predicted.note] if predicted.note else []
    missing += [predicted.damage] if predicted and predicted.damage else []
    missing += damaged
    if not tunings and not damaged and _has_every_fold(trainings, len(dataset.splits)):
        missing.append("Nothing is tuned yet, though every fold is trained: gi2nnunet tune")
    if not shown:
        missing.append("None of the predicted scans is in the dataset, so none can be shown.")
    shared, unexpected = find_shared_patients(dataset)
    out_of_fold = workspace.predictions / dataset.name / OUT_OF_FOLD
    contents = [tuning.content for tuning in tunings]
    return Report(
        dataset=dataset,
        leaks=_describe_leaks(dataset, unexpected),
        shared=shared,
        trainings=trainings,
        prediction=predicted,
        tunings=tuple(tunings),
        costs=history.list_costs(trainings, prediction=folder, out_of_fold=out_of_fold),
        commands=history.list_commands(dataset.manifest, trainings, tunings=contents, about=about),
        shown=shown,
        missing=tuple(missing),
    )


def _describe_leaks(dataset: Dataset, unexpected: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each leak; ``unexpected`` patients are in training and held out."""
    return (
        *(f"{patient} is in training and in the held-out set" for patient in unexpected),
        *warn_of_leaking_folds(dataset),
        *(
            f"{one} and {other}, of different patients, have the same image, or nearly so"
            for one, other in find_twins(dataset.prints)
        ),
        *check_leaks(dataset.splits, allowed=dataset.leaking_patients),
    )


def _has_every_fold(trainings: Sequence[TrainedFold], n_folds: int) -> bool:
    finished = {training.fold for training in trainings if training.finished}
    return n_folds > 1 and {str(number) for number in range(n_folds)} <= finished


def _find_newest(predictions: Sequence[PredictionFolder]) -> Path | None:
    """Return the folder with the newest submission."""
    found = [one.submission for one in predictions if one.submission.is_file()]
    newest = max(found, key=lambda path: (path.stat().st_mtime, str(path)), default=None)
    return None if newest is None else newest.parent


def _find_unfinished(predictions: Sequence[PredictionFolder], home: Path) -> list[str]:
    """Return predictions that were begun and not finished, one sentence each."""
    lines = []
    for found in predictions:
        if found.kept is None:
            continue
        state = "is running" if found.holders else "was interrupted"
        then = "" if found.holders else " Run the same command again to continue it."
        done = f"{count(found.kept, 'scan')} done"
        lines.append(f"The prediction {found.folder.relative_to(home)} {state}, {done}.{then}")
    return lines


def _read_prediction(
    folder: Path, workspace: Workspace, *, progress: Progress | None = None
) -> tuple[Prediction, MaskTable]:
    """Read one folder of predictions; score it if it has no recorded score."""
    path = folder / SUBMISSION
    if not path.is_file():
        raise InputError(
            f"{folder}: holds no submission.csv; expected the output folder of "
            "gi2nnunet predict or predict-and-score."
        )
    try:
        about, damage = read_prediction_record(folder), ""
    except InputError as error:
        about, damage = {}, str(error)
    table = read_mask_table(path, any_scan=True)
    score: Score | None = None
    intervals: Mapping[str, Interval] = {}
    note = ""
    try:
        record = read_score(folder)
        score, intervals = record.score, record.intervals
    except InputError as error:
        if (folder / TRUTH).is_file():
            report = progress or ignore
            score = score_submission(
                table,
                folder / TRUTH,
                metric=next(iter(find_scores(folder)), "per-class"),
                progress=lambda done, total, _: report(done, total, "scoring"),
            )
            intervals = estimate_intervals(score)
            note = f"{error} So the submission was scored again for this page."
    results = workspace.results / about.get("dataset", "")
    if replaced := list_replaced(results, about.get("checkpoints", {})):
        command = about.get("command", "")
        former = warn_of_replaced(folder.name, replaced, command=command)
        note = " ".join(filter(None, (former, note)))
    found = Prediction(
        folder=folder,
        about=about,
        score=score,
        intervals=intervals,
        others=tuple(_list_others(folder)) if score else (),
        note=note,
        damage=damage,
    )
    return found, table


def _list_others(folder: Path) -> Iterator[ScoreRecord]:
    """Give the recorded scores after the newest; a damaged one is for ``verify`` to name."""
    for metric in list(find_scores(folder))[1:]:
        with suppress(InputError):
            yield read_score(folder, metric)


def _choose_scans(
    dataset: Dataset, prediction: Prediction | None, table: MaskTable | None, *,
    scans: Sequence[str], show_all: bool,
) -> tuple[str, ...]:  # fmt: skip
    """Choose what the viewer shows, worst first."""
    known = [scan.scan_id for scan in dataset.scans]
    if unknown := [scan_id for scan_id in scans if scan_id not in known]:
        raise InputError(
            f"--scan: found {', '.join(unknown)}; expected scans of {dataset.name}, "
            f"for example {known[0]}."
        )
    ranked = list(dict.fromkeys(scans)) or known
    if table is not None and not scans:
        predicted = set(table.scan_ids)
        ranked = [s for s in known if s in predicted] if predicted <= set(known) else []
    if prediction is not None and prediction.score is not None:
        values = {s.scan_id: s.score for s in prediction.score.per_scan}
        # A scan without a value (nothing was counted) goes last.
        ranked.sort(key=lambda s: math.inf if math.isnan(v := values.get(s, math.nan)) else v)
    if scans or show_all or len(ranked) <= MOST_SHOWN:
        return tuple(ranked)
    middle = len(ranked) // 2
    return tuple(dict.fromkeys([*ranked[:3], ranked[middle], *ranked[-2:]]))


def _pack_all(
    dataset: Dataset, names: Sequence[str], table: MaskTable | None, *,
    scores: Mapping[str, ScanScore], progress: Progress | None,
) -> tuple[PackedScan, ...]:  # fmt: skip
    """Pack scans, a few at a time; in the order of ``names``.

    Raises
    ------
    InputError
        If an image or a label volume is not as it was converted.
    """
    of_scans = {entry["scan_id"]: entry["files"] for entry in dataset.manifest["scans"]}
    require_unaltered(dataset, [file for name in names for file in of_scans[name]])
    small = len(names) > MOST_SHOWN
    found: dict[str, PackedScan] = {}
    coming = _list_masks(dataset, names, table)
    workers = count_cores()
    pack = partial(_pack, dataset, scores=scores, small=small)
    with ThreadPoolExecutor(workers) as pool:
        while some := list(islice(coming, 2 * workers)):
            for packed in pool.map(lambda one: pack(*one), some):
                found[packed.scan_id] = packed
                if progress:
                    progress(len(found), len(names), "packing scans")
    return tuple(found[scan_id] for scan_id in names)


def _list_masks(
    dataset: Dataset, names: Sequence[str], table: MaskTable | None
) -> Iterator[tuple[DatasetScan, Mask | None]]:
    """Yield each scan with its predicted masks, decoded one after another."""
    left = dict.fromkeys(names)
    known = {scan.scan_id: (scan.height, scan.width) for scan in dataset.scans}
    if table is not None and set(table.scan_ids) <= set(known):
        some = take_rows(table, names)
        for scan_id, numbers, label_map in decode_table(some, sizes=known) if some else ():
            del left[scan_id]
            yield dataset.scan(scan_id), (numbers, label_map)
    yield from ((dataset.scan(scan_id), None) for scan_id in left)


def _pack(
    dataset: Dataset, scan: DatasetScan, mask: Mask | None, *,
    scores: Mapping[str, ScanScore], small: bool,
) -> PackedScan:  # fmt: skip
    image = read_volume(dataset.image_path(scan.scan_id)).array
    truth = None
    if scan.labelled:
        truth = read_volume(dataset.label_path(scan.scan_id)).array
        truth = to_bits(truth) if dataset.label_scheme == "exclusive" else truth
    for kind, array in (("image", image), ("label volume", truth)):
        if array is not None and array.shape != scan.shape:
            raise InputError(
                f"{dataset.folder}: the {kind} of {scan.scan_id} has the shape {array.shape}; "
                f"expected {scan.shape}, as manifest.json says. "
                "gi2nnunet verify finds all such files."
            )
    numbers, pred = mask or ((), None)
    fits = pred is not None and pred.shape == image.shape and numbers == scan.numbers
    loaded = LoadedScan(
        image=image, label_map=truth, spacing_mm=scan.spacing_mm, first_number=scan.first_number
    )
    return pack_scan(
        scan.scan_id,
        loaded,
        predictions={PREDICTION: pred if fits else None},
        scores={PREDICTION: scores.get(scan.scan_id)},
        small=small,
    )
