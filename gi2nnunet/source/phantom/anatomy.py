"""The phantom's anatomy: a drawn patient, and what tissue lies at each pixel of a slice.

Everything is described in *template millimetres*: x grows to the image's right (the patient's
left), y from anterior to posterior, z from cranial to caudal; the origin lies in the middle of the
abdomen, at about the second lumbar vertebra. Points are written ``(z, y, x)``. A
:class:`~gi2nnunet.source.phantom.frame.Frame` says where in the template each pixel of a scan lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

from gi2nnunet.source.phantom.frame import Frame, SmoothField

Detail = Literal["full", "easy"]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_TORSO = 2.5  # exponent of the superellipses of skin, muscle and cavity
_WIDTH_MM, _DEPTH_MM = 125.0, 85.0  # half width and half depth of the template's cavity
"""What follows in this module is stated for a cavity of this size, and scaled to the patient's."""


class Tissue(IntEnum):
    """What a pixel holds, apart from the three organs."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    BONE = 4
    DISC = 5
    CANAL = 6
    VISCERAL_FAT = 7
    LUNG = 8
    HEART = 9
    VESSEL = 10
    LIVER = 11
    SPLEEN = 12
    KIDNEY = 13
    BLADDER = 14
    PANCREAS = 15


@dataclass(frozen=True, kw_only=True)
class Ellipsoid:
    """One organ drawn as an ellipsoid, in template millimetres ``(z, y, x)``.

    ``only`` restricts it to pixels that so far hold one of these tissues; ``turn`` rotates it in
    the axial plane, in radians.
    """

    tissue: Tissue
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    only: tuple[Tissue, ...] = ()
    turn: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One patient on one day.

    Attributes
    ----------
    detail
        ``"full"`` or ``"easy"``.
    width_mm, depth_mm
        Half width and half depth of the abdominal cavity.
    wall_mm
        Thickness of the muscular wall.
    fat_mm
        Thickness of the subcutaneous fat at the front, the sides and the back.
    solids
        Ellipsoids, later ones painted over earlier ones.
    gut
        Large bowel, small bowel, stomach, in the order of :data:`~gi2nnunet.formats.ids.ORGANS`.
    warp
        Displacement fields ``(y, x)`` and their amplitudes in mm, applied to the coordinates.
    touch
        Field that says where neighbouring organs' masks overlap.
    annotated_z_mm
        First and last z at which the gut is annotated.
    offset_mm
        Where the middle of the scan lies in the template, ``(z, y, x)``.
    arms
        Whether the arms lie beside the body.
    """

    detail: Detail
    width_mm: float
    depth_mm: float
    wall_mm: float
    fat_mm: tuple[float, float, float]
    solids: tuple[Ellipsoid, ...]
    gut: tuple[Tube, ...]
    warp: tuple[tuple[SmoothField, SmoothField, float], ...]
    touch: SmoothField
    annotated_z_mm: tuple[float, float]
    offset_mm: tuple[float, float, float]
    arms: bool

    @property
    def half_size_mm(self) -> tuple[float, float]:
        """Return the half depth and half width of the body at its widest, with some air."""
        front, side, back = self.fat_mm
        depth = self.depth_mm + (self.wall_mm + _BACK_MM + front + back) / 2
        return 1.08 * depth + 8, 1.06 * (self.width_mm + self.wall_mm + side) + 8


_BACK_MM = 24.0  # muscle behind the cavity


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
    plump = float(patient.uniform(0, 1))
    fat = (
        5 + 20 * plump * float(patient.uniform(0.7, 1.2)),
        7 + 24 * plump * float(patient.uniform(0.8, 1.2)),
        9 + 22 * plump * float(patient.uniform(0.8, 1.2)),
    )
    wall = float(patient.uniform(9, 13))
    scale = (1.0, depth / _DEPTH_MM, width / _WIDTH_MM)
    solids = _draw_solids(patient, day, scale=scale)
    gut = draw_gut(patient, day, scale=scale, easy=easy)
    warp = tuple(
        (
            SmoothField.draw(generator, spacing_mm=spacing),
            SmoothField.draw(generator, spacing_mm=spacing),
            amplitude * (0.5 if easy else 1.0),
        )
        for generator, spacing, amplitude in (
            (patient, 70.0, 3.0),
            (patient, 28.0, 0.9),
            (day, 60.0, 1.6),
        )
    )
    touch = SmoothField.draw(day, spacing_mm=30.0)
    top = float(gut[2].points[:, 0].min() - gut[2].radius.max())
    last = float(patient.uniform(62, 100) + day.normal(0, 4))
    offset = (
        float(patient.uniform(-22, -6) + day.normal(0, 4)),
        float(patient.normal(0, 3) + day.normal(0, 2)),
        float(patient.normal(0, 3) + day.normal(0, 3)),
    )
    return Anatomy(
        detail=detail,
        width_mm=width,
        depth_mm=depth,
        wall_mm=wall,
        fat_mm=fat,
        solids=solids,
        gut=gut,
        warp=warp,
        touch=touch,
        annotated_z_mm=(top, min(last, top + 190)),
        offset_mm=offset,
        arms=bool(patient.uniform() < 0.4) and not easy,
    )


def _draw_solids(
    patient: np.random.Generator, day: np.random.Generator, *, scale: Sequence[float]
) -> tuple[Ellipsoid, ...]:
    """Place the organs that are not segmented."""
    inside = (Tissue.VISCERAL_FAT,)
    chest = (Tissue.LUNG,)
    template: list[tuple[Tissue, tuple[float, ...], tuple[float, ...], tuple[Tissue, ...]]] = [
        (Tissue.VISCERAL_FAT, (-150, -28, 4), (75, 62, 44), chest),
        (Tissue.VISCERAL_FAT, (-165, 14, 4), (140, 70, 30), chest),
        (Tissue.HEART, (-150, -30, 22), (50, 42, 54), (Tissue.LUNG, Tissue.VISCERAL_FAT)),
        (Tissue.VESSEL, (-150, -22, 36), (36, 20, 26), (Tissue.HEART,)),
        (Tissue.VESSEL, (-152, -40, 0), (34, 17, 20), (Tissue.HEART,)),
        (Tissue.VESSEL, (-235, -16, -18), (70, 11, 11), ()),
        (Tissue.VESSEL, (-240, -26, 4), (62, 15, 16), ()),
        (Tissue.VESSEL, (-205, -8, 12), (16, 12, 34), chest + inside),
        (Tissue.LUNG, (-260, 12, 2), (60, 9, 9), ()),
        (Tissue.MUSCLE, (-180, 24, -2), (110, 6, 8), inside),
        (Tissue.LIVER, (-50, 0, -84), (78, 92, 72), inside),
        (Tissue.LIVER, (-72, -34, -6), (46, 42, 66), inside),
        (Tissue.VISCERAL_FAT, (14, 56, -62), (62, 32, 40), (Tissue.LIVER,)),
        (Tissue.PANCREAS, (-4, 0, -12), (22, 12, 34), inside),
        (Tissue.PANCREAS, (-22, 10, 40), (16, 11, 44), inside),
        (Tissue.SPLEEN, (-54, 42, 98), (46, 36, 25), inside),
        (Tissue.KIDNEY, (18, 46, -62), (50, 24, 27), inside),
        (Tissue.KIDNEY, (4, 46, 64), (52, 24, 27), inside),
        (Tissue.VISCERAL_FAT, (18, 40, -52), (26, 9, 14), (Tissue.KIDNEY,)),
        (Tissue.VISCERAL_FAT, (4, 40, 54), (27, 9, 14), (Tissue.KIDNEY,)),
        (Tissue.LIVER, (-12, -52, -52), (26, 14, 11), (Tissue.LIVER,)),
        (Tissue.MUSCLE, (95, 52, -40), (125, 24, 22), inside),
        (Tissue.MUSCLE, (95, 52, 40), (125, 24, 22), inside),
        (Tissue.MUSCLE, (160, 18, -88), (70, 58, 30), inside),
        (Tissue.MUSCLE, (160, 18, 88), (70, 58, 30), inside),
        (Tissue.BLADDER, (188, -10, 0), (30, 34, 40), inside),
    ]
    solids = []
    for tissue, centre, radii, only in template:
        moved = np.multiply(centre, scale) + patient.normal(0, 3, 3) + day.normal(0, 1.5, 3)
        sized = np.multiply(radii, scale) * patient.uniform(0.93, 1.07, 3)
        solids.append(
            Ellipsoid(
                tissue=tissue,
                centre=(float(moved[0]), float(moved[1]), float(moved[2])),
                radii=(float(sized[0]), float(sized[1]), float(sized[2])),
                only=only,
            )
        )
    return tuple(solids)


def warp_slice(anatomy: Anatomy, frame: Frame, index: int) -> tuple[FloatArray, FloatArray]:
    """Return the template's ``(y, x)`` in mm at every pixel of a slice, each ``(height, width)``.

    Indices count from 0, the most cranial slice.
    """
    y = np.repeat(frame.y_mm[:, None], len(frame.x_mm), axis=1).astype(np.float32)
    x = np.repeat(frame.x_mm[None, :], len(frame.y_mm), axis=0).astype(np.float32)
    for field_y, field_x, amplitude in anatomy.warp:
        y += np.float32(amplitude) * frame.sample(field_y, index)
        x += np.float32(amplitude) * frame.sample(field_x, index)
    return y, x


def paint_tissue(anatomy: Anatomy, z: float, y: FloatArray, x: FloatArray) -> NDArray[np.uint8]:
    """Return the :class:`Tissue` of every pixel of a slice, ``(height, width)`` uint8.

    Parameters
    ----------
    anatomy
        The patient on the day.
    z
        Where the slice lies, in template mm.
    y, x
        The template's coordinates of every pixel in mm, ``(height, width)``.
    """
    front, side, back = anatomy.fat_mm
    chest, hips = _ramp(-z, 40, 170), _ramp(z, 70, 170)
    width = anatomy.width_mm * (1 - 0.32 * hips)
    depth = anatomy.depth_mm * (1 + 0.06 * chest - 0.06 * hips)
    wall = anatomy.wall_mm
    muscle_width = (anatomy.width_mm + wall) * (1 + 0.01 * hips)
    muscle_depth = depth + (wall + _BACK_MM) / 2
    muscle_y = (_BACK_MM - wall) / 2
    side, back = side * (1 + 0.5 * hips - 0.2 * chest), back * (1 + 0.6 * hips - 0.2 * chest)
    skin_width = muscle_width + side
    skin_depth = muscle_depth + (front + back) / 2
    skin_y = muscle_y + (back - front) / 2

    tissue = np.zeros(y.shape, np.uint8)
    if anatomy.arms:
        _paint_arms(tissue, skin_width, y, x)
    # The back is flat and creased above the spine.
    crease = 7 * np.exp(-((x / 14) ** 2)) * (y > 0)
    body = _torso(y + crease, x, skin_y, skin_depth, skin_width)
    tissue[body < 1] = Tissue.SKIN
    tissue[body < (1 - 2.2 / skin_depth) ** _TORSO] = Tissue.FAT
    muscle = _torso(y + crease, x, muscle_y, muscle_depth, muscle_width)
    tissue[muscle < 1] = Tissue.MUSCLE
    cavity = _torso(y, x, 0.0, depth, width)
    ring = (muscle < (1 - 2.5 / muscle_depth) ** _TORSO) & (cavity > (1 + 3 / depth) ** _TORSO)
    if z < 25:
        angle = np.abs(np.arctan2(x, -y))
        rib = np.cos(2 * np.pi * z / 30 + 2.2 * angle) > 0.35
        tissue[ring & rib & (angle > 0.4 + 0.9 * _ramp(z, -60, 20)) & (y < 0.8 * depth)] = (
            Tissue.BONE
        )
    inside = cavity < 1
    tissue[inside] = Tissue.VISCERAL_FAT
    if z < -30:
        tissue[inside & (z < _diaphragm(anatomy, y, x))] = Tissue.LUNG
    for solid in anatomy.solids:
        paint_ellipsoid(tissue, solid, z, y, x)
    _paint_pelvis(tissue, anatomy, z, y, x)
    _paint_spine(tissue, anatomy, z, y, x)
    return tissue


def _ramp(value: float, low: float, high: float) -> float:
    """Return a smooth step from 0 at ``low`` to 1 at ``high``."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


def _torso(y: FloatArray, x: FloatArray, centre_y: float, depth: float, width: float) -> FloatArray:
    """Return a superellipse's level: below 1 inside, 1 on the outline."""
    u, v = np.abs(x) / np.float32(width), np.abs(y - np.float32(centre_y)) / np.float32(depth)
    level: FloatArray = u * u * np.sqrt(u) + v * v * np.sqrt(v)
    return level


def _diaphragm(anatomy: Anatomy, y: FloatArray, x: FloatArray) -> FloatArray:
    """Return the z of the two domes at every pixel: lung lies cranial of it."""
    depth, width = anatomy.depth_mm, anatomy.width_mm
    level: FloatArray | None = None
    for sign, height in ((-1, 74.0), (1, 64.0)):
        reach = ((x - sign * 0.46 * width) / (0.66 * width)) ** 2 + (
            (y + 0.1 * depth) / (1.1 * depth)
        ) ** 2
        dome = np.float32(-46) - np.float32(height) * (1 - reach)
        level = dome if level is None else np.minimum(level, dome)
    if level is None:
        raise ValueError("no dome")
    return np.minimum(level, np.float32(-34))


def paint_ellipsoid(
    tissue: NDArray[np.uint8], solid: Ellipsoid, z: float, y: FloatArray, x: FloatArray
) -> None:
    """Paint the part of an ellipsoid that lies in a slice."""
    (cz, cy, cx), (rz, ry, rx) = solid.centre, solid.radii
    left = 1 - ((z - cz) / rz) ** 2
    if left <= 0:
        return
    dy, dx = y - np.float32(cy), x - np.float32(cx)
    if solid.turn:
        c, s = np.float32(np.cos(solid.turn)), np.float32(np.sin(solid.turn))
        dy, dx = c * dy + s * dx, c * dx - s * dy
    mask = (dy / np.float32(ry)) ** 2 + (dx / np.float32(rx)) ** 2 < left
    if solid.only:
        allowed = np.zeros(256, np.bool_)
        allowed[list(solid.only)] = True
        mask &= allowed[tissue]
    tissue[mask] = solid.tissue


def _paint_disc(
    tissue: NDArray[np.uint8], what: Tissue, centre: tuple[float, float],
    radii: tuple[float, float], y: FloatArray, x: FloatArray, *, only: tuple[Tissue, ...] = (),
) -> None:  # fmt: skip
    flat = Ellipsoid(tissue=what, centre=(0.0, *centre), radii=(1.0, *radii), only=only)
    paint_ellipsoid(tissue, flat, 0.0, y, x)


_BEHIND = (Tissue.FAT, Tissue.MUSCLE, Tissue.VISCERAL_FAT, Tissue.LUNG)


def _paint_spine(
    tissue: NDArray[np.uint8], anatomy: Anatomy, z: float, y: FloatArray, x: FloatArray
) -> None:
    """Paint vertebra or disc, canal, processes, back muscles, aorta and vena cava."""
    low = _ramp(z, 95, 190)
    spine_y = 0.68 * anatomy.depth_mm - 5 * float(np.sin(z / 80)) + 26 * low
    size = 1 + 0.12 * _ramp(z, -200, 60) + 0.5 * low
    for sign in (-1, 1):
        muscle = (spine_y + 29, sign * 30), (18 - 4 * low, 27)
        _paint_disc(tissue, Tissue.MUSCLE, *muscle, y, x, only=_BEHIND)
    _paint_disc(tissue, Tissue.FAT, (spine_y + 42, 0), (18, 5), y, x, only=(Tissue.MUSCLE,))
    arch = abs((z % 34) / 34 - 0.5) < 0.32
    if arch:
        _paint_disc(tissue, Tissue.BONE, (spine_y + 34, 0), (14, 3.5), y, x, only=_BEHIND)
        _paint_disc(tissue, Tissue.BONE, (spine_y + 20, 0), (7, 36 if z < 95 else 20), y, x)
    _paint_disc(tissue, Tissue.FAT, (spine_y + 21, 0), (11, 12), y, x)
    _paint_disc(tissue, Tissue.CANAL, (spine_y + 20, 0), (8, 9), y, x)
    body = Tissue.DISC if (z % 34) < 8 else Tissue.BONE
    _paint_disc(tissue, body, (spine_y, 0), (17 * size, 22 * size), y, x)
    split = 6 + 16 * _ramp(z, 85, 140)
    fade = 1 - 0.4 * _ramp(z, 100, 170)
    _paint_disc(tissue, Tissue.VESSEL, (spine_y - 26, split), (10 * fade, 10 * fade), y, x)
    if z > -115:
        _paint_disc(tissue, Tissue.VESSEL, (spine_y - 24, -split - 14), (9 * fade, 12 * fade), y, x)
    if z > 95:
        _paint_disc(tissue, Tissue.VESSEL, (spine_y - 28, split - 6), (5, 5), y, x)


def _paint_pelvis(
    tissue: NDArray[np.uint8], anatomy: Anatomy, z: float, y: FloatArray, x: FloatArray
) -> None:
    """Paint the iliac wings, the hip sockets and the heads of the thigh bones."""
    depth, width = anatomy.depth_mm, anatomy.width_mm
    for sign in (-1, 1):
        wing = Ellipsoid(
            tissue=Tissue.BONE, centre=(150, 0.42 * depth, sign * 0.66 * width),
            radii=(62, 56, 7), turn=sign * 0.6, only=(Tissue.MUSCLE,),
        )  # fmt: skip
        paint_ellipsoid(tissue, wing, z, y, x)
        head = Ellipsoid(
            tissue=Tissue.BONE, centre=(222, 0.0, sign * 0.66 * width), radii=(34, 28, 28)
        )
        paint_ellipsoid(tissue, head, z, y, x)


def _paint_arms(tissue: NDArray[np.uint8], skin_width: float, y: FloatArray, x: FloatArray) -> None:
    for sign in (-1, 1):
        centre = (14.0, sign * (skin_width + 46))
        for what, radius in (
            (Tissue.SKIN, 42.0), (Tissue.FAT, 40.0), (Tissue.MUSCLE, 32.0), (Tissue.BONE, 9.0),
        ):  # fmt: skip
            _paint_disc(tissue, what, centre, (radius, 0.86 * radius), y, x)


Points = NDArray[np.float64]

_STEP_MM = 3.0
_OUTSIDE = np.float32(-1e3)


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


# (z, y, x) and radius in mm, for the template's cavity.
_STOMACH = np.array([
    (-88, 30, 66, 22), (-72, 10, 74, 32), (-46, -18, 68, 29), (-18, -42, 50, 24),
    (2, -50, 16, 19), (-4, -42, -16, 13), (-10, -30, -32, 8),
], np.float64)  # fmt: skip
_DUODENUM = np.array([
    (-10, -22, -42), (8, 6, -48), (34, 14, -40), (46, 16, -4), (24, 4, 32), (12, -18, 38),
], np.float64)  # fmt: skip
_LARGE_BOWEL = np.array([
    (142, -18, -78, 15), (120, -12, -94, 20), (88, 2, -100, 18), (54, 8, -98, 17),
    (32, -8, -96, 16), (28, -44, -82, 15), (42, -62, -48, 15), (54, -66, -10, 14),
    (42, -66, 32, 14), (14, -58, 68, 14), (-34, -24, 96, 14), (-40, 8, 106, 13),
    (8, 26, 108, 12), (48, 26, 106, 12), (90, 18, 102, 12), (126, 4, 92, 13),
    (150, 16, 58, 13), (146, 34, 26, 13), (172, 44, 4, 14), (210, 40, 0, 13),
], np.float64)  # fmt: skip


def draw_gut(
    patient: np.random.Generator,
    day: np.random.Generator,
    *,
    scale: Sequence[float],
    easy: bool = False,
) -> tuple[Tube, Tube, Tube]:
    """Draw large bowel, small bowel and stomach.

    Parameters
    ----------
    patient
        Decides their course.
    day
        Moves it a little and decides how full they are.
    scale
        The patient's size against the template, ``(z, y, x)``.
    easy
        Few and wide loops of small bowel.
    """
    stomach = _draw_tube(
        _STOMACH, patient, day, scale=scale, move_mm=(5.0, 3.0),
        fill=float(patient.uniform(0.85, 1.1) * day.uniform(0.82, 1.14)),
    )  # fmt: skip
    large = _draw_tube(
        _LARGE_BOWEL, patient, day, scale=scale, move_mm=(6.0, 3.0),
        fill=float(patient.uniform(0.85, 1.2) * day.uniform(0.88, 1.14)),
    )  # fmt: skip
    small = _draw_loops(patient, day, scale=scale, avoid=(large, stomach), easy=easy)
    return _add_haustra(large, patient, easy=easy), small, stomach


def _draw_tube(
    template: Points,
    patient: np.random.Generator,
    day: np.random.Generator,
    *,
    scale: Sequence[float],
    move_mm: tuple[float, float],
    fill: float,
) -> Tube:
    course = template[:, :3] * np.asarray(scale)
    course = course + patient.normal(0, move_mm[0], course.shape)
    course = course + day.normal(0, move_mm[1], course.shape)
    size = template[:, 3] * fill * patient.uniform(0.9, 1.1, len(template))
    size = size * day.uniform(0.9, 1.1, len(template))
    return _smooth_tube(course, size)


def _smooth_tube(course: Points, size: NDArray[np.float64]) -> Tube:
    """Lay a cubic spline through the points and set spheres along it."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(course, axis=0), axis=1))])
    curve = make_interp_spline(length, course, k=3)
    at = np.linspace(0, length[-1], max(2, round(length[-1] / _STEP_MM)))
    return Tube(points=curve(at), radius=np.interp(at, length, size))


def _add_haustra(tube: Tube, patient: np.random.Generator, *, easy: bool) -> Tube:
    along = np.arange(len(tube.points)) * _STEP_MM
    phase = np.cumsum(patient.uniform(0.7, 1.3, len(along))) * _STEP_MM * 2 * np.pi / 26
    depth = 0.06 if easy else 0.16
    last = np.where(along > 0.8 * along[-1], 0.3, 1.0)
    return Tube(points=tube.points, radius=tube.radius * (1 + depth * last * np.sin(phase)))


def _draw_loops(
    patient: np.random.Generator,
    day: np.random.Generator,
    *,
    scale: Sequence[float],
    avoid: Sequence[Tube],
    easy: bool,
) -> Tube:
    """Wind the small bowel through the middle of the abdomen, each turn where most room is."""
    turns, step, size = (14, 62.0, 14.0) if easy else (int(patient.integers(30, 48)), 48.0, 10.5)
    low = np.array([6.0, -62.0, -62.0]) * scale
    high = np.array([142.0, 6.0, 74.0]) * scale
    blocked = np.concatenate([tube.points[::3] for tube in avoid])
    blocked_radius = np.concatenate([tube.radius[::3] for tube in avoid])
    course = list(_DUODENUM * np.asarray(scale))
    taken = [*course]
    for _ in range(turns):
        way = patient.normal(0, 1, (48, 3)) * (0.8, 0.8, 1.0)
        way *= step / np.linalg.norm(way, axis=1, keepdims=True)
        option = np.clip(course[-1] + way, low, high)
        middle = (option + course[-1]) / 2
        room = np.full(len(option), np.inf)
        for place in (option, middle):
            own = np.linalg.norm(place[:, None] - np.array(taken[:-1])[None], axis=2).min(1)
            other = np.linalg.norm(place[:, None] - blocked[None], axis=2) - blocked_radius
            room = np.minimum(room, np.minimum(own - size, other.min(1)))
        moved = np.linalg.norm(option - course[-1], axis=1)
        best = int(np.argmax(np.minimum(room, 1.6 * size) + 0.15 * moved))
        taken += [middle[best], option[best]]
        course.append(option[best])
    bend = np.array(course) + day.normal(0, 2.5, (len(course), 3))
    filling = size * patient.uniform(0.85, 1.15) * day.uniform(0.88, 1.12)
    radius = filling * np.concatenate([
        np.linspace(0.9, 1.0, 6), patient.uniform(0.8, 1.2, turns) * day.uniform(0.85, 1.15, turns),
    ])  # fmt: skip
    return _smooth_tube(bend, radius)


def measure_depth(tube: Tube, z: float, y: FloatArray, x: FloatArray) -> FloatArray:
    """Return how deep inside a tube each pixel of a slice lies.

    Parameters
    ----------
    tube
        The tube.
    z
        Where the slice lies, in template mm.
    y, x
        The template's coordinates of every pixel in mm, ``(height, width)``; a smooth, slightly
        bent grid.

    Returns
    -------
    numpy.ndarray
        ``(height, width)`` float32, mm to the surface; positive inside, far below zero outside.
    """
    depth = np.full(y.shape, _OUTSIDE, np.float32)
    height, width = y.shape
    # The grid is bent by a few millimetres only, so a sphere's pixels are found along the two
    # middle lines and a margin.
    rows, columns = y[:, width // 2], x[height // 2]
    margin = _bend(y, x)
    offset = tube.points[:, 0] - z
    for index in np.flatnonzero(np.abs(offset) < tube.radius):
        _, cy, cx = tube.points[index]
        radius = tube.radius[index]
        reach = np.sqrt(radius**2 - offset[index] ** 2) + margin
        top, bottom = np.searchsorted(rows, (cy - reach, cy + reach))
        left, right = np.searchsorted(columns, (cx - reach, cx + reach))
        if top >= bottom or left >= right:
            continue
        box = (slice(top, bottom), slice(left, right))
        dy, dx = y[box] - np.float32(cy), x[box] - np.float32(cx)
        inner = np.float32(radius) - np.sqrt(dy * dy + dx * dx + np.float32(offset[index] ** 2))
        np.maximum(depth[box], inner, out=depth[box])
    return depth


def _bend(y: FloatArray, x: FloatArray) -> float:
    """Return by how many mm the grid's rows and columns leave its two middle lines at most."""
    height, width = y.shape
    return float(
        max(
            np.abs(y - y[:, width // 2 : width // 2 + 1]).max(),
            np.abs(x - x[height // 2 : height // 2 + 1]).max(),
        )
    )


def divide_organs(
    depth: Sequence[FloatArray], *, touch: FloatArray, sharing_mm: float
) -> NDArray[np.bool_]:
    """Give each pixel to the organ it lies deepest in; near the border both may have it.

    Parameters
    ----------
    depth
        Depth in each organ, from :func:`measure_depth`.
    touch
        A field of standard deviation 1; only where it exceeds 0 do masks share pixels.
    sharing_mm
        Difference of depth up to which pixels are shared, per unit of ``touch``.

    Returns
    -------
    numpy.ndarray
        ``(organs, height, width)`` bool.
    """
    stacked = np.stack(list(depth))
    deepest = stacked.max(axis=0)
    slack = np.float32(sharing_mm) * np.maximum(touch, 0)
    masks: NDArray[np.bool_] = (stacked > 0) & (stacked >= deepest - slack)
    return masks
