"""Hand models over with what tuning chose for them, and take them over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gi2nnunet.manifest import Dataset
from gi2nnunet.nnunet.exchange import ExportedModel, ImportedModel, export_model, import_model
from gi2nnunet.nnunet.models import Ensemble, TrainedModel, count_folds, list_models
from gi2nnunet.nnunet.workspace import Workspace
from gi2nnunet.standing import find_trained_scans
from gi2nnunet.tuned import Tuned, adopt_tuning, find_tuning


@dataclass(frozen=True, kw_only=True)
class HandedOver:
    """A model file.

    Attributes
    ----------
    model
        The file.
    tuned
        What tuning chose and went along; ``None`` where there is nothing.
    warnings
        One sentence each.
    """

    model: ExportedModel
    tuned: Tuned | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TakenOver:
    """Models taken in.

    Attributes
    ----------
    model
        What was written.
    models
        The models of the file, now in the workspace.
    tuning
        The file of what tuning chose, where the models brought one.
    """

    model: ImportedModel
    models: tuple[TrainedModel, ...]
    tuning: Path | None


def hand_over(
    ensemble: Ensemble,
    out: Path,
    *,
    dataset: Dataset | None,
    workspace: Workspace,
    environ: Mapping[str, str],
    half: bool = False,
    trust: bool = False,
) -> HandedOver:
    """Write models, what they were trained on and what tuning chose for them, into one file.

    Parameters
    ----------
    ensemble
        The models.
    out
        The file; one that is there is replaced.
    dataset
        What they were trained on, where it is at hand.
    workspace, environ, half, trust
        As :func:`~gi2nnunet.nnunet.exchange.export_model` has them.

    Raises
    ------
    InputError
        Where a checkpoint, a plan or the tuning is damaged, or could run code.
    OutputError
        Where the file cannot be written.
    """
    tuned, warnings = find_tuning(ensemble)
    made = export_model(
        ensemble,
        out,
        find_scans=partial(find_trained_scans, dataset=dataset),
        n_folds=len(dataset.splits) if dataset else count_folds(ensemble.models[0].folder.parent),
        workspace=workspace,
        environ=environ,
        tuning=tuned.pack() if tuned else None,
        half=half,
        trust=trust,
    )
    return HandedOver(model=made, tuned=tuned, warnings=tuple(warnings))


def take_over(
    file: Path,
    *,
    workspace: Workspace,
    environ: Mapping[str, str],
    replace: bool = False,
    trust: bool = False,
) -> TakenOver:
    """Take a model file into the workspace, and what tuning chose with it.

    Parameters and errors are those of :func:`~gi2nnunet.nnunet.exchange.import_model`.
    """
    done = import_model(file, workspace=workspace, environ=environ, replace=replace, trust=trust)
    names = {folder.name for folder in (*done.kept, *done.written)}
    models = tuple(
        model
        for model in list_models(workspace.results / done.bundle.dataset)
        if model.folder.name in names
    )
    tuning = None if done.bundle.tuning is None else adopt_tuning(done.bundle.tuning, models)
    return TakenOver(model=done, models=models, tuning=tuning)
