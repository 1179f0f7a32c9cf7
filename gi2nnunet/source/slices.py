"""Scan of the competition: its PNGs and RLE texts, and how they become arrays in slice order.

Both arrays lie in memory last slice first, as in a volume file (:mod:`gi2nnunet.formats.volumes`),
and are given as a reversed view, so that writing them needs no copy.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, most_png_bytes
from gi2nnunet.formats.ids import ORGANS, slice_id
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap
from gi2nnunet.formats.rle import decode_rows, run_pixels
from gi2nnunet.source.archive import Archive
from gi2nnunet.source.scan import LoadedScan, Rows, Scan

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
class SliceScan(Scan):
    """A scan of the competition: one PNG a slice in a folder or zip, and its rows of train.csv.

    Attributes
    ----------
    archive
        The folder or zip.
    names
        Path of each slice's PNG inside it.
    texts
        For each slice the RLE texts in the order of :data:`~gi2nnunet.formats.ids.ORGANS`;
        ``None`` without truth.
    """

    kind = "slices"
    archive: Archive = field(repr=False, compare=False)
    names: tuple[str, ...]
    texts: Rows | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the zip, or every PNG."""
        place = self.archive.place
        return (place,) if self.archive.is_zip else tuple(place / name for name in self.names)

    @property
    def labelled(self) -> bool:
        """Return whether train.csv has its rows."""
        return self.texts is not None

    @property
    def rows(self) -> Rows | None:
        """Return its rows as train.csv spells them."""
        return self.texts

    @property
    def stratum(self) -> str:
        """Return the size of its images and which organs it shows."""
        shown = [str(o) for o in range(len(ORGANS)) if any(row[o] for row in self.texts or ())]
        return f"{self.shape[1]} x {self.shape[2]}, organs {''.join(shown)}"

    def load(self) -> LoadedScan:
        """Decode every PNG and, where there is truth, every RLE text, checking each."""
        label_map, refused = self.load_labels() if self.labelled else (None, ())
        problems: list[Problem] = []
        eight_bit = 0
        # Laid out in memory as in the file, last slice first, so that writing needs no copy.
        image = np.zeros(self.shape, np.uint16)[::-1]
        for target, name in zip(image, self.names, strict=True):
            bits, problem = self._decode_slice(name, target)
            eight_bit += bits == 8
            problems += [problem] if problem else []
        return LoadedScan(
            image=image,
            label_map=label_map,
            spacing_mm=self.spacing_mm,
            first_number=self.first_number,
            problems=(*problems, *refused),
            eight_bit=eight_bit,
        )

    def _decode_slice(self, name: str, target: NDArray[np.uint16]) -> tuple[int, Problem | None]:
        """Decode a PNG into ``target``; return its bits a pixel and what is wrong with it."""
        where = f"{self.archive.path}, {name}"
        height, width = self.size
        most = most_png_bytes(width=width, height=height)
        try:
            data = self.archive.read_bytes(name, limit=most + 1)
        except InputError as error:
            found = str(error).rstrip(".")
            return 0, Problem(where=where, found=found, expected="a readable file")
        bits, found = _read_png_header(data, width=width, height=height, most=most)
        if not found:
            try:
                if bits == 8:
                    target[...] = imagecodecs.png_decode(data)
                else:
                    imagecodecs.png_decode(data, out=target)
                return bits, None
            except (imagecodecs.PngError, ValueError, RuntimeError) as error:
                found = f"a truncated or damaged PNG ({error})"
        expected = f"a greyscale PNG of {width} x {height} pixels, 16 bits each"
        return bits, Problem(where=where, found=found, expected=expected)

    def load_labels(self) -> tuple[LabelMap, tuple[Problem, ...]]:
        """Paint the RLE texts into one bit-coded label map, checking each."""
        if self.texts is None:
            raise ValueError(f"{self.scan_id} has no truth")
        organs, pixels = len(ORGANS), self.shape[1] * self.shape[2]
        texts = [text for of_slice in self.texts for text in of_slice]
        runs, refused = decode_rows(texts, pixels=pixels)
        problems = tuple(
            Problem(
                where=f"train.csv, {slice_id(self.scan_id, self.numbers[bad.row // organs])}, "
                f"{ORGANS[bad.row % organs]}",
                found=f"RLE {bad.found}",
                expected=bad.expected,
            )
            for bad in refused
        )
        label_map = np.zeros(self.shape, np.uint8)
        flat = label_map.reshape(-1)
        row_of_run = np.repeat(np.arange(len(texts)), np.diff(runs.offsets))
        # The first slice lies last in memory, as in the file.
        starts = runs.starts + (self.shape[0] - 1 - row_of_run // organs) * pixels
        for organ, bit in enumerate(ORGAN_BITS):
            chosen = row_of_run % organs == organ
            flat[run_pixels(starts[chosen], runs.lengths[chosen])] |= np.uint8(bit)
        return label_map[::-1], problems

    def without_truth(self) -> Self:
        """Return the scan without its rows."""
        return replace(self, texts=None)

    def _place_to_json(self) -> dict[str, Any]:
        return {"archive": str(self.archive.place), "names": list(self.names)}

    @classmethod
    def _place_from_json(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        return {"archive": Archive(Path(content["archive"])), "names": tuple(content["names"])}


def _read_png_header(data: bytes, *, width: int, height: int, most: int) -> tuple[int, str]:
    """Return the bits a pixel and what is wrong with the start of a file; nothing gives ""."""
    if len(data) > most:
        return 0, f"more than {most} bytes, which is more than so many pixels can need"
    if not data:
        return 0, "an empty file"
    if not data.startswith(_PNG_START) or len(data) < 33:
        other = (kind for start, kind in _OTHER_STARTS.items() if data.startswith(start))
        return 0, next(other, "no PNG, or only its first bytes")
    found_width, found_height, bits, colour = struct.unpack(">IIBB", data[16:26])
    if (found_width, found_height) != (width, height) or colour != _GREYSCALE or bits < 8:
        kind = _COLOUR_TYPES.get(colour, f"colour type {colour}")
        return 0, f"{found_width} x {found_height} pixels, {kind}, {bits} bits"
    return bits, ""
