"""Predict, and score where the truth is known: predict, predict_and_score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gi2nnunet.api.wiring import (
    FilePath,
    Notice,
    Progress,
    find_hardware_of,
    find_workspace,
    list_texts,
    read_environment,
    require_positive,
)

if TYPE_CHECKING:
    from gi2nnunet.evaluation import Evaluation
    from gi2nnunet.labels import LabelScheme
    from gi2nnunet.metric import Metric
    from gi2nnunet.nnunet.models import Ensemble
    from gi2nnunet.nnunet.workspace import Workspace
    from gi2nnunet.selection import Selection


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
    mirroring, step_size, threads, trust
        As :class:`~gi2nnunet.nnunet.computing.Computing` has them.
    nifti, save_probabilities, tuning
        As in :func:`~gi2nnunet.evaluation.evaluate`.
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
        As :func:`~gi2nnunet.evaluation.evaluate`; where there are no such models.
    ValueError
        For a number out of range.
    """
    return _predict(
        source, metric="per-class", source_labels=None, config=config, fold=fold, preset=preset,
        trainer=trainer, mirroring=mirroring, step_size=step_size, threads=threads, nifti=nifti,
        save_probabilities=save_probabilities, tuning=tuning, out=out, allow_missing=allow_missing,
        trust=trust, device=device, gpus=gpus, workspace=workspace, dataset_id=dataset_id,
        progress=progress, on_notice=on_notice, score=False,
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
        Convention of :mod:`gi2nnunet.metric`.
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
    return _predict(
        source, metric=metric, source_labels=source_labels, config=config, fold=fold,
        preset=preset, trainer=trainer, mirroring=mirroring, step_size=step_size, threads=threads,
        nifti=nifti, save_probabilities=save_probabilities, tuning=tuning, out=out,
        allow_missing=allow_missing, trust=trust, device=device, gpus=gpus, workspace=workspace,
        dataset_id=dataset_id, progress=progress, on_notice=on_notice, score=True,
    )  # fmt: skip


def _predict(
    source: FilePath | None,
    *,
    metric: Metric,
    source_labels: LabelScheme | None,
    config: str | Sequence[str] | None,
    fold: str | int | Sequence[str | int] | None,
    preset: str | None,
    trainer: str | None,
    out: FilePath | None,
    allow_missing: bool,
    device: str,
    gpus: int | None,
    workspace: FilePath | None,
    dataset_id: int | None,
    progress: Progress | None,
    on_notice: Notice | None,
    score: bool,
    mirroring: bool,
    step_size: float,
    threads: int | None,
    trust: bool,
    **options: Any,
) -> Evaluation:
    from gi2nnunet.evaluation import evaluate
    from gi2nnunet.metric import CONVENTIONS
    from gi2nnunet.nnunet.computing import Computing

    require_positive(threads=threads, gpus=gpus)
    if metric not in CONVENTIONS:  # before hours of prediction
        raise ValueError(f"metric {metric!r} is none of {CONVENTIONS}")
    if not 0.1 <= step_size <= 1:
        raise ValueError(f"step_size: found {step_size!r}; expected 0.1 to 1")
    tell = on_notice or (lambda text: None)
    report = progress or (lambda done, total, what: None)
    space = find_workspace(workspace)
    selection, ensemble = select_work(
        space, source, config=config, fold=fold, preset=preset, trainer=trainer, truth=score,
        source_labels=source_labels, allow_missing=allow_missing, dataset_id=dataset_id,
    )  # fmt: skip
    computing = Computing(
        workspace=space, environ=read_environment(),
        hardware=find_hardware_of(space, device=device, gpus=gpus, tell=tell),
        mirroring=mirroring, step_size=step_size, threads=threads, trust=trust,
    )  # fmt: skip
    tell(f"Models: {ensemble.describe()}")
    tell(f"Predicting {len(selection.scans)} scans: {selection.described}")
    report(0, len(selection.scans), "predicting scans")
    return evaluate(
        selection,
        ensemble,
        out=Path(out) if out else space.predictions / selection.name / ensemble.name,
        computing=computing,
        metric=metric,
        score=score,
        on_scan=lambda done, total, scan: report(done, total, "predicting scans"),
        **options,
    )


def select_work(
    space: Workspace,
    source: FilePath | None,
    *,
    config: str | Sequence[str] | None,
    fold: str | int | Sequence[str | int] | None,
    preset: str | None,
    trainer: str | None,
    truth: bool,
    source_labels: LabelScheme | None,
    allow_missing: bool,
    dataset_id: int | None,
) -> tuple[Selection, Ensemble]:
    """Choose what to predict and by which models, as :func:`predict` has these arguments.

    ``truth`` says whether to look for it.
    """
    from gi2nnunet.manifest import read_dataset
    from gi2nnunet.selection import select_models, select_own_scans, select_source

    dataset, ensemble = select_models(
        space,
        dataset_id=dataset_id,
        configurations=list_texts(config),
        folds=list_texts(fold),
        preset=None if preset == "auto" else preset,
        trainer=trainer,
    )
    if source is None:
        dataset = dataset or read_dataset(space.raw, dataset_id=dataset_id)
        selection = select_own_scans(dataset, ensemble)
    else:
        selection = select_source(
            Path(source),
            dataset=dataset,
            ensemble=ensemble,
            truth=truth,
            source_labels=source_labels,
            allow_missing=allow_missing,
        )
    return selection, ensemble
