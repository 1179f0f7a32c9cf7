"""Estimate what a matrix of configurations and folds is going to cost, before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gi2nnunet.errors import InputError
from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.costs import Estimate, Request, State, TrainingCost
from gi2nnunet.nnunet.doctor import Work, judge_hardware, plan_work
from gi2nnunet.nnunet.estimate import CHECKPOINT_BYTES, Need, estimate_need
from gi2nnunet.nnunet.evidence import Evidence, Progress, describe_hardware
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.models import Fold
from gi2nnunet.nnunet.passes import prediction_seconds
from gi2nnunet.nnunet.stock import stock_parameters
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.workers import count_cores

# Of one core, with margin; see docs/estimate.md.
_PREPROCESSING_SECONDS_PER_MILLION_VOXELS = 0.5
_PLANNING_SECONDS = 30.0
# Probabilities of three organs in eight bits, compressed.
_PROBABILITY_BYTES_PER_VOXEL = 0.5
_CHECKPOINTS_KEPT = 2


def estimate_costs(
    dataset: Dataset,
    *,
    workspace: Workspace,
    environ: Mapping[str, str],
    request: Request,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate hours, disk and memory of trainings, and check the estimate on those that ran.

    Parameters
    ----------
    dataset
        A converted dataset; where it is not planned, it must be of the competition's sizes.
    workspace, environ
        Where, and for child processes that count or measure.
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
    evidence = Evidence(dataset, workspace, environ, request, progress or (lambda *_: None))
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
        uses_cards, memory = request.uses_cards, request.preset.memory_gib or None
        peaks = [(pace.measured or {}).get("peak_gpu_bytes") for pace in paces.values()]
        if peaks and all(peaks):
            memory = math.ceil(max(peak for peak in peaks if peak) / 2**30)
        return Estimate(
            dataset=self.dataset.name,
            preset=request.preset.name,
            plan=str(self.evidence.plans_file)
            if self.evidence.is_planned
            else "nnU-Net's plan for scans of these sizes, known beforehand",
            device=request.card.name if request.card else describe_hardware(request.hardware),
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
            device="cuda" if request.uses_cards else "cpu",
            gpus=tuple(range(cards)) if request.uses_cards else (),
            memory_gib=None,
            name="",
        )
        return plan_work(
            jobs=request.jobs, cores=count_cores(), hardware=hardware, training=left > 0
        )  # fmt: skip

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
