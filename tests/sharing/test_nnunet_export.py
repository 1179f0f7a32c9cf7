"""Zips of nnU-Net's own export: taken in as model files are, and refused as these are."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.child.weights import load_checkpoint
from gi2nnunet.nnunet.models import choose_ensemble
from gi2nnunet.prediction.choose import find_trained_on
from gi2nnunet.sharing.exchange import ImportedModel, export_model, import_model
from gi2nnunet.sharing.nnunet_export import find_export
from tests.engines import make_engine
from tests.model_factory import DATASET, make_checkpoint, make_plans, write_model
from tests.strays import add_strays_to_zip

pytestmark = pytest.mark.usefixtures("engine_here")

MODEL = f"{DATASET}/nnUNetTrainer__gi2nnunetTinyPlans__2d"
Change = Callable[[dict[str, bytes]], object]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """nnU-Net's results of two configurations, with all that its export asks for."""
    for configuration in ("2d", "3d_fullres"):
        folder = write_model(tmp_path / "results", configuration=configuration, folds=(0, 1))
        (folder / "dataset_fingerprint.json").write_text("{}")
        for fold in (0, 1):
            place = folder / f"fold_{fold}"
            (place / "validation").mkdir()
            (place / "validation" / "summary.json").write_text("{}")
            (place / "progress.png").write_bytes(b"png")
            (place / "debug.json").write_text("{}")
    return tmp_path / "results"


def pack(results: Path, change: Change | None = None, *, name: str = "theirs.zip") -> Path:
    """Write what nnU-Net's export writes, after a change."""
    files = {
        path.relative_to(results).as_posix(): path.read_bytes()
        for path in sorted(results.rglob("*"))
        if path.is_file()
    }
    if change:
        change(files)
    path = results.with_name(name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
    return path


def take_in(path: Path, home: Path, *, trust: bool = False, **options: Any) -> ImportedModel:
    engine = make_engine(open_workspace(home, environ={}), trust=trust)
    return import_model(path, engine=engine, **options)


def list_files(home: Path) -> list[str]:
    results = home / "results"
    return sorted(p.relative_to(results).as_posix() for p in results.rglob("*") if p.is_file())


def test_nnunets_own_export_is_taken_in(results: Path, tmp_path: Path) -> None:
    """The zip is written by nnU-Net itself."""
    environ = {**os.environ, "nnUNet_results": str(results)}
    environ |= {name: str(tmp_path / name) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    code = (
        "from nnunetv2.model_sharing.model_export import export_pretrained_model as export; "
        f"export({DATASET!r}, 'out.zip', ('2d', '3d_fullres'), 'nnUNetTrainer', "
        "'gi2nnunetTinyPlans', (0, 1))"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env=environ, capture_output=True
    )
    home = tmp_path / "w"
    done = take_in(tmp_path / "out.zip", home)
    assert [folder.name for folder in done.written] == [
        "nnUNetTrainer__gi2nnunetTinyPlans__2d", "nnUNetTrainer__gi2nnunetTinyPlans__3d_fullres"
    ]  # fmt: skip
    for seed, fold in enumerate((0, 1)):
        place = home / "results" / MODEL / f"fold_{fold}"
        found = load_checkpoint(place / "checkpoint_final.pth")
        expected = make_checkpoint(seed=seed, fold=fold)
        assert found["network_weights"].keys() == expected["network_weights"].keys()
        for name, tensor in expected["network_weights"].items():
            assert torch.equal(found["network_weights"][name], tensor)
        assert found["inference_allowed_mirroring_axes"] == (0, 1)
        # What was trained on is not known, so that no score counts as honest.
        assert json.loads((place / "gi2nnunet_imported.json").read_text())["file"] == "out.zip"
    ensemble = choose_ensemble(home / "results" / DATASET, n_folds=2)
    assert find_trained_on(ensemble, dataset=None) is None
    assert not any(".part" in name or "validation" in name for name in list_files(home))
    again = take_in(tmp_path / "out.zip", home)
    assert len(again.kept) == 2
    assert not again.written


def test_it_is_the_same_model_as_by_a_model_file(results: Path, tmp_path: Path) -> None:
    engine = make_engine(open_workspace(tmp_path, environ={}))
    export_model(
        choose_ensemble(results / DATASET, n_folds=2), tmp_path / "m", dataset=None, engine=engine
    )
    path = pack(results)
    add_strays_to_zip(path)
    take_in(tmp_path / "m", tmp_path / "one")
    take_in(path, tmp_path / "two")
    assert list_files(tmp_path / "one") == list_files(tmp_path / "two")
    for name in list_files(tmp_path / "one"):
        one, two = ((tmp_path / at / "results" / name).read_bytes() for at in ("one", "two"))
        assert one.replace(b'"m"', b'"theirs.zip"') == two


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch stolen",))


def plant_code(files: dict[str, bytes]) -> None:
    inside: dict[str, Any] = make_checkpoint(fold=0)
    path = Path("evil.pth")
    torch.save({**inside, "optimizer_state": Evil()}, path)
    files[f"{MODEL}/fold_0/checkpoint_final.pth"] = path.read_bytes()


def plant_pickle(files: dict[str, bytes]) -> None:
    files[f"{MODEL}/fold_0/checkpoint_final.pth"] = pickle.dumps(Evil())


def plant_network(files: dict[str, bytes]) -> None:
    plans = make_plans()
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = "planted.Evil"
    files[f"{MODEL}/plans.json"] = json.dumps(plans).encode()


def rename(old: str, new: str) -> Change:
    def change(files: dict[str, bytes]) -> None:
        for name in [name for name in files if old in name]:
            files[name.replace(old, new)] = files.pop(name)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plant_code, r"theirs.zip, .*fold_0/checkpoint_final.pth: refused: .* --trust"),
        (plant_pickle, r"theirs.zip, .*fold_0/checkpoint_final.pth: is damaged"),
        (plant_network, r"theirs.zip, .*network_class_name: found 'planted.Evil'"),
        (rename("nnUNetTrainer__", "TheirTrainer__"), "found 'TheirTrainer'; expected a trainer"),
        (rename(f"{MODEL}/plans.json", "x"), r"__2d: found no plans.json; expected one.*Export it"),
        (rename(f"{MODEL}/dataset.json", "x"), "__2d: found no dataset.json"),
        (rename("2d/fold_0/checkpoint_final", "2d/fold_0/checkpoint_best"), "several sets of fold"),
        (rename("checkpoint_final", "checkpoint_best"), "no checkpoint_final.pth of any fold"),
        (rename("TinyPlans__2d", "OtherPlans__2d"), "several trainers or plans"),
        (rename(MODEL, MODEL.replace("501", "502")), "several datasets"),
        (rename("fold_0/checkpoint_final", "fold_7/checkpoint_final"), "expected one of 2d, fold"),
    ],
)  # fmt: skip
def test_a_bad_export_is_refused_and_leaves_nothing(
    change: Change, message: str, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pack(results, change)
    with pytest.raises(InputError, match=f"(?s){message}") as refusal:
        take_in(path, tmp_path / "w")
    assert str(tmp_path / "w") not in str(refusal.value)
    assert list_files(tmp_path / "w") == []
    assert not (tmp_path / "stolen").exists()


def test_a_bomb_is_refused_before_it_is_unpacked(results: Path, tmp_path: Path) -> None:
    def blow_up(files: dict[str, bytes]) -> None:
        files[f"{MODEL}/fold_1/checkpoint_final.pth"] = bytes(50_000_000)

    with pytest.raises(InputError, match="50000000 bytes, packed into"):
        find_export(pack(results, blow_up))


def test_too_little_space_is_said_before_anything_is_written(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"theirs.zip needs .* only 0 MiB are free"):
        take_in(pack(results), tmp_path / "w")
    assert list_files(tmp_path / "w") == []


def test_members_beside_the_models_are_not_unpacked(results: Path, tmp_path: Path) -> None:
    def add(files: dict[str, bytes]) -> None:
        for name in ("../up.txt", "/etc/x", f"{MODEL}/../../up/plans.json", "C:/x/plans.json"):
            files[name] = b"{}"
        files[f"{MODEL}/fold_0/gi2nnunet_imported.json"] = b'{"trained_on": []}'
        files[f"{MODEL}/postprocessing.pkl"] = pickle.dumps(Evil())

    take_in(pack(results, add), tmp_path / "w")
    ensemble = choose_ensemble(tmp_path / "w" / "results" / DATASET, n_folds=2)
    assert find_trained_on(ensemble, dataset=None) is None
    assert not list(tmp_path.rglob("up*"))
    assert not list((tmp_path / "w").rglob("*.pkl"))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\3\4 cut off"])
def test_what_is_no_zip_is_no_export(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(content)
    assert find_export(tmp_path / "m") is None
    assert find_export(tmp_path) is None
    with pytest.raises(InputError, match="is a folder; expected a file made by"):
        take_in(tmp_path, tmp_path / "w")
