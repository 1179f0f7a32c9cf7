"""Sliding windows of a network over an image, in batches; runs in the engine's child process.

nnU-Net's predictor goes patch by patch, and mirrored copy by mirrored copy. Here they go through
the network together, as many as the device's memory holds. What comes out is averaged with
nnU-Net's weights, in its order and its precision, so the logits are the same but for the last bits
of the network's own operations.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import compute_steps_for_sliding_window
from nnunetv2.utilities.helpers import empty_cache
from scipy.ndimage import gaussian_filter1d

NetworkCall = Callable[[torch.Tensor], torch.Tensor]
_Copies = list[tuple[tuple[int, ...], torch.Tensor]]  # flipped axes, and the network's output
_Mirrored = list[tuple[Sequence[tuple[int, ...]], torch.Tensor]]  # flips, and their batch
_Slices = tuple[slice, ...]

SLICES_ON_CPU = 4
"""More gain nothing there: the cores are busy with one slice."""
MOST_SLICES = 32
"""More gain nothing on the fastest card either."""
_PATCHES_ON_CPU = 2
_MOST_VOXELS_ON_CPU = 1 << 19  # of a 3D patch that is paired; a larger one keeps the cores busy
_PLANES_ON_CPU = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Windows over an image that was padded to a patch at least.

    Attributes
    ----------
    place
        Device on which their logits are added up.
    windows
        Of the padded image. If an axis was padded, there is one, and as slices of the image itself
        they end where it ends.
    part
        What of each patch lies in the image.
    weights
        Of that part's voxels, half precision.
    """

    place: torch.device
    windows: Sequence[_Slices]
    part: _Slices
    weights: torch.Tensor


@dataclass(kw_only=True)
class SlidingWindow:
    """A window that moves over images of any size by half its own, or another part.

    All numbers of what goes through the network at once are halved after any failure of more than
    one, as out-of-memory errors have many wordings, and stay so for the whole run: with another
    size, cuDNN would search its algorithms again.

    Attributes
    ----------
    patch_size
        Of two axes (slices are then windows of their own) or three.
    heads
        Channels of the network's output.
    mirror_axes
        Axes of the patch along which mirrored copies are averaged too; empty for none.
    step_size
        Step as a part of the patch.
    slices_at_once
        2D slices in a batch; ``None`` until the first image is there.
    patches_at_once, copies_at_once
        3D patches, and mirrored copies of them, in a batch.
    """

    device: torch.device
    patch_size: tuple[int, ...]
    heads: int
    mirror_axes: tuple[int, ...]
    step_size: float
    slices_at_once: int | None = None
    patches_at_once: int = 1
    copies_at_once: int = 1
    _results_at: torch.device | None = None  # as slices_at_once was found
    _weights: tuple[Any, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # Axes of a batch (copy, channel, *patch), in the order in which nnU-Net adds the copies.
        axes = [axis + 2 for axis in self.mirror_axes]
        self._flips = [flip for n in range(len(axes) + 1) for flip in combinations(axes, n)]
        if self.device.type != "cpu":
            self.copies_at_once = len(self._flips)
        elif math.prod(self.patch_size) <= _MOST_VOXELS_ON_CPU:
            self.patches_at_once = _PATCHES_ON_CPU

    @torch.inference_mode()
    def predict(self, networks: Sequence[NetworkCall], image: torch.Tensor) -> list[torch.Tensor]:
        """Return each network's logits of an image ``(channel, z, y, x)``.

        They are ``(heads, z, y, x)``, half precision, where the image's windows were added up: on a
        card if its memory holds them, else on the CPU.
        """
        is_card = self.device.type == "cuda"
        with torch.autocast("cuda") if is_card else nullcontext():
            if is_card:
                try:
                    return self.predict_at(networks, image, self.device)
                except RuntimeError as error:
                    # What the frames of the failed attempt hold would lie on the card meanwhile.
                    traceback.clear_frames(error.__traceback__)
                empty_cache(self.device)
            return self.predict_at(networks, image, _CPU)

    @torch.inference_mode()
    def predict_at(
        self, networks: Sequence[NetworkCall], image: torch.Tensor, place: torch.device
    ) -> list[torch.Tensor]:
        """Return each network's logits, added up on one device."""
        patch, axes = self.patch_size, len(self.patch_size)
        data, inside = pad_nd_image(image.to(place), patch, "constant", {"value": 0}, True, None)
        steps = compute_steps_for_sliding_window(tuple(data.shape[-axes:]), patch, self.step_size)
        ends = [(int(axis.start), int(axis.stop)) for axis in inside[-axes:]]
        part = tuple(slice(a, min(b, n)) for (a, b), n in zip(ends, patch, strict=True))
        grid = _Grid(
            place=place,
            windows=[
                tuple(slice(a, a + n) for a, n in zip(start, patch, strict=True))
                for start in product(*steps)
            ],
            part=part,
            weights=weigh_patch(patch, place)[part],
        )
        shape = image.shape[1:]
        sums = [torch.empty((self.heads, *shape), dtype=torch.half, device=place) for _ in networks]
        predict = self._predict_slices if axes == 2 else self._predict_patches
        predict(networks, data, grid, sums)
        weights = self._add_weights(tuple(shape[-axes:]), grid)
        return [logits.div_(weights) for logits in sums]

    def _predict_slices(
        self,
        networks: Sequence[NetworkCall],
        data: torch.Tensor,
        grid: _Grid,
        sums: Sequence[torch.Tensor],
    ) -> None:
        """Write weighted sums of 2D slices in batches of one size: the last one starts earlier."""
        if self._results_at != grid.place:
            self._results_at, self.slices_at_once = grid.place, None
        depth = data.shape[1]
        if self.slices_at_once is None:
            most = SLICES_ON_CPU if self.device.type == "cpu" else MOST_SLICES
            self.slices_at_once = min(depth, most)
        done = [0] * len(networks)
        mirrored: tuple[slice, list[_Mirrored]] = (slice(0), [])  # shared by the networks
        while (first := min(done)) < depth:
            number = done.index(first)
            size = min(depth, self.slices_at_once)
            part = slice(min(first, depth - size), min(first, depth - size) + size)
            try:
                if mirrored[0] != part:
                    places = [(slice(None), part, *window) for window in grid.windows]
                    mirrored = part, [self._mirror(data[at].transpose(0, 1)) for at in places]
                sums[number][:, part] = 0  # also what a failed batch, or the one before, has added
                for window, batch in zip(grid.windows, mirrored[1], strict=True):
                    copies = _run(networks[number], batch, grid.part)
                    blocks = [(flip, copy.transpose(0, 1)) for flip, copy in copies]
                    _add_mean(blocks, sums[number][(slice(None), part, *window)], grid.weights)
                    del copies, blocks
                done[number] = part.stop
                continue
            except RuntimeError:
                if size == 1:
                    raise
            self.slices_at_once = size // 2
            mirrored = slice(0), []
            empty_cache(self.device)

    def _predict_patches(
        self,
        networks: Sequence[NetworkCall],
        data: torch.Tensor,
        grid: _Grid,
        sums: Sequence[torch.Tensor],
    ) -> None:
        """Write weighted sums of 3D patches, some and their mirrored copies in a batch."""
        for logits in sums:
            logits.zero_()
        done = [0] * len(networks)
        mirrored: tuple[Sequence[_Slices], _Mirrored] = ((), [])  # shared by the networks
        while (first := min(done)) < len(grid.windows):
            number = done.index(first)
            part = grid.windows[first : first + self.patches_at_once]
            try:
                if mirrored[0] != part:
                    patches = torch.stack([data[:, *window] for window in part])
                    mirrored = part, self._mirror(patches)
                copies = _run(networks[number], mirrored[1], grid.part)
                for index, window in enumerate(part):
                    blocks = [
                        (tuple(axis - 1 for axis in flip), copy[index]) for flip, copy in copies
                    ]
                    _add_mean(blocks, sums[number][:, *window], grid.weights)
                del copies, blocks
                done[number] += len(part)
                continue
            except RuntimeError:
                if self.copies_at_once == len(part) == 1:
                    raise
            if self.copies_at_once > 1:
                self.copies_at_once //= 2
            else:
                self.patches_at_once = len(part) // 2
            mirrored = (), []
            empty_cache(self.device)

    def _mirror(self, patches: torch.Tensor) -> _Mirrored:
        """Return patches ``(n, channel, *patch)`` and their mirrored copies, in batches."""
        batch = patches.contiguous().to(self.device)
        together = self.copies_at_once if len(self.patch_size) == 3 else 1
        found: _Mirrored = []
        for first in range(0, len(self._flips), together):
            flips = self._flips[first : first + together]
            copies = [batch.flip(flip) if flip else batch for flip in flips]
            found.append((flips, copies[0] if len(copies) == 1 else torch.cat(copies)))
        return found

    def _add_weights(self, shape: tuple[int, ...], grid: _Grid) -> torch.Tensor:
        """Return the sum of all windows' weights; images of one size share it."""
        if self._weights is None or self._weights[0] != (shape, grid.place):
            total = torch.zeros(shape, dtype=torch.half, device=grid.place)
            for window in grid.windows:
                total[window] += grid.weights
            self._weights = ((shape, grid.place), total)
        return self._weights[1]


@lru_cache(maxsize=8)
def weigh_patch(patch_size: tuple[int, ...], place: torch.device) -> torch.Tensor:
    """Return the weights of a patch's voxels, half precision: those of nnU-Net.

    Its ``compute_gaussian`` filters the whole patch; the product of the filtered axes is the same.
    """
    weights = np.ones(())
    for n in patch_size:
        line = np.zeros(n)
        line[n // 2] = 1
        filtered = gaussian_filter1d(line, n / 8, mode="constant")
        weights = np.multiply.outer(weights, filtered)
    weights /= weights.max() / 10
    rounded = torch.from_numpy(weights).to(place, torch.half)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    return rounded


def _run(network: NetworkCall, mirrored: _Mirrored, part: _Slices) -> _Copies:
    """Return the network's output of patches and mirrored copies, which stay flipped.

    Of each only the part that lies in the image is returned.
    """
    return [
        (flip, _cut_flipped(copy, part, flip))
        for flips, batch in mirrored
        for flip, copy in zip(flips, network(batch).chunk(len(flips)), strict=True)
    ]


def _cut_flipped(copies: torch.Tensor, part: _Slices, flip: tuple[int, ...]) -> torch.Tensor:
    """Return a part of patches, which is given for patches that are not flipped."""
    cuts = [
        slice(n - ends.stop, n - ends.start) if axis in flip else ends
        for axis, (n, ends) in enumerate(zip(copies.shape[2:], part, strict=True), 2)
    ]
    return copies[(slice(None), slice(None), *cuts)]


def _add_mean(copies: _Copies, into: torch.Tensor, weights: torch.Tensor) -> None:
    """Add the weighted mean of mirrored copies ``(heads, z, y, x)`` to sums of that shape.

    On a CPU it goes by a few planes, which stay in its caches; the flips are undone on the way.
    """
    _, first = copies[0]
    depth = first.shape[1]
    step = depth
    if first.device.type == "cpu":
        step = _PLANES_ON_CPU if weights.ndim == 3 else 1
    for start in range(0, depth, step):
        end = min(start + step, depth)
        total = first[:, start:end]
        for flip, copy in copies[1:]:
            part = copy[:, depth - end : depth - start] if 1 in flip else copy[:, start:end]
            total += part.flip(flip) if flip else part
        if len(copies) > 1:
            total /= len(copies)
        total = total.to(into.device)
        total *= weights if weights.ndim == 2 else weights[start:end]
        sums = into[:, start:end]
        sums.copy_(total.add_(sums))
