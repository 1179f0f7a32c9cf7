from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.child.weights import (
    check_entries,
    check_weights,
    load_checkpoint,
    load_fold,
    run_inspection,
)

GOOD: dict[str, Any] = {
    "network_weights": {"w": torch.arange(3.0)},
    "trainer_name": "nnUNetTrainer",
    "init_args": {"configuration": "2d", "fold": 0},
    "logging": {"losses": [np.float64(0.5), np.float32(0.25)]},
}


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.flag,)


def test_a_checkpoint_with_numpys_scalars_loads(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "c.pth")
    loaded = load_checkpoint(tmp_path / "c.pth")
    assert torch.equal(loaded["network_weights"]["w"], torch.arange(3.0))
    assert loaded["logging"]["losses"] == [0.5, 0.25]


def test_planted_code_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    torch.save({**GOOD, "logging": Planted(flag)}, tmp_path / "evil.pth")
    with pytest.raises(InputError, match=r"evil\.pth: refused"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not flag.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert flag.exists()  # the plain loader would have run it


def test_a_bare_pickle_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "ran"
    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Planted(flag), protocol=2))
    with pytest.raises(InputError):
        load_checkpoint(tmp_path / "evil.pth")
    assert not flag.exists()


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "c.pth")
    whole = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "c.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"c\.pth"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("part", ["/data/0", "/data.pkl"])
@pytest.mark.parametrize("trust", [False, True])
def test_a_single_changed_byte_is_found(tmp_path: Path, part: str, trust: bool) -> None:
    path = tmp_path / "c.pth"
    weights = torch.linspace(1, 2, 1000)
    torch.save({**GOOD, "network_weights": {"w": weights}}, path)
    load_checkpoint(path, trust=trust)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith(part))
        held = archive.read(name)
    content[content.index(held) + len(held) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=rf"c\.pth: is damaged.*{part} does not match its checksum"
    ):
        load_checkpoint(path, trust=trust)


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.pth"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], 3])
def test_other_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(InputError, match="not a checkpoint of nnU-Net"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    bad = {"sound": torch.ones(2), "steps": torch.tensor(3), "bad": torch.tensor([0.0, value])}
    torch.save({**GOOD, "network_weights": bad}, tmp_path / "c.pth")
    with pytest.raises(InputError, match=r"c\.pth: found NaN or infinity in 1 of 3 .*first bad"):
        load_checkpoint(tmp_path / "c.pth")


def test_a_missing_one_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gi2nnunet train"):
        load_checkpoint(tmp_path / "c.pth")


FOLD = Path("nnUNetTrainer__gi2nnunetTinyPlans__2d/fold_0/checkpoint_final.pth")


@pytest.mark.parametrize("changed", [{"init_args": [1]}, {"trainer_name": 3}])
def test_entries_of_other_types_are_refused(changed: dict[str, Any]) -> None:
    check_entries(GOOD, FOLD)
    with pytest.raises(InputError, match=r"checkpoint_final\.pth: is damaged"):
        check_entries({**GOOD, **changed}, FOLD)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"init_args": {"configuration": "2d", "fold": 1}}, "2d, fold 1, nnUNetTrainer"),
        ({"init_args": {"configuration": "2d", "fold": "all"}}, "2d, fold all, nnUNetTrainer"),
        ({"init_args": {"configuration": "3d_fullres", "fold": 0}}, "3d_fullres, fold 0, nnUNetT"),
        ({"init_args": {}}, "None, fold None"),
        ({"trainer_name": "nnUNetTrainerAdam"}, "2d, fold 0, nnUNetTrainerAdam"),
    ],
)
def test_a_checkpoint_of_another_fold_configuration_or_trainer_is_refused(
    tmp_path: Path, changed: dict[str, Any], found: str
) -> None:
    path = tmp_path / FOLD
    path.parent.mkdir(parents=True)
    torch.save(GOOD, path)
    assert load_fold(path)["init_args"] == GOOD["init_args"]
    torch.save({**GOOD, **changed}, path)
    with pytest.raises(InputError, match=f"found a checkpoint of {found}.*; expected one of 2d, "):
        load_fold(path)


def test_weights_of_other_shapes_are_named_by_layer() -> None:
    network = torch.nn.Linear(2, 3)
    good = network.state_dict()
    check_weights(good, network, where="c.pth")
    for weights, said in (
        ({"weight": torch.zeros(3, 2)}, r"bias: found none, expected \(3,\)"),
        ({**good, "b": torch.zeros(1)}, r"b: found \(1,\), expected none"),
        ({**good, "weight": torch.zeros(2, 3)}, r"found \(2, 3\), expected \(3, 2\)"),
        ([], "no table of weights"),
        ({**good, "bias": 3}, "no table of weights"),
    ):
        with pytest.raises(InputError, match=rf"c\.pth: .*{said}"):
            check_weights(weights, network, where="c.pth")


def test_an_inspection_refuses_what_a_prediction_refuses(tmp_path: Path) -> None:
    paths = {}
    for fold, weights in ((0, torch.ones(3)), (1, torch.ones(3)), (2, torch.tensor([torch.nan]))):
        path = tmp_path / FOLD.parent.parent / f"fold_{fold}" / FOLD.name
        path.parent.mkdir(parents=True)
        arguments = {"configuration": "2d", "fold": 0 if fold == 1 else fold}
        torch.save({**GOOD, "network_weights": {"w": weights}, "init_args": arguments}, path)
        paths[fold] = str(path)
    refused = run_inspection(checkpoints=list(paths.values()))["refused"]
    assert refused.keys() == {paths[1], paths[2]}
    assert refused[paths[1]].startswith("found a checkpoint of 2d, fold 0, nnUNetTrainer; expected")
    assert refused[paths[2]].startswith("found NaN or infinity in 1 of 1 tensor")
