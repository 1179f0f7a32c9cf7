"""Training of one configuration and fold by nnU-Net's trainer, in the engine's child process.

The trainer is subclassed for six reasons: checkpoints are written atomically and often, each epoch
is reported to the parent, a training can be asked to stop, one that diverges ends, its length can
be set, and data are loaded by :mod:`~gi2nnunet.nnunet.child.pipeline`. The subclass keeps its
parent's name, so that plain ``nnUNetv2_predict`` finds the class that a checkpoint names.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from gi2nnunet.core.errors import EngineError, InputError, OutputError
from gi2nnunet.core.files import part_file
from gi2nnunet.nnunet.child.memory import measure_peaks
from gi2nnunet.nnunet.child.pipeline import use_pipeline
from gi2nnunet.nnunet.child.weights import describe_not_finite, load_checkpoint, load_fold
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, record_digest
from gi2nnunet.nnunet.trust import check_data_folder, open_preprocessed

SAVE_EVERY_EPOCHS = 10
SAVE_EVERY_SECONDS = 600.0

Emit = Callable[[dict[str, Any]], None]


class _Stopped(Exception):  # noqa: N818  a way out of nnU-Net's loop, no failure
    """The training was asked to stop and its checkpoint is written."""


def run_training(
    *,
    emit: Emit,
    stopping: Callable[[], bool],
    trainer: str,
    learning_rate: float | None,
    pretrained_weights: str | None,
    resume_from: str | None,
    nnunet_validation: bool,
    trust: bool,
    augment: str,
    **preparation: Any,
) -> dict[str, Any]:
    """Train to the end, from the start or from a checkpoint; ``None`` keeps nnU-Net's values.

    Parameters
    ----------
    emit
        Called after each epoch with ``epoch``, ``epochs``, ``train_loss``, ``val_loss``, ``dice``
        (pseudo Dice per organ), ``seconds``, and the values of
        :func:`~gi2nnunet.nnunet.child.memory.measure_peaks`.
    stopping
        Called after each epoch; if it returns true, the training is saved and ends.
    nnunet_validation
        Run nnU-Net's final validation, with probabilities, for its find_best_configuration.

    Returns
    -------
    dict
        ``stopped_after``: the finished epochs if it was asked to stop before the last one.
    """

    def notify(message: str) -> None:
        emit({"event": "notice", "message": message})

    run = prepare_training(
        trainer,
        lambda base: _make_trainer(use_pipeline(base, augment, notify), emit, stopping),
        resuming=resume_from is not None,
        trust=trust,
        **preparation,
    )
    if learning_rate is not None:
        run.initial_lr = learning_rate
    run.save_every = SAVE_EVERY_EPOCHS
    # nnU-Net loads both by the plain unpickler, so a file that could run code is refused first.
    if resume_from is not None:
        load_fold(Path(resume_from), trust=trust)
        run.load_checkpoint(resume_from)
    elif pretrained_weights is not None:
        weights = load_checkpoint(Path(pretrained_weights), trust=trust)["network_weights"]
        run.initialize()
        load_weights(run.network, weights)
    emit({"event": "start", "epoch": run.current_epoch, "epochs": run.num_epochs})
    if run.current_epoch < run.num_epochs or not (resume_from or "").endswith(FINAL_CHECKPOINT):
        try:
            run.run_training()
        except _Stopped:
            return {"stopped_after": run.current_epoch}
    if nnunet_validation:
        emit({"event": "validation"})
        run.perform_actual_validation(save_probabilities=True)
    return {}


def load_weights(network: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Start a network from weights on the CPU, all but those of its last layers, by nnU-Net's rule.

    nnU-Net reads them from a file, and its tensors onto the device that they were saved on: those
    of a training on CUDA cannot be read elsewhere.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "weights.pth")
        torch.save({"network_weights": dict(weights)}, file)
        load_pretrained_weights(network, str(file), verbose=True)


def prepare_training(
    trainer: str,
    shape: Callable[[type[nnUNetTrainer]], type[nnUNetTrainer]] = lambda base: base,
    *,
    dataset_folder: str,
    plans_name: str,
    configuration: str,
    fold: int | str,
    device: str,
    epochs: int | None,
    iterations: int | None,
    threads: int,
    trust: bool,
    resuming: bool = False,
) -> nnUNetTrainer:
    """Return a trainer, ready to run; plans, split and preprocessed scans are checked before.

    ``shape`` makes the class to run from nnU-Net's. Epochs and iterations replace the trainer's
    own.
    """
    folder = Path(dataset_folder)
    plans, dataset_json = open_preprocessed(folder, plans_name, trainer=trainer, trust=trust)
    plans["continue_training"] = resuming
    torch.set_num_threads(threads)
    run = shape(find_trainer(trainer))(
        plans=plans,
        configuration=configuration,
        fold=fold,
        dataset_json=dataset_json,
        device=torch.device(device),
    )
    if not trust:
        check_data_folder(Path(run.preprocessed_dataset_folder))
    if epochs is not None:
        run.num_epochs = epochs
    if iterations is not None:
        run.num_iterations_per_epoch = iterations
        # nnU-Net validates on a fifth of its training iterations.
        run.num_val_iterations_per_epoch = max(1, iterations // 5)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
    return run


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """Return a trainer class of nnU-Net, or of ``nnUNet_extTrainer``, by its checked name."""
    try:
        found: type[nnUNetTrainer] = recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError) as error:  # none of that name, or no trainer
        raise InputError(
            f"--trainer: nnU-Net has no trainer {name!r}. Expected one of its classes, such as "
            "nnUNetTrainer, nnUNetTrainer_250epochs, nnUNetTrainerNoMirroring, nnUNetTrainerDA5."
        ) from error
    return found


def _make_trainer(
    base: type[nnUNetTrainer], emit: Emit, stopping: Callable[[], bool]
) -> type[nnUNetTrainer]:
    class Trainer(base):  # type: ignore[misc]
        last_save = time.monotonic()

        def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
            super().on_train_epoch_end(train_outputs)
            _check_losses(self, train_outputs, "training")
            _check_weights(self)

        def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
            _check_losses(self, val_outputs, "validation")
            super().on_validation_epoch_end(val_outputs)

        def save_checkpoint(self, filename: str) -> None:
            _check_weights(self)
            with part_file(Path(filename)) as part:
                try:
                    super().save_checkpoint(str(part))
                    if part.is_file():  # nnU-Net can be set to save none
                        record_digest(Path(filename), part)
                except RuntimeError as error:  # what PyTorch's writer makes of a full disk
                    free = shutil.disk_usage(part.parent).free
                    raise OutputError(
                        f"{filename}: cannot be written ({error}; {free} bytes are free). Free "
                        "some space, then run the same again: the training continues from its last "
                        "checkpoint."
                    ) from error
            self.last_save = time.monotonic()

        def on_epoch_end(self) -> None:
            epoch = self.current_epoch
            overdue = time.monotonic() - self.last_save > SAVE_EVERY_SECONDS
            stop = stopping() and epoch < self.num_epochs - 1
            self.save_every = 1 if overdue or stop else SAVE_EVERY_EPOCHS
            super().on_epoch_end()
            emit(_describe_epoch(self, epoch))
            if stop:
                raise _Stopped

    Trainer.__name__ = base.__name__
    Trainer.__qualname__ = base.__qualname__
    return Trainer


def _describe_epoch(run: nnUNetTrainer, epoch: int) -> dict[str, Any]:
    """Return the event of a finished epoch."""
    log = run.logger.get_value
    started = log("epoch_start_timestamps", step=epoch)
    return {
        "event": "epoch",
        "epoch": epoch + 1,
        "epochs": run.num_epochs,
        "train_loss": float(log("train_losses", step=epoch)),
        "val_loss": float(log("val_losses", step=epoch)),
        "dice": [float(v) for v in log("dice_per_class_or_region", step=epoch)],
        "seconds": float(log("epoch_end_timestamps", step=epoch) - started),
        **measure_peaks(run.device.type),
    }


def _check_losses(run: nnUNetTrainer, outputs: Sequence[dict[str, Any]], part: str) -> None:
    """Stop if no batch of an epoch had a finite loss.

    A single infinite one is an overflow of half precision: nnU-Net skips its step.
    """
    if not any(np.isfinite(output["loss"]).all() for output in outputs):
        raise _diverged(run, f"no {part} batch had a finite loss")


def _check_weights(run: nnUNetTrainer) -> None:
    if found := describe_not_finite(run.network.state_dict()):
        raise _diverged(run, f"found {found}")


def _diverged(run: nnUNetTrainer, why: str) -> EngineError:
    return EngineError(
        f"the training diverged in epoch {run.current_epoch + 1}: {why}. Run the same again with "
        f"--restart and a smaller --lr: it was {run.initial_lr:g}; "
        f"try {min(run.initial_lr / 10, 0.01):g}."
    )


# At least this many batches are timed, however long they take.
_FEWEST_BATCHES, _FEWEST_VALIDATION_BATCHES = 4, 2
_VALIDATION_SHARE = 0.2  # of the seconds, as nnU-Net validates on a fifth of its batches


def run_measurement(
    *, started: float, seconds: float, warm_up: int, trainer: str, augment: str, **options: Any
) -> dict[str, Any]:
    """Time a few batches of a training that is then thrown away.

    The trainer is the real one, with its augmentation; its output goes to the results folder of the
    environment, which the caller removes.

    Parameters
    ----------
    started
        When the parent started this process, seconds since 1970.
    warm_up
        Batches to leave out first: those that workers had ready, and those that compile.

    Returns
    -------
    dict
        ``epoch_seconds`` of an epoch of the given length, with validation, checkpoint and figure;
        ``startup_seconds`` from the start of the process to the first batch, with what the warm-up
        took beyond its batches; ``batches``, the number of training batches timed.
    """
    device = str(options["device"])
    run = prepare_training(trainer, lambda base: use_pipeline(base, augment, print), **options)
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
