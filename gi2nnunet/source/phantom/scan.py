"""Phantom scan: drawn from a seed or painted around given masks, with its MR signal."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gi2nnunet.formats.ids import ORGANS, day_of, patient_of
from gi2nnunet.formats.labels import find_box
from gi2nnunet.source.phantom.anatomy import (
    Anatomy,
    Detail,
    Tissue,
    divide_organs,
    draw_anatomy,
    measure_depth,
    paint_tissue,
    warp_slice,
)
from gi2nnunet.source.phantom.frame import Frame, Geometry, SmoothField, place_frame

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


FloatArray = NDArray[np.float32]

# Relative to fat = 1. The organs in the order of kaggle.ORGANS.
_TISSUE_SIGNAL = {
    Tissue.AIR: 0.0, Tissue.SKIN: 0.45, Tissue.FAT: 1.0, Tissue.MUSCLE: 0.22, Tissue.BONE: 0.46,
    Tissue.DISC: 0.26, Tissue.CANAL: 0.17, Tissue.VISCERAL_FAT: 0.82, Tissue.LUNG: 0.04,
    Tissue.HEART: 0.36, Tissue.VESSEL: 0.33, Tissue.LIVER: 0.38, Tissue.SPLEEN: 0.29,
    Tissue.KIDNEY: 0.31, Tissue.BLADDER: 0.2, Tissue.PANCREAS: 0.43,
}  # fmt: skip
_TISSUE_GRAIN = {
    Tissue.FAT: 0.035, Tissue.MUSCLE: 0.16, Tissue.BONE: 0.12, Tissue.DISC: 0.08,
    Tissue.VISCERAL_FAT: 0.1, Tissue.LUNG: 0.3, Tissue.HEART: 0.22, Tissue.VESSEL: 0.05,
    Tissue.LIVER: 0.045, Tissue.SPLEEN: 0.03, Tissue.KIDNEY: 0.1, Tissue.PANCREAS: 0.12,
}  # fmt: skip
_EASY_SIGNAL = {
    Tissue.SKIN: 0.4, Tissue.FAT: 0.5, Tissue.MUSCLE: 0.18, Tissue.BONE: 0.32,
    Tissue.VISCERAL_FAT: 0.4, Tissue.LIVER: 0.26, Tissue.SPLEEN: 0.24, Tissue.KIDNEY: 0.22,
}  # fmt: skip
_EASY_ORGANS = (0.05, 0.68, 1.0)
_WALL = 0.40
_GAS = 0.03


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """How one scan was taken.

    Attributes
    ----------
    detail
        ``"full"`` or ``"easy"``.
    gain
        16-bit units of full fat signal in the middle of the coil; differs between scans.
    noise
        Standard deviation of the noise in each of the two channels, relative to fat.
    blur_px
        Standard deviation of the in-plane blur.
    falloff_mm
        Distance from the coil's centre at which the signal has dropped to a third.
    centre_mm
        z of the coil's centre in the template.
    contrast
        Factor a :class:`~gi2nnunet.source.phantom.anatomy.Tissue`.
    content
        Mean signal of what fills large bowel, small bowel and stomach.
    gas
        How far gas fills them: the content field's offset.
    bias, grain, fine, filling
        Smooth fields: coil sensitivity, tissue texture (coarse and fine), contents of the gut.
    """

    detail: Detail
    gain: float
    noise: float
    blur_px: float
    falloff_mm: float
    centre_mm: float
    contrast: NDArray[np.float32]
    content: tuple[float, float, float]
    gas: tuple[float, float, float]
    bias: SmoothField
    grain: SmoothField
    fine: SmoothField
    filling: SmoothField


def draw_acquisition(
    patient: np.random.Generator, day: np.random.Generator, *, detail: Detail
) -> Acquisition:
    """Draw how a patient's scan of one day was taken."""
    easy = detail == "easy"
    contrast = patient.normal(1, 0.015 if easy else 0.05, len(Tissue))
    contrast = contrast * day.normal(1, 0.01 if easy else 0.02, len(Tissue))
    gain = np.exp(day.uniform(np.log(250), np.log(11000)))
    noise = day.uniform(0.006, 0.012) if easy else np.exp(day.uniform(np.log(0.008), np.log(0.026)))
    gas = day.normal((-0.1, -1.5, -0.5), 0.3)
    content = day.normal((0.24, 0.30, 0.33), 0.03)
    return Acquisition(
        detail=detail,
        gain=float(gain),
        noise=float(noise),
        blur_px=float(day.uniform(0.45, 0.7)),
        falloff_mm=float(day.uniform(190, 260)),
        centre_mm=float(day.normal(0, 15)),
        contrast=contrast.astype(np.float32),
        content=(float(content[0]), float(content[1]), float(content[2])),
        gas=(float(gas[0]), float(gas[1]), float(gas[2])),
        bias=SmoothField.draw(day, spacing_mm=130.0),
        grain=SmoothField.draw(patient, spacing_mm=13.0),
        fine=SmoothField.draw(patient, spacing_mm=5.5),
        filling=SmoothField.draw(day, spacing_mm=26.0),
    )


def render_slice(
    acquisition: Acquisition,
    frame: Frame,
    index: int,
    *,
    tissue: NDArray[np.uint8],
    organs: NDArray[np.bool_],
    noise: np.random.Generator,
) -> NDArray[np.uint16]:
    """Return the image of one slice.

    Parameters
    ----------
    acquisition
        How the scan was taken.
    frame
        Where it lies.
    index
        The slice, from 0.
    tissue
        ``(height, width)`` of :class:`~gi2nnunet.source.phantom.anatomy.Tissue`.
    organs
        ``(3, height, width)`` bool, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`. Where
        they overlap, the stomach hides the others and the large bowel hides the small one.
    noise
        Source of this slice's noise.

    Returns
    -------
    numpy.ndarray
        ``(height, width)`` uint16.
    """
    easy = acquisition.detail == "easy"
    signal, grain, fine = _look_up(acquisition, frame, index, tissue)
    filling = frame.sample(acquisition.filling, index)
    for organ in (1, 0, 2):
        mask = organs[organ]
        if not mask.any():
            continue
        if easy:
            signal[mask] = _EASY_ORGANS[organ] * (1 + 0.03 * grain[mask])
        else:
            _fill_organ(signal, acquisition, organ, mask, grain, fine, filling)
    bias = frame.sample(acquisition.bias, index)
    distance = abs(frame.z_mm[index] - acquisition.centre_mm) / acquisition.falloff_mm
    coil = np.exp(np.float32(0.05 if easy else 0.13) * np.clip(bias, -2.5, 2.5))
    if not easy:
        coil *= np.float32(max(np.exp(-1.1 * distance**4), 0.12))
    signal = ndimage.gaussian_filter(signal * coil, acquisition.blur_px, truncate=3.0)
    channels = noise.standard_normal((2, *signal.shape), dtype=np.float32)
    channels *= np.float32(acquisition.noise)
    magnitude = np.hypot(signal + channels[0], channels[1])
    units = np.rint(magnitude * np.float32(acquisition.gain))
    pixels: NDArray[np.uint16] = np.clip(units, 0, 65535).astype(np.uint16)
    return pixels


def _look_up(
    acquisition: Acquisition, frame: Frame, index: int, tissue: NDArray[np.uint8]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the tissues' signal with its texture, and the two texture fields."""
    easy = acquisition.detail == "easy"
    table = np.zeros(len(Tissue), np.float32)
    grains = np.zeros(len(Tissue), np.float32)
    for kind in Tissue:
        value = _TISSUE_SIGNAL[kind]
        if easy:
            value = _EASY_SIGNAL.get(kind, value)
        table[kind] = value * acquisition.contrast[kind]
        grains[kind] = _TISSUE_GRAIN.get(kind, 0.0) * (0.3 if easy else 1.0)
    grain = frame.sample(acquisition.grain, index)
    fine = frame.sample(acquisition.fine, index)
    signal = table[tissue] * (1 + grains[tissue] * (np.float32(0.6) * grain + fine))
    if not easy:
        # Vessels through the mesentery, and fat between the fibres of muscle.
        fat = tissue == Tissue.VISCERAL_FAT
        thread = np.abs(grain + np.float32(0.35) * fine)
        vein = frame.sample(acquisition.filling, index) > 0.2
        signal[fat & vein & (thread < 0.09)] *= np.float32(0.68)
        signal[(tissue == Tissue.LIVER) & (np.abs(grain) < 0.05) & vein] *= np.float32(1.3)
        signal[(tissue == Tissue.LUNG) & (thread < 0.06)] += np.float32(0.13)
        signal[(tissue == Tissue.MUSCLE) & (fine > 1.7)] += np.float32(0.22)
    return np.maximum(signal, 0), grain, fine


def _fill_organ(
    signal: FloatArray,
    acquisition: Acquisition,
    organ: int,
    mask: NDArray[np.bool_],
    grain: FloatArray,
    fine: FloatArray,
    filling: FloatArray,
) -> None:
    """Paint one organ's wall, contents and, above a level in each loop, gas."""
    box = find_box(mask[None])[1:]
    part = np.ascontiguousarray(mask[box])
    lumen = ndimage.binary_erosion(part)
    texture = np.float32(0.035) * grain[box] + np.float32(0.03) * fine[box]
    values = acquisition.content[organ] + np.float32(0.075) * filling[box] + texture
    if organ == 1:  # folds of the jejunum
        values += np.float32(0.05) * np.sign(fine[box])
    loops, _ = ndimage.label(lumen)
    y = np.arange(part.shape[0], dtype=np.float32)[:, None]
    for loop, found in enumerate(ndimage.find_objects(loops), start=1):
        inside = loops[found] == loop
        top, bottom = found[0].start, found[0].stop
        mean = float(filling[box][found][inside].mean())
        share = 0.5 + 0.55 * (mean + acquisition.gas[organ])
        level = top + min(max(share, 0.0), 1.05) * (bottom - top)
        level_line = level + np.float32(0.8) * grain[box][found]
        gas = inside & (y[found[0]] < level_line)
        values[found][gas] = _GAS
    target = signal[box]
    wall = _WALL + np.float32(0.04) * fine[box]
    target[part] = np.maximum(np.where(lumen, values, wall), 0)[part]
