"""Label maps: bit-coded (one bit for each organ, so that overlaps are kept) or exclusive.

Bit-coded: bit 0 (value 1) large bowel, bit 1 (value 2) small bowel, bit 2 (value 4) stomach; a
voxel of large *and* small bowel is 3. nnU-Net trains on such maps through its *regions*.

Exclusive: 1 large bowel, 2 small bowel, 3 stomach; if organs overlap, the voxel goes to the one
that comes first in :data:`EXCLUSIVE_PRIORITY`.

References
----------
https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/region_based_training.md
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS, LabelScheme

ORGAN_BITS = tuple(1 << index for index in range(len(ORGANS)))
ALL_BITS = sum(ORGAN_BITS)

# If two organs overlap, the smaller one gets the voxel.
EXCLUSIVE_PRIORITY = ("stomach", "large_bowel", "small_bowel")

LabelMap = NDArray[np.uint8]


def warn_of_absence(shown: Collection[str]) -> list[str]:
    """Return a warning if a truth does not show every organ; ``shown`` are those it shows."""
    absent = [organ.replace("_", " ") for organ in ORGANS if organ not in shown]
    if len(absent) == len(ORGANS):
        return ["no foreground: every mask is empty, so no network can be trained on this truth"]
    return [f"no {organ} in any mask: a network cannot learn it" for organ in absent]


def nnunet_labels(scheme: LabelScheme) -> tuple[dict[str, int | list[int]], list[int] | None]:
    """Return ``labels`` and ``regions_class_order`` of nnU-Net's dataset.json.

    The second is ``None`` for exclusive labels.
    """
    if scheme == "exclusive":
        return {"background": 0, **{organ: i + 1 for i, organ in enumerate(ORGANS)}}, None
    regions = {
        organ: [value for value in range(1, ALL_BITS + 1) if value & bit]
        for organ, bit in zip(ORGANS, ORGAN_BITS, strict=True)
    }
    return {"background": 0, **regions}, list(ORGAN_BITS)


def split_organs(label_map: LabelMap, *, scheme: LabelScheme = "regions") -> NDArray[np.bool_]:
    """Return one mask per organ of a label map of any shape.

    They are bool of shape ``(organs, *label_map.shape)``, in the order of
    :data:`~gi2nnunet.formats.ids.ORGANS`.
    """
    if scheme == "regions":
        return np.stack([(label_map & bit) != 0 for bit in ORGAN_BITS])
    return np.stack([label_map == index + 1 for index in range(len(ORGANS))])


def join_organs(masks: Sequence[NDArray[np.bool_]] | NDArray[np.bool_]) -> LabelMap:
    """Return the bit-coded label map of one mask per organ, the inverse of :func:`split_organs`."""
    label_map = np.zeros(masks[0].shape, np.uint8)
    for mask, bit in zip(masks, ORGAN_BITS, strict=True):
        label_map |= mask.astype(np.uint8) * np.uint8(bit)
    return label_map


def find_box(*volumes: LabelMap | NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Return the smallest box around the non-zero voxels of volumes ``(z, y, x)`` of one shape.

    The slices have length 0 if every voxel is 0. Planes are searched first, rows and columns only
    inside them: 50 times faster than :func:`scipy.ndimage.find_objects` on a scan.
    """
    arrays = [volume.view(np.uint8) for volume in volumes]
    planes = np.zeros(arrays[0].shape[0], np.uint8)
    for array in arrays:
        planes |= array.max(axis=(1, 2), initial=0)
    z = _span(planes)
    image = np.zeros(arrays[0].shape[1:], np.uint8)
    for array in arrays:
        image |= np.bitwise_or.reduce(array[z], axis=0)
    return z, _span(image.max(axis=1, initial=0)), _span(image.max(axis=0, initial=0))


def _span(line: NDArray[np.uint8]) -> slice:
    found = np.flatnonzero(line)
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


def to_exclusive(bit_map: LabelMap) -> LabelMap:
    """Turn a bit-coded label map into an exclusive one by :data:`EXCLUSIVE_PRIORITY`."""
    table = np.zeros(256, np.uint8)
    for value in range(1, ALL_BITS + 1):
        table[value] = next(
            ORGANS.index(organ) + 1
            for organ in EXCLUSIVE_PRIORITY
            if value & ORGAN_BITS[ORGANS.index(organ)]
        )
    return table[bit_map]


def to_bits(exclusive_map: LabelMap) -> LabelMap:
    """Turn an exclusive label map into a bit-coded one."""
    table = np.zeros(256, np.uint8)
    table[1 : len(ORGANS) + 1] = ORGAN_BITS
    return table[exclusive_map]
