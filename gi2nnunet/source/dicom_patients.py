"""Patient ids, made up for DICOM sources, and the table that links them to the real ones.

The table is one JSON file in the workspace that only its owner may read. Nothing else holds a
patient's real id or a date: it is not exported, reported or logged.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import find_record, part_file
from gi2nnunet.core.locks import hold
from gi2nnunet.core.workers import ignore

_REMEDY = "Restore it from a copy; without it, scans get other ids than before."


def _check_date(text: str) -> str:
    if text and not is_date(text):
        raise ValueError("a date")
    return text


@dataclass(frozen=True, kw_only=True)
class _Patient:
    """Made-up number and first study date (YYYYMMDD, or empty) of a patient."""

    number: Annotated[int, Field(ge=1)]
    first_date: Annotated[str, AfterValidator(_check_date)]


@dataclass(frozen=True, kw_only=True)
class _Table:
    """All patients by real id; ids of two tables differ by their prefix.

    The prefix becomes part of the names of files, so it is held to a form.
    """

    prefix: Annotated[str, Field(pattern="^(patient|p[0-9a-f]{4})$")] = "patient"
    patients: dict[str, _Patient] = field(default_factory=dict)


def make_scan_ids(studies: Sequence[tuple[str, str]], *, table: Path | None) -> list[str]:
    """Return ids ``<patient>_day<N>`` that do not show who the patient is.

    N counts from the patient's first date in the table; an earlier study moves it.

    Parameters
    ----------
    studies
        For each scan the patient's real id and the date (YYYYMMDD, or empty if unknown).
    table
        File that keeps the ids, so that a patient has the same one the next time. ``None``, or one
        that is missing where nothing can be written, numbers the patients of these studies only.

    Raises
    ------
    InputError
        If the table is damaged.
    OutputError
        If it cannot be written.
    """
    if table is not None and not table.exists() and not _may_write(table):
        table = None
    known = _Table()
    where = nullcontext() if table is None else hold(table, purpose="naming", on_wait=ignore)
    with where:
        if table is not None:
            known = _read(table) or _Table(prefix=f"p{secrets.token_hex(2)}")
        patients = dict(known.patients)
        for patient, day in sorted(set(studies), key=lambda study: (study[1] or "9", study[0])):
            found = patients.get(patient) or _Patient(number=len(patients) + 1, first_date=day)
            if day and (not found.first_date or day < found.first_date):
                found = replace(found, first_date=day)
            patients[patient] = found
        if table is not None and patients != known.patients:
            _write(table, replace(known, patients=patients))
    ids: list[str] = []
    for patient, day in studies:
        number, first = patients[patient].number, patients[patient].first_date
        days = (_read_date(day) - _read_date(first)).days if day and first else 0
        scan_id = f"{known.prefix}-{number:04d}_day{days}"
        count = sum(other.partition("+")[0] == scan_id for other in ids)
        ids.append(f"{scan_id}+{count + 1}" if count else scan_id)
    return ids


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


def _write(path: Path, table: _Table) -> None:
    import json

    with part_file(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        part.write_text(json.dumps(asdict(table), indent=1) + "\n", encoding="utf-8")


def is_date(text: str) -> bool:
    """Return whether a text is a date of DICOM's form."""
    try:
        _read_date(text)
    except ValueError:
        return False
    return True


def _read_date(text: str) -> date:
    return date(int(text[:4]), int(text[4:6]), int(text[6:]))
