"""How long a batch, an epoch and a start take: from trainings here, a short run, or a table.

Every pace names where it is from. What trainings here took counts first, then what was measured
in a short run, then what is reckoned from a card's published peak.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.core.files import read_json
from gi2nnunet.nnunet.curves import Epoch, read_curves
from gi2nnunet.nnunet.engine import Engine
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, TRAINING_RECORD, Fold, is_fold_number
from gi2nnunet.training.gpus import UTILISATION, Card, batch_seconds
from gi2nnunet.training.plan import PlannedConfiguration

Source = Literal["trainings", "measured", "card"]

# Where nothing better is known. A validation batch goes forward only; on the way back a training
# batch takes twice as long again. The others are what the trainings of docs/estimate.md took.
_VALIDATION_PART = 1 / 3
_START_SECONDS = 15.0
_EPOCH_END_SECONDS = 1.0

_MOST_AUGMENTATION = 12  # nnU-Net's own number
_WARM_UP = 2
# What lies ready beside the workers when a training begins, and as much again.
_WARM_UP_OF_WORKERS = 30


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long the parts of one configuration's training take, in seconds.

    Attributes
    ----------
    source, described
        Where it is from, and that in words.
    train_seconds, validation_seconds
        One batch.
    epoch_end_seconds
        Between two epochs: checkpoint, figure.
    startup_seconds
        From the start of a process to its first batch.
    measured
        What else a measured run told: ``checkpoint_bytes``, ``peak_memory_bytes``,
        ``peak_gpu_bytes``.
    """

    source: Source
    described: str
    train_seconds: float
    validation_seconds: float
    epoch_end_seconds: float = _EPOCH_END_SECONDS
    startup_seconds: float = _START_SECONDS
    measured: Mapping[str, Any] | None = None

    def epoch_seconds(self, iterations: int) -> float:
        """Return the seconds of an epoch of so many training batches, all in all."""
        return (
            iterations * self.train_seconds
            + validation_batches(iterations) * self.validation_seconds
            + self.epoch_end_seconds
        )


@dataclass(frozen=True, kw_only=True)
class PastTraining:
    """A training of this workspace, begun or finished.

    Attributes
    ----------
    configuration, fold
        Which.
    epochs, iterations
        Its length, as it was asked for; ``None`` where that is not recorded.
    finished
        Whether it came to its end.
    device
        PyTorch's device type, and the card's name where it is one; empty where not recorded.
    patch
        Batch size and patch size.
    curves
        Its finished epochs.
    """

    configuration: str
    fold: Fold
    epochs: int | None
    iterations: int | None
    finished: bool
    device: str
    patch: tuple[int, ...]
    curves: tuple[Epoch, ...]

    @property
    def epoch_end_seconds(self) -> float:
        """Return the median time between an epoch's end and the next one's beginning."""
        gaps = [
            after.begun - before.begun - before.seconds
            for before, after in zip(self.curves, self.curves[1:], strict=False)
            if after.number == before.number + 1
        ]
        return max(0.0, statistics.median(gaps)) if gaps and not math.isnan(sum(gaps)) else 0.0

    @property
    def epoch_seconds(self) -> float:
        """Return the mean time of an epoch, with what follows it; NaN where none is finished."""
        if not self.curves:
            return math.nan
        return statistics.fmean(e.seconds for e in self.curves) + self.epoch_end_seconds


def validation_batches(iterations: int) -> int:
    """Return how many batches an epoch validates on: nnU-Net's 50 of 250."""
    return max(1, iterations // 5)


def read_past(model_folder: Path, configuration: str) -> tuple[PastTraining, ...]:
    """Read the trainings under one of nnU-Net's model folders that were begun here."""
    found = []
    for folder in sorted(model_folder.glob("fold_*")):
        name = folder.name.removeprefix("fold_")
        record = read_json(folder / TRAINING_RECORD)
        if not (name == "all" or is_fold_number(name)) or not record:
            continue
        settings = record.get("settings") or {}
        runs = record.get("runs") or [{}]
        device = str(runs[-1].get("device", ""))
        card = read_json(folder / "debug.json").get("gpu_name")
        found.append(
            PastTraining(
                configuration=configuration,
                fold="all" if name == "all" else int(name),
                epochs=settings.get("epochs"),
                iterations=settings.get("iterations"),
                finished=(folder / FINAL_CHECKPOINT).is_file(),
                device=f"{device} {card}" if card and device == "cuda" else device,
                patch=(int(record.get("batch_size", 0)), *record.get("patch_size", ())),
                curves=read_curves(folder),
            )
        )
    return tuple(found)


def pace_of_past(past: Sequence[PastTraining], *, iterations: int) -> Pace | None:
    """Return the pace that trainings went at; ``None`` where no epoch of them is finished.

    Parameters
    ----------
    past
        Trainings of one configuration on one kind of device.
    iterations
        Batches an epoch that are asked for; trainings of as many count alone where there are such.
    """
    usable = [entry for entry in past if entry.curves and entry.iterations]
    same = [entry for entry in usable if entry.iterations == iterations]
    chosen = same or usable
    if not chosen:
        return None
    train = statistics.fmean(
        statistics.fmean(epoch.seconds for epoch in entry.curves)
        / (entry.iterations + _VALIDATION_PART * validation_batches(entry.iterations))
        for entry in chosen
        if entry.iterations
    )
    epochs = sum(len(entry.curves) for entry in chosen)
    folds = ", ".join(str(entry.fold) for entry in chosen)
    other = "" if same else f", of {chosen[0].iterations} batches an epoch"
    return Pace(
        source="trainings",
        described=f"trained here: {epochs} epochs of fold {folds}{other}",
        train_seconds=train,
        validation_seconds=_VALIDATION_PART * train,
        epoch_end_seconds=statistics.fmean(entry.epoch_end_seconds for entry in chosen),
    )


def pace_of_card(card: Card, *, forward_flops: float, batch_size: int) -> Pace:
    """Reckon a pace from a card's published peak and an assumed utilisation of it."""
    train, validation = batch_seconds(forward_flops, batch_size=batch_size, card=card)
    return Pace(
        source="card",
        described=f"not measured: reckoned for one {card.name}, {UTILISATION:.0%} of "
        f"{card.peak_tflops:g} TFLOPS",
        train_seconds=train,
        validation_seconds=validation,
    )


def count_flops(
    planned: Sequence[str],
    *,
    plans_file: Path,
    dataset_json: Path,
    engine: Engine,
) -> dict[str, float]:
    """Return by configuration the operations of one patch on its way forward; builds no weights."""
    counted = _run(
        engine,
        "count",
        {
            "plans_file": str(plans_file),
            "dataset_json": str(dataset_json),
            "configurations": list(planned),
        },
    )["configurations"]
    return {name: counted[name]["forward_flops"] for name in planned}


def measure_pace(
    planned: PlannedConfiguration,
    *,
    dataset_folder: Path,
    plans_name: str,
    fold: Fold,
    iterations: int,
    engine: Engine,
    seconds: float,
) -> Pace:
    """Train a few batches and time them; nothing of it stays.

    Parameters
    ----------
    planned
        What to train; preprocessed.
    dataset_folder, plans_name, fold
        As :func:`~gi2nnunet.nnunet.child.trainer.run_training` takes them.
    iterations
        Batches an epoch.
    engine
        Where and on what.
    seconds
        How long to time batches; the start comes on top.

    Raises
    ------
    EngineError
        Where nnU-Net fails.
    """
    hardware, threads = engine.hardware, engine.choose_threads(training=True)
    helpers = 0 if hardware.device == "cpu" else max(1, engine.workers - 1)
    with tempfile.TemporaryDirectory(prefix="gi2nnunet-measure-") as folder:
        measured = _run(
            replace(engine, workspace=replace(engine.workspace, results=Path(folder))),
            "measure",
            {
                "started": time.time(),
                "seconds": seconds,
                "warm_up": _WARM_UP_OF_WORKERS if helpers else _WARM_UP,
                "dataset_folder": str(dataset_folder),
                "plans_name": plans_name,
                "configuration": planned.name,
                "fold": fold,
                "device": hardware.device,
                "epochs": None,
                "iterations": iterations,
                "threads": threads,
                "trust": engine.trust,
            },
            helpers=min(helpers, _MOST_AUGMENTATION),
            threads=threads,
            gpu=hardware.slots[0],
        )
    return Pace(
        source="measured",
        described=f"measured now: {measured['batches']} batches, "
        f"{measured['validation_batches']} of validation",
        train_seconds=measured["train_seconds"],
        validation_seconds=measured["validation_seconds"],
        epoch_end_seconds=measured["epoch_end_seconds"],
        startup_seconds=measured["startup_seconds"],
        measured={
            name: measured[name]
            for name in ("checkpoint_bytes", "peak_memory_bytes", "peak_gpu_bytes")
            if name in measured
        },
    )


def _run(engine: Engine, task: str, options: Mapping[str, Any], **limits: Any) -> dict[str, Any]:
    """Run a task whose log is of interest only if it fails."""
    log = engine.new_log(f"estimate_{task}")
    result = engine.run(task, options, log=log, **limits)
    log.path.unlink(missing_ok=True)
    return result
