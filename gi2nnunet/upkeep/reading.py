"""Reading of a workspace's status by the packages that write its files.

Only small files are read. Nothing is changed, no lock is taken, and a damaged piece is named
without holding up the others.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.core.command import name_place
from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import PART_SUFFIX, find_record, find_removals, is_being_removed
from gi2nnunet.core.locks import Holder, find_holders, lock_path
from gi2nnunet.dataset.manifest import Dataset, dataset_id_of, open_dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.probabilities import SUFFIX, read_about
from gi2nnunet.nnunet.models import (
    FINAL_CHECKPOINT,
    TRAINING_RECORD,
    FoldFolder,
    list_folds,
    list_models,
    list_replaced,
    name_fold,
    spell_models,
    spell_training,
)
from gi2nnunet.nnunet.postprocess import list_tunings
from gi2nnunet.prediction.folders import (
    OUT_OF_FOLD,
    PredictionFolder,
    PredictionRecord,
    find_predictions,
    lock_of_stored,
    read_prediction_record,
)
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.record import find_scores, read_score
from gi2nnunet.source.dataset import MANIFEST
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.prepared import completion_mark, list_plan_marks, read_planned
from gi2nnunet.training.record import TrainedFold, read_training
from gi2nnunet.upkeep.next_step import choose_next_step
from gi2nnunet.upkeep.status import (
    DatasetStatus,
    NextStep,
    OutOfFoldStatus,
    PlanStatus,
    PredictionStatus,
    RecordedScore,
    TrainingStatus,
    TuningStatus,
    WorkspaceStatus,
    shorten_names,
)


def read_status(workspace: Workspace) -> WorkspaceStatus:
    """Read what a workspace holds; an empty or foreign folder holds nothing."""
    reading = _Reading(workspace)
    names = reading.names
    datasets = tuple(map(reading.read_dataset, names))
    found = WorkspaceStatus(
        folder=workspace.predictions.parent,
        chosen_by=workspace.chosen_by,
        datasets=datasets,
        plans=tuple(one for name in names for one in reading.read_plans(name)),
        trainings=tuple(one for name in names for one in reading.read_trainings(name)),
        predictions=tuple(reading.read_predictions()),
        out_of_fold=tuple(one for name in names for one in reading.read_out_of_fold(name)),
        tunings=tuple(one for name in names for one in reading.read_tunings(name)),
        leftovers=find_removals(*reading.roots),
        problems=tuple(dict.fromkeys(reading.problems)),
        bytes=sum(reading.sizes.get(root, 0) for root in reading.roots),
        report=_find_change(workspace.predictions.parent / "report.html"),
        free_bytes=_find_free(workspace.predictions.parent),
        next_step=NextStep(command="", why=""),
    )
    found = shorten_names(found)
    return replace(found, next_step=choose_next_step(found))


class _Reading:
    """One reading of a workspace, and what could not be read."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.problems: list[str] = []
        self.sizes: dict[Path, int] = {}
        places = (
            *(workspace.raw, workspace.preprocessed, workspace.results),
            *(workspace.predictions, workspace.logs),
        )
        self.roots = [p for p in places if not any(other in p.parents for other in places)]
        for root in self.roots:
            self._measure(root)
        hidden = (p.name for p in workspace.raw.glob(f".Dataset???_*{PART_SUFFIX}"))
        self._begun = {name.removeprefix(".").removesuffix(PART_SUFFIX) for name in hidden}
        self.names = sorted({*workspace.list_datasets(), *self._begun})
        self.opened: dict[str, Dataset] = {}

    def _measure(self, root: Path) -> None:
        """Add up the bytes of every folder below a root."""

        def note(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                self.problems.append(f"{error.filename}: cannot be read ({error.strerror}).")

        for parent, folders, files in os.walk(root, topdown=False, onerror=note):
            folder = Path(parent)
            self.sizes[folder] = sum(self.sizes.get(folder / name, 0) for name in folders)
            self.sizes[folder] += sum(_measure_file(folder / name) for name in files)

    @contextmanager
    def _naming_damage(self) -> Iterator[None]:
        """Note what cannot be read, and go on."""
        try:
            yield
        except (InputError, OSError) as error:
            self.problems.append(str(error))

    def _size(self, path: Path) -> int:
        return self.sizes.get(path, 0)

    def read_dataset(self, name: str) -> DatasetStatus:
        folder, space = self.workspace.raw / name, self.workspace
        dataset_id = dataset_id_of(name)
        holders = find_holders(self.workspace.raw / f"Dataset{dataset_id:03d}")
        with self._naming_damage():
            if (folder / MANIFEST).is_file():
                self.opened[name] = open_dataset(folder)
        counted: dict[str, int] = {}
        if dataset := self.opened.get(name):
            parts = [scan.part for scan in dataset.scans]
            counted = {
                "patients": len({scan.patient_id for scan in dataset.scans}),
                "training": parts.count("train"),
                "held_out": parts.count("holdout"),
                "test": parts.count("test"),
                "folds": len(dataset.splits),
            }
        return DatasetStatus(
            name=name,
            dataset_id=dataset_id,
            folder=folder,
            state=self._find_state(name, holders),
            **counted,
            raw_bytes=self._size(folder) + self._size(space.raw / f".{name}{PART_SUFFIX}"),
            preprocessed=space.preprocessed / name,
            preprocessed_bytes=self._size(space.preprocessed / name),
            results_bytes=self._size(space.results / name),
            holders=holders,
        )

    def _find_state(
        self, name: str, holders: Sequence[Holder]
    ) -> Literal["whole", "converting", "interrupted", "damaged", "foreign", "absent"]:
        folder = self.workspace.raw / name
        if name in self._begun:
            return "converting" if holders else "interrupted"
        if name in self.opened:
            return "whole"
        if not folder.is_dir():
            return "absent"
        described = find_record(folder / DATASET_JSON, dict[str, Any]) or {}
        if (folder / MANIFEST).is_file() or described.get("converted_by") == "gi2nnunet":
            return "damaged"
        return "foreign"

    def read_plans(self, name: str) -> Iterator[PlanStatus]:
        folder = self.workspace.preprocessed / name
        for plans, mark in list_plan_marks(folder).items():
            if mark is None:
                self.problems.append(
                    f"{folder}: the mark of {plans} is damaged. gi2nnunet plan makes it again."
                )
                continue
            planned = read_planned(folder, plans)
            yield PlanStatus(
                dataset=name,
                plans=plans,
                configurations=tuple(planned),
                preprocessed=tuple(
                    key
                    for key, one in planned.items()
                    if completion_mark(one.data_folder).is_file()
                ),
                holders=find_holders(folder / "plans"),
            )

    def read_trainings(self, name: str) -> Iterator[TrainingStatus]:
        results = self.workspace.results / name
        for found in (*list_folds(results), *_find_starting(results)):
            with self._naming_damage():
                training = read_training(found)
                record = found.folder / TRAINING_RECORD
                if record.is_file() and not training.record:
                    self.problems.append(
                        f"{record}: is damaged, so the settings of this training are not known."
                    )
                yield self._describe_training(name, training)

    def _describe_training(self, dataset: str, training: TrainedFold) -> TrainingStatus:
        state: Literal["finished", "imported", "running", "stopped"]
        state = "running" if training.running else "stopped"
        if not training.running and training.finished:
            state = "imported" if training.imported else "finished"
        last = training.epochs[-1] if training.epochs else None
        done, wanted = len(training.epochs), training.settings.get("epochs")
        left = last.seconds * (wanted - done) if last and wanted and state == "running" else None
        command = None if training.imported else self._spell_training(dataset, training)
        name = f"{dataset}/{training.folder.parent.name}/{training.folder.name}"
        return TrainingStatus(
            name=name,
            full_name=name,
            dataset=dataset,
            folder=training.folder,
            trainer=training.trainer,
            plans=training.plans_name,
            configuration=training.configuration,
            fold=training.fold,
            state=state,
            epoch=done,
            epochs=wanted,
            pseudo_dice={
                organ: _number(value)
                for organ, value in zip(ORGANS, last.pseudo_dice if last else (), strict=False)
            },
            seconds_left=None if left is None else _number(left),
            device=training.device,
            imported_from=training.imported,
            changed=_find_change(
                *training.folder.glob("training_log_*.txt"), training.folder / FINAL_CHECKPOINT
            ),
            holders=training.holders,
            command=command,
            bytes=self._size(training.folder),
        )

    def _spell_training(self, dataset: str, training: TrainedFold) -> str:
        """Return the command that trains this or goes on, nnU-Net's for what it began."""
        number = dataset_id_of(dataset)
        command = spell_training(training.folder) if training.settings else None
        if command is None:
            words = ["nnUNetv2_train", str(number), training.configuration, training.fold]
            return shlex.join([*words, "-tr", training.trainer, "-p", training.plans_name, "--c"])
        return self._name_dataset(command, dataset)

    def _name_dataset(self, command: str, dataset: str) -> str:
        """Return a command with the number of a dataset, if there are several."""
        number = dataset_id_of(dataset) if len(self.names) > 1 else None
        return name_place(command, workspace=None, dataset_id=number)

    def read_out_of_fold(self, name: str) -> Iterator[OutOfFoldStatus]:
        home = self.workspace.predictions / name / OUT_OF_FOLD
        dataset, results = self.opened.get(name), self.workspace.results / name
        for folder in sorted(path for path in home.glob("*") if path.is_dir()):
            if is_being_removed(Path(folder.name)):
                continue
            scans = dataset.scans if dataset else ()
            models = [m for m in list_models(results) if m.folder.name == folder.name]
            command = shlex.join(["gi2nnunet", "out-of-fold", *spell_models(models)])
            full_name = f"{name}/{OUT_OF_FOLD}/{folder.name}"
            yield OutOfFoldStatus(
                name=full_name,
                full_name=full_name,
                dataset=name,
                model=folder.name,
                folder=folder,
                stored=len(list(folder.glob(f"*{SUFFIX}"))),
                training=sum(scan.part == "train" for scan in scans),
                outdated=self._list_outdated(results, *_list_checkpoints(folder)),
                command=self._name_dataset(command, name) if models else "",
                holders=find_holders(lock_of_stored(home)),
                bytes=self._size(folder),
            )

    def read_tunings(self, name: str) -> Iterator[TuningStatus]:
        results = self.workspace.results / name
        found, damaged = list_tunings(results)
        self.problems += damaged
        for path, content in found.items():
            gain = content["gains"].get("all", {}).get("gain")
            folds = (fold for folds in content["checkpoints"].values() for fold in folds)
            yield TuningStatus(
                name=f"{name}/{path.name}",
                full_name=f"{name}/{path.name}",
                dataset=name,
                file=path,
                models=tuple(content.get("models", ())),
                folds=tuple(dict.fromkeys(folds)),
                metric=content.get("metric"),
                organs=tuple(content["decision"]),
                gain=gain,
                outdated=self._list_outdated(results, content["checkpoints"]),
                bytes=_measure_file(path),
            )

    def _list_outdated(
        self, results: Path, *checkpoints: Mapping[str, Mapping[str, str]]
    ) -> tuple[str, ...]:
        """Name the folds with a recorded checkpoint that is not one of those that were used."""
        found: list[str] = []
        for some in checkpoints:
            with self._naming_damage():
                found += list_replaced(results, some)
        return tuple(dict.fromkeys(found))

    def read_predictions(self) -> list[PredictionStatus]:
        return [self._read_prediction(one) for one in find_predictions(self.workspace.predictions)]

    def _read_prediction(self, found: PredictionFolder) -> PredictionStatus:
        state: Literal["finished", "running", "interrupted", "damaged"] = "finished"
        if found.holders:
            state = "running"
        elif found.kept is not None:
            state = "interrupted"
        elif not found.submission.is_file():
            state = "damaged"
            self.problems.append(f"{found.submission}: no such file; expected the predicted rows.")
        before = len(self.problems)
        scores: tuple[RecordedScore, ...] = ()
        about: PredictionRecord = {}
        with self._naming_damage():
            about = read_prediction_record(found.folder)
        with self._naming_damage():
            if state in ("finished", "interrupted"):
                scores = tuple(
                    _shorten(found.folder, metric) for metric in find_scores(found.folder)
                )
        if state == "finished" and len(self.problems) > before:
            state = "damaged"
        options = about.get("options") or {}
        home = self.workspace.predictions
        inside = found.folder != home
        name = found.folder.relative_to(home).as_posix() if inside else home.name
        return PredictionStatus(
            name=name,
            full_name=name,
            folder=found.folder,
            state=state,
            dataset=about.get("dataset", ""),
            trained=tuple(options.get("trained", ())),
            folds=tuple(map(str, options.get("folds", ()))),
            scans=str(about.get("scans", "")),
            kept=found.kept,
            standing=about.get("standing", ""),
            scores=scores,
            outdated=self._list_outdated(
                self.workspace.results / about.get("dataset", ""), about.get("checkpoints", {})
            ),
            command=about.get("command", ""),
            changed=_find_change(found.submission),
            holders=found.holders,
            bytes=self._size(found.folder),
        )


def _list_checkpoints(folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """Give the checkpoints that have made the stored probabilities of a model, by fold."""
    made: dict[tuple[str, str], None] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        about = read_about(path)
        if {"fold", "checkpoint"} <= about.keys():
            made[str(about["fold"]), str(about["checkpoint"])] = None
    for fold, digest in made:
        yield {folder.name: {fold: digest}}


def _find_starting(results: Path) -> Iterator[FoldFolder]:
    """Give the folds that a process works on and that have no folder so far."""
    for lock in results.glob("*__*__*/.fold_*.lock"):
        folder = lock.with_name(lock.name.removeprefix(".").removesuffix(".lock"))
        if not folder.exists() and lock_path(folder) == lock and find_holders(folder):
            yield name_fold(folder)


def _measure_file(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _find_free(folder: Path) -> int | None:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return None


def _find_change(*files: Path) -> str | None:
    """Return when the newest of some files was written, UTC; ``None`` if there is none."""
    times = []
    for path in files:
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    return datetime.fromtimestamp(max(times), UTC).isoformat(timespec="seconds") if times else None


def _shorten(folder: Path, metric: Metric) -> RecordedScore:
    """Read what a table shows of a recorded score."""
    record = read_score(folder, metric)
    interval = record.intervals.get("score")
    return RecordedScore(
        metric=metric,
        score=_number(record.score.score),
        low=_number(interval.low) if interval else None,
        high=_number(interval.high) if interval else None,
    )


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
