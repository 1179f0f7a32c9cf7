"""Finished prediction in a folder, which is used again if it would come out the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from gi2nnunet.core.files import find_record
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.probabilities import SUFFIX
from gi2nnunet.nnunet.engine import COST, PredictionCost
from gi2nnunet.nnunet.models import FINAL_CHECKPOINT, fold_folder, hash_once
from gi2nnunet.nnunet.postprocess import Tuned
from gi2nnunet.prediction.choose import Work
from gi2nnunet.scoring.record import PREDICTION, SUBMISSION


class _Options(TypedDict):
    save_probabilities: bool


class _Finished(TypedDict):
    request: str
    sha256: dict[str, str]
    options: _Options


@dataclass(frozen=True, kw_only=True)
class FinishedPrediction:
    """When the masks were predicted (UTC), and the wall-clock time of a scan."""

    time: str
    seconds_per_scan: float


def digest_request(
    work: Work,
    *,
    computing: Mapping[str, Any],
    tuned: Tuned | None,
    versions: Mapping[str, str],
) -> str:
    """Return a digest of all that predicted masks depend on, by contents and without paths.

    These are plans and checkpoints, the images and how they are opened, the folds of each scan, the
    order of the rows, tuned settings, device, threads, mirroring, step and versions.

    Parameters
    ----------
    computing
        As :meth:`~gi2nnunet.nnunet.engine.PredictionSettings.describe` returns it.
    """
    digest_file = cache(_digest_file)  # a zip is the file of all its scans
    selection, ensemble = work.selection, work.ensemble
    models = [
        (
            model.folder.name,
            digest_file(model.folder / "plans.json"),
            digest_file(model.folder / "dataset.json"),
            [digest_file(fold_folder(model.folder, f) / FINAL_CHECKPOINT) for f in ensemble.folds],
        )
        for model in ensemble.models
    ]
    scans = [
        (scan.scan_id, list(scan.numbers), scan.shape, scan.spacing_mm,
         [digest_file(path) for path in scan.files], (selection.folds or {}).get(scan.scan_id))
        for scan in selection.scans
    ]  # fmt: skip
    table = selection.sample  # without rows, it is false
    sample = None if table is None else [row[:2] for row in table.list_rows()]
    decision = tuned.decision.to_json() if tuned else None
    content = [
        models, list(ensemble.folds), scans, dict(selection.options), sample, decision,
        dict(computing), dict(versions),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_file(path: Path) -> str:
    return hash_once(path) if path.is_file() else ""


def find_finished(work: Work, request: str, *, probabilities: bool) -> FinishedPrediction | None:
    """Return what the folder of some work holds, if it is finished, whole and of this request.

    ``probabilities`` says whether stored probabilities are needed too.
    """
    noted = find_record(work.out / PREDICTION, _Finished)
    if noted is None or noted["request"] != request or not work.submission.is_file():
        return None
    cost = find_record(work.out / COST, PredictionCost) or {}
    if hash_file(work.submission) != noted["sha256"].get(SUBMISSION):
        return None
    if probabilities and not (noted["options"]["save_probabilities"] and _has_probabilities(work)):
        return None
    if "seconds_per_scan" not in cost:
        return None
    changed = datetime.fromtimestamp(work.submission.stat().st_mtime, UTC)
    return FinishedPrediction(
        time=changed.strftime("%Y-%m-%d %H:%M UTC"), seconds_per_scan=cost["seconds_per_scan"]
    )


def _has_probabilities(work: Work) -> bool:
    folders = [work.out / "probabilities" / model.configuration for model in work.ensemble.models]
    names = [f"{scan.scan_id}{SUFFIX}" for scan in work.selection.scans]
    return all((folder / name).is_file() for folder in folders for name in names)
