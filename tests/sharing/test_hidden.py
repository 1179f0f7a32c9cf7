"""The test scans of a source, of which one may be bad."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.postprocess import Decision, OrganDecision, Tuned
from gi2nnunet.prediction.predict import PredictedScan
from gi2nnunet.sharing import hidden
from gi2nnunet.sharing.hidden import predict_hidden
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions
from tests.engines import make_engine


def put(root: Path, scan_id: str, numbers: tuple[int, ...], size: str = "8_8") -> None:
    folder = root / "test" / scan_id.split("_")[0] / scan_id / "scans"
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"slice_{number:04d}_{size}_1.50_1.50.png").write_bytes(b"")


def test_a_scan_with_a_gap_is_set_apart_and_keeps_its_rows(tmp_path: Path) -> None:
    put(tmp_path, "case1_day0", (1, 2))
    put(tmp_path, "case2_day0", (1, 3))
    (tmp_path / "test" / "notes.png").write_bytes(b"")
    (tmp_path / "train.csv").write_text("not read")
    found = open_source(tmp_path, SourceOptions(scope="hidden"))
    assert {name: scan.numbers for name, scan in found.scans.items()} == {"case1_day0": (1, 2)}
    assert found.unreadable == {"case2_day0": (1, 3)}
    assert len(found.warnings) == 2
    assert any("case2_day0 is left empty" in w and "no slice 2" in w for w in found.warnings)


def test_only_bad_scans_give_empty_rows_and_no_test_gives_the_header(tmp_path: Path) -> None:
    bad, nothing = tmp_path / "bad", tmp_path / "nothing"
    put(bad, "case2_day0", (1, 3))
    nothing.mkdir()
    (nothing / "sample_submission.csv").write_text("id,class,predicted\n")
    lines = {}
    for source in (bad, nothing):
        out = tmp_path / f"{source.name}.csv"
        done = predict_hidden(
            source, tmp_path / "no-model", out, hours=1,
            engine=make_engine(open_workspace(tmp_path / "w", environ={})),
        )  # fmt: skip
        assert done.outcome is None
        lines[source.name] = out.read_text().splitlines()
    assert lines["nothing"] == ["id,class,predicted"]
    assert len(lines["bad"]) == 7
    assert all(line.endswith(",") for line in lines["bad"][1:])


def test_the_submission_stands_before_the_model_is_opened(tmp_path: Path) -> None:
    put(tmp_path / "s", "case1_day0", (1, 2))
    out = tmp_path / "submission.csv"
    with pytest.raises(InputError, match="no-model"):
        predict_hidden(
            tmp_path / "s", tmp_path / "no-model", out, hours=1,
            engine=make_engine(open_workspace(tmp_path / "w", environ={})),
        )  # fmt: skip
    assert len(out.read_text().splitlines()) == 7


@pytest.mark.parametrize("mirroring", [True, False])
def test_a_tuning_chosen_with_mirroring_is_doubted_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirroring: bool
) -> None:
    put(tmp_path / "s", "case1_day0", (1, 2))
    bundle = SimpleNamespace(dataset="Dataset501_UWGI", n_folds=1, folds={"2d": (0,)})
    tuned = Tuned(
        path=Path("tuning.json"), decision=Decision(organs={"stomach": OrganDecision()}),
        content={"computing": {"mirroring": True, "step_size": 0.5}},
    )  # fmt: skip

    def predict(_ensemble: Any, scans: Any, *, settings: Any, on_scan: Any, **_: Any) -> None:
        assert settings.mirroring == mirroring
        for scan in scans:
            on_scan(PredictedScan(scan_id=scan.scan_id, rows=(), seconds=1.0))

    model = SimpleNamespace(bundle=bundle)
    for name, stand_in in {
        "import_model": lambda *_, **__: model,
        "choose_ensemble": lambda *_, **__: SimpleNamespace(folds=(0,)),
        "find_tuning": lambda _: (tuned, []),
        "predict_scans": predict,
    }.items():
        monkeypatch.setattr(hidden, name, stand_in)
    done = predict_hidden(
        tmp_path / "s", tmp_path / "model", tmp_path / "submission.csv", hours=1,
        engine=make_engine(open_workspace(tmp_path / "w", environ={})), mirroring=mirroring,
    )  # fmt: skip
    doubted = [text for text in done.warnings if "chosen with mirroring on" in text]
    assert len(doubted) == (0 if mirroring else 1)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a source"):
        open_source(tmp_path, SourceOptions(scope="hidden"))
