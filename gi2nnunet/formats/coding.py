"""Coding of label volumes: which values mean which organ, as options and dataset.json say it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError
from gi2nnunet.formats.ids import LABEL_SCHEMES, ORGANS, LabelScheme
from gi2nnunet.formats.labels import ORGAN_BITS, LabelMap, nnunet_labels
from gi2nnunet.formats.structures import find_organ


@dataclass(frozen=True, kw_only=True)
class LabelCoding:
    """Which values of a label volume mean which organ.

    Attributes
    ----------
    values
        By organ, from 1 to 255; a value that several organs have is where they overlap.
    others
        Values of other structures, which count as background.
    ignored
        Value of nnU-Net's ``ignore``: voxels that are not labelled. It has no meaning here.
    """

    values: Mapping[str, tuple[int, ...]]
    others: tuple[int, ...] = ()
    ignored: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the coding for the screen and for records."""
        for scheme, coding in CODINGS.items():
            if coding == self:
                return scheme
        parts = [f"{organ}={'+'.join(map(str, v))}" for organ, v in sorted(self.values.items())]
        return ", ".join(
            parts + ([f"others={'+'.join(map(str, self.others))}"] * bool(self.others))
        )

    def describe_ignored(self) -> str:
        """Return what to do about voxels of the value that is ignored."""
        every = [value for values in self.values.values() for value in values]
        if len(set(every)) < len(every):  # --label-map has no overlaps
            return "set them to 0 in the file if they are background"
        organs = [f"{organ}={'+'.join(map(str, v))}" for organ, v in self.values.items()]
        others = "+".join(map(str, [*self.others, self.ignored]))
        label_map = ",".join([*organs, f"others={others}"])
        return f"if they are background, convert or encode with --label-map {label_map}"

    def decode(self, labels: NDArray[np.uint8]) -> tuple[LabelMap, list[int]]:
        """Return the bit-coded label map, and the values that have no meaning."""
        table, known = np.zeros(256, np.uint8), np.zeros(256, np.bool_)
        known[[0, *self.others]] = True
        for organ, bit in zip(ORGANS, ORGAN_BITS, strict=True):
            of_organ = list(self.values.get(organ, ()))
            table[of_organ] |= np.uint8(bit)
            known[of_organ] = True
        found = np.bincount(labels.reshape(-1), minlength=256) > 0
        return table[labels], np.flatnonzero(found & ~known).tolist()


def parse_label_map(text: str) -> LabelCoding:
    """Return the coding of ``stomach=1,small_bowel=2+4,large_bowel=3,others=5``.

    Raises
    ------
    InputError
        If the text does not have this form.
    """
    values: dict[str, tuple[int, ...]] = {}
    for part in text.split(","):
        name, _, numbers = part.partition("=")
        name, words = name.strip(), [word.strip() for word in numbers.split("+")]
        fits = all(word.isascii() and word.isdecimal() and len(word) < 4 for word in words)
        given = tuple(int(word) for word in words) if fits else ()
        if name not in (*ORGANS, "others") or name in values or not given:
            values = {}
            break
        values[name] = given
    every = [value for of_name in values.values() for value in of_name]
    others = values.pop("others", ())
    if not values or not all(1 <= value <= 255 for value in every) or len(set(every)) < len(every):
        raise InputError(
            f"--label-map {text!r}: expected the label of each organ, each from 1 to 255 and once, "
            "such as stomach=1,small_bowel=2+4,large_bowel=3; labels of other structures as "
            "others=5+6. Give it again."
        )
    return LabelCoding(values=values, others=others)


def parse_mask_names(text: str) -> Mapping[str, tuple[str, ...]] | None:
    """Return the names of masks in ``stomach=stomach,small_bowel=small_bowel+duodenum``.

    ``None`` if the text has another form, such as numbers of labels.
    """
    names: dict[str, tuple[str, ...]] = {}
    for part in text.split(","):
        organ, _, given = part.partition("=")
        words = tuple(word.strip().lower() for word in given.split("+"))
        if organ.strip() not in ORGANS or not all(re.fullmatch(r"[a-z_][\w.-]*", w) for w in words):
            return None
        names[organ.strip()] = words
    return names


def read_declared_labels(declared: Mapping[str, int | list[int]], *, where: str) -> LabelCoding:
    """Return the coding that the labels of nnU-Net's dataset.json name.

    Names are taken in the usual spellings (colon for large bowel); other structures count as
    background, except what nnU-Net calls ``ignore``.

    Raises
    ------
    InputError
        If no organ is named, or one is twice.
    """
    values: dict[str, tuple[int, ...]] = {}
    others: list[int] = []
    ignored: int | None = None
    names: dict[str, list[str]] = {}
    for name, given in declared.items():
        numbers = tuple(v for v in (given if isinstance(given, list) else [given]) if v)
        organ = find_organ(name)
        if name == "ignore" and numbers:
            ignored = numbers[0]
        elif organ is None:
            others += numbers
        else:
            values[organ] = numbers
            names.setdefault(organ, []).append(name)
    twice = [", ".join(found) for found in names.values() if len(found) > 1]
    every = [v for of_organ in (*values.values(), others) for v in of_organ]
    if not values or twice or not all(1 <= value <= 255 for value in every):
        raise InputError(
            f"{where}: found the labels {dict(declared)}; expected one from 1 to 255 named for "
            f"each of {', '.join(ORGANS)}. Say which is which, such as --label-map "
            "stomach=1,small_bowel=2,large_bowel=3."
        )
    inside = {value for of_organ in values.values() for value in of_organ}
    others = [value for value in others if value not in inside]
    return LabelCoding(values=values, others=tuple(others), ignored=ignored)


CODINGS: Mapping[LabelScheme, LabelCoding] = {
    scheme: read_declared_labels(nnunet_labels(scheme)[0], where=scheme) for scheme in LABEL_SCHEMES
}
"""The two ways in which this package codes labels itself."""
