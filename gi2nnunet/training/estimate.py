"""Estimate what a matrix of configurations and folds is going to cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import read_json
from gi2nnunet.core.progress import Progress, ignore
from gi2nnunet.core.workers import count_cores
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.checks import check_split
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.presets import Preset, TrainingSettings
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.source.nifti import DATASET_JSON
from gi2nnunet.training.doctor import Work, judge_hardware, plan_work
from gi2nnunet.training.gpus import Card, find_card, wall_seconds
from gi2nnunet.training.need import (
    CHECKPOINT_BYTES,
    Need,
    estimate_need,
    is_stock,
    stock_flops,
    stock_parameters,
    stock_plan,
)
from gi2nnunet.training.pace import (
    Pace,
    PastTraining,
    Source,
    count_flops,
    measure_pace,
    pace_of_card,
    pace_of_past,
    read_past,
)
from gi2nnunet.training.plan import (
    PlannedConfiguration,
    digest_preprocessing,
    is_preprocessed,
    read_planned,
)

# Of one core, with margin; see docs/estimate.md.
_PREPROCESSING_SECONDS_PER_MILLION_VOXELS = 0.5
_PLANNING_SECONDS = 30.0
# Probabilities of three organs in eight bits, compressed.
_PROBABILITY_BYTES_PER_VOXEL = 0.5
_CHECKPOINTS_KEPT = 2


def estimate_costs(
    dataset: Dataset,
    *,
    engine: Engine,
    request: Request,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate hours, disk and memory of trainings, and check the estimate on those that ran.

    Parameters
    ----------
    dataset
        A converted dataset; where it is not planned, it must be of the competition's sizes.
    engine
        Where and on what, if the request names no card; it counts and measures.
    request
        What is to be estimated.
    progress
        Called with ``(done, total, what)``.

    Raises
    ------
    InputError
        Where nothing is planned, or nothing tells how long a batch takes.
    EngineError
        Where the measured run fails.
    """
    if not any(scan.part == "train" for scan in dataset.scans):
        raise InputError(
            f"{dataset.folder}: holds no training scan. Convert a source that has train.csv."
        )
    evidence = Evidence(dataset, engine, request, progress or ignore)
    return _Estimation(dataset, request, evidence).make()


class _Estimation:
    """One estimate in the making."""

    def __init__(self, dataset: Dataset, request: Request, evidence: Evidence) -> None:
        self.dataset, self.request, self.evidence = dataset, request, evidence
        self.planned, self.paces = evidence.planned, evidence.paces
        # Folds that were trained for another length than is asked about.
        self.others: dict[tuple[str, int | None, int | None], list[Fold]] = {}

    def make(self) -> Estimate:
        request = self.request
        paces = self.paces
        trainings = tuple(
            self._cost(name, fold) for name in request.configurations for fold in request.folds
        )
        need = self._need(trainings)
        work = self._work(trainings)
        uses_cards, memory = self.evidence.uses_cards, request.preset.memory_gib or None
        peaks = [(pace.measured or {}).get("peak_gpu_bytes") for pace in paces.values()]
        if peaks and all(peaks):
            memory = math.ceil(max(peak for peak in peaks if peak) / 2**30)
        return Estimate(
            dataset=self.dataset.name,
            preset=request.preset.name,
            plan=str(self.evidence.plans_file)
            if self.evidence.is_planned
            else "nnU-Net's plan for scans of these sizes, known beforehand",
            device=request.card.name if request.card else describe_hardware(self.evidence.hardware),
            on_cards=uses_cards,
            cards=request.cards if uses_cards else 1,
            paces=paces,
            trainings=trainings,
            checks=self.evidence.checks,
            preparing_seconds=self._preparing_seconds(work),
            predicting_seconds=self._predicting_seconds(),
            disk_bytes={
                "preprocessed": need.preprocessed,
                "results": self._results_bytes(trainings),
                "predictions": self._predictions_bytes(),
            },
            memory_bytes={
                "preprocess": work.processes * need.process_memory,
                "train": _training_memory(need, work),
            },
            gpu_memory_gib=memory if uses_cards else None,
            notes=(*self.evidence.notes, *self._tell_others(), *self._judge_card()),
        )

    def _cost(self, name: str, fold: Fold) -> TrainingCost:
        epochs, iterations = self.request.length
        pace = self.paces[name]
        state, done = self._find_state(name, fold)
        epoch = pace.epoch_seconds(iterations)
        after = 0.0
        if self.request.nnunet_validation:
            after = sum(
                self._scan_seconds(scan_id, name, models=1)
                for scan_id in self._validation_scans(fold)
            )
        left = (
            0.0 if state == "finished" else pace.startup_seconds + (epochs - done) * epoch + after
        )
        return TrainingCost(
            configuration=name,
            fold=fold,
            state=state,
            epochs_done=done,
            epochs=epochs,
            epoch_seconds=epoch,
            seconds=pace.startup_seconds + epochs * epoch + after,
            seconds_left=0.0 if state == "finished" else left,
        )

    def _find_state(self, name: str, fold: Fold) -> tuple[State, int]:
        epochs, iterations = self.request.length
        past = next((entry for entry in self.evidence.past[name] if entry.fold == fold), None)
        if past is None or not (past.finished or past.curves):
            return "new", 0
        if (past.epochs, past.iterations) != (epochs, iterations):
            self.others.setdefault((name, past.epochs, past.iterations), []).append(fold)
            return "new", 0
        if past.finished:
            return "finished", epochs
        return "begun", min(epochs, past.curves[-1].number + 1)

    def _validation_scans(self, fold: Fold) -> Sequence[str]:
        if fold == "all":
            return [scan.scan_id for scan in self.dataset.scans if scan.part == "train"]
        return self.dataset.splits[int(fold)]["val"]

    def _scan_seconds(self, scan_id: str, name: str, *, models: int) -> float:
        planned = self.planned[name]
        return prediction_seconds(
            self.dataset.scan(scan_id),
            planned,
            patch_seconds=self.paces[name].validation_seconds / planned.batch_size,
            models=models,
        )

    def _predicting_seconds(self) -> dict[str, float]:
        folds = self.request.folds
        seen = {s for fold in folds if fold != "all" for s in self._validation_scans(fold)}
        others = [scan.scan_id for scan in self.dataset.scans if scan.part != "train"]
        return {
            what: sum(
                self._scan_seconds(scan_id, name, models=models)
                for name in self.planned
                for scan_id in scans
            )
            for what, scans, models in (
                ("out_of_fold", sorted(seen), 1),
                ("held_out", others, len(folds)),
            )
        }

    def _preparing_seconds(self, work: Work) -> float:
        voxels = 0
        for name in self.planned:
            if not self.evidence.is_ready(name):
                voxels += sum(math.prod(s.shape) for s in self.dataset.scans if s.part == "train")
        if not voxels:
            return 0.0
        each = _PREPROCESSING_SECONDS_PER_MILLION_VOXELS * voxels / 1e6
        return _PLANNING_SECONDS + each / min(work.processes, count_cores())

    def _need(self, trainings: Sequence[TrainingCost]) -> Need:
        return estimate_need(
            self.dataset,
            preprocessed=self.evidence.folder,
            preset=self.request.preset,
            configurations=tuple(self.planned),
            planned=self.planned,
            trainings=len({e.fold for e in trainings if e.state != "finished"}),
        )

    def _tell_others(self) -> list[str]:
        epochs, iterations = self.request.length
        return [
            f"{name}, fold {', '.join(map(str, folds))}: trained for {had} epochs of {batches} "
            f"batches, not {epochs} of {iterations}: reckoned anew; train refuses that without "
            "--restart."
            for (name, had, batches), folds in self.others.items()
        ]

    def _judge_card(self) -> list[str]:
        """Tell where a card's memory does not suffice for the preset."""
        card = self.request.card
        if card is None:
            return []
        hardware = Hardware(
            device="cuda", gpus=(0,), memory_gib=card.memory_gib, name=card.name
        )  # fmt: skip
        verdicts = judge_hardware(hardware, self.request.preset)
        return [f"{card.name}: {verdict}" for verdict in verdicts if verdict.level != "ok"]

    def _work(self, trainings: Sequence[TrainingCost]) -> Work:
        request = self.request
        left = sum(entry.state != "finished" for entry in trainings)
        cards = min(request.cards, max(1, left))
        hardware = Hardware(
            device="cuda" if self.evidence.uses_cards else "cpu",
            gpus=tuple(range(cards)) if self.evidence.uses_cards else (),
            memory_gib=None,
            name="",
        )
        return plan_work(
            jobs=self.evidence.engine.jobs,
            cores=count_cores(),
            hardware=hardware,
            training=left > 0,
        )

    def _results_bytes(self, trainings: Sequence[TrainingCost]) -> int:
        total, most = 0.0, 0.0
        for entry in trainings:
            if entry.state == "finished":
                continue
            known = (self.paces[entry.configuration].measured or {}).get("checkpoint_bytes")
            one = known or CHECKPOINT_BYTES * stock_parameters(
                self.request.preset, entry.configuration
            )
            total += _CHECKPOINTS_KEPT * one
            most = max(most, one)
        return math.ceil(total + most)

    def _predictions_bytes(self) -> int:
        folds = {fold for fold in self.request.folds if fold != "all"}
        scans = {scan_id for fold in folds for scan_id in self._validation_scans(fold)}
        voxels = sum(math.prod(self.dataset.scan(scan_id).shape) for scan_id in scans)
        return math.ceil(voxels * _PROBABILITY_BYTES_PER_VOXEL * len(self.planned))


def _training_memory(need: Need, work: Work) -> int:
    workers = work.workers + max(1, work.workers // 2) if work.workers else 0
    return work.trainings * (need.training_memory + workers * need.worker_memory)


State = Literal["new", "begun", "finished"]

MEASURE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """What one training takes.

    Attributes
    ----------
    configuration, fold, state
        Which, and how far it is.
    epochs_done, epochs
        Of its length.
    epoch_seconds
        Expected of one epoch, with validation batches and what follows it.
    seconds
        Expected of all of it, from its start.
    seconds_left
        Expected of what is left.
    """

    configuration: str
    fold: Fold
    state: State
    epochs_done: int
    epochs: int
    epoch_seconds: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Check:
    """One training here, held to what would have been predicted of it.

    Attributes
    ----------
    configuration, fold, epochs
        Which, and how many epochs of it are finished.
    actual_seconds, predicted_seconds
        Of an epoch.
    source, described
        Where the prediction is from.
    """

    configuration: str
    fold: Fold
    epochs: int
    actual_seconds: float
    predicted_seconds: float
    source: Source
    described: str

    @property
    def error(self) -> float:
        """Return the error, relative to what was; positive where too much was predicted."""
        return self.predicted_seconds / self.actual_seconds - 1


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a matrix of trainings takes.

    Attributes
    ----------
    dataset, preset
        Names.
    plan
        Where patch and batch sizes are from, in words.
    device
        On what, in words.
    on_cards, cards
        Whether it computes on CUDA cards, and how many trainings run at a time.
    paces
        By configuration, how long a batch takes and from where that is known.
    trainings
        One a configuration and fold, in the order in which ``train`` takes them.
    checks
        What predictions of trainings here came to.
    preparing_seconds
        Of planning and preprocessing what is not preprocessed.
    predicting_seconds
        Of prediction on one card: ``out_of_fold`` (each training scan once) and ``held_out`` (the
        others, averaged over the folds); 0 where there is nothing of it.
    disk_bytes
        Still to be taken: ``preprocessed``, ``results``, ``predictions``.
    memory_bytes
        Of the machine: ``preprocess`` and ``train``, with all workers and cards.
    gpu_memory_gib
        What the preset was planned for, or what was measured; ``None`` on a CPU, and where it is
        next to nothing.
    notes
        What should be known of it.
    """

    dataset: str
    preset: str
    plan: str
    device: str
    on_cards: bool
    cards: int
    paces: Mapping[str, Pace]
    trainings: tuple[TrainingCost, ...]
    checks: tuple[Check, ...]
    preparing_seconds: float
    predicting_seconds: Mapping[str, float]
    disk_bytes: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    gpu_memory_gib: float | None
    notes: tuple[str, ...]

    @property
    def seconds_left(self) -> float:
        """Return what all trainings together still take on their cards."""
        return sum(entry.seconds_left for entry in self.trainings)

    @property
    def wall_seconds_left(self) -> float:
        """Return how long all that takes on the clock."""
        return wall_seconds([e.seconds_left for e in self.trainings], cards=self.cards)

    @property
    def wall_seconds_longest_first(self) -> float:
        """Return the same were the longest trainings given out first."""
        return wall_seconds(
            [e.seconds_left for e in self.trainings], cards=self.cards, longest_first=True
        )

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain values; seconds and bytes throughout."""
        return {
            **{
                name: getattr(self, name)
                for name in (
                    "dataset",
                    "preset",
                    "plan",
                    "device",
                    "on_cards",
                    "cards",
                    "preparing_seconds",
                )
            },
            "paces": {name: asdict(pace) for name, pace in self.paces.items()},
            "trainings": [asdict(entry) for entry in self.trainings],
            "total": {
                "device_seconds": sum(entry.seconds for entry in self.trainings),
                "device_seconds_left": self.seconds_left,
                "wall_seconds_left": self.wall_seconds_left,
                "wall_seconds_left_longest_first": self.wall_seconds_longest_first,
            },
            "predicting_seconds": dict(self.predicting_seconds),
            "disk_bytes": dict(self.disk_bytes),
            "memory_bytes": dict(self.memory_bytes),
            "gpu_memory_gib": self.gpu_memory_gib,
            "checks": [{**asdict(check), "error": check.error} for check in self.checks],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be estimated.

    Attributes
    ----------
    preset, configurations, folds, settings, nnunet_validation
        As ``train`` takes them.
    card
        A card of the table, in place of what is here.
    cards
        How many of them.
    measure, measure_seconds
        Whether to time a few batches here, and for how long.
    """

    preset: Preset
    configurations: Sequence[str]
    folds: Sequence[Fold]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    card: Card | None = None
    cards: int = 1
    measure: bool = False
    measure_seconds: float = MEASURE_SECONDS
    nnunet_validation: bool = False

    @property
    def length(self) -> tuple[int, int]:
        """Return epochs, and batches in an epoch."""
        return (
            self.settings.epochs or self.preset.epochs,
            self.settings.iterations or self.preset.iterations,
        )


class Evidence:
    """What is known for one request.

    Attributes
    ----------
    hardware
        What is here; ``None`` if a card is named instead.
    planned
        Each configuration that is asked about.
    is_planned
        Whether nnU-Net planned them here; else the plan is the one known for such scans.
    past
        By configuration, its trainings of this plan in this workspace, on any device.
    paces
        By configuration, the best that is known.
    checks
        What predictions of the trainings here came to.
    notes
        What should be known.
    """

    def __init__(
        self, dataset: Dataset, engine: Engine, request: Request, report: Progress
    ) -> None:
        """Look at the workspace, and measure where that is asked for.

        Raises
        ------
        InputError
            Where nothing is planned, or nothing tells how long a batch takes.
        EngineError
            Where the measured run fails.
        """
        self.dataset, self.engine = dataset, engine
        self.request, self.report = request, report
        self.hardware = None if request.card else engine.hardware
        self.folder = engine.workspace.preprocessed / dataset.name
        self.plans_name = request.preset.plans_name
        self.plans_file = self.folder / f"{self.plans_name}.json"
        self.notes: list[str] = []
        self._flops: dict[str, float] = {}
        self.planned, self.is_planned = self._find_plan()
        self.past = self._find_past()
        measured = self._measure() if request.measure else {}
        self.paces = self._choose_paces(measured)
        self.checks = self._check(measured)

    @property
    def uses_cards(self) -> bool:
        """Return whether it computes on CUDA cards."""
        return self.hardware is None or self.hardware.device == "cuda"

    def is_ready(self, name: str) -> bool:
        """Return whether a configuration is preprocessed."""
        preprocessing = digest_preprocessing(self.plans_file, name)
        return is_preprocessed(self.planned[name], self.dataset, preprocessing=preprocessing)

    def _find_plan(self) -> tuple[dict[str, PlannedConfiguration], bool]:
        request = self.request
        mark = read_json(self.folder / f"gi2nnunet_{self.plans_name}.json")
        planned = read_planned(self.folder, self.plans_name)
        fresh = (mark.get("recipe") or {}).get("dataset") == self.dataset.digest
        whole = bool(planned) and fresh and self.plans_file.is_file()
        command = f"gi2nnunet plan --preset {request.preset.name}"
        if not whole:
            if not is_stock(self.dataset):
                raise InputError(
                    f"{self.folder}: nothing is planned for the preset {request.preset.name}, and "
                    "the scans are not of the competition's usual size, for which the plan is "
                    f"known. Run {command} first."
                )
            planned = stock_plan(request.preset, folder=self.folder)
            self.notes.append(f"Nothing is planned yet; {command} makes the real plan.")
        for name in request.configurations:
            if name not in planned:
                raise InputError(
                    f"--config {name}: found {', '.join(planned)} in the plan. Choose one of these."
                )
        return {name: planned[name] for name in request.configurations}, whole

    def _find_past(self) -> dict[str, tuple[PastTraining, ...]]:
        results = self.engine.workspace.results / self.dataset.name
        found = {}
        for name, planned in self.planned.items():
            folder = results / f"{self.request.settings.trainer}__{self.plans_name}__{name}"
            patch = (planned.batch_size, *planned.patch_size)
            found[name] = tuple(
                entry for entry in read_past(folder, name) if entry.patch == patch
            )  # fmt: skip
        return found

    def _here(self, name: str) -> tuple[PastTraining, ...]:
        """Return the trainings that ran on such a device as is asked about."""
        here = self.hardware
        if here is None:
            return ()
        return tuple(entry for entry in self.past[name] if _is_same(entry.device, here))

    def _measure(self) -> dict[str, Pace]:
        request = self.request
        if self.hardware is None:
            raise ValueError("a card that is not here cannot be measured")
        if request.folds[0] != "all":
            check_split(self.dataset, self.folder)  # nnU-Net would make one where it is missing
        for name, planned in self.planned.items():
            if not self.is_ready(name):
                raise InputError(
                    f"{planned.data_folder}: is not preprocessed; --measure trains a few batches. "
                    f"Run gi2nnunet plan --preset {request.preset.name} --config {name} first."
                )
        measured = {}
        for done, (name, planned) in enumerate(self.planned.items()):
            self.report(done, len(self.planned), "measuring a few batches")
            measured[name] = measure_pace(
                planned,
                dataset_folder=self.folder,
                plans_name=self.plans_name,
                fold=request.folds[0],
                iterations=request.length[1],
                engine=self.engine,
                seconds=request.measure_seconds,
            )
        self.report(len(self.planned), len(self.planned), "measuring a few batches")
        return measured

    def _choose_paces(self, measured: Mapping[str, Pace]) -> dict[str, Pace]:
        paces = {}
        missing = []
        for name in self.planned:
            pace = pace_of_past(self._here(name), iterations=self.request.length[1])
            if pace and name in measured:
                # What an epoch takes is known better from epochs; the rest only from the short run.
                pace = replace(
                    pace,
                    startup_seconds=measured[name].startup_seconds,
                    measured=measured[name].measured,
                )
            found = pace or measured.get(name) or self._reckon(name)
            if found is None:
                missing.append(name)
            else:
                paces[name] = found
        if missing:
            raise InputError(
                f"{', '.join(missing)}: nothing tells how long a batch takes: found no epoch "
                f"trained here on {describe_hardware(self.hardware)}, and the table of "
                "cards does not have it. Use --measure to train a few batches, or --card NAME."
            )
        return paces

    def _reckon(self, name: str) -> Pace | None:
        """Return the pace of the table; ``None`` for what it does not have."""
        card = self.request.card or _card_of(self.hardware)
        if card is None:
            return None
        if not self._flops:
            self._flops = self._count_flops()
            self.notes.append(
                f"{card.name}: reckoned from a table, not measured: up to twice as long is "
                "possible, and more where few processor cores augment for a fast card."
                + ("" if self.request.card else " --measure would time this very card.")
            )
        return pace_of_card(
            card, forward_flops=self._flops[name], batch_size=self.planned[name].batch_size
        )

    def _count_flops(self) -> dict[str, float]:
        if not self.is_planned:
            return {name: stock_flops(self.request.preset, name) for name in self.planned}
        self.report(0, 1, "counting the operations of the planned networks")
        return count_flops(
            tuple(self.planned),
            plans_file=self.plans_file,
            dataset_json=self.dataset.folder / DATASET_JSON,
            engine=self.engine,
        )

    def _check(self, measured: Mapping[str, Pace]) -> tuple[Check, ...]:
        found = []
        for name in self.planned:
            here = [entry for entry in self._here(name) if entry.curves and entry.iterations]
            for entry in here:
                iterations = entry.iterations or 1
                others = [other for other in here if other is not entry]
                predictions = [
                    pace_of_past(others, iterations=iterations),
                    measured.get(name),
                    self._reckon(name) if _card_of(self.hardware) else None,
                ]
                found += [
                    Check(
                        configuration=name,
                        fold=entry.fold,
                        epochs=len(entry.curves),
                        actual_seconds=entry.epoch_seconds,
                        predicted_seconds=pace.epoch_seconds(iterations),
                        source=pace.source,
                        described=pace.described,
                    )
                    for pace in predictions
                    if pace is not None
                ]
        return tuple(found)


def _card_of(hardware: Hardware | None) -> Card | None:
    return find_card(hardware.name) if hardware and hardware.device == "cuda" else None


def describe_hardware(hardware: Hardware | None) -> str:
    """Return a device in words."""
    return hardware.name if hardware else "nothing"


def _is_same(device: str, hardware: Hardware) -> bool:
    """Return whether a training's device is of the kind at hand."""
    kind, _, card = device.partition(" ")
    return kind == hardware.device and card in hardware.name


_STEP = 0.5  # of a patch, nnU-Net's own
# Reading, resampling and writing, a million voxels: about 3 s for a scan of the usual size.
_SECONDS_PER_MILLION_VOXELS = 0.3


def count_passes(scan: DatasetScan, planned: PlannedConfiguration) -> int:
    """Return how many patches a prediction with mirroring sends through one network."""
    axes = len(planned.patch_size)
    size = [
        max(1, round(voxels * own / wanted))
        for voxels, own, wanted in zip(
            scan.shape[-axes:], scan.spacing_mm[-axes:], planned.spacing_mm, strict=True
        )
    ]
    tiles = math.prod(
        1 if voxels <= patch else math.ceil((voxels - patch) / (patch * _STEP)) + 1
        for voxels, patch in zip(size, planned.patch_size, strict=True)
    )
    slices = scan.depth if axes == 2 else 1
    return tiles * slices * (1 << axes)


def prediction_seconds(
    scan: DatasetScan,
    planned: PlannedConfiguration,
    *,
    patch_seconds: float,
    models: int,
) -> float:
    """Return the seconds that one configuration takes for a scan.

    Parameters
    ----------
    scan
        What to predict.
    planned
        With which configuration.
    patch_seconds
        Of one patch on its way forward.
    models
        Folds that are averaged.
    """
    fixed = _SECONDS_PER_MILLION_VOXELS * math.prod(scan.shape) / 1e6
    return fixed + models * count_passes(scan, planned) * patch_seconds
