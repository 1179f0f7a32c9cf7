"""Planning with a stand-in engine: what is missing or damaged is made again, and only that."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.core.files import write_json
from gi2nnunet.dataset.checks import find_strangers
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.presets import PlanOptions
from gi2nnunet.training.doctor import judge_data
from gi2nnunet.training.foreground import warn_of_absent_organs
from gi2nnunet.training.plan import Plan, plan_dataset
from gi2nnunet.training.prepared import name_data_files, require_prepared
from gi2nnunet.upkeep.verify import verify_workspace
from tests.converting import convert
from tests.engines import make_engine
from tests.source_factory import make_source, write_source

SCANS = ("case1_day0", "case1_day5", "case2_day0", "case3_day0")
PLANS = "gi2nnunetTinyPlans"


class StandIn:
    """Does what the engine's process does, with made-up content that is always the same."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []

    def __call__(
        self, task: str, options: Mapping[str, Any], *, environment: Mapping[str, str], **_: Any
    ) -> dict[str, Any]:
        json.dumps(options)
        self.asked.append((task, tuple(options.get("scans", ()))))
        raw = next(Path(environment["nnUNet_raw"]).glob("Dataset501_*"))
        folder = Path(environment["nnUNet_preprocessed"]) / raw.name
        folder.mkdir(parents=True, exist_ok=True)
        if task == "fingerprint":
            write_json(folder / "dataset_fingerprint.json", {"spacings": [1.5]})
        elif task == "plan":
            configured = {
                "2d": {"data_identifier": f"{PLANS}_2d", "batch_size": 2, "patch_size": [8, 8],
                       "spacing": [1.5, 1.5]},
            }  # fmt: skip
            write_json(folder / f"{options['plans_name']}.json", {"configurations": configured})
            shutil.copy(raw / "dataset.json", folder)
            return {"configurations": configured}
        else:
            scans = options["scans"] or [p.name[:-7] for p in (raw / "labelsTr").iterdir()]
            data = folder / f"{PLANS}_2d"
            if not options["scans"]:
                shutil.rmtree(data, ignore_errors=True)
            data.mkdir(exist_ok=True)
            for name in name_data_files(scans):
                (data / name).write_bytes(f"content of {name}".encode())
        return {}


class Bench:
    def __init__(self, folder: Path) -> None:
        self.source = write_source(folder / "source", make_source(SCANS))
        self.workspace = open_workspace(folder / "w", environ={})
        self.dataset = self.convert()
        self.engine = StandIn()
        self.raw = self.dataset.folder
        self.made = self.workspace.preprocessed / self.dataset.name
        self.data = self.made / f"{PLANS}_2d"
        self.first, self.second = (s.scan_id for s in self.dataset.scans[:2])

    def convert(self) -> Any:
        return convert(self.source, workspace=self.workspace, folds=2, holdout=0, jobs=1)

    def plan(self) -> Plan:
        self.engine.asked.clear()
        options = PlanOptions(preset="tiny", configurations=("2d",))
        return plan_dataset(self.dataset, options, engine=make_engine(self.workspace))

    def verify(self) -> list[tuple[Path, str]]:
        return [(f.file, f.remedy) for f in verify_workspace(self.workspace).findings]

    def content(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.made)): path.read_bytes()
            for path in sorted(self.made.rglob("*"))
            if path.is_file()
            and ".lock" not in path.name
            and not path.name.startswith("gi2nnunet_")
        }


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(engine_module, "run_engine", made.engine)
    made.plan()
    return made


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink, "empty": empty, "truncated": truncate, "one byte changed": flip,
}  # fmt: skip
# The file, and what the engine is asked to make again.
FILES: dict[str, tuple[Callable[[Bench], Path], list[tuple[str, tuple[str, ...]]]]] = {
    "image": (lambda b: b.data / f"{b.first}.b2nd", [("preprocess", ("FIRST",))]),
    "labels": (lambda b: b.data / f"{b.first}_seg.b2nd", [("preprocess", ("FIRST",))]),
    "properties": (lambda b: b.data / f"{b.first}.pkl", [("preprocess", ("FIRST",))]),
    "description": (lambda b: b.made / "dataset.json", []),
    "fingerprint": (lambda b: b.made / "dataset_fingerprint.json", [("fingerprint", ())]),
    "plans": (lambda b: b.made / f"{PLANS}.json", [("plan", ())]),
    "copy of the truth": (lambda b: b.made / f"gt_segmentations/{b.first}.nii.gz", []),
}


def test_a_whole_folder_is_left_alone(bench: Bench) -> None:
    before = {path: path.stat().st_mtime_ns for path in bench.made.rglob("*") if path.is_file()}
    bench.plan()
    assert bench.engine.asked == []
    after = {path: path.stat().st_mtime_ns for path in bench.made.rglob("*") if path.is_file()}
    assert after == before
    assert bench.verify() == []
    require_prepared(bench.dataset, bench.made, PLANS, "2d")


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("file", FILES)
def test_what_is_damaged_is_found_by_all_and_made_again_alone(
    bench: Bench, file: str, harm: str
) -> None:
    where, asked = FILES[file]
    before, path = bench.content(), where(bench)
    HARMS[harm](path)
    harmed = bench.content()
    findings = bench.verify()
    assert [found for found, _ in findings] == [path]
    assert bench.content() == harmed
    if file != "copy of the truth" or harm != "one byte changed":  # only its size is looked at
        with pytest.raises(InputError) as refusal:
            require_prepared(bench.dataset, bench.made, PLANS, "2d")
        assert str(path) in str(refusal.value)
        (verdict,) = judge_data(bench.dataset, bench.made)
        assert (verdict.level, verdict.remedy) == ("warning", findings[0][1])
    command = findings[0][1].removeprefix("Make it again with: ")
    assert shlex.split(command) == ["gi2nnunet", "plan", "--preset", "tiny", "--config", "2d"]
    bench.plan()
    made = [(task, tuple(s.replace(bench.first, "FIRST") for s in some))
            for task, some in bench.engine.asked]  # fmt: skip
    assert made == asked
    assert bench.verify() == []
    assert bench.content() == before
    require_prepared(bench.dataset, bench.made, PLANS, "2d")


@pytest.mark.parametrize("mark", ["fingerprint", PLANS, f"{PLANS}_2d.complete"])
@pytest.mark.parametrize("harm", ["missing", "empty", "truncated"])
def test_a_damaged_mark_is_made_again(bench: Bench, mark: str, harm: str) -> None:
    HARMS[harm](bench.made / f"gi2nnunet_{mark}.json")
    bench.plan()
    assert len(bench.engine.asked) == 1
    assert bench.verify() == []


@pytest.mark.parametrize("content", [None, "", "[{", "{}", '[{"train": [], "val": 7}]'])
def test_a_missing_or_damaged_split_is_the_datasets_again(
    bench: Bench, content: str | None
) -> None:
    path = bench.made / "splits_final.json"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=r"splits_final\.json"):
        require_prepared(bench.dataset, bench.made, PLANS, "2d")
    bench.plan()
    assert path.read_bytes() == before


def test_another_split_is_refused_and_the_remedy_restores_it(bench: Bench) -> None:
    path = bench.made / "splits_final.json"
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    with pytest.raises(InputError, match="running the same gi2nnunet convert again"):
        bench.plan()
    bench.convert()
    bench.plan()
    assert bench.verify() == []


@pytest.mark.parametrize("name", ["notes.txt", ".DS_Store", "case9_day9.b2nd"])
def test_a_stray_file_is_named_and_nothing_is_trained_on_it(bench: Bench, name: str) -> None:
    stray = bench.data / name
    stray.write_bytes(b"x")
    for look in (bench.plan, lambda: require_prepared(bench.dataset, bench.made, PLANS, "2d")):
        with pytest.raises(InputError, match="not of a training scan") as refusal:
            look()
        assert str(stray) in str(refusal.value)
    assert bench.verify() == [(stray, "Delete it, or move it elsewhere.")]
    (verdict,) = judge_data(bench.dataset, bench.made)
    assert verdict.level == "error"
    stray.unlink()
    bench.plan()
    assert bench.engine.asked == []


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("name", ["case9_day9_0000.nii.gz", "._case9_day9_0000.nii.gz"])
def test_a_stray_volume_is_not_preprocessed(bench: Bench, folder: str, name: str) -> None:
    for passed_over in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (bench.raw / folder / passed_over).touch()
    assert find_strangers(bench.dataset) == []
    stray = bench.raw / folder / name  # of either name, nnU-Net would take it for a scan
    shutil.copy(bench.raw / "imagesTr" / f"{bench.first}_0000.nii.gz", stray)
    with pytest.raises(InputError, match="not in the manifest"):
        bench.plan()


@pytest.mark.parametrize("stage", ["before", "after"])
def test_labels_replaced_at_equal_size_are_not_trained_on(bench: Bench, stage: str) -> None:
    path = bench.raw / "labelsTr" / f"{bench.first}.nii.gz"
    before = path.read_bytes()
    if stage == "before":
        shutil.rmtree(bench.made)
    flip(path)
    with pytest.raises(InputError, match=f"other content in labelsTr/{bench.first}.nii.gz"):
        bench.plan()
    bench.dataset = bench.convert()  # the remedy
    assert path.read_bytes() == before
    bench.plan()
    assert bench.engine.asked == [] or stage == "before"
    assert bench.verify() == []


def test_another_source_makes_all_again(bench: Bench, tmp_path: Path) -> None:
    bench.source = write_source(tmp_path / "other", make_source(SCANS, seed=5))
    bench.dataset = bench.convert()
    bench.plan()
    assert [task for task, _ in bench.engine.asked] == ["fingerprint", "plan", "preprocess"]
    assert bench.verify() == []


def test_a_copied_workspace_is_read_once(bench: Bench) -> None:
    for path in (*bench.raw.rglob("*.gz"), *bench.data.iterdir()):
        os.utime(path)
    bench.plan()
    assert bench.engine.asked == []
    mark = json.loads((bench.made / f"gi2nnunet_{PLANS}_2d.complete.json").read_text())
    (path,) = bench.data.glob(f"{bench.first}.pkl")
    assert mark["files"][path.name]["modified_ns"] == path.stat().st_mtime_ns


def test_a_remedy_names_the_sizes_of_its_plan(bench: Bench) -> None:
    options = PlanOptions(
        preset="tiny", configurations=("2d",), batch_size=4, patch_sizes=((8, 8),)
    )
    plan_dataset(bench.dataset, options, engine=make_engine(bench.workspace))
    (bench.made / f"{PLANS}_b4_p8x8.json").unlink()
    ((_, remedy),) = bench.verify()
    assert remedy.endswith("plan --preset tiny --batch-size 4 --patch-size 8x8 --config 2d")


def test_plans_are_the_same_for_every_configuration_that_a_size_is_for(bench: Bench) -> None:
    """What a message says of one configuration must not make other plans, or none."""

    def plan(*configurations: str, sizes: tuple[tuple[int, ...], ...]) -> list[str]:
        bench.engine.asked.clear()
        options = PlanOptions(preset="tiny", configurations=configurations, patch_sizes=sizes)
        with suppress(InputError):  # this dataset's have only 2d
            plan_dataset(bench.dataset, options, engine=make_engine(bench.workspace))
        return [task for task, _ in bench.engine.asked]

    both = ((8, 8), (8, 8, 8))
    assert plan("2d", "3d_lowres", sizes=both) == ["plan"]
    assert plan("2d", "3d_fullres", sizes=both) == []
    made = bench.made / f"{PLANS}_p8x8_p8x8x8.json"
    made.unlink()
    assert plan("2d", sizes=both) == ["plan"]
    for path in (made, bench.made / f"gi2nnunet_{made.name}"):
        path.unlink()
    assert plan("2d", sizes=both) == []  # refused: nothing says that the second size is meant
    (bench.workspace.results / bench.dataset.name / f"nnUNetTrainer__{made.stem}__2d").mkdir(
        parents=True
    )
    assert plan("2d", sizes=both) == ["plan"]


def test_one_configuration_of_plans_with_sizes_for_two_can_be_named(bench: Bench) -> None:
    def plan(*configurations: str, sizes: tuple[tuple[int, ...], ...]) -> Plan:
        options = PlanOptions(preset="tiny", configurations=configurations, patch_sizes=sizes)
        return plan_dataset(bench.dataset, options, engine=make_engine(bench.workspace))

    with pytest.raises(InputError, match="8x8x8: none of the configurations 2d has 3 axes"):
        plan("2d", sizes=((8, 8), (8, 8, 8)))
    name = f"{PLANS}_p8x8_p8x8x8"
    with pytest.raises(InputError, match="no plan of 3d_fullres"):  # this dataset's have only 2d
        plan("2d", "3d_fullres", sizes=((8, 8), (8, 8, 8)))
    bench.engine.asked.clear()
    assert plan("2d", sizes=((8, 8), (8, 8, 8))).plans_name == name
    assert "plan" not in [task for task, _ in bench.engine.asked]


def test_a_dataset_without_foreground_is_refused(tmp_path: Path) -> None:
    source = make_source(SCANS)
    rows = tuple((slice_id, organ, "") for slice_id, organ, _ in source.rows)
    workspace = open_workspace(tmp_path / "w", environ={})
    made = write_source(tmp_path / "source", replace(source, rows=rows))
    dataset = convert(made, workspace=workspace, holdout=0, jobs=1)
    with pytest.raises(InputError, match="found no foreground in any training scan"):
        plan_dataset(dataset, PlanOptions(preset="tiny"), engine=make_engine(workspace))


def test_absent_organs_are_warned_of() -> None:
    organs = {"a_1": ["large_bowel", "stomach"], "b_1": ["stomach"], "c_1": ["stomach"]}
    splits: Any = [
        {"train": ["b_1", "c_1"], "val": ["a_1"]},
        {"train": ["a_1", "c_1"], "val": ["b_1"]},
        {"train": ["a_1", "b_1"], "val": ["c_1"]},
    ]
    told = list(warn_of_absent_organs(organs, splits))
    assert len(told) == 3
    assert told[0].startswith("large bowel is in no scan that fold 0 is trained on")
    assert told[1].startswith("large bowel is in no scan that fold 1, 2 is validated on")
    assert told[2].startswith("small bowel is in no training scan")
    assert list(warn_of_absent_organs({"a_1": [*organs["a_1"], "small_bowel"]}, [])) == []


def test_a_configuration_that_is_not_planned_is_refused_with_the_options_that_are(
    bench: Bench,
) -> None:
    def plan(configurations: tuple[str, ...]) -> Plan:
        options = PlanOptions(preset="tiny", configurations=configurations)
        return plan_dataset(bench.dataset, options, engine=make_engine(bench.workspace))

    with pytest.raises(InputError, match=r"found no plan of 3d_fullres.* Give --config 2d\.") as no:
        plan(PlanOptions().configurations)  # nobody gave --config 3d_fullres
    assert "--config 3d_fullres" not in str(no.value)
    assert list(plan(("2d",)).configurations) == ["2d"]
    by_default = PlanOptions(preset="tiny", by_default=True)
    made = plan_dataset(bench.dataset, by_default, engine=make_engine(bench.workspace))
    assert list(made.configurations) == ["2d"]
    assert any(
        told.startswith("3d_fullres is left out: nnU-Net plans no 3D network")
        and "one slice" in told
        for told in made.warnings
    )
