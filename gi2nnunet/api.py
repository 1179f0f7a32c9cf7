"""The commands as calls, for notebooks and scripts: the same names, keywords and defaults.

Every option of a command is a keyword of its call, under the name of the command's Python parameter
(``--fold`` is ``fold``, ``--id`` is ``dataset_id``). What a command prints, its call returns;
progress goes to callbacks. They are all available from :mod:`gi2nnunet` itself. A call wires the
library's deeper functions together; where more is to be decided, use these.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gi2nnunet.core.command import spell_call
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, Progress, ignore

if TYPE_CHECKING:
    from threading import Event

    from gi2nnunet.dataset.encode import Encoded
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.dataset.splits import HoldOutRule
    from gi2nnunet.dataset.workspace import Workspace
    from gi2nnunet.formats.ids import Certainty, LabelScheme
    from gi2nnunet.nnunet.engine import Engine, PredictionSettings
    from gi2nnunet.nnunet.models import Ensemble, Fold, ModelChoice
    from gi2nnunet.nnunet.postprocess import Tuning
    from gi2nnunet.nnunet.presets import PlanOptions, TrainingSettings
    from gi2nnunet.prediction.choose import Work
    from gi2nnunet.prediction.evaluate import Evaluation
    from gi2nnunet.prediction.out_of_fold import OutOfFold
    from gi2nnunet.report.check_page import WrittenPage
    from gi2nnunet.report.page import WrittenReport
    from gi2nnunet.scoring.bootstrap import Interval
    from gi2nnunet.scoring.compare import Comparison
    from gi2nnunet.scoring.conventions import Metric, TunedMetric
    from gi2nnunet.scoring.result import Score
    from gi2nnunet.sharing.exchange import ExportedModel, ImportedModel
    from gi2nnunet.sharing.hidden import HiddenPrediction
    from gi2nnunet.sharing.kaggle_bundle import KaggleBundle
    from gi2nnunet.sharing.wheels import Image
    from gi2nnunet.source.check.check import SourceReport
    from gi2nnunet.source.phantom.writing import PhantomSummary
    from gi2nnunet.source.scan import Scan
    from gi2nnunet.training.doctor import Diagnosis
    from gi2nnunet.training.estimate import Estimate
    from gi2nnunet.training.plan import Plan
    from gi2nnunet.training.record import TrainingResult
    from gi2nnunet.training.train import TrainingProgress
    from gi2nnunet.tuning.compare_models import ModelComparison
    from gi2nnunet.upkeep.verify import Verification
# Each call loads what it needs and no more, so that score does not wait for what train takes.
FilePath = Path | str


def read_environment() -> Mapping[str, str]:
    """Return this process's environment, to be read alone: an engine process gets its own."""
    return os.environ


def find_workspace(folder: FilePath | None) -> Workspace:
    """Return the workspace of a folder, else of nnU-Net's variables, else the default."""
    from gi2nnunet.dataset.workspace import open_workspace

    return open_workspace(Path(folder) if folder else None, environ=read_environment())


def open_engine(
    workspace: FilePath | None = None,
    *,
    device: str = "auto",
    gpus: int | None = None,
    jobs: int | None = None,
    threads: int | None = None,
    trust: bool = False,
) -> Engine:
    """Return what runs nnU-Net in a workspace; nothing is looked for or started yet."""
    from gi2nnunet.nnunet.engine import Engine

    return Engine(
        workspace=find_workspace(workspace), environ=read_environment(), device=device, gpus=gpus,
        jobs=jobs, threads=threads, trust=trust,
    )  # fmt: skip


def list_texts(given: str | int | Sequence[str | int] | None) -> list[str]:
    """Return one or several, given as text or number, as texts; none for ``None``."""
    if given is None:
        return []
    return [str(item) for item in ([given] if isinstance(given, str | int) else given)]


def list_patches(
    given: Sequence[int] | Sequence[Sequence[int]] | None,
) -> tuple[tuple[int, ...], ...]:
    """Return one patch size or several as several; none for ``None``."""
    patches: Any = () if given is None else given
    if patches and all(isinstance(item, int) for item in patches):
        patches = [patches]
    return tuple(tuple(patch) for patch in patches)


def check(
    source: FilePath,
    *,
    model: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    allow_missing: bool = False,
    source_labels: LabelScheme | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> SourceReport:
    """Look at a source before training: what it holds, and what in it is worth a look.

    Parameters
    ----------
    source, allow_missing, source_labels, jobs, progress
        As in :func:`~gi2nnunet.source.check.check.check_source`.
    model
        Hold the truth against the out-of-fold predictions that are stored in the workspace, too.
    workspace, dataset_id
        As in :func:`open_dataset`; only for ``model``.

    Raises
    ------
    InputError
        As :func:`~gi2nnunet.source.check.check.check_source`; with ``model`` also if there is no
        out-of-fold prediction of a scan of the source.
    """
    from gi2nnunet.core.workers import ignore
    from gi2nnunet.source.check.check import check_source

    require_positive(jobs=jobs)
    stored = None
    if model:
        from gi2nnunet.prediction.out_of_fold import find_stored_predictions

        space = find_workspace(workspace)
        dataset = open_dataset(workspace=workspace, dataset_id=dataset_id)
        stored = find_stored_predictions(dataset, workspace=space)
    found = check_source(
        source,
        allow_missing=allow_missing,
        source_labels=source_labels,
        jobs=jobs,
        progress=progress,
    )
    if stored is None:
        return found
    agreements = stored.measure(
        {scan.scan_id for scan in found.scans if scan.masks is not None},
        jobs=jobs, progress=progress or ignore,
    )  # fmt: skip
    return found.add_disagreements(agreements, predict=stored.predict)


def check_onto_page(
    source: FilePath, page: FilePath, *, show_all: bool = False, **options: Any
) -> tuple[SourceReport, WrittenPage]:
    """Look at a source as :func:`check` does, and write all of it to a page with pictures."""
    from gi2nnunet.report.check_page import check_page_place, write_check_page

    check_page_place(Path(page), source=Path(source))
    found = check(source, **options)
    how = {name: options.get(name) for name in ("jobs", "progress")}
    return found, write_check_page(found, Path(page), show_all=show_all, **how)


def make_phantom(
    out: Path,
    *,
    labels: Path | None = None,
    sizes: Path | None = None,
    jobs: int | None = None,
    **options: Any,
) -> PhantomSummary:
    """Write a synthetic source: of given masks, of given sizes, or of made-up anatomy.

    ``options`` are those of the function that it calls, of
    :mod:`gi2nnunet.source.phantom.writing`.
    """
    from gi2nnunet.core.workers import count_cores
    from gi2nnunet.source.phantom.writing import paint_phantom, write_phantom, write_phantom_like

    options |= {"as_zip": out.suffix == ".zip", "jobs": jobs or count_cores()}
    if labels and sizes:
        return paint_phantom(out, labels=labels, sizes=sizes, **options)
    if sizes:
        return write_phantom_like(out, sizes=sizes, **options)
    return write_phantom(out, **options)


def convert(
    source: FilePath,
    *,
    workspace: FilePath | None = None,
    dataset_id: int = 501,
    name: str = "UWGI",
    labels: LabelScheme = "regions",
    folds: int | None = None,
    holdout: HoldOutRule = None,
    keep_known_bad: bool = False,
    leave_out_suspects: Certainty | None = None,
    allow_missing: bool = False,
    source_labels: LabelScheme | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Dataset:
    """Make a source into an nnU-Net raw dataset; what is there already is not made again.

    Parameters
    ----------
    source
        The competition's folder or zip, or a folder of NIfTI volumes.
    workspace
        Folder of all data and models; by default nnU-Net's three environment variables where all
        are set, else ``./gi2nnunet-workspace``.
    dataset_id, name, labels, allow_missing, source_labels
        As in :func:`gi2nnunet.dataset.convert.convert`.
    folds, holdout, keep_known_bad, leave_out_suspects, seed
        As in :class:`gi2nnunet.dataset.splits.SplitOptions`.
    jobs
        Scans in work at once; by default one a core.
    progress
        Called with ``(done, total, what)``.
    on_notice
        Called with a sentence: which workspace it is.

    Returns
    -------
    Dataset
        Its ``warnings`` say what was passed over.

    Raises
    ------
    InputError, OutputError, EngineError
        As :func:`gi2nnunet.dataset.convert.convert`.
    """
    from gi2nnunet.dataset.convert import convert as convert_source
    from gi2nnunet.dataset.splits import SplitOptions

    command = spell_call(convert, locals())
    require_positive(jobs=jobs)
    return convert_source(
        Path(source),
        workspace=_open_workspace(workspace, on_notice),
        dataset_id=dataset_id,
        name=name,
        labels=labels,
        split=SplitOptions(
            folds=folds,
            holdout=holdout,
            keep_known_bad=keep_known_bad,
            leave_out_suspects=leave_out_suspects,
            seed=seed,
        ),
        allow_missing=allow_missing,
        source_labels=source_labels,
        command=command,
        jobs=jobs,
        progress=progress,
    )


def _open_workspace(folder: FilePath | None, on_notice: Notice | None) -> Workspace:
    """Find a workspace and say which it is."""
    space = find_workspace(folder)
    (on_notice or ignore)(f"Workspace: {space.raw.parent} ({space.chosen_by})")
    return space


def open_dataset(
    *, workspace: FilePath | None = None, dataset_id: int | None = None
) -> Dataset:  # fmt: skip
    """Open what :func:`convert` made before.

    Parameters
    ----------
    workspace
        As in :func:`convert`.
    dataset_id
        Which one, where the workspace holds several.

    Raises
    ------
    InputError
        Where there is none, or more than one.
    """
    from gi2nnunet.dataset.manifest import read_dataset

    return read_dataset(find_workspace(workspace).raw, dataset_id=dataset_id)


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
    on_warning: Notice | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_start: Callable[[str, Fold, Path], None] | None = None,
    stop: Event | None = None,
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
        Called with sentences: what is computed on, what is trained.
    on_warning
        Called with sentences: what of this machine is scarce; by default ``on_notice``.
    on_plan
        Called when the data is prepared and training begins.
    on_start
        Called with configuration, fold and log file when a training starts.
    stop
        If it is set, each running training ends after its epoch with a checkpoint.

    Returns
    -------
    tuple
        One result for each configuration and fold, whose ``folder`` holds its checkpoints.

    Raises
    ------
    InputError, EngineError, OutputError
        As :func:`~gi2nnunet.training.plan.plan_dataset` and
        :func:`~gi2nnunet.training.train.train_folds`; where the machine will not do.
    StoppedError
        If ``stop`` was set before all were finished.
    ValueError
        For a number out of range.
    """
    from gi2nnunet.nnunet.presets import (
        STOCK_TRAINER,
        PlanOptions,
        TrainingSettings,
        choose_configurations,
    )
    from gi2nnunet.training.train import describe_folds, train_folds

    command = spell_call(train, locals())
    options = PlanOptions(
        preset=preset,
        configurations=choose_configurations(list_texts(config)),
        batch_size=batch_size,
        patch_sizes=list_patches(patch_size),
    )
    settings = TrainingSettings(
        trainer=trainer or STOCK_TRAINER,
        epochs=epochs,
        iterations=iterations,
        learning_rate=lr,
        pretrained_weights=str(Path(pretrained_weights).absolute()) if pretrained_weights else None,
    )
    engine = open_engine(
        workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
    )
    dataset, folds = choose_trainings(
        fold=fold, pretrained_weights=pretrained_weights,
        workspace=engine.workspace, dataset_id=dataset_id,
    )  # fmt: skip
    planned = _plan(
        dataset, options, engine=engine, folds=folds, trainer=settings.trainer, checks=checks,
        progress=progress, on_notice=on_notice, on_warning=on_warning,
    )  # fmt: skip
    for line in describe_folds(folds, dataset):
        (on_notice or ignore)(line)
    (on_plan or ignore)(planned)
    return train_folds(
        dataset,
        planned,
        engine=engine,
        folds=folds,
        settings=settings,
        restart=restart,
        nnunet_validation=nnunet_validation,
        command=command,
        stop=stop,
        on_start=on_start,
        on_epoch=on_epoch,
    )


def choose_trainings(
    *,
    fold: str | int | Sequence[str | int] | None,
    pretrained_weights: FilePath | None,
    workspace: Workspace,
    dataset_id: int | None,
) -> tuple[Dataset, tuple[Fold, ...]]:
    """Find the dataset and the folds to train, and refuse weights that cannot be used.

    That comes before planning, which takes minutes.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.checks import check_checkpoint_file
    from gi2nnunet.training.train import expand_folds

    dataset = read_dataset(workspace.raw, dataset_id=dataset_id)
    folds = expand_folds(list_texts(fold) or ["all"], n_folds=len(dataset.splits))
    if pretrained_weights:
        check_checkpoint_file(Path(pretrained_weights))
    return dataset, folds


def plan(
    options: PlanOptions,
    *,
    engine: Engine,
    dataset_id: int | None = None,
    checks: bool = True,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
    on_warning: Notice | None = None,
) -> Plan:
    """Plan and preprocess a dataset: the first half of :func:`train`."""
    from gi2nnunet.dataset.manifest import read_dataset

    return _plan(
        read_dataset(engine.workspace.raw, dataset_id=dataset_id), options, engine=engine,
        checks=checks, progress=progress, on_notice=on_notice, on_warning=on_warning,
    )  # fmt: skip


def _plan(
    dataset: Dataset,
    options: PlanOptions,
    *,
    engine: Engine,
    checks: bool,
    folds: Sequence[Fold] = (),
    trainer: str = "",
    progress: Progress | None,
    on_notice: Notice | None,
    on_warning: Notice | None,
) -> Plan:
    """Choose the hardware and the preset, look at the machine, then plan and preprocess."""
    from gi2nnunet.nnunet.presets import choose_preset
    from gi2nnunet.training.doctor import (
        examine_start,
        judge_installation,
        list_warnings,
        raise_errors,
    )
    from gi2nnunet.training.machine import read_installation
    from gi2nnunet.training.plan import plan_dataset

    tell = on_notice or ignore
    if checks:
        raise_errors(judge_installation(read_installation()))
    tell(f"Computing on: {engine.hardware.name}")
    chosen = choose_preset(options.preset, memory_gib=engine.hardware.memory_gib)
    options = replace(options, preset=chosen.name)
    tell(f"Dataset: {dataset.folder}; preset: {chosen.name}")
    if checks:
        verdicts = examine_start(dataset, options, engine=engine, folds=folds, trainer=trainer)
        for warning in list_warnings(verdicts):
            (on_warning or tell)(warning)
        raise_errors(verdicts)
    return plan_dataset(dataset, options, engine=engine, progress=progress)


def diagnose(
    options: PlanOptions,
    *,
    fold: Sequence[str] | None = None,
    engine: Engine,
    dataset_id: int | None = None,
    on_notice: Notice | None = None,
) -> Diagnosis:
    """Check the installation and, if there is a dataset, whether this machine can train on it."""
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.training.doctor import diagnose as examine
    from gi2nnunet.training.train import expand_folds

    tell = on_notice or ignore
    raw = engine.workspace.raw
    if dataset_id is None and not any(raw.glob("Dataset[0-9][0-9][0-9]_*")):
        tell(f"{raw} holds no dataset: checking the installation alone.")
        return examine(None, options, engine=engine)
    dataset = read_dataset(raw, dataset_id=dataset_id)
    tell(f"Dataset: {dataset.folder}")
    folds = expand_folds(fold or ["all"], n_folds=len(dataset.splits))
    return examine(dataset, options, engine=engine, folds=folds)


def estimate(
    options: PlanOptions,
    settings: TrainingSettings,
    *,
    fold: Sequence[str] | None = None,
    gpus: int | None = None,
    card: str | None = None,
    measure: bool = False,
    engine: Engine,
    dataset_id: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Estimate:
    """Estimate what trainings cost before they start: hours, GPU-hours, disk, memory.

    They run on ``gpus`` cards of the kind ``card``, or on the engine's hardware.
    """
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.nnunet.checks import check_configurations
    from gi2nnunet.nnunet.presets import choose_preset
    from gi2nnunet.training.estimate import MEASURE_SECONDS, Request, choose_card, estimate_costs
    from gi2nnunet.training.train import expand_folds

    tell = on_notice or ignore
    dataset = read_dataset(engine.workspace.raw, dataset_id=dataset_id)
    folds = expand_folds(fold or ["all"], n_folds=len(dataset.splits))
    check_configurations(options.configurations)
    chosen = choose_card(card) if card is not None else None
    if chosen is None:
        tell(f"Computing on: {engine.hardware.name}")
    memory = chosen.memory_gib if chosen else engine.hardware.memory_gib
    tell(f"Dataset: {dataset.folder}")
    request = Request(
        preset=choose_preset(options.preset, memory_gib=memory),
        configurations=options.configurations,
        folds=folds,
        settings=settings,
        card=chosen,
        cards=gpus or 1,
        measure_seconds=MEASURE_SECONDS if measure else None,
    )
    return estimate_costs(dataset, engine=engine, request=request, progress=progress or ignore)


def predict(
    source: FilePath | None = None,
    *,
    config: str | Sequence[str] | None = None,
    fold: str | int | Sequence[str | int] | None = None,
    preset: str | None = None,
    trainer: str | None = None,
    mirroring: bool = True,
    step_size: float = 0.5,
    threads: int | None = None,
    nifti: bool = False,
    save_probabilities: bool = False,
    tuning: bool = True,
    out: FilePath | None = None,
    allow_missing: bool = False,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Evaluation:
    """Predict a source and write ``submission.csv``; no truth is looked for.

    Parameters
    ----------
    source
        A source (its ``test/`` if there is one, else its ``train/``), or NIfTI files; by default
        the workspace's own scans, as :func:`predict_and_score` takes them.
    config, fold, preset, trainer
        Which models; by default the newest complete set.
    mirroring, step_size
        As in :class:`~gi2nnunet.nnunet.engine.PredictionSettings`.
    threads, trust
        As in :class:`~gi2nnunet.nnunet.engine.Engine`.
    nifti, save_probabilities, tuning
        As in :class:`~gi2nnunet.nnunet.engine.PredictionOptions`.
    out
        Folder for the results; by default one in the workspace.
    allow_missing
        Pass over rows without image and images without rows.
    device, gpus, workspace, dataset_id
        As in :func:`train`.
    progress
        Called with ``(done, total, what)`` in scans.
    on_notice
        Called with sentences: what is computed on, which models, what is predicted.

    Returns
    -------
    Evaluation
        The submission's path; images and predicted masks as arrays.

    Raises
    ------
    InputError, EngineError, OutputError
        As :func:`~gi2nnunet.prediction.evaluate.evaluate`; where there are no such models.
    ValueError
        For a number out of range.
    """
    command = spell_call(predict, locals())
    from gi2nnunet.nnunet.engine import PredictionOptions, PredictionSettings

    engine = open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust)
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    options = PredictionOptions(nifti=nifti, save_probabilities=save_probabilities, tuning=tuning)
    work = choose_work(
        source, models=_choose_models(config, fold, preset, trainer, dataset_id), out=out,
        allow_missing=allow_missing, truth=False, workspace=engine.workspace,
    )  # fmt: skip
    return run_prediction(
        work, engine=engine, settings=settings, options=options, score=False, command=command,
        progress=progress, on_notice=on_notice,
    )  # fmt: skip


def predict_and_score(
    source: FilePath | None = None,
    *,
    metric: Metric = "per-class",
    source_labels: LabelScheme | None = None,
    config: str | Sequence[str] | None = None,
    fold: str | int | Sequence[str | int] | None = None,
    preset: str | None = None,
    trainer: str | None = None,
    mirroring: bool = True,
    step_size: float = 0.5,
    threads: int | None = None,
    nifti: bool = False,
    save_probabilities: bool = False,
    tuning: bool = True,
    out: FilePath | None = None,
    allow_missing: bool = False,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Evaluation:
    """Predict, write ``submission.csv``, and score it where the truth is known.

    Without a source: the held-out test scans; where there are none, every training scan by the
    model that did not see its patient; else the training scans, the score marked in-sample.

    Parameters
    ----------
    source, config, fold, preset, trainer, mirroring, step_size, threads, nifti, save_probabilities
        As in :func:`predict`, as all that follows but the metric.
    metric
        Convention of :mod:`gi2nnunet.scoring.metric`.
    source_labels
        How given NIfTI labels are coded, where their values or a dataset.json do not tell.
    tuning, out, allow_missing, trust, device, gpus, workspace, dataset_id, progress, on_notice
        As in :func:`predict`.

    Returns
    -------
    Evaluation
        Its ``score`` is ``None`` where no truth is known; its ``standing`` says what it means.

    Raises
    ------
    InputError, EngineError, OutputError, ValueError
        As :func:`predict`.
    """
    command = spell_call(predict_and_score, locals())
    from gi2nnunet.nnunet.engine import PredictionOptions, PredictionSettings
    from gi2nnunet.scoring.conventions import CONVENTIONS

    if metric not in CONVENTIONS:  # before hours of prediction
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
    engine = open_engine(workspace, device=device, gpus=gpus, threads=threads, trust=trust)
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    options = PredictionOptions(nifti=nifti, save_probabilities=save_probabilities, tuning=tuning)
    work = choose_work(
        source, models=_choose_models(config, fold, preset, trainer, dataset_id), out=out,
        allow_missing=allow_missing, source_labels=source_labels, workspace=engine.workspace,
    )  # fmt: skip
    return run_prediction(
        work, engine=engine, settings=settings, options=options, metric=metric, command=command,
        progress=progress, on_notice=on_notice,
    )  # fmt: skip


def _choose_models(
    config: str | Sequence[str] | None,
    fold: str | int | Sequence[str | int] | None,
    preset: str | None,
    trainer: str | None,
    dataset_id: int | None,
) -> ModelChoice:
    from gi2nnunet.nnunet.models import ModelChoice

    return ModelChoice(
        configurations=tuple(list_texts(config)),
        folds=tuple(list_texts(fold)),
        preset=preset,
        trainer=trainer,
        dataset_id=dataset_id,
    )


def choose_work(source: FilePath | None, *, out: FilePath | None, **choice: Any) -> Work:
    """Choose what to predict, by which models: :func:`gi2nnunet.prediction.choose.choose_work`."""
    from gi2nnunet.prediction.choose import choose_work as choose

    return choose(Path(source) if source else None, out=Path(out) if out else None, **choice)


def run_prediction(work: Work, **how: Any) -> Evaluation:
    """Predict what was chosen, as :func:`~gi2nnunet.prediction.evaluate.evaluate` does."""
    from gi2nnunet.prediction.evaluate import evaluate

    return evaluate(work, **how)


def predict_part(work: Work, part: tuple[int, int], **how: Any) -> int:
    """Predict every n-th scan of what was chosen; return how many these are.

    See :func:`gi2nnunet.prediction.evaluate.predict_part`.
    """
    from gi2nnunet.prediction.evaluate import predict_part as predict

    return predict(work, part, **how)


def predict_out_of_fold(
    models: ModelChoice,
    *,
    engine: Engine,
    settings: PredictionSettings,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> OutOfFold:
    """Predict every training scan by the models that did not see its patient."""
    from gi2nnunet.prediction.out_of_fold import choose_every_fold
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold as predict

    dataset, ensemble = choose_every_fold(models, engine=engine, on_notice=on_notice)
    return predict(dataset, ensemble, engine=engine, settings=settings, progress=progress)


def tune(
    models: ModelChoice,
    *,
    engine: Engine,
    settings: PredictionSettings,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    command: str = "",
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> tuple[Tuning, Path, Ensemble]:
    """Choose how masks are decided, organ by organ, for the metric; return also file and models.

    Out-of-fold predictions are made where they are missing.
    """
    from gi2nnunet.core.files import check_place
    from gi2nnunet.nnunet.postprocess import save_tuning, tuning_path
    from gi2nnunet.prediction.out_of_fold import choose_every_fold
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold as predict
    from gi2nnunet.tuning.search import list_tuning_scans, tune_decision

    dataset, ensemble = choose_every_fold(models, engine=engine, on_notice=on_notice)
    check_place(tuning_path(ensemble.models))
    predicted = predict(
        dataset, ensemble, engine=engine, settings=settings, truth=True, progress=progress
    )
    found = tune_decision(
        list_tuning_scans(dataset, predicted),
        configurations=[model.configuration for model in ensemble.models],
        metric=metric,
        seed=seed,
        jobs=engine.jobs,
        progress=progress,
    )
    folds = sorted(set(predicted.fold_of.values()))
    path = save_tuning(found, ensemble.models, folds, computing=predicted.settings, command=command)
    return found, path, ensemble


def compare_models(
    models: ModelChoice,
    *,
    engine: Engine,
    settings: PredictionSettings,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> ModelComparison:
    """Score every configuration and ensemble out of fold, with cost, and recommend one."""
    from gi2nnunet.dataset.manifest import read_dataset
    from gi2nnunet.tuning.compare_models import compare_all_models

    dataset = read_dataset(engine.workspace.raw, dataset_id=models.dataset_id)
    (on_notice or ignore)(f"Computing on: {engine.hardware.name}")
    return compare_all_models(
        dataset,
        engine=engine,
        settings=settings,
        preset=None if models.preset == "auto" else models.preset,
        trainer=models.trainer,
        metric=metric,
        seed=seed,
        jobs=engine.jobs,
        progress=progress,
    )


def export_model(
    out: FilePath,
    *,
    models: ModelChoice,
    engine: Engine,
    half: bool = False,
    on_notice: Notice | None = None,
) -> ExportedModel:
    """Write trained models into one file without pickles, for others to import."""
    from gi2nnunet.prediction.choose import select_models
    from gi2nnunet.sharing.exchange import export_model as export

    dataset, ensemble = select_models(engine.workspace, models)
    (on_notice or ignore)(f"Models: {ensemble.describe()}")
    return export(ensemble, Path(out), dataset=dataset, engine=engine, half=half)


def import_model(file: FilePath, *, engine: Engine, replace: bool = False) -> ImportedModel:
    """Take the models of a file of :func:`export_model` into the workspace."""
    from gi2nnunet.sharing.exchange import import_model as take

    return take(Path(file), engine=engine, replace=replace)


def predict_hidden(
    source: FilePath, model: FilePath, out: FilePath, **how: Any
) -> HiddenPrediction:
    """Predict a hidden test set in a budget: :func:`gi2nnunet.sharing.hidden.predict_hidden`."""
    from gi2nnunet.sharing.hidden import predict_hidden as predict

    return predict(Path(source), Path(model), Path(out), **how)


def make_kaggle_bundle(
    out: FilePath,
    *,
    models: ModelChoice,
    image: Image,
    engine: Engine,
    half: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
    **notebook: Any,
) -> KaggleBundle:
    """Write models, wheels and a notebook for the competition's offline machine.

    ``notebook`` are the fields of :class:`~gi2nnunet.sharing.kaggle_bundle.Notebook`.
    """
    from gi2nnunet.prediction.choose import select_models
    from gi2nnunet.sharing.kaggle_bundle import Notebook, make_bundle

    dataset, ensemble = select_models(engine.workspace, models)
    (on_notice or ignore)(f"Models: {ensemble.describe()}")
    return make_bundle(
        ensemble, Path(out), notebook=Notebook(**notebook), image=image, dataset=dataset,
        engine=engine, half=half, replace=replace, progress=progress,
    )  # fmt: skip


def score(
    submission: FilePath,
    truth: FilePath,
    *,
    metric: Metric = "per-class",
    images: FilePath | None = None,
    medical: bool = False,
    tolerance_mm: float = 3.0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Score a submission against the truth by the competition's metric.

    Parameters
    ----------
    submission, truth
        CSV files of the competition's form.
    metric
        Convention of :mod:`gi2nnunet.scoring.metric`.
    images
        The source whose file names tell the image sizes, where the truth has no ``image_height``
        and ``image_width`` columns.
    medical
        Add surface Dice, HD95 in mm and volume error in ml; needs ``images`` for the spacing, and
        MONAI.
    tolerance_mm
        Of the surface Dice.
    jobs
        Threads; by default one a core.
    progress
        Called with ``(done, total, what)`` in scans.

    Raises
    ------
    InputError, EngineError
        As :func:`~gi2nnunet.scoring.score.score_submission`.
    ValueError
        For an unknown convention, a number out of range, ``medical`` without ``images``.
    """
    from gi2nnunet.scoring.score import score_submission

    require_positive(jobs=jobs)
    if not 0 <= tolerance_mm < math.inf:
        raise ValueError(f"tolerance_mm: found {tolerance_mm!r}; expected 0 or more")
    if medical and images is None:
        raise ValueError("medical needs images: the source whose file names tell the spacing")
    scans = _open_scans(images)
    return score_submission(
        Path(submission),
        Path(truth),
        metric=metric,
        sizes={name: scan.size for name, scan in scans.items()} or None,
        medical=medical,
        spacing_mm={name: scan.spacing_mm for name, scan in scans.items()} if medical else None,
        tolerance_mm=tolerance_mm,
        jobs=jobs,
        progress=progress,
    )


def estimate_intervals(score: Score) -> Mapping[str, Interval]:
    """Return 95 % intervals of a score, from a seeded bootstrap over patients."""
    from gi2nnunet.scoring.bootstrap import estimate_intervals as estimate

    return estimate(score)


def compare(
    a: FilePath, b: FilePath, truth: FilePath, *, images: FilePath | None = None, **options: Any
) -> Comparison:
    """Compare two submissions: the difference, its interval over patients, what moved most.

    ``options`` are those of :func:`~gi2nnunet.scoring.compare.compare_submissions`; ``images`` is
    as in :func:`score`.
    """
    from gi2nnunet.scoring.compare import compare_submissions

    sizes = {name: scan.size for name, scan in _open_scans(images).items()} or None
    return compare_submissions(Path(a), Path(b), Path(truth), sizes=sizes, **options)


def encode(
    labels: FilePath,
    out: FilePath,
    *,
    scheme: LabelScheme | Literal["auto"] = "auto",
    sample: FilePath | None = None,
) -> Encoded:
    """Write label volumes into a submission CSV; see :mod:`gi2nnunet.dataset.encode`."""
    from gi2nnunet.dataset.encode import encode_labels

    return encode_labels(
        Path(labels), Path(out), scheme=scheme, sample=Path(sample) if sample else None
    )


def _open_scans(images: FilePath | None) -> Mapping[str, Scan]:
    if images is None:
        return {}
    from gi2nnunet.source.open import open_source

    return open_source(images, truth=False, allow_missing=True).scans


def write_report(
    out: FilePath | None = None,
    *,
    prediction: FilePath | None = None,
    scans: str | Sequence[str] | None = None,
    show_all: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write one HTML page: data, folds, training curves, scores, and slices with contours.

    Parameters
    ----------
    out
        The page; by default ``report.html`` in the workspace.
    prediction
        Folder of :func:`predict` or :func:`predict_and_score`; by default the workspace's newest.
    scans
        Scans to show slices of; by default some of the worst, middle and best.
    show_all
        Show slices of every predicted scan.
    workspace, dataset_id
        As in :func:`open_dataset`.
    progress
        Called with ``(done, total, what)``.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    InputError, OutputError
        As :func:`~gi2nnunet.report.gather.gather_report` and
        :func:`~gi2nnunet.report.page.write_report`.
    """
    return make_report(
        out, prediction=prediction, scans=scans, show_all=show_all, workspace=workspace,
        dataset_id=dataset_id, progress=progress,
    ).path  # fmt: skip


def make_report(
    out: FilePath | None = None,
    *,
    prediction: FilePath | None = None,
    scans: str | Sequence[str] | None = None,
    show_all: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Progress | None = None,
) -> WrittenReport:
    """Write the page as :func:`write_report` does, and return what is on it."""
    from gi2nnunet.report.gather import gather_report
    from gi2nnunet.report.page import write_report as write_page

    space = find_workspace(workspace)
    report = gather_report(
        space,
        dataset_id=dataset_id,
        prediction=Path(prediction) if prediction else None,
        scans=list_texts(scans),
        show_all=show_all,
        progress=progress,
    )
    return write_page(report, Path(out) if out else space.predictions.parent / "report.html")


def verify(
    *,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    quick: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> Verification:
    """Check a workspace: what is missing, altered, stale, leaking, half-made or left behind."""
    from gi2nnunet.upkeep.verify import verify_workspace

    engine = open_engine(workspace)
    space = engine.workspace
    (on_notice or ignore)(f"Workspace: {space.raw.parent} ({space.chosen_by})")
    return verify_workspace(
        space, dataset_id=dataset_id, quick=quick, jobs=jobs, progress=progress, engine=engine
    )
