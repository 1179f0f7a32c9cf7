"""Probabilities of one scan in eight bits, compressed, for tuning.

A file is a gzip file, so its checksum shows damage: one line of JSON (the scan, the shape, how it
was made), then the array. 255 steps are finer than any threshold that tuning chooses, and a scan of
10 million voxels takes one or two megabytes instead of 120.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import NDArray
from pydantic import PositiveFloat

from gi2nnunet.core.errors import InputError, count
from gi2nnunet.core.files import Count, parse_record, replace_file
from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap
from gi2nnunet.formats.volumes import GZIP_WINDOW, compress


@dataclass(frozen=True, kw_only=True)
class TuningScan:
    """A scan with its truth and out-of-fold probabilities.

    Attributes
    ----------
    fold
        The fold with models that were not trained on it.
    load
        Returns the probabilities by configuration, the truth (bit-coded) and the voxel spacing in
        mm.
    """

    scan_id: str
    fold: int
    load: Callable[[], tuple[Mapping[str, EightBits], LabelMap, tuple[float, float, float]]]


SUFFIX = ".gi2prob"

_FORMAT = 2
_MOST_HEADER_BYTES = 1 << 17
_MOST_VOXELS = 1 << 31
_ISAL_ERROR = cast("type[Exception]", isal_zlib.error)  # its stub takes it for an instance
_DAMAGES = (BadGzipFile, EOFError, _ISAL_ERROR, ValueError, TypeError, KeyError)

EightBits = NDArray[np.uint8]
"""Probabilities ``(organ, z, y, x)`` in slice order, 0 for 0 and 255 for 1."""


@dataclass(frozen=True, kw_only=True)
class StoredProbabilities:
    """The content of a file.

    Attributes
    ----------
    numbers
        Slice number of each plane.
    array
        Organs in the order of :data:`~gi2nnunet.formats.ids.ORGANS`.
    about
        How they were made, as given when they were written.
    """

    scan_id: str
    numbers: tuple[int, ...]
    spacing_mm: tuple[float, float, float]
    array: EightBits
    about: Mapping[str, Any]


def to_eight_bits(probabilities: NDArray[np.floating]) -> EightBits:
    """Return probabilities from 0 to 1 in 255 steps, rounded to the nearest."""
    scaled: NDArray[np.float32] = np.multiply(probabilities, 255, dtype=np.float32)
    scaled += 0.5
    np.clip(scaled, 0, 255, out=scaled)
    rounded: EightBits = scaled.astype(np.uint8)
    return rounded


def write_probabilities(
    path: Path,
    array: EightBits,
    *,
    scan_id: str,
    numbers: Sequence[int],
    spacing_mm: Sequence[float],
    about: Mapping[str, Any],
) -> None:
    """Write one scan's probabilities; the same input gives the same bytes.

    The parameters are those of :class:`StoredProbabilities`; ``about`` must be JSON.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    if array.dtype != np.uint8 or array.shape[:2] != (len(ORGANS), len(numbers)):
        raise ValueError(f"{array.dtype} array {array.shape} for {count(len(numbers), 'slice')}")
    header = {
        "format": _FORMAT,
        "scan_id": scan_id,
        "organs": list(ORGANS),
        "shape": list(array.shape),
        "numbers": list(numbers),
        "spacing_mm": [float(value) for value in spacing_mm],
        "about": dict(about),
    }
    line = json.dumps(header, sort_keys=True).encode() + b"\n"
    replace_file(path, compress(line, np.ascontiguousarray(array).data))


@dataclass(frozen=True, kw_only=True)
class _Header:
    format: Literal[2]
    scan_id: str
    organs: tuple[str, ...]
    shape: tuple[Count, Count, Count, Count]
    numbers: tuple[int, ...]
    spacing_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    about: dict[str, Any]


_AGAIN = "Delete it and run gi2nnunet out-of-fold again."


def read_about(path: Path) -> dict[str, Any]:
    """Return how a file's probabilities were made; empty if it, or its header, is not readable."""
    try:
        with path.open("rb") as file:  # only the header is read
            unpacker = isal_zlib.decompressobj(GZIP_WINDOW)
            start = unpacker.decompress(file.read(_MOST_HEADER_BYTES), _MOST_HEADER_BYTES)
        line = start.partition(b"\n")[0]
        return parse_record(line, _Header, where=str(path), remedy=_AGAIN).about
    except (InputError, OSError, *_DAMAGES):
        return {}


def read_probabilities(path: Path) -> StoredProbabilities:
    """Read one scan's probabilities.

    Raises
    ------
    InputError
        If the file is missing, cut off, altered, or of another kind.
    """
    try:
        with igzip.open(path) as file:
            line = file.readline(_MOST_HEADER_BYTES)
            header = parse_record(line, _Header, where=f"{path}, header", remedy=_AGAIN)
            organs, planes, _, _ = shape = header.shape
            size = math.prod(shape)
            if (
                header.organs != ORGANS
                or (organs, planes) != (len(ORGANS), len(header.numbers))
                or not 0 < size <= _MOST_VOXELS
            ):
                raise ValueError("its parts do not fit")
            content = file.read(size + 1)  # reads to the end, so the checksum is compared
        if len(content) != size:
            raise ValueError(f"{len(content)} voxels instead of {size}")
        return StoredProbabilities(
            scan_id=header.scan_id,
            numbers=header.numbers,
            spacing_mm=header.spacing_mm,
            array=np.frombuffer(content, np.uint8).reshape(shape),
            about=header.about,
        )
    except _DAMAGES as error:
        raise InputError(
            f"{path}: found a damaged file ({error}); expected probabilities as "
            "gi2nnunet out-of-fold writes them. Delete it and run that again."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}). "
            "Make it again with: gi2nnunet out-of-fold"
        ) from error
