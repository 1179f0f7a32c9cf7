"""Folds that leak, as --allow-leaks lets them: each score of them says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet import api
from gi2nnunet.core.files import write_json
from gi2nnunet.core.seals import hash_file
from gi2nnunet.dataset.checks import warn_of_leaking_folds
from gi2nnunet.formats.ids import patient_of
from gi2nnunet.nnunet.models import ModelChoice
from gi2nnunet.nnunet.postprocess import find_tuning, save_tuning
from gi2nnunet.pages.gather import gather_report
from gi2nnunet.pages.page import render_report
from gi2nnunet.prediction import out_of_fold
from gi2nnunet.prediction.choose import choose_work, select_own_scans
from gi2nnunet.prediction.out_of_fold import choose_every_fold
from gi2nnunet.tuning.compare_models import compare_all_models
from gi2nnunet.tuning.search import list_tuning_scans, tune_decision
from tests.command_line import run_in_process
from tests.fold_bench import Bench

# Fold by scan: the two days of case1 and of case2 are apart.
NAMED = {
    f"case{n}_day{day}": n % 3 if n > 2 else (n + day) % 3 for n in range(1, 8) for day in (0, 5)
}
FOLD_OF = {s: fold for s, fold in NAMED.items() if s != "case7_day0"}  # one of the known bad scans


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    path = tmp_path / "folds.csv"
    rows = [f"{scan_id},{fold}\n" for scan_id, fold in NAMED.items()]
    path.write_text("scan_id,fold\n" + "".join(rows))
    made = Bench(tmp_path, splits=path)
    monkeypatch.setattr(out_of_fold, "predict_scans", made.engine)
    return made


def test_each_scan_is_predicted_by_the_fold_that_validates_it(bench: Any) -> None:
    assert bench.dataset.leaking_patients == ("case1", "case2")
    predicted = bench.predict()
    assert predicted.fold_of == FOLD_OF
    chosen = select_own_scans(bench.dataset, bench.ensemble)
    assert chosen.standing == "seen-patient"
    assert chosen.folds == {scan_id: (fold,) for scan_id, fold in FOLD_OF.items()}


def test_a_fold_that_leaves_scans_out_does_not_predict_them(tmp_path: Path) -> None:
    """A scan in neither list of a fold is predicted by its own fold's model, out of fold."""
    folds = [
        {
            "train": [s for s in FOLD_OF if patient_of(s) not in ("case3", f"case{n + 5}")],
            "val": ["case3_day0", "case3_day5"] if n == 0 else [],
        }
        for n in range(3)
    ]
    for scan_id in FOLD_OF:
        number = int(patient_of(scan_id)[4:])
        if number != 3:
            folds[number % 3]["val"].append(scan_id)
    for fold in folds:
        seen = {patient_of(s) for s in fold["val"]}
        fold["train"] = [s for s in fold["train"] if patient_of(s) not in seen]
    path = tmp_path / "folds.json"
    path.write_text(json.dumps(folds))
    bench = Bench(tmp_path, splits=path)
    assert bench.dataset.leaking_patients == ()
    fold_of = out_of_fold.assign_folds(bench.dataset, bench.ensemble)
    assert fold_of == {s: n for n, fold in enumerate(folds) for s in fold["val"]}


def test_tune_compare_and_report_say_that_folds_leak(bench: Any) -> None:
    (warning,) = warn_of_leaking_folds(bench.dataset)
    assert "case1, case2 are in training and in validation of a fold" in warning
    told: list[str] = []
    choose_every_fold(ModelChoice(), engine=bench.compute()["engine"], on_notice=told.append)
    assert warning in told
    scans = list_tuning_scans(bench.dataset, bench.predict())
    with pytest.raises(ValueError, match="case1 is in two folds"):
        tune_decision(scans, configurations=("2d", "3d_fullres"), jobs=1)
    found = tune_decision(
        scans, configurations=("2d", "3d_fullres"), jobs=1, leaking=bench.dataset.leaking_patients
    )
    assert found.standing == "seen-patient"
    save_tuning(found, bench.ensemble.models, (0, 1, 2), computing=bench.describe())
    tuned, _ = find_tuning(bench.ensemble)
    assert tuned is not None
    assert tuned.describe()["standing"] == "seen-patient"
    compared = compare_all_models(bench.dataset, **bench.compute(), jobs=1)
    assert warning in compared.warnings
    report = gather_report(bench.workspace)
    assert report.leaks == (warning,)
    page = render_report(report)
    assert "case1, case2 are in training and in validation of a fold" in page
    assert "standing seen-patient: the folds leak" in page


def test_work_of_single_folds_carries_the_warning(bench: Any) -> None:
    work = choose_work(None, models=ModelChoice(folds=("cv",)), workspace=bench.workspace)
    assert work.selection.standing == "seen-patient"
    assert warn_of_leaking_folds(bench.dataset)[0] in work.selection.warnings


def test_score_shows_the_standing_that_was_recorded(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Only if the submission is the one that was predicted."""
    truth = tmp_path / "truth.csv"
    truth.write_bytes(bench.dataset.truth_path.read_bytes())
    folder = tmp_path / "predicted"
    folder.mkdir()
    submission = folder / "submission.csv"
    submission.write_text(truth.read_text().replace("segmentation", "predicted"))
    digests = {"submission.csv": hash_file(submission)}
    write_json(folder / "prediction.json", {"standing": "seen-patient", "sha256": digests})

    def run(*words: object) -> tuple[int, str, str]:
        return run_in_process(("score", *words), monkeypatch=monkeypatch, capsys=capsys)

    for given in (submission, folder):
        code, out, _ = run(given, "--truth", truth)
        assert (code, "Standing: SEEN PATIENTS" in out) == (0, True)
    assert json.loads(run(submission, "--truth", truth, "--json")[1])["standing"] == "seen-patient"
    submission.write_text(submission.read_text() + "\n")
    code, out, _ = run(submission, "--truth", truth)
    assert (code, "Standing" in out) == (0, False)


def test_tune_of_the_api_passes_the_leaks_on(bench: Any) -> None:
    found = api.tune(workspace=bench.workspace.raw.parent, device="cpu").tuning
    assert found.standing == "seen-patient"
    assert found.to_json()["standing"] == "seen-patient"
