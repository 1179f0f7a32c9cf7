"""The phantom's three organs: tubes along smooth random curves, and their masks in a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline

FloatArray = NDArray[np.float32]
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
