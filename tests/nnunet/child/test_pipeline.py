"""Our loader against nnU-Net's own on the same preprocessed scans, and who ends its workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from gi2nnunet.nnunet.child import pipeline
from gi2nnunet.nnunet.child.augment import build_batch, read_recipe
from gi2nnunet.nnunet.child.pipeline import DeviceBatches, Loader, use_pipeline
from tests.nnunet.child.test_augment import (
    IMAGE_BOUND,
    NAMES,
    SHAPES,
    always,
    make_patch,
    make_transforms,
    one_thread,
    seed_all,
)

__all__ = ["one_thread"]

CPU = torch.device("cpu")
LABELS = SimpleNamespace(
    all_labels=[1, 2, 3, 4, 5, 6, 7], has_ignore_label=False, has_regions=True,
    foreground_regions=[(1, 3, 5, 7), (2, 3, 6, 7), (4, 5, 6, 7)], foreground_labels=[1, 2, 3],
    ignore_label=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three preprocessed scans of two channels, one smaller than a patch, one without organs."""
    folder = tmp_path_factory.mktemp("scans")
    for number, shape in enumerate([(40, 60, 50), (10, 30, 90), (30, 70, 70)]):
        image, labels = make_patch(shape, seed=number)
        if number == 2:
            labels[labels > 0] = 0
        places = {value: np.argwhere(labels.numpy()[None] == value) for value in range(1, 8)}
        nnUNetDatasetBlosc2.save_case(
            image.numpy(), labels.numpy()[None].astype(np.int8), {"class_locations": places},
            str(folder / f"case{number}_day0"), chunks=(1, 8, 32, 32), blocks=(1, 4, 16, 16),
        )  # fmt: skip
    return folder


def make_loaders(folder: Path, kind: str, transforms: Any, **options: Any) -> tuple[Any, Loader]:
    """nnU-Net's and ours, over the same scans."""
    patch, larger, _ = SHAPES[kind]
    common = {"oversample_foreground_percent": 0.5}
    arguments = (nnUNetDatasetBlosc2(str(folder)), 4, larger, patch, LABELS)
    theirs = nnUNetDataLoader(*arguments, **common, transforms=transforms)
    return theirs, Loader(*arguments, **common, recipe=read_recipe(transforms, patch), **options)


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("kind", SHAPES)
def test_batches_are_nnunets_where_the_draws_are_the_same(
    scans: Path, kind: str, turned: bool
) -> None:
    # Without the transforms of the image there is nothing that is drawn while it is computed.
    transforms = always(make_transforms(kind), without=NAMES)
    if not turned:
        transforms.transforms[SHAPES[kind][2]].p_rotation = 0
        transforms.transforms[SHAPES[kind][2]].p_scaling = 0
    theirs, ours = make_loaders(scans, kind, transforms)
    different = total = 0
    for seed in range(6):
        seed_all(seed)
        expected = theirs.generate_train_batch()
        seed_all(seed)
        found = ours.generate_train_batch()
        assert list(found["keys"]) == list(expected["keys"])
        error = (found["data"] - expected["data"]).abs().max()
        assert error <= IMAGE_BOUND * (expected["data"].max() - expected["data"].min())
        for mine, other in zip(found["target"], expected["target"], strict=True):
            different += int((mine != other).sum())
            total += other.numel()
    assert different <= total * 1e-5 * turned


def test_the_same_scans_and_places_are_drawn_with_all_transforms(scans: Path) -> None:
    theirs, ours = make_loaders(scans, "3d", make_transforms("3d"))
    corners: list[list[Any]] = [[], []]
    for loader, into in zip((theirs, ours), corners, strict=True):
        plain = loader.get_bbox
        loader.get_bbox = lambda *a, plain=plain, into=into: into.append(plain(*a)) or into[-1]
        for seed in range(8):
            seed_all(seed)
            loader.generate_train_batch()
    # The first sample of a batch: what follows depends on how much noise was drawn before.
    assert [c[0] for c in corners[0][::4]] == [c[0] for c in corners[1][::4]]


def test_workers_do_not_draw_the_same(scans: Path) -> None:
    _, loader = make_loaders(scans, "2d", make_transforms("2d"))
    drawn = []
    for number in (0, 1):
        seed_all(0)  # as they are after a fork
        loader.set_thread_id(number)
        drawn.append(torch.rand(4).tolist())
    assert drawn[0] != drawn[1]


class FewSamples:
    """An augmenter without workers."""

    def __init__(self, loader: Loader) -> None:
        self.data_loader = loader

    def __next__(self) -> dict[str, Any]:
        return self.data_loader.generate_train_batch()


def test_a_device_computes_what_the_processor_computes(scans: Path) -> None:
    transforms = always(make_transforms("3d"), without=["GaussianNoiseTransform"])
    _, reads = make_loaders(scans, "3d", transforms, only_reads=True)
    _, whole = make_loaders(scans, "3d", transforms)
    before = set(threading.enumerate())
    seed_all(5)
    batches = DeviceBatches(
        FewSamples(reads), recipe=reads.recipe, device=CPU, notify=lambda message: None
    )
    found = next(batches)
    batches.finish()
    seed_all(5)
    expected = whole.generate_train_batch()
    assert list(found["keys"]) == list(expected["keys"])
    error = (found["data"] - expected["data"]).abs().max()
    assert error <= IMAGE_BOUND * (expected["data"].max() - expected["data"].min())
    for mine, other in zip(found["target"], expected["target"], strict=True):
        assert torch.equal(mine, other)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.57 GiB, max allowed: 9.60 GiB)."),
    ],
    ids=["cuda", "mps"],
)
def test_without_memory_on_the_device_the_processor_goes_on(
    scans: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    _, reads = make_loaders(scans, "2d", make_transforms("2d"), only_reads=True)

    def fail(*args: Any, together: bool = True, **options: Any) -> dict[str, Any]:
        if together:
            raise error
        return build_batch(*args, together=False, **options)

    monkeypatch.setattr(pipeline, "build_batch", fail)
    said: list[str] = []
    batches = DeviceBatches(FewSamples(reads), recipe=reads.recipe, device=CPU, notify=said.append)
    for _ in range(3):
        assert next(batches)["data"].shape == (4, 2, *SHAPES["2d"][0])
    batches.finish()
    assert len(said) == 1
    assert "--augment processor" in said[0]


@pytest.mark.parametrize(
    "error", [OSError("a damaged scan"), RuntimeError("MPS device not found")], ids=["scan", "mps"]
)
def test_a_fault_beside_the_network_is_raised_where_the_batch_is_asked_for(
    error: Exception,
) -> None:
    class Broken:
        def __next__(self) -> dict[str, Any]:
            raise error

    said: list[str] = []
    recipe = read_recipe(make_transforms("2d"), SHAPES["2d"][0])
    batches = DeviceBatches(Broken(), recipe=recipe, device=CPU, notify=said.append)
    for _ in range(2):  # a caller that asks again does not wait for ever
        with pytest.raises(type(error), match=str(error)):
            next(batches)
    batches.finish()
    assert said == []


class Run(nnUNetTrainer):  # type: ignore[misc]
    """As much of a trainer as loads data."""

    def __init__(self, folder: Path) -> None:
        self.device, self.label_manager, self.batch_size = CPU, LABELS, 2
        self.dataset_class = nnUNetDatasetBlosc2
        self.configuration_manager = SimpleNamespace(
            patch_size=SHAPES["3d"][0], use_mask_for_norm=[False, False]
        )
        self.is_cascaded, self.enable_deep_supervision = False, True
        self.oversample_foreground_percent, self.probabilistic_oversampling = 0.33, False
        self.folder, self.ended = folder, 0

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        return nnUNetDatasetBlosc2(str(self.folder)), nnUNetDatasetBlosc2(str(self.folder))

    def _get_deep_supervision_scales(self) -> list[list[float]]:
        return [[1, 1, 1], [0.5, 0.5, 0.5]]

    def print_to_log_file(self, *args: Any, **options: Any) -> None:
        """Say nothing."""


@pytest.fixture(params=["0", "2"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("nnUNet_n_proc_DA", request.param)
    monkeypatch.setattr("os.cpu_count", lambda: 8)  # nnU-Net allows no more workers than cores
    return int(request.param)


# nnU-Net's augmenter ends its workers while its own thread may still read from them.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("augment", ["processor", "device"])
def test_a_trainer_loads_by_workers_that_end(scans: Path, workers: int, augment: str) -> None:
    said: list[str] = []
    run = use_pipeline(Run, augment, said.append)(scans)
    assert type(run).__name__ == "Run"  # as checkpoints name it
    run.dataloader_train, run.dataloader_val = run.get_dataloaders()
    for loader in (run.dataloader_train, run.dataloader_val):
        batch = next(loader)
        assert batch["data"].shape == (2, 2, *SHAPES["3d"][0])
        assert [tuple(t.shape[1:]) for t in batch["target"]] == [(3, 16, 32, 24), (3, 8, 16, 12)]
        assert batch["target"][0].dtype == torch.bool
    samples = run.dataloader_train
    inner = samples._samples if augment == "device" else samples
    processes = list(getattr(inner, "_processes", []))
    assert len(processes) == workers
    if augment == "device":
        samples.finish()
        assert not any(process.is_alive() for process in processes)
    elif workers:
        samples._finish()
    if workers:
        run.dataloader_val._finish()
    assert said == []


LOADS = """
import os, sys
from pathlib import Path
from gi2nnunet.nnunet.child import main as child
from gi2nnunet.nnunet.child.pipeline import use_pipeline
from tests.nnunet.child.test_pipeline import Run

def load(name, options, emit, stop):
    run = use_pipeline(Run, sys.argv[2], print)(Path(sys.argv[1]))
    train, _ = run.get_dataloaders()
    next(train)
    workers = getattr(train, "_samples", train)._processes
    emit({"workers": [worker.pid for worker in workers]})
    while True:  # as a training would
        next(train)

child._run = load
os._exit(child.main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("augment", ["processor", "device"])
def test_a_worker_that_dies_is_reported_within_seconds(
    scans: Path, augment: str, how: signal.Signals
) -> None:
    environment = {**os.environ, "nnUNet_n_proc_DA": "2", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", LOADS, scans, augment],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, start_new_session=True,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write('{"task": "load"}\n')
            child.stdin.flush()
            workers = json.loads(child.stdout.readline())["workers"]
            assert len(workers) == 2
            time.sleep(1)
            assert child.poll() is None
            os.kill(workers[0], how)
            struck = time.monotonic()
            event = json.loads(child.stdout.readline())
            assert child.wait(10) == 1
            assert time.monotonic() - struck < 5
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # as the parent of an engine's process does
    assert (event["event"], event["kind"]) == ("failure", "EngineError")
    assert how.name in event["message"]
    assert "Run the same again, with fewer --jobs" in event["message"]


def test_what_is_not_known_is_left_to_nnunet(scans: Path) -> None:
    class Other(Run):
        def get_dataloaders(self) -> tuple[str, str]:
            return "their", "own"

    said: list[str] = []
    assert use_pipeline(Other, "processor", said.append)(scans).get_dataloaders() == (
        "their", "own"
    )  # fmt: skip
    assert said == [
        "nnU-Net's own data pipeline is used, because of a trainer with a get_dataloaders of its "
        "own."
    ]
    assert use_pipeline(Run, "nnunet", said.append) is Run


def test_on_train_end_ends_the_thread_and_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ends:
        def on_train_end(self) -> None:
            self.saved = True

    ended: list[Any] = []
    monkeypatch.setattr(DeviceBatches, "finish", lambda self: ended.append(self))
    run = use_pipeline(Ends, "device", print)()  # type: ignore[arg-type]
    run.dataloader_train = batches = DeviceBatches.__new__(DeviceBatches)
    run.on_train_end()
    assert run.saved
    assert ended == [batches]
