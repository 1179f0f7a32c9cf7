"""Patient ids, made up for DICOM sources, and the table that links them to the real ones.

The table is one JSON file in the workspace that only its owner may read. Nothing else holds a
patient's real id or a date: it is not exported, reported or logged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import find_record, write_json
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import ignore

_REMEDY = "Restore it from a copy; without it, scans get other ids than before."


def _check_date(text: str) -> str:
    if text and not is_date(text):
        raise ValueError("a date")
    return text


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is known of a scan before it has an id.

    Attributes
    ----------
    patient
        The patient's real id.
    date
        Date of the study (YYYYMMDD, or empty if unknown).
    key
        Text that no other scan has: the instance UIDs of its study and series.
    """

    patient: str
    date: str
    key: str


@dataclass(frozen=True, kw_only=True)
class _Patient:
    """Made-up number of a patient, first date that was seen, and days of the scans by their key."""

    number: Annotated[int, Field(ge=1)]
    first_date: Annotated[str, AfterValidator(_check_date)]
    days: dict[str, Annotated[str, Field(pattern=r"^-?[0-9]{1,7}(\+[0-9]{1,7})?$")]]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All patients by real id; ids of two tables differ by their prefix.

    The prefix becomes part of the names of files, so it is held to a form.
    """

    prefix: Annotated[str, Field(pattern="^p[0-9a-f]{6}$")]
    patients: dict[str, _Patient] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScanIds:
    """Ids of the scans of a source, which the table does not hold before :meth:`keep`.

    Attributes
    ----------
    ids
        For each scan ``<patient>_day<N>``.
    """

    ids: tuple[str, ...]
    _studies: tuple[Study, ...] = field(repr=False)
    _table: Path | None = field(repr=False)

    def keep(self) -> None:
        """Write the ids to the table, if it does not hold them yet.

        Raises
        ------
        InputError
            If the table is damaged.
        OutputError
            If it cannot be written, or another run has given these ids to other scans meanwhile.
        """
        path = self._table
        if path is None or not (path.exists() or _may_write(path)):
            return
        if _name(self._studies, _read(path))[1] is None:
            return
        with hold(path, purpose="naming", on_wait=ignore):
            ids, changed = _name(self._studies, _read(path))
            if ids != self.ids:
                raise OutputError(
                    f"{path}: another run named patients at the same time, so that the ids of this "
                    "run are in use. Run the same command again."
                )
            if changed is not None:
                write_json(path, asdict(changed), private=True)


def make_scan_ids(studies: Sequence[Study], *, table: Path | None) -> ScanIds:
    """Return ids ``<patient>_day<N>`` that do not show who the patient is; writes nothing.

    N counts from the first date of the patient that the table has seen: an earlier study that comes
    later has a negative N, and no id ever means two scans. Further scans of a day are ``day14+2``.
    Without a table, the same studies have the same ids as with a new one.

    Parameters
    ----------
    studies
        One for each scan.
    table
        File that keeps the ids, so that a scan has the same one the next time.

    Raises
    ------
    InputError
        If the table is damaged.
    """
    ids, _ = _name(studies, None if table is None else _read(table))
    return ScanIds(ids=ids, _studies=tuple(studies), _table=table)


def _name(studies: Sequence[Study], known: _Table | None) -> tuple[tuple[str, ...], _Table | None]:
    """Return the ids of scans, and the table that holds them if it is another than the known."""
    table = known or _Table(prefix=_make_prefix(studies))
    patients = dict(table.patients)
    for study in sorted(studies, key=lambda study: (study.date or "9", study.patient)):
        found = patients.get(study.patient)
        if found is None:
            number = max((patient.number for patient in patients.values()), default=0) + 1
            found = _Patient(number=number, first_date=study.date, days={})
        if study.key not in found.days:
            first = found.first_date or study.date
            days = {**found.days, study.key: _find_free_day(study.date, first, found.days)}
            found = replace(found, first_date=first, days=days)
        patients[study.patient] = found
    ids = tuple(
        f"{table.prefix}-{found.number:04d}_day{found.days[study.key]}"
        for study in studies
        for found in [patients[study.patient]]
    )
    changed = replace(table, patients=patients)
    return ids, None if changed == known else changed


def _make_prefix(studies: Sequence[Study]) -> str:
    """Return a few digits that differ for other scans, and do not show which these are."""
    listed = "\n".join(sorted(study.key for study in studies))
    return f"p{hashlib.sha256(listed.encode()).hexdigest()[:6]}"


def _find_free_day(day: str, first: str, taken: Mapping[str, str]) -> str:
    days = str((_read_date(day) - _read_date(first)).days if day else 0)
    named = (days, *(f"{days}+{number}" for number in range(2, len(taken) + 2)))
    return next(name for name in named if name not in taken.values())


def _read(path: Path) -> _Table | None:
    try:
        return find_record(path, _Table, remedy=_REMEDY)
    except InputError as error:
        if isinstance(error.__cause__, OSError):
            raise
        # Not "from error", which names the keys: they are the real ids of patients.
        raise InputError(
            f"{path}: is damaged; expected the table of patient ids that gi2nnunet wrote. {_REMEDY}"
        ) from None


def _may_write(path: Path) -> bool:
    return os.access(next(folder for folder in path.parents if folder.exists()), os.W_OK)


def is_date(text: str) -> bool:
    """Return whether a text is a date of DICOM's form."""
    try:
        _read_date(text)
    except ValueError:
        return False
    return True


def _read_date(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))
