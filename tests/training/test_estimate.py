"""What an estimate comes to, from which source, and how it is held to what was trained."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.convert import convert
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.hardware import Hardware
from gi2nnunet.nnunet.presets import PRESETS, TrainingSettings
from gi2nnunet.source.dataset import DatasetScan
from gi2nnunet.source.phantom.listing import read_listing
from gi2nnunet.training import estimate
from gi2nnunet.training.estimate import (
    Estimate,
    Request,
    count_passes,
    estimate_costs,
    prediction_seconds,
)
from gi2nnunet.training.gpus import CARDS
from gi2nnunet.training.need import GEOMETRIES, is_stock, stock_flops
from gi2nnunet.training.pace import Pace, read_past, validation_batches
from gi2nnunet.training.plan import (
    PlannedConfiguration,
    completion_mark,
    digest_preprocessing,
)
from tests.engines import make_engine
from tests.source_factory import make_source, write_source

RunCommand = Callable[..., tuple[int, str, str]]

SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")
CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU, 2 cores")
A100 = Hardware(device="cuda", gpus=(0,), memory_gib=40, name="NVIDIA A100-PCIE-40GB (40 GiB)")
TINY = PRESETS["tiny"]
MEASURED = Pace(
    source="measured", described="measured now", train_seconds=2.0, validation_seconds=0.5,
    epoch_end_seconds=3.0, startup_seconds=20.0, measured={"checkpoint_bytes": 1000},
)  # fmt: skip


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
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting and measuring take seconds: the engine's tests do both."""
    monkeypatch.setattr(estimate, "count_flops", lambda names, **_: dict.fromkeys(names, 1e12))
    monkeypatch.setattr(estimate, "measure_pace", lambda planned, **_: MEASURED)


def plan(dataset: Dataset, workspace: Workspace, *, ready: bool = True) -> None:
    """Leave what planning leaves, and what preprocessing leaves where ``ready``."""
    folder = workspace.preprocessed / dataset.name
    names = {"2d": [8, 12, 12], "3d_fullres": [2, 4, 12, 12]}
    write_json(folder / f"{TINY.plans_name}.json", {"configurations": {key: {} for key in names}})
    write_json(
        folder / f"gi2nnunet_{TINY.plans_name}.json",
        {
            "recipe": {"dataset": dataset.digest},
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
        (folder / name).mkdir()
        for scan in dataset.scans:
            (folder / name / f"{scan.scan_id}.pkl").touch()
        mark = {
            "dataset": dataset.digest,
            "preprocessing": digest_preprocessing(folder / f"{TINY.plans_name}.json", name),
        }
        write_json(completion_mark(folder / name), mark)


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
    length = {key: changes.pop(key, value) for key, value in (("epochs", 4), ("iterations", 10))}
    request = Request(
        preset=TINY, configurations=("2d",), folds=(0, 1), settings=TrainingSettings(**length)
    )
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
    with pytest.raises(InputError, match=r"2d: nothing tells .* --measure .*--card NAME"):
        ask(dataset, workspace)
    with pytest.raises(InputError, match=r"--config 3d_lowres: found 2d, 3d_fullres in the plan"):
        ask(dataset, workspace, configurations=("3d_lowres",))


def test_what_is_not_preprocessed_is_not_measured(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace, ready=False)
    with pytest.raises(InputError, match=r"not preprocessed.*gi2nnunet plan .* --config 2d"):
        ask(dataset, workspace, measure=True)


def test_a_split_that_is_gone_is_not_made_anew_by_measuring(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    split = workspace.preprocessed / dataset.name / "splits_final.json"
    split.unlink()
    with pytest.raises(InputError, match=r"splits_final\.json"):
        ask(dataset, workspace, measure=True)
    assert not split.exists()
    assert ask(dataset, workspace, measure=True, folds=("all",)).trainings


def test_a_plan_of_another_dataset_does_not_count(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    other = replace(dataset, label_scheme="exclusive")
    with pytest.raises(InputError, match="nothing is planned"):
        ask(other, workspace, measure=True)


def test_trainings_count_before_a_short_run_and_that_before_the_table(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    assert ask(dataset, workspace, hardware=A100).paces["2d"].source == "card"
    assert ask(dataset, workspace, hardware=A100, measure=True).paces["2d"].source == "measured"
    train(dataset, workspace, 0, seconds=5, device="cuda", card="NVIDIA A100-PCIE-40GB")
    found = ask(dataset, workspace, hardware=A100, measure=True)
    assert found.paces["2d"].source == "trainings"
    assert found.paces["2d"].startup_seconds == 20  # what only the short run tells
    # Another card, a CPU, and a card by its name: what was trained here tells nothing of them.
    assert ask(dataset, workspace, card=CARDS["A100"]).paces["2d"].source == "card"
    t4 = replace(A100, name="Tesla T4 (15 GiB)")
    assert ask(dataset, workspace, hardware=t4).paces["2d"].source == "card"
    with pytest.raises(InputError, match="--measure"):
        ask(dataset, workspace)


def test_hours_are_starts_epochs_and_validation_batches(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    found = ask(dataset, workspace, measure=True)
    epoch = 10 * 2.0 + validation_batches(10) * 0.5 + 3.0
    assert [entry.epoch_seconds for entry in found.trainings] == [epoch, epoch]
    assert [entry.seconds_left for entry in found.trainings] == [20 + 4 * epoch] * 2
    assert found.wall_seconds_left == found.seconds_left == 2 * (20 + 4 * epoch)
    assert found.disk_bytes["results"] == (2 * 2 + 1) * 1000
    assert found.preparing_seconds == 0
    assert found.checks == ()
    longer = ask(dataset, workspace, measure=True, nnunet_validation=True)
    assert longer.seconds_left > found.seconds_left
    assert (
        json.loads(json.dumps(found.to_json()))["total"]["wall_seconds_left"] == 2 * 20 + 8 * epoch
    )


def test_cards_share_the_work_and_each_needs_memory(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    one, two, many = (ask(dataset, workspace, card=CARDS["T4"], cards=cards) for cards in (1, 2, 9))
    assert one.wall_seconds_left == one.seconds_left
    assert two.wall_seconds_left == pytest.approx(one.seconds_left / 2)
    assert many.wall_seconds_left == two.wall_seconds_left
    assert two.seconds_left == one.seconds_left
    assert two.memory_bytes["train"] == 2 * one.memory_bytes["train"] == many.memory_bytes["train"]


def test_what_is_done_counts_as_done(dataset: Dataset, workspace: Workspace) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    train(dataset, workspace, 1, seconds=8, epochs=1)
    found = ask(dataset, workspace)
    done, begun = found.trainings
    assert (done.state, done.epochs_done, done.seconds_left) == ("finished", 4, 0)
    assert (begun.state, begun.epochs_done) == ("begun", 1)
    assert begun.epoch_seconds == pytest.approx(8 + 0.5)  # the gap is known of one fold of two
    assert begun.seconds_left == pytest.approx(15 + 3 * begun.epoch_seconds)
    assert found.notes == ()


def test_a_training_of_another_length_is_a_new_one_and_told(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    found = ask(dataset, workspace, epochs=9, iterations=20)
    assert found.trainings[0].state == "new"
    assert "2d, fold 0: trained for 4 epochs of 10 batches, not 9 of 20" in found.notes[0]
    # Twice as many batches, of training and of validation, take twice as long.
    assert found.trainings[0].epoch_seconds == pytest.approx(2 * 8 + 1)
    assert "of 10 batches an epoch" in found.paces["2d"].described


def test_each_training_is_held_to_what_the_others_and_the_short_run_tell(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=9)
    train(dataset, workspace, 1, seconds=11, epochs=2)
    found = ask(dataset, workspace, measure=True)
    told = [
        (c.fold, c.source, c.epochs, c.actual_seconds, c.predicted_seconds) for c in found.checks
    ]
    assert told == [
        (0, "trainings", 4, 10, pytest.approx(12)),
        (0, "measured", 4, 10, 24),
        (1, "trainings", 2, 12, pytest.approx(10)),
        (1, "measured", 2, 12, 24),
    ]
    assert [check.error for check in found.checks] == pytest.approx([0.2, 1.4, -1 / 6, 1.0])
    alone = ask(dataset, workspace, folds=(0,))
    assert len(alone.checks) == 2  # every training here, whatever is asked about


def test_trainings_of_another_patch_or_with_damaged_records_tell_nothing(
    dataset: Dataset, workspace: Workspace
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=8)
    folder = workspace.results / dataset.name / f"nnUNetTrainer__{TINY.plans_name}__2d"
    record = folder / "fold_0" / "gi2nnunet_training.json"
    whole = json.loads(record.read_text())
    for changes in ({"patch_size": [16, 16]}, {"settings": None}, {"runs": []}):
        write_json(record, {**whole, **changes})
        with pytest.raises(InputError, match="nothing tells"):
            ask(dataset, workspace)
    record.write_text("{")
    (folder / "fold_x").mkdir()
    assert read_past(folder, "2d") == ()


# -- before planning


def stock_scan(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> DatasetScan:
    depth, height, width = shape
    return DatasetScan(
        scan_id="case1_day0", patient_id="case1", part="train", first_number=1, depth=depth,
        height=height, width=width, spacing_mm=spacing_mm, labelled=True,  # type: ignore[arg-type]
    )  # fmt: skip


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
    found = ask(
        whole, workspace, preset=PRESETS["resenc-l"], configurations=("3d_fullres",),
        folds=("all",), card=CARDS["A100"], epochs=None, iterations=None,
    )  # fmt: skip
    assert "known beforehand" in found.plan
    assert "gi2nnunet plan --preset resenc-l" in found.notes[0]
    assert found.gpu_memory_gib == 24
    (training,) = found.trainings
    assert training.epochs == 1000
    assert 25 < training.seconds / 3600 < 45  # nnU-Net's authors tell 35
    assert found.preparing_seconds > 60
    small = ask(
        whole, workspace, preset=PRESETS["resenc-l"], folds=("all",),
        card=CARDS["T4"],
    )  # fmt: skip
    assert "T4: GPU memory: found 16.0 GiB; expected 24 GiB for resenc-l" in small.notes[-1]
    assert stock_flops(PRESETS["resenc-l"], "3d_fullres") > 5e12


def test_the_sizes_are_those_of_the_real_scans(real_data: Path) -> None:
    found = Counter(
        ((g.slices, g.height, g.width), (3.0, *g.spacing_mm))
        for g in (scan.geometry for scan in read_listing(real_data / "slices.csv.gz").values())
    )
    assert found == {(shape, spacing): count for shape, spacing, count in GEOMETRIES}


# -- the command


def test_the_command_tells_source_totals_checks_and_what_comes_next(
    dataset: Dataset, workspace: Workspace, run: RunCommand
) -> None:
    plan(dataset, workspace)
    train(dataset, workspace, 0, seconds=9, iterations=10)
    words = ("estimate", "-w", str(workspace.raw.parent), "--preset", "tiny", "--fold", "cv")
    code, out, err = run(*words, "--card", "rtx 4090", "--gpus", "2", "--config", "2d")
    assert code == 0
    assert "tiny on RTX 4090, 2 at a time" in out
    assert "not measured: reckoned for one RTX 4090, 19% of 165.2 TFLOPS" in out
    assert "GPU-hours" in out
    assert "Nothing was trained here that these figures could be held to." in out
    assert "Next: gi2nnunet train" in err
    short = ("--config", "2d", "--device", "cpu", "--epochs", "4", "--iterations", "10")
    code, out, err = run(*words, *short, "--measure")
    assert code == 0
    assert "finished" in out
    assert "trained here: 4 epochs of fold 0" in out
    assert "+140%" in out  # 24 s an epoch measured, 10 s as it was
    code, out, err = run(*words, *short, "--json")
    content = json.loads(out)
    assert content["total"]["device_seconds_left"] == pytest.approx(15 + 4 * 10)
    assert [entry["state"] for entry in content["trainings"]] == ["finished", "new"]


# -- passes


def test_passes_are_tiles_mirrored_and_a_2d_network_goes_slice_by_slice() -> None:
    scan = stock_scan((144, 266, 266), (3.0, 1.5, 1.5))
    flat = PlannedConfiguration(
        name="2d", data_folder=Path(), batch_size=12, patch_size=(320, 320), spacing_mm=(1.5, 1.5)
    )
    assert count_passes(scan, flat) == 144 * 4
    assert count_passes(scan, replace(flat, patch_size=(256, 256))) == 144 * 4 * 4
    deep = replace(flat, patch_size=(80, 160, 160), spacing_mm=(3.0, 1.5, 1.5))
    assert count_passes(scan, deep) == 3 * 3 * 3 * 8
    one, five = (
        prediction_seconds(scan, deep, patch_seconds=0.1, models=models) for models in (1, 5)
    )
    assert five - one == pytest.approx(4 * 216 * 0.1)
