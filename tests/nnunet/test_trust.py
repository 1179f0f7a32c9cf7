from __future__ import annotations

import json
import pickle
import pydoc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.trust import (
    check_data_folder,
    check_names,
    open_model_folder,
    open_preprocessed,
)
from tests.model_factory import DATASET_JSON, make_plans

Change = Callable[[dict[str, Any], str], None]


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file behind when anyone imports it; returns that file's path."""
    folder = tmp_path / "modules"
    folder.mkdir()
    flag = tmp_path / "imported"
    (folder / "planted.py").write_text(f"open({str(flag)!r}, 'w').close()\nclass Evil:\n    pass\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return flag


def in_plans(key: str) -> Change:
    def change(plans: dict[str, Any], name: str) -> None:
        plans[key] = name

    return change


def in_configuration(key: str, wrap: Callable[[str], Any] = str) -> Change:
    def change(plans: dict[str, Any], name: str) -> None:
        plans["configurations"]["2d"][key] = wrap(name)

    return change


def in_network(key: str) -> Change:
    def change(plans: dict[str, Any], name: str) -> None:
        architecture = plans["configurations"]["2d"]["architecture"]
        if key == "network_class_name":
            architecture[key] = name
        else:
            architecture["arch_kwargs"][key] = name

    return change


def as_another_keyword(plans: dict[str, Any], name: str) -> None:
    architecture = plans["configurations"]["2d"]["architecture"]
    architecture["arch_kwargs"]["kernel_sizes"] = name
    architecture["_kw_requires_import"].append("kernel_sizes")


def in_a_second_configuration(plans: dict[str, Any], name: str) -> None:
    plans["configurations"]["3d"] = {"inherits_from": "2d", "preprocessor_name": name}


IMPORTED: dict[str, Change] = {
    **{
        key: in_plans(key)
        for key in ("image_reader_writer", "experiment_planner_used", "label_manager")
    },
    **{
        key: in_configuration(key)
        for key in (
            "preprocessor_name",
            "resampling_fn_data",
            "resampling_fn_seg",
            "resampling_fn_probabilities",
            "UNet_class_name",
        )
    },
    "normalization_schemes": in_configuration(
        "normalization_schemes", lambda name: ["ZScoreNormalization", name]
    ),
    **{
        key: in_network(key)
        for key in ("network_class_name", "conv_op", "norm_op", "dropout_op", "nonlin")
    },
    "kernel_sizes": as_another_keyword,
    "3d, preprocessor_name": in_a_second_configuration,
}
PATHS: dict[str, Change] = {
    "dataset_name": in_plans("dataset_name"),
    "plans_name": in_plans("plans_name"),
    "data_identifier": in_configuration("data_identifier"),
    "previous_stage": in_configuration("previous_stage"),
    "inherits_from": in_configuration("inherits_from"),
    "next_stage": in_configuration("next_stage", lambda name: ["3d", name]),
}


def test_plans_as_nnunet_writes_them_pass() -> None:
    check_names(plans={"plans.json": make_plans()})


@pytest.mark.parametrize("key", IMPORTED)
def test_no_entry_of_a_plan_makes_nnunet_import_anything_else(planted: Path, key: str) -> None:
    plans = make_plans()
    IMPORTED[key](plans, "planted.Evil")
    with pytest.raises(InputError, match=rf"{key}: found 'planted\.Evil'") as caught:
        check_names(plans={"my plans.json": plans})
    assert "my plans.json" in str(caught.value)
    assert "--trust" in str(caught.value)
    assert not planted.exists()


def test_nnunet_would_have_imported_it(planted: Path) -> None:
    pydoc.locate("planted.Evil")  # as nnU-Net does with a network's names
    assert planted.exists()


@pytest.mark.parametrize("key", IMPORTED)
@pytest.mark.parametrize("name", ["", "os.system", "torch.nn.Module.__class__", 7, None, ["os"]])
def test_names_of_no_kind_pass(key: str, name: Any) -> None:
    plans = make_plans()
    if name is None and key in ("conv_op", "norm_op", "dropout_op", "nonlin", "kernel_sizes"):
        pytest.skip("nnU-Net imports nothing for these")
    IMPORTED[key](plans, name)
    if key in ("UNet_class_name", "preprocessor_name") or key.startswith("resampling"):
        plans["configurations"]["2d"][key] = name
    with pytest.raises(InputError, match=r"plans\.json"):
        check_names(plans={"plans.json": plans})


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("name", ["../../home", "/etc", "..", ".hidden", "a\\b", "a\0", ""])
def test_no_entry_of_a_plan_leads_out_of_its_folder(key: str, name: str) -> None:
    plans = make_plans()
    PATHS[key](plans, name)
    with pytest.raises(InputError, match=rf"{key}: found .*a name, no path"):
        check_names(plans={"plans.json": plans})


def test_all_of_it_is_told_at_once() -> None:
    plans = make_plans()
    for change in IMPORTED.values():
        change(plans, "planted.Evil")
    with pytest.raises(InputError) as caught:
        check_names(plans={"plans.json": plans})
    assert str(caught.value).count("planted.Evil") == len(IMPORTED)


@pytest.mark.parametrize(
    "plans",
    [
        {},
        {"configurations": []},
        {"configurations": {"2d": "planted"}},
        {"configurations": {"2d": {"architecture": "planted"}}},
        {"configurations": {"2d": {"architecture": {"arch_kwargs": {}}}}},
        {"configurations": {"2d": {"normalization_schemes": {"planted": 1}}}},
    ],
)
def test_what_is_no_plan_is_refused(plans: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"plans\.json"):
        check_names(plans={"plans.json": plans})


def test_trainers_of_nnunet_alone_pass() -> None:
    check_names(trainer={"x.pth": "nnUNetTrainer_250epochs"})
    for name in ("planted", "torch", "", None):
        with pytest.raises(InputError, match=r"x\.pth"):
            check_names(trainer={"x.pth": name})


def test_the_trainer_that_a_folder_is_named_after_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "planted__gi2nnunetTinyPlans__2d"
    folder.mkdir()
    (folder / "plans.json").write_text(json.dumps(make_plans()))
    with pytest.raises(InputError, match=r"planted__.*2d, trainer: found 'planted'"):
        open_model_folder(folder, trust=False)
    assert open_model_folder(folder, trust=True).plans == make_plans()


def test_all_names_of_a_folder_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({**make_plans(), "label_manager": "EvilManager"}))
    (tmp_path / "dataset.json").write_text('{"overwrite_image_reader_writer": "EvilIO"}')
    with pytest.raises(InputError, match=r"(?s)EvilTrainer.*EvilManager.*EvilIO"):
        open_preprocessed(tmp_path, "p", trainer="EvilTrainer")


def test_a_reader_in_dataset_json_is_checked() -> None:
    check_names(dataset_json={"dataset.json": DATASET_JSON})
    check_names(dataset_json={"x": {**DATASET_JSON, "overwrite_image_reader_writer": "NibabelIO"}})
    with pytest.raises(InputError, match="overwrite_image_reader_writer: found 'Evil'"):
        check_names(dataset_json={"dataset.json": {"overwrite_image_reader_writer": "Evil"}})


def test_a_split_leads_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    (tmp_path / "p.json").write_text(json.dumps(make_plans()))
    open_preprocessed(tmp_path, "p")  # no split
    path.write_text(json.dumps([{"train": ["case1_day1"], "val": ["case2_day1"]}]))
    open_preprocessed(tmp_path, "p")
    path.write_text(json.dumps([{"train": ["case1_day1"], "val": ["../../evil"]}]))
    with pytest.raises(InputError, match=r"fold 0, val: found '\.\./\.\./evil'"):
        open_preprocessed(tmp_path, "p")
    for damaged in ("", "{}x", "[[]]", '[{"train": 3}]'):
        path.write_text(damaged)
        with pytest.raises(InputError, match=r"splits_final\.json: .*found .*; expected"):
            open_preprocessed(tmp_path, "p")


# -- pickles


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


PROPERTIES = {
    "sitk_stuff": {"spacing": (1.5, 1.5, 3.0), "origin": (0.0, 0.0, 0.0)},
    "spacing": [np.float64(3.0), np.float32(1.5)],
    "shape_before_cropping": (144, 266, 266),
    "class_locations": {(1, 3, 5, 7): np.arange(12).reshape(3, 4), (2, 3, 6, 7): []},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_nnunet_writes_beside_a_scan_passes(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "case1_day1.pkl").write_bytes(pickle.dumps(PROPERTIES, protocol))
    check_data_folder(tmp_path)
    check_data_folder(tmp_path / "none")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda evil: evil,
        lambda evil: {**PROPERTIES, "spacing": [evil]},
        lambda evil: {"class_locations": np.array([evil], object)},
    ],
    ids=["bare", "inside", "in an array"],
)
def test_a_planted_pickle_does_not_run(
    tmp_path: Path, protocol: int, wrap: Callable[[Any], Any]
) -> None:
    flag = tmp_path / "ran"
    path = tmp_path / "case2_day1.pkl"
    path.write_bytes(pickle.dumps(wrap(Planted(flag)), protocol))
    with pytest.raises(InputError, match=r"case2_day1\.pkl: found .*, which it would run"):
        check_data_folder(tmp_path)
    assert not flag.exists()
    pickle.loads(path.read_bytes())
    assert flag.exists()  # nnU-Net would have run it


@pytest.mark.parametrize("name", ["eval", "exec", "getattr", "__import__"])
def test_builtins_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.pkl").write_bytes(b"cbuiltins\n" + name.encode() + b"\n(S'1'\ntR.")
    with pytest.raises(InputError, match=rf"builtins\.{name}"):
        check_data_folder(tmp_path)


def test_bytes_are_made_in_one_way_alone(tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(b"c_codecs\nencode\n(Va\nVidna\ntR.")
    with pytest.raises(InputError, match="the encoding 'idna'"):
        check_data_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(PROPERTIES)[:-40]])
def test_damaged_pickles_are_named_together(tmp_path: Path, content: bytes) -> None:
    for name in ("a.pkl", "b.pkl"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"(?s)a\.pkl: found damage.*b\.pkl: found damage"):
        check_data_folder(tmp_path)


def test_postprocessing_may_name_nnunets_own_step_alone(tmp_path: Path) -> None:
    model = tmp_path / "nnUNetTrainer__gi2nnunetTinyPlans__2d"
    folder = model / "crossval_results_folds_0_1"
    folder.mkdir(parents=True)
    (model / "plans.json").write_text(json.dumps(make_plans()))
    path = folder / "postprocessing.pkl"
    module = "nnunetv2.postprocessing.remove_connected_components"
    own = "remove_all_but_largest_component_from_segmentation"
    path.write_bytes(
        b"((lc" + f"{module}\n{own}\n".encode() + b"a(l(dS'labels_or_regions'\nI1\nsat."
    )
    open_model_folder(model, trust=False)
    flag = tmp_path / "ran"
    path.write_bytes(pickle.dumps(([Planted(flag)], [{}])))
    with pytest.raises(InputError, match=r"postprocessing\.pkl"):
        open_model_folder(model, trust=False)
    assert not flag.exists()
    # Nothing of nnU-Net's is called while the file is looked at.
    path.write_bytes(f"c{module}\n{own}\n(I1\ntR.".encode())
    with pytest.raises(InputError, match=r"postprocessing\.pkl"):
        open_model_folder(model, trust=False)
