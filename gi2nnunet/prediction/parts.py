"""Predict in parts, by several processes or machines that share an output folder.

Each scan's rows are kept in that folder as soon as they are there. Whoever predicts the whole takes
them from there, so joining the parts is no more than the same prediction again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import check_place
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import Notice, Progress, count_steps, ignore
from gi2nnunet.nnunet.engine import Engine, PredictionOptions, PredictionSettings
from gi2nnunet.nnunet.postprocess import Tuned, find_tuning
from gi2nnunet.prediction.choose import Work
from gi2nnunet.prediction.predict import PredictedScan, PredictedScans, predict_scans
from gi2nnunet.source.scan import Scan


def predict_part(
    work: Work,
    part: tuple[int, int],
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions | None = None,
    progress: Progress | None = None,
    on_notice: Notice | None = None,
) -> int:
    """Predict a part of some work and keep its rows.

    Parts may run at the same time, on several machines too;
    :func:`~gi2nnunet.prediction.evaluate.evaluate`, given the same work and options, then finds
    every scan predicted.

    Parameters
    ----------
    part
        ``(2, 8)``: every eighth scan from the second on.
    work, engine, settings, options, progress, on_notice
        As :func:`~gi2nnunet.prediction.evaluate.evaluate` has them.

    Returns
    -------
    int
        How many scans the part has; none where there are fewer scans than parts.

    Raises
    ------
    InputError
        Where there is no such part.
    OutputError
        Where another run works on it, or on the whole.
    """
    scans = select_part(work.selection.scans, part)
    options = options or PredictionOptions()
    tell_work(work, scans, engine=engine, on_notice=on_notice)
    check_place(work.submission)
    tuned = find_tuning(work.ensemble)[0] if options.tuning else None
    with (
        hold(work.out / "prediction", purpose="predicting a part", shared=True),
        hold(work.out / "prediction_part_{}_of_{}".format(*part), purpose="predicting a part"),
    ):
        (progress or ignore)(0, len(scans), "predicting scans")
        predict_kept(
            work,
            scans,
            engine=engine,
            settings=settings,
            options=options,
            tuned=tuned,
            on_scan=count_steps(progress, len(scans), "predicting scans"),
        )
    return len(scans)


def tell_work(
    work: Work, scans: Sequence[Scan], *, engine: Engine, on_notice: Notice | None
) -> None:
    """Say what is computed on, with which models, and what is predicted."""
    tell = on_notice or ignore
    tell(f"Computing on: {engine.hardware.name}")
    tell(f"Models: {work.ensemble.describe()}")
    plural = "" if len(scans) == 1 else "s"
    tell(f"Predicting {len(scans)} scan{plural}: {work.selection.described}")


def select_part(scans: Sequence[Scan], part: tuple[int, int]) -> Sequence[Scan]:
    """Return every n-th scan: ``(2, 8)`` is every eighth from the second on.

    Raises
    ------
    InputError
        Where there is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise InputError(f"--part {number}/{parts}: expected 1/{parts} to {parts}/{parts}.")
    return scans[number - 1 :: parts]


def predict_kept(
    work: Work,
    scans: Sequence[Scan],
    *,
    engine: Engine,
    settings: PredictionSettings,
    options: PredictionOptions,
    tuned: Tuned | None,
    on_scan: Callable[[PredictedScan], None] | None = None,
) -> PredictedScans:
    """Predict scans and keep each one's rows as soon as they are there.

    Parameters
    ----------
    work
        What they are of.
    scans
        Those to predict.
    engine, settings, options
        Where, on what and how, and what is made of it.
    tuned
        What decides.
    on_scan
        Called with each scan.
    """
    if not scans:
        return PredictedScans(scans=())
    folders = {
        model.folder.name: work.out / "probabilities" / model.configuration
        for model in work.ensemble.models
    }
    return predict_scans(
        work.ensemble,
        scans,
        engine=engine,
        settings=settings,
        folds=work.selection.folds,
        nifti_folder=work.out if options.nifti else None,
        probability_folders=folders if options.save_probabilities else None,
        decision=tuned.decision if tuned else None,
        kept=work.kept,
        on_scan=on_scan,
    )
