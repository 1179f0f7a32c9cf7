"""A training that diverges ends; an overflow that nnU-Net's scaler skips does not end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gi2nnunet.core.errors import EngineError
from gi2nnunet.nnunet.child.memory import measure_peaks
from gi2nnunet.nnunet.child.trainer import _make_trainer, load_weights
from gi2nnunet.nnunet.child.weights import load_checkpoint
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


def test_weights_of_a_training_on_cuda_start_one_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    from tests.model_factory import make_checkpoint

    def make_network() -> torch.nn.Module:
        return torch.nn.ModuleDict({"encoder": torch.nn.Linear(2, 3)})

    trained, file = make_network(), tmp_path / "checkpoint_final.pth"
    with monkeypatch.context() as patch:  # as a tensor on a card is written
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save({**make_checkpoint(), "network_weights": trained.state_dict()}, file)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="deserialize object on a CUDA device"):
            load_pretrained_weights(make_network(), str(file))
    started = make_network()
    load_weights(started, load_checkpoint(file)["network_weights"])
    for name, weight in trained.state_dict().items():
        assert torch.equal(started.state_dict()[name], weight)


def test_the_peak_of_a_card_is_what_pytorch_held_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 7)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5)
    assert measure_peaks("cuda")["peak_gpu_bytes"] == 7
    assert "peak_gpu_bytes" not in measure_peaks("cpu")
