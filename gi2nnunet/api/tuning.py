"""Calls around out-of-fold predictions: out_of_fold, tune, compare_models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gi2nnunet.api.data import open_dataset
from gi2nnunet.api.opening import FilePath, open_engine
from gi2nnunet.api.prediction import choose_models
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import spell_call, take_fields
from gi2nnunet.core.workers import Notice, ignore

if TYPE_CHECKING:
    from gi2nnunet.dataset.manifest import Dataset
    from gi2nnunet.nnunet.engine import Engine, PredictionSettings
    from gi2nnunet.nnunet.models import Ensemble
    from gi2nnunet.prediction.out_of_fold import OutOfFold
    from gi2nnunet.scoring.conventions import TunedMetric
    from gi2nnunet.tuning.compare_models import ModelComparison
    from gi2nnunet.tuning.search import TunedModels


@dataclass(frozen=True, kw_only=True)
class _OutOfFold:
    """Arguments of :func:`out_of_fold`."""

    config: str | Sequence[str] | None = None
    preset: str | None = None
    trainer: str | None = None
    mirroring: bool = True
    step_size: float = 0.5
    workspace: FilePath | None = None
    dataset_id: int | None = None
    trust: bool = False
    device: str = "auto"
    gpus: int | None = None
    threads: int | None = None
    progress: Shown = None
    on_notice: Notice | None = None

    def open_engine(self, *, jobs: int | None = None) -> Engine:
        """Return what runs nnU-Net."""
        return open_engine(
            self.workspace, device=self.device, gpus=self.gpus, jobs=jobs, threads=self.threads,
            trust=self.trust,
        )  # fmt: skip

    def make_settings(self) -> PredictionSettings:
        """Return how a network is applied to an image."""
        from gi2nnunet.nnunet.engine import PredictionSettings

        return PredictionSettings(mirroring=self.mirroring, step_size=self.step_size)

    def choose_models(self, engine: Engine) -> tuple[Dataset, Ensemble]:
        """Return the dataset and models of every fold of its split."""
        from gi2nnunet.prediction.out_of_fold import choose_every_fold

        models = choose_models(
            config=self.config, preset=self.preset, trainer=self.trainer, dataset_id=self.dataset_id
        )
        return choose_every_fold(models, engine=engine, on_notice=self.on_notice)


@take_fields(_OutOfFold)
def out_of_fold(asked: _OutOfFold) -> OutOfFold:
    """Predict each training scan with the models that did not see its patient.

    The probabilities are stored in the workspace; what is stored already is not predicted again.
    :func:`predict` explains the keywords.

    Raises
    ------
    InputError
        If a fold of the split is not trained, or the dataset's labels are exclusive.
    """
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold

    engine, settings = asked.open_engine(), asked.make_settings()
    dataset, ensemble = asked.choose_models(engine)
    with draw_bars(asked.progress) as report:
        return predict_out_of_fold(
            dataset, ensemble, engine=engine, settings=settings, progress=report
        )


@dataclass(frozen=True, kw_only=True)
class _Tune(_OutOfFold):
    """Arguments of :func:`tune`."""

    metric: TunedMetric = "per-class"
    seed: int = 0
    jobs: int | None = None


@take_fields(_Tune)
def tune(asked: _Tune) -> TunedModels:
    """Choose thresholds and other post-processing for each organ, on out-of-fold predictions.

    Missing ones are made first. :func:`predict` applies the settings from then on.

    Parameters
    ----------
    metric
        One of the readings of the metric that are computed separately for each organ.

    Raises
    ------
    InputError
        As :func:`out_of_fold`.
    """
    from gi2nnunet.core.files import check_place
    from gi2nnunet.nnunet.postprocess import save_tuning, tuning_path
    from gi2nnunet.prediction.out_of_fold import predict_out_of_fold
    from gi2nnunet.tuning.search import TunedModels, list_tuning_scans, tune_decision

    engine, settings = asked.open_engine(jobs=asked.jobs), asked.make_settings()
    dataset, ensemble = asked.choose_models(engine)
    check_place(tuning_path(ensemble.models))
    with draw_bars(asked.progress) as report:
        predicted = predict_out_of_fold(
            dataset, ensemble, engine=engine, settings=settings, truth=True, progress=report
        )
        found = tune_decision(
            list_tuning_scans(dataset, predicted),
            configurations=[model.configuration for model in ensemble.models],
            metric=asked.metric, seed=asked.seed, leaking=dataset.leaking_patients,
            jobs=engine.jobs, progress=report,
        )  # fmt: skip
    path = save_tuning(
        found, ensemble.models, sorted(set(predicted.fold_of.values())),
        computing=predicted.settings, command=spell_call(tune, vars(asked)),
    )  # fmt: skip
    return TunedModels(tuning=found, path=path, ensemble=ensemble)


def compare_models(
    *,
    preset: str | None = None,
    trainer: str | None = None,
    mirroring: bool = True,
    step_size: float = 0.5,
    workspace: FilePath | None = None,
    dataset_id: int | None = None,
    trust: bool = False,
    device: str = "auto",
    gpus: int | None = None,
    threads: int | None = None,
    metric: TunedMetric = "per-class",
    seed: int = 0,
    jobs: int | None = None,
    progress: Shown = None,
    on_notice: Notice | None = None,
) -> ModelComparison:
    """Score each configuration and ensemble on out-of-fold predictions, and recommend one.

    Missing predictions are made first. :func:`predict` and :func:`tune` explain the keywords.

    Raises
    ------
    InputError
        If no configuration has every fold of the split.
    """
    from gi2nnunet.nnunet.engine import PredictionSettings
    from gi2nnunet.tuning.compare_models import compare_all_models

    engine = open_engine(
        workspace, device=device, gpus=gpus, jobs=jobs, threads=threads, trust=trust
    )
    settings = PredictionSettings(mirroring=mirroring, step_size=step_size)
    dataset = open_dataset(workspace=workspace, dataset_id=dataset_id)
    (on_notice or ignore)(engine.hardware.describe())
    with draw_bars(progress) as report:
        return compare_all_models(
            dataset, engine=engine, settings=settings, trainer=trainer,
            preset=None if preset == "auto" else preset, metric=metric, seed=seed, jobs=jobs,
            progress=report,
        )  # fmt: skip
