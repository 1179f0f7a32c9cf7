"""Folds from a file of one's own: nnU-Net's ``splits_final.json``, or a CSV of patients or scans.

References
----------
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/manual_data_splits.md
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gi2nnunet.core.errors import InputError, Problem, name_some, raise_problems
from gi2nnunet.core.files import find_kind, read_record
from gi2nnunet.dataset.splits import find_leaking_patients
from gi2nnunet.formats.ids import patient_of, scan_order
from gi2nnunet.formats.tables import read_csv
from gi2nnunet.source.dataset import Fold

_FORM = (
    "Give nnU-Net's splits_final.json, or a CSV with the columns patient_id,fold or scan_id,fold."
)
_Side = Literal["train", "val"]
_SIDES: tuple[_Side, ...] = get_args(_Side)


@dataclass(frozen=True, kw_only=True)
class OwnFolds:
    """Folds as a file gives them; each scan is one of the source's."""

    path: Path
    folds: tuple[Fold, ...]

    @property
    def scan_ids(self) -> set[str]:
        """Return every scan that the file names, by itself or by its patient."""
        return {scan_id for fold in self.folds for side in _SIDES for scan_id in fold[side]}

    def fit(self, training: Collection[str], *, allow_leaks: bool) -> list[Fold]:
        """Return the folds of the training scans; others that the file names are passed over.

        Raises
        ------
        InputError
            If a training scan validates in no fold, or a fold has nothing to train or to validate
            on; unless ``allow_leaks``, also if a patient is on both sides of a fold.
        """
        folds = [
            Fold(train=_sort(training, fold["train"]), val=_sort(training, fold["val"]))
            for fold in self.folds
        ]
        raise_problems(
            self._find_gaps(folds, training),
            remedy=f"Correct the folds in {self.path}, or leave scans out of the source.",
        )
        leaks = [] if allow_leaks else list(self._find_leaks(folds))
        raise_problems(
            leaks,
            remedy="Put all scans of a patient into one fold. --allow-leaks takes the folds as "
            "they are; every score of them then says so.",
        )
        return folds

    def _find_gaps(self, folds: Sequence[Fold], training: Collection[str]) -> Iterator[Problem]:
        for number, fold in enumerate(folds):
            for side in _SIDES:
                if not fold[side]:
                    yield Problem(
                        where=f"{self.path}, fold {number}, {side}",
                        found="no training scan",
                        expected="at least one",
                    )
        missing = set(training) - {scan_id for fold in folds for scan_id in fold["val"]}
        if missing:
            yield Problem(
                where=str(self.path),
                found=f"no fold that validates {name_some(sorted(missing, key=scan_order))}",
                expected="one for every training scan",
            )

    def _find_leaks(self, folds: Sequence[Fold]) -> Iterator[Problem]:
        for number, fold in enumerate(folds):
            for patient in find_leaking_patients([fold]):
                sides = [[s for s in fold[side] if patient_of(s) == patient] for side in _SIDES]
                yield Problem(
                    where=f"{self.path}, fold {number}",
                    found=f"{patient} in training ({name_some(sides[0])}) and in validation "
                    f"({name_some(sides[1])})",
                    expected="each patient on one side only",
                )


def _sort(training: Collection[str], scan_ids: Iterable[str]) -> list[str]:
    return sorted((s for s in scan_ids if s in training), key=scan_order)


def read_own_folds(path: Path, *, scan_ids: Collection[str]) -> OwnFolds:
    """Read folds from a file.

    Parameters
    ----------
    path
        A list of ``{"train": [...], "val": [...]}`` if it ends in ``.json``; else a CSV, in which a
        fold validates what has its number and trains on everything else.
    scan_ids
        Every scan of the source.

    Raises
    ------
    InputError
        If it is damaged or of another form; if it names a patient or scan that the source does not
        have, or one twice; if numbers of folds are left out.
    """
    if find_kind(path) not in ("file", "pipe"):
        found = {None: "no such file", "folder": "a folder", "device": "a device"}[find_kind(path)]
        raise InputError(f"{path}: found {found}; expected a file with folds. {_FORM}")
    read = _read_json if path.suffix.lower() == ".json" else _read_table
    return OwnFolds(path=path, folds=tuple(read(path, frozenset(scan_ids))))


def _read_json(path: Path, known: frozenset[str]) -> list[Fold]:
    folds = read_record(path, list[Fold], remedy=_FORM)
    problems: list[Problem] = []
    validated_in: dict[str, int] = {}
    for number, fold in enumerate(folds):
        for side in _SIDES:
            for scan_id, times in Counter(fold[side]).items():
                where = f"{path}, fold {number}, {side}"
                if scan_id not in known:
                    problems.append(_unknown(where, scan_id, "scan", known))
                elif times > 1:
                    problems.append(
                        Problem(where=where, found=f"{scan_id} {times} times", expected="it once")
                    )
                elif side == "val" and validated_in.setdefault(scan_id, number) != number:
                    found = f"{scan_id}, which fold {validated_in[scan_id]} validates too"
                    problems.append(Problem(where=where, found=found, expected="it in one fold"))
                elif side == "val" and scan_id in fold["train"]:
                    found = f"{scan_id}, which is in train too"
                    problems.append(Problem(where=where, found=found, expected="it on one side"))
    raise_problems(problems, remedy=f"Correct these in {path}.")
    return folds


def _read_table(path: Path, known: frozenset[str]) -> list[Fold]:
    columns = {name.strip(): texts for name, texts in read_csv(path).items()}
    keys = [name for name in ("patient_id", "scan_id") if name in columns]
    if len(keys) != 1 or "fold" not in columns:
        shown = name_some(list(columns))
        raise InputError(
            f"{path}, line 1: found the columns {shown}; expected patient_id,fold or scan_id,fold. "
            f"{_FORM}"
        )
    kind = keys[0].removesuffix("_id")
    scans_of: dict[str, list[str]] = {}
    for scan_id in sorted(known, key=scan_order):
        scans_of.setdefault(scan_id if kind == "scan" else patient_of(scan_id), []).append(scan_id)
    problems: list[Problem] = []
    fold_of: dict[str, int] = {}
    for line, (cell, text) in enumerate(zip(columns[keys[0]], columns["fold"], strict=True), 2):
        name, where = cell.strip(), f"{path}, line {line}"
        if name not in scans_of:
            problems.append(_unknown(where, name, kind, scans_of))
        elif name in fold_of:
            problems.append(Problem(where=where, found=f"{name} again", expected="one row of it"))
        elif not re.fullmatch(r"[0-9]{1,3}", text.strip()):
            found = f"the fold {text!r} of {name}"
            problems.append(Problem(where=where, found=found, expected="a number such as 0"))
        else:
            fold_of[name] = int(text)
    numbers = sorted(set(fold_of.values()))
    if not problems and numbers != list(range(len(numbers))):
        found = f"the folds {name_some(list(map(str, numbers)), most=20)}"
        expected = f"0 to {len(numbers) - 1}, without a gap"
        problems.append(Problem(where=str(path), found=found, expected=expected))
    raise_problems(problems, remedy=f"Correct these in {path}.")
    return [
        Fold(
            train=[s for name, n in fold_of.items() if n != number for s in scans_of[name]],
            val=[s for name, n in fold_of.items() if n == number for s in scans_of[name]],
        )
        for number in numbers
    ]


def _unknown(where: str, name: str, kind: str, known: Collection[str]) -> Problem:
    example = min(known, key=lambda s: scan_order(s if kind == "scan" else f"{s}_day0"))
    return Problem(
        where=where, found=repr(name), expected=f"a {kind} of the source, such as {example}"
    )
