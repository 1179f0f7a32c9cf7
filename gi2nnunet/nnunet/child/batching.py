"""nnU-Net's predictor with its patches in batches; runs in the engine's child process.

nnU-Net sends a network one patch at a time. Here as many slices of 2D as the device's memory holds
go through together, one place of the sliding window after another; on a CPU small 3D patches go in
pairs, which its convolutions take in much less than twice the time of one. Each voxel gets the same
sums in the same order and precision; only the convolutions' own rounding may differ, as it does
between any two batch sizes. 3D patches on a GPU and everything else are nnU-Net's own.
"""

from __future__ import annotations

import math
import traceback
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.utilities.helpers import empty_cache

SLICES_ON_CPU = 4
"""More gain nothing there: the cores are busy with one slice."""
MOST_SLICES = 128
PATCHES_ON_CPU = 2
"""More gain nothing there either."""
_MOST_VOXELS_ON_CPU = 1 << 19  # of a 3D patch that is paired; larger ones keep the cores busy alone
_PART_OF_FREE_MEMORY = 0.7


class BatchingPredictor(nnUNetPredictor):  # type: ignore[misc]
    """Predicts 2D slices in batches, and small 3D patches on a CPU.

    Attributes
    ----------
    slices_at_once
        Slices in a batch; ``None`` until the first scan on a GPU has shown what one takes. Halved
        where more than one fail, whatever they fail with: want of memory has many wordings. Found
        anew where the results come to lie elsewhere.
    patches_at_once
        3D patches in a batch, on a CPU. Halved likewise.
    """

    slices_at_once: int | None = None
    patches_at_once: int = PATCHES_ON_CPU
    _results_on_device: bool | None = None  # as slices_at_once was found

    @torch.inference_mode()
    def _internal_predict_sliding_window_return_logits(
        self, data: torch.Tensor, slicers: list[tuple[Any, ...]], do_on_device: bool = True
    ) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` of one padded image ``(channel, z, y, x)``."""
        patch = tuple(self.configuration_manager.patch_size)
        try:
            if len(patch) == 2:
                return self._predict_slices(data, slicers, do_on_device=do_on_device)
            if self.device.type == "cpu" and math.prod(patch) <= _MOST_VOXELS_ON_CPU:
                return self._predict_patches(data, slicers)
            whole: torch.Tensor = super()._internal_predict_sliding_window_return_logits(
                data, slicers, do_on_device
            )
            return whole
        except Exception as error:
            # nnU-Net holds it while it tries again with the results on the CPU: what the frames of
            # the failed attempt hold would lie on the device all that time.
            traceback.clear_frames(error.__traceback__)
            empty_cache(self.device)
            raise

    def _predict_slices(
        self, data: torch.Tensor, slicers: list[tuple[Any, ...]], *, do_on_device: bool
    ) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` from 2D slices in batches."""
        if self._results_on_device not in (None, do_on_device):
            self.slices_at_once = None
        self._results_on_device = do_on_device
        results_device = self.device if do_on_device else torch.device("cpu")
        # The slicers go slice by slice; every slice has the same places.
        places = [slicer[2:] for slicer in slicers if slicer[1] == 0]
        heads = self.label_manager.num_segmentation_heads
        gaussian = self._weigh_patch(results_device)
        data = data.to(results_device)
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half, device=results_device)
        weights = torch.zeros(data.shape[2:], dtype=torch.half, device=results_device)
        for place in places:
            weights[place] += gaussian
        first = 0
        while first < data.shape[1]:
            last = min(data.shape[1], first + self._choose_batch(data, places[0]))
            try:
                for place in places:
                    predicted = self._predict_place(data, first, last, place)
                    predicted = predicted.to(results_device)
                    if self.use_gaussian:
                        predicted *= gaussian
                    logits[(slice(None), slice(first, last), *place)] += predicted.transpose(0, 1)
                    del predicted
                first = last
                continue
            except RuntimeError:
                if last - first == 1:
                    raise
            # What this batch has added is taken back, and it is tried again by halves.
            logits[:, first:last] = 0
            self.slices_at_once = (last - first) // 2
            empty_cache(self.device)
        return _divide(logits, weights)

    def _weigh_patch(self, device: torch.device) -> torch.Tensor | int:
        """Return what a patch's voxels count."""
        if not self.use_gaussian:
            return 1
        weights: torch.Tensor = compute_gaussian(
            tuple(self.configuration_manager.patch_size),
            sigma_scale=1.0 / 8, value_scaling_factor=10, device=device,
        )  # fmt: skip
        return weights

    def _predict_patches(self, data: torch.Tensor, slicers: list[tuple[Any, ...]]) -> torch.Tensor:
        """Return logits ``(heads, z, y, x)`` from 3D patches in batches, on the CPU."""
        heads = self.label_manager.num_segmentation_heads
        gaussian = self._weigh_patch(torch.device("cpu"))
        logits = torch.zeros((heads, *data.shape[1:]), dtype=torch.half)
        weights = torch.zeros(data.shape[1:], dtype=torch.half)
        first = 0
        while first < len(slicers):
            part = slicers[first : first + self.patches_at_once]
            try:
                predicted = self._internal_maybe_mirror_and_predict(
                    torch.stack([data[slicer] for slicer in part])
                )
            except RuntimeError:
                if len(part) == 1:
                    raise
                self.patches_at_once = len(part) // 2
                continue
            predicted *= gaussian
            for slicer, patch in zip(part, predicted, strict=True):
                logits[slicer] += patch
                weights[slicer[1:]] += gaussian
            first += len(part)
        return _divide(logits, weights)

    def _predict_place(
        self, data: torch.Tensor, first: int, last: int, place: tuple[Any, ...]
    ) -> torch.Tensor:
        """Return the network's output ``(slices, heads, y, x)`` at one place of some slices."""
        patches = data[(slice(None), slice(first, last), *place)].transpose(0, 1)
        batch = torch.clone(patches, memory_format=torch.contiguous_format).to(self.device)
        predicted: torch.Tensor = self._internal_maybe_mirror_and_predict(batch)
        return predicted

    def _choose_batch(self, data: torch.Tensor, place: tuple[Any, ...]) -> int:
        if self.slices_at_once is None:
            self.slices_at_once = (
                self._measure_batch(data, place) if self.device.type == "cuda" else SLICES_ON_CPU
            )
        return self.slices_at_once

    def _measure_batch(self, data: torch.Tensor, place: tuple[Any, ...]) -> int:
        """Return how many slices fit, from what some more than one take at their height."""
        one = self._measure_height(data, 1, place)
        count = min(3, data.shape[1])
        each = one
        if count > 1:
            try:
                more = self._measure_height(data, count, place)
            except RuntimeError:
                return 1
            each = max((more - one) // (count - 1), one // 4)
        empty_cache(self.device)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(MOST_SLICES, int(_PART_OF_FREE_MEMORY * free) // max(1, each)))

    def _measure_height(self, data: torch.Tensor, count: int, place: tuple[Any, ...]) -> int:
        """Return what so many slices take on the device at their height, in bytes."""
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._predict_place(data, 0, count, place)
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device) - before


def _divide(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    torch.div(logits, weights, out=logits)
    if torch.any(torch.isinf(logits)):
        raise RuntimeError("the network's output is infinite in some voxels")
    return logits
