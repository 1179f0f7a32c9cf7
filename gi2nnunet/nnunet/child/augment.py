"""Augmentation of patches: nnU-Net's transforms, drawn by nnU-Net and computed at less cost.

nnU-Net's own transforms draw the parameters, so that probabilities and ranges are theirs. What is
computed here differs in how, not in what: rotation and scaling are eight gathers and seven linear
interpolations for each voxel, and the labels are interpolated only in cells of voxels that differ
(in all others each label's indicator is 0 or 1). All of it is written in PyTorch for any device.

References
----------
https://github.com/MIC-DKFZ/batchgeneratorsv2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import (
    DownsampleSegForDSTransform,
)
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import (
    Convert2DTo3DTransform,
    Convert3DTo2DTransform,
)
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from batchgeneratorsv2.transforms.utils.seg_to_regions import ConvertSegmentationToRegionsTransform
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

PAD_LABEL = 255  # nnU-Net's -1, outside the scan, in eight bits
EDGE = 254  # a cell of voxels that differ
_MOST_REGIONS = 8
_SLAB_VOXELS = 1 << 17  # computed at a time on a processor: they stay in its cache

Shape = tuple[int, ...]
# A channel and the parameters of one transform for it.
Row = tuple[int, tuple[float, ...]]


class UnknownTransform(Exception):  # noqa: N818  a reason, no failure
    """A transform that is not computed here; the message names it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a list of nnU-Net's transforms does to a patch.

    Attributes
    ----------
    patch
        Voxels of the result, ``(y, x)`` or ``(z, y, x)``.
    spatial
        nnU-Net's transform, which draws for a patch of one voxel; ``None`` if patches are not
        rotated or scaled.
    slicewise
        Whether each slice of a 3D patch is rotated and scaled in its plane.
    steps
        Transforms of the image in order, each maybe inside nnU-Net's ``RandomTransform``.
    masked
        Channels that are 0 outside the scan.
    regions
        A table from a label to the bits of its regions, in order; ``None`` for exclusive labels.
    levels
        For each output of deep supervision the indices along each axis; ``None`` without it.
    """

    patch: Shape
    spatial: SpatialTransform | None = None
    slicewise: bool = False
    steps: tuple[BasicTransform, ...] = ()
    mirror: MirrorTransform | None = None
    masked: Shape = ()
    n_regions: int = 0
    regions: NDArray[np.uint8] | None = None
    levels: tuple[tuple[NDArray[np.int64], ...], ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The drawn parameters for one patch.

    Attributes
    ----------
    matrix
        From the patch's axes to those of the larger patch that it is taken from; ``None`` for a
        crop.
    window
        The part of that larger patch that is needed: first voxel and size along each axis. It may
        reach beyond it by one voxel.
    center
        Of the result, in voxels from the window's first one.
    rows
        For each step of the recipe the channels it changes, with their parameters.
    """

    matrix: NDArray[np.float64] | None
    window: tuple[Shape, Shape]
    center: tuple[float, ...]
    rows: tuple[tuple[Row, ...], ...]
    mirror: Shape


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What is read for one patch.

    Attributes
    ----------
    image
        float32 ``(channels, *window)``, 0 outside of the scan.
    labels
        uint8 of the window's shape, :data:`PAD_LABEL` outside of the scan.
    """

    image: Tensor
    labels: Tensor
    draw: Draw


def read_recipe(transforms: BasicTransform, patch: Sequence[int]) -> Recipe:
    """Understand a list of nnU-Net's transforms.

    Parameters
    ----------
    transforms
        What a trainer's ``get_training_transforms`` or ``get_validation_transforms`` returns.
    patch
        Voxels of the network's input.

    Raises
    ------
    UnknownTransform
        For a transform, a setting or an order that is not computed here.
    """
    if type(transforms) is not ComposeTransforms:
        raise UnknownTransform(type(transforms).__name__)
    rest = list(transforms.transforms)

    def take(kind: type[BasicTransform]) -> Any:
        return rest.pop(0) if rest and type(rest[0]) is kind else None

    slicewise = take(Convert3DTo2DTransform) is not None
    spatial = _one_voxel(take(SpatialTransform), len(patch) - slicewise)
    if slicewise and (spatial is None or take(Convert2DTo3DTransform) is None):
        raise UnknownTransform("Convert3DTo2DTransform in another order")
    steps: list[BasicTransform] = []
    while rest and type(_inner(rest[0])) in _STEPS:
        steps.append(rest.pop(0))
    mirror = take(MirrorTransform)
    mask = take(MaskImageTransform)
    if mask is not None and (mask.channel_idx_in_seg, mask.set_outside_to) != (0, 0):
        raise UnknownTransform("MaskImageTransform of another channel or value")
    remove = take(RemoveLabelTransform)
    if remove is not None and (remove.label_value, remove.set_to) != (-1, 0):
        raise UnknownTransform("RemoveLabelTransform of another label")
    regions = take(ConvertSegmentationToRegionsTransform)
    supervision = take(DownsampleSegForDSTransform)
    if rest or remove is None:
        raise UnknownTransform(
            type(_inner(rest[0])).__name__ if rest else "a missing RemoveLabelTransform"
        )
    return Recipe(
        patch=tuple(int(n) for n in patch),
        spatial=spatial,
        slicewise=slicewise,
        steps=tuple(steps),
        mirror=mirror,
        masked=tuple(mask.apply_to_channels) if mask is not None else (),
        n_regions=len(regions.regions) if regions is not None else 0,
        regions=_tabulate(regions),
        levels=_find_levels(supervision, patch),
    )


def _inner(transform: BasicTransform) -> BasicTransform:
    return transform.transform if type(transform) is RandomTransform else transform


def _one_voxel(spatial: SpatialTransform | None, n_axes: int) -> SpatialTransform | None:
    """Return a copy that draws without making a grid for the whole patch."""
    if spatial is None:
        return None
    known = {
        "p_elastic_deform": 0, "mode_seg": "bilinear", "mode_image": "bilinear",
        "border_mode_seg": "constant", "padding_value_seg": -1, "padding_mode_image": "zeros",
        "align_corners": False, "seg_tiebreak": "nearest",
    }  # fmt: skip
    for name, value in known.items():
        if (found := getattr(spatial, name)) != value:
            raise UnknownTransform(f"SpatialTransform with {name} {found}")
    small = copy.copy(spatial)
    small.patch_size, small._grid_cache = (1,) * n_axes, {}
    return small


def _tabulate(regions: ConvertSegmentationToRegionsTransform | None) -> NDArray[np.uint8] | None:
    if regions is None:
        return None
    if len(regions.regions) > _MOST_REGIONS or regions.channel_in_seg != 0:
        raise UnknownTransform("ConvertSegmentationToRegionsTransform of more than 8 regions")
    table = np.zeros(256, np.uint8)
    for number, labels in enumerate(regions.regions):
        table[labels.numpy().astype(int)] |= np.uint8(1 << number)
    return table


def _find_levels(
    supervision: DownsampleSegForDSTransform | None, patch: Sequence[int]
) -> tuple[tuple[NDArray[np.int64], ...], ...] | None:
    """Return which voxels each output keeps, as PyTorch's nearest neighbour chooses them."""
    if supervision is None:
        return None
    levels = []
    for scale in supervision.ds_scales:
        scales = scale if isinstance(scale, list | tuple) else [scale] * len(patch)
        levels.append(
            tuple(
                interpolate(
                    torch.arange(n, dtype=torch.float32)[None, None],
                    round(n * s),
                    mode="nearest-exact",
                )[0, 0].numpy().astype(np.int64)
                for n, s in zip(patch, scales, strict=True)
            )
        )  # fmt: skip
    return tuple(levels)


def draw(recipe: Recipe, *, channels: int, larger: Sequence[int]) -> Draw:
    """Draw the parameters for one patch; with NumPy's and PyTorch's generators, as nnU-Net does.

    Parameters
    ----------
    larger
        Voxels of the larger patch that nnU-Net would read (its "initial patch size").
    """
    matrix, middle = None, tuple(n / 2 for n in larger)
    if recipe.spatial is not None:
        shape = (channels * larger[0], *larger[1:]) if recipe.slicewise else (channels, *larger)
        drawn = recipe.spatial.get_parameters(image=torch.zeros(1).expand(shape))
        matrix = drawn["affine"]
        middle = (*middle[: recipe.slicewise], *drawn["center_location_in_pixels"])
        if recipe.slicewise and matrix is not None:
            matrix = np.block([[np.eye(1), np.zeros((1, 2))], [np.zeros((2, 1)), matrix]])
    image = torch.zeros(1).expand((channels, *recipe.patch))
    rows = tuple(_draw_step(step, image) for step in recipe.steps)
    mirror = recipe.mirror.get_parameters(image=image)["axes"] if recipe.mirror else ()
    first, size, center = _find_window(matrix, middle, recipe.patch, larger)
    return Draw(matrix=matrix, window=(first, size), center=center, rows=rows, mirror=tuple(mirror))


def _draw_step(step: BasicTransform, image: Tensor) -> tuple[Row, ...]:
    if type(step) is RandomTransform and not step.get_parameters()["apply_transform"]:
        return ()
    inner = _inner(step)
    drawn = inner.get_parameters(image=image)
    return tuple(_STEPS[type(inner)][0](drawn, inner))


def _find_window(
    matrix: NDArray[np.float64] | None,
    middle: Sequence[float],
    patch: Shape,
    larger: Sequence[int],
) -> tuple[Shape, Shape, tuple[float, ...]]:
    if matrix is None:
        first = [math.floor(m) - n // 2 for m, n in zip(middle, patch, strict=True)]
        return tuple(first), patch, tuple(m - f for m, f in zip(middle, first, strict=True))
    reach = np.abs(matrix) @ ((np.array(patch) - 1) / 2)
    center = np.array(middle) - 0.5  # of the voxel's middle
    low = np.maximum(np.floor(center - reach), -1).astype(int)
    high = np.minimum(np.floor(center + reach) + 1, np.array(larger)).astype(int)
    low, high = np.minimum(low, high - 1), np.maximum(high, low + 1)
    return (
        tuple(low.tolist()),
        tuple((high - low + 1).tolist()),
        tuple((center - low).tolist()),
    )


def build_batch(
    samples: Iterable[Sample],
    *,
    recipe: Recipe,
    size: int,
    device: torch.device,
    together: bool = True,
) -> dict[str, Any]:
    """Compute a batch as the network takes it.

    Parameters
    ----------
    samples
        As many as ``size``; the next one is asked for when the last one is in its place.
    together
        Run each step once for the whole batch: fewer and larger operations, as a GPU wants them.
        Else a sample at a time, which needs less memory.

    Returns
    -------
    dict
        ``data``: float32 ``(size, channels, *patch)``. ``target``: bool ``(size, regions, ...)``,
        or int16 ``(size, 1, ...)`` for exclusive labels; with deep supervision a list of them.
    """
    images = torch.empty(0)
    labels = torch.empty((size, *recipe.patch), dtype=torch.uint8, device=device)
    draws: list[Draw] = []
    for j, sample in enumerate(samples):
        if not draws:
            images = torch.empty((size, len(sample.image), *recipe.patch), device=device)
        draws.append(sample.draw)
        _place(sample, images[j], labels[j], recipe)
        if not together:
            apply_steps(images[j : j + 1], draws[-1:], recipe)
    if together:
        apply_steps(images, draws, recipe)
    for j, drawn in enumerate(draws):
        for channel in recipe.masked:
            images[j, channel].masked_fill_(labels[j] == PAD_LABEL, 0)
        if drawn.mirror:
            images[j] = images[j].flip([axis + 1 for axis in drawn.mirror])
            labels[j] = labels[j].flip(drawn.mirror)
    return {"data": images, "target": build_targets(labels, recipe)}


def build_targets(labels: Tensor, recipe: Recipe) -> Tensor | list[Tensor]:
    """Turn labels, uint8 ``(size, *patch)``, into what the loss takes; the labels are changed."""
    labels.masked_fill_(labels == PAD_LABEL, 0)
    if recipe.regions is None:
        full = labels[:, None].to(torch.int16)
    else:
        known = 1 << recipe.n_regions
        if not np.array_equal(recipe.regions, np.where(np.arange(256) < known, np.arange(256), 0)):
            table = torch.from_numpy(recipe.regions).to(labels.device)
            labels = table.index_select(0, labels.flatten().int()).view(labels.shape)
        full = torch.empty(
            (len(labels), recipe.n_regions, *recipe.patch), dtype=torch.bool, device=labels.device
        )
        for number in range(recipe.n_regions):
            torch.ne(labels & (1 << number), 0, out=full[:, number])
    if recipe.levels is None:
        return full
    return [_pick(full, level) for level in recipe.levels]


def _pick(full: Tensor, level: Sequence[NDArray[np.int64]]) -> Tensor:
    for axis, indices in enumerate(level, start=2):
        step = int(indices[1] - indices[0]) if len(indices) > 1 else 1
        if np.array_equal(indices, indices[0] + step * np.arange(len(indices))):
            first, end = int(indices[0]), int(indices[-1]) + 1
            full = full[(slice(None),) * axis + (slice(first, end, step),)]
        else:
            full = full.index_select(axis, torch.from_numpy(indices).to(full.device))
    return full.contiguous()


def _place(sample: Sample, image: Tensor, labels: Tensor, recipe: Recipe) -> None:
    """Crop, or rotate and scale, into ``image`` and ``labels``."""
    source = sample.image.to(image.device, non_blocking=True)
    source_labels = sample.labels.to(image.device, non_blocking=True)
    matrix = sample.draw.matrix
    if matrix is None:
        image.copy_(source)
        labels.copy_(source_labels)
        return
    center = sample.draw.center
    if recipe.slicewise:  # every slice is a channel of a 2D patch
        first = round(center[0] - (recipe.patch[0] - 1) / 2)
        used = slice(first, first + recipe.patch[0])
        resample(
            source[:, used].flatten(0, 1), source_labels[used], image.flatten(0, 1), labels,
            matrix=matrix[1:, 1:], center=center[1:],
        )  # fmt: skip
    else:
        resample(source, source_labels[None], image, labels[None], matrix=matrix, center=center)


def resample(
    source: Tensor,
    source_labels: Tensor,
    image: Tensor,
    labels: Tensor,
    *,
    matrix: NDArray[np.float64],
    center: Sequence[float],
) -> None:
    """Rotate and scale an image, linearly, and its labels, each voxel by the largest share.

    Parameters
    ----------
    source, source_labels
        float32 and uint8, ``(channels, *window)``.
    image, labels
        To write the result into, ``(channels, *patch)``.
    matrix
        From the patch's axes to the window's.
    center
        Of the result, in voxels from the window's first one.
    """
    cells = _find_cells(source_labels)
    patch = image.shape[1:]
    slab = math.prod(patch[1:])
    depth = max(1, _SLAB_VOXELS // slab) if image.device.type == "cpu" else patch[0]
    for first in range(0, patch[0], depth):
        part = slice(first, min(first + depth, patch[0]))
        index, weights = _locate(source.shape[1:], patch, part, matrix, center, source.device)
        strides = _strides(source.shape[1:])
        for channel in range(len(source)):
            values = _interpolate(source[channel].reshape(-1), index, weights, strides)
            image[channel, part] = values.view(-1, *patch[1:])
        for channel in range(len(source_labels)):
            found = cells[channel].view(-1).index_select(0, index)
            edge = (found == EDGE).nonzero()[:, 0]
            if len(edge):
                found[edge] = _decide(
                    source_labels[channel].reshape(-1),
                    index[edge],
                    [weight[edge] for weight in weights],
                    strides,
                )
            labels[channel, part] = found.view(-1, *patch[1:])


def _strides(shape: Sequence[int]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _locate(
    window: Sequence[int],
    patch: Sequence[int],
    part: slice,
    matrix: NDArray[np.float64],
    center: Sequence[float],
    device: torch.device,
) -> tuple[Tensor, list[Tensor]]:
    """Return, for some slices of the patch, the cell of each voxel and where in it it is.

    A cell is named by its first voxel, as int32 into the flat window; where in it is a weight in
    [0, 1] for each axis. Beyond the window it is the window's edge, which is padding.
    """
    offsets = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in patch]
    offsets[0] = offsets[0][part]
    index, weights = torch.zeros(1, dtype=torch.int32, device=device), []
    for axis, n in enumerate(window):
        where = torch.full((1,) * len(patch), center[axis], dtype=torch.float32, device=device)
        for k in reversed(range(len(patch))):
            shape = [1] * len(patch)
            shape[k] = -1
            steps = (offsets[k] * float(matrix[axis, k])).float().view(shape)
            where = where + steps.to(device, non_blocking=True)
        where.clamp_(0, n - 1)
        cell = where.floor().clamp_(max=n - 2)
        weights.append(where.sub_(cell).view(-1))
        whole = cell.to(torch.int32).view(-1)
        index = whole.add_(index * n)
    return index, weights


def _interpolate(
    flat: Tensor, index: Tensor, weights: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    if not strides:
        return flat.index_select(0, index)
    low = _interpolate(flat, index, weights[1:], strides[1:])
    high = _interpolate(flat[strides[0] :], index, weights[1:], strides[1:])
    return low.lerp_(high, weights[0])


def _find_cells(labels: Tensor) -> Tensor:
    """Return the label of each cell, by its first voxel; :data:`EDGE` where its voxels differ."""
    low = high = labels
    for axis in range(1, labels.ndim):
        n = labels.shape[axis] - 1
        low = torch.minimum(low.narrow(axis, 0, n), low.narrow(axis, 1, n))
        high = torch.maximum(high.narrow(axis, 0, n), high.narrow(axis, 1, n))
    cells = torch.empty_like(labels)
    inside = cells[(slice(None), *(slice(0, -1),) * (labels.ndim - 1))]
    inside.copy_(low.masked_fill_(low != high, EDGE))
    return cells


def _decide(
    labels: Tensor, index: Tensor, weights: Sequence[Tensor], strides: Sequence[int]
) -> Tensor:
    """Return the label with the largest share of each cell; of equal ones the nearest voxel's.

    nnU-Net compares shares in thousandths, as half precision rounds them; of equal shares that
    are not the nearest voxel's, it takes the lowest label.
    """
    corners, shares = [], []
    for sides in product((0, 1), repeat=len(strides)):
        offset = sum(side * stride for side, stride in zip(sides, strides, strict=True))
        corners.append(labels[offset:].index_select(0, index))
        share = torch.ones_like(weights[0])
        for side, weight in zip(sides, weights, strict=True):
            share = share * (weight if side else 1 - weight)
        shares.append(share)
    found, share = torch.stack(corners), torch.stack(shares)
    scores = torch.stack([((found == corner) * share).sum(0) for corner in corners])
    scores = (scores * 1000).half()
    best = scores.amax(0)
    # 255 is -1, the lowest label.
    winner = torch.where(scores == best, found + 1, 255).amin(0).to(torch.uint8) - 1
    nearest = torch.zeros_like(index, dtype=torch.int64)
    for weight in weights:
        nearest = nearest * 2 + (weight > 0.5)
    tied = scores.gather(0, nearest[None])[0] == best
    return torch.where(tied, found.gather(0, nearest[None])[0], winner)


def apply_steps(images: Tensor, draws: Sequence[Draw], recipe: Recipe) -> None:
    """Change images, float32 ``(size, channels, *patch)``, in place, by the steps drawn."""
    channels = images.shape[1]
    flat = images.view(-1, *images.shape[2:])
    for number, step in enumerate(recipe.steps):
        rows = [
            (j * channels + channel, values)
            for j, drawn in enumerate(draws)
            for channel, values in drawn.rows[number]
        ]
        if not rows:
            continue
        values = torch.tensor([values for _, values in rows])
        compute = _STEPS[type(_inner(step))][1]
        if len(rows) == 1:
            row = rows[0][0]
            compute(flat[row : row + 1], values, _inner(step))
        else:
            which = torch.tensor([row for row, _ in rows]).to(flat.device)
            changed = flat[which]
            compute(changed, values, _inner(step))
            flat[which] = changed


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """Return one value a row, shaped to be combined with the rows of ``like``."""
    return values.to(like.device, non_blocking=True).view(-1, *(1,) * (like.ndim - 1))


def _add_noise(x: Tensor, values: Tensor, step: Any) -> None:
    x.addcmul_(torch.randn_like(x), _spread(values[:, 0], x))


def _blur(x: Tensor, values: Tensor, step: Any) -> None:
    """Blur along each axis; the kernel ends at the odd number of voxels nearest 6 sigma + 0.5."""
    for axis in range(1, x.ndim):
        sigma = values[:, axis - 1]
        radius = (sigma * 6 + 0.5).div(2).floor()
        reach = int(radius.max())
        at = torch.arange(-reach, reach + 1).float()
        kernel = torch.exp(-0.5 * (at / sigma[:, None]) ** 2) * (at.abs() <= radius[:, None])
        kernel /= kernel.sum(1, keepdim=True)
        n = x.shape[axis]
        mirrored = (n - 1 - (n - 1 - torch.arange(-reach, n + reach).abs()).abs()).to(x.device)
        padded = x.index_select(axis, mirrored)
        torch.mul(x, _spread(kernel[:, reach], x), out=x)
        for k in range(reach):
            both = padded.narrow(axis, k, n) + padded.narrow(axis, 2 * reach - k, n)
            x.addcmul_(both, _spread(kernel[:, k], x))


def _multiply(x: Tensor, values: Tensor, step: Any) -> None:
    x.mul_(_spread(values[:, 0], x))


def _change_contrast(x: Tensor, values: Tensor, step: ContrastTransform) -> None:
    low, high = x.flatten(1).aminmax(dim=1)
    mean = _mean(x)
    x.sub_(mean).mul_(_spread(values[:, 0], x)).add_(mean)
    if step.preserve_range:
        x.clamp_(_spread(low, x), _spread(high, x))


def _mean(x: Tensor) -> Tensor:
    return _spread(x.flatten(1).mean(1), x)


def _lower_resolution(x: Tensor, values: Tensor, step: Any) -> None:
    mode = ("linear", "bilinear", "trilinear")[x.ndim - 2]
    for row, scales in zip(x, values.tolist(), strict=True):  # each has a size of its own
        small = [round(n * scale) for n, scale in zip(row.shape, scales, strict=True)]
        less = interpolate(row[None, None], small, mode="nearest-exact")
        row.copy_(interpolate(less, row.shape, mode=mode)[0, 0])


def _change_gamma(x: Tensor, values: Tensor, step: Any) -> None:
    kinds = {(bool(invert), bool(retain)) for _, invert, retain in values.tolist()}
    if len(kinds) > 1:
        for row in range(len(x)):
            _change_gamma(x[row : row + 1], values[row : row + 1], step)
        return
    invert, retain = kinds.pop()
    gamma = values[0, 0].item() if len(x) == 1 else _spread(values[:, 0], x)
    if invert:
        x.neg_()
    before = (_mean(x), _std(x)) if retain else None
    low, high = (_spread(value, x) for value in x.flatten(1).aminmax(dim=1))
    x.sub_(low).div_((high - low).clamp(min=1e-7)).pow_(gamma).mul_(high - low).add_(low)
    if before is not None:
        mean, std = before
        x.sub_(_mean(x)).mul_(std / _std(x).clamp(min=1e-7)).add_(mean)
    if invert:
        x.neg_()


def _std(x: Tensor) -> Tensor:
    return _spread(torch.stack([row.std() for row in x]), x)


def _rows(
    *names: str, channels: str = "apply_to_channel"
) -> Callable[[Mapping[str, Any], Any], list[Row]]:
    """Read what a transform drew: the values of each channel that it changes."""

    def read(drawn: Mapping[str, Any], step: Any) -> list[Row]:
        chosen = torch.as_tensor(drawn[channels])
        chosen = chosen.nonzero()[:, 0] if chosen.dtype == torch.bool else chosen
        n = len(chosen)
        if not n:
            return []
        # These are drawn once for all channels, or else once for each.
        rows = 1 if names == ("sigmas",) and step.synchronize_channels else n
        columns = [torch.as_tensor(drawn[name]).reshape(rows, -1).expand(n, -1) for name in names]
        values = torch.cat([column.float() for column in columns], 1).tolist()
        return [(c, tuple(v)) for c, v in zip(chosen.tolist(), values, strict=True)]

    return read


# For each transform of the image: how to read what it drew, and how to compute it.
_STEPS: Mapping[type[BasicTransform], tuple[Callable[..., Any], Callable[..., None]]] = (
    MappingProxyType(
        {
            GaussianNoiseTransform: (_rows("sigmas", channels="apply_idx"), _add_noise),
            GaussianBlurTransform: (_rows("sigmas"), _blur),
            MultiplicativeBrightnessTransform: (_rows("multipliers"), _multiply),
            ContrastTransform: (_rows("multipliers"), _change_contrast),
            SimulateLowResolutionTransform: (_rows("scales"), _lower_resolution),
            GammaTransform: (_rows("gamma", "invert_image", "retain_stats"), _change_gamma),
        }
    )
)
