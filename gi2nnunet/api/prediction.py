"""Calls for prediction: predict, predict_and_score, and parts of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gi2nnunet.api.opening import FilePath, Opening, OpeningWithTruth, list_texts, open_engine
from gi2nnunet.core.bars import Shown, draw_bars
from gi2nnunet.core.command import spell_call, take_fields
from gi2nnunet.core.workers import Notice

if TYPE_CHECKING:
    from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
    from gi2nnunet.nnunet.models import ModelChoice
    from gi2nnunet.prediction.choose import Work
    from gi2nnunet.prediction.evaluate import Evaluation
    from gi2nnunet.scoring.conventions import Metric


def choose_models(
    *,
    config: str | Sequence[str] | None = None,
    fold: str | int | Sequence[str | int] | None = None,
    preset: str | None,
    trainer: str | None,
    dataset_id: int | None,
) -> ModelChoice:
    """Return which trained models are meant."""
    from gi2nnunet.nnunet.models import ModelChoice

    return ModelChoice(
        configurations=tuple(list_texts(config)), folds=tuple(list_texts(fold)), preset=preset,
        trainer=trainer, dataset_id=dataset_id,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Prediction(Opening):
    """Arguments of :func:`predict`."""

    source: FilePath | None = field(default=None, kw_only=False)
    config: str | Sequence[str] | None = None
    fold: str | int | Sequence[str | int] | None = None
    preset: str | None = None
    trainer: str | None = None
    mirroring: bool = True
    step_size: float = 0.5
    threads: int | None = None
    nifti: bool | None = None
    save_probabilities: bool = False
    rtstruct: bool = False
    seg: bool = False
    slicer: bool = False
    roi_name: Mapping[str, str] | Sequence[str] | None = None
    tuning: bool = True
    again: bool = False
    out: FilePath | None = None
    trust: bool = False
    device: str = "auto"
    gpus: int | None = None
    workspace: FilePath | None = None
    dataset_id: int | None = None
    progress: Shown = None
    on_notice: Notice | None = None

    def open_engine(self) -> Engine:
        """Return what runs nnU-Net."""
        return open_engine(
            self.workspace, device=self.device, gpus=self.gpus, threads=self.threads,
            trust=self.trust,
        )  # fmt: skip

    def make_settings(self) -> PredictionSettings:
        """Return how a network is applied to an image."""
        from gi2nnunet.nnunet.engine import PredictionSettings

        return PredictionSettings(mirroring=self.mirroring, step_size=self.step_size)

    def make_options(self, work: Work) -> PredictionOptions:
        """Return what is written of some work."""
        from gi2nnunet.formats.structures import parse_names
        from gi2nnunet.nnunet.engine import PredictionOptions

        wanted = work.selection.volumes or self.slicer
        return PredictionOptions(
            nifti=wanted if self.nifti is None else self.nifti,
            save_probabilities=self.save_probabilities, tuning=self.tuning,
            rtstruct=self.rtstruct, seg=self.seg, slicer=self.slicer,
            roi_names=parse_names(self.roi_name, option="--roi-name"),
        )  # fmt: skip

    def choose_work(self, engine: Engine) -> Work:
        """Return the scans, the models and the folder for the results."""
        from gi2nnunet.prediction.choose import choose_work

        return choose_work(
            Path(self.source) if self.source else None,
            models=choose_models(
                config=self.config, fold=self.fold, preset=self.preset, trainer=self.trainer,
                dataset_id=self.dataset_id,
            ),
            out=Path(self.out) if self.out else None, options=self.make_source_options(),
            workspace=engine.workspace,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ScoredPrediction(Prediction, OpeningWithTruth):
    """Arguments of :func:`predict_and_score`."""

    metric: Metric = "per-class"

    def __post_init__(self) -> None:
        """Refuse an unknown metric before hours of prediction."""
        from gi2nnunet.scoring.conventions import require_convention

        require_convention(self.metric)


@take_fields(Prediction)
def predict(asked: Prediction) -> Evaluation:
    """Predict a source and write ``submission.csv``, without scoring it.

    Parameters
    ----------
    source
        A source (its ``test/`` if there is one, else its ``train/``), NIfTI files or DICOM series;
        by default the workspace's own scans, as in :func:`predict_and_score`.
    config, fold, preset, trainer
        Which models to use; by default the newest complete set.
    mirroring
        Average the predictions of mirrored images, as nnU-Net does.
    step_size
        Step of the sliding window, as a fraction of the patch.
    nifti
        Also write label volumes: one bit-coded, and one for each organ. By default for NIfTI and
        DICOM.
    save_probabilities
        Also write each configuration's probabilities, in eight bits.
    slicer
        Also write a segmentation of each scan for 3D Slicer.
    rtstruct, seg, roi_name
        Also write RTSTRUCT and DICOM SEG, for DICOM sources; names of structures in these files in
        place of those of TG-263: ``{"stomach": "Magen"}``.
    tuning
        Apply the settings that ``gi2nnunet tune`` saved for these models, if any.
    again
        Predict again, also if the folder holds the same prediction, finished.
    out
        Folder for the results; by default one in the workspace.

    Returns
    -------
    Evaluation
        The submission's path; images and predicted masks as arrays.

    Raises
    ------
    InputError
        If the source is damaged, or there are no such models.
    """
    return _predict(asked)


@take_fields(ScoredPrediction)
def predict_and_score(asked: ScoredPrediction) -> Evaluation:
    """Predict, write ``submission.csv``, and score it if the truth is known.

    Without a source, the held-out scans are predicted. If there are none, every training scan is
    predicted by the model that did not see its patient; without such models, the training scans
    are predicted and the score is marked in-sample. :func:`predict` explains the other keywords.

    Parameters
    ----------
    metric
        Which reading of the metric to use, one of :mod:`gi2nnunet.scoring.metric`.

    Returns
    -------
    Evaluation
        Its ``score`` is ``None`` if the truth is not known; its ``standing`` says whether the
        models have seen these patients.
    """
    return _predict(asked)


def _predict(asked: Prediction) -> Evaluation:
    engine = asked.open_engine()
    asked.make_settings()  # refuses a number out of range, before the models are looked for
    return evaluate_work(asked, asked.choose_work(engine), engine)


def evaluate_work(asked: Prediction, work: Work, engine: Engine) -> Evaluation:
    """Predict chosen work, and score it if the arguments are those of a scored prediction."""
    from gi2nnunet.prediction.evaluate import evaluate

    scored = asked if isinstance(asked, ScoredPrediction) else None
    call: Callable[..., Evaluation] = predict_and_score if scored else predict
    command = spell_call(call, vars(asked))
    with draw_bars(asked.progress) as report:
        return evaluate(
            work, engine=engine, settings=asked.make_settings(), options=asked.make_options(work),
            metric=scored.metric if scored else "per-class", score=scored is not None,
            again=asked.again, command=command, progress=report, on_notice=asked.on_notice,
        )  # fmt: skip


def predict_part(asked: Prediction, work: Work, engine: Engine, *, part: tuple[int, int]) -> int:
    """Predict one part of chosen work, such as ``(2, 8)``; return how many scans it has."""
    from gi2nnunet.prediction import evaluate

    with draw_bars(asked.progress) as report:
        return evaluate.predict_part(
            work, part, engine=engine, settings=asked.make_settings(),
            options=asked.make_options(work), again=asked.again, progress=report,
            on_notice=asked.on_notice,
        )  # fmt: skip
