"""Time and memory of every step that recorded them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gi2nnunet.files import read_json
from gi2nnunet.report.records import take_number
from gi2nnunet.report.trainings import TrainedFold

COST = "cost.json"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one step took; ``None`` where it is not known.

    Attributes
    ----------
    step
        Which.
    amount, unit
        How many of what: an epoch, a scan.
    seconds
        Of all of them.
    memory_bytes, gpu_bytes
        The largest process at its height, and what PyTorch took on the card.
    device
        ``cuda``, ``cpu`` or ``mps``.
    """

    step: str
    amount: int | None
    unit: str
    seconds: float | None
    memory_bytes: int | None
    gpu_bytes: int | None
    device: str

    @property
    def seconds_each(self) -> float | None:
        """Return the mean time of one."""
        return self.seconds / self.amount if self.seconds is not None and self.amount else None


def list_costs(
    trainings: Sequence[TrainedFold], *, prediction: Path | None, out_of_fold: Path
) -> tuple[Cost, ...]:
    """Return what is known of trainings, out-of-fold predictions and the prediction.

    Parameters
    ----------
    trainings
        All of them.
    prediction
        Folder of the prediction.
    out_of_fold
        Folder that holds one of predictions for each model, where ``tune`` leaves them.
    """
    rows = [
        Cost(
            step=f"training {training.name}",
            amount=len(training.epochs),
            unit="epoch",
            seconds=training.seconds,
            memory_bytes=training.peak("peak_memory_bytes"),
            gpu_bytes=training.peak("peak_gpu_bytes"),
            device=training.device,
        )
        for training in trainings
        if training.epochs
    ]
    for path in sorted(out_of_fold.glob(f"*/{COST}")):
        configuration = path.parent.name.rpartition("__")[2]
        rows.append(_of_scans(f"out-of-fold prediction, {configuration}", read_json(path)))
    if prediction is not None and (cost := read_json(prediction / COST)):
        rows.append(_of_scans("prediction", cost))
    return tuple(rows)


def _of_scans(step: str, cost: Mapping[str, Any]) -> Cost:
    scans, each = take_number(cost, "scans"), take_number(cost, "seconds_per_scan")
    memory, gpu = take_number(cost, "peak_memory_bytes"), take_number(cost, "peak_gpu_bytes")
    return Cost(
        step=step,
        amount=None if scans is None else int(scans),
        unit="scan",
        seconds=None if scans is None or each is None else scans * each,
        memory_bytes=None if memory is None else int(memory),
        gpu_bytes=None if gpu is None else int(gpu),
        device=str(cost.get("device") or ""),
    )
