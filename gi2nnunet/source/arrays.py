"""Scans by their ids: image and masks as arrays, read when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ScanArrays:
    """A scan: its image and masks are read when they are first used.

    ``numbers`` are its slice numbers; ``shape`` and ``spacing_mm`` are ``(z, y, x)``.
    """

    scan_id: str
    numbers: tuple[int, ...] = field(repr=False)
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    read_image: Callable[[str], NDArray[Any]] = field(repr=False)
    read_masks: Callable[[str], dict[str, NDArray[np.bool_]]] = field(repr=False)

    @cached_property
    def image(self) -> NDArray[Any]:
        """The image ``(z, y, x)``, cranial slice first, values as in the source."""
        return self.read_image(self.scan_id)

    @cached_property
    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """The masks ``(z, y, x)`` by organ; they may overlap."""
        return self.read_masks(self.scan_id)


class ScansById:
    """What is read like a mapping of scans by their ids: ``scans["case1_day0"].image``."""

    @property
    def scan_ids(self) -> tuple[str, ...]:
        """Return the ids in order."""
        raise NotImplementedError

    def __getitem__(self, scan_id: str) -> ScanArrays:
        raise NotImplementedError

    def __contains__(self, scan_id: object) -> bool:
        return scan_id in self.scan_ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.scan_ids)

    def __len__(self) -> int:
        return len(self.scan_ids)


def name_near(scan_id: str, known: Iterable[str]) -> str:
    """Return what to say of an unknown scan: which ones have similar names."""
    known = list(known)
    near = get_close_matches(str(scan_id), known, n=3, cutoff=0.5) or known[:3]
    return f"{scan_id!r}: no such scan among these {len(known)}; near are {', '.join(near)}"
