from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch

from gi2nnunet.core.errors import EngineError, InputError, OutputError
from gi2nnunet.core.locks import hold
from gi2nnunet.dataset.workspace import Workspace, open_workspace
from gi2nnunet.nnunet import engine as engine_module
from gi2nnunet.nnunet.child import weights
from gi2nnunet.nnunet.child.weights import load_checkpoint
from gi2nnunet.nnunet.model_file import MANIFEST, open_bundle
from gi2nnunet.nnunet.models import (
    DIGESTS,
    Fold,
    choose_ensemble,
    count_folds,
    find_import_record,
    find_training_record,
    fold_folder,
    list_models,
)
from gi2nnunet.prediction.choose import find_standing
from gi2nnunet.sharing import exchange
from gi2nnunet.sharing.exchange import ImportedModel, export_model, import_model
from gi2nnunet.source.prints import Prints, take_prints
from gi2nnunet.upkeep.verify import verify_workspace
from tests.engines import make_engine
from tests.model_factory import DATASET, make_checkpoint, make_plans, write_model
from tests.source_factory import make_scan
from tests.strays import add_strays_to_zip

SEEN: dict[Fold, frozenset[str]] = {
    0: frozenset({"case1_day0"}), 1: frozenset({"case2_day0"}), "all": frozenset({"case3_day0"}),
}  # fmt: skip

TWO_FOLDS: Any = SimpleNamespace(splits=({}, {}))


@pytest.fixture(autouse=True)
def _know_the_scans_seen(engine_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "find_trained_scans", lambda model, fold, dataset: SEEN[fold])
    monkeypatch.setattr(
        exchange, "find_trained_prints",
        lambda model, fold, dataset: {name: prints_of(name) for name in SEEN[fold]},
    )  # fmt: skip


def prints_of(scan_id: str) -> Prints:
    return take_prints(make_scan(scan_id).image)


def space(folder: Path) -> Workspace:
    return open_workspace(folder, environ={})


def export(home: Path, out: Path, *, trust: bool = False, **options: Any) -> Path:
    ensemble = choose_ensemble(home / "results" / DATASET, n_folds=2)
    export_model(
        ensemble,
        out,
        dataset=TWO_FOLDS,
        engine=make_engine(space(home), trust=trust),
        **options,
    )
    return out


def take_in(path: Path, home: Path, **options: Any) -> ImportedModel:
    engine = make_engine(space(home), trust=options.pop("trust", False))
    return import_model(path, engine=engine, **options)


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A workspace with two configurations of two folds."""
    for configuration in ("2d", "3d_fullres"):
        folder = write_model(
            tmp_path / "ours" / "results", configuration=configuration, folds=(0, 1)
        )
        record = {"settings": {"epochs": 2}, "plans": "x", "dataset": "y"}
        (folder / "fold_0" / "gi2nnunet_training.json").write_text(json.dumps(record))
    return tmp_path / "ours"


@pytest.fixture
def file(ours: Path, tmp_path: Path) -> Path:
    return export(ours, tmp_path / "model.gi2nnunet")


def weights_of(home: Path, configuration: str = "2d", fold: Fold = 0) -> dict[str, torch.Tensor]:
    folder = home / "results" / DATASET / f"nnUNetTrainer__gi2nnunetTinyPlans__{configuration}"
    content = load_checkpoint(folder / f"fold_{fold}" / "checkpoint_final.pth")
    found: dict[str, torch.Tensor] = content["network_weights"]
    return found


def is_empty(home: Path) -> bool:
    """Whether no model and nothing half-made is there; a log may be."""
    return not [path for path in home.rglob("*") if path.is_file() and path.suffix != ".log"]


def test_an_imported_model_is_the_exported_one(ours: Path, file: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    done = take_in(file, theirs)
    assert [path.name.rpartition("__")[2] for path in done.written] == ["2d", "3d_fullres"]
    models = list_models(theirs / "results" / DATASET)
    assert [(model.configuration, model.folds) for model in models] == [
        ("2d", (0, 1)), ("3d_fullres", (0, 1)),
    ]  # fmt: skip
    for configuration in ("2d", "3d_fullres"):
        for fold in (0, 1):
            before = weights_of(ours, configuration, fold)
            after = weights_of(theirs, configuration, fold)
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
        name = f"nnUNetTrainer__gi2nnunetTinyPlans__{configuration}"
        folder = theirs / "results" / DATASET / name
        assert json.loads((folder / "plans.json").read_text()) == make_plans(configuration)
    checkpoint = load_checkpoint(done.written[0] / "fold_1" / "checkpoint_final.pth")
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == "2d"
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1)


def test_imports_of_one_file_are_equal_byte_for_byte(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = []
    for name in ("one", "two", "three"):
        monkeypatch.setattr("socket.gethostname", lambda name=name: f"host-{name}")
        take_in(file, tmp_path / name)
        trees.append(
            {
                path.relative_to(tmp_path / name): path.read_bytes()
                for path in (tmp_path / name / "results").rglob("*")
                if path.is_file()
            }
        )
    assert len([path for path in trees[0] if path.suffix == ".pth"]) == 4
    assert trees[0] == trees[1] == trees[2]


def test_each_fold_tells_what_it_was_trained_on(ours: Path, file: Path, tmp_path: Path) -> None:
    take_in(file, tmp_path / "theirs")
    results = tmp_path / "theirs" / "results" / DATASET
    model = list_models(results)[0]
    assert find_import_record(fold_folder(model.folder, 0))["trained_on"] == ["case1_day0"]
    assert find_import_record(fold_folder(model.folder, 1))["trained_on"] == ["case2_day0"]
    ensemble = choose_ensemble(results, n_folds=2)
    for scan_id, standing in (("case1_day0", "in-sample"), ("case7_day0", "held-out")):
        asked = {"case9_day9": [prints_of(scan_id)]}  # the image under another name
        found = find_standing(["case9_day9"], dataset=None, ensemble=ensemble, prints=asked)
        assert found == standing
    assert find_training_record(fold_folder(model.folder, 0))["settings"] == {"epochs": 2}
    assert find_training_record(fold_folder(model.folder, 1)) == {}
    assert count_folds(results) == 2
    assert choose_ensemble(results, n_folds=2).chosen_by == "the newest complete set"
    assert count_folds(ours / "results" / DATASET) == 0
    assert (
        find_import_record(fold_folder(list_models(ours / "results" / DATASET)[0].folder, 0))
        is None
    )


def test_tensors_of_several_names_are_held_once(ours: Path, file: Path, tmp_path: Path) -> None:
    held = weights_of(ours)
    distinct = {tensor.data_ptr(): tensor.nbytes for tensor in held.values()}
    assert len(distinct) < len(held)
    with zipfile.ZipFile(file) as archive:
        size = archive.getinfo("2d/fold_0.safetensors").file_size
    assert sum(distinct.values()) < size < sum(distinct.values()) + 2500
    take_in(file, tmp_path / "theirs")
    again = weights_of(tmp_path / "theirs")
    assert len({tensor.data_ptr() for tensor in again.values()}) == len(distinct)


def test_half_precision_takes_half_the_room(ours: Path, tmp_path: Path) -> None:
    path = export(ours, tmp_path / "half.gi2nnunet", half=True)
    with zipfile.ZipFile(path) as half, zipfile.ZipFile(export(ours, tmp_path / "m")) as whole:
        sizes = [
            archive.getinfo("2d/fold_0.safetensors").file_size - 1200 for archive in (half, whole)
        ]
    assert 0.4 < sizes[0] / sizes[1] < 0.6
    take_in(path, tmp_path / "theirs")
    before, after = weights_of(ours), weights_of(tmp_path / "theirs")
    assert all(tensor.dtype == torch.float32 for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.allclose(before[name], after[name], rtol=1e-3) for name in before)


def test_what_half_precision_cannot_hold_stays_as_it_is() -> None:
    for kept in (torch.tensor([1.0, 70000.0]), torch.tensor([3]), torch.tensor([True])):
        assert weights.to_half(kept) is kept
    assert weights.to_half(torch.tensor([1.5])).dtype == torch.float16


def test_equal_models_are_equal_files(ours: Path, file: Path, tmp_path: Path) -> None:
    assert export(ours, tmp_path / "again").read_bytes() == file.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_the_same_again_is_left_alone_and_what_is_missing_is_written(
    file: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    first = take_in(file, theirs)
    before = {path: path.stat().st_mtime_ns for path in theirs.rglob("*.pth")}
    again = take_in(file, theirs)
    assert (again.written, again.kept) == ((), first.written)
    shutil.rmtree(first.written[1])
    third = take_in(file, theirs)
    assert (third.written, third.kept) == (first.written[1:], first.written[:1])
    assert {path.parent for path in theirs.rglob("*.pth")} == {path.parent for path in before}
    (first.written[0] / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(InputError, match="--replace"):
        take_in(file, theirs)
    assert take_in(file, theirs, replace=True).written == first.written[:1]
    assert set(theirs.rglob("*.pth")) == set(before)


def test_another_model_is_replaced_only_when_told(ours: Path, file: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    folder = write_model(theirs / "results", folds=(0,))
    (folder / "fold_0" / "of_mine").touch()
    with pytest.raises(InputError, match=r"__2d: .*--replace"):
        take_in(file, theirs)
    assert (folder / "fold_0" / "of_mine").exists()
    assert not (theirs / "results" / DATASET / "nnUNetTrainer__gi2nnunetTinyPlans__3d").exists()
    take_in(file, theirs, replace=True)
    assert {path.name for path in folder.glob("fold_*")} == {"fold_0", "fold_1"}
    assert torch.equal(
        weights_of(theirs, fold=1)["encoder.stages.0.0.convs.0.conv.weight"],
        weights_of(ours, fold=1)["encoder.stages.0.0.convs.0.conv.weight"],
    )
    assert not list((theirs / "results").glob(".*"))


def test_a_model_that_predicts_is_not_replaced(file: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    folder = write_model(theirs / "results", folds=(0,))
    with (
        hold(folder, purpose="predicting", shared=True),
        pytest.raises(OutputError, match=r"in use by another run.*predicting"),
    ):
        take_in(file, theirs, replace=True)
    take_in(file, theirs, replace=True)


def test_folds_that_the_file_does_not_hold_are_not_replaced(file: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    folder = write_model(theirs / "results", folds=("all", 0))
    (folder / "fold_2").mkdir()  # begun
    before = {path: path.is_file() and path.read_bytes() for path in theirs.rglob("*")}
    with pytest.raises(InputError, match=r"not hold 2d/fold_2, 2d/fold_all, .*gi2nnunet remove"):
        take_in(file, theirs, replace=True)
    after = {path: path.is_file() and path.read_bytes() for path in theirs.rglob("*")}
    assert {path: content for path, content in after.items() if path in before} == before
    assert not list((theirs / "results").glob(f"{DATASET}/*__3d_fullres"))


@pytest.mark.parametrize(
    "name", ["fold_0/checkpoint_final.pth", "plans.json", "dataset.json", f"fold_0/{DIGESTS}"]
)
@pytest.mark.parametrize("harm", ["altered", "missing"])
def test_a_damaged_import_is_replaced_by_the_same_file(
    file: Path, tmp_path: Path, name: str, harm: str
) -> None:
    theirs = tmp_path / "theirs"
    folder = take_in(file, theirs).written[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    data = bytearray(before[folder / name])
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    if harm == "missing":
        (folder / name).unlink()
    with pytest.raises(InputError, match="--replace"):
        take_in(file, theirs)
    done = take_in(file, theirs, replace=True)
    assert folder in done.written
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_an_altered_checkpoint_is_not_exported(ours: Path, file: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    folder = take_in(file, theirs).written[0]
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    name = next(iter(checkpoint["network_weights"]))
    checkpoint["network_weights"][name] += 1
    torch.save(checkpoint, path)  # whole by PyTorch's own checksums
    with pytest.raises(InputError, match=r"other content than was saved.*import-model"):
        export(theirs, tmp_path / "laundered.gi2model")
    assert not (tmp_path / "laundered.gi2model").exists()
    take_in(file, theirs, replace=True)  # the remedy
    export(theirs, tmp_path / "sound.gi2model")


def test_a_replacement_that_fails_leaves_the_former_model(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    folder = write_model(theirs / "results", folds=(0,))
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    move = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target == folder and ".old" not in self.name:
            raise OSError("no right")
        return move(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", fail)
        with pytest.raises(OutputError, match="no right"):
            take_in(file, theirs, replace=True)
    after = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == before
    assert not list((theirs / "results").glob(".*"))


def test_another_dataset_of_the_number_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs" / "raw" / "Dataset501_Other").mkdir(parents=True)
    with pytest.raises(InputError, match=r"Dataset501_Other.*--workspace"):
        take_in(file, tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")


def test_too_little_space_is_told_before_anything_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"needs \d+ MiB; only 0 MiB are free"):
        take_in(file, tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_an_import_that_breaks_off_leaves_nothing_that_looks_like_a_model(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(task: str, options: Mapping[str, Any], **_: Any) -> None:
        weights.run_import(**{**options, "configurations": options["configurations"][:1]})
        raise EngineError("killed")

    theirs = tmp_path / "theirs"
    with monkeypatch.context() as patched:
        patched.setattr(engine_module, "run_engine", run)
        with pytest.raises(EngineError):
            take_in(file, theirs)
    assert is_empty(theirs)
    assert len(take_in(file, theirs).written) == 2


def test_a_killed_import_is_removed_by_any_other_of_the_dataset(
    ours: Path, file: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "theirs"
    take_in(file, theirs)
    left = theirs / "results" / f".{DATASET}.part"
    for again in (file, export(ours, tmp_path / "half.gi2nnunet", half=True)):
        (left / "nnUNetTrainer__gi2nnunetTinyPlans__2d").mkdir(parents=True)
        assert [f.file for f in verify_workspace(space(theirs)).findings if f.file == left]
        take_in(again, theirs, replace=True)
        assert not left.exists()


# -- damage and malice


def test_every_flipped_byte_of_the_content_is_found(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        starts = [(m.filename, m.header_offset + 30 + len(m.filename)) for m in archive.infolist()]
        sizes = {m.filename: m.file_size for m in archive.infolist()}
    for name, start in starts:
        for offset in (0, sizes[name] // 2, sizes[name] - 1):
            damaged = bytearray(whole)
            damaged[start + offset] ^= 0x40
            (tmp_path / "damaged").write_bytes(damaged)
            with pytest.raises(InputError, match=r"damaged.*Get the file again"):
                take_in(tmp_path / "damaged", tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")


@pytest.mark.parametrize("part", [0.0, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_named(file: Path, tmp_path: Path, part: float) -> None:
    whole = file.read_bytes()
    (tmp_path / "short").write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(InputError, match=r"short: is not a model file, or a damaged one"):
        take_in(tmp_path / "short", tmp_path / "theirs")
    with pytest.raises(InputError, match=r"none: no such file.*export-model"):
        take_in(tmp_path / "none", tmp_path / "theirs")


def rewrite(
    file: Path,
    change: Callable[[dict[str, bytes], dict[str, Any]], None],
    *,
    packing: int = zipfile.ZIP_STORED,
) -> Path:
    """Write the file anew with other parts or another manifest."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(parts.pop(MANIFEST))
    change(parts, manifest)
    path = file.with_name("changed.gi2nnunet")
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in {**parts, MANIFEST: json.dumps(manifest).encode()}.items():
            archive.writestr(name, content)
    return path


def with_digest(
    parts: dict[str, bytes], manifest: dict[str, Any], name: str, content: bytes
) -> None:
    """Put in a part as its attacker would: with its right checksum."""
    import hashlib

    parts[name] = content
    digest = hashlib.sha256(content).hexdigest()
    manifest["parts"][name] = {"bytes": len(content), "sha256": digest}


def test_weights_that_are_not_finite_are_neither_imported_nor_exported(
    ours: Path, file: Path, tmp_path: Path
) -> None:
    def spoil(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        name = "2d/fold_1.safetensors"
        tensors = safetensors.torch.load(parts[name])
        tensors[max(tensors)][0] = float("nan")
        with_digest(parts, manifest, name, safetensors.torch.save(tensors))

    found = r"found NaN or infinity in \d+ of \d+ tensors"
    with pytest.raises(InputError, match=rf"2d/fold_1\.safetensors: {found}"):
        take_in(rewrite(file, spoil), tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")
    path = next((ours / "results").rglob("*__3d_fullres/fold_1/checkpoint_final.pth"))
    checkpoint = load_checkpoint(path)
    checkpoint["network_weights"]["decoder.seg_layers.0.bias"][0] = float("inf")
    torch.save(checkpoint, path)
    with pytest.raises(InputError, match=rf"fold_1/checkpoint_final\.pth: {found}.*--restart"):
        export(ours, tmp_path / "spoilt.gi2nnunet")
    assert not (tmp_path / "spoilt.gi2nnunet").exists()


def test_a_rewritten_file_as_it_was_is_taken(file: Path, tmp_path: Path) -> None:
    assert len(take_in(rewrite(file, lambda *_: None), tmp_path / "theirs").written) == 2


def test_an_altered_part_is_told_by_its_checksum(file: Path, tmp_path: Path) -> None:
    def alter(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        content = bytearray(parts["3d_fullres/fold_1.safetensors"])
        content[-1] ^= 1
        parts["3d_fullres/fold_1.safetensors"] = bytes(content)

    with pytest.raises(
        InputError, match=r"3d_fullres/fold_1\.safetensors does not match its recorded checksum"
    ):
        take_in(rewrite(file, alter), tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")


@pytest.mark.parametrize(
    "name", ["../../evil", "/evil", "2d/../../evil", "C:\\evil", "2d/fold_0.pth", "2d/evil.py"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_parts_of_other_names_are_refused(
    file: Path, tmp_path: Path, name: str, listed: bool
) -> None:
    def add(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        if listed:
            with_digest(parts, manifest, name, b"evil")
        else:
            parts[name] = b"evil"

    with pytest.raises(InputError, match="its parts are not those"):
        take_in(rewrite(file, add), tmp_path / "deep" / "er" / "theirs")
    assert not list(tmp_path.rglob("evil*"))
    assert is_empty(tmp_path / "deep")


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "../Dataset501_X"},
        {"dataset": "Dataset501_../../x"},
        {"dataset": "raw"},
        {"trainer": "../x"},
        {"plans_name": "a/b"},
        {"plans_name": "a__b"},
        {"plans_name": 5},
        {"models": {"../2d": [0]}},
        {"models": {"2d": ["../0"]}},
        {"models": {"2d": [-1]}},
        {"models": {"2d": [True]}},
        {"models": {"2d": []}},
        {"models": {}},
        {"models": []},
        {"parts": None},
        {"parts": {"dataset.json": {"bytes": "x", "sha256": ""}}},
        {"n_folds": None},
        {"format": 2},
        {"format": None},
    ],
    ids=str,
)
def test_a_manifest_of_other_names_is_refused(
    file: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    changed = rewrite(file, lambda parts, manifest: manifest.update(change))
    with pytest.raises(InputError, match=r"changed\.gi2nnunet"):
        take_in(changed, tmp_path / "deep" / "theirs")
    assert is_empty(tmp_path / "deep")


def test_a_packed_file_is_refused_before_it_is_unpacked(file: Path, tmp_path: Path) -> None:
    def fill(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        with_digest(parts, manifest, "2d/fold_0.safetensors", bytes(10_000_000))

    bomb = rewrite(file, fill, packing=zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 1_000_000
    with pytest.raises(InputError, match="packed"):
        take_in(bomb, tmp_path / "theirs")


def test_stray_files_in_a_model_file_change_nothing(file: Path, tmp_path: Path) -> None:
    plain = take_in(file, tmp_path / "plain")
    assert add_strays_to_zip(file) > 10
    done = take_in(file, tmp_path / "theirs")
    assert done.bundle == plain.bundle
    for configuration in done.bundle.folds:
        ours, theirs = (weights_of(tmp_path / at, configuration) for at in ("plain", "theirs"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_parts_of_one_name_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("2d/plans.json", "{}")
    with pytest.raises(InputError, match="several parts of one name"):
        take_in(file, tmp_path / "theirs")


def test_a_plan_that_imports_something_is_not_taken_in(file: Path, tmp_path: Path) -> None:
    def plant(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        plans = make_plans()
        plans["configurations"]["2d"]["architecture"]["network_class_name"] = "planted.Evil"
        with_digest(parts, manifest, "2d/plans.json", json.dumps(plans).encode())

    with pytest.raises(InputError, match=r"network_class_name: found 'planted\.Evil'"):
        take_in(rewrite(file, plant), tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")
    assert len(take_in(rewrite(file, plant), tmp_path / "theirs", trust=True).written) == 2


def test_a_trainer_that_nnunet_does_not_ship_is_not_taken_in(file: Path, tmp_path: Path) -> None:
    changed = rewrite(file, lambda parts, manifest: manifest.update(trainer="EvilTrainer"))
    with pytest.raises(InputError, match=r"trainer: found 'EvilTrainer'"):
        take_in(changed, tmp_path / "theirs")


@pytest.mark.parametrize(
    "notes",
    [
        {"mirroring_axes": [7]},
        {"mirroring_axes": "x"},
        {"trained_on": [3]},
        {"trained_on": "case1_day0"},
        {"shared_tensors": None},
        {"shared_tensors": {"a": 1}},
        {"training": None},
        {"shared_tensors": {"a": "b"}},
    ],
    ids=str,
)
def test_notes_of_another_form_are_refused(
    file: Path, tmp_path: Path, notes: dict[str, Any]
) -> None:
    def change(parts: dict[str, bytes], manifest: dict[str, Any]) -> None:
        found = json.loads(parts["2d/fold_0.json"]) | notes
        with_digest(parts, manifest, "2d/fold_0.json", json.dumps(found).encode())

    with pytest.raises(InputError, match=r"2d/fold_0\.(json: .*found|safetensors is damaged)"):
        take_in(rewrite(file, change), tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8 + b"{}"])
def test_what_are_no_weights_are_refused(file: Path, tmp_path: Path, content: bytes) -> None:
    changed = rewrite(
        file,
        lambda parts, manifest: with_digest(parts, manifest, "2d/fold_0.safetensors", content),
    )
    with pytest.raises(InputError, match=r"2d/fold_0\.safetensors is damaged"):
        take_in(changed, tmp_path / "theirs")
    assert is_empty(tmp_path / "theirs")


def test_unknown_scans_stay_unknown(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "find_trained_scans", lambda model, fold, dataset: None)
    export_model(
        choose_ensemble(ours / "results" / DATASET, n_folds=2),
        tmp_path / "m",
        dataset=None,
        engine=make_engine(space(ours)),
    )
    take_in(tmp_path / "m", tmp_path / "theirs")
    model = list_models(tmp_path / "theirs" / "results" / DATASET)[0]
    assert find_import_record(fold_folder(model.folder, 0))["trained_on"] is None


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_checkpoint_that_could_run_code_is_exported_only_when_trusted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ours" / "results")
    flag = tmp_path / "ran"
    torch.save(
        {**make_checkpoint(), "logging": Planted(flag)},
        folder / "fold_all" / "checkpoint_final.pth",
    )
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: refused.*--trust"):
        export(tmp_path / "ours", tmp_path / "m")
    assert not flag.exists()
    assert not list(tmp_path.glob("*m*"))
    export(tmp_path / "ours", tmp_path / "m", trust=True)
    assert flag.exists()
    flag.unlink()
    take_in(tmp_path / "m", tmp_path / "theirs")  # what came out holds no code any more
    assert not flag.exists()
    assert open_bundle(tmp_path / "m").folds == {"2d": ("all",)}


def test_a_planted_plan_is_not_exported(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ours" / "results")
    plans = make_plans()
    plans["label_manager"] = "planted"
    (folder / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(InputError, match=r"plans\.json, label_manager"):
        export(tmp_path / "ours", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_model_whose_name_could_not_be_imported_is_not_exported(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ours" / "results")
    folder.rename(folder.with_name("nnUNetTrainer__my plans__2d"))
    with pytest.raises(InputError, match='plans_name: found "my plans"'):
        export(tmp_path / "ours", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_is_no_file_to_write(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        export(ours, tmp_path)
