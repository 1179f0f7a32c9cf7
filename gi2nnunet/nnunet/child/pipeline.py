"""Data loading for training: nnU-Net's sampling, our reading and augmentation, on any device.

nnU-Net's loader reads a patch large enough for every rotation and rotates it afterwards. This one
draws first and reads what that draw needs. With ``device`` its workers only read, and the patches
are computed on the card in a thread and on a stream of their own, beside the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgenerators.utilities.file_and_folder_operations import load_pickle
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor

from gi2nnunet.nnunet.child.augment import (
    EDGE,
    PAD_LABEL,
    Recipe,
    Sample,
    UnknownTransform,
    build_batch,
    draw,
    read_recipe,
)

_WAIT_SECONDS = 0.002  # between looks at a queue, as in nnU-Net
_CPU = torch.device("cpu")


class Loader(nnUNetDataLoader):  # type: ignore[misc]
    """nnU-Net's loader, which chooses scans and places; reading and augmentation are ours.

    Attributes
    ----------
    only_reads
        Give the samples as they are read, for a device to compute.
    """

    def __init__(self, *args: Any, recipe: Recipe, only_reads: bool = False, **options: Any):
        super().__init__(*args, **options)
        self.recipe = recipe
        self.only_reads = only_reads

    def set_thread_id(self, thread_id: int) -> None:
        """Begin in a worker: forked ones would all draw the same from PyTorch's generator."""
        super().set_thread_id(thread_id)
        torch.default_generator.seed()

    def generate_train_batch(self) -> dict[str, Any]:
        """Return a batch: ``keys``, and ``data`` and ``target`` or else what samples are made of.

        These are lists, in which nnU-Net's augmenter finds what to pin in memory.
        """
        keys = self.get_indices()
        samples = (self._read_sample(j, key) for j, key in enumerate(keys))
        if self.only_reads:
            read = list(samples)
            names = ("image", "labels", "draw")
            return {n: [getattr(s, n) for s in read] for n in names} | {"keys": keys}
        batch = build_batch(
            samples, recipe=self.recipe, size=self.batch_size, device=_CPU, together=False
        )
        return {**batch, "keys": keys}

    def _read_sample(self, number: int, key: str) -> Sample:
        image, labels = self._open(f"{key}.b2nd"), self._open(f"{key}_seg.b2nd")
        force = bool(self.get_do_oversample(number))
        # Half a megabyte that only some samples need.
        needed = force or self.has_ignore
        places = load_pickle(self._path(f"{key}.pkl"))["class_locations"] if needed else None
        corner, _ = self.get_bbox(image.shape[1:], force, places)
        flat = int(self.patch_size_was_2d)
        drawn = draw(self.recipe, channels=image.shape[0], larger=self.patch_size[flat:])
        first, size = drawn.window
        box = ((0,) * flat + first, (1,) * flat + size)
        pixels = _read(image, corner, self.patch_size, box, np.float32, 0)
        # -1, which is outside of the scan, is 255 in eight bits.
        values = _read(labels, corner, self.patch_size, box, np.uint8, PAD_LABEL)
        return Sample(
            image=pixels[:, 0] if flat else pixels,
            labels=values[0, 0] if flat else values[0],
            draw=drawn,
        )

    def _open(self, name: str) -> Any:
        return blosc2.open(
            self._path(name), mode="r", dparams={"nthreads": 1}, **self._data.mmap_kwargs
        )

    def _path(self, name: str) -> str:
        return str(Path(self._data.source_folder) / name)


def _read(
    array: Any,
    corner: Sequence[int],
    larger: Sequence[int],
    box: tuple[Sequence[int], Sequence[int]],
    dtype: type[np.generic],
    fill: int,
) -> Tensor:
    """Read a box of the larger patch at ``corner``; ``fill`` outside of that patch and the scan."""
    wanted, given = [slice(None)], [slice(None)]
    for start, whole, first, size, n in zip(corner, larger, *box, array.shape[1:], strict=True):
        begin = int(start) + first
        low = max(begin, int(start), 0)
        high = max(low, min(begin + size, int(start) + int(whole), n))
        wanted.append(slice(low, high))
        given.append(slice(low - begin, high - begin))
    found = array[tuple(wanted)].astype(dtype, copy=False)
    shape = (array.shape[0], *box[1])
    if found.shape == shape:
        return torch.from_numpy(found)
    filled = np.full(shape, fill, dtype)
    filled[tuple(given)] = found
    return torch.from_numpy(filled)


class DeviceBatches:
    """Batches that are computed on a device, one ahead of the network, from samples as read.

    If the device has no memory for them, the workers compute them from then on.

    Parameters
    ----------
    samples
        nnU-Net's augmenter, which gives what a :class:`Loader` reads.
    notify
        Called with a message if it could not go on there.
    """

    def __init__(
        self,
        samples: Any,
        *,
        recipe: Recipe,
        device: torch.device,
        notify: Callable[[str], None],
    ) -> None:
        self._samples = samples
        self._recipe = recipe
        self._device = device
        self._notify = notify
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._executor: ThreadPoolExecutor | None = ThreadPoolExecutor(1)
        self._next = self._executor.submit(self._compute)

    def __iter__(self) -> DeviceBatches:
        """Return itself."""
        return self

    def __next__(self) -> dict[str, Any]:
        """Return the next batch, on the device."""
        if self._executor is None:
            read: dict[str, Any] = next(self._samples)
            return read
        try:
            batch, computed = self._next.result()  # an error is raised at every later call too
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            self._leave_device()
            return next(self)
        self._next = self._executor.submit(self._compute)
        if computed is not None:
            network = torch.cuda.current_stream(self._device)
            network.wait_event(computed)
            for tensor in _tensors(batch):
                tensor.record_stream(network)
        return batch

    def finish(self) -> None:
        """End the thread and the workers."""
        self._next.cancel()
        wait([self._next], timeout=10)
        if isinstance(self._samples, NonDetMultiThreadedAugmenter):
            self._samples._finish()  # which also ends a thread that still waits for a sample
        if self._executor is not None:
            self._executor.shutdown()

    def _compute(self) -> tuple[dict[str, Any], Any]:
        read = next(self._samples)
        parts = zip(read["image"], read["labels"], read["draw"], strict=True)
        samples = [Sample(image=image, labels=labels, draw=drawn) for image, labels, drawn in parts]
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            batch = build_batch(
                samples, recipe=self._recipe, size=len(samples), device=self._device
            )
            computed = self._stream.record_event() if self._stream else None
        return {**batch, "keys": read["keys"]}, computed

    def _leave_device(self) -> None:
        # Here and not in the thread: workers are forked, and only this thread may be running then.
        if self._executor is not None:
            self._executor.shutdown()
        self._executor = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        elif self._device.type == "mps":
            torch.mps.empty_cache()
        if isinstance(self._samples, NonDetMultiThreadedAugmenter):
            self._samples.generator.only_reads = False
            self._samples.restart()
        else:
            self._samples.data_loader.only_reads = False
        self._notify(
            f"{self._device.type} has no memory left to augment patches: from now on, processors "
            "augment them. Use --augment processor, or a smaller --batch-size or --patch-size."
        )


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether a device has no memory left; Apple's has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and str(error).startswith("MPS backend out of memory")
    )


def _tensors(batch: dict[str, Any]) -> list[Tensor]:
    target = batch["target"]
    return [batch["data"], *(target if isinstance(target, list) else [target])]


def use_pipeline(
    base: type[nnUNetTrainer], augment: str, notify: Callable[[str], None]
) -> type[nnUNetTrainer]:
    """Return a subclass of a trainer, of the same name, that loads its data in the way given.

    Parameters
    ----------
    augment
        ``processor``, ``device``, or ``nnunet`` for nnU-Net's own.
    notify
        Called with a message if nnU-Net's own pipeline is used instead.
    """
    if augment == "nnunet":
        return base

    class Trainer(base):  # type: ignore[misc]
        def get_dataloaders(self) -> tuple[Any, Any]:
            try:
                if base.get_dataloaders is not nnUNetTrainer.get_dataloaders:
                    raise UnknownTransform("a trainer with a get_dataloaders of its own")
                loaders = _make_loaders(self, only_reads=augment == "device")
            except UnknownTransform as reason:
                notify(f"nnU-Net's own data pipeline is used, because of {reason}.")
                return super().get_dataloaders()  # type: ignore[no-any-return]
            workers = get_allowed_n_proc_DA()
            train = _start(loaders[0], workers, max(6, workers // 2), self.device)
            validate = _start(
                loaders[1], max(1, workers // 2) if workers else 0, max(3, workers // 4),
                self.device,
            )  # fmt: skip
            if augment == "device":
                train = DeviceBatches(
                    train, recipe=loaders[0].recipe, device=self.device, notify=notify
                )
            return train, validate

        def on_train_end(self) -> None:
            super().on_train_end()
            if isinstance(self.dataloader_train, DeviceBatches):  # the others nnU-Net ends
                self.dataloader_train.finish()

    Trainer.__name__ = base.__name__
    Trainer.__qualname__ = base.__qualname__
    return Trainer


def _start(loader: Loader, workers: int, cached: int, device: torch.device) -> Any:
    """Start workers, or none for a number of 0, and wait for the first batch, as nnU-Net does."""
    if workers == 0:
        return SingleThreadedAugmenter(loader, None)
    batches = NonDetMultiThreadedAugmenter(
        loader, None, workers, num_cached=cached,
        pin_memory=device.type == "cuda", wait_time=_WAIT_SECONDS,
    )  # fmt: skip
    next(batches)
    return batches


def _make_loaders(run: nnUNetTrainer, *, only_reads: bool) -> tuple[Loader, Loader]:
    """Return the loaders of training and validation.

    Raises
    ------
    UnknownTransform
        If the trainer's own way of loading cannot be followed.
    """
    if run.dataset_class is not nnUNetDatasetBlosc2:
        raise UnknownTransform("data in another format than .b2nd")
    labels, patch = run.label_manager, tuple(run.configuration_manager.patch_size)
    if max(labels.all_labels) >= EDGE - 1:  # the ignore label is one more
        raise UnknownTransform(f"a label above {EDGE - 2}")
    rotation, dummy_2d, larger, axes = (
        run.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    )
    scales = run._get_deep_supervision_scales()
    common = {
        "is_cascaded": run.is_cascaded,
        "foreground_labels": labels.foreground_labels,
        "regions": labels.foreground_regions if labels.has_regions else None,
        "ignore_label": labels.ignore_label,
    }
    training = run.get_training_transforms(
        patch, rotation, scales, axes, dummy_2d,
        use_mask_for_norm=run.configuration_manager.use_mask_for_norm, **common,
    )  # fmt: skip
    validation = run.get_validation_transforms(scales, **common)
    parts = []
    for data, transforms, size in zip(
        run.get_tr_and_val_datasets(), (training, validation), (larger, patch), strict=True
    ):
        parts.append(
            Loader(
                data, run.batch_size, size, patch, labels,
                oversample_foreground_percent=run.oversample_foreground_percent,
                probabilistic_oversampling=run.probabilistic_oversampling,
                recipe=read_recipe(transforms, patch),
                only_reads=only_reads and transforms is training,
            )
        )  # fmt: skip
    return parts[0], parts[1]
