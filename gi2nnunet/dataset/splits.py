"""Splits by patient: which patients are trained on, validated on, and held out.

A patient's days look alike. A model that is validated on another day of a patient it was trained on
is measured on data that it has seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, count
from gi2nnunet.formats.ids import Certainty, day_of, patient_of, scan_order
from gi2nnunet.source.dataset import Fold

DEFAULT_FOLDS = 5
DEFAULT_HOLDOUT = 0.1
FEWEST_PATIENTS_FOR_HOLDOUT = 5
HoldOutRule = float | Literal["mle-bench"] | None

_MLE_BENCH_FRACTION, _MLE_BENCH_SEED, _MLE_BENCH_DAYS = 0.1, 42, 4


@dataclass(frozen=True, kw_only=True)
class SplitOptions:
    """How scans are split into training, folds and test.

    Attributes
    ----------
    folds
        ``None`` for 5, or fewer if there are fewer patients.
    holdout
        What stays out of training: see :func:`hold_out`. Labelled test scans of a NIfTI source are
        held out anyway; ``None`` then holds out no others.
    keep_known_bad
        Keep training scans that the organisers list as bad. ``"mle-bench"`` always keeps those of
        its test set.
    leave_out_suspects
        Check the source first and leave out of training every scan with a suspect of at least this
        certainty (see :mod:`gi2nnunet.source.check`); ``None`` checks nothing. ``"mle-bench"``
        keeps those of its test set.
    splits
        File with the folds, in place of ``folds``: see :mod:`gi2nnunet.dataset.own_folds`. Unless
        ``holdout`` says otherwise, nothing is held out if it names a scan that would be.
    allow_leaks
        Take such folds even if they have a patient both in training and in validation.
    """

    folds: int | None = None
    holdout: HoldOutRule = None
    keep_known_bad: bool = False
    leave_out_suspects: Certainty | None = None
    seed: int = 0
    splits: Path | None = None
    allow_leaks: bool = False

    def __post_init__(self) -> None:
        if self.splits is not None and self.folds is not None:
            raise InputError(
                f"--folds {self.folds}: found --splits beside it, a file that has the folds; "
                "expected one of the two. Leave one of them out."
            )
        if self.allow_leaks and self.splits is None:
            raise InputError(
                "--allow-leaks: expected --splits, a file with folds; the folds that are made here "
                "have no leaks. Leave it out."
            )

    def describe(self) -> dict[str, Any]:
        """Return the options for a record, without the path, which can hold a patient's name."""
        return {**vars(self), "splits": "SPLITS" if self.splits else None}


def make_folds(scans: Mapping[str, str], *, folds: int, seed: int = 0) -> list[Fold]:
    """Distribute patients over folds, evenly in scans, patients and strata.

    Patients are shuffled and sorted by weight; each goes to the fold that stays most even.

    Parameters
    ----------
    scans
        The stratum of each scan id, any text (for example its geometry). Their order does not
        matter.
    folds
        From 2 to the number of patients; else a :class:`ValueError`.
    seed
        Decides between equally good folds.

    Returns
    -------
    list of Fold
        Every scan validates in exactly one fold, and every fold validates on some scan.
    """
    by_patient: dict[str, list[str]] = {}
    for scan_id in sorted(scans, key=scan_order):
        by_patient.setdefault(patient_of(scan_id), []).append(scan_id)
    if not 2 <= folds <= len(by_patient):
        raise ValueError(f"{count(folds, 'fold')} of {count(len(by_patient), 'patient')}")
    strata = sorted(set(scans.values()))
    # To be even: scans of each stratum, scans, patients. Each is divided by its total, so that a
    # rare stratum counts like a common one.
    amounts = {
        patient: _count(Counter(scans[scan_id] for scan_id in of_patient), strata)
        for patient, of_patient in by_patient.items()
    }
    total = np.sum(list(amounts.values()), axis=0)
    patients = list(by_patient)
    np.random.default_rng(seed).shuffle(patients)
    patients.sort(key=lambda patient: -float((amounts[patient] / total).sum()))
    filled = np.zeros((folds, len(total)))
    members: list[list[str]] = [[] for _ in range(folds)]
    for position, patient in enumerate(patients):
        unused = [fold for fold in range(folds) if not members[fold]]
        must_fill = len(patients) - position <= len(unused)
        choices = unused if must_fill else range(folds)

        def unevenness(
            fold: int, amount: NDArray[np.float64] = amounts[patient]
        ) -> tuple[float, float]:
            after = (filled[fold] + amount) / total
            before = filled[fold] / total
            return float((after**2 - before**2).sum()), float(len(members[fold]))

        best = min(choices, key=unevenness)
        members[best].append(patient)
        filled[best] += amounts[patient]
    validating = [
        sorted((s for patient in fold for s in by_patient[patient]), key=scan_order)
        for fold in members
    ]
    everything = sorted(scans, key=scan_order)
    return [Fold(train=[s for s in everything if s not in set(val)], val=val) for val in validating]


def _count(of_patient: Counter[str], strata: Sequence[str]) -> NDArray[np.float64]:
    return np.array([*(of_patient[s] for s in strata), of_patient.total(), 1], np.float64)


def check_folds_asked(asked: int | None, *, patients: int) -> tuple[int, str | None]:
    """Return the number of folds and, if it is not the number asked for or 5, a warning.

    It is at most ``patients``, and 0 for one patient or none, which cannot be split.

    Raises
    ------
    InputError
        If more folds were asked for than there are patients, or fewer than 2.
    """
    if asked is not None:
        if asked < 2:
            raise InputError(f"folds: found {asked}; expected at least 2. Give a larger number.")
        if asked > patients:
            raise InputError(
                f"folds: found {asked} for {count(patients, 'training patient')}; expected at most "
                "one fold for each patient. Ask for fewer folds, or give no number."
            )
        return asked, None
    if patients >= DEFAULT_FOLDS:
        return DEFAULT_FOLDS, None
    if patients >= 2:
        return (
            patients,
            f"{patients} folds instead of {DEFAULT_FOLDS}: one for each patient",
        )
    if patients == 1:
        return 0, "a single training patient cannot be split: only fold all can be trained"
    return 0, None


def hold_out(
    scan_ids: Collection[str],
    *,
    rule: HoldOutRule = None,
    patient_order: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Choose the scans that stay out of training.

    Parameters
    ----------
    scan_ids
        All labelled scans.
    rule
        A fraction of the patients, at least one patient (0 holds nothing out); ``"mle-bench"`` for
        that benchmark's exact test set, in which patients with more than four days are on both
        sides; ``None`` for a tenth if there are at least five patients.
    patient_order
        Patients in order of first appearance in ``train.csv``, for ``"mle-bench"``; by default
        numeric order.

    Returns
    -------
    tuple
        Scan ids in numeric order.

    Raises
    ------
    InputError
        For a fraction outside [0, 1), or one that leaves no patient to train on.

    References
    ----------
    https://github.com/openai/mle-bench
    """
    ordered = sorted(scan_ids, key=scan_order)
    patients = list(dict.fromkeys(patient_of(scan_id) for scan_id in ordered))
    if rule == "mle-bench":
        order = patients if patient_order is None else list(patient_order)
        return _hold_out_like_mle_bench(ordered, order)
    if rule is None:
        if len(patients) < FEWEST_PATIENTS_FOR_HOLDOUT:
            return ()
        rule = DEFAULT_HOLDOUT
    if not (isinstance(rule, Real) and 0 <= rule < 1):
        raise InputError(
            f"holdout: found {rule!r}; expected a fraction of the patients of at least 0 and below "
            "1, or mle-bench."
        )
    if rule == 0 or not patients:
        return ()
    wanted = max(1, math.floor(rule * len(patients) + 0.5))
    if wanted >= len(patients):
        raise InputError(
            f"holdout: found {rule} of {count(len(patients), 'patient')}, which leaves none to "
            "train on. Hold out fewer, or none with 0."
        )
    drawn = np.random.default_rng(seed).permutation(len(patients))[:wanted]
    chosen = {patients[index] for index in drawn.tolist()}
    return tuple(scan_id for scan_id in ordered if patient_of(scan_id) in chosen)


def _hold_out_like_mle_bench(scan_ids: Sequence[str], order: Sequence[str]) -> tuple[str, ...]:
    if len(order) < 2:
        raise InputError(
            f"holdout: mle-bench needs at least 2 patients; found {len(order)}. Give another rule."
        )
    # As scikit-learn's train_test_split does; importing that takes more than a second.
    drawn = np.random.RandomState(_MLE_BENCH_SEED).permutation(len(order))
    drawn = drawn[: math.ceil(_MLE_BENCH_FRACTION * len(order))]
    test_patients = {order[index] for index in drawn.tolist()}
    held_out = {scan_id for scan_id in scan_ids if patient_of(scan_id) in test_patients}
    days: dict[str, list[str]] = {}
    for scan_id in scan_ids:
        days.setdefault(patient_of(scan_id), []).append(scan_id)
    for of_patient in days.values():
        held_out.update(sorted(of_patient, key=day_of)[_MLE_BENCH_DAYS:])
    return tuple(scan_id for scan_id in scan_ids if scan_id in held_out)


def shared_patients(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    """Return the patients with scans on both sides, in numeric order."""
    both = {patient_of(scan_id) for scan_id in first} & {patient_of(s) for s in second}
    return tuple(sorted(both, key=lambda patient: scan_order(f"{patient}_day0")))


def find_leaking_patients(splits: Sequence[Fold]) -> tuple[str, ...]:
    """Return the patients both in training and in validation of a fold."""
    shared = [shared_patients(fold["train"], fold["val"]) for fold in splits]
    return tuple(dict.fromkeys(patient for some in shared for patient in some))


def check_leaks(splits: Sequence[Fold], *, allowed: Collection[str] = ()) -> list[str]:
    """Return the problems of a split, one sentence each.

    These are a patient both in training and in validation of a fold, except for those that are
    ``allowed`` to be, a fold without scans for either, and a scan that does not validate exactly
    once.
    """
    found: list[str] = []
    for number, fold in enumerate(splits):
        found += [
            f"fold {number}: {patient} is in training and in validation"
            for patient in shared_patients(fold["train"], fold["val"])
            if patient not in allowed
        ]
        found += [
            f"fold {number}: no scan in {part}"
            for part, scans in (("training", fold["train"]), ("validation", fold["val"]))
            if not scans
        ]
    validating = Counter(scan_id for fold in splits for scan_id in fold["val"])
    everything = {scan_id for fold in splits for scan_id in (*fold["train"], *fold["val"])}
    found += [
        f"{scan_id} validates in {validating[scan_id]} folds, not in one"
        for scan_id in sorted(everything, key=scan_order)
        if validating[scan_id] != 1
    ]
    return found
