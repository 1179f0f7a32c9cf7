"""A training that diverges ends; an overflow that nnU-Net's scaler skips does not end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import EngineError
from gi2nnunet.nnunet.child.trainer import _make_trainer
from gi2nnunet.nnunet.models import DIGESTS, check_digest, find_digests

NAN, INF = np.float32("nan"), np.float32("inf")


class Base:
    """What of nnU-Net's trainer is called: it notes what was called, and saves the weights."""

    initial_lr = 0.5
    current_epoch = 4

    def __init__(self) -> None:
        self.network = torch.nn.Linear(2, 3)
        self.ended: list[str] = []

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        self.ended.append("training")

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        self.ended.append("validation")

    def save_checkpoint(self, filename: str) -> None:
        torch.save(self.network.state_dict(), filename)


@pytest.fixture
def trainer() -> Any:
    return _make_trainer(Base, lambda event: None, lambda: False)()  # type: ignore[arg-type]


def give(*losses: np.float32 | float) -> list[dict[str, Any]]:
    return [{"loss": np.float32(loss)} for loss in losses]


def test_a_loss_that_overflows_in_some_batches_goes_on(trainer: Any) -> None:
    trainer.on_train_epoch_end(give(NAN, 0.5, INF))
    trainer.on_validation_epoch_end(give(INF, 0.25))
    assert trainer.ended == ["training", "validation"]


def test_an_epoch_without_a_finite_loss_ends_the_training(trainer: Any) -> None:
    message = r"diverged in epoch 5: no training batch .*--restart.*it was 0\.5; try 0\.01\."
    with pytest.raises(EngineError, match=message):
        trainer.on_train_epoch_end(give(NAN, INF))
    trainer.initial_lr = 1e-3
    with pytest.raises(EngineError, match=r"no validation batch .*it was 0\.001; try 0\.0001\."):
        trainer.on_validation_epoch_end(give(NAN))


@pytest.mark.parametrize("value", [NAN, -INF])
def test_weights_that_are_not_finite_end_it_and_are_not_saved(
    trainer: Any, tmp_path: Path, value: float
) -> None:
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    sound = path.read_bytes()
    with torch.no_grad():
        trainer.network.bias[1] = float(value)
    with pytest.raises(EngineError, match=r"diverged in epoch 5: found NaN or infinity in 1 of 2"):
        trainer.on_train_epoch_end(give(0.5))
    with pytest.raises(EngineError, match="first bias"):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == sound
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name, DIGESTS]
    assert find_digests(path) == [check_digest(path)]
