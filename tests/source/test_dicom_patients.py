"""The table that links made-up patient ids to the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.source.dicom_patients import make_scan_ids

REAL_ID = "DOE^JANE-991"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "dicom-patients.json"
    make_scan_ids([(REAL_ID, "20240305")], table=path)
    return path


def test_a_patient_has_the_same_id_the_next_time(table: Path) -> None:
    first, other = make_scan_ids([(REAL_ID, "20240305"), ("other", "20240307")], table=table)
    assert first.endswith("-0001_day0")
    assert other.endswith("-0002_day0")
    assert make_scan_ids([(REAL_ID, "20240309")], table=table) == [first[:-1] + "4"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("number", "x"), ("number", 0), ("first_date", "1999ab12"), ("first_date", "19991301"),
        ("first_date", None),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused_without_a_patients_id(
    table: Path, key: str, value: Any
) -> None:
    content = json.loads(table.read_text())
    content["patients"][REAL_ID][key] = value
    table.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dicom-patients\.json: is damaged") as caught:
        make_scan_ids([(REAL_ID, "20240305")], table=table)
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["../../x", "/x", "p12", "pabcd/../x", "pabcd\n"])
def test_a_tables_prefix_cannot_lead_out_of_a_folder(table: Path, prefix: str) -> None:
    table.write_text(json.dumps({"prefix": prefix, "patients": {}}))
    with pytest.raises(InputError, match="is damaged"):
        make_scan_ids([(REAL_ID, "20240305")], table=table)
