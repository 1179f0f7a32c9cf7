"""Ids, file names and organs of the competition, and how label maps code the organs.

Vocabulary: ``patient_id`` is ``case123``; ``scan_id`` is ``case123_day20`` (nnU-Net's case
identifier too); ``slice_id`` is ``case123_day20_slice_0065``. Slice 1 is the most cranial one.

References
----------
https://www.kaggle.com/competitions/uw-madison-gi-tract-image-segmentation/data
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

ORGANS = ("large_bowel", "small_bowel", "stomach")
# Bit-coded, or one organ per voxel; see :mod:`gi2nnunet.formats.labels`.
LabelScheme = Literal["regions", "exclusive"]
# Axes of a NIfTI volume: as its affine says, or columns, rows and slices.
Orientation = Literal["affine", "as-stored"]
Certainty = Literal["certain", "likely", "possible"]
"""How sure a check is of a suspect, from most to least."""
CERTAINTIES: tuple[Certainty, ...] = get_args(Certainty)
LABEL_SCHEMES: tuple[LabelScheme, ...] = get_args(LabelScheme)
SLICE_THICKNESS_MM = 3.0

# Brighter than a page's colours, because they lie on grey anatomy.
CONTOUR_COLOURS: Mapping[str, str] = {
    "large_bowel": "#ff9d5c",
    "small_bowel": "#5ce6a8",
    "stomach": "#7fb2ff",
}

_LISTED = "on the organisers' list of bad scans"
KNOWN_BAD_SCANS: Mapping[str, str] = {
    **dict.fromkeys(("case7_day0", "case81_day30"), "wrong masks"),
    **dict.fromkeys(("case43_day18", "case43_day26", "case138_day0", "case124_day19"), _LISTED),
    **dict.fromkeys(("case144_day15", "case61_day14", "case9_day27", "case34_day20"), _LISTED),
    **dict.fromkeys(("case83_day11", "case13_day0"), _LISTED),
}

# Scan id, number.
SLICE_ID = re.compile(r"(case\d{1,9}_day\d{1,9})_slice_(\d{4,9})", re.ASCII)
# Patient id, day, number, width, height, spacing x, spacing y.
_IMAGE_PATH = re.compile(
    r"(?:.*/)?(case\d{1,9})/\1_day(\d{1,9})/scans/"
    r"slice_(\d{4,9})_(\d{1,6})_(\d{1,6})_(\d{1,6}\.\d{1,6})_(\d{1,6}\.\d{1,6})\.png",
    re.ASCII,
)
_SCAN_ID = re.compile(r"(case\d{1,9})_day(\d{1,9})", re.ASCII)


def patient_of(scan_id: str) -> str:
    """Return the patient a scan belongs to: ``case123_day20`` gives ``case123``."""
    return scan_id.partition("_day")[0]


def day_of(scan_id: str) -> int:
    """Return the day of a scan: ``case123_day20`` gives 20; -1 for an id of another form."""
    found = _SCAN_ID.fullmatch(scan_id)
    return int(found[2]) if found else -1


def scan_order(scan_id: str) -> tuple[int, int, str]:
    """Return a sort key that puts scans in numeric order of patient and day."""
    found = _SCAN_ID.fullmatch(scan_id)
    return (int(found[1][4:]), int(found[2]), "") if found else (2**62, 0, scan_id)


def slice_id(scan_id: str, number: int) -> str:
    """Return the competition's slice id: ``("case123_day20", 65)`` gives ``..._slice_0065``."""
    return f"{scan_id}_slice_{number:04d}"


def image_name(number: int, *, width: int, height: int, spacing_mm: tuple[float, float]) -> str:
    """Return the competition's file name of one slice; in it width and x come first.

    Sizes are in pixels, ``spacing_mm`` is the pixel spacing ``(y, x)``.
    """
    spacing_y, spacing_x = spacing_mm
    return f"slice_{number:04d}_{width}_{height}_{spacing_x:.2f}_{spacing_y:.2f}.png"


@dataclass(frozen=True, kw_only=True)
class SliceImage:
    """The content of an image's path: sizes in pixels, spacing ``(y, x)`` in mm."""

    path: str
    scan_id: str
    number: int
    height: int
    width: int
    spacing_mm: tuple[float, float]


def parse_image_path(path: str) -> SliceImage | None:
    """Return the content of an image's path; ``None`` for a path of another form.

    The inverse of :func:`image_name` below ``case123/case123_day20/scans/``.
    """
    match = _IMAGE_PATH.fullmatch(path)
    if match is None:
        return None
    patient, day, number, width, height, spacing_x, spacing_y = match.groups()
    return SliceImage(
        path=path,
        scan_id=f"{patient}_day{day}",
        number=int(number),
        height=int(height),
        width=int(width),
        spacing_mm=(float(spacing_y), float(spacing_x)),
    )
