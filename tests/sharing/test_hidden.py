"""The test scans of a source, of which one may be bad."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.cards import Card, Cards, CheckedCard, Devices
from gi2nnunet.nnunet.engine import Engine, Hardware
from gi2nnunet.nnunet.postprocess import Decision, OrganDecision, Tuned
from gi2nnunet.prediction.predict import PredictedScan
from gi2nnunet.sharing import hidden
from gi2nnunet.sharing.hidden import predict_hidden
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import SourceOptions
from tests.engines import CPU, make_engine


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

        def predict(source: Path = source, out: Path = out) -> Any:
            return predict_hidden(
                source, tmp_path / "no-model", out, hours=1,
                engine=make_engine(open_workspace(tmp_path / "w", environ={})),
            )  # fmt: skip

        if source == bad:
            message = "nothing was predicted of 1 scan(.|\n)*case2_day0 is left empty"
            with pytest.raises(InputError, match=message):
                predict()
        else:
            assert predict().outcome is None
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


CARDS = Hardware(device="cuda", gpus=(0, 1), memory_gib=15.6, name="Tesla T4, Tesla T4")
NO_KERNELS = "nnU-Net failed: CUDA error: no kernel image is available for execution"


class Machine:
    """Predictions by a stand-in that fails on cards, on scans, or gives nothing."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.asked, self.notices = folder, [], []  # type: ignore[var-annotated]
        self.fails: dict[str, str] = {}
        bundle = SimpleNamespace(dataset="Dataset501_UWGI", n_folds=1, folds={"2d": (0,)})
        for name, stand_in in {
            "import_model": lambda *_, **__: SimpleNamespace(bundle=bundle),
            "choose_ensemble": lambda *_, **__: SimpleNamespace(folds=(0,)),
            "find_tuning": lambda _: (None, []),
            "predict_scans": self.predict_scans,
        }.items():
            monkeypatch.setattr(hidden, name, stand_in)

    def predict_scans(self, _: Any, scans: Any, *, engine: Engine, on_scan: Any, **__: Any) -> None:
        device = engine.hardware.device
        for scan in scans:
            self.asked.append((scan.scan_id, device, engine.hardware.gpus))
            if failure := self.fails.get(device) or self.fails.get(scan.scan_id):
                raise EngineError(failure)
            row = (f"{scan.scan_id}_slice_0001", "stomach", "1 1")
            on_scan(PredictedScan(scan_id=scan.scan_id, rows=(row,), seconds=0.1))

    def predict(self, hardware: Hardware = CARDS, hours: float = 1.0) -> hidden.HiddenPrediction:
        engine = make_engine(open_workspace(self.folder / "w", environ={}), hardware=hardware)
        return predict_hidden(
            self.folder / "s", self.folder / "model", self.folder / "submission.csv", hours=hours,
            engine=engine, on_notice=self.notices.append,
        )  # fmt: skip

    def masks(self) -> int:
        return (self.folder / "submission.csv").read_text().count("1 1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    for number in range(1, 6):
        put(tmp_path / "s", f"case{number}_day0", (1, 2))
    return Machine(tmp_path, monkeypatch)


def test_cards_that_fail_give_way_to_the_cpu(machine: Machine) -> None:
    machine.fails = {"cuda": NO_KERNELS}
    done = machine.predict()
    assert done.outcome is not None
    assert (len(done.outcome.used), done.outcome.failed) == (5, {})
    assert machine.masks() == 5
    # The cards are tried once, not scan by scan.
    assert [device for _, device, _ in machine.asked].count("cuda") == 1
    assert machine.notices[0] == "Computing on: Tesla T4, Tesla T4"
    assert "as no GPU goes on: nnU-Net failed: CUDA error" in machine.notices[1]


def test_a_bad_scan_is_not_the_cards_fault(machine: Machine) -> None:
    machine.fails = {"case3_day0": "case3_day0: MemoryError"}
    done = machine.predict()
    assert done.outcome is not None
    assert list(done.outcome.failed) == ["case3_day0"]
    assert {device for _, device, _ in machine.asked} == {"cuda"}


def test_nothing_predicted_is_an_error_and_the_submission_is_valid(machine: Machine) -> None:
    machine.fails = {"cpu": "nnU-Net failed: all is broken"}
    message = r"submission\.csv: nothing was predicted of 5 scans(.|\n)*case1_day0 is left.*broken"
    with pytest.raises(EngineError, match=message):
        machine.predict(hardware=CPU)
    assert machine.masks() == 0
    assert len((machine.folder / "submission.csv").read_text().splitlines()) == 1 + 5 * 2 * 3


def test_a_budget_in_which_nothing_was_predicted_is_an_error(machine: Machine) -> None:
    with pytest.raises(EngineError, match=r"5 of 5 scans, left empty(.|\n)*more --hours"):
        machine.predict(hours=0.0)
    assert machine.asked == []


def test_every_card_that_works_is_used(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def check(_: Engine, *, wanted: int | None) -> Cards:
        asked.append(wanted)
        cards = [Card(index=n, name="Tesla T4", memory_gib=15.6) for n in range(2)]
        found = Devices(torch="2.15.0", cards=tuple(cards))
        return Cards(
            devices=found, checked=tuple(CheckedCard(card=card, tested=True) for card in cards)
        )

    monkeypatch.setattr(Engine, "check_cards", check)
    space = open_workspace(tmp_path / "w", environ={})
    predict_hidden(
        tmp_path / "s", tmp_path / "model", tmp_path / "submission.csv", hours=1,
        engine=Engine(workspace=space, environ={}),
    )  # fmt: skip
    assert asked == [None]  # all of them
    assert {gpus for _, _, gpus in machine.asked} == {(0, 1)}


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a source"):
        open_source(tmp_path, SourceOptions(scope="hidden"))
