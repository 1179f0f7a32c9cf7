from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import InputError
from gi2nnunet.nnunet.child.checkpoints import check_entries, check_weights, load_checkpoint

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


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"c\.pth"):
        load_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], 3])
def test_other_weights_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(InputError, match="no checkpoint of nnU-Net"):
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


def test_entries_of_other_types_are_refused() -> None:
    good = {"init_args": {"configuration": "2d"}, "trainer_name": "nnUNetTrainer"}
    check_entries(good, Path("c.pth"), configuration="2d")
    for changed in ({"init_args": [1]}, {"trainer_name": 3}, {"init_args": {}}):
        with pytest.raises(InputError, match=r"c\.pth"):
            check_entries({**good, **changed}, Path("c.pth"), configuration="2d")


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
