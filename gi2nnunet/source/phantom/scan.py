"""Scan of the phantom: drawn from a seed or painted around given masks, with its MR signal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gi2nnunet.formats.ids import ORGANS, SLICE_THICKNESS_MM, day_of, patient_of
from gi2nnunet.source.phantom.anatomy import (
    Anatomy,
    Detail,
    Tissue,
    draw_anatomy,
    paint_organs,
    paint_tissue,
    warp_slice,
)
from gi2nnunet.source.phantom.frame import Frame, Geometry, SmoothField, place_frame

# Relative to fat = 1: signal, its texture, signal in an easy phantom.
_SIGNAL = {
    Tissue.AIR: (0.0, 0.0, 0.0),
    Tissue.FAT: (1.0, 0.035, 0.5),
    Tissue.MUSCLE: (0.22, 0.16, 0.18),
    Tissue.BONE: (0.46, 0.12, 0.32),
    Tissue.CANAL: (0.17, 0.0, 0.17),
    Tissue.LUNG: (0.04, 0.3, 0.04),
    Tissue.KIDNEY: (0.31, 0.1, 0.22),
    Tissue.VISCERAL_FAT: (0.82, 0.1, 0.4),
    Tissue.LIVER: (0.38, 0.045, 0.26),
    Tissue.SPLEEN: (0.29, 0.03, 0.24),
}
_EASY_ORGANS = (0.05, 0.68, 1.0)  # large bowel, small bowel, stomach
_WALL = 0.40


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How one scan was taken.

    Attributes
    ----------
    easy
        Calm contrasts, without the organs' walls and contents.
    gain
        16-bit units of full fat signal in the middle of the coil; differs between scans.
    noise
        Standard deviation of the noise in each of the two channels, relative to fat.
    blur_px
        Standard deviation of the in-plane blur.
    falloff_mm
        Distance from the coil's centre, in z, at which the signal has dropped to a third.
    contrast
        Factor for each :class:`~gi2nnunet.source.phantom.anatomy.Tissue`.
    content
        Mean signal of what fills large bowel, small bowel and stomach.
    bias, grain, fine, filling
        Smooth fields: coil sensitivity, tissue texture (coarse and fine), contents of the gut.
    """

    easy: bool
    gain: float
    noise: float
    blur_px: float
    falloff_mm: float
    contrast: NDArray[np.float64]
    content: NDArray[np.float64]
    bias: SmoothField
    grain: SmoothField
    fine: SmoothField
    filling: SmoothField


def _draw_acquisition(
    patient: np.random.Generator, day: np.random.Generator, *, easy: bool
) -> Acquisition:
    contrast = patient.normal(1, 0.015 if easy else 0.05, len(Tissue))
    return Acquisition(
        easy=easy,
        gain=float(np.exp(day.uniform(np.log(250), np.log(11000)))),
        noise=float(day.uniform(0.006, 0.012) * (1 if easy else 1.8)),
        blur_px=float(day.uniform(0.45, 0.7)),
        falloff_mm=float(day.uniform(190, 260)),
        contrast=contrast * day.normal(1, 0.01 if easy else 0.02, len(Tissue)),
        content=day.normal((0.13, 0.30, 0.33), 0.03),
        bias=SmoothField.draw(day, spacing_mm=130.0),
        grain=SmoothField.draw(patient, spacing_mm=13.0),
        fine=SmoothField.draw(day, spacing_mm=5.5),
        filling=SmoothField.draw(day, spacing_mm=26.0),
    )


@dataclass(frozen=True, kw_only=True)
class PhantomScan:
    """A scan before its pixels are made.

    Attributes
    ----------
    tissue
        ``(z, y, x)`` uint8 of :class:`~gi2nnunet.source.phantom.anatomy.Tissue`: what lies around
        and behind the organs. Slice 0 is the most cranial; image left is the patient's right.
    visible
        ``(3, z, y, x)`` bool: the gut as it is seen in the image.
    masks
        ``(3, z, y, x)`` bool: the gut as it is annotated, in the order of
        :data:`~gi2nnunet.formats.ids.ORGANS`; masks may overlap.
    frame
        The scan's place in the template.
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
        generator, how = np.random.default_rng(self.noise), self.acquisition
        for index, z in enumerate(self.frame.z_mm):
            bias = np.clip(self.frame.sample(how.bias, index), -2.5, 2.5)
            coil = np.exp((0.05 if how.easy else 0.13) * bias)
            if not how.easy:
                coil *= max(np.exp(-1.1 * (z / how.falloff_mm) ** 4), 0.12)
            signal = ndimage.gaussian_filter(
                self._paint_signal(index) * coil, how.blur_px, truncate=3.0
            )
            noise = how.noise * generator.standard_normal((2, *signal.shape), dtype=np.float32)
            units = np.rint(np.hypot(signal + noise[0], noise[1]) * how.gain)
            yield np.clip(units, 0, 65535).astype(np.uint16)

    def _paint_signal(self, index: int) -> NDArray[np.float32]:
        """Return a slice's signal. The stomach hides the other organs, large bowel the small."""
        how = self.acquisition
        grain, fine, filling = (
            self.frame.sample(smooth, index) for smooth in (how.grain, how.fine, how.filling)
        )
        full, texture, easy = np.array([_SIGNAL[kind] for kind in Tissue], np.float32).T
        if how.easy:
            full, texture = easy, 0.3 * texture
        tissue = self.tissue[index]
        signal = (full * how.contrast)[tissue] * (1 + texture[tissue] * (0.6 * grain + fine))
        for organ in (1, 0, 2):
            mask = self.visible[organ, index]
            if how.easy:
                inside = _EASY_ORGANS[organ] * (1 + 0.03 * grain)
            else:
                contents = how.content[organ] + 0.075 * filling + 0.035 * grain + 0.03 * fine
                lumen = ndimage.binary_erosion(mask)
                inside = np.where(lumen, contents, _WALL + 0.04 * fine)
            signal[mask] = inside[mask]
        painted: NDArray[np.float32] = np.maximum(signal, 0).astype(np.float32)
        return painted


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
    detail
        ``"easy"`` for smooth, well separated contrasts.
    """
    anatomy, acquisition, noise = _draw(scan_id, seed=seed, detail=detail)
    frame = place_frame(geometry, half_size_mm=anatomy.half_size_mm, offset_mm=anatomy.offset_mm)
    tissue = np.zeros((geometry.slices, geometry.height, geometry.width), np.uint8)
    visible = np.zeros((len(ORGANS), *tissue.shape), np.bool_)
    for index, z in enumerate(frame.z_mm.tolist()):
        y, x = warp_slice(anatomy, frame, index)
        tissue[index] = paint_tissue(anatomy, z, y, x)
        visible[:, index] = paint_organs(anatomy, frame, index, y=y, x=x, tissue=tissue[index])
    masks = visible.copy()
    first, last = anatomy.annotated_z_mm
    masks[:, (frame.z_mm < first) | (frame.z_mm > last)] = False
    for organ in masks:
        _keep_longest(organ, least_pixels=12 if detail == "easy" else 4)
    return PhantomScan(
        scan_id=scan_id, geometry=geometry, tissue=tissue, frame=frame, acquisition=acquisition,
        visible=masks if detail == "easy" else visible, masks=masks, noise=noise,
    )  # fmt: skip


def _draw(
    scan_id: str, *, seed: int, detail: Detail
) -> tuple[Anatomy, Acquisition, np.random.SeedSequence]:
    """Draw patient and day, each from its own part of the seed."""
    number, day = int(patient_of(scan_id).removeprefix("case")), day_of(scan_id)
    of_patient = np.random.SeedSequence(seed, spawn_key=(number,)).spawn(2)
    *of_day, noise = np.random.SeedSequence(seed, spawn_key=(number, day)).spawn(3)
    body, look = (
        [np.random.default_rng(seeds) for seeds in pair]
        for pair in zip(of_patient, of_day, strict=True)
    )
    anatomy = draw_anatomy(*body, detail=detail)
    return anatomy, _draw_acquisition(*look, easy=detail == "easy"), noise


def _keep_longest(mask: NDArray[np.bool_], *, least_pixels: int) -> None:
    """Clear all slices of an organ but its longest unbroken stretch, in place.

    A slice with fewer than ``least_pixels`` ends a stretch.
    """
    stretches, found = ndimage.label(np.count_nonzero(mask, axis=(1, 2)) >= least_pixels)
    longest = np.argmax(np.bincount(stretches)[1:]) + 1 if found else -1
    mask[stretches != longest] = False


def paint_scan(
    scan_id: str, geometry: Geometry, masks: NDArray[np.bool_], *, seed: int = 0
) -> PhantomScan:
    """Paint a body around given masks.

    Parameters
    ----------
    masks
        ``(3, z, y, x)`` bool, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`; kept as they
        are. The body is moved and, if it must be, widened until its cavity holds them; without any
        mask it stays where it was drawn.
    """
    anatomy, acquisition, noise = _draw(scan_id, seed=seed, detail="full")
    anatomy = _enclose(anatomy, geometry, masks)
    frame = place_frame(geometry, half_size_mm=(0.0, 0.0), offset_mm=anatomy.offset_mm)
    tissue = np.zeros(masks.shape[1:], np.uint8)
    for index, z in enumerate(frame.z_mm.tolist()):
        tissue[index] = paint_tissue(anatomy, z, *warp_slice(anatomy, frame, index))
    return PhantomScan(
        scan_id=scan_id, geometry=geometry, tissue=tissue, visible=masks, masks=masks,
        frame=frame, acquisition=acquisition, noise=noise,
    )  # fmt: skip


def _enclose(anatomy: Anatomy, geometry: Geometry, masks: NDArray[np.bool_]) -> Anatomy:
    """Move and widen a body so that its cavity holds the masks."""
    _, slices, rows, columns = np.nonzero(masks)
    if not len(slices):
        return anatomy
    y = (rows - (geometry.height - 1) / 2) * geometry.spacing_mm[0]
    x = (columns - (geometry.width - 1) / 2) * geometry.spacing_mm[1]
    # The spine runs near the middle of the image; the gut lies in front of it.
    centre_y, centre_x = y.min() - 5 + 0.96 * anatomy.depth_mm, 0.35 * (x.min() + x.max()) / 2
    level = (
        np.abs((y - centre_y) / anatomy.depth_mm) ** 2.5
        + np.abs((x - centre_x) / anatomy.width_mm) ** 2.5
    )
    growth = max(1.0, float(level.max() / 0.93) ** (1 / 2.5))
    # The stomach's middle, or without one the gut's first slice, gets its usual place.
    stomach = np.flatnonzero(masks[ORGANS.index("stomach")].any(axis=(1, 2)))
    anchor, place = (stomach.mean(), -45.0) if len(stomach) else (slices.min(), 0.0)
    away = (anchor - (geometry.slices - 1) / 2) * SLICE_THICKNESS_MM
    return dataclasses.replace(
        anatomy,
        width_mm=growth * anatomy.width_mm,
        depth_mm=growth * anatomy.depth_mm,
        offset_mm=(float(place - away), float(-centre_y), float(-centre_x)),
    )
