"""One phantom scan: drawn from a seed, or painted around given masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.formats.ids import ORGANS, day_of, patient_of
from gi2nnunet.source.phantom.anatomy import (
    Anatomy,
    Detail,
    Tissue,
    draw_anatomy,
    paint_tissue,
    warp_slice,
)
from gi2nnunet.source.phantom.frame import Frame, Geometry, place_frame
from gi2nnunet.source.phantom.gut import divide_organs, measure_depth
from gi2nnunet.source.phantom.signal import Acquisition, draw_acquisition, render_slice

_SHARING_MM = 0.6
# What bowel never covers; the stomach may press into the liver and the spleen.
_HARD = (
    Tissue.AIR, Tissue.SKIN, Tissue.FAT, Tissue.MUSCLE, Tissue.BONE, Tissue.DISC, Tissue.CANAL,
    Tissue.LUNG, Tissue.HEART, Tissue.VESSEL, Tissue.KIDNEY, Tissue.BLADDER,
)  # fmt: skip
_FIRM = (*_HARD, Tissue.LIVER, Tissue.SPLEEN)


@dataclass(frozen=True, kw_only=True)
class PhantomScan:
    """A scan before its pixels are made.

    Attributes
    ----------
    scan_id
        Whose, and of which day.
    geometry
        Its size.
    tissue
        ``(z, y, x)`` uint8 of :class:`~gi2nnunet.source.phantom.anatomy.Tissue`: what lies around
        and behind the organs. Slice 0 is the most cranial; image left is the patient's right.
    visible
        ``(3, z, y, x)`` bool: the gut as it is seen in the image.
    masks
        ``(3, z, y, x)`` bool: the gut as it is annotated, in the order of
        :data:`~gi2nnunet.formats.ids.ORGANS`; masks may overlap.
    frame
        Where the scan lies in the template.
    acquisition
        How it is taken.
    noise
        Seed of its noise.
    """

    scan_id: str
    geometry: Geometry
    tissue: NDArray[np.uint8]
    visible: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    frame: Frame
    acquisition: Acquisition
    noise: np.random.SeedSequence

    def render_slices(self) -> Iterator[NDArray[np.uint16]]:
        """Yield the image of each slice, ``(height, width)`` uint16, cranial first."""
        generator = np.random.default_rng(self.noise)
        for index in range(self.geometry.slices):
            yield render_slice(
                self.acquisition,
                self.frame,
                index,
                tissue=self.tissue[index],
                organs=self.visible[:, index],
                noise=generator,
            )


def _draw(
    scan_id: str, *, seed: int, detail: Detail
) -> tuple[Anatomy, Acquisition, np.random.SeedSequence]:
    """Draw patient and day, each from its own part of the seed."""
    number, day = int(patient_of(scan_id).removeprefix("case")), day_of(scan_id)

    def _seeds(*key: int) -> list[np.random.SeedSequence]:
        return np.random.SeedSequence(seed, spawn_key=key).spawn(3)

    of_patient, of_day = _seeds(number), _seeds(number, day)
    generators = [
        (np.random.default_rng(of_patient[i]), np.random.default_rng(of_day[i])) for i in range(2)
    ]
    anatomy = draw_anatomy(*generators[0], detail=detail)
    return anatomy, draw_acquisition(*generators[1], detail=detail), of_day[2]


def draw_scan(
    scan_id: str, geometry: Geometry, *, seed: int = 0, detail: Detail = "full"
) -> PhantomScan:
    """Draw the anatomy of one scan.

    Parameters
    ----------
    scan_id
        ``case123_day20``; with the seed it decides the anatomy: the patient's number what stays
        from day to day, the day the rest.
    geometry
        The scan's size. Of one patient and day, scans of any geometry show the same anatomy.
    seed
        Seed of the whole phantom.
    detail
        ``"easy"`` for smooth, well separated contrasts.
    """
    anatomy, acquisition, noise = _draw(scan_id, seed=seed, detail=detail)
    frame = place_frame(
        geometry, half_size_mm=anatomy.half_size_mm, offset_mm=_offset(anatomy, geometry)
    )
    shape = (geometry.slices, geometry.height, geometry.width)
    tissue = np.zeros(shape, np.uint8)
    visible = np.zeros((len(ORGANS), *shape), np.bool_)
    for index, z in enumerate(frame.z_mm.tolist()):
        y, x = warp_slice(anatomy, frame, index)
        tissue[index] = paint_tissue(anatomy, z, y, x)
        depth = [measure_depth(tube, z, y, x) for tube in anatomy.gut]
        touch = frame.sample(anatomy.touch, index)
        organs = divide_organs(depth, touch=touch, sharing_mm=_SHARING_MM)
        organs[:2] &= ~np.isin(tissue[index], _FIRM)
        organs[2] &= ~np.isin(tissue[index], _HARD)
        visible[:, index] = organs
    masks = visible.copy()
    first, last = anatomy.annotated_z_mm
    masks[:, (frame.z_mm < first) | (frame.z_mm > last)] = False
    for organ in range(len(ORGANS)):
        _keep_longest(masks[organ], least_pixels=12 if detail == "easy" else 4)
    return PhantomScan(
        scan_id=scan_id,
        geometry=geometry,
        tissue=tissue,
        visible=masks if detail == "easy" else visible,
        masks=masks,
        frame=frame,
        acquisition=acquisition,
        noise=noise,
    )


def _offset(anatomy: Anatomy, geometry: Geometry) -> tuple[float, float, float]:
    """Return the scan's middle in the template; the body's own middle lies below the cavity's."""
    z, y, x = anatomy.offset_mm
    front, _, back = anatomy.fat_mm
    middle = (back - front) / 2 + 6
    return z, y + middle, x


def _keep_longest(mask: NDArray[np.bool_], *, least_pixels: int) -> None:
    """Clear all slices of an organ but its longest unbroken stretch, in place.

    A slice with fewer than ``least_pixels`` ends a stretch.
    """
    filled = np.concatenate([[False], mask.sum(axis=(1, 2)) >= least_pixels, [False]])
    edges = np.flatnonzero(filled[1:] != filled[:-1])
    if not len(edges):
        mask[:] = False
        return
    longest = int(np.argmax(edges[1::2] - edges[0::2]))
    mask[: edges[2 * longest]] = False
    mask[edges[2 * longest + 1] :] = False


def paint_scan(
    scan_id: str, geometry: Geometry, masks: NDArray[np.bool_], *, seed: int = 0
) -> PhantomScan:
    """Paint a body around given masks.

    Parameters
    ----------
    scan_id, geometry, seed
        As for :func:`draw_scan`.
    masks
        ``(3, z, y, x)`` bool, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`; kept as they
        are. The body is moved and, where it must, widened until its cavity holds them; without any
        mask it stays where it was drawn.
    """
    anatomy, acquisition, noise = _draw(scan_id, seed=seed, detail="full")
    anatomy = _enclose(anatomy, geometry, masks)
    frame = place_frame(geometry, half_size_mm=(0.0, 0.0), offset_mm=anatomy.offset_mm)
    tissue = np.zeros(masks.shape[1:], np.uint8)
    for index, z in enumerate(frame.z_mm.tolist()):
        y, x = warp_slice(anatomy, frame, index)
        tissue[index] = paint_tissue(anatomy, z, y, x)
    return PhantomScan(
        scan_id=scan_id, geometry=geometry, tissue=tissue, visible=masks, masks=masks,
        frame=frame, acquisition=acquisition, noise=noise,
    )  # fmt: skip


def _enclose(anatomy: Anatomy, geometry: Geometry, masks: NDArray[np.bool_]) -> Anatomy:
    """Move and widen a body so that its cavity holds the masks."""
    footprint = masks.any(axis=(0, 1))
    if not footprint.any():
        return dataclasses.replace(anatomy, offset_mm=_offset(anatomy, geometry))
    spacing_y, spacing_x = geometry.spacing_mm
    rows, columns = np.nonzero(footprint)
    y = (rows - (geometry.height - 1) / 2) * spacing_y
    x = (columns - (geometry.width - 1) / 2) * spacing_x
    # The spine runs near the middle of the image; the gut lies in front of it.
    centre_x = 0.35 * (x.min() + x.max()) / 2
    width = max(anatomy.width_mm, 1.06 * float(np.abs(x - centre_x).max()))
    depth = anatomy.depth_mm
    for _ in range(40):
        centre_y = y.min() - 5 + 0.96 * depth
        level = np.abs((x - centre_x) / width) ** 2.5 + np.abs((y - centre_y) / depth) ** 2.5
        if level.max() < 0.93:
            break
        if np.abs((y - centre_y) / depth)[np.argmax(level)] > 0.5:
            depth *= 1.03
        width *= 1.02
    growth = (1.0, depth / anatomy.depth_mm, width / anatomy.width_mm)
    solids = tuple(
        dataclasses.replace(
            solid,
            centre=tuple(np.multiply(solid.centre, growth).tolist()),
            radii=tuple(np.multiply(solid.radii, growth).tolist()),
        )
        for solid in anatomy.solids
    )
    slices = np.flatnonzero(masks.any(axis=(0, 2, 3)))
    stomach = np.flatnonzero(masks[ORGANS.index("stomach")].any(axis=(1, 2)))
    anchor = stomach if len(stomach) else slices
    # The stomach's middle, or of a scan without one the gut's first slice, has its usual place.
    index, place = (float(anchor.mean()), -45.0) if len(stomach) else (float(anchor[0]), 0.0)
    offset_z = place - (index - (geometry.slices - 1) / 2) * 3.0
    return dataclasses.replace(
        anatomy,
        width_mm=width,
        depth_mm=depth,
        solids=solids,
        offset_mm=(offset_z, -centre_y, -centre_x),
    )
