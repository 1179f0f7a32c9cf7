"""Calls that pass models on: export_model, import_model, predict_hidden, kaggle_bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.opening import FilePath, open_engine
from gi2nnunet.api.prediction import choose_models
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.errors import require_positive
from gi2nnunet.core.workers import Notice, ignore

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.nnunet.engine import Engine
    from gi2nnunet.nnunet.models import Ensemble, ModelChoice
    from gi2nnunet.sharing.exchange import ExportedModel, ImportedModel
    from gi2nnunet.sharing.hidden import HiddenPrediction
    from gi2nnunet.sharing.kaggle_bundle import KaggleBundle


def _select_models(
    models: ModelChoice, engine: Engine, *, on_notice: Notice | None
) -> tuple[Dataset | None, Ensemble]:
    """Find the models to pass on, and report which."""
    from gi2nnunet.nnunet.models import warn_of_unrecorded
    from gi2nnunet.prediction.choose import select_models

    tell = on_notice or ignore
    dataset, ensemble = select_models(engine.workspace, models)
    tell(f"Models: {ensemble.describe()}")
    if warning := warn_of_unrecorded(ensemble):
        tell(warning)
    return dataset, ensemble


def export_model(
    out: FilePath = Path("model.gi2nnunet"),
    *,
    config: str | Sequence[str] | None = None,
    fold: str | int | Sequence[str | int] | None = None,
    preset: str | None = None,
    trainer: str | None = None,
    half: bool = False,
    trust: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    on_notice: Notice | None = None,
) -> ExportedModel:
    """Write trained models into one file that runs no code when it is read.

    Parameters
    ----------
    config, fold, preset, trainer
        Which models; by default the newest complete set.
    half
        Store weights in half precision, at half the size.

    Raises
    ------
    InputError
        If there are no such models, or they are damaged.
    """
    from gi2nnunet.sharing import exchange

    engine = open_engine(workspace, trust=trust)
    models = choose_models(
        config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
    )
    dataset, ensemble = _select_models(models, engine, on_notice=on_notice)
    return exchange.export_model(ensemble, Path(out), dataset=dataset, engine=engine, half=half)


def import_model(
    model: FilePath,
    *,
    replace: bool = False,
    trust: bool = False,
    workspace: FilePath | None = None,
) -> ImportedModel:
    """Add the models of an exported file to the workspace; no code from the file is run.

    Parameters
    ----------
    model
        A file of :func:`export_model`, or of ``nnUNetv2_export_model_to_zip``.
    replace
        Replace models of the same names.

    Raises
    ------
    InputError
        If the file is damaged or names unknown code, or other models have its names.
    """
    from gi2nnunet.sharing import exchange

    engine = open_engine(workspace, trust=trust)
    return exchange.import_model(Path(model), engine=engine, replace=replace)


def predict_hidden(
    source: FilePath,
    *,
    model: FilePath,
    out: FilePath = Path("submission.csv"),
    hours: float = 8.5,
    mirroring: bool = True,
    tuning: bool = True,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    workspace: FilePath | None = None,
    progress: Shown = None,
    on_notice: Notice | None = None,
) -> HiddenPrediction:
    """Predict a hidden test set within a time budget; the submission is valid all the time.

    Parameters
    ----------
    source
        The competition's folder; its ``test/`` is used.
    model
        A file of :func:`export_model`.
    hours
        If they get short, mirroring is dropped first, then folds, then scans.

    Raises
    ------
    InputError
        If the model cannot be used, or nothing was predicted.
    """
    from gi2nnunet.sharing.hidden import predict_hidden as predict_in_time

    require_positive(hours=hours)
    engine = open_engine(workspace, device=device, gpus=gpus, trust=trust)
    with draw_bars(progress) as report:
        return predict_in_time(
            Path(source), Path(model), Path(out), hours=hours, mirroring=mirroring, tuning=tuning,
            engine=engine, progress=report, on_notice=on_notice,
        )  # fmt: skip


def kaggle_bundle(
    *,
    user: str,
    out: FilePath = Path("kaggle-bundle"),
    config: str | Sequence[str] | None = None,
    fold: str | int | Sequence[str | int] | None = None,
    preset: str | None = None,
    trainer: str | None = None,
    name: str = "gi2nnunet-bundle",
    image_python: str = "3.12",
    image_freeze: FilePath | None = None,
    hours: float = 8.5,
    mirroring: bool = True,
    tuning: bool = True,
    half: bool = False,
    trust: bool = False,
    replace: bool = False,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    progress: Shown = None,
    on_notice: Notice | None = None,
) -> KaggleBundle:
    """Pack models, wheels and a notebook for a submission on Kaggle into a folder.

    Parameters
    ----------
    user, name
        Name of your Kaggle account, and of the Kaggle dataset that is made.
    config, fold, preset, trainer, half
        See :func:`export_model`.
    image_python, image_freeze
        Python version of Kaggle's image, and a file with its ``pip freeze``: packages that it has
        are left out.
    hours, mirroring, tuning
        How the notebook predicts; see :func:`predict_hidden`.
    replace
        Replace an earlier bundle.

    Raises
    ------
    InputError
        If there are no such models, a wheel is not found, or a name is not one of Kaggle's.
    """
    from gi2nnunet.sharing.kaggle_bundle import Notebook, make_bundle
    from gi2nnunet.sharing.wheels import describe_image

    require_positive(hours=hours)
    notebook = Notebook(user=user, name=name, hours=hours, mirroring=mirroring, tuning=tuning)
    image = describe_image(image_python, Path(image_freeze) if image_freeze else None)
    engine = open_engine(workspace, trust=trust)
    models = choose_models(
        config=config, fold=fold, preset=preset, trainer=trainer, dataset_id=dataset_id
    )
    dataset, ensemble = _select_models(models, engine, on_notice=on_notice)
    with draw_bars(progress) as report:
        return make_bundle(
            ensemble, Path(out), notebook=notebook, image=image, dataset=dataset, engine=engine,
            half=half, replace=replace, progress=report,
        )  # fmt: skip
