from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.engine import HELPERS_VARIABLE, Hardware, choose_helpers
from gi2nnunet.nnunet.presets import PRESETS
from gi2nnunet.training.doctor import (
    SUPPORTED_NNUNET,
    Verdict,
    Work,
    judge_disks,
    judge_hardware,
    judge_installation,
    judge_machine,
    list_warnings,
    plan_work,
    raise_errors,
)
from gi2nnunet.training.machine import Disk, Installation, Machine, read_installation
from gi2nnunet.training.need import GIB, MIB, Need

CPU = Hardware(device="cpu", gpus=(), memory_gib=None, name="CPU, 4 cores")
CARD = Hardware(device="cuda", gpus=(0,), memory_gib=23.6, name="a card")
GOOD = Installation(
    python=(3, 11, 7),
    versions={"nnunetv2": "2.8.1", "torch": "2.15.0", "torchvision": "0.29.2"},
    requirements={
        "nnunetv2": ("torch!=2.9.*,>=2.1.2", 'torch<2.3; extra == "intel-macos"', "numpy"),
        "torchvision": ("torch (==2.15.0)", "pillow"),
    },
)
MACHINE = Machine(
    cores=8, quota=None, memory_bytes=32 * GIB, free_memory_bytes=30 * GIB,
    shared_memory_bytes=16 * GIB,
)  # fmt: skip
NEED = Need(
    preprocessed=20 * GIB, results=4 * GIB, process_memory=GIB, training_memory=3 * GIB,
    worker_memory=GIB // 2, batch=100 * MIB,
)  # fmt: skip
WORK = Work(processes=8, workers=7, trainings=1)


def bad(verdicts: list[Verdict]) -> list[tuple[str, str]]:
    return [(v.level, v.name) for v in verdicts if v.level != "ok"]


def with_versions(**versions: str | None) -> Installation:
    return replace(GOOD, versions={**GOOD.versions, **versions})


def test_versions_that_fit() -> None:
    assert bad(judge_installation(GOOD)) == []
    assert bad(judge_installation(GOOD, failed_imports={})) == []


def test_what_is_installed_here_fits() -> None:
    assert bad(judge_installation(read_installation())) == []


@pytest.mark.parametrize(
    ("installation", "expected"),
    [
        (with_versions(nnunetv2="2.7.0"), [("error", "nnunetv2")]),
        (with_versions(nnunetv2="2.9.0"), [("error", "nnunetv2")]),
        (with_versions(nnunetv2="2.8.4"), [("error", "nnunetv2")]),
        (with_versions(nnunetv2="unknown"), [("error", "nnunetv2")]),
        (
            with_versions(torch="2.9.1"),
            [("error", "torch for nnunetv2"), ("error", "torch for torchvision")],
        ),
        (with_versions(torch="2.14.0"), [("error", "torch for torchvision")]),
        (with_versions(torch="2.15.0+cpu"), [("error", "torch and torchvision")]),
        (with_versions(torch="2.15.0+cpu", torchvision="0.29.2+cpu"), []),
        (
            with_versions(torch="2.15.0+cu130", torchvision="0.29.2+cu126"),
            [("warning", "torch and torchvision")],
        ),
        (with_versions(torch=None), [("error", "torch")]),
        (with_versions(torchvision=None), [("error", "torchvision")]),
        (replace(GOOD, python=(3, 9, 2)), [("error", "Python")]),
        (replace(GOOD, python=(3, 10, 2)), [("warning", "Python")]),
        (replace(GOOD, python=(3, 14, 0)), [("warning", "Python")]),
    ],
)
def test_versions_that_do_not_fit(
    installation: Installation, expected: list[tuple[str, str]]
) -> None:
    assert bad(judge_installation(installation)) == expected


def test_a_package_that_cannot_be_imported_is_told_with_its_words() -> None:
    failed = {"torchvision": "RuntimeError: operator torchvision::nms does not exist"}
    (verdict,) = [v for v in judge_installation(GOOD, failed_imports=failed) if v.level != "ok"]
    assert verdict.level == "error"
    assert "torchvision::nms" in verdict.found
    assert "constraints.txt" in verdict.remedy


@pytest.mark.parametrize(
    ("memory", "preset", "level"),
    [
        (23.6, "resenc-l", "ok"),
        (23.0, "resenc-l", "ok"),  # what auto chooses it from
        (22.1, "resenc-l", "warning"),  # an A10 or L4
        (20.0, "resenc-l", "warning"),
        (15.7, "resenc-l", "error"),
        (15.7, "default", "ok"),
        (39.4, "resenc-xl", "ok"),
        (5.0, "default", "error"),
    ],
)
def test_the_cards_memory_is_held_to_the_preset(memory: float, preset: str, level: str) -> None:
    card = replace(CARD, memory_gib=memory)
    (verdict,) = judge_hardware(card, PRESETS[preset])  # type: ignore[index]
    assert verdict.level == level
    assert f"{memory:.1f} GiB" in verdict.found


def test_sizes_of_the_users_own_are_warned_of_alone() -> None:
    small = replace(CARD, memory_gib=6.0)
    assert bad(judge_hardware(small, PRESETS["resenc-l"], resized=True)) == [
        ("warning", "GPU memory")
    ]


def test_a_card_that_others_fill_is_a_warning() -> None:
    (verdict,) = judge_hardware(CARD, PRESETS["resenc-l"], free_gib=3.0)
    assert (verdict.level, verdict.found) == ("warning", "3.0 of 23.6 GiB free")
    assert bad(judge_hardware(CARD, PRESETS["default"], free_gib=9.0)) == []


@pytest.mark.parametrize(("preset", "level"), [("tiny", "ok"), ("default", "warning")])
def test_a_stock_network_on_a_cpu_is_a_warning(preset: str, level: str) -> None:
    assert [v.level for v in judge_hardware(CPU, PRESETS[preset])] == [level]  # type: ignore[index]


@pytest.mark.parametrize(
    ("jobs", "hardware", "training", "expected"),
    [
        (None, CPU, True, Work(processes=8, workers=0, trainings=1)),
        (None, CARD, True, Work(processes=8, workers=12, trainings=1)),
        (4, CARD, True, Work(processes=4, workers=4, trainings=1)),
        (1, CARD, True, Work(processes=1, workers=1, trainings=1)),
        (20, CARD, True, Work(processes=8, workers=20, trainings=1)),
        (4, replace(CARD, gpus=(0, 1)), True, Work(processes=4, workers=2, trainings=2)),
        (1, replace(CARD, gpus=(0, 1)), True, Work(processes=1, workers=1, trainings=2)),
        (4, CARD, False, Work(processes=4, workers=0, trainings=0)),
    ],
)
def test_the_processes_are_those_that_a_run_starts(
    jobs: int | None, hardware: Hardware, training: bool, expected: Work
) -> None:
    work = plan_work(jobs=jobs, cores=16, hardware=hardware, training=training, environ={})
    assert work == expected


@pytest.mark.parametrize(
    ("said", "jobs", "hardware", "expected"),
    [
        ("28", None, CARD, 28),
        ("28", 6, CARD, 6),
        (" 3 ", None, replace(CARD, gpus=(0, 1)), 3),
        ("0", None, CARD, 0),
        ("", None, CARD, 12),
        ("28", None, CPU, 0),
    ],
)
def test_nnunets_own_variable_is_respected_on_a_card(
    said: str, jobs: int | None, hardware: Hardware, expected: int
) -> None:
    environ = {HELPERS_VARIABLE: said}
    assert choose_helpers(jobs, hardware=hardware, environ=environ, cores=16) == expected


@pytest.mark.parametrize("said", ["many", "-1", "1.5", "\u0664", "99999"])
def test_a_variable_that_is_no_number_of_processes_is_refused(said: str) -> None:
    with pytest.raises(InputError, match=r"nnUNet_n_proc_DA: found .*unset nnUNet_n_proc_DA"):
        choose_helpers(None, hardware=CARD, environ={HELPERS_VARIABLE: said}, cores=16)
    assert choose_helpers(None, hardware=CARD, environ={}, cores=16) == 12  # the remedy


def test_a_good_machine() -> None:
    verdicts = judge_machine(MACHINE, NEED, WORK, jobs=None)
    assert bad(verdicts) == []
    assert {v.name for v in verdicts} == {
        "cores", "memory to preprocess", "memory to train", "shared memory",
    }  # fmt: skip


def test_too_little_memory_names_the_jobs_that_fit() -> None:
    small = replace(MACHINE, memory_bytes=6 * GIB, free_memory_bytes=5 * GIB)
    verdicts = judge_machine(small, NEED, replace(WORK, workers=0, trainings=0), jobs=None)
    (verdict,) = [v for v in verdicts if v.level != "ok"]
    assert (verdict.level, verdict.name) == ("error", "memory to preprocess")
    assert verdict.found == "5.0 GiB free of 6.0 GiB"
    assert verdict.expected == "about 8.0 GiB to preprocess with 8 workers"
    assert verdict.remedy == "Use --jobs 5."
    again = judge_machine(small, NEED, Work(processes=5, workers=0, trainings=0), jobs=5)
    assert bad(again) == []


def test_memory_that_others_hold_is_a_warning() -> None:
    busy = replace(MACHINE, free_memory_bytes=6 * GIB)
    assert bad(judge_machine(busy, NEED, WORK, jobs=None)) == [
        ("warning", "memory to preprocess"), ("warning", "memory to train"),
    ]  # fmt: skip


def test_every_card_has_workers_of_its_own() -> None:
    # 3 GiB and 7 + 3 workers of 0.5 GiB each: 8 GiB a card.
    fits = replace(MACHINE, memory_bytes=17 * GIB, free_memory_bytes=17 * GIB)
    assert bad(judge_machine(fits, NEED, replace(WORK, trainings=2), jobs=None)) == []
    assert bad(judge_machine(fits, NEED, replace(WORK, trainings=3), jobs=None)) == [
        ("error", "memory to train")
    ]


@pytest.mark.parametrize(
    ("shared", "level"), [(64 * MIB, "error"), (GIB, "warning"), (4 * GIB, "ok")]
)
def test_shared_memory_of_a_container(shared: int, level: str) -> None:
    machine = replace(MACHINE, shared_memory_bytes=shared)
    verdicts = judge_machine(machine, NEED, WORK, jobs=None)
    (verdict,) = [v for v in verdicts if v.name == "shared memory"]
    assert verdict.level == level
    # 6 + 3 batches ready, one at each of 7 + 3 workers: 1900 MiB.
    assert verdict.expected == "up to 1.9 GiB for 7 augmentation workers"
    assert ("--shm-size=2g" in verdict.remedy) == (level != "ok")


def test_without_workers_or_off_linux_shared_memory_is_no_matter() -> None:
    docker = replace(MACHINE, shared_memory_bytes=MIB)
    assert bad(judge_machine(docker, NEED, replace(WORK, workers=0), jobs=None)) == []
    names = [v.name for v in judge_machine(MACHINE, NEED, WORK, jobs=None)]
    other = replace(MACHINE, shared_memory_bytes=None)
    assert [v.name for v in judge_machine(other, NEED, WORK, jobs=None)] == [
        name for name in names if name != "shared memory"
    ]
    assert "shared memory" in names


def test_cores_that_a_container_does_not_grant() -> None:
    (verdict, *_) = judge_machine(replace(MACHINE, quota=2.5), NEED, WORK, jobs=None)
    assert (verdict.level, verdict.remedy) == ("warning", "Use --jobs 2.")
    (verdict, *_) = judge_machine(replace(MACHINE, quota=2.5), NEED, WORK, jobs=2)
    assert verdict.level == "ok"
    (verdict, *_) = judge_machine(MACHINE, NEED, WORK, jobs=9)
    assert (verdict.level, verdict.remedy) == ("warning", "Use --jobs 8.")


def disks(free: int, *, other: int | None = None, writable: bool = True) -> dict[str, Disk]:
    def make(name: str, device: int, amount: int) -> Disk:
        return Disk(folder=Path(name), device=device, free_bytes=amount, writable=writable)

    return {
        "preprocessed": make("pre", 1, free),
        "results": make("res", 1 if other is None else 2, free if other is None else other),
    }


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (disks(23 * GIB), [("error", "disk")]),  # 24 are needed on the one file system
        (disks(25 * GIB), [("warning", "disk")]),
        (disks(30 * GIB), []),
        (disks(25 * GIB, other=5 * GIB), []),
        (disks(25 * GIB, other=3 * GIB), [("error", "disk")]),
    ],
)
def test_free_disk_is_held_to_the_estimate(
    found: dict[str, Disk], expected: list[tuple[str, str]]
) -> None:
    verdicts = judge_disks(found, NEED)
    assert bad(verdicts) == expected
    assert all("GiB free at" in v.found for v in verdicts)


def test_a_folder_without_rights_is_an_error() -> None:
    assert bad(judge_disks(disks(99 * GIB, writable=False), NEED)) == [("error", "rights")] * 2


def test_errors_stop_together_and_warnings_are_told() -> None:
    verdicts = [
        Verdict(name="a", level="error", found="1", expected="2", remedy="Do this."),
        Verdict(name="b", level="warning", found="3", expected="4", remedy="Mind that."),
        Verdict(name="c", level="error", found="5", expected="6", remedy="Do so."),
        Verdict(name="d", level="ok", found="7", expected="8"),
    ]
    with pytest.raises(InputError) as told:
        raise_errors(verdicts)
    assert str(told.value).splitlines()[:2] == [
        "a: found 1; expected 2. Do this.", "c: found 5; expected 6. Do so.",
    ]  # fmt: skip
    assert list_warnings(verdicts) == ["b: found 3; expected 4. Mind that."]
    raise_errors(verdicts[1:2])


def test_the_supported_version_is_the_one_that_is_pinned() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert f"nnunetv2{SUPPORTED_NNUNET}" in project["dependencies"]
