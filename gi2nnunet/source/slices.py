"""A scan's PNGs and RLE texts -> arrays in slice order.

Both arrays lie in memory last slice first, as in a volume file (:mod:`gi2nnunet.formats.volumes`),
and are given as a reversed view, so that writing them needs no copy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, most_png_bytes, raise_problems
from gi2nnunet.formats.ids import ORGANS, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.rle import decode_rows, run_pixels
from gi2nnunet.source.archive import Source
from gi2nnunet.source.competition import Scan

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_OTHER_STARTS = {
    b"\xff\xd8\xff": "a JPEG file",
    b"GIF8": "a GIF file",
    b"II*\0": "a TIFF file",
    b"MM\0*": "a TIFF file",
    b"<": "a web page or other text",
    b"PK\x03\x04": "a zip",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself",
}
_GREYSCALE = 0
_COLOUR_TYPES = {0: "greyscale", 2: "RGB", 3: "palette", 4: "greyscale with alpha", 6: "RGBA"}


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of one scan's image: the array, or why there is none.

    Attributes
    ----------
    image
        ``(z, y, x)`` uint16 in slice order; its values mean nothing where there are problems.
    problems
        What is wrong with the scan's PNGs.
    eight_bit
        How many slices are 8-bit, which the competition's are not.
    """

    image: NDArray[np.uint16]
    problems: tuple[Problem, ...]
    eight_bit: int


def decode_image(source: Source, scan: Scan) -> Decoded:
    """Decode every PNG of a scan, checking each; see :func:`read_image`."""
    problems: list[Problem] = []
    eight_bit = 0
    most = most_png_bytes(width=scan.width, height=scan.height)
    # Laid out in memory as in the file, last slice first, so that writing needs no copy.
    image = np.zeros(scan.shape, np.uint16)[::-1]
    for target, name in zip(image, scan.paths, strict=True):
        where = f"{source.path}, {name}"
        try:
            data = source.read_bytes(name, limit=most + 1)
        except InputError as error:
            problems.append(
                Problem(where=where, found=str(error).rstrip("."), expected="a readable file")
            )
            continue
        expected = f"a greyscale PNG of {scan.width} x {scan.height} pixels, 16 bits each"
        if len(data) > most:
            found = f"more than {most} bytes, which is more than so many pixels can need"
            problems.append(Problem(where=where, found=found, expected=expected))
            continue
        if not data.startswith(_PNG_START) or len(data) < 33:
            other = next((kind for start, kind in _OTHER_STARTS.items() if data.startswith(start)),
                         "no PNG, or only its first bytes")  # fmt: skip
            found = other if data else "an empty file"
            problems.append(Problem(where=where, found=found, expected=expected))
            continue
        width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
        if (width, height) != (scan.width, scan.height) or colour != _GREYSCALE or bits < 8:
            kind = _COLOUR_TYPES.get(colour, f"colour type {colour}")
            found = f"{width} x {height} pixels, {kind}, {bits} bits"
            problems.append(Problem(where=where, found=found, expected=expected))
            continue
        eight_bit += bits == 8
        try:
            if bits == 8:
                target[...] = imagecodecs.png_decode(data)
            else:
                imagecodecs.png_decode(data, out=target)
        except (imagecodecs.PngError, ValueError, RuntimeError) as error:
            found = f"a truncated or damaged PNG ({error})"
            problems.append(Problem(where=where, found=found, expected=expected))
    return Decoded(image=image, problems=tuple(problems), eight_bit=eight_bit)


def read_image(
    source: Source, scan: Scan, *, warnings: list[str] | None = None
) -> NDArray[np.uint16]:
    """Read a scan's slices into one volume, values untouched.

    Parameters
    ----------
    source
        What holds the scan's files.
    scan
        Which slices, in which order.
    warnings
        Takes one sentence where slices are 8-bit.

    Returns
    -------
    numpy.ndarray
        ``(z, y, x)`` uint16 in slice order.

    Raises
    ------
    InputError
        For files that are missing, no PNG, truncated, damaged, of another size than their name
        says, coloured, or of fewer than 8 bits; all of them are told together.
    """
    decoded = decode_image(source, scan)
    raise_problems(decoded.problems, remedy="Download these files again.")
    if decoded.eight_bit and warnings is not None:
        warnings.append(
            f"{scan.scan_id}: {decoded.eight_bit} of {len(scan.numbers)} slices are 8-bit, "
            "not the competition's 16-bit files; values are taken as they are"
        )
    return decoded.image


def decode_label_map(scan: Scan) -> tuple[LabelMap, tuple[Problem, ...]]:
    """Decode a scan's RLE texts, checking each; see :func:`read_label_map`."""
    if scan.texts is None:
        raise ValueError(f"{scan.scan_id} has no truth")
    organs, pixels = len(ORGANS), scan.height * scan.width
    texts = [text for of_slice in scan.texts for text in of_slice]
    runs, refused = decode_rows(texts, pixels=pixels)
    problems = tuple(
        Problem(
            where=f"train.csv, {slice_id(scan.scan_id, scan.numbers[bad.row // organs])}, "
            f"{ORGANS[bad.row % organs]}",
            found=f"RLE {bad.found}",
            expected=bad.expected,
        )
        for bad in refused
    )
    label_map = np.zeros(scan.shape, np.uint8)
    flat = label_map.reshape(-1)
    row_of_run = np.repeat(np.arange(len(texts)), np.diff(runs.offsets))
    # The first slice lies last in memory, as in the file.
    starts = runs.starts + (len(scan.numbers) - 1 - row_of_run // organs) * pixels
    for organ, bit in enumerate(ORGAN_BITS):
        chosen = row_of_run % organs == organ
        flat[run_pixels(starts[chosen], runs.lengths[chosen])] |= np.uint8(bit)
    return label_map[::-1], problems


def read_label_map(scan: Scan) -> LabelMap:
    """Paint a scan's RLE texts into one bit-coded label map.

    Returns
    -------
    numpy.ndarray
        ``(z, y, x)`` uint8 in slice order, one bit an organ (:mod:`gi2nnunet.formats.labels`).

    Raises
    ------
    InputError
        For rows whose RLE text is refused; all of them are told together.
    ValueError
        Where the scan has no truth.
    """
    label_map, problems = decode_label_map(scan)
    raise_problems(problems, remedy="Correct these rows, or download train.csv again.")
    return label_map
