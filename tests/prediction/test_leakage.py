from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.models import Ensemble, Fold, TrainedModel
from gi2nnunet.prediction.choose import (
    Standing,
    find_standing,
    find_trained_on,
    find_trained_scans,
    find_unseen_folds,
    select_own_scans,
)
from gi2nnunet.source.prints import pack_prints, take_prints
from tests.converting import convert
from tests.source_factory import make_scan, make_source, write_source

SCANS = ["case1_day0", "case1_day5", "case2_day0", "case3_day0", "case4_day2"]


def make_dataset(folder: Path, **options: Any) -> Dataset:
    source = write_source(folder / "source", make_source(SCANS))
    space = open_workspace(folder / "ws", environ={})
    return convert(source, workspace=space, **{"holdout": 0, "folds": 2, **options})


def imported(folder: Path, trained_on: dict[Fold, list[str] | None]) -> Ensemble:
    """Models whose folds tell what they were trained on."""
    for fold, scans in trained_on.items():
        path = folder / f"fold_{fold}" / "gi2nnunet_imported.json"
        path.parent.mkdir(parents=True)
        prints = {s: pack_prints(take_prints(make_scan(s).image)) for s in scans or ()}
        path.write_text(json.dumps({"trained_on": scans, "prints": prints, "n_folds": 2}))
    return of(folder, *trained_on)


def of(folder: Path, *folds: Fold) -> Ensemble:
    model = TrainedModel(
        folder=folder, trainer="t", plans_name="p", configuration="2d", folds=folds, newest=0.0
    )
    return Ensemble(models=(model,), folds=folds, chosen_by="the test")


@pytest.mark.parametrize(
    ("asked", "standing"),
    [
        (["case9_day1"], "in-sample"),
        (["case9_day2"], "seen-patient"),
        (["case1_day0", "case2_day0"], "held-out"),
    ],
)
@pytest.mark.parametrize("with_dataset", [True, False])
def test_what_an_imported_model_tells_counts_and_not_the_dataset_at_hand(
    tmp_path: Path, asked: list[str], standing: Standing, with_dataset: bool
) -> None:
    ensemble = imported(tmp_path / "model", {"all": ["case9_day1"]})
    dataset = make_dataset(tmp_path) if with_dataset else None
    prints = {scan_id: [take_prints(make_scan(scan_id).image)] for scan_id in asked}
    found = find_standing(asked, dataset=dataset, ensemble=ensemble, prints=prints)
    assert found == standing
    # The image of the training scan under any other name.
    copied = {scan_id: [take_prints(make_scan("case9_day1").image)] for scan_id in asked}
    found = find_standing(asked, dataset=dataset, ensemble=ensemble, prints=copied)
    assert found == "in-sample"


def test_a_model_that_does_not_know_is_unknown_whatever_the_dataset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    ensemble = imported(tmp_path / "model", {0: ["case9_day1"], 1: None})
    assert find_trained_on(ensemble, dataset=dataset) is None
    found = find_standing(["case8_day1"], dataset=dataset, ensemble=ensemble, prints={})
    assert found == "unknown"
    chosen = select_own_scans(dataset, ensemble)
    assert (chosen.standing, chosen.folds) == ("unknown", None)
    assert len(chosen.scans) == len(SCANS)


def test_held_out_scans_that_an_imported_model_saw_are_in_sample(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, holdout=0.4)
    held = [scan.scan_id for scan in dataset.scans if scan.part == "holdout"]
    assert held
    ensemble = imported(tmp_path / "model", {"all": SCANS})
    assert select_own_scans(dataset, ensemble).standing == "in-sample"
    assert select_own_scans(dataset, of(tmp_path / "own", "all")).standing == "held-out"


def test_imported_folds_predict_what_they_did_not_see_by_their_own_split(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    ensemble = imported(
        tmp_path / "model",
        {0: ["case1_day0", "case2_day0"], 1: ["case3_day0", "case4_day2", "case2_day0"]},
    )
    chosen = select_own_scans(dataset, ensemble)
    assert chosen.standing == "out-of-fold"
    # case2 was seen by both; the other day of case1 counts as seen, too.
    assert chosen.folds == {
        "case1_day0": (1,), "case1_day5": (1,), "case3_day0": (0,), "case4_day2": (0,),
    }  # fmt: skip
    assert [scan.scan_id for scan in chosen.scans] == list(chosen.folds)


def test_models_trained_here_go_by_the_dataset(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    (model,) = of(tmp_path / "model", 0, "all").models
    assert find_trained_scans(model, 0, dataset=dataset) == set(dataset.splits[0]["train"])
    assert find_trained_scans(model, 7, dataset=dataset) == set(SCANS)
    assert find_trained_scans(model, "all", dataset=dataset) == set(SCANS)
    assert find_trained_scans(model, 0, dataset=None) is None


def test_unseen_folds_go_by_patient() -> None:
    trained: dict[Fold, frozenset[str]] = {
        0: frozenset({"case1_day0"}),
        1: frozenset({"case2_day0"}),
    }
    asked = ["case2_day3", "case1_day0", "case3_day0"]
    assert find_unseen_folds(asked, trained) == {
        "case2_day3": (0,), "case1_day0": (1,), "case3_day0": (0, 1),
    }  # fmt: skip
    both = {0: trained[0] | trained[1]}
    assert find_unseen_folds(["case2_day3"], both) == {}
