"""Scans dealt out, kept, taken up again; the engine is a stand-in."""

import json
import threading
from pathlib import Path

import pytest

from gi2nnunet.core.errors import EngineError, InputError
from gi2nnunet.core.locks import find_holders
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.engine import COST, Hardware
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.prediction.predict import predict_scans, write_cost
from gi2nnunet.source.nifti import NiftiScan
from tests.engines import compute
from tests.model_factory import write_model

CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")
CARDS = Hardware(device="cuda", gpus=(0, 1), memory_gib=8.0, name="cards")


class Engine:
    """Tells a row a scan; fails where it is told to."""

    def __init__(self):
        self.asked = []
        self.unreadable = set()
        self.dies_before = set()
        self.fails_on = set()
        self.bad_cards = set()
        self.lock = threading.Lock()

    def __call__(self, task, options, *, environment, on_event, **_):
        assert task == "predict"
        json.dumps(options)
        card = environment.get("CUDA_VISIBLE_DEVICES")
        failed = []
        for number, scan in enumerate(options["scans"]):
            name = scan["scan"]["scan_id"]
            if name in self.dies_before or (card in self.bad_cards and number == 1):
                raise EngineError("it was killed")
            with self.lock:
                self.asked.append((name, card))
            if name in self.fails_on:
                failed.append(name)
                continue
            if name in self.unreadable:
                on_event({"event": "unreadable", "scan_id": name, "message": "cut off"})
                continue
            row = [f"{name}_slice_0001", "stomach", f"{len(name)} 1"]
            on_event({"event": "scan", "scan_id": name, "rows": [row], "seconds": 2.0})
        if failed:
            raise EngineError(f"{failed[0]}: MemoryError")
        return {}


class Bench:
    def __init__(self, folder: Path):
        self.workspace = open_workspace(folder / "w", environ={})
        write_model(self.workspace.results)
        self.ensemble = choose_ensemble(self.workspace.results / "Dataset501_UWGI", n_folds=0)
        self.kept = folder / "out" / ".predicting"
        self.engine = Engine()
        self.scans = []
        for number in range(5):
            path = folder / f"case{number}_day0.nii.gz"
            path.write_bytes(b"volume")
            self.scans.append(
                NiftiScan(
                    scan_id=path.name[:-7], part="test", first_number=1, shape=(1, 2, 2),
                    spacing_mm=(3.0, 1.5, 1.5), image=path,
                )
            )  # fmt: skip

    def predict(self, **options):
        options.setdefault("kept", self.kept)
        computing = {"hardware": CPU, "threads": 1}
        for name in ("hardware", "threads", "mirroring", "step_size"):
            if name in options:
                computing[name] = options.pop(name)
        return predict_scans(
            self.ensemble, self.scans, **compute(self.workspace, **computing), **options
        ).scans

    def names(self):
        return [name for name, _ in self.engine.asked]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = Bench(tmp_path)
    monkeypatch.setattr(engine_module, "run_engine", made.engine)
    return made


def test_the_models_are_held_while_they_predict(bench):
    """So that they are not removed, wherever the prediction is written."""
    folder = bench.ensemble.models[0].folder
    held = []
    bench.predict(kept=None, on_scan=lambda _: held.append(find_holders(folder)))
    assert len(held) == len(bench.scans)
    assert {holder.purpose for holders in held for holder in holders} == {"predicting"}
    assert find_holders(folder) == ()


def test_an_interrupted_run_goes_on_where_it_stopped(bench):
    whole = bench.predict(kept=None)
    bench.engine.asked.clear()
    bench.engine.dies_before = {"case3_day0"}
    with pytest.raises(EngineError):
        bench.predict()
    assert bench.names() == ["case0_day0", "case1_day0", "case2_day0"]
    bench.engine.dies_before = set()
    told = []
    again = bench.predict(on_scan=lambda scan: told.append(scan.scan_id))
    assert bench.names()[3:] == ["case3_day0", "case4_day0"]
    assert again == whole
    assert told == [f"case{n}_day0" for n in range(5)]


def test_a_run_that_finds_everything_kept_needs_no_card(bench, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the cards were looked for")

    bench.predict(hardware=CARDS)
    bench.engine.asked.clear()
    monkeypatch.setattr(engine_module.Engine, "ask", refuse)
    notices = []
    on_cuda = {"hardware": None, "device": "cuda", "threads": 1}
    options = compute(bench.workspace, **on_cuda)
    done = predict_scans(
        bench.ensemble, bench.scans, kept=bench.kept, on_notice=notices.append, **options
    )
    assert len(done.scans) == 5
    assert (bench.engine.asked, notices) == ([], [])
    write_cost(bench.kept.parent, done, options["engine"], seconds_per_scan=1.0)
    cost = json.loads((bench.kept.parent / COST).read_text())
    assert cost == {"scans": 5, "seconds_per_scan": 1.0, "device": "cuda"}


@pytest.mark.parametrize(
    "change",
    [
        lambda bench: {"mirroring": False},
        lambda bench: {"step_size": 0.7},
        lambda bench: {"threads": 2},
        lambda bench: touch(bench.scans[0].image),
        lambda bench: touch(bench.ensemble.models[0].folder / "fold_all" / "checkpoint_final.pth"),
        lambda bench: spoil(bench.kept / "case0_day0.json"),
    ],
)
def test_what_was_made_otherwise_is_not_taken_up(bench, change):
    bench.predict()
    bench.engine.asked.clear()
    bench.predict(**change(bench))
    assert "case0_day0" in bench.names()


def touch(path):
    path.write_bytes(path.read_bytes() + b" ")
    return {}


def spoil(path):
    path.write_text(path.read_text()[:-20])
    return {}


def test_scans_that_cannot_be_read_are_told_together_and_the_others_kept(bench):
    bench.engine.unreadable = {"case1_day0", "case4_day0"}
    with pytest.raises(InputError) as told:
        bench.predict()
    assert "case1_day0: cut off\ncase4_day0: cut off\n2 of 5 scans" in str(told.value)
    bench.engine.unreadable = set()
    bench.engine.asked.clear()
    assert len(bench.predict()) == 5
    assert bench.names() == ["case1_day0", "case4_day0"]


def test_cards_share_the_scans_and_take_over_what_one_leaves(bench):
    whole = bench.predict(hardware=CARDS, kept=None)
    assert {card for _, card in bench.engine.asked} == {"0", "1"}
    bench.engine.asked.clear()
    bench.engine.bad_cards = {"1"}
    assert bench.predict(hardware=CARDS, kept=None) == whole
    assert sorted(bench.names()) == [f"case{n}_day0" for n in range(5)]
    assert sum(card == "1" for _, card in bench.engine.asked) == 1


def test_where_every_card_fails_it_is_told(bench):
    bench.engine.dies_before = {"case2_day0"}
    with pytest.raises(EngineError, match="it was killed"):
        bench.predict(hardware=CARDS)
    assert {path.stem for path in bench.kept.iterdir()} == {
        "case0_day0",
        "case1_day0",
        "case3_day0",
    }


@pytest.mark.parametrize("hardware", [CPU, CARDS])
def test_a_scan_that_fails_is_told_with_what_is_kept_and_what_cannot_be_read(bench, hardware):
    bench.engine.fails_on, bench.engine.unreadable = {"case2_day0"}, {"case3_day0"}
    with pytest.raises(EngineError) as told:
        bench.predict(hardware=hardware)
    assert str(told.value).splitlines() == [
        "case2_day0: MemoryError",
        "case3_day0: cut off",
        "3 of 5 scans are predicted and kept: the same command goes on from there.",
    ]
    # Another card takes it over; where it fails there too the run ends.
    assert bench.names().count("case2_day0") == len(hardware.slots)
    bench.engine.fails_on = bench.engine.unreadable = set()
    bench.engine.asked.clear()
    assert len(bench.predict(hardware=hardware)) == 5
    assert set(bench.names()) == {"case2_day0", "case3_day0"}


@pytest.mark.parametrize("hardware", [CPU, CARDS])
def test_an_error_of_the_callers_own_function_reaches_the_caller(bench, hardware):
    def show(scan):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.predict(hardware=hardware, on_scan=show)


@pytest.mark.parametrize(
    "others",
    [
        {"2d": {"previous_stage": "3d_lowres"}},
        {
            "2d": {"inherits_from": "a"}, "a": {"inherits_from": "b"},
            "b": {"previous_stage": "3d_lowres"},
        },
    ],
)  # fmt: skip
def test_a_cascade_is_refused_before_anything_is_computed(bench, others):
    change_plans(bench, others)
    with pytest.raises(InputError) as told:
        bench.predict()
    assert "found a cascade, which takes the segmentation of 3d_lowres" in str(told.value)
    assert "--config: 2d, 3d_fullres, 3d_lowres." in str(told.value)
    assert bench.engine.asked == []


@pytest.mark.parametrize(
    "others",
    [
        {
            "2d": {"previous_stage": None, "inherits_from": "a"},
            "a": {"previous_stage": "3d_lowres"},
        },
        {"2d": {"next_stage": "3d_cascade_fullres", "inherits_from": "2d"}},
        {"2d": {"inherits_from": "nowhere"}},
    ],
)  # fmt: skip
def test_what_is_no_cascade_is_predicted(bench, others):
    change_plans(bench, others)
    assert len(bench.predict()) == 5


def change_plans(bench, others):
    path = bench.ensemble.models[0].folder / "plans.json"
    plans = json.loads(path.read_text())
    for name, values in others.items():
        plans["configurations"][name] = plans["configurations"].get(name, {}) | values
    path.write_text(json.dumps(plans))
