"""Frame of a phantom's scan in the anatomical template, and smooth random fields over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import BSpline

from gi2nnunet.formats.ids import SLICE_THICKNESS_MM

_EXTENT_MM = (330.0, 300.0, 330.0)
_NEEDED_Z_MM = 250.0  # of the template, so that a scan of few slices still holds the abdomen


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """A scan's size: pixels, slices, and pixel spacing ``(y, x)`` in mm."""

    width: int
    height: int
    slices: int
    spacing_mm: tuple[float, float] = (1.5, 1.5)


def parse_geometry(text: str) -> Geometry:
    """Return the geometry of a text such as ``266x266x144`` or ``64x64x24@6``.

    Raises
    ------
    ValueError
        For any other text.
    """
    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})x(\d{1,4})(?:@(\d{1,3}(?:\.\d+)?))?", text)
    if not match:
        raise ValueError(f"size: found {text!r}; expected a size such as 266x266x144 or 64x64x24@6")
    width, height, slices = (int(match[i]) for i in (1, 2, 3))
    spacing = float(match[4] or 1.5)
    return Geometry(width=width, height=height, slices=slices, spacing_mm=(spacing, spacing))


def list_geometries(
    given: str | Geometry | Sequence[str | Geometry] | None,
) -> list[Geometry] | None:
    """Return one geometry or several, given as texts or not; ``None`` for none."""
    several = [given] if isinstance(given, str | Geometry) else given
    for one in several or ():
        if not isinstance(one, str | Geometry):
            raise ValueError(
                f"size: found {one!r}; expected a Geometry, or a text such as 64x64x24@6"
            )
    made = [parse_geometry(one) if isinstance(one, str) else one for one in several or ()]
    return made or None


@dataclass(frozen=True, kw_only=True)
class SmoothField:
    """A smooth random field over the template: a cubic B-spline on a regular lattice.

    Attributes
    ----------
    coefficients
        float32 ``(z, y, x)``.
    spacing_mm
        Between lattice points, about the field's correlation length.
    """

    coefficients: NDArray[np.float32]
    spacing_mm: float

    @classmethod
    def draw(cls, generator: np.random.Generator, *, spacing_mm: float) -> SmoothField:
        """Draw a field of mean 0 and standard deviation 1."""
        shape = [int(np.ceil(2 * extent / spacing_mm)) + 4 for extent in _EXTENT_MM]
        values = generator.standard_normal(shape, dtype=np.float32)
        return cls(coefficients=values * np.float32(0.479**-1.5), spacing_mm=spacing_mm)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The template coordinates of a scan's slices, rows and columns, in mm."""

    z_mm: NDArray[np.float64]
    y_mm: NDArray[np.float64]
    x_mm: NDArray[np.float64]
    _weights: dict[float, list[sparse.csr_array]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def sample(self, smooth: SmoothField, index: int) -> NDArray[np.float32]:
        """Return a smooth field's values in one slice, ``(height, width)`` float32."""
        if smooth.spacing_mm not in self._weights:
            self._weights[smooth.spacing_mm] = [
                _weigh(places, count, extent, smooth.spacing_mm)
                for places, count, extent in zip(
                    (self.z_mm, self.y_mm, self.x_mm),
                    smooth.coefficients.shape,
                    _EXTENT_MM,
                    strict=True,
                )
            ]
        # Sparse products run in one thread and in one order, so the bytes never differ.
        along_z, rows, columns = self._weights[smooth.spacing_mm]
        shape = smooth.coefficients.shape
        plane = along_z[[index]] @ smooth.coefficients.reshape(shape[0], -1)
        values: NDArray[np.float32] = columns @ (rows @ plane.reshape(shape[1:])).T
        return np.ascontiguousarray(values.T)


def _weigh(
    places_mm: NDArray[np.float64], count: int, extent_mm: float, spacing_mm: float
) -> sparse.csr_array:
    """Return the cubic B-spline's weights, ``(places, lattice points)``, sparse."""
    at = np.clip((places_mm + extent_mm) / spacing_mm, 0, count - 3 - 1e-6)
    knots = np.arange(-3.0, count + 1)
    return sparse.csr_array(BSpline.design_matrix(at, knots, 3).astype(np.float32))


def place_frame(
    geometry: Geometry,
    *,
    half_size_mm: tuple[float, float],
    offset_mm: tuple[float, float, float],
) -> Frame:
    """Lay a scan over the template.

    Parameters
    ----------
    half_size_mm
        The body's half depth and half width. If it exceeds the image, or the abdomen exceeds
        the slices, the body is shrunk to fit.
    offset_mm
        The template's place ``(z, y, x)`` at the middle of the scan.
    """
    spacing_y, spacing_x = geometry.spacing_mm
    shrink = max(
        1.0,
        2 * half_size_mm[0] / (geometry.height * spacing_y),
        2 * half_size_mm[1] / (geometry.width * spacing_x),
    )
    squeeze = max(1.0, _NEEDED_Z_MM / (geometry.slices * SLICE_THICKNESS_MM))
    return Frame(
        z_mm=_centred(geometry.slices) * SLICE_THICKNESS_MM * squeeze + offset_mm[0],
        y_mm=_centred(geometry.height) * spacing_y * shrink + offset_mm[1],
        x_mm=_centred(geometry.width) * spacing_x * shrink + offset_mm[2],
    )


def _centred(count: int) -> NDArray[np.float64]:
    return np.arange(count, dtype=np.float64) - np.float64((count - 1) / 2)
