"""Checks of predictions: stored probabilities, submissions and their scores.

Nothing is changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from gi2nnunet.core.errors import Check, Finding, InputError, name_some
from gi2nnunet.core.files import find_record, is_being_removed
from gi2nnunet.core.seals import hash_file
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace
from gi2nnunet.formats.probabilities import SUFFIX, read_probabilities
from gi2nnunet.formats.tables import read_mask_table, take_rows
from gi2nnunet.nnunet.models import fold_folder, is_replaced, list_replaced
from gi2nnunet.prediction.folders import OUT_OF_FOLD, find_predictions
from gi2nnunet.prediction.out_of_fold import describe_stored
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.medical import DEFAULT_TOLERANCE_MM
from gi2nnunet.scoring.record import PREDICTION, SUBMISSION, TRUTH, find_scores, read_score
from gi2nnunet.scoring.score import score_submission

_PREDICT_AGAIN = f"Make it again with the command that {PREDICTION} names."
_CLOSE = 1e-6  # of scores, which another version of a library may round in another way


class _Options(TypedDict):
    source: str | None


class _About(TypedDict):
    """What is read of prediction.json."""

    options: _Options
    dataset: NotRequired[str]
    checkpoints: NotRequired[dict[str, dict[str, str]]]
    sha256: dict[str, str]


def list_prediction_checks(
    workspace: Workspace, datasets: Mapping[str, Dataset], *, quick: bool
) -> list[Check]:
    """Return the checks of a workspace's predictions; ``datasets`` are its datasets by name.

    ``quick`` reads no probabilities, no CSV, and computes no score.
    """
    predictions, results = workspace.predictions, workspace.results
    stored = {
        predictions / name / OUT_OF_FOLD: (dataset, describe_stored(dataset))
        for name, dataset in datasets.items()
    }
    checks: list[Check] = []
    for path in [] if quick else sorted(predictions.rglob(f"*{SUFFIX}")):
        if is_being_removed(path):
            continue
        dataset, expected = stored.get(path.parent.parent, (None, {}))
        wanted = expected.get(path.stem)
        checks.append(partial(_check_probabilities, path, dataset, wanted, results))
    checks += [
        partial(_check_folder, found.folder, datasets, results, quick=quick)
        for found in find_predictions(predictions)
        if (found.folder / PREDICTION).is_file() or find_scores(found.folder)
    ]
    return checks


def _check_probabilities(
    path: Path, dataset: Dataset | None, expected: Mapping[str, Any] | None, results: Path
) -> list[Finding]:
    """Read a file; one of out-of-fold is also compared with the scan of its name."""
    remedy = "Delete it, then predict again with --save-probabilities."
    if dataset is not None:
        remedy = "Delete it, then run: gi2nnunet out-of-fold"
    try:
        found = read_probabilities(path)
    except InputError as error:
        return [Finding(path, f"a damaged file ({error})", "whole probabilities", remedy)]
    if found.scan_id != path.stem:
        return [Finding(path, f"those of {found.scan_id}", f"those of {path.stem}", remedy)]
    if dataset is None:
        return []
    about = {name: found.about.get(name) for name in ("fold", "image")}
    if expected != about or dataset.scan(path.stem).shape != found.array.shape[1:]:
        wanted = "those of a training scan as it is now, by the fold that did not see it"
        return [Finding(path, f"those of another fold or image ({about})", wanted, remedy)]
    fold = fold_folder(results / dataset.name / path.parent.name, found.about["fold"])
    with suppress(InputError):  # a damaged record is reported already
        if is_replaced(fold, found.about.get("checkpoint", "")):
            made = f"those of a former checkpoint of {fold.parent.name}/{fold.name}"
            return [Finding(path, made, "those of the checkpoint that is there now", remedy)]
    return []


def _check_folder(
    folder: Path, datasets: Mapping[str, Dataset], results: Path, *, quick: bool
) -> list[Finding]:
    """Check the submission of a folder and, if it was scored, its score and its truth."""
    about = find_record(folder / PREDICTION, _About)
    if about is None:
        found = "nothing, or a damaged file"
        return [
            Finding(folder / PREDICTION, found, "how the prediction was made", "Predict again.")
        ]
    submission = folder / SUBMISSION
    if not submission.is_file():
        return [Finding(submission, "nothing", "the predicted rows", _PREDICT_AGAIN)]
    with suppress(InputError):  # a damaged record is reported already
        replaced = list_replaced(results / about.get("dataset", ""), about.get("checkpoints", {}))
        if replaced:
            made = f"a prediction by former checkpoints of {name_some(replaced)}"
            expected = "one by the checkpoints that are there now"
            return [Finding(folder / PREDICTION, made, expected, _PREDICT_AGAIN)]
    if quick:
        return []
    if hash_file(submission) != about["sha256"].get(SUBMISSION):
        expected = f"the file that {PREDICTION} is about"
        return [Finding(submission, "another file", expected, _PREDICT_AGAIN)]
    scores = find_scores(folder)
    if not scores:
        if not (folder / TRUTH).exists():
            return []  # predicted without a truth
        return [Finding(folder / TRUTH, "no score beside it", "one", _PREDICT_AGAIN)]
    if findings := [
        finding for metric, path in scores.items() for finding in _check_score(path, metric)
    ]:
        return findings
    dataset = datasets.get(about.get("dataset", ""))
    if about["options"]["source"] is None and dataset and not _has_same_rows(folder, dataset):
        expected = f"the rows of {dataset.truth_path}"
        return [Finding(folder / TRUTH, "another truth", expected, _PREDICT_AGAIN)]
    return []


def _check_score(path: Path, metric: Metric) -> list[Finding]:
    """Compute a recorded score again, with the medical measures if it has them."""
    folder = path.parent
    try:
        recorded = read_score(folder, metric).score
        result = score_submission(
            folder / SUBMISSION,
            folder / TRUTH,
            metric=metric,
            medical=recorded.medical is not None,
            spacing_mm={s.scan_id: s.spacing_mm for s in recorded.per_scan if s.spacing_mm},
            tolerance_mm=recorded.tolerance_mm or DEFAULT_TOLERANCE_MM,
        )
    except InputError as error:
        found = f"a score that is of no use ({error})"
        return [Finding(path, found, "one of the files beside it", _PREDICT_AGAIN)]
    # What a score means is recorded beside it, not computed.
    if not _is_close(replace(recorded, standing="").to_json(), result.to_json()):
        found, expected = f"a score of {recorded.score:.5f}", f"{result.score:.5f}, computed again"
        return [Finding(path, found, expected, _PREDICT_AGAIN)]
    return []


def _has_same_rows(folder: Path, dataset: Dataset) -> bool:
    """Return whether the truth of a prediction is still that of its dataset."""
    table = read_mask_table(folder / TRUTH, any_scan=True)
    try:
        now = take_rows(read_mask_table(dataset.truth_path, any_scan=True), table.scan_ids)
    except InputError:
        return True  # reported already
    return now is not None and sorted(now.list_rows()) == sorted(table.list_rows())


def _is_close(one: Any, other: Any) -> bool:
    """Return whether two contents of JSON differ by no more than rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_close(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_is_close, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=0, abs_tol=_CLOSE)
    return json.dumps(one) == json.dumps(other)
