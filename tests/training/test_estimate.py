"""Estimates: what they come to, where the time of an epoch is from, and the command."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.engine import Engine, Hardware
from gi2nnunet.nnunet.presets import PRESETS, TrainingSettings
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.source.phantom.listing import read_listing
from gi2nnunet.training.estimate import CARDS, Estimate, Request, TrainingCost, estimate_costs
from gi2nnunet.training.need import STOCK_PLANS, count_operations, is_stock, stock_plan
from gi2nnunet.training.prepared import digest_preprocessing, name_data_files, seal_data
from tests.converting import convert
from tests.engines import make_engine
from tests.source_factory import make_source, write_source

RunCommand = Callable[..., tuple[int, str, str]]

SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")
CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU, 2 cores")
A100 = Hardware(device="cuda", gpus=(0,), memory_gib=40, name="NVIDIA A100-PCIE-40GB (40 GiB)")
TINY = PRESETS["tiny"]
SHORT = TrainingSettings(epochs=4, iterations=10)
MEASURED = {"epoch_seconds": 24.0, "startup_seconds": 20.0, "batches": 9}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w", environ={})


@pytest.fixture
def dataset(tmp_path: Path, workspace: Workspace) -> Dataset:
    return convert(
        write_source(tmp_path / "source", make_source(SCANS)),
        workspace=workspace,
        holdout=0, folds=2, jobs=1,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def measurements(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Measuring takes seconds: the engine's tests do it. Returns the options of each task."""
    asked: list[dict[str, Any]] = []

    def run(self: Engine, task: str, options: dict[str, Any], **limits: Any) -> dict[str, Any]:
        assert task == "measure"
        asked.append({**options, **limits, "results": self.workspace.results})
        return MEASURED

    monkeypatch.setattr(Engine, "run", run)
    return asked


def plan(dataset: Dataset, workspace: Workspace, *, ready: bool = True) -> None:
    """Leave what planning leaves, and what preprocessing leaves where ``ready``."""
    folder = workspace.preprocessed / dataset.name
    names = {"2d": [8, 12, 12], "3d_fullres": [2, 4, 12, 12]}
    write_json(folder / f"{TINY.plans_name}.json", {"configurations": {key: {} for key in names}})
    write_json(
        folder / f"gi2nnunet_{TINY.plans_name}.json",
        {
            "recipe": {"dataset": dataset.digest},
            "plans": None,
            "configurations": {
                name: {
                    "data_identifier": name, "batch_size": batch, "patch_size": patch,
                    "spacing": [1.5] * len(patch),
                }
                for name, (batch, *patch) in names.items()
            },
        },
    )  # fmt: skip
    for name in names if ready else ():
        (folder / name).mkdir(exist_ok=True)
        for file in name_data_files(s.scan_id for s in dataset.scans if s.part == "train"):
            (folder / name / file).touch()
        preprocessing = digest_preprocessing(folder / f"{TINY.plans_name}.json", name)
        seal_data(folder / name, dataset, preprocessing=preprocessing)


def train(
    dataset: Dataset, workspace: Workspace, fold: int, *, seconds: float, epochs: int = 4,
    of: int = 4, iterations: int = 10, name: str = "2d", device: str = "cpu", card: str = "",
    gap: float = 1.0,
) -> None:  # fmt: skip
    """Leave what a training leaves whose epochs took so many seconds."""
    folder = workspace.results / dataset.name / f"nnUNetTrainer__{TINY.plans_name}__{name}"
    folder = folder / f"fold_{fold}"
    batch, *patch = {"2d": [8, 12, 12], "3d_fullres": [2, 4, 12, 12]}[name]
    write_json(
        folder / "gi2nnunet_training.json",
        {
            "settings": {"epochs": of, "iterations": iterations},
            "batch_size": batch, "patch_size": patch,
            "runs": [{"device": device, "threads": 1}],
        },
    )  # fmt: skip
    write_json(folder / "debug.json", {"gpu_name": card} if card else {})
    began = datetime(2026, 11, 24, 8)
    lines = []
    for epoch in range(epochs):
        at = began + timedelta(seconds=epoch * (seconds + gap))
        lines += [f"{at}.000001: Epoch {epoch}", f"{at}.000001: Epoch time: {seconds} s"]
    (folder / "training_log_2026_11_24_08_00_00.txt").write_text("\n".join(lines))
    if epochs >= of:
        (folder / "checkpoint_final.pth").touch()


def ask(
    dataset: Dataset, workspace: Workspace, *, hardware: Hardware = CPU, **changes: Any
) -> Estimate:
    request = Request(preset=TINY, configurations=("2d",), folds=(0, 1), settings=SHORT)
    return estimate_costs(
        dataset,
        engine=make_engine(workspace, hardware=hardware),
        request=replace(request, **changes),
    )


def test_nothing_to_go_by_is_refused_with_what_to_do(
    dataset: Dataset, workspace: Workspace
) -> None:
    with pytest.raises(InputError, match=r"nothing is planned.*Run gi2nnunet plan --preset tiny"):
        ask(dataset, workspace)
    plan(dataset, workspace)
    with pytest.raises(
        InputError, match=r"2d: it is not known .*CPU, 2 cores.* --measure .*--card NAME"
    ):
        ask(dataset, workspace)
    with pytest.raises(InputError, match=r"--config 3d_lowres: found 2d, 3d_fullres in the plan"):
        ask(dataset, workspace, configurations=("3d_lowres",))


def test_what_is_not_preprocessed_is_not_measured(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace, ready=False)
    with pytest.raises(InputError, match=r"not preprocessed.*gi2nnunet plan .* --config 2d"):
        ask(dataset, workspace, measure_seconds=1)


def test_a_split_that_is_gone_is_not_made_anew_by_measuring(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    split = workspace.preprocessed / dataset.name / "splits_final.json"
    split.unlink()
    with pytest.raises(InputError, match=r"splits_final\.json"):
        ask(dataset, workspace, measure_seconds=1)
    assert not split.exists()
    assert ask(dataset, workspace, measure_seconds=1, folds=("all",)).trainings


def test_a_plan_of_another_dataset_does_not_count(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    other = replace(dataset, label_scheme="exclusive")
    with pytest.raises(InputError, match="nothing is planned"):
        ask(other, workspace, measure_seconds=1)


def test_a_short_run_counts_before_trainings_and_these_before_the_table(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    assert ask(dataset, workspace, hardware=A100).paces["2d"].source == "card"
    train(dataset, workspace, 0, seconds=5, device="cuda", card="NVIDIA A100-PCIE-40GB")
    found = ask(dataset, workspace, hardware=A100)
    assert (found.paces["2d"].source, found.notes) == ("trainings", ())
    found = ask(dataset, workspace, hardware=A100, measure_seconds=1)
    assert found.paces["2d"].source == "measured"
    assert found.trainings[0].state == "finished"


@pytest.mark.parametrize(
    "hardware",
    [
        replace(A100, name="NVIDIA A100-PCIE-40GB MIG 1g.5gb (5 GiB)", memory_gib=5),
        replace(A100, name="NVIDIA A100-SXM4-40GB (40 GiB)"),
        replace(A100, name="Tesla T4 (15 GiB)", memory_gib=15),
        CPU,
    ],
)
def test_what_was_trained_on_a_card_says_nothing_of_another_device(
    dataset: Dataset, workspace: Workspace, hardware: Hardware
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=5, device="cuda", card="NVIDIA A100-PCIE-40GB")
    if "MIG" in hardware.name or hardware is CPU:  # and neither does the table
        with pytest.raises(InputError, match="--measure"):
            ask(dataset, workspace, hardware=hardware)
    else:
        assert ask(dataset, workspace, hardware=hardware).paces["2d"].source == "card"


def test_a_card_that_is_named_is_priced_by_the_table_only(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=5, device="cuda", card="NVIDIA A100-PCIE-40GB")
    slow, fast = (ask(dataset, workspace, card=CARDS[name]) for name in ("T4", "A100"))
    assert fast.paces["2d"].source == "card"
    assert "A100: estimated from a table, not measured" in fast.notes[0]
    batches = [found.paces["2d"].epoch_seconds - 1.0 for found in (slow, fast)]
    assert batches[0] / batches[1] == pytest.approx(312 / 65)
    assert fast.trainings[0].state == "finished"  # wherever it ran


def test_measuring_trains_as_training_would_and_elsewhere(
    dataset: Dataset, workspace: Workspace, measurements: list[dict[str, Any]]
) -> None:
    plan(dataset, workspace)
    settings = replace(SHORT, trainer="nnUNetTrainerDA5")
    ask(dataset, workspace, measure_seconds=7, settings=settings, folds=(1, 0))
    (asked,) = measurements
    expected = {
        "trainer": "nnUNetTrainerDA5", "configuration": "2d", "fold": 1, "iterations": 10,
        "seconds": 7, "device": "cpu", "trust": False, "helpers": 0, "warm_up": 2,
        "augment": "processor",
    }  # fmt: skip
    assert {key: asked[key] for key in expected} == expected
    assert asked["results"] != workspace.results
    assert not asked["results"].exists()
    assert list(workspace.logs.iterdir()) == []


def test_hours_are_starts_and_epochs(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    found = ask(dataset, workspace, measure_seconds=1)
    assert [entry.epoch_seconds for entry in found.trainings] == [24, 24]
    assert [entry.seconds_left for entry in found.trainings] == [20 + 4 * 24] * 2
    assert found.wall_seconds_left == found.seconds_left == 2 * (20 + 4 * 24)
    assert found.preparing_seconds == 0
    one, two = (
        ask(dataset, workspace, measure_seconds=1, folds=folds).disk_bytes["results"]
        for folds in ((0,), (0, 1))
    )
    parameters = STOCK_PLANS["tiny", "2d"].parameters
    assert (one, two) == (3 * 8 * parameters, 5 * 8 * parameters)


def test_a_trainer_that_is_named_by_its_epochs_takes_these(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    settings = TrainingSettings(trainer="nnUNetTrainer_250epochs")
    found = ask(dataset, workspace, measure_seconds=1, settings=settings)
    assert found.trainings[0].epochs == 250
    assert found.trainings[0].seconds == 20 + 250 * 24


def test_cards_share_the_work_and_each_needs_memory(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    one, two, many = (ask(dataset, workspace, card=CARDS["T4"], cards=cards) for cards in (1, 2, 9))
    assert one.wall_seconds_left == one.seconds_left
    assert two.wall_seconds_left == pytest.approx(one.seconds_left / 2)
    assert many.wall_seconds_left == two.wall_seconds_left
    assert two.seconds_left == one.seconds_left
    assert two.memory_bytes["train"] == 2 * one.memory_bytes["train"] == many.memory_bytes["train"]


@given(seconds=st.lists(st.integers(0, 10_000), min_size=1, max_size=30), cards=st.integers(1, 8))
def test_no_card_waits_while_a_training_is_left(seconds: list[int], cards: int) -> None:
    found = Estimate(
        dataset="", preset="", plan="", device="", on_cards=True, cards=cards, paces={},
        trainings=tuple(
            TrainingCost(
                configuration="2d", fold=fold, state="new", epochs_done=0, epochs=1,
                epoch_seconds=value, seconds=value, seconds_left=value,
            )
            for fold, value in enumerate(seconds)
        ),
        preparing_seconds=0, predicting_seconds={}, disk_bytes={}, memory_bytes={},
        gpu_memory_gib=None, notes=(),
    )  # fmt: skip
    wall, total, longest = found.wall_seconds_left, sum(seconds), max(seconds)
    assert max(longest, total / cards) <= wall
    assert wall <= total / cards + (1 - 1 / cards) * longest + 1e-6  # Graham's bound
    if cards == 1:
        assert wall == total


def test_what_is_done_counts_as_done(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    train(dataset, workspace, 1, seconds=8, epochs=1)
    found = ask(dataset, workspace)
    done, begun = found.trainings
    assert (done.state, done.epochs_done, done.seconds_left) == ("finished", 4, 0)
    assert (begun.state, begun.epochs_done) == ("begun", 1)
    assert begun.epoch_seconds == pytest.approx(8 + 0.5)  # the pause is known of one fold of two
    assert begun.seconds_left == pytest.approx(15 + 3 * begun.epoch_seconds)
    assert found.notes == ()
    assert found.paces["2d"].described == "trained here: 5 epochs of fold 0, 1"


def test_a_first_epoch_that_compiles_does_not_count_for_all(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    (log,) = workspace.results.rglob("training_log_*.txt")
    log.write_text(log.read_text().replace("Epoch time: 8 s", "Epoch time: 90 s", 1))
    assert ask(dataset, workspace).paces["2d"].epoch_seconds == pytest.approx(8 + 1)


def test_a_training_of_another_length_is_a_new_one_with_a_note(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    found = ask(dataset, workspace, settings=TrainingSettings(epochs=9, iterations=20))
    assert found.trainings[0].state == "new"
    assert "2d, fold 0: was trained for 4 epochs of 10 batches, not 9 of 20" in found.notes[0]
    # Twice as many batches, of training and of validation, take twice as long.
    assert found.trainings[0].epoch_seconds == pytest.approx(2 * 8 + 1)


def test_trainings_of_another_patch_or_with_damaged_records_say_nothing(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    folder = workspace.results / dataset.name / f"nnUNetTrainer__{TINY.plans_name}__2d"
    record = folder / "fold_0" / "gi2nnunet_training.json"
    whole = json.loads(record.read_text())
    damaged = ({"patch_size": [16, 16]}, {"patch_size": "12"}, {"settings": None}, {"runs": [5]})
    for changes in damaged:
        write_json(record, {**whole, **changes})
        with pytest.raises(InputError, match="it is not known"):
            ask(dataset, workspace)
    record.write_text("{")
    (folder / "fold_x").mkdir()
    with pytest.raises(InputError, match="it is not known"):
        ask(dataset, workspace)


def test_predictions_take_what_they_took_here_on_the_same_hardware(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    unknown = {"out_of_fold": None, "held_out": None}
    assert ask(dataset, workspace, measure_seconds=1).predicting_seconds == unknown
    model = f"nnUNetTrainer__{TINY.plans_name}__2d"
    cost = {"scans": 2, "seconds_per_scan": 3.0, "device": "cpu", "hardware": CPU.name}
    write_json(workspace.predictions / dataset.name / "out_of_fold" / model / "cost.json", cost)
    write_json(
        workspace.predictions / "held-out" / f"{model}__fold_01" / "cost.json",
        {**cost, "seconds_per_scan": 5.0},
    )
    held = replace(dataset, scans=(*dataset.scans, replace(dataset.scans[0], part="holdout")))
    plan(held, workspace)
    found = ask(held, workspace, measure_seconds=1)
    assert found.predicting_seconds == {"out_of_fold": 4 * 3.0, "held_out": 1 * 5.0}
    other = replace(CPU, name="CPU, 64 cores")
    found = ask(held, workspace, hardware=other, measure_seconds=1)
    assert found.predicting_seconds == unknown


# -- before planning


def stock_scan(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> DatasetScan:
    depth, height, width = shape
    return DatasetScan(
        scan_id="case1_day0", patient_id="case1", part="train", first_number=1, depth=depth,
        height=height, width=width, spacing_mm=spacing_mm, labelled=True,  # type: ignore[arg-type]
    )  # fmt: skip


# Shape and spacing (mm), (z, y, x), and how many of the 274 scans have them.
GEOMETRIES = (
    ((144, 266, 266), (3.0, 1.5, 1.5), 180),
    ((144, 310, 360), (3.0, 1.5, 1.5), 78),
    ((80, 276, 276), (3.0, 1.63, 1.63), 15),
    ((144, 234, 234), (3.0, 1.5, 1.5), 1),
)


def test_the_competitions_sizes_are_estimated_before_anything_is_planned(
    dataset: Dataset, workspace: Workspace
) -> None:
    assert not is_stock(dataset)
    scans = tuple(
        replace(stock_scan(shape, spacing), scan_id=f"case{index}_day{day}")
        for index, (shape, spacing, count) in enumerate(GEOMETRIES)
        for day in range(count)
    )
    whole = replace(dataset, scans=scans, splits=())
    assert is_stock(whole)
    large = {"preset": PRESETS["resenc-l"], "folds": ("all",), "settings": TrainingSettings()}
    found = ask(whole, workspace, configurations=("3d_fullres",), card=CARDS["A100"], **large)
    assert "known beforehand" in found.plan
    assert "gi2nnunet plan --preset resenc-l" in found.notes[0]
    assert found.gpu_memory_gib == 24
    (training,) = found.trainings
    assert training.epochs == 1000
    assert 25 < training.seconds / 3600 < 45  # nnU-Net's authors publish 35
    assert found.preparing_seconds > 60
    small = ask(whole, workspace, card=CARDS["T4"], **large)
    assert "GPU memory: found 16.0 GiB; expected 24 GiB for resenc-l" in small.notes[-1]


@pytest.mark.parametrize(
    ("preset", "hours"), [("default", 9), ("resenc-m", 12), ("resenc-l", 35), ("resenc-xl", 66)]
)
def test_the_hours_that_nnunets_authors_publish_for_an_a100_are_met_within_a_quarter(
    dataset: Dataset, workspace: Workspace, preset: Any, hours: float
) -> None:
    whole = replace(dataset, scans=(stock_scan(*GEOMETRIES[0][:2]),), splits=())
    found = ask(
        whole, workspace, preset=PRESETS[preset], configurations=("3d_fullres",), folds=("all",),
        card=CARDS["A100"], settings=TrainingSettings(),
    )  # fmt: skip
    assert found.seconds_left / 3600 == pytest.approx(hours, rel=0.25)


def test_operations_grow_with_batch_and_patch() -> None:
    planned = stock_plan(PRESETS["default"], folder=Path())["3d_fullres"]
    whole = count_operations(PRESETS["default"], planned)
    assert whole == pytest.approx(2 * 1095.1e9)
    half = replace(planned, batch_size=1)
    assert count_operations(PRESETS["default"], half) == pytest.approx(1095.1e9)
    assert count_operations(PRESETS["default"], replace(planned, name="3d_lowres")) is None


def test_the_sizes_are_those_of_the_real_scans(real_data: Path) -> None:
    found = Counter(
        ((g.slices, g.height, g.width), (3.0, *g.spacing_mm))
        for g in (scan.geometry for scan in read_listing(real_data / "slices.csv.gz").values())
    )
    assert found == {(shape, spacing): count for shape, spacing, count in GEOMETRIES}


# -- the command


def test_the_command_prints_where_times_are_from_totals_and_what_comes_next(
    dataset: Dataset, workspace: Workspace, run: RunCommand
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=9, iterations=10)
    words = ("estimate", "-w", str(workspace.raw.parent), "--preset", "tiny", "--fold", "cv")
    code, out, err = run(*words, "--card", "rtx 4090", "--gpus", "2", "--config", "2d")
    assert code == 0
    assert "tiny on RTX 4090, 2 at a time" in out
    assert "Time of 2d: not measured: 19% of the 165.2 TFLOPS of one RTX 4090" in out
    assert "GPU-hours" in out
    assert "RTX 4090: estimated from a table" in err
    options = "--config 2d --preset tiny --fold cv --gpus 2"
    assert f"Next: gi2nnunet train --workspace {Path(words[2]).name} {options}" in err
    short = ("--config", "2d", "--device", "cpu", "--epochs", "4", "--iterations", "10")
    code, out, err = run(*words, *short, "--measure")
    assert code == 0
    assert "finished" in out
    assert "Time of 2d: measured now: 9 batches" in out
    code, out, err = run(*words, *short, "--json")
    content = json.loads(out)
    assert content["total"]["device_seconds_left"] == pytest.approx(15 + 4 * 10)
    assert [entry["state"] for entry in content["trainings"]] == ["finished", "new"]
    assert content["paces"]["2d"]["source"] == "trainings"


def test_every_key_of_the_json_is_in_the_docs(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    content = ask(dataset, workspace, measure_seconds=1).to_json()
    docs = (Path(__file__).parents[2] / "docs" / "estimate.md").read_text()
    documented = set(re.findall(r"`(\w+)`", docs[docs.index("## JSON") :]))
    inner = ("total", "predicting_seconds", "disk_bytes", "memory_bytes")
    keys = {*content, *content["trainings"][0], *content["paces"]["2d"]}
    assert keys.union(*(content[name] for name in inner)) <= documented
