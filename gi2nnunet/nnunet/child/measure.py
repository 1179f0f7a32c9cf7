"""Timing of a planned network: a short run of the real trainer, in the engine's child process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from gi2nnunet.nnunet.child.trainer import find_trainer, prepare_training

# So many batches are timed at least, however long they take.
_FEWEST_BATCHES, _FEWEST_VALIDATION_BATCHES = 4, 2
_VALIDATION_SHARE = 0.2  # of the seconds, as nnU-Net validates on a fifth of its batches


def run_measurement(
    *, started: float, seconds: float, warm_up: int, trainer: str, **options: Any
) -> dict[str, Any]:
    """Time a few batches of a training that is then thrown away.

    The trainer is the real one, with its augmentation; what it writes goes to the results folder
    of the environment, which the caller removes.

    Parameters
    ----------
    started
        When the parent started this process, seconds since 1970.
    seconds
        How long to time batches.
    warm_up
        Batches to leave out first: those that workers had ready, and what is compiled at first
        use.
    trainer
        nnU-Net's trainer class.
    options
        As :func:`~gi2nnunet.nnunet.child.trainer.prepare_training` takes them.

    Returns
    -------
    dict
        ``epoch_seconds`` of an epoch of the given length, with its validation, checkpoint and
        figure; ``startup_seconds`` from the start of the process to the first batch, with what
        the warm-up took beyond its batches; ``batches``, the number of training batches timed.
    """
    device = str(options["device"])
    run = prepare_training(find_trainer(trainer, trust=options["trust"]), **options)
    run.num_epochs = max(2, run.num_epochs)  # nnU-Net divides by them
    run.on_train_start()
    run.on_epoch_start()
    run.on_train_epoch_start()
    losses: list[dict[str, Any]] = []
    outputs: list[dict[str, Any]] = []

    def train() -> None:
        losses.append(run.train_step(next(run.dataloader_train)))

    def validate() -> None:
        outputs.append(run.validation_step(next(run.dataloader_val)))

    for _ in range(warm_up):
        train()
    _wait_for(device)
    warm_at = time.time()
    train_seconds = _time(train, device, seconds=seconds, fewest=_FEWEST_BATCHES)
    batches = len(losses) - warm_up
    run.on_train_epoch_end(losses)
    with torch.no_grad():
        run.on_validation_epoch_start()
        validate()  # compiles
        validation_seconds = _time(
            validate,
            device,
            seconds=seconds * _VALIDATION_SHARE,
            fewest=_FEWEST_VALIDATION_BATCHES,
        )
        run.on_validation_epoch_end(outputs)
    ending = time.monotonic()
    run.on_epoch_end()  # writes a checkpoint, as the first epoch is always the best so far
    epoch_end = time.monotonic() - ending
    run.on_train_end()
    return {
        "epoch_seconds": run.num_iterations_per_epoch * train_seconds
        + run.num_val_iterations_per_epoch * validation_seconds
        + epoch_end,
        "startup_seconds": max(0.0, warm_at - started - warm_up * train_seconds),
        "batches": batches,
    }


def _time(step: Callable[[], None], device: str, *, seconds: float, fewest: int) -> float:
    """Return the mean seconds of a step."""
    begun = time.monotonic()
    count = 0
    while count < fewest or time.monotonic() - begun < seconds:
        step()
        count += 1
    _wait_for(device)
    return (time.monotonic() - begun) / count


def _wait_for(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
