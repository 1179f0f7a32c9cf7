"""The estimates of a run and the examination before it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.manifest import Dataset
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet.cards import Card, Cards, CheckedCard, Devices, Fault
from gi2nnunet.nnunet.child.main import ENGINE_MODULES
from gi2nnunet.nnunet.engine import Engine, Hardware
from gi2nnunet.nnunet.presets import PRESETS, PlanOptions
from gi2nnunet.training import doctor
from gi2nnunet.training.doctor import Diagnosis, Probed, diagnose, examine_start, judge_compiling
from gi2nnunet.training.machine import Disk, Installation, Machine
from gi2nnunet.training.need import GIB, MIB, Need, estimate_need
from gi2nnunet.training.prepared import PlannedConfiguration
from tests.converting import convert
from tests.engines import make_engine
from tests.source_factory import make_source, write_source

SCANS = ("case1_day0", "case2_day0", "case3_day0", "case4_day2")
CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU")
CARD = Hardware(device="cuda", gpus=(0,), memory_gib=24.0, name="a card")
MACHINE = Machine(
    cores=8, quota=None, memory_bytes=64 * GIB, free_memory_bytes=60 * GIB,
    shared_memory_bytes=32 * GIB,
)  # fmt: skip
GOOD = Installation(
    python=(3, 11, 7),
    versions={"nnunetv2": "2.8.1", "torch": "2.15.0", "torchvision": "0.29.2"},
    requirements={},
)
X = Card(index=0, name="X", capability=(8, 0), memory_gib=24.0)
NO_CARDS = Probed(failed_imports={}, cards=Cards(devices=Devices(torch="2.15.0")))
ONE_CARD = Probed(
    failed_imports={},
    cards=Cards(
        devices=Devices(torch="2.15.0", cards=(X,)),
        checked=(CheckedCard(card=X, tested=True, free_gib=23.0),),
    ),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return open_workspace(tmp_path / "w", environ={})


@pytest.fixture
def dataset(tmp_path: Path, workspace: Workspace) -> Dataset:
    return convert(
        write_source(tmp_path / "source", make_source(SCANS)),
        workspace=workspace,
        holdout=0, jobs=1,
    )  # fmt: skip


def disks(free: int) -> dict[str, Disk]:
    names = ("preprocessed", "results", "logs", "predictions")
    return {n: Disk(folder=Path(n), device=1, free_bytes=free, writable=True) for n in names}


def planned(spacing: tuple[float, ...], folder: Path) -> dict[str, PlannedConfiguration]:
    name = "2d" if len(spacing) == 2 else "3d_fullres"
    return {
        name: PlannedConfiguration(
            name=name, data_folder=folder / name, batch_size=2, patch_size=(8,) * len(spacing),
            spacing_mm=spacing,
        )
    }  # fmt: skip


def estimate(dataset: Dataset, spacing: tuple[float, ...], trainings: int = 0) -> Need:
    plan = planned(spacing, dataset.folder)
    return estimate_need(
        dataset, preprocessed=dataset.folder / "none", preset=PRESETS["tiny"],
        configurations=tuple(plan), planned=plan, trainings=trainings,
    )  # fmt: skip


def test_the_disk_follows_from_every_scans_voxels_at_the_plans_spacing(dataset: Dataset) -> None:
    labels = sum(path.stat().st_size for path in (dataset.folder / "labelsTr").iterdir())
    need = estimate(dataset, (3.0, 4.5, 4.8))
    # Two scans of 5 x 12 x 16 at 1.5 mm, two of 5 x 14 x 13 at 1.25 x 1.63 mm.
    voxels = 2 * 5 * (4 * 5) + 2 * 5 * (4 * 4)
    assert need.preprocessed == pytest.approx(voxels * 3.7 + 4 * MIB + labels, abs=1)
    # A 2D plan leaves the slices as they are, whatever their thickness.
    assert estimate(dataset, (4.5, 4.8)).preprocessed == need.preprocessed
    thick = estimate(dataset, (6.0, 4.5, 4.8)).preprocessed
    assert thick < need.preprocessed


def test_checkpoints_are_counted_for_what_is_to_be_trained(dataset: Dataset) -> None:
    none, one, five = (estimate(dataset, (1.5, 1.5), trainings=n).results for n in (0, 1, 5))
    assert none == 0
    assert five - one == 2 * 4 * (one // 3)


def test_what_is_preprocessed_already_takes_no_more(dataset: Dataset) -> None:
    mark = {"preprocessing": "", "files": {}}
    path = dataset.folder / "gi2nnunet_2d.complete.json"
    write_json(path, {**mark, "dataset": dataset.digest})
    assert estimate(dataset, (1.5, 1.5)).preprocessed == 0
    write_json(path, {**mark, "dataset": "another"})
    assert estimate(dataset, (1.5, 1.5)).preprocessed > 0


def test_without_a_plan_the_median_spacing_is_taken(dataset: Dataset) -> None:
    def without(spacing: tuple[float, float, float]) -> int:
        scans = tuple(replace(scan, spacing_mm=spacing) for scan in dataset.scans)
        return estimate_need(
            replace(dataset, scans=scans), preprocessed=Path("/none"), preset=PRESETS["default"],
            configurations=("3d_fullres",),
        ).preprocessed  # fmt: skip

    assert without((3.0, 1.5, 1.5)) == without((2.0, 1.0, 1.0))  # nothing is resampled


def test_a_bigger_batch_takes_more_shared_memory(dataset: Dataset) -> None:
    sizes = [
        estimate_need(
            dataset,
            preprocessed=Path("/none"),
            preset=PRESETS[name],
            configurations=("3d_fullres",),
        ).batch
        for name in ("tiny", "default", "resenc-l", "resenc-xl")
    ]
    assert sizes == sorted(set(sizes))


def levels(verdicts: object) -> dict[str, str]:
    return {v.name: v.level for v in verdicts if v.level != "ok"}  # type: ignore[attr-defined]


def examine(dataset: Dataset, workspace: Workspace, **changed: object) -> dict[str, str]:
    given = {key: changed.pop(key) for key in ("hardware", "jobs") if key in changed}
    asked = {key: changed.pop(key) for key in ("preset", "configurations") if key in changed}
    options = PlanOptions(**{"preset": "default", **asked})  # type: ignore[arg-type]
    values: dict[str, object] = {
        "engine": make_engine(workspace, **{"hardware": CARD, **given}),  # type: ignore[arg-type]
        "folds": ("all",), "machine": MACHINE, "disks": disks(500 * GIB),
    }  # fmt: skip
    return levels(examine_start(dataset, options, **{**values, **changed}))  # type: ignore[arg-type]


def test_a_run_is_held_to_its_own_numbers(dataset: Dataset, workspace: Workspace) -> None:
    assert examine(dataset, workspace) == {}
    docker = replace(MACHINE, shared_memory_bytes=64 * MIB)
    assert examine(dataset, workspace, machine=docker) == {"shared memory": "error"}
    assert examine(dataset, workspace, machine=docker, folds=()) == {}  # nothing is trained
    on_cpu = {"hardware": CPU, "preset": "tiny"}
    assert examine(dataset, workspace, machine=docker, **on_cpu) == {}  # nothing augments beside
    assert examine(dataset, workspace, disks=disks(MIB)) == {"disk": "error"}
    small = replace(MACHINE, memory_bytes=GIB, free_memory_bytes=GIB)
    told = examine(dataset, workspace, machine=small)
    assert told == {"memory to preprocess": "error", "memory to train": "error"}


def test_finished_folds_need_no_more_disk(dataset: Dataset, workspace: Workspace) -> None:
    # Room for what is preprocessed, not for a checkpoint.
    tight = disks(300 * MIB)
    options = {"configurations": ("2d",), "disks": tight}
    assert examine(dataset, workspace, **options) == {"disk": "error"}
    model = workspace.results / dataset.name / "nnUNetTrainer__nnUNetPlans__2d" / "fold_all"
    model.mkdir(parents=True)
    (model / "checkpoint_final.pth").touch()
    assert examine(dataset, workspace, **options) == {}


def test_this_machine_is_measured_where_nothing_is_given(
    dataset: Dataset, workspace: Workspace
) -> None:
    told = examine_start(
        dataset, PlanOptions(preset="tiny"), engine=make_engine(workspace), folds=("all",)
    )
    assert {"device", "cores", "disk"} <= {v.name for v in told}
    assert not workspace.logs.exists()


def ask(dataset: Dataset | None, workspace: Workspace, **changed: object) -> Diagnosis:
    given = {key: changed.pop(key) for key in ("device", "gpus", "jobs") if key in changed}
    options = PlanOptions(preset=str(changed.pop("preset", "auto")))
    values: dict[str, object] = {
        "engine": Engine(workspace=workspace, environ={}, **given),  # type: ignore[arg-type]
        "installation": GOOD, "found": ONE_CARD,
        "machine": MACHINE, "disks": disks(500 * GIB),
    }  # fmt: skip
    return diagnose(dataset, options, **{**values, **changed})  # type: ignore[arg-type]


def test_a_whole_examination(dataset: Dataset, workspace: Workspace) -> None:
    result = ask(dataset, workspace)
    assert result.fit
    assert levels(result.verdicts) == {}
    assert result.to_json()["dataset"] == dataset.name
    # auto chose the preset by the card: a network for 24 GiB.
    assert any(v.expected == "24 GiB for resenc-l" for v in result.verdicts)


def test_without_a_dataset_the_installation_alone_is_examined(workspace: Workspace) -> None:
    names = {v.name for v in ask(None, workspace).verdicts}
    assert {"Python", "nnunetv2", "imports", "GPU memory"} <= names
    assert not names & {"disk", "cores", "memory to train"}


def test_what_is_wrong_with_the_installation_comes_with_the_rest(
    dataset: Dataset, workspace: Workspace
) -> None:
    broken = replace(NO_CARDS, failed_imports={ENGINE_MODULES[1]: "RuntimeError: nms"})
    old = replace(GOOD, versions={**GOOD.versions, "nnunetv2": "2.5.1"})
    result = ask(dataset, workspace, found=broken, installation=old, disks=disks(MIB))
    assert not result.fit
    assert levels(result.verdicts) == {
        "nnunetv2": "error", "torchvision": "error", "preset": "warning", "disk": "error",
    }  # fmt: skip


def test_a_device_that_is_not_there_is_an_error(dataset: Dataset, workspace: Workspace) -> None:
    result = ask(dataset, workspace, device="cuda", found=NO_CARDS)
    assert levels(result.verdicts) == {"device": "error"}
    assert "0 CUDA GPUs" in result.verdicts[-1].found
    assert levels(ask(dataset, workspace, gpus=2).verdicts) == {"device": "error"}
    on_cpu = ask(dataset, workspace, device="cpu", preset="tiny")
    assert levels(on_cpu.verdicts) == {}


def test_a_torch_that_takes_its_process_down_is_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise doctor.EngineError("nnU-Net failed in the step 'installation': signal 11\nLog: x")

    monkeypatch.setattr(Engine, "ask", crash)
    result = ask(None, workspace, found=None)
    assert levels(result.verdicts)["torch"] == "error"
    assert any("signal 11" in v.found for v in result.verdicts)


FAULT = Fault(problem="it does not compute (CUDA error)", remedy="Look at nvidia-smi.")
NO_COMPILER = Fault(problem="torch.compile fails on it (no gcc)", remedy="Set nnUNet_compile=f.")


def with_cards(*checked: CheckedCard, **devices: object) -> Probed:
    cards = tuple(one.card for one in checked)
    found = Devices(**{"torch": "2.15.0", "cuda": "13.2", "cards": cards, **devices})  # type: ignore[arg-type]
    return Probed(failed_imports={}, cards=Cards(devices=found, checked=checked))


def test_each_card_is_judged_and_a_spare_broken_one_is_a_warning(workspace: Workspace) -> None:
    spare = CheckedCard(card=replace(X, index=1), tested=True, fault=FAULT)
    good = CheckedCard(card=X, tested=True, free_gib=23.0)
    result = ask(None, workspace, found=with_cards(good, spare))
    assert result.fit
    assert levels(result.verdicts) == {"card 1, X": "warning"}
    found = {v.name: v.found for v in result.verdicts}
    assert found["card 0, X"] == "that it computes (24.0 GiB, 23.0 free)"
    assert found["torch.compile, card 0"] == "that it compiles"
    first, second = result.to_json()["cards"]
    assert (first["tested"], first["free_gib"], first["why_not_computes"]) == (True, 23.0, "")
    assert second["why_not_computes"] == str(FAULT)
    refused = ask(None, workspace, found=with_cards(good, spare), gpus=2)
    assert levels(refused.verdicts) == {"card 1, X": "warning", "device": "error"}
    assert "1 CUDA GPU " in refused.verdicts[-1].found
    assert refused.verdicts[-1].remedy == "Or use fewer --gpus."


def test_what_does_not_compile_is_an_error_on_the_card_that_is_used(workspace: Workspace) -> None:
    first = CheckedCard(card=X, tested=True, compile_fault=NO_COMPILER)
    second = replace(first, card=replace(X, index=1))
    result = ask(None, workspace, found=with_cards(first, second))
    assert not result.fit
    assert levels(result.verdicts) == {
        "torch.compile, card 0": "error", "torch.compile, card 1": "warning",
    }  # fmt: skip
    off = Engine(workspace=workspace, environ={"nnUNet_compile": "f"})
    assert ask(None, workspace, found=with_cards(first, second), engine=off).fit


def test_a_driver_that_is_too_old_is_shown_with_pytorchs_warning(workspace: Workspace) -> None:
    said = "The NVIDIA driver on your system is too old (found version 12020).\nUpdate it."
    old = with_cards(driver="535.1", warnings=(said, "Something else."))
    result = ask(None, workspace, found=old, preset="tiny")
    assert levels(result.verdicts) == {"an NVIDIA GPU": "warning"}
    assert result.fit
    [quoted] = [v.found for v in result.verdicts if v.name == "an NVIDIA GPU"]
    assert "(found version 12020). Something else." in quoted
    strange = with_cards(CheckedCard(card=X, tested=True), warnings=("Strange.",))
    assert levels(ask(None, workspace, found=strange).verdicts) == {"PyTorch": "warning"}
    content = result.to_json()
    assert (content["driver"], content["torch_warnings"][0]) == ("535.1", said)
    assert not ask(None, workspace, found=old, device="cuda").fit


def test_before_a_training_what_does_not_compile_is_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "find_compile_faults", lambda _: [("Tesla T4", NO_COMPILER)])
    [verdict] = judge_compiling(make_engine(workspace))
    assert verdict.level == "error"
    with pytest.raises(doctor.InputError, match=r"Tesla T4: found .*nnUNet_compile=f"):
        doctor.raise_errors([verdict])


@pytest.mark.engine
def test_the_real_installation_loads(workspace: Workspace) -> None:
    import os

    result = diagnose(None, PlanOptions(), engine=Engine(workspace=workspace, environ=os.environ))
    assert result.fit
    assert any(v.name == "imports" and v.level == "ok" for v in result.verdicts)
