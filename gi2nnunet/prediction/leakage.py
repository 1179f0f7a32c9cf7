"""What a score will mean, from what the models were trained on.

*Standing* is ``held-out`` (no training scan of these patients), ``out-of-fold`` (each scan by the
model that did not see its patient), ``seen-patient`` (other days of these patients were trained
on), ``in-sample`` (these very scans were trained on), or ``unknown``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.ids import patient_of
from gi2nnunet.nnunet.models import Ensemble, Fold, TrainedModel, read_import_record

Standing = Literal["held-out", "out-of-fold", "seen-patient", "in-sample", "unknown"]


def find_trained_scans(
    model: TrainedModel, fold: Fold, *, dataset: Dataset | None
) -> frozenset[str] | None:
    """Return the scans that a fold was trained on; ``None`` where that is not known.

    An imported fold tells itself; one that was trained here was so on the dataset at hand.
    """
    record = read_import_record(model, fold)
    if record:
        scans = record.get("trained_on")
        return None if scans is None else frozenset(scans)
    if dataset is None:
        return None
    if fold != "all" and int(fold) < len(dataset.splits):
        return frozenset(dataset.splits[int(fold)]["train"])
    # ``all`` trained on everything; a fold of another number on a split that nnU-Net drew itself.
    return frozenset(scan.scan_id for scan in dataset.scans if scan.part == "train")


def find_trained_on(
    ensemble: Ensemble, *, dataset: Dataset | None
) -> dict[Fold, frozenset[str]] | None:
    """Return by fold the scans that its models were trained on; ``None`` where any is unknown."""
    trained: dict[Fold, frozenset[str]] = {}
    for fold in ensemble.folds:
        for model in ensemble.models:
            scans = find_trained_scans(model, fold, dataset=dataset)
            if scans is None:
                return None
            trained[fold] = trained.get(fold, frozenset()) | scans
    return trained


def find_standing(
    scan_ids: Sequence[str], *, dataset: Dataset | None, ensemble: Ensemble
) -> Standing:
    """Return what a score of these scans means, given what the models were trained on."""
    trained_on = find_trained_on(ensemble, dataset=dataset)
    if trained_on is None:
        return "unknown"
    trained = frozenset().union(*trained_on.values())
    if trained & set(scan_ids):
        return "in-sample"
    if {patient_of(s) for s in trained} & {patient_of(s) for s in scan_ids}:
        return "seen-patient"
    return "held-out"


def find_unseen_folds(
    scan_ids: Sequence[str], trained_on: Mapping[Fold, frozenset[str]]
) -> dict[str, tuple[Fold, ...]]:
    """Return by scan the folds that saw no day of its patient; scans without such are left out."""
    patients = {
        fold: {patient_of(scan_id) for scan_id in scans} for fold, scans in trained_on.items()
    }
    unseen = {
        scan_id: tuple(fold for fold, seen in patients.items() if patient_of(scan_id) not in seen)
        for scan_id in scan_ids
    }
    return {scan_id: folds for scan_id, folds in unseen.items() if folds}
