"""Predict a selection in parts, by several processes or machines that share an output folder.

Each scan's rows are kept in that folder as soon as they are there. Whoever predicts the whole takes
them from there, so joining the parts is no more than the same prediction again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import check_place
from gi2nnunet.core.locks import hold
from gi2nnunet.nnunet.engine import Engine, PredictionSettings
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, Ensemble, fold_folder
from gi2nnunet.nnunet.saved_postprocess import Tuned, find_tuning
from gi2nnunet.prediction.choose import Selection
from gi2nnunet.prediction.predict import PredictedScan, predict_scans
from gi2nnunet.prediction.resume import describe_file
from gi2nnunet.source.scan import Scan


def predict_part(
    selection: Selection,
    ensemble: Ensemble,
    *,
    part: tuple[int, int],
    out: Path,
    engine: Engine,
    settings: PredictionSettings,
    nifti: bool = False,
    save_probabilities: bool = False,
    tuning: bool = True,
    on_scan: Callable[[int, int, PredictedScan], None] | None = None,
) -> int:
    """Predict a part of a selection and keep its rows.

    Parts may run at the same time, on several machines too;
    :func:`~gi2nnunet.prediction.evaluate.evaluate`, given the same folder and options, then finds
    every scan predicted.

    Parameters
    ----------
    part
        ``(2, 8)``: every eighth scan from the second on.
    selection, ensemble, out, engine, settings, nifti, save_probabilities, tuning, on_scan
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
    scans = select_part(selection.scans, part)
    check_place(submission_path(out))
    tuned = find_tuning(ensemble)[0] if tuning else None
    with (
        hold(out / "prediction", purpose="predicting a part", shared=True),
        hold(out / "prediction_part_{}_of_{}".format(*part), purpose="predicting a part"),
    ):
        return len(
            predict_kept(
                selection,
                ensemble,
                scans=scans,
                out=out,
                engine=engine,
                settings=settings,
                nifti=nifti,
                save_probabilities=save_probabilities,
                tuned=tuned,
                on_scan=on_scan,
            )
        )


def select_part(scans: Sequence[Scan], part: tuple[int, int]) -> Sequence[Scan]:
    """Return every so-manieth scan: ``(2, 8)`` is every eighth from the second on.

    Raises
    ------
    InputError
        Where there is no such part.
    """
    number, parts = part
    if not 1 <= number <= parts:
        raise InputError(f"--part {number}/{parts}: expected 1/{parts} to {parts}/{parts}.")
    return scans[number - 1 :: parts]


def submission_path(out: Path) -> Path:
    """Return the CSV of an output folder."""
    return out / "submission.csv"


def kept_folder(out: Path) -> Path:
    """Return where, in an output folder, the rows of single scans lie until all are there."""
    return out / ".predicting"


def digest_work(selection: Selection, ensemble: Ensemble) -> str:
    """Return a digest of what a prediction works on: models, what was tuned for them, scans."""
    models = [
        [str(path), describe_file(path)]
        for model in ensemble.models
        for path in (
            model.folder / "plans.json",
            *(fold_folder(model.folder, fold) / FINAL_CHECKPOINT for fold in ensemble.folds),
        )
    ]
    scans = [
        [
            scan.scan_id,
            list(scan.numbers),
            [[str(path), describe_file(path)] for path in scan.files],
        ]
        for scan in selection.scans
    ]
    tuned = find_tuning(ensemble)[0]
    decision = tuned.decision.to_json() if tuned else None
    return hashlib.sha256(json.dumps([models, scans, decision]).encode()).hexdigest()[:16]


def predict_kept(
    selection: Selection,
    ensemble: Ensemble,
    *,
    scans: Sequence[Scan],
    out: Path,
    nifti: bool,
    save_probabilities: bool,
    tuned: Tuned | None,
    **options: Any,
) -> tuple[PredictedScan, ...]:
    """Predict scans and keep each one's rows as soon as they are there.

    Parameters
    ----------
    selection, ensemble
        What they are of, and the models.
    scans
        Those to predict.
    out, nifti, save_probabilities, tuned
        Where to and what, as :func:`~gi2nnunet.prediction.evaluate.evaluate` has it.
    options
        Of :func:`~gi2nnunet.prediction.predict.predict_scans`.
    """
    if not scans:
        return ()
    folders = {
        model.folder.name: out / "probabilities" / model.configuration for model in ensemble.models
    }
    return predict_scans(
        ensemble,
        scans,
        folds=selection.folds,
        nifti_folder=out if nifti else None,
        probability_folders=folders if save_probabilities else None,
        decision=tuned.decision if tuned else None,
        kept=kept_folder(out),
        **options,
    )
