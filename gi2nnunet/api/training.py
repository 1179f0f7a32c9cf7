"""Train: train."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.wiring import (
    FilePath,
    Notice,
    Progress,
    find_hardware_of,
    find_workspace,
    list_patches,
    list_texts,
    read_environment,
    require_positive,
)

if TYPE_CHECKING:
    from gi2nnunet.nnunet.train import TrainingProgress
    from gi2nnunet.nnunet.training import TrainingResult


def train(
    *,
    fold: str | int | Sequence[str | int] | None = None,
    config: str | Sequence[str] | None = None,
    preset: str = "auto",
    epochs: int | None = None,
    iterations: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    patch_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    trainer: str | None = None,
    pretrained_weights: FilePath | None = None,
    restart: bool = False,
    nnunet_validation: bool = False,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    checks: bool = True,
    progress: Progress | None = None,
    on_epoch: Callable[[TrainingProgress], None] | None = None,
    on_notice: Notice | None = None,
) -> tuple[TrainingResult, ...]:
    """Train nnU-Net; plan and preprocess first where that has not been done.

    nnU-Net runs in a process of its own. An interrupted training goes on where it stopped; a
    finished one is left alone.

    Parameters
    ----------
    fold
        A fold's number, ``"cv"`` for every fold of the split, or ``"all"`` for one model on every
        training scan, or several of these; by default ``"all"``.
    config
        nnU-Net configuration, or several; by default ``2d`` and ``3d_fullres``.
    preset
        ``default``, ``resenc-m``, ``resenc-l``, ``resenc-xl``, ``tiny`` (for CPUs and smoke tests),
        or ``auto``, which chooses by the GPU's memory.
    epochs, iterations, lr
        Length, batches an epoch and initial learning rate; by default the preset's and the
        trainer's.
    batch_size, patch_size
        In place of the plan's. A patch is ``(y, x)`` voxels for 2d, ``(z, y, x)`` for 3d_fullres;
        two patches may be given, one for each.
    trainer
        One of nnU-Net's trainer classes.
    pretrained_weights
        A checkpoint whose weights to start from.
    restart
        Throw away what was trained of these before.
    nnunet_validation
        Run nnU-Net's own final validation too.
    trust
        Load checkpoints and plans as they are: they can run any code.
    device, gpus
        ``auto``, ``cuda``, ``cpu`` or ``mps``; how many GPUs, by default one.
    workspace, dataset_id
        As in :func:`open_dataset`.
    jobs, threads
        Worker processes, and threads of the network's operations.
    checks
        Stop before the start where versions, memory or disk will not do.
    progress
        Called with ``(done, total, what)`` while the data is prepared, also from another thread.
    on_epoch
        Called after every epoch of every training.
    on_notice
        Called with sentences: what is computed on, and what of this machine is scarce.

    Returns
    -------
    tuple
        One result for each configuration and fold, whose ``folder`` holds its checkpoints.

    Raises
    ------
    InputError, EngineError, OutputError
        As :func:`~gi2nnunet.nnunet.plan.plan_dataset` and
        :func:`~gi2nnunet.nnunet.train.train_folds`; where the machine will not do.
    ValueError
        For a number out of range.
    """
    from gi2nnunet.manifest import read_dataset
    from gi2nnunet.nnunet.checking import check_checkpoint_file, check_trainer
    from gi2nnunet.nnunet.doctor import judge_installation, list_warnings, raise_errors
    from gi2nnunet.nnunet.machine import read_installation
    from gi2nnunet.nnunet.plan import plan_dataset
    from gi2nnunet.nnunet.presets import CONFIGURATIONS, choose_preset
    from gi2nnunet.nnunet.start import examine_start
    from gi2nnunet.nnunet.train import expand_folds, train_folds
    from gi2nnunet.nnunet.training import STOCK_TRAINER, TrainingSettings

    require_positive(
        epochs=epochs, iterations=iterations, lr=lr, batch_size=batch_size, gpus=gpus, jobs=jobs,
        threads=threads,
    )  # fmt: skip
    tell = on_notice or (lambda text: None)
    patch_sizes = list_patches(patch_size)
    configurations = tuple(dict.fromkeys(list_texts(config) or CONFIGURATIONS))
    settings = TrainingSettings(
        trainer=trainer or STOCK_TRAINER,
        epochs=epochs,
        iterations=iterations,
        learning_rate=lr,
        pretrained_weights=str(Path(pretrained_weights).absolute()) if pretrained_weights else None,
    )
    space = find_workspace(workspace)
    dataset = read_dataset(space.raw, dataset_id=dataset_id)
    folds = expand_folds(list_texts(fold) or ["all"], n_folds=len(dataset.splits))
    check_trainer(settings.trainer)  # before planning, which takes minutes
    if pretrained_weights:
        check_checkpoint_file(Path(pretrained_weights))
    if checks:
        raise_errors(judge_installation(read_installation()))
    hardware = find_hardware_of(space, device=device, gpus=gpus, tell=tell)
    chosen = choose_preset(preset, memory_gib=hardware.memory_gib)
    if checks:
        verdicts = examine_start(
            dataset,
            workspace=space,
            hardware=hardware,
            preset=chosen,
            configurations=configurations,
            folds=folds,
            trainer=settings.trainer,
            jobs=jobs,
            resized=batch_size is not None or bool(patch_sizes),
        )
        for warning in list_warnings(verdicts):
            tell(warning)
        raise_errors(verdicts)
    planned = plan_dataset(
        dataset,
        workspace=space,
        environ=read_environment(),
        preset=chosen,
        configurations=configurations,
        batch_size=batch_size,
        patch_sizes=patch_sizes,
        jobs=jobs,
        progress=progress,
    )
    return train_folds(
        dataset,
        planned,
        workspace=space,
        environ=read_environment(),
        hardware=hardware,
        folds=folds,
        settings=settings,
        jobs=jobs,
        threads=threads,
        restart=restart,
        nnunet_validation=nnunet_validation,
        trust=trust,
        on_epoch=on_epoch,
    )
