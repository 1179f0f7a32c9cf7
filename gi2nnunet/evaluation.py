"""Predict and score in one go: choose scans and models, predict, write the CSV, hold to the truth.

Whether a score is honest depends on what the models were trained on. Each result therefore has a
*standing*: ``held-out`` (no training scan of these patients), ``out-of-fold`` (each scan by the
model that did not see its patient), ``seen-patient`` (other days of these patients were trained
on), or ``in-sample`` (these very scans were trained on).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gi2nnunet.errors import InputError, raise_problems
from gi2nnunet.files import replace_file, write_json
from gi2nnunet.kaggle import ORGANS, MaskTable, patient_of, read_mask_table
from gi2nnunet.labels import LabelScheme
from gi2nnunet.manifest import Dataset, read_dataset
from gi2nnunet.nifti_source import NiftiScan, is_nifti_source, read_nifti_index, read_scan
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Ensemble, Fold, choose_ensemble
from gi2nnunet.nnunet.predict import InputScan, PredictedScan, predict_scans
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.scoring import Score, score_submission
from gi2nnunet.source import Scan, read_index
from gi2nnunet.submission import Row, Size, encode_scan, write_submission
from gi2nnunet.volumes import read_volume

Standing = Literal["held-out", "out-of-fold", "seen-patient", "in-sample", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What to predict, and what is known of it.

    Attributes
    ----------
    name
        Short, fit for a folder.
    described
        For the screen.
    scans
        The scans.
    truth
        Their true rows, where known, with image sizes.
    sample
        The sample submission whose rows and order to follow.
    standing
        What a score on them means.
    folds
        Folds to use by scan id, for out-of-fold prediction.
    warnings
        What was passed over.
    """

    name: str
    described: str
    scans: tuple[InputScan, ...]
    truth: MaskTable | None
    sample: MaskTable | None
    standing: Standing
    folds: Mapping[str, tuple[Fold, ...]] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was predicted, and how well.

    Attributes
    ----------
    submission
        The CSV.
    standing
        What the score means.
    score
        ``None`` where no truth is known.
    files
        Everything written, the submission first.
    warnings
        What was passed over, one sentence each.
    seconds_per_scan
        Mean wall-clock time of a scan.
    """

    submission: Path
    standing: Standing
    score: Score | None
    files: tuple[Path, ...]
    warnings: tuple[str, ...]
    seconds_per_scan: float


def select_models(
    workspace: Workspace,
    *,
    dataset_id: int | None = None,
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
    preset: str | None = None,
    trainer: str | None = None,
) -> tuple[Dataset | None, Ensemble]:
    """Find the models to predict with, and the dataset they were trained on where it is at hand.

    A workspace that holds models alone, as on a machine that only predicts, will do.

    Raises
    ------
    InputError
        Where there are no such models.
    """
    dataset = None
    if workspace.raw.is_dir() or not workspace.results.is_dir():
        dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
        name = dataset.name
    else:
        name = _find_results(workspace, dataset_id)
    return dataset, choose_ensemble(
        workspace.results / name,
        n_folds=len(dataset.splits) if dataset else 0,
        configurations=configurations,
        folds=[int(fold) if fold.isdecimal() else fold for fold in folds],
        preset=preset,
        trainer=trainer,
    )


def _find_results(workspace: Workspace, dataset_id: int | None) -> str:
    pattern = f"Dataset{dataset_id:03d}_*" if dataset_id else "Dataset[0-9][0-9][0-9]_*"
    names = sorted(folder.name for folder in workspace.results.glob(pattern))
    if len(names) != 1:
        raise InputError(
            f"{workspace.results}: found {', '.join(names) or 'no model of a dataset'}; expected "
            "one. " + ("Choose one with --id." if names else "Train it with gi2nnunet train.")
        )
    return names[0]


def select_own_scans(dataset: Dataset, ensemble: Ensemble) -> Selection:
    """Choose among a dataset's own scans.

    The held-out scans where there are any; else, with models of single folds, every training scan
    by the model of its own fold; else the training scans, in-sample.

    Raises
    ------
    InputError
        Where the dataset holds no scan with truth.
    """
    held_out = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    if held_out:
        train_patients = {s.patient_id for s in dataset.scans if s.part == "train"}
        shared = {patient_of(scan_id) for scan_id in held_out} & train_patients
        standing: Standing = "seen-patient" if shared else "held-out"
        return _of_dataset(dataset, held_out, "held-out", "the held-out test scans", standing)
    numbered = [fold for fold in ensemble.folds if fold != "all"]
    if numbered and dataset.splits:
        own: dict[str, tuple[Fold, ...]] = {
            scan_id: (fold,) for fold in numbered for scan_id in dataset.splits[int(fold)]["val"]
        }
        complete = len(numbered) == len(dataset.splits)
        described = "all training scans, each by the model that did not see its patient"
        if not complete:
            folds = ", ".join(map(str, numbered))
            described = f"the validation scans of fold {folds}, by that fold's model"
        chosen = _of_dataset(dataset, list(own), "out-of-fold", described, "out-of-fold")
        return replace(chosen, folds=own)
    train = [scan.scan_id for scan in dataset.scans if scan.part == "train"]
    if not train:
        raise InputError(
            f"{dataset.folder}: holds no scan with truth. Name a source to predict instead."
        )
    return _of_dataset(dataset, train, "in-sample", "the training scans themselves", "in-sample")


def _of_dataset(
    dataset: Dataset, scan_ids: Sequence[str], name: str, described: str, standing: Standing
) -> Selection:
    by_id = {scan.scan_id: scan for scan in dataset.scans}
    scans = tuple(
        InputScan(
            scan_id=scan_id,
            numbers=tuple(by_id[scan_id].numbers),
            volume=dataset.image_path(scan_id),
        )
        for scan_id in scan_ids
    )
    return Selection(
        name=name,
        described=described,
        scans=scans,
        truth=_rows_of(read_mask_table(dataset.truth_path), scan_ids),
        sample=None,
        standing=standing,
    )


def select_source(
    path: Path, *, dataset: Dataset | None, ensemble: Ensemble, allow_missing: bool = False
) -> Selection:
    """Take the scans of a competition source: its ``test/`` if it has one, else its ``train/``.

    Parameters
    ----------
    path
        The source, or a NIfTI file or folder of such.
    dataset
        What the models were trained on, to tell what a score means.
    ensemble
        The models.
    allow_missing
        As in :func:`~gi2nnunet.source.read_index`.

    Raises
    ------
    InputError
        Where it is neither.
    """
    if path.name.endswith((".nii", ".nii.gz")) or is_nifti_source(path):
        return _select_volumes(path, dataset=dataset, ensemble=ensemble)
    index = read_index(path, allow_missing=allow_missing)
    part = index.test or index.train
    return Selection(
        name=path.name.removesuffix(".zip"),
        described=f"{path} ({'test' if index.test else 'train'}, {len(part)} scans)",
        scans=tuple(
            InputScan(scan_id=scan_id, numbers=scan.numbers, source=path.absolute(), scan=scan)
            for scan_id, scan in part.items()
        ),
        truth=_truth_of_scans(f"{path}/train.csv", part.values()),
        sample=index.sample if index.sample and len(index.sample) else None,
        standing=find_standing(list(part), dataset=dataset, ensemble=ensemble),
        warnings=index.warnings,
    )


def find_standing(
    scan_ids: Sequence[str], *, dataset: Dataset | None, ensemble: Ensemble
) -> Standing:
    """Return what a score of these scans means, given what the models were trained on."""
    if dataset is None:
        return "unknown"
    trained = {scan.scan_id for scan in dataset.scans if scan.part == "train"}
    if dataset.splits and "all" not in ensemble.folds:
        trained = {s for fold in ensemble.folds for s in dataset.splits[int(fold)]["train"]}
    if trained & set(scan_ids):
        return "in-sample"
    if {patient_of(s) for s in trained} & {patient_of(s) for s in scan_ids}:
        return "seen-patient"
    return "held-out"


def evaluate(
    selection: Selection,
    ensemble: Ensemble,
    *,
    out: Path,
    workspace: Workspace,
    environ: Mapping[str, str],
    hardware: Hardware,
    metric: str = "per-class",
    mirroring: bool = True,
    step_size: float = 0.5,
    nifti: bool = False,
    score: bool = True,
    on_scan: Callable[[int, int, PredictedScan], None] | None = None,
) -> Evaluation:
    """Predict, write ``submission.csv`` and, where truth is known, the score.

    Parameters
    ----------
    selection
        What to predict.
    ensemble
        With which models.
    out
        Folder for ``submission.csv``, ``score.json``, ``score.csv`` (one row a scan) and, with
        ``nifti``, ``labels/`` and ``organs/``.
    workspace, environ, hardware
        Where and on what.
    metric
        Convention of :mod:`gi2nnunet.metric`.
    mirroring, step_size
        As nnU-Net has them.
    nifti
        Write label volumes too: the bit-coded map and a binary mask an organ.
    score
        Score where truth is known.
    on_scan
        Called with ``(done, total, scan)``.
    """
    predicted = predict_scans(
        ensemble,
        selection.scans,
        workspace=workspace,
        environ=environ,
        hardware=hardware,
        folds=selection.folds,
        mirroring=mirroring,
        step_size=step_size,
        nifti_folder=out if nifti else None,
        on_scan=on_scan,
    )
    submission = out / "submission.csv"
    rows = [row for scan in predicted for row in scan.rows]
    warnings = [*selection.warnings]
    warnings += write_submission(submission, rows, sample=selection.sample)
    files = [submission]
    result = None
    if score and selection.truth is not None:
        predictions = _tabulate(
            str(submission),
            (
                (scan.scan_id, int(slice_id.rpartition("_")[2]), ORGANS.index(organ), text, 1, 1)
                for scan in predicted
                for slice_id, organ, text in scan.rows
            ),
        )
        result = score_submission(
            predictions or submission,
            selection.truth,
            metric=metric,  # type: ignore[arg-type]
        )
        files += write_score(
            result,
            out,
            about={
                "standing": selection.standing,
                "scans": selection.described,
                "models": ensemble.describe(),
            },
        )
    if nifti:
        files += [out / "labels", out / "organs"]
    return Evaluation(
        submission=submission,
        standing=selection.standing,
        score=result,
        files=tuple(files),
        warnings=tuple(warnings),
        seconds_per_scan=float(np.mean([scan.seconds for scan in predicted])),
    )


def write_score(score: Score, out: Path, *, about: Mapping[str, Any]) -> list[Path]:
    """Write ``score.json`` and ``score.csv`` (a row a scan) into a folder; return their paths."""
    write_json(out / "score.json", {**score.to_json(), **about})
    text = io.StringIO()
    fields = ["scan_id", "patient_id", "score", "dice", "hausdorff"]
    fields += [f"{organ}_{term}" for organ in ORGANS for term in ("dice", "hausdorff")]
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for scan in score.per_scan:
        row: dict[str, object] = {name: getattr(scan, name) for name in fields[:5]}
        for organ, terms in scan.per_organ.items():
            row |= {f"{organ}_dice": terms.dice, f"{organ}_hausdorff": terms.hausdorff}
        # An empty cell says that nothing was counted.
        writer.writerow({name: "" if value != value else value for name, value in row.items()})
    replace_file(out / "score.csv", text.getvalue())
    return [out / "score.json", out / "score.csv"]


def _rows_of(table: MaskTable, scan_ids: Sequence[str]) -> MaskTable | None:
    """Return a table's rows of some scans; ``None`` where it has none."""
    wanted = set(scan_ids)
    chosen = np.array([scan_id in wanted for scan_id in table.scan_ids], np.bool_)
    keep = np.flatnonzero(chosen[table.scan]) if len(table) else np.zeros(0, np.int64)
    if not len(keep):
        return None
    position = np.cumsum(chosen) - 1
    return MaskTable(
        name=table.name,
        scan_ids=tuple(s for s in table.scan_ids if s in wanted),
        scan=position[table.scan[keep]],
        number=table.number[keep],
        organ=table.organ[keep],
        texts=tuple(table.texts[row] for row in keep.tolist()),
        height=None if table.height is None else table.height[keep],
        width=None if table.width is None else table.width[keep],
    )


def _truth_of_scans(name: str, scans: Iterable[Scan]) -> MaskTable | None:
    """Return the true rows of the scans that have them, with their image sizes."""
    return _tabulate(
        name,
        (
            (scan.scan_id, number, organ, text, scan.height, scan.width)
            for scan in scans
            if scan.texts is not None
            for number, texts in zip(scan.numbers, scan.texts, strict=True)
            for organ, text in enumerate(texts)
        ),
    )


def _tabulate(name: str, rows: Iterable[tuple[str, int, int, str, int, int]]) -> MaskTable | None:
    """Make a table of ``(scan_id, number, organ, text, height, width)``; ``None`` of no rows."""
    listed = list(rows)
    if not listed:
        return None
    scan_ids, numbers, organs, texts, heights, widths = zip(*listed, strict=True)
    distinct = {scan_id: index for index, scan_id in enumerate(dict.fromkeys(scan_ids))}
    return MaskTable(
        name=name,
        scan_ids=tuple(distinct),
        scan=np.array([distinct[scan_id] for scan_id in scan_ids], np.int64),
        number=np.array(numbers, np.int64),
        organ=np.array(organs, np.int64),
        texts=tuple(texts),
        height=np.array(heights, np.int64),
        width=np.array(widths, np.int64),
    )


def _tabulate_rows(
    name: str, scan_rows: Mapping[str, Iterable[Row]], sizes: Mapping[str, Size]
) -> MaskTable | None:
    return _tabulate(
        name,
        (
            (scan_id, int(slice_id.rpartition("_")[2]), ORGANS.index(organ), text, *sizes[scan_id])
            for scan_id, rows in scan_rows.items()
            for slice_id, organ, text in rows
        ),
    )


def _select_volumes(path: Path, *, dataset: Dataset | None, ensemble: Ensemble) -> Selection:
    """Take NIfTI files: one, or a folder of them with their labels where there are any."""
    if path.is_file():
        stem = path.name.removesuffix(".gz").removesuffix(".nii")
        given = {stem: NiftiScan(scan_id=stem, part="test", image=path, label=None)}
        scheme: LabelScheme | None = None
    else:
        index = read_nifti_index(path)
        given = dict(index.scans)
        scheme = index.declared_labels or "regions"
    scans: list[InputScan] = []
    truth: dict[str, list[Row]] = {}
    sizes: dict[str, Size] = {}
    for scan_id, scan in given.items():
        if scan.label is None:
            volume = read_volume(scan.image)
        else:
            volume, label_map, problems = read_scan(scan, scheme=scheme)
            raise_problems(problems, remedy=f"Correct these in {path}.")
            if label_map is not None:
                truth[scan_id] = encode_scan(scan_id, range(1, len(label_map) + 1), label_map)
        depth, height, width = volume.array.shape
        sizes[scan_id] = (height, width)
        scans.append(
            InputScan(
                scan_id=scan_id, numbers=tuple(range(1, depth + 1)), volume=scan.image.absolute()
            )
        )
    return Selection(
        name=path.name.removesuffix(".gz").removesuffix(".nii"),
        described=f"{path} ({len(scans)} NIfTI volumes)",
        scans=tuple(scans),
        truth=_tabulate_rows(str(path), truth, sizes) if len(truth) == len(scans) else None,
        sample=None,
        standing=find_standing(list(given), dataset=dataset, ensemble=ensemble),
    )
