from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gi2nnunet.core.errors import Finding
from gi2nnunet.core.files import write_json
from gi2nnunet.core.seals import hash_file
from gi2nnunet.formats.probabilities import read_probabilities, write_probabilities
from gi2nnunet.formats.tables import format_rows, read_mask_table
from gi2nnunet.prediction import out_of_fold
from gi2nnunet.scoring.record import write_score
from gi2nnunet.scoring.score import score_submission
from gi2nnunet.upkeep.predictions import list_prediction_checks
from gi2nnunet.upkeep.verify import run_checks
from tests.fold_bench import Bench

ONE, OTHER = "case1_day0", "case2_day0"


class Predicted(Bench):
    """A workspace with out-of-fold predictions, and the truth in a scored prediction's place."""

    @property
    def home(self) -> Path:
        return self.workspace.predictions

    @property
    def scored(self) -> Path:
        return self.home / "out-of-fold" / "model"

    def stored(self, scan_id: str) -> Path:
        folder = next(path for path in self.home.glob("*/out_of_fold/*2d") if path.is_dir())
        return folder / f"{scan_id}.gi2prob"

    def score(self) -> None:
        table = read_mask_table(self.dataset.truth_path, any_scan=True)
        self.scored.mkdir(parents=True)
        submission = self.scored / "submission.csv"
        submission.write_text(format_rows(table.list_rows(), "predicted"))
        about = {"options": {"source": None}, "dataset": self.dataset.name}
        noted = {**about, "sha256": {"submission.csv": hash_file(submission)}}
        write_json(self.scored / "prediction.json", noted)
        write_score(score_submission(submission, table), self.scored, truth=table, about=about)

    def verify(self, *, quick: bool = False) -> list[Finding]:
        datasets = {self.dataset.name: self.dataset}
        return run_checks(list_prediction_checks(self.workspace, datasets, quick=quick), jobs=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predicted]:
    with pytest.MonkeyPatch.context() as patch:
        bench = Predicted(tmp_path_factory.mktemp("predicted"))
        patch.setattr(out_of_fold, "predict_scans", bench.engine)
        bench.predict()
        bench.score()
        yield bench


@pytest.fixture
def space(made: Predicted, tmp_path: Path) -> Iterator[Predicted]:
    """The same workspace; its predictions are as before after each test."""
    shutil.copytree(made.home, tmp_path / "kept")
    truth = made.dataset.truth_path.read_bytes()
    yield made
    shutil.rmtree(made.home)
    shutil.copytree(tmp_path / "kept", made.home)
    made.dataset.truth_path.write_bytes(truth)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x01
    path.write_bytes(data)


def say(path: Path, **about: object) -> None:
    """Write stored probabilities again with something else said of them."""
    found = read_probabilities(path)
    write_probabilities(
        path, found.array, scan_id=found.scan_id, numbers=found.numbers,
        spacing_mm=found.spacing_mm, about={**found.about, **about},
    )  # fmt: skip


def edit_score(space: Predicted) -> None:
    content = json.loads((space.scored / "score-per-class.json").read_text())
    content["per_scan"][0]["dice"] = 0.5
    write_json(space.scored / "score-per-class.json", content)


def exchange_rows(space: Predicted) -> None:
    """Give the dataset another truth, as a conversion of another source does."""
    path = space.dataset.truth_path
    lines = path.read_text().splitlines(keepends=True)
    texts = [line.split(",") for line in lines]
    full = [n for n, row in enumerate(texts) if n and row[2]]
    texts[full[0]][2], texts[full[-1]][2] = texts[full[-1]][2], texts[full[0]][2]
    assert texts[full[0]][2] != texts[full[-1]][2]
    path.write_text("".join(map(",".join, texts)))


HARMS: dict[str, tuple[Callable[[Predicted], object], str, str, bool]] = {
    "a byte of stored probabilities": (
        lambda s: flip(s.stored(ONE)), f"2d/{ONE}.gi2prob", "a damaged file", False,
    ),
    "stored probabilities cut off": (
        lambda s: s.stored(ONE).write_bytes(s.stored(ONE).read_bytes()[:-20]),
        f"2d/{ONE}.gi2prob", "a damaged file", False,
    ),
    "those of another scan": (
        lambda s: shutil.copy(s.stored(OTHER), s.stored(ONE)),
        f"2d/{ONE}.gi2prob", f"those of {OTHER}", False,
    ),
    "those of another fold": (
        lambda s: say(s.stored(ONE), fold=7), f"2d/{ONE}.gi2prob", "another fold or image", False,
    ),
    "those of another image": (
        lambda s: say(s.stored(ONE), image="x"), f"2d/{ONE}.gi2prob", "another fold or image",
        False,
    ),
    "a submission": (
        lambda s: flip(s.scored / "submission.csv"), "submission.csv", "another file", False,
    ),
    "a missing submission": (
        lambda s: (s.scored / "submission.csv").unlink(), "submission.csv", "nothing", True,
    ),
    "a missing prediction.json": (
        lambda s: (s.scored / "prediction.json").unlink(), "prediction.json", "nothing", True,
    ),
    "a truth": (lambda s: flip(s.scored / "truth.csv"), "score-per-class.json", "truth.csv", False),
    "a missing truth": (
        lambda s: (s.scored / "truth.csv").unlink(), "score-per-class.json", "truth.csv: no such",
        False,
    ),
    "a table of scores": (
        lambda s: flip(s.scored / "score-per-class.csv"), "score-per-class.json",
        "score-per-class.csv: found another", False,
    ),
    "a score": (edit_score, "score-per-class.json", "a score of 1.0", False),
    "a missing score": (
        lambda s: (s.scored / "score-per-class.json").unlink(), "truth.csv", "no score beside it",
        False,
    ),
    "another truth in the dataset": (exchange_rows, "truth.csv", "another truth", False),
}  # fmt: skip


@pytest.mark.parametrize("name", list(HARMS))
def test_what_is_not_as_it_was_written_is_found(space: Predicted, name: str) -> None:
    assert space.verify() == []
    harm, file, found, at_once = HARMS[name]
    harm(space)
    (finding,) = space.verify()
    assert str(finding.file).endswith(file)
    assert found in finding.found
    assert len(space.verify(quick=True)) == at_once


def test_the_remedy_of_stored_probabilities_makes_them_again(space: Predicted) -> None:
    before = space.stored(ONE).read_bytes()
    flip(space.stored(ONE))
    (finding,) = space.verify()
    assert finding.remedy == "Delete it, then run: gi2nnunet out-of-fold"
    finding.file.unlink()
    space.predict()
    assert space.verify() == []
    assert space.stored(ONE).read_bytes() == before


def test_a_prediction_without_a_score_is_whole(space: Predicted) -> None:
    for name in ("score-per-class.json", "score-per-class.csv", "truth.csv"):
        (space.scored / name).unlink()
    assert space.verify() == []
    flip(space.scored / "submission.csv")
    assert len(space.verify()) == 1
