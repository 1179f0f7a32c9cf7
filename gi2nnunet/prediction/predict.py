"""Prediction of scans by an ensemble in child processes, one a GPU; rows kept to go on later."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from gi2nnunet.core.errors import EngineError, GiError, InputError, count
from gi2nnunet.core.files import find_record, replace_file, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Notice
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.formats.tables import Row
from gi2nnunet.nnunet.checks import check_model, check_same_labels
from gi2nnunet.nnunet.engine import COST, Engine, PredictionCost, PredictionSettings
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Ensemble, Fold, TrainedModel, fold_folder
from gi2nnunet.nnunet.postprocess import Decision
from gi2nnunet.nnunet.process import Event, LogFile
from gi2nnunet.source.scan import Scan

# glibc returns a layer's memory to the system and takes it again, page by page, for the next layer:
# on a CPU up to half the time of a small network. What is as large as a whole scan, and so outlives
# the layers, is still returned at once.
_KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(512 << 20)}


@dataclass(frozen=True, kw_only=True)
class PredictedScan:
    """A predicted scan: ``(slice_id, organ, RLE text)`` of every slice and organ, and its time."""

    scan_id: str
    rows: tuple[Row, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class PredictedScans:
    """Predicted scans, in the order in which they were given.

    ``peaks`` are of the largest engine process: ``peak_memory_bytes`` and, on CUDA,
    ``peak_gpu_bytes``; empty if all scans were kept from an earlier run.
    """

    scans: tuple[PredictedScan, ...]
    peaks: Mapping[str, int] = field(default_factory=dict)


def predict_scans(
    ensemble: Ensemble,
    scans: Sequence[Scan],
    *,
    engine: Engine,
    settings: PredictionSettings,
    folds: Mapping[str, Sequence[Fold]] | None = None,
    nifti_folder: Path | None = None,
    probability_folders: Mapping[str, Path] | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    decision: Decision | None = None,
    kept: Path | None = None,
    on_scan: Callable[[PredictedScan], None] | None = None,
    on_notice: Notice | None = None,
) -> PredictedScans:
    """Predict scans; several GPUs share them.

    Parameters
    ----------
    folds
        Folds to use by scan id, for out-of-fold prediction; by default the ensemble's.
    probability_folders
        Also write each model's probabilities in eight bits, by the model folder's name.
    about
        By scan id, stored with its probabilities.
    decision
        Makes masks of the probabilities; by default their mean above one half, or the likeliest
        label if labels are exclusive.
    kept
        Folder in which each scan's rows are kept as soon as they are there, so that an interrupted
        run goes on: rows that the same models predicted in the same way from the same files are
        taken from there. The caller deletes it.
    on_notice
        Called with what is computed on, unless every scan is kept: then no hardware is needed.

    Raises
    ------
    InputError
        If a model cannot be read; if scans cannot, after all others were predicted.
    EngineError
        If nnU-Net fails: on a scan, after all others were predicted; on two in a row, at once.
        With several GPUs the others first take over what one leaves undone.
    """
    chosen, notes = folds or {}, about or {}
    used = tuple(dict.fromkeys(f for s in scans for f in chosen.get(s.scan_id, ensemble.folds)))
    for model in ensemble.models:
        check_model(model, used)
    check_same_labels(ensemble.models)
    places = probability_folders
    shared = {
        "models": [str(model.folder) for model in ensemble.models],
        **settings.describe(engine),
        "nifti_folder": str(nifti_folder) if nifti_folder else None,
        "probability_folders": [str(places[model.folder.name]) for model in ensemble.models]
        if places
        else None,
        "decision": decision.to_json() if decision else None,
        "trust": engine.trust,
    }
    tasks = [
        Task(
            scan=s,
            folds=tuple(chosen.get(s.scan_id, ensemble.folds)),
            about=notes.get(s.scan_id, {}),
        )
        for s in scans
    ]
    tasks.sort(key=lambda task: str(list(task.folds)))  # each fold's weights are loaded once
    progress = _Progress(tasks, Kept(kept, shared, ensemble.models, used), on_scan)
    if on_notice and progress.list_undone():
        on_notice(engine.hardware.describe())
    with ExitStack() as stack:
        for model in ensemble.models:
            stack.enter_context(hold(model.folder, purpose="predicting", shared=True))
        _predict_undone(progress, engine=engine, shared=shared)
    progress.raise_unreadable()
    done = tuple(progress.done[scan.scan_id] for scan in scans)
    return PredictedScans(scans=done, peaks=progress.peaks)


def _predict_undone(progress: _Progress, *, engine: Engine, shared: Mapping[str, Any]) -> None:
    """Predict what is not kept; GPUs that go on take over what one that fails leaves undone."""

    def run(part: Sequence[Task], gpu: int | None, log: LogFile) -> None:
        threads = engine.choose_threads(training=False)
        peaks = engine.run(
            "predict",
            {**shared, "scans": [task.to_json() for task in part]},
            log=log,
            processes=threads,
            threads=threads,
            gpu=gpu,
            variables=_KEEP_MEMORY,
            on_event=progress.take,
        )
        progress.take_peaks(peaks)

    slots: tuple[int | None, ...] | None = None
    while todo := progress.list_undone():
        slots = (engine.hardware.slots if slots is None else slots)[: len(todo)]
        parts = [todo[index :: len(slots)] for index in range(len(slots))]
        failures = _run_each(run, parts, slots, [engine.new_log("predict") for _ in slots])
        slots = tuple(slot for slot in slots if slot not in failures)
        if failures and (not slots or any(isinstance(e, InputError) for e in failures.values())):
            raise progress.explain(next(iter(failures.values())))
        if not failures:
            break


class _Progress:
    """The scans that are predicted so far, as several threads report them."""

    def __init__(
        self, tasks: Sequence[Task], kept: Kept, on_scan: Callable[[PredictedScan], None] | None
    ) -> None:
        self.done: dict[str, PredictedScan] = {}
        self.unreadable: dict[str, str] = {}
        self.peaks: dict[str, int] = {}
        self._tasks = {task.scan.scan_id: task for task in tasks}
        self._kept = kept
        self._on_scan = on_scan
        self._lock = threading.Lock()
        for task in tasks:
            if entry := kept.find(task):
                self._add(task.scan.scan_id, entry["rows"], entry["seconds"])

    def take(self, event: Event) -> None:
        """Take an event of the engine."""
        with self._lock:
            if event["event"] == "unreadable":
                self.unreadable[event["scan_id"]] = f"{event['scan_id']}: {event['message']}"
            elif event["event"] == "scan":
                entry = {"rows": event["rows"], "seconds": event["seconds"]}
                self._kept.keep(self._tasks[event["scan_id"]], entry)
                self._add(event["scan_id"], **entry)

    def take_peaks(self, result: Event) -> None:
        """Take the largest memory that an engine process reports at its end."""
        with self._lock:
            for key, value in result.items():
                if key.startswith("peak_"):
                    self.peaks[key] = max(value, self.peaks.get(key, 0))

    def _add(self, scan_id: str, rows: Sequence[Sequence[str]], seconds: float) -> None:
        texts = tuple((row[0], row[1], row[2]) for row in rows)
        scan = PredictedScan(scan_id=scan_id, rows=texts, seconds=seconds)
        self.done[scan_id] = scan
        if self._on_scan:
            self._on_scan(scan)

    def raise_unreadable(self) -> None:
        """Raise the problems of scans that cannot be read."""
        if self.unreadable:
            end = ": the others are kept." if self._kept.folder else "."
            last = (
                f"{len(self.unreadable)} of {count(len(self._tasks), 'scan')} cannot be predicted. "
                f"Correct them and run the same again{end}"
            )
            raise InputError("\n".join([*list(self.unreadable.values())[:20], last]))

    def explain(self, error: GiError) -> GiError:
        """Return the engine's failure, with what is predicted already."""
        if not isinstance(error, EngineError):
            return error
        lines = [str(error), *list(self.unreadable.values())[:20]]
        if self._kept.folder:
            lines.append(
                f"{len(self.done)} of {count(len(self._tasks), 'scan')} are predicted and kept: "
                "the same command goes on from there."
            )
        return EngineError("\n".join(lines))

    def list_undone(self) -> list[Task]:
        """Return the scans that are neither predicted nor unreadable."""
        ended = self.done.keys() | self.unreadable.keys()
        return [task for scan_id, task in self._tasks.items() if scan_id not in ended]


def _run_each(
    run: Callable[[Sequence[Task], int | None, LogFile], None],
    parts: Sequence[Sequence[Task]],
    slots: Sequence[int | None],
    logs: Sequence[LogFile],
) -> dict[int | None, GiError]:
    """Run the parts at the same time; return what failed, by slot.

    Any other error than a :class:`GiError`, such as a caller's, is raised.
    """
    failures: dict[int | None, GiError] = {}
    others: list[BaseException] = []

    def work(index: int) -> None:
        try:
            run(parts[index], slots[index], logs[index])
        except GiError as error:
            failures[slots[index]] = error
        except BaseException as error:
            others.append(error)

    if len(slots) == 1:
        work(0)
    else:
        # Daemons: on Ctrl-C this process ends at once, and its children with it.
        every = range(len(slots))
        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in every]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if others:
        raise others[0]
    return failures


@dataclass(frozen=True, kw_only=True)
class Task:
    """A scan without truth, the folds that predict it, and what is stored with probabilities."""

    scan: Scan
    folds: tuple[Fold, ...]
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the task for the engine's process."""
        return {"scan": self.scan.to_json(), "folds": list(self.folds), "about": dict(self.about)}


class KeptScan(TypedDict):
    """What is kept of a predicted scan; the digest is of all that its rows depend on."""

    rows: list[tuple[str, str, str]]
    seconds: float
    digest: str


class Kept:
    """A folder of rows by scan, each with a digest of everything that they depend on, or none."""

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, Any],
        models: Sequence[TrainedModel],
        folds: Sequence[Fold],
    ) -> None:
        self.folder = folder
        self._settings = settings
        self._plans = describe_files(model.folder / "plans.json" for model in models)
        self._checkpoints = {fold: describe_checkpoints(models, [fold]) for fold in folds}

    def find(self, task: Task) -> KeptScan | None:
        """Return what is kept of a scan; ``None`` if nothing is, or it was made otherwise."""
        if self.folder is None:
            return None
        entry = find_record(self.folder / f"{task.scan.scan_id}.json", KeptScan)
        if entry is None or entry["digest"] != self._digest(task):
            return None
        return entry if all(Path(name).is_file() for name in self._beside(task)) else None

    def keep(self, task: Task, entry: Mapping[str, Any]) -> None:
        """Keep a scan's rows; raises :class:`OutputError` if they cannot be written."""
        if self.folder is not None:
            content = json.dumps({**entry, "digest": self._digest(task)})
            replace_file(self.folder / f"{task.scan.scan_id}.json", content + "\n")

    def _digest(self, task: Task) -> str:
        # Only of its own folds: the rows of a scan do not depend on what else is predicted.
        models = [self._plans, *(self._checkpoints[fold] for fold in task.folds)]
        content = [self._settings, models, task.to_json(), describe_files(task.scan.files)]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _beside(self, task: Task) -> list[str]:
        """Return the other files that the engine wrote of the scan."""
        settings, scan_id = self._settings, task.scan.scan_id
        volumes = settings.get("nifti_folder")
        folders = settings.get("probability_folders") or ()
        files = [f"{volumes}/labels/{scan_id}.nii.gz"] if volumes else []
        return [*files, *(f"{folder}/{scan_id}{SUFFIX}" for folder in folders)]


def describe_checkpoints(
    models: Sequence[TrainedModel], folds: Sequence[Fold]
) -> dict[str, list[int]]:
    """Return size and time of change of every checkpoint."""
    folders = [fold_folder(model.folder, fold) for model in models for fold in folds]
    return describe_files(folder / FINAL_CHECKPOINT for folder in folders)


def describe_files(paths: Iterable[Path]) -> dict[str, list[int]]:
    """Return each file's size in bytes and time of change in ns; nothing of a missing one."""
    found: dict[str, list[int]] = {}
    for path in paths:
        with suppress(OSError):
            file = path.stat()
            found[str(path)] = [file.st_size, file.st_mtime_ns]
    return found


def write_cost(
    folder: Path, predicted: PredictedScans, engine: Engine, *, seconds_per_scan: float
) -> None:
    """Record time and memory, apart from what is the same in every run."""
    cost: PredictionCost = {
        "scans": len(predicted.scans),
        "seconds_per_scan": seconds_per_scan,
        "device": engine.device_type,
    }
    if predicted.peaks:  # else every scan was kept, and no hardware was needed
        cost["hardware"] = engine.hardware.name
    write_json(folder / COST, {**cost, **predicted.peaks})
