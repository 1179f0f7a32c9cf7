"""Estimate of trainings before they start: hours, disk and memory.

The time of an epoch is taken from trainings in the workspace, from a short run, or from a table of
cards; the estimate says which. The time of a prediction is taken from predictions in the workspace.
"""

from __future__ import annotations

import heapq
import math
import re
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_record
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.workers import Progress, count_cores, ignore
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.nnunet.checks import require_own_split
from gi2nnunet.nnunet.engine import COST, Engine, Hardware, PredictionCost
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.presets import (
    DEFAULT_AUGMENT,
    STOCK_ITERATIONS,
    Preset,
    TrainingSettings,
)
from gi2nnunet.training.doctor import judge_hardware, plan_work
from gi2nnunet.training.need import count_operations, estimate_need, is_stock, stock_plan
from gi2nnunet.training.prepared import (
    PlanMark,
    PlannedConfiguration,
    digest_preprocessing,
    inspect_data,
    read_planned,
)
from gi2nnunet.training.record import TrainedFold, fill_in, find_trainings, read_length

if TYPE_CHECKING:
    from pandas import DataFrame

Source = Literal["trainings", "measured", "card"]
State = Literal["new", "begun", "finished"]

# See docs/estimate.md for each: nnU-Net's authors publish hours that come to this share of an
# A100's peak; the others were measured on a 2-core CPU, of one core, with margin.
UTILISATION = 0.19
_START_SECONDS, _EPOCH_END_SECONDS = 15.0, 1.0
_PLANNING_SECONDS, _PREPROCESSING_SECONDS_PER_MILLION_VOXELS = 30.0, 0.5
_PROBABILITY_BYTES = 0.5  # of a voxel: three organs in eight bits, compressed

MEASURE_SECONDS = 20.0
_WARM_UP = 2
# What workers that augment have ready when a training begins, and as much again.
_WARM_UP_OF_WORKERS = 30


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one configuration trains, and from what this is known.

    ``epoch_seconds`` is one epoch with its validation batches and the pause before the next;
    ``startup_seconds`` is from the start of a process to its first batch.
    """

    source: Source
    described: str
    epoch_seconds: float
    startup_seconds: float = _START_SECONDS


@dataclass(frozen=True, kw_only=True)
class Request:
    """Trainings to estimate.

    Attributes
    ----------
    card, cards
        A card of the table instead of this machine's hardware, and how many.
    measure_seconds
        How long to time batches here; ``None`` measures nothing.
    """

    preset: Preset
    configurations: Sequence[str]
    folds: Sequence[Fold]
    settings: TrainingSettings = field(default_factory=TrainingSettings)
    card: Card | None = None
    cards: int = 1
    measure_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Time of one training: all of it from its start, and what is left."""

    configuration: str
    fold: Fold
    state: State
    epochs_done: int
    epochs: int
    epoch_seconds: float
    seconds: float
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class Estimate(ShownAsTable):
    """Time, disk and memory of all trainings together.

    Attributes
    ----------
    plan, device
        Origin of patch and batch sizes, and the hardware, in words.
    on_cards, cards
        Whether it is CUDA cards, and how many trainings run at a time.
    trainings
        By configuration, then by fold: the order of ``train``.
    preparing_seconds
        Planning and preprocessing that is still to be done.
    predicting_seconds
        ``out_of_fold`` (the folds' validation scans) and ``held_out`` (all scans that are not
        trained on), from predictions in this workspace; ``None`` if there are none like it.
    disk_bytes
        Still to be written: ``preprocessed``, ``results``, ``predictions``.
    memory_bytes
        Of the machine: ``preprocess`` and ``train``, with all workers and cards.
    gpu_memory_gib
        GPU memory that the preset is planned for; ``None`` on a CPU, and for next to nothing.
    """

    dataset: str
    preset: str
    plan: str
    device: str
    on_cards: bool
    cards: int
    paces: Mapping[str, Pace]
    trainings: tuple[TrainingCost, ...]
    preparing_seconds: float
    predicting_seconds: Mapping[str, float | None]
    disk_bytes: Mapping[str, int]
    memory_bytes: Mapping[str, int]
    gpu_memory_gib: float | None
    notes: tuple[str, ...]

    @property
    def seconds_left(self) -> float:
        """Return what all trainings still take, summed over the cards."""
        return sum(entry.seconds_left for entry in self.trainings)

    @property
    def wall_seconds_left(self) -> float:
        """Return when the last training ends, if each card takes the next one when it is free."""
        free = [0.0] * self.cards
        for entry in self.trainings:
            heapq.heapreplace(free, free[0] + entry.seconds_left)
        return max(free)

    def to_frame(self) -> DataFrame:
        """Return a table of the trainings."""
        return make_frame(TrainingCost, self.trainings)

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as plain values; seconds and bytes throughout."""
        total = {
            "device_seconds": sum(entry.seconds for entry in self.trainings),
            "device_seconds_left": self.seconds_left,
            "wall_seconds_left": self.wall_seconds_left,
        }
        return {**asdict(self), "total": total}


def estimate_costs(
    dataset: Dataset, *, engine: Engine, request: Request, progress: Progress = ignore
) -> Estimate:
    """Estimate hours, disk and memory of trainings.

    The dataset must be planned, or its scans of the competition's sizes. ``progress`` is called
    with ``(done, total, what)`` while measuring.

    Raises
    ------
    InputError
        If nothing is planned, or it is not known how long an epoch takes.
    EngineError
        If the measured run fails.
    """
    if not any(scan.part == "train" for scan in dataset.scans):
        raise InputError(
            f"{dataset.folder}: holds no training scan. Convert a source that has train.csv."
        )
    return _Estimation(dataset, engine, request).make(progress)


class _Estimation:
    """One estimate in the making."""

    def __init__(self, dataset: Dataset, engine: Engine, request: Request) -> None:
        self.dataset, self.engine, self.request = dataset, engine, request
        self.hardware = request.card.as_hardware() if request.card else engine.hardware
        self.cards = request.cards if self.hardware.device == "cuda" else 1
        self.work = plan_work(
            jobs=engine.jobs, cores=count_cores(), hardware=self.hardware, training=True,
            environ=engine.environ,
        )  # fmt: skip
        self.preset = request.preset
        self.settings = fill_in(request.settings, request.preset)
        self.epochs, self.iterations = read_length(self.settings)
        self.folder = engine.workspace.preprocessed / dataset.name
        self.plans_file = self.folder / f"{self.preset.plans_name}.json"
        self.model = f"{self.settings.trainer}__{self.preset.plans_name}__"
        self.notes: list[str] = []
        self.planned, self.plan = self._find_plan()
        self.past = self._find_past()

    def make(self, progress: Progress) -> Estimate:
        if self.request.measure_seconds is None:
            paces = self._find_paces()
        else:
            paces = self._measure_paces(progress)
        trainings = tuple(
            self._cost(name, fold, pace)
            for name, pace in paces.items()
            for fold in self.request.folds
        )
        verdicts = judge_hardware(self.hardware, self.preset)
        self.notes += [str(verdict) for verdict in verdicts if verdict.level != "ok"]
        on_cards = self.hardware.device == "cuda"
        return Estimate(
            dataset=self.dataset.name,
            preset=self.preset.name,
            plan=self.plan,
            device=self.hardware.name,
            on_cards=on_cards,
            cards=self.cards,
            paces=paces,
            trainings=trainings,
            predicting_seconds=self._predicting_seconds(),
            gpu_memory_gib=(self.preset.memory_gib or None) if on_cards else None,
            notes=tuple(self.notes),
            **self._find_needs(trainings),
        )

    def _find_plan(self) -> tuple[dict[str, PlannedConfiguration], str]:
        """Return nnU-Net's plan, or the one it would make; and where it is from."""
        mark = find_record(self.folder / f"gi2nnunet_{self.preset.plans_name}.json", PlanMark)
        planned = read_planned(self.folder, self.preset.plans_name)
        fresh = mark is not None and mark["recipe"].get("dataset") == self.dataset.digest
        command = f"gi2nnunet plan --preset {self.preset.name}"
        origin = str(self.plans_file)
        if not (planned and fresh and self.plans_file.is_file()):
            if not is_stock(self.dataset):
                raise InputError(
                    f"{self.folder}: nothing is planned for the preset {self.preset.name}, and the "
                    "scans are not of the competition's usual size, for which the plan is known. "
                    f"Run {command} first."
                )
            planned = stock_plan(self.preset, folder=self.folder)
            origin = "nnU-Net's plan for scans of these sizes, known beforehand"
            self.notes.append(f"Nothing is planned yet; {command} makes the real plan.")
        for name in self.request.configurations:
            if name not in planned:
                raise InputError(
                    f"--config {name}: found {', '.join(planned)} in the plan. Choose one of these."
                )
        return {name: planned[name] for name in self.request.configurations}, origin

    def _find_past(self) -> dict[str, list[TrainedFold]]:
        """Return by configuration the trainings of this trainer and plan, on any device."""
        trainings = find_trainings(self.engine.workspace.results / self.dataset.name)
        return {
            name: [
                entry
                for entry in trainings
                if entry.folder.parent.name == f"{self.model}{name}"
                and entry.sizes == (planned.batch_size, planned.patch_size)
            ]
            for name, planned in self.planned.items()
        }

    def _find_paces(self) -> dict[str, Pace]:
        """Return by configuration the pace of trainings here, else that of the table."""
        found = {name: self._pace_here(name) or self._pace_of_card(name) for name in self.planned}
        paces = {name: pace for name, pace in found.items() if pace}
        if missing := [name for name in found if name not in paces]:
            raise InputError(
                f"{', '.join(missing)}: it is not known how long an epoch takes: found no epoch "
                f"trained here on {self.hardware.name}, and the table of GPUs does not have it. "
                "Use --measure to train a few batches, or --card NAME."
            )
        if any(pace.source == "card" for pace in paces.values()):
            self.notes.append(
                f"{self.hardware.name}: estimated from a table, not measured: it may take twice as "
                "long, and longer if few processor cores augment for a fast card."
                + ("" if self.request.card else " --measure times this card.")
            )
        return paces

    def _pace_here(self, name: str) -> Pace | None:
        """Return the mean pace of trainings on this hardware, scaled to the batches asked for."""
        past = [
            entry
            for entry in self.past[name]
            if entry.epochs and entry.settings and _ran_on(entry, self.hardware)
        ]
        if not past:
            return None
        count = sum(len(entry.epochs) for entry in past)
        folds = ", ".join(entry.fold for entry in past)
        return Pace(
            source="trainings",
            described=f"trained here: {count} epochs of fold {folds}",
            epoch_seconds=statistics.fmean(
                _epoch_seconds(entry, iterations=self.iterations) for entry in past
            ),
        )

    def _pace_of_card(self, name: str) -> Pace | None:
        """Return the pace by a card's peak and the operations of a batch.

        A batch is three times the way forward (back are twice as many operations), a validation
        batch once.
        """
        card = find_card(name_card(self.hardware))
        operations = count_operations(self.preset, self.planned[name])
        if card is None or operations is None:
            return None
        forward = operations / (card.peak_tflops * 1e12 * UTILISATION)
        batches = 3 * self.iterations + max(1, self.iterations // 5)
        return Pace(
            source="card",
            described=f"not measured: {UTILISATION:.0%} of the {card.peak_tflops:g} TFLOPS of one "
            f"{card.name}",
            epoch_seconds=batches * forward + _EPOCH_END_SECONDS,
        )

    def _measure_paces(self, progress: Progress) -> dict[str, Pace]:
        """Return by configuration the pace of a short run."""
        if self.request.folds[0] != "all":
            require_own_split(self.dataset, self.folder)  # nnU-Net would make a missing one
        for name, planned in self.planned.items():
            if not self._is_ready(name):
                raise InputError(
                    f"{planned.data_folder}: is not preprocessed; --measure trains a few batches. "
                    f"Run gi2nnunet plan --preset {self.preset.name} --config {name} first."
                )
        paces = {}
        for done, name in enumerate(self.planned):
            progress(done, len(self.planned), "measuring a few batches")
            paces[name] = self._measure(name)
        progress(len(self.planned), len(self.planned), "measuring a few batches")
        return paces

    def _measure(self, name: str) -> Pace:
        """Train a few batches and time them; nothing of it is kept."""
        engine, threads = self.engine, self.engine.choose_threads(training=True)
        log = engine.new_log("estimate")
        with tempfile.TemporaryDirectory(prefix="gi2nnunet-measure-") as folder:
            elsewhere = replace(engine, workspace=replace(engine.workspace, results=Path(folder)))
            options = {
                "dataset_folder": str(self.folder),
                "plans_name": self.preset.plans_name,
                "configuration": name,
                "fold": self.request.folds[0],
                "trainer": self.settings.trainer,
                "epochs": self.settings.epochs,
                "iterations": self.settings.iterations,
                "augment": self.settings.augment or DEFAULT_AUGMENT,
                "device": self.hardware.device,
                "threads": threads,
                "trust": engine.trust,
                "started": time.time(),
                "seconds": self.request.measure_seconds,
                "warm_up": _WARM_UP_OF_WORKERS if self.work.workers else _WARM_UP,
            }
            measured = elsewhere.run(
                "measure", options, log=log, helpers=self.work.workers, threads=threads,
                gpu=self.hardware.slots[0],
            )  # fmt: skip
        log.path.unlink(missing_ok=True)
        return Pace(
            source="measured",
            described=f"measured now: {measured['batches']} batches",
            epoch_seconds=measured["epoch_seconds"],
            startup_seconds=measured["startup_seconds"],
        )

    def _cost(self, name: str, fold: Fold, pace: Pace) -> TrainingCost:
        state, done = self._find_state(name, fold)
        left = pace.startup_seconds + (self.epochs - done) * pace.epoch_seconds
        return TrainingCost(
            configuration=name,
            fold=fold,
            state=state,
            epochs_done=done,
            epochs=self.epochs,
            epoch_seconds=pace.epoch_seconds,
            seconds=pace.startup_seconds + self.epochs * pace.epoch_seconds,
            seconds_left=0.0 if state == "finished" else left,
        )

    def _find_state(self, name: str, fold: Fold) -> tuple[State, int]:
        """Return how far a training is, and how many epochs of it are done."""
        past = next((entry for entry in self.past[name] if entry.fold == str(fold)), None)
        if past is None or not (past.finished or past.epochs):
            return "new", 0
        had = past.settings.get("epochs"), past.settings.get("iterations")
        if past.settings and had != (self.settings.epochs, self.settings.iterations):
            self.notes.append(
                f"{past.name}: was trained for {had[0]} epochs of {had[1]} batches, not "
                f"{self.epochs} of {self.iterations}; estimated from its start, as train needs "
                "--restart for that."
            )
            return "new", 0
        if past.finished:
            return "finished", self.epochs
        return "begun", min(self.epochs, past.epochs[-1].number + 1)

    def _find_needs(self, trainings: Sequence[TrainingCost]) -> dict[str, Any]:
        """Return time to prepare, disk and memory."""
        left = [entry for entry in trainings if entry.state != "finished"]
        need = estimate_need(
            self.dataset,
            preprocessed=self.folder,
            preset=self.preset,
            configurations=tuple(self.planned),
            planned=self.planned,
            trainings=len({entry.fold for entry in left}),
        )
        missing = sum(not self._is_ready(name) for name in self.planned)
        voxels = sum(math.prod(s.shape) for s in self.dataset.scans if s.part == "train")
        seconds = missing * voxels / 1e6 * _PREPROCESSING_SECONDS_PER_MILLION_VOXELS
        workers = min(self.work.processes, count_cores())
        predicted = sum(math.prod(self.dataset.scan(s).shape) for s in self._validation_scans())
        return {
            "preparing_seconds": _PLANNING_SECONDS + seconds / workers if missing else 0.0,
            "disk_bytes": {
                "preprocessed": need.preprocessed,
                "results": need.results,
                "predictions": math.ceil(predicted * _PROBABILITY_BYTES * len(self.planned)),
            },
            "memory_bytes": {
                "preprocess": self.work.processes * need.process_memory,
                "train": min(self.cards, len(left))
                * need.memory_of_training(workers=self.work.workers),
            },
        }

    def _is_ready(self, name: str) -> bool:
        """Return whether a configuration is preprocessed."""
        preprocessing = digest_preprocessing(self.plans_file, name)
        folder = self.planned[name].data_folder
        return inspect_data(folder, self.dataset, preprocessing=preprocessing).whole

    def _validation_scans(self) -> set[str]:
        folds = [int(fold) for fold in self.request.folds if fold != "all"]
        return {scan_id for fold in folds for scan_id in self.dataset.splits[fold]["val"]}

    def _predicting_seconds(self) -> dict[str, float | None]:
        """Return what predictions took in this workspace, for as many scans as there are."""
        predictions = self.engine.workspace.predictions
        folds = "".join(map(str, self.request.folds))
        ensemble = f"{self.model}{'+'.join(sorted(self.planned))}__fold_{folds}"
        home = predictions / self.dataset.name / "out_of_fold"
        each = [self._seconds_per_scan(home / f"{self.model}{name}") for name in self.planned]
        together = [self._seconds_per_scan(path) for path in predictions.glob(f"*/{ensemble}")]
        others = sum(scan.part != "train" for scan in self.dataset.scans)
        return {
            "out_of_fold": None
            if None in each
            else len(self._validation_scans()) * sum(filter(None, each)),
            "held_out": next((others * value for value in together if value is not None), None),
        }

    def _seconds_per_scan(self, folder: Path) -> float | None:
        cost = find_record(folder / COST, PredictionCost) or {}
        same = cost.get("hardware") == self.hardware.name
        return cost.get("seconds_per_scan") if same else None


def _epoch_seconds(training: TrainedFold, *, iterations: int) -> float:
    """Return the time of a typical epoch of so many batches, with the pause after it."""
    epochs = training.epochs
    pauses = [
        pause
        for before, after in pairwise(epochs)
        if after.number == before.number + 1
        and (pause := after.begun - before.begun - before.seconds) >= 0
    ]
    had = training.settings.get("iterations") or STOCK_ITERATIONS
    seconds = statistics.median(epoch.seconds for epoch in epochs)
    return seconds * iterations / had + (statistics.median(pauses) if pauses else 0.0)


def _ran_on(training: TrainedFold, hardware: Hardware) -> bool:
    """Return whether a training last ran on such a device; a card by its whole name."""
    if not training.runs or training.runs[-1].get("device") != hardware.device:
        return False
    card = (find_record(training.folder / "debug.json", dict[str, Any]) or {}).get("gpu_name")
    return hardware.device != "cuda" or card == name_card(hardware)


@dataclass(frozen=True, kw_only=True)
class Card:
    """A GPU as its maker describes it.

    ``peak_tflops`` is the published peak of matrix products in float16 that are summed in float32,
    without sparsity, as nnU-Net's mixed precision uses them; in 10^12 operations a second.
    """

    name: str
    peak_tflops: float
    memory_gib: int

    def as_hardware(self) -> Hardware:
        """Return one such card as the hardware of a machine."""
        return Hardware(device="cuda", gpus=(0,), memory_gib=self.memory_gib, name=self.name)


_TABLE = {
    "P100": (18.7, 16), "T4": (65, 16), "V100": (125, 16), "RTX 2080 Ti": (53.8, 11),
    "RTX 3090": (71, 24), "RTX 4090": (165.2, 24), "RTX A6000": (154.8, 48), "A10": (125, 24),
    "A30": (165, 24), "A40": (149.7, 48), "A100": (312, 40), "L4": (121, 24), "L40S": (362, 48),
    "H100 PCIe": (756, 80), "H100": (989, 80), "H200": (989, 141),
}  # fmt: skip
CARDS = {
    name: Card(name=name, peak_tflops=peak, memory_gib=memory)
    for name, (peak, memory) in _TABLE.items()
}
# Words of a device's name that do not change its speed: maker, memory, socket.
_PLAIN_WORDS = re.compile(r"\b(nvidia|tesla|geforce|hbm3|sxm\d|\d+gb)\b")


def find_card(device: str) -> Card | None:
    """Return the card of a device's name, such as ``NVIDIA A100-SXM4-80GB``.

    ``None`` if the name has any other word in it: a slice of a card (``MIG 1g.10gb``), its laptop
    version and its ``Ti`` are other cards.
    """
    by_words = {name.lower(): card for name, card in CARDS.items()}
    words = re.sub(r"[^a-z0-9]+", " ", device.lower())
    plain = " ".join(_PLAIN_WORDS.sub(" ", words).split())
    return by_words.get(plain) or by_words.get(plain.removesuffix(" pcie"))


def choose_card(name: str) -> Card:
    """Return the card that ``--card`` names; :class:`InputError` if it is not in the table."""
    card = find_card(name)
    if card is None:
        raise InputError(
            f"--card: found {name!r}; expected one of {', '.join(CARDS)}. A MIG slice, a laptop "
            "version or a Ti is another card than these: run gi2nnunet estimate --measure on a "
            "machine that has it."
        )
    return card


def name_card(hardware: Hardware) -> str:
    """Return the name of the first card, without its memory."""
    return re.split(r" \(\d+ GiB\)", hardware.name)[0]
