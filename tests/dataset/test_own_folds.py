"""Folds of one's own: what convert takes, what it refuses, and that leaks are shown afterwards."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.own_folds import read_own_folds
from gi2nnunet.dataset.splits import SplitOptions, check_leaks, find_leaking_patients, make_folds
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.formats.ids import patient_of, scan_order
from gi2nnunet.nnunet.checks import require_own_split
from gi2nnunet.upkeep.verify import verify_workspace
from tests.command_line import run_in_process
from tests.converting import convert
from tests.source_factory import make_source, write_source

SCANS = [f"case{n}_day{day}" for n in range(1, 7) for day in (0, 5)]
OWN = {"case1": 0, "case2": 0, "case3": 1, "case4": 1, "case5": 2, "case6": 0}
LEAKING = [
    {"train": [s for s in SCANS if s not in val], "val": val} for val in (SCANS[::2], SCANS[1::2])
]


def write(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_patients(path: Path) -> Path:
    return write(path, ("patient_id", "fold"), *OWN.items())


@given(
    days=st.lists(st.integers(1, 4), min_size=2, max_size=12), seed=st.integers(0, 9),
    data=st.data(),
)  # fmt: skip
def test_every_form_of_a_split_gives_the_same_folds(
    tmp_path_factory: pytest.TempPathFactory, days: list[int], seed: int, data: st.DataObject
) -> None:
    scans = [f"case{n}_day{3 * d}" for n, count in enumerate(days, 1) for d in range(count)]
    folds = data.draw(st.integers(2, len(days)))
    expected = make_folds(dict.fromkeys(scans, ""), folds=folds, seed=seed)
    fold_of = {s: number for number, fold in enumerate(expected) for s in fold["val"]}
    shuffled = data.draw(st.permutations(scans))
    folder = tmp_path_factory.mktemp("folds")
    of_patients = {patient_of(s): fold_of[s] for s in shuffled}
    (folder / "a.json").write_text(json.dumps(expected))
    write(folder / "b.csv", ("scan_id", "fold"), *((s, fold_of[s]) for s in shuffled))
    write(folder / "c.csv", ("fold", "patient_id"), *((n, p) for p, n in of_patients.items()))
    for name in ("a.json", "b.csv", "c.csv"):
        own = read_own_folds(folder / name, scan_ids=scans)
        assert own.fit(scans, allow_leaks=False) == expected


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "unknown patient": (
        [("patient_id", "fold"), ("case1", 0), ("case9", 1)],
        ("folds.csv, line 3: found 'case9'; expected a patient of the source, such as case1",),
    ),
    "unknown scan": (
        [("scan_id", "fold"), ("case1_day3", 0)],
        ("line 2: found 'case1_day3'; expected a scan of the source, such as case1_day0",),
    ),
    "twice": (
        [("patient_id", "fold"), ("case1", 0), ("case2", 1), ("case1", 1)],
        ("line 4: found case1 again; expected one row of it",),
    ),
    "gap": (
        [("patient_id", "fold"), *((p, n * 2) for p, n in OWN.items())],
        ("found the folds 0, 2, 4; expected 0 to 2, without a gap",),
    ),
    "from one": (
        [("patient_id", "fold"), *((p, n + 1) for p, n in OWN.items())],
        ("found the folds 1, 2, 3; expected 0 to 2, without a gap",),
    ),
    "no number": (
        [("patient_id", "fold"), ("case1", "first"), ("case2", "1.0"), ("case3", "٣")],
        ("line 2: found the fold 'first' of case1", "line 3: found the fold '1.0'", "line 4"),
    ),
    "missing": (
        [("patient_id", "fold"), ("case1", 0), ("case2", 1), ("case3", 1)],
        ("found no fold that validates case4_day0, case4_day5, case5_day0, case5_day5, case6",),
    ),
    "one fold": (
        [("patient_id", "fold"), *((p, 0) for p in OWN)],
        ("fold 0, train: found no training scan; expected at least one",),
    ),
    "columns": (
        [("case", "fold"), ("case1", 0)],
        ("line 1: found the columns case, fold; expected patient_id,fold or scan_id,fold",),
    ),
    "both columns": (
        [("patient_id", "scan_id", "fold"), ("case1", "case1_day0", 0)],
        ("line 1: found the columns",),
    ),
    "nothing": ([], ("folds.csv: is not a UTF-8 CSV",)),
    "no list": ({"0": []}, ("folds.json: found", "nnU-Net's splits_final.json")),
    "no val": ([{"train": SCANS}], ("folds.json: [0].val: found nothing",)),
    "empty list": ([], ("folds.json: found no fold that validates case1_day0",)),
    "unknown in train": (
        [{"train": ["../../etc/passwd"], "val": SCANS}],
        ("folds.json, fold 0, train: found '../../etc/passwd'; expected a scan of the source",),
    ),
    "in val twice": (
        [{"train": SCANS[4:], "val": SCANS[:4]}, {"train": SCANS[:2], "val": SCANS[2:]}],
        ("folds.json, fold 1, val: found case2_day0, which fold 0 validates too",),
    ),
    "on both sides": (
        [{"train": SCANS, "val": SCANS[:2]}, {"train": SCANS[:2], "val": SCANS[2:]}],
        ("folds.json, fold 0, val: found case1_day0, which is in train too",),
    ),
    "in train twice": (
        [{"train": SCANS[2:] + SCANS[2:3], "val": SCANS[:2]},
         {"train": SCANS[:2], "val": SCANS[2:]}],
        ("folds.json, fold 0, train: found case2_day0 2 times; expected it once",),
    ),
    "empty fold": (
        [{"train": SCANS[2:], "val": SCANS[:2]}, {"train": SCANS[:2], "val": SCANS[2:]},
         {"train": SCANS, "val": []}],
        ("folds.json, fold 2, val: found no training scan; expected at least one",),
    ),
    "leaks": (
        LEAKING,
        ("folds.json, fold 0: found case1 in training (case1_day5) and in validation (case1_day0)",
         "fold 1: found case6 in training", "--allow-leaks takes the folds as they are"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_folds_that_do_not_fit_are_refused_by_row_or_entry(name: str, tmp_path: Path) -> None:
    content, messages = REFUSED[name]
    if name in list(REFUSED)[list(REFUSED).index("no list") :]:
        path = tmp_path / "folds.json"
        path.write_text(json.dumps(content))
    else:
        path = write(tmp_path / "folds.csv", *content)
    with pytest.raises(InputError) as caught:
        read_own_folds(path, scan_ids=SCANS).fit(SCANS, allow_leaks=False)
    for message in messages:
        assert message in str(caught.value)


@pytest.mark.parametrize("path", ["/dev/zero", ".", "/nowhere/folds.json"])
def test_what_is_not_a_file_is_refused_at_once(path: str) -> None:
    with pytest.raises(InputError, match="expected a file with folds"):
        read_own_folds(Path(path), scan_ids=SCANS)


def test_folds_beside_a_file_and_leaks_without_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--folds 3: found --splits beside it"):
        SplitOptions(folds=3, splits=tmp_path)
    with pytest.raises(InputError, match="--allow-leaks: expected --splits"):
        SplitOptions(allow_leaks=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source", make_source(SCANS))


def test_convert_takes_records_and_verifies_them(source: Path, tmp_path: Path) -> None:
    """Nothing is held out of folds that name every patient, unless that is asked for."""
    space = open_workspace(tmp_path / "w", environ={})
    path = write_patients(tmp_path / "mine.csv")
    dataset = convert(source, workspace=space, splits=path, jobs=1)
    assert [{patient_of(s) for s in fold["val"]} for fold in dataset.splits] == [
        {"case1", "case2", "case6"}, {"case3", "case4"}, {"case5"},
    ]  # fmt: skip
    assert all(scan.part == "train" for scan in dataset.scans)
    assert dataset.manifest["options"]["splits"] == "SPLITS"  # type: ignore[typeddict-item]
    made = space.preprocessed / dataset.name
    assert json.loads((made / "splits_final.json").read_text()) == list(dataset.splits)
    require_own_split(dataset, made)
    assert verify_workspace(space, quick=False).findings == ()
    kept = convert(source, workspace=space, splits=path, holdout=0.2, jobs=1)
    (held,) = {scan.patient_id for scan in kept.scans if scan.part == "holdout"}
    assert any(f"{held}_day0" in line and "in no fold" in line for line in kept.warnings)
    assert held not in {patient_of(s) for fold in kept.splits for s in fold["train"]}


@pytest.mark.parametrize(
    ("scans", "said"),
    [
        (SCANS, "are not trained on, so they are in no fold"),
        (SCANS[::2], "is not trained on, so it is in no fold"),
    ],
)
def test_scans_in_no_fold_are_named(tmp_path: Path, scans: list[str], said: str) -> None:
    source = write_source(tmp_path / "source", make_source(scans))
    space = open_workspace(tmp_path / "w", environ={})
    path = write_patients(tmp_path / "mine.csv")
    made = convert(source, workspace=space, splits=path, holdout=0.2, jobs=1)
    assert sum(said in line for line in made.warnings) == 1


def test_edited_folds_are_refused_and_the_remedy_takes_them(source: Path, tmp_path: Path) -> None:
    """With the default test set too, of which the edited file names no scan."""
    space = open_workspace(tmp_path / "w", environ={})
    dataset = convert(source, workspace=space, folds=2, jobs=1)
    made = space.preprocessed / dataset.name
    path = made / "splits_final.json"
    edited = [{"train": fold["val"], "val": fold["train"]} for fold in dataset.splits]
    path.write_text(json.dumps(edited))
    with pytest.raises(InputError) as caught:
        require_own_split(dataset, made)
    remedy = str(caught.value).rpartition("add to that command: ")[2]
    option, file = shlex.split(remedy)
    assert (option, file) == ("--splits", str(path))
    found = verify_workspace(space, quick=True).findings
    assert any(f"convert SOURCE --splits {path}" in finding.remedy for finding in found)
    again = convert(source, workspace=space, splits=Path(file), jobs=1)
    assert [sorted(fold["val"]) for fold in again.splits] == [
        sorted(fold["val"]) for fold in edited
    ]
    assert {s.scan_id for s in again.scans if s.part == "holdout"} == {
        s.scan_id for s in dataset.scans if s.part == "holdout"
    }
    require_own_split(again, made)
    assert verify_workspace(space, quick=True).findings == ()


def test_leaks_are_allowed_recorded_and_shown(source: Path, tmp_path: Path) -> None:
    space = open_workspace(tmp_path / "w", environ={})
    path = tmp_path / "leaking.json"
    path.write_text(json.dumps(LEAKING))
    with pytest.raises(InputError, match="case1 in training"):
        convert(source, workspace=space, splits=path, jobs=1)
    assert not space.raw.exists() or not any(space.raw.iterdir())
    dataset = convert(source, workspace=space, splits=path, allow_leaks=True, jobs=1)
    patients = sorted({patient_of(s) for s in SCANS}, key=lambda p: scan_order(f"{p}_day0"))
    assert list(dataset.leaking_patients) == patients == list(find_leaking_patients(LEAKING))
    assert any("scores over the folds are too optimistic" in line for line in dataset.warnings)
    assert check_leaks(dataset.splits, allowed=dataset.leaking_patients) == []
    assert len(check_leaks(dataset.splits)) == 12
    assert verify_workspace(space, quick=False).findings == ()


def test_the_command_takes_a_file(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_patients(tmp_path / "mine.csv")

    def run(*words: str) -> tuple[int, str, str]:
        return run_in_process(("convert", source, *words), monkeypatch=monkeypatch, capsys=capsys)

    assert run("--splits", "mine.csv")[:2][0] == 0
    manifest = json.loads(next(tmp_path.glob("**/manifest.json")).read_text())
    assert manifest["command"] == "gi2nnunet convert SOURCE --splits SPLITS"
    code, _, err = run("--splits", "mine.csv", "--folds", "3")
    assert code == 3
    assert "--folds 3: found --splits beside it" in err
    assert run("--allow-leaks")[0] == 3
