"""Anatomy of the phantom: a drawn patient, and the tissue at each pixel of a slice.

Places are *template millimetres* ``(z, y, x)``: z grows from cranial to caudal, y from anterior to
posterior, x to the image's right (the patient's left); the origin is in the middle of the abdomen.
A :class:`~gi2nnunet.source.phantom.frame.Frame` gives the template's place of each pixel of a scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from gi2nnunet.source.phantom.frame import Frame, SmoothField

Detail = Literal["full", "easy"]
FloatArray = NDArray[np.float32]
Points = NDArray[np.float64]


class Tissue(IntEnum):
    """What a pixel holds, apart from the three organs."""

    AIR = 0
    FAT = 1
    MUSCLE = 2
    BONE = 3
    CANAL = 4
    LUNG = 5
    KIDNEY = 6
    VISCERAL_FAT = 7
    LIVER = 8
    SPLEEN = 9


_HARD = Tissue.KIDNEY  # the gut covers none of the tissues up to this one
_WIDTH_MM, _DEPTH_MM = 125.0, 76.0  # half width and half depth of the template's cavity
_WALL_MM, _BACK_MM = 11.0, 24.0  # muscle around the cavity, and behind it

# Tissue, centre and radii in mm, for the template's cavity; later ones are painted over earlier.
_SOLIDS: tuple[tuple[Tissue, tuple[float, ...], tuple[float, ...]], ...] = (
    (Tissue.LUNG, (-200, -5, -62), (130, 66, 56)),
    (Tissue.LUNG, (-225, -5, 62), (130, 66, 56)),
    (Tissue.LIVER, (-50, 0, -78), (78, 66, 62)),
    (Tissue.LIVER, (-72, -30, -10), (46, 36, 60)),
    (Tissue.SPLEEN, (-68, 44, 90), (42, 26, 24)),
    (Tissue.KIDNEY, (18, 42, -60), (50, 21, 27)),
    (Tissue.KIDNEY, (4, 42, 62), (52, 21, 27)),
    (Tissue.MUSCLE, (95, 48, -40), (125, 22, 22)),
    (Tissue.MUSCLE, (95, 48, 40), (125, 22, 22)),
    (Tissue.BONE, (170, 20, -96), (75, 48, 12)),
    (Tissue.BONE, (170, 20, 96), (75, 48, 12)),
    (Tissue.BONE, (0, 62, 0), (900, 18, 24)),
    (Tissue.BONE, (0, 84, 0), (900, 14, 14)),
    (Tissue.CANAL, (0, 81, 0), (900, 8, 9)),
)
# (z, y, x) and radius in mm, for the template's cavity.
_STOMACH = np.array([
    (-88, 27, 66, 22), (-72, 9, 74, 32), (-46, -16, 68, 29), (-18, -38, 50, 24),
    (-2, -45, 18, 18), (12, -46, 2, 8), (-4, -38, -18, 9), (-10, -27, -32, 8),
], np.float64)  # fmt: skip
_LARGE_BOWEL = np.array([
    (142, -16, -78, 17), (120, -11, -94, 22), (88, 2, -100, 20), (54, 7, -98, 19),
    (32, -7, -96, 18), (28, -40, -82, 17), (42, -55, -48, 17), (54, -59, -10, 16),
    (42, -59, 32, 16), (14, -52, 68, 15), (-16, -34, 88, 13), (-36, -14, 102, 9),
    (-50, 4, 106, 5), (-20, 16, 108, 10), (8, 23, 108, 15), (48, 23, 106, 15),
    (90, 16, 102, 15), (126, 4, 92, 15), (150, 14, 58, 15), (146, 30, 26, 14),
    (172, 39, 4, 14), (210, 36, 0, 13),
], np.float64)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tube:
    """A tube: overlapping spheres along a curve.

    Attributes
    ----------
    points
        ``(n, 3)`` centres ``(z, y, x)`` in template mm.
    radius
        ``(n,)`` in mm.
    """

    points: Points
    radius: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient on one day.

    Attributes
    ----------
    width_mm, depth_mm
        Half width and half depth of the abdominal cavity.
    fat_mm
        Thickness of the subcutaneous fat.
    move_mm
        ``(solids, 3)``: how far each solid organ is from its place in the template.
    gut
        Large bowel, small bowel, stomach, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`.
    warp
        Displacement fields ``(y, x)`` and their amplitudes in mm, applied to the coordinates.
    touch
        Field that decides where masks of neighbouring organs overlap.
    annotated_z_mm
        First and last z at which the gut is annotated.
    offset_mm
        The template's place ``(z, y, x)`` at the middle of the scan.
    """

    width_mm: float
    depth_mm: float
    fat_mm: float
    move_mm: Points
    gut: tuple[Tube, Tube, Tube]
    warp: tuple[tuple[SmoothField, SmoothField, float], ...]
    touch: SmoothField
    annotated_z_mm: tuple[float, float]
    offset_mm: tuple[float, float, float]

    @property
    def half_size_mm(self) -> tuple[float, float]:
        """Return the half depth and half width of the body, with some air."""
        depth = self.depth_mm + (_WALL_MM + _BACK_MM) / 2 + self.fat_mm
        return 1.06 * depth + 8, 1.06 * (self.width_mm + _WALL_MM + self.fat_mm) + 8


def draw_anatomy(
    patient: np.random.Generator, day: np.random.Generator, *, detail: Detail = "full"
) -> Anatomy:
    """Draw a patient on a day.

    Parameters
    ----------
    patient
        Decides what stays the same from day to day; always the same draws are made from it.
    day
        Decides the day's position, deformation and filling.
    detail
        ``"easy"`` draws a calmer body with few, wide loops.
    """
    easy = detail == "easy"
    width = float(patient.uniform(112, 138))
    depth = float(np.clip(0.6 * width + patient.normal(0, 4), 64, 86))
    scale = np.array([1.0, depth / _DEPTH_MM, width / _WIDTH_MM])
    move = patient.normal(0, 3, (len(_SOLIDS), 3)) + day.normal(0, 1.5, (len(_SOLIDS), 3))
    stomach = _draw_tube(_STOMACH, patient, day, scale=scale, spread_mm=(5.0, 3.0))
    large = _draw_tube(_LARGE_BOWEL, patient, day, scale=scale, spread_mm=(6.0, 3.0))
    small = _draw_tube(_wind_loops(patient, easy), patient, day, scale=scale, spread_mm=(6.0, 2.5))
    warp = tuple(
        (
            SmoothField.draw(generator, spacing_mm=spacing),
            SmoothField.draw(generator, spacing_mm=spacing),
            amplitude * (0.5 if easy else 1.0),
        )
        for generator, spacing, amplitude in (
            (patient, 70.0, 3.0), (patient, 28.0, 1.2), (day, 60.0, 1.6),
        )
    )  # fmt: skip
    top = float(stomach.points[:, 0].min() - stomach.radius.max())
    last = float(patient.uniform(62, 100) + day.normal(0, 4))
    return Anatomy(
        width_mm=width,
        depth_mm=depth,
        fat_mm=float(patient.uniform(7, 30)),
        move_mm=move,
        gut=(large, small, stomach),
        warp=warp,
        touch=SmoothField.draw(day, spacing_mm=30.0),
        annotated_z_mm=(top, min(last, top + 190)),
        offset_mm=(
            float(patient.uniform(-22, -6) + day.normal(0, 4)),
            float(6 + patient.normal(0, 3) + day.normal(0, 1.5)),
            float(patient.normal(0, 3) + day.normal(0, 2)),
        ),
    )


def _draw_tube(
    template: Points,
    patient: np.random.Generator,
    day: np.random.Generator,
    *,
    scale: Points,
    spread_mm: tuple[float, float],
) -> Tube:
    """Lay a tube along the template's points, moved for the patient and the day."""
    shape = (len(template), 3)
    course = template[:, :3] * scale
    course = course + patient.normal(0, spread_mm[0], shape) + day.normal(0, spread_mm[1], shape)
    fill = patient.uniform(0.85, 1.15) * day.uniform(0.86, 1.14)
    size = template[:, 3] * fill * patient.uniform(0.9, 1.1, len(template))
    size = size * day.uniform(0.9, 1.1, len(template))
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(course, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(2, round(length[-1] / 3)))
    return Tube(
        points=make_interp_spline(length, course, k=3)(at), radius=np.interp(at, length, size)
    )


def _wind_loops(patient: np.random.Generator, easy: bool) -> Points:
    """Return a template of the small bowel: to and fro on the way from the stomach down."""
    rows, radius = (10, 14.0) if easy else (int(patient.integers(15, 20)), 10.5)
    front_to_back = (-42.0, -10.0) if easy else (-46.0, -24.0, -2.0, -24.0)
    across = np.linspace(-58, 66, 4)
    places = [
        (front_to_back[row % len(front_to_back)], x)
        for row in range(rows)
        for x in across[:: 1 if row % 2 else -1]
    ]
    z = np.linspace(2, 142, len(places))
    size = radius * np.clip(np.linspace(0.4, 3, len(z)), 0, 1)
    return np.column_stack([z, places, size])


def warp_slice(anatomy: Anatomy, frame: Frame, index: int) -> tuple[FloatArray, FloatArray]:
    """Return the template's ``(y, x)`` in mm at every pixel of a slice, each ``(height, width)``.

    Indices count from 0, the most cranial slice.
    """
    y, x = np.meshgrid(frame.y_mm, frame.x_mm, indexing="ij")
    for field_y, field_x, amplitude in anatomy.warp:
        y += amplitude * frame.sample(field_y, index)
        x += amplitude * frame.sample(field_x, index)
    return y.astype(np.float32), x.astype(np.float32)


def paint_tissue(anatomy: Anatomy, z: float, y: FloatArray, x: FloatArray) -> NDArray[np.uint8]:
    """Return the :class:`Tissue` of every pixel of a slice, ``(height, width)`` uint8.

    Parameters
    ----------
    z
        The slice's place in template mm.
    y, x
        The template's coordinates of every pixel in mm, ``(height, width)``.
    """
    width, depth, fat = anatomy.width_mm, anatomy.depth_mm, anatomy.fat_mm
    back = (_BACK_MM - _WALL_MM) / 2
    thick = depth + (_BACK_MM + _WALL_MM) / 2
    tissue = np.zeros(y.shape, np.uint8)
    tissue[_is_in_torso(y - back, x, thick + fat, width + _WALL_MM + fat)] = Tissue.FAT
    tissue[_is_in_torso(y - back, x, thick, width + _WALL_MM)] = Tissue.MUSCLE
    tissue[_is_in_torso(y, x, depth, width)] = Tissue.VISCERAL_FAT
    scale = (1.0, depth / _DEPTH_MM, width / _WIDTH_MM)
    for (kind, centre, radii), moved in zip(_SOLIDS, anatomy.move_mm.tolist(), strict=True):
        cz, cy, cx = np.multiply(centre, scale) + moved
        rz, ry, rx = np.multiply(radii, scale)
        height = 1 - ((z - cz) / rz) ** 2
        inside = ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < height
        inside &= (tissue > Tissue.FAT) if kind < Tissue.LUNG else (tissue > _HARD)
        tissue[inside] = kind
    return tissue


def _is_in_torso(y: FloatArray, x: FloatArray, depth: float, width: float) -> NDArray[np.bool_]:
    """Return which pixels are inside a superellipse."""
    inside: NDArray[np.bool_] = np.abs(x / width) ** 2.5 + np.abs(y / depth) ** 2.5 < 1
    return inside


def paint_organs(
    anatomy: Anatomy, frame: Frame, index: int, *, y: FloatArray, x: FloatArray,
    tissue: NDArray[np.uint8],
) -> NDArray[np.bool_]:  # fmt: skip
    """Return where the gut lies in a slice: each pixel is the organ's that it is deepest in.

    Near a border two organs may share pixels. Bowel covers only fat; the stomach may press into
    liver and spleen.

    Parameters
    ----------
    anatomy, frame, index
        The patient on the day, the scan's place, and the slice, from 0.
    y, x
        The template's coordinates of every pixel in mm, ``(height, width)``.
    tissue
        ``(height, width)`` uint8 of :class:`Tissue`.

    Returns
    -------
    numpy.ndarray
        ``(3, height, width)`` bool, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`.
    """
    margin = (
        np.abs(y - frame.y_mm[:, None]).max(initial=0),
        np.abs(x - frame.x_mm).max(initial=0),
    )
    depth = np.full((len(anatomy.gut), *y.shape), -np.inf, np.float32)
    for tube, of_organ in zip(anatomy.gut, depth, strict=True):
        offset = tube.points[:, 0] - frame.z_mm[index]
        for at in np.flatnonzero(np.abs(offset) < tube.radius):
            _, cy, cx = tube.points[at]
            reach = np.sqrt(tube.radius[at] ** 2 - offset[at] ** 2)
            rows = slice(*np.searchsorted(frame.y_mm, _surround(cy, reach + margin[0])))
            columns = slice(*np.searchsorted(frame.x_mm, _surround(cx, reach + margin[1])))
            away = (y[rows, columns] - cy) ** 2 + (x[rows, columns] - cx) ** 2 + offset[at] ** 2
            inner = (tube.radius[at] - np.sqrt(away)).astype(np.float32)
            np.maximum(of_organ[rows, columns], inner, out=of_organ[rows, columns])
    sharing = 0.6 * np.maximum(frame.sample(anatomy.touch, index), 0)
    organs: NDArray[np.bool_] = (depth > 0) & (depth >= depth.max(axis=0) - sharing)
    organs[:2] &= tissue == Tissue.VISCERAL_FAT
    organs[2] &= tissue > _HARD
    return organs


def _surround(centre: float, reach: float) -> tuple[float, float]:
    return centre - reach, centre + reach
