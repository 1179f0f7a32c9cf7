"""Pictures of a scan with its masks' contours, as data inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor
from scipy.ndimage import binary_dilation, binary_erosion, center_of_mass

from gi2nnunet.core.errors import raise_problems
from gi2nnunet.core.workers import Progress
from gi2nnunet.formats.ids import CONTOUR_COLOURS, ORGANS
from gi2nnunet.formats.labels import ALL_BITS, ORGAN_BITS, LabelMap, find_box
from gi2nnunet.pages.template import name_of
from gi2nnunet.source.check.fit import Placement, place_masks
from gi2nnunet.source.scan import LoadedScan

_BITS = dict(zip(ORGANS, ORGAN_BITS, strict=True))
_MARK_COLOUR = (255, 214, 0)
_MARK = 12  # pixels
_MARKED = 128  # code of a marked row; no organ has this bit
_JOINTS = 8  # slices above and below those that are marked
_WINDOW_PERCENTILES = (1.0, 99.5)
_LONGEST_SIDE = 320
_QUALITY = 60
_MARGIN_MM = 30.0
_LEAST_SIDE_MM = 130.0


@dataclass(frozen=True, kw_only=True)
class View:
    """One picture to take.

    Attributes
    ----------
    plane
        ``"axial"``: one slice. ``"coronal"``: one row of every slice, with the outlines of the
        organs as seen from the front. ``"joints"``: the middle of some slices, one above the
        other as in a coronal view, without masks.
    slices
        The slice of an axial view; those to be marked in a view of joints.
    organ
        Has a thick contour; ``None`` for all alike.
    around
        An axial view is cropped around the organ's masks in these slices; empty for the whole.
    placement
        Moves the masks first.
    predicted
        Draw the masks that models predict instead of the truth.
    """

    scan_id: str
    plane: Literal["axial", "coronal", "joints"]
    slices: tuple[int, ...] = ()
    organ: str | None = None
    around: tuple[int, ...] = ()
    placement: Placement | None = None
    predicted: bool = False


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was taken: a data URI, its size in pixels, and what is on it in words."""

    uri: str
    width: int
    height: int
    alt: str


def take_pictures(
    views: Iterable[View],
    *,
    load: Callable[[str], LoadedScan],
    predict: Callable[[str], LabelMap] | None = None,
    jobs: int,
    progress: Progress,
) -> dict[View, Picture]:
    """Take pictures, each scan loaded once and ``jobs`` scans at the same time.

    Raises :class:`InputError` if a scan can no longer be read.
    """
    of_scan: dict[str, list[View]] = {}
    for view in dict.fromkeys(views):
        of_scan.setdefault(view.scan_id, []).append(view)

    def take(scan_id: str) -> dict[View, Picture]:
        scan = load(scan_id)
        raise_problems(scan.problems, remedy="The source changed while it was read: run again.")
        window = find_window(scan.image)
        shown = {False: scan}
        if predict is not None and any(view.predicted for view in of_scan[scan_id]):
            shown[True] = replace(scan, label_map=predict(scan_id))
        return {
            view: take_picture(view, scan=shown[view.predicted], window=window)
            for view in of_scan[scan_id]
        }

    taken: dict[View, Picture] = {}
    with ThreadPoolExecutor(jobs, thread_name_prefix="pictures") as pool:
        for done, found in enumerate(pool.map(take, of_scan), 1):
            taken |= found
            progress(done, len(of_scan), "taking pictures")
    return taken


def find_window(image: NDArray[Any]) -> tuple[float, float]:
    """Return the intensities to show as black and as white, the same for every slice of a scan."""
    low, high = np.percentile(image[:, ::2, ::2], _WINDOW_PERCENTILES)
    return float(low), float(high)


def scale_grey(values: NDArray[Any], window: tuple[float, float]) -> NDArray[np.uint8]:
    """Return intensities as grey values, the window's lower bound as 0 and its upper as 255."""
    low, high = window
    grey = values.astype(np.float32)
    grey -= low
    grey *= 255 / max(high - low, 1e-6)
    return np.clip(grey, 0, 255, out=grey).astype(np.uint8)


def encode_image(image: Image.Image, format_name: str, **options: Any) -> str:
    """Return a picture as a data URI, with the options of Pillow's writer of that format."""
    content = io.BytesIO()
    image.save(content, format_name, **options)
    text = base64.b64encode(content.getbuffer()).decode("ascii")
    return f"data:image/{format_name};base64,{text}"


def take_picture(view: View, *, scan: LoadedScan, window: tuple[float, float]) -> Picture:
    """Take one picture; its slices must be inside the scan, ``window`` is from `find_window`."""
    image, spacing_mm = scan.image, scan.spacing_mm
    labels = np.zeros(image.shape, np.uint8) if scan.label_map is None else scan.label_map
    if view.placement is not None:
        labels = place_masks(labels, view.placement)
    if view.plane == "axial":
        rows, columns = _find_box(labels, view, spacing_mm=spacing_mm)
        z, pixel_mm = view.slices[0], spacing_mm[1:]
        grey, codes = image[z, rows, columns], labels[z, rows, columns]
    elif view.plane == "coronal":
        grey, pixel_mm = image[:, _find_row(labels, view.organ)], spacing_mm[::2]
        codes = np.bitwise_or.reduce(labels, axis=1)
    else:
        first, past = max(min(view.slices) - _JOINTS, 0), max(view.slices) + _JOINTS + 1
        _, columns = _find_box(labels, view, spacing_mm=spacing_mm)
        grey, pixel_mm = image[first:past, image.shape[1] // 2, columns], spacing_mm[::2]
        codes = np.zeros(grey.shape, np.uint8)
        codes[[z - first for z in view.slices]] = _MARKED
    extent = [side * mm for side, mm in zip(grey.shape, pixel_mm, strict=True)]
    height, width = (max(1, round(_LONGEST_SIDE * side / max(extent))) for side in extent)
    # Slices one above the other are shown as they are: between them lies what is to be judged.
    n_rows = len(grey) if view.plane == "joints" else height
    picture = Image.fromarray(scale_grey(grey, window))
    picture = picture.resize((width, n_rows), Image.Resampling.BILINEAR)
    picture = picture.resize((width, height), Image.Resampling.NEAREST)
    codes = np.asarray(Image.fromarray(codes).resize((width, height), Image.Resampling.NEAREST))
    pixels = np.array(picture.convert("RGB"))
    for organ in sorted(ORGANS, key=lambda organ: organ == view.organ):
        _draw_contour(pixels, (codes & _BITS[organ]) != 0, organ=organ, thick=organ == view.organ)
    marked = (codes == _MARKED).any(axis=1)
    pixels[marked, :_MARK] = pixels[marked, -_MARK:] = _MARK_COLOUR
    return Picture(
        uri=encode_image(Image.fromarray(pixels), "webp", quality=_QUALITY),
        width=width,
        height=height,
        alt=_describe(view, codes, first_number=scan.first_number),
    )


def _find_box(
    labels: LabelMap, view: View, *, spacing_mm: tuple[float, float, float]
) -> tuple[slice, slice]:
    """Return the rows and columns of a square around the organ, or all."""
    height, width = labels.shape[1:]
    if view.plane == "joints":
        length = min(width, round(_LEAST_SIDE_MM / spacing_mm[2]))
        return slice(0, height), slice((width - length) // 2, (width + length) // 2)
    bits = _BITS[view.organ] if view.organ else 0
    _, *spans = find_box(labels[list(view.around)] & np.uint8(bits))
    if spans[0].stop == 0:
        return slice(0, height), slice(0, width)
    sides = [(span.stop - span.start) * mm for span, mm in zip(spans, spacing_mm[1:], strict=True)]
    side_mm = max(_LEAST_SIDE_MM, max(sides) + 2 * _MARGIN_MM)
    box = []
    for span, mm, most in zip(spans, spacing_mm[1:], (height, width), strict=True):
        length = min(most, round(side_mm / mm))
        start = min(max((span.start + span.stop - length) // 2, 0), most - length)
        box.append(slice(start, start + length))
    return box[0], box[1]


def _find_row(labels: LabelMap, organ: str | None) -> int:
    """Return the row through the middle of the organ, of all organs, or of the image."""
    seen = (labels & (_BITS[organ] if organ else ALL_BITS)).any(axis=2)
    return round(float(center_of_mass(seen)[1])) if seen.any() else labels.shape[1] // 2


def _draw_contour(
    pixels: NDArray[np.uint8], mask: NDArray[np.bool_], *, organ: str, thick: bool
) -> None:
    if not mask.any():
        return
    inner = binary_erosion(mask, iterations=3 if thick else 2, border_value=1)
    rim = binary_dilation(mask) & ~mask
    pixels[rim] //= 3
    pixels[mask & ~inner] = ImageColor.getrgb(CONTOUR_COLOURS[organ])


def _describe(view: View, codes: NDArray[np.uint8], *, first_number: int) -> str:
    there = [name_of(organ) for organ, bit in _BITS.items() if (codes & bit).any()]
    masks = f"with contours of {join_words(there)}" if there else "without any mask"
    if view.placement is not None:
        masks += ", drawn elsewhere"
    if view.predicted:
        masks += ", as predicted"
    if view.plane == "coronal":
        return f"{view.scan_id}, seen from the front, {masks}"
    numbers = join_words([str(first_number + z) for z in view.slices])
    if view.plane == "axial":
        return f"{view.scan_id}, slice {numbers}, {masks}"
    return f"{view.scan_id}, slices around {numbers} one above the other"


def join_words(words: Sequence[str]) -> str:
    """Return words as a sentence lists them."""
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
