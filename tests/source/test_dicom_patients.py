"""The table that links made-up patient ids to the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.source.dicom_patients import Study, make_scan_ids

REAL_ID = "DOE^JANE-991"


def study(patient: str, date: str, key: str = "") -> Study:
    return Study(patient=patient, date=date, key=key or f"{patient} {date}")


def name(*studies: Study, table: Path | None) -> tuple[str, ...]:
    named = make_scan_ids(studies, table=table)
    named.keep()
    return named.ids


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "dicom-patients.json"
    name(study(REAL_ID, "20240305"), table=path)
    return path


def test_a_patient_has_the_same_id_the_next_time(table: Path) -> None:
    first, other = name(study(REAL_ID, "20240305"), study("other", "20240307"), table=table)
    assert first.endswith("-0001_day0")
    assert other.endswith("-0002_day0")
    assert name(study(REAL_ID, "20240309"), table=table) == (first[:-1] + "4",)


def test_an_earlier_study_that_comes_later_leaves_all_ids_as_they_are(table: Path) -> None:
    (first,) = name(study(REAL_ID, "20240305"), table=table)
    earlier = study(REAL_ID, "20240301")
    assert name(earlier, study(REAL_ID, "20240305"), table=table) == (first[:-1] + "-4", first)
    assert name(study(REAL_ID, "20240305"), table=table) == (first,)


def test_ids_are_the_same_with_a_table_to_come_and_without(tmp_path: Path) -> None:
    studies = [study("a", "20240305"), study("b", "20240301"), study("a", "")]
    table = tmp_path / "dicom-patients.json"
    ids = make_scan_ids(studies, table=table).ids
    assert not list(tmp_path.iterdir())
    assert make_scan_ids(studies, table=None).ids == ids
    assert name(*studies, table=table) == ids
    assert make_scan_ids(studies, table=None).ids != make_scan_ids(studies[:1], table=None).ids


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["a", "b"]), st.sampled_from(["", "20240301", "20240302"]),
                st.integers(0, 3),
            ),
            min_size=1, max_size=4, unique=True,
        ),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_no_id_ever_means_two_studies(
    tmp_path_factory: pytest.TempPathFactory, archives: list[list[tuple[str, str, int]]]
) -> None:
    """Whatever comes in whatever order: each study keeps its id, and each has its own."""
    table = tmp_path_factory.mktemp("w") / "dicom-patients.json"
    id_of: dict[str, str] = {}
    for archive in archives:
        studies = [study(patient, date, f"{patient}{date}{n}") for patient, date, n in archive]
        for one, scan_id in zip(studies, name(*studies, table=table), strict=True):
            assert id_of.setdefault(one.key, scan_id) == scan_id
    assert len(set(id_of.values())) == len(id_of)


def test_two_runs_that_name_patients_at_once_do_not_share_an_id(tmp_path: Path) -> None:
    table = tmp_path / "dicom-patients.json"
    name(study("known", "20240301"), table=table)
    one, two = (make_scan_ids([study(p, "20240301")], table=table) for p in "ab")
    assert one.ids == two.ids
    one.keep()
    before = table.read_bytes()
    with pytest.raises(OutputError, match="another run named patients at the same time"):
        two.keep()
    assert table.read_bytes() == before
    assert name(study("b", "20240301"), table=table) != one.ids


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
        make_scan_ids([study(REAL_ID, "20240305")], table=table)
    assert "DOE" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["../../x", "/x", "p12", "pabcdef/../x", "pabcdef\n"])
def test_a_tables_prefix_cannot_lead_out_of_a_folder(table: Path, prefix: str) -> None:
    table.write_text(json.dumps({"prefix": prefix, "patients": {}}))
    with pytest.raises(InputError, match="is damaged"):
        make_scan_ids([study(REAL_ID, "20240305")], table=table)
