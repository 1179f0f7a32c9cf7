from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gi2nnunet import api
from gi2nnunet.core.errors import InputError
from gi2nnunet.core.seals import hash_file
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.formats.probabilities import SUFFIX, write_probabilities
from gi2nnunet.formats.volumes import read_volume
from gi2nnunet.prediction.out_of_fold import find_stored_predictions
from tests.source_factory import make_source, write_source

IDS = tuple(f"case{number}_day0" for number in range(20, 34))


@pytest.fixture
def dataset(here: Path) -> Dataset:
    write_source(here / "source", make_source(IDS, shape=(9, 24, 24)))
    return api.convert("source", workspace="w", holdout=0.0, folds=2, jobs=1)


def predict(dataset: Dataset, *, wrong: str = "", folder: str = "2d", **about: object) -> None:
    """Store predictions that are the truth; of one scan, without large bowel."""
    for scan in dataset.scans:
        truth = read_volume(dataset.label_path(scan.scan_id)).array.astype(np.uint8)
        array = np.stack([((truth & bit) != 0) * np.uint8(200) for bit in (1, 2, 4)])
        if scan.scan_id == wrong:
            array[0] = 0
        fold = next(n for n, fold in enumerate(dataset.splits) if scan.scan_id in fold["val"])
        image = hash_file(dataset.image_path(scan.scan_id))[:16]
        path = Path("w/predictions") / dataset.name / "out_of_fold" / folder
        path.mkdir(parents=True, exist_ok=True)
        write_probabilities(
            path / f"{scan.scan_id}{SUFFIX}", array, scan_id=scan.scan_id, numbers=scan.numbers,
            spacing_mm=(3.0, 1.5, 1.5), about={"fold": fold, "image": image, **about},
        )  # fmt: skip


def test_predictions_that_are_the_truth_agree(dataset: Dataset) -> None:
    predict(dataset)
    stored = find_stored_predictions(dataset, workspace=api.find_workspace("w"))
    assert set(stored.paths) == set(IDS)
    agreements = stored.measure(IDS[:3], jobs=1)
    assert [agreement.scan_id for agreement in agreements] == list(IDS[:3])
    for agreement in agreements:
        assert agreement.dice.tolist() == [1, 1, 1]
        truth = read_volume(dataset.label_path(agreement.scan_id)).array
        counted = [np.count_nonzero((truth & bit) != 0) for bit in (1, 2, 4)]
        assert agreement.truth.sum(axis=1).tolist() == counted
        assert np.array_equal(stored.predict(agreement.scan_id), truth)


def test_models_are_averaged(dataset: Dataset) -> None:
    predict(dataset)
    predict(dataset, wrong=IDS[0], folder="3d")
    stored = find_stored_predictions(dataset, workspace=api.find_workspace("w"))
    assert len(stored.paths[IDS[0]]) == 2
    (agreement,) = stored.measure(IDS[:1])
    assert agreement.dice.tolist() == [0, 1, 1]  # 100 of 255 is below a half


def test_predictions_by_models_that_saw_the_patient_or_of_another_image_do_not_count(
    dataset: Dataset,
) -> None:
    predict(dataset, fold="all")
    predict(dataset, folder="3d", image="another")
    with pytest.raises(InputError, match="gi2nnunet out-of-fold"):
        find_stored_predictions(dataset, workspace=api.find_workspace("w"))


def test_check_with_models_finds_where_they_disagree(dataset: Dataset, run) -> None:
    predict(dataset, wrong="case25_day0")
    before = {s.scan_id for s in api.check("source").suspects if s.kind == "model"}
    assert before == set()
    found = api.check("source", out_of_fold=True, workspace="w")
    suspects = [s for s in found.suspects if s.kind == "model"]
    assert {(s.scan_id, s.organ) for s in suspects} == {("case25_day0", "large_bowel")}
    assert found.tested[-1].scans == len(IDS)
    code, out, _ = run(
        "check", "source", "--out-of-fold", "-w", "w", "--json", "--html", "page.html"
    )
    assert code == 0
    told = json.loads(out)
    assert [s for s in told["suspects"] if s["kind"] == "model"] == [
        json.loads(json.dumps(s)) for s in found.to_json()["suspects"] if s["kind"] == "model"
    ]
    page = Path("page.html").read_text()
    assert "as predicted" in page
    assert "contours of small bowel and stomach, as predicted" in page
    code, _, err = run("check", "source", "--id", "501")
    assert code == 2
    assert "--out-of-fold" in err
