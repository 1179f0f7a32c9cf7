"""What a planned network takes: counted, or measured in a short run of the real trainer.

Runs in the engine's child process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from gi2nnunet.core.files import read_json
from gi2nnunet.nnunet.child.trainer import measure_peaks, prepare_training

# At least so many batches are timed, however long they take, and at most for so long.
_FEWEST_BATCHES, _FEWEST_VALIDATION_BATCHES = 4, 2
_VALIDATION_SHARE = 0.2  # of the seconds, as nnU-Net validates on a fifth of its batches


def run_count(
    *, plans_file: str, dataset_json: str, configurations: list[str]
) -> dict[str, Any]:  # fmt: skip
    """Count what one patch takes on its way through each configuration's network.

    Returns
    -------
    dict
        ``configurations``: by name, ``forward_flops`` (floating-point operations of one patch, a
        multiplication and an addition being two) and ``parameters``.
    """
    from gi2nnunet.nnunet.trust import check_dataset_json, check_plans

    plans, content = read_json(Path(plans_file)), read_json(Path(dataset_json))
    check_plans(plans, where=plans_file)
    check_dataset_json(content, where=dataset_json)
    manager = PlansManager(plans)
    channels = len(content["channel_names"])
    counted = {}
    for name in configurations:
        configured = manager.get_configuration(name)
        with torch.device("meta"):  # shapes alone: neither memory nor time
            network = get_network_from_plans(
                configured.network_arch_class_name,
                configured.network_arch_init_kwargs,
                configured.network_arch_init_kwargs_req_import,
                channels,
                manager.get_label_manager(content).num_segmentation_heads,
                allow_init=False,
                deep_supervision=True,
            )
            patch = torch.empty(1, channels, *configured.patch_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(patch)
        counted[name] = {
            "forward_flops": int(counter.get_total_flops()),
            "parameters": sum(p.numel() for p in network.parameters()),
        }
    return {"configurations": counted}


def run_measurement(
    *,
    emit: Callable[[dict[str, Any]], None],
    started: float,
    seconds: float,
    warm_up: int,
    **options: Any,
) -> dict[str, Any]:
    """Time a few batches of a training that is then thrown away.

    The trainer is the real one, its augmentation included; what it writes goes to the results
    folder of the environment, which the caller removes.

    Parameters
    ----------
    emit
        Told of each stage.
    started
        When the parent started this process, seconds since 1970.
    seconds
        How long to time batches; a few are timed however long they take.
    warm_up
        Batches to leave out first: what workers had ready, what is compiled at first use.
    options
        As :func:`~gi2nnunet.nnunet.child.trainer.prepare_training` takes them.

    Returns
    -------
    dict
        ``train_seconds`` and ``validation_seconds`` of one batch, ``epoch_end_seconds`` for what
        follows an epoch, ``startup_seconds`` from the start of the process to the first batch and
        what the warm-up took beyond its batches, ``batches`` and ``validation_batches`` timed,
        ``checkpoint_bytes``, and what :func:`~gi2nnunet.nnunet.child.trainer.measure_peaks` gives.
    """
    run = prepare_training(nnUNetTrainer, **options)
    device = str(options["device"])
    run.num_epochs = max(2, run.num_epochs)
    run.on_train_start()
    run.on_epoch_start()
    run.on_train_epoch_start()
    emit({"event": "measuring"})
    losses: list[dict[str, Any]] = []

    def train() -> None:
        losses.append(run.train_step(next(run.dataloader_train)))

    for _ in range(max(1, warm_up)):
        train()
    _wait_for(device)
    warm_at = time.time()
    train_seconds, batches = _time(train, device, seconds=seconds, fewest=_FEWEST_BATCHES)
    run.on_train_epoch_end(losses)
    with torch.no_grad():
        run.on_validation_epoch_start()
        outputs = [run.validation_step(next(run.dataloader_val))]
        validation_seconds, validation_batches = _time(
            lambda: outputs.append(run.validation_step(next(run.dataloader_val))),
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
        "train_seconds": train_seconds,
        "validation_seconds": validation_seconds,
        "epoch_end_seconds": epoch_end,
        "startup_seconds": max(0.0, warm_at - started - max(1, warm_up) * train_seconds),
        "batches": batches,
        "validation_batches": validation_batches,
        "checkpoint_bytes": (Path(run.output_folder) / "checkpoint_final.pth").stat().st_size,
        **measure_peaks(device),
    }


def _time(
    step: Callable[[], object], device: str, *, seconds: float, fewest: int
) -> tuple[float, int]:
    """Return the mean seconds of a step, and how many were taken."""
    begun = time.monotonic()
    count = 0
    while count < fewest or time.monotonic() - begun < seconds:
        step()
        count += 1
    _wait_for(device)
    return (time.monotonic() - begun) / count, count


def _wait_for(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()
