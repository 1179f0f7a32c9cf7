"""Calls for training: doctor, estimate, plan, train, jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gi2nnunet.api.opening import FilePath, find_workspace, list_texts, open_engine
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import spell_call
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, Progress, ignore

if TYPE_CHECKING:
    from threading import Event

    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.nnunet.engine import Engine
    from gi2nnunet.nnunet.models import Fold
    from gi2nnunet.nnunet.presets import PlanOptions
    from gi2nnunet.training.doctor import Diagnosis
    from gi2nnunet.training.estimate import Estimate
    from gi2nnunet.training.plan import Plan
    from gi2nnunet.training.record import TrainingResult
    from gi2nnunet.training.train import TrainingProgress
    from gi2nnunet.upkeep.jobs import SlurmJobs


def list_patches(
    given: Sequence[int] | Sequence[Sequence[int]] | None,
) -> tuple[tuple[int, ...], ...]:
    """Return one patch size or several as several; none for ``None``."""
    patches: Any = () if given is None else given
    if patches and all(isinstance(item, int) for item in patches):
        patches = [patches]
    return tuple(tuple(patch) for patch in patches)


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
    augment: str | None = None,
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
    progress: Shown = None,
    on_epoch: Callable[[TrainingProgress], None] | None = None,
    on_notice: Notice | None = None,
    on_warning: Notice | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_start: Callable[[str, Fold, Path], None] | None = None,
    stop: Event | None = None,
) -> tuple[TrainingResult, ...]:
    """Train nnU-Net; plan and preprocess first if that was not done.

    nnU-Net runs in its own process. An interrupted training continues; a finished one is kept.

    Parameters
    ----------
    fold
        A fold's number, ``"cv"`` for every fold of the split, ``"all"`` for one model on every
        training scan, or several of these; by default ``"all"``.
    config
        nnU-Net configuration, or several; by default ``2d`` and ``3d_fullres``.
    preset
        ``default``, ``resenc-m``, ``resenc-l``, ``resenc-xl``, ``tiny`` (for CPUs and quick
        tests), or ``auto``, which chooses by the GPU's memory.
    epochs, iterations, lr
        Number of epochs, batches per epoch and initial learning rate; by default the preset's
        and the trainer's.
    batch_size, patch_size
        Used instead of the plan's. A patch is ``(y, x)`` voxels for 2d, ``(z, y, x)`` for
        3d_fullres; two patches may be given, one for each.
    pretrained_weights
        Start from the weights of this checkpoint.
    augment
        ``processor`` or ``device`` (patches are augmented there, as nnU-Net does it but faster), or
        ``nnunet`` for nnU-Net's own data pipeline. By default as a training was begun; a new one by
        ``processor``.
    restart
        Delete earlier training of these folds and start over.
    checks
        Stop before the start if versions, memory or disk space are not sufficient.
    on_epoch
        Called after every epoch of every training.
    on_plan
        Called when the data are prepared and training begins.
    on_start
        Called with configuration, fold and log file when a training starts.
    stop
        If it is set, each running training saves a checkpoint after its epoch and ends.

    Returns
    -------
    tuple
        One result for each configuration and fold; its ``folder`` holds the checkpoints.

    Raises
    ------
    InputError
        If dataset, fold, trainer or weights do not exist, or this machine cannot train it.
    StoppedError
        If ``stop`` was set before all were finished.
    """
    command = spell_call(train, locals())
    from gi2nnunet.nnunet import presets
    from gi2nnunet.training.train import TrainingOrder, describe_folds, train_folds

    options = make_plan_options(
        config=config, preset=preset, batch_size=batch_size, patch_size=patch_size
    )
    settings = presets.TrainingSettings(
        trainer=trainer or presets.STOCK_TRAINER,
        epochs=epochs,
        iterations=iterations,
        learning_rate=lr,
        pretrained_weights=str(Path(pretrained_weights).absolute()) if pretrained_weights else None,
        augment=cast("presets.Augment | None", augment),
    )
    engine = open_engine(
        workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
    )
    dataset, folds = choose_trainings(
        fold=fold, trainer=settings.trainer, pretrained_weights=pretrained_weights, trust=trust,
        workspace=engine.workspace, dataset_id=dataset_id,
    )  # fmt: skip
    with draw_bars(progress) as report:
        planned = _prepare(
            options, dataset=dataset, engine=engine, folds=folds, trainer=settings.trainer,
            checks=checks, progress=report, on_notice=on_notice, on_warning=on_warning,
        )  # fmt: skip
        for line in describe_folds(folds, dataset):
            (on_notice or ignore)(line)
        (on_plan or ignore)(planned)

        def tell_epoch(epoch: TrainingProgress) -> None:
            if progress is True and report:
                where = f"training {epoch.configuration}, fold {epoch.fold}: epochs"
                report(epoch.epoch, epoch.epochs, where)
            (on_epoch or ignore)(epoch)

        order = TrainingOrder(
            dataset=dataset, plan=planned, engine=engine, settings=settings, restart=restart,
            nnunet_validation=nnunet_validation, command=command, stop=stop, on_start=on_start,
            on_epoch=tell_epoch, on_notice=on_notice,
        )  # fmt: skip
        return train_folds(order, folds)


def make_plan_options(
    *,
    config: str | Sequence[str] | None,
    preset: str,
    batch_size: int | None = None,
    patch_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
) -> PlanOptions:
    """Return what to plan."""
    from gi2nnunet.nnunet.presets import PlanOptions, choose_configurations

    return PlanOptions(
        preset=preset, configurations=choose_configurations(list_texts(config)),
        by_default=not config, batch_size=batch_size, patch_sizes=list_patches(patch_size),
    )  # fmt: skip


def choose_trainings(
    *,
    fold: str | int | Sequence[str | int] | None,
    trainer: str | None,
    pretrained_weights: FilePath | None = None,
    trust: bool = False,
    workspace: Workspace,
    dataset_id: int | None,
) -> tuple[Dataset, tuple[Fold, ...]]:
    """Return the dataset and the folds to train.

    Trainer and weights are checked here, before planning, which takes minutes.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.checks import check_checkpoint_file
    from gi2nnunet.nnunet.presets import STOCK_TRAINER, TrainingSettings
    from gi2nnunet.nnunet.trainers import check_trainer
    from gi2nnunet.training.train import expand_folds

    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    folds = expand_folds(list_texts(fold) or ["all"], n_folds=len(dataset.splits))
    named = TrainingSettings(trainer=trainer or STOCK_TRAINER).trainer  # refuses a path
    check_trainer(named, label_scheme=dataset.label_scheme, environ=os.environ, trust=trust)
    if pretrained_weights:
        check_checkpoint_file(Path(pretrained_weights))
    return dataset, folds


def plan(
    *,
    config: str | Sequence[str] | None = None,
    preset: str = "auto",
    batch_size: int | None = None,
    patch_size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    device: str = "auto",
    jobs: int | None = None,
    checks: bool = True,
    progress: Shown = None,
    on_notice: Notice | None = None,
    on_warning: Notice | None = None,
) -> Plan:
    """Plan and preprocess a dataset; :func:`train` does this too, if needed, and takes the same.

    Raises
    ------
    InputError
        If the workspace holds no dataset, or nnU-Net or this machine cannot plan this for it.
    """
    from gi2nnunet.dataset.manifest import read_dataset

    options = make_plan_options(
        config=config, preset=preset, batch_size=batch_size, patch_size=patch_size
    )
    engine = open_engine(workspace, device=device, jobs=jobs)
    dataset = read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    with draw_bars(progress) as report:
        return _prepare(
            options, dataset=dataset, engine=engine, checks=checks, progress=report,
            on_notice=on_notice, on_warning=on_warning,
        )  # fmt: skip


def _prepare(
    options: PlanOptions,
    *,
    dataset: Dataset,
    engine: Engine,
    folds: Sequence[Fold] = (),
    trainer: str = "",
    checks: bool,
    progress: Progress | None,
    on_notice: Notice | None,
    on_warning: Notice | None,
) -> Plan:
    """Plan and preprocess; with folds and a trainer, the machine is checked for their training."""
    from gi2nnunet.nnunet.presets import choose_preset
    from gi2nnunet.training import doctor
    from gi2nnunet.training.machine import read_installation
    from gi2nnunet.training.plan import plan_dataset

    tell = on_notice or ignore
    if checks:
        doctor.raise_errors(doctor.judge_installation(read_installation()))
    tell(engine.hardware.describe())
    chosen = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
    options = replace(options, preset=chosen.name)
    tell(f"Dataset: {dataset.folder}; preset: {chosen.name}")
    if checks:
        verdicts = doctor.examine_start(
            dataset, options, engine=engine, folds=folds, trainer=trainer
        )
        verdicts += doctor.judge_compiling(engine) if folds else []
        for warning in doctor.list_warnings(verdicts):
            (on_warning or tell)(warning)
        doctor.raise_errors(verdicts)
    made = plan_dataset(dataset, options, engine=engine, progress=progress)
    for warning in made.warnings:
        (on_warning or tell)(warning)
    return made


def doctor(
    *,
    config: str | Sequence[str] | None = None,
    preset: str = "auto",
    fold: str | int | Sequence[str | int] | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    device: str = "auto",
    gpus: int | None = None,
    jobs: int | None = None,
    on_notice: Notice | None = None,
) -> Diagnosis:
    """Check the installation and, if there is a dataset, whether this machine can train it.

    :func:`train` explains the keywords. Its result is ``fit`` if nothing would stop a training.

    Raises
    ------
    InputError
        If the workspace holds several datasets and ``dataset_id`` is not given.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.training.doctor import diagnose
    from gi2nnunet.training.train import expand_folds

    tell = on_notice or ignore
    options = make_plan_options(config=config, preset=preset)
    engine = open_engine(workspace, device=device, gpus=gpus, jobs=jobs)
    raw = engine.workspace.raw
    if dataset_id is None and not any(raw.glob("Dataset[0-9][0-9][0-9]_*")):
        tell(f"{raw} holds no dataset: only the installation is checked.")
        return diagnose(None, options, engine=engine)
    dataset = read_dataset(raw, dataset_id=dataset_id)
    tell(f"Dataset: {dataset.folder}")
    folds = expand_folds(list_texts(fold) or ["all"], n_folds=len(dataset.splits))
    return diagnose(dataset, options, engine=engine, folds=folds)


def estimate(
    *,
    config: str | Sequence[str] | None = None,
    preset: str = "auto",
    fold: str | int | Sequence[str | int] | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    trainer: str | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    gpus: int | None = None,
    card: str | None = None,
    measure: bool = False,
    device: str = "auto",
    jobs: int | None = None,
    progress: Shown = None,
    on_notice: Notice | None = None,
) -> Estimate:
    """Estimate the hours, disk space and memory that trainings will need.

    :func:`train` explains the other keywords.

    Parameters
    ----------
    gpus, card
        How many GPUs, and which one of another machine, such as ``"A100"``; by default this
        machine's.
    measure
        Train a few batches of each configuration here and time them.

    Raises
    ------
    InputError
        If the workspace holds no dataset, or the time of an epoch is not known.
    ValueError
        For ``card`` with ``measure`` or ``device``, which are about this machine, and for ``gpus``
        without ``card`` on a machine without one.
    """
    from gi2nnunet.nnunet.checks import check_configurations
    from gi2nnunet.nnunet.presets import STOCK_TRAINER, TrainingSettings, choose_preset
    from gi2nnunet.training.estimate import MEASURE_SECONDS, Request, choose_card, estimate_costs

    if card is not None and (measure or device != "auto"):
        raise ValueError("card is a GPU of another machine: leave out measure and device")
    require_positive(gpus=gpus)
    options = make_plan_options(config=config, preset=preset)
    settings = TrainingSettings(
        trainer=trainer or STOCK_TRAINER, epochs=epochs, iterations=iterations
    )
    engine = open_engine(workspace, device=device, jobs=jobs)
    if card is None and gpus and engine.hardware.device != "cuda":
        raise ValueError(f"gpus: this machine computes on {engine.hardware.name}; give a card")
    tell = on_notice or ignore
    dataset, folds = choose_trainings(
        fold=fold, trainer=settings.trainer, workspace=engine.workspace, dataset_id=dataset_id
    )
    check_configurations(options.configurations)
    chosen = choose_card(card) if card is not None else None
    if chosen is None:
        tell(engine.hardware.describe())
    memory = chosen.memory_gib if chosen else engine.hardware.memory_gib
    tell(f"Dataset: {dataset.folder}")
    request = Request(
        preset=choose_preset(options.preset, memory_gib=memory),
        configurations=options.configurations, folds=folds, settings=settings, card=chosen,
        cards=gpus or 1, measure_seconds=MEASURE_SECONDS if measure else None,
    )  # fmt: skip
    with draw_bars(progress) as report:
        return estimate_costs(dataset, engine=engine, request=request, progress=report or ignore)


def jobs(*, workspace: FilePath | None = None) -> SlurmJobs:
    """Show the Slurm jobs of a workspace, and how many are not finished.

    The command line submits them, by ``--on slurm``.

    Raises
    ------
    EngineError
        If there are some and Slurm cannot be asked.
    """
    from gi2nnunet.upkeep.jobs import SlurmJobs, find_jobs_folder, read_jobs

    return SlurmJobs(jobs=read_jobs(find_jobs_folder(find_workspace(workspace))))
