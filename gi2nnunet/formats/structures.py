"""Organ structures in DICOM: standard names, the names that clinics use, SNOMED codes.

References
----------
Mayo et al., American Association of Physicists in Medicine Task Group 263: Standardizing
Nomenclatures in Radiation Oncology, Int J Radiat Oncol Biol Phys 100(4), 1057-1066, 2018.
https://dicom.nema.org/medical/dicom/current/output/chtml/part16/chapter_L.html (SNOMED codes)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import InputError, Problem, count, raise_problems
from gi2nnunet.formats.ids import ORGANS

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from gi2nnunet.formats.dicom_series import Series

STANDARD_NAMES: Mapping[str, str] = MappingProxyType(
    {"large_bowel": "Bowel_Large", "small_bowel": "Bowel_Small", "stomach": "Stomach"}
)
"""Names by TG-263."""

SNOMED_CODES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "large_bowel": ("14742008", "Large intestine"),
        "small_bowel": ("30315005", "Small intestine"),
        "stomach": ("69695003", "Stomach"),
    }
)
"""Code value and meaning in SNOMED CT (coding scheme SCT)."""

# Lower case, letters and digits only.
_SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "large_bowel": (
        "bowellarge", "largebowel", "bowellg", "lgbowel", "lbowel", "colon", "largeintestine",
        "intestinelarge",
    ),
    "small_bowel": (
        "bowelsmall", "smallbowel", "bowelsm", "smbowel", "sbowel", "smallintestine",
        "intestinesmall",
    ),
    "stomach": ("stomach", "gaster"),
}  # fmt: skip

_CODES: Mapping[str, tuple[str, ...]] = {
    "large_bowel": (SNOMED_CODES["large_bowel"][0], "71854001"),  # colon
    "small_bowel": (SNOMED_CODES["small_bowel"][0],),
    "stomach": (SNOMED_CODES["stomach"][0],),
}

_MOST_NAME_CHARACTERS = 64  # DICOM's value representation LO


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Model that made the masks.

    Attributes
    ----------
    model
        Its name, such as "2d + 3d_fullres"; empty if the masks' origin is not known.
    model_digest
        Digest of its files, or empty.
    """

    model: str = ""
    model_digest: str = ""


@dataclass(frozen=True, kw_only=True)
class StructureOptions:
    """Which files of structures to write; names of organs in place of TG-263's; the model."""

    rtstruct: bool = True
    seg: bool = True
    names: Mapping[str, str] | None = None
    maker: Maker | None = None


def describe_maker(maker: Maker) -> str:
    """Return a sentence that names the software and the model."""
    text = f"Made by gi2nnunet {version('gi2nnunet')}"
    if maker.model:
        text += f" with the model {maker.model}"
    if maker.model_digest:
        text += f", digest {maker.model_digest}"
    return f"{text}. Not approved; research software, not a medical device."


@dataclass(frozen=True, kw_only=True)
class NameMatch:
    """Structures of a file, matched to organs.

    Attributes
    ----------
    of_organ
        Index of the structure of each organ that has one, in the order of
        :data:`~gi2nnunet.formats.ids.ORGANS`.
    unmatched
        Names of the other structures, in the file's order.
    """

    of_organ: Mapping[str, int]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class OrganMasks:
    """Masks that were read from a file.

    Attributes
    ----------
    masks
        ``(slices, rows, columns)`` bool by organ, in the order of the series' slices.
    names
        Name of each organ's structure in the file.
    unmatched
        Names of the file's other structures.
    """

    masks: Mapping[str, NDArray[np.bool_]]
    names: Mapping[str, str]
    unmatched: tuple[str, ...]


def find_referenced_series(dataset: Dataset) -> tuple[str, ...]:
    """Return the instance UIDs of the series that an RTSTRUCT or SEG refers to, if it says so."""
    items = list(dataset.get("ReferencedSeriesSequence") or [])
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            items += study.get("RTReferencedSeriesSequence") or []
    uids = (str(item.get("SeriesInstanceUID", "")) for item in items)
    return tuple(dict.fromkeys(uid for uid in uids if uid))


def find_other_series(
    dataset: Dataset, series: Series, where: str, *, what: str
) -> Iterator[Problem]:
    """Find out whether a file refers only to other series, if it says to which."""
    referenced = find_referenced_series(dataset)
    if referenced and series.series_instance_uid not in referenced:
        yield Problem(
            where=where,
            found=f"{what} of the series " + ", ".join(f"...{uid[-6:]}" for uid in referenced),
            expected=f"the series ...{series.series_instance_uid[-6:]}",
        )


def find_other_frame(uid: object, series: Series, where: str) -> Iterator[Problem]:
    """Find out whether a frame of reference, if it is given, is another than the series has."""
    found, own = str(uid or ""), series.frame_of_reference_uid
    if found and own and found != own:
        yield Problem(
            where=where,
            found=f"the frame of reference ...{found[-6:]}",
            expected=f"that of the series, ...{own[-6:]}",
        )


def list_structures(dataset: Dataset) -> tuple[list[str], list[str]]:
    """Return name and code of each structure of an RTSTRUCT or SEG.

    A code is that of SNOMED CT in a SEG, or an empty text.
    """
    rois = list(dataset.get("StructureSetROISequence") or [])
    segments = list(dataset.get("SegmentSequence") or [])
    names = [str(roi.get("ROIName", "")) for roi in rois]
    names += [str(segment.get("SegmentLabel", "")) for segment in segments]
    return names, [*("" for _ in rois), *map(_find_code, segments)]


def _find_code(segment: Dataset) -> str:
    for code in segment.get("SegmentedPropertyTypeCodeSequence") or []:
        if code.get("CodingSchemeDesignator") == "SCT":
            return str(code.get("CodeValue", ""))
    return ""


def match_names(
    names: Sequence[str],
    *,
    where: str,
    given: Mapping[str, str] | None = None,
    codes: Sequence[str] = (),
) -> NameMatch:
    """Find the structure of each organ by its name.

    Names are compared by their letters and digits: ``Bowel_Large``, ``large bowel`` and
    ``LargeBowel`` are one. ``given`` names are compared exactly first.

    Parameters
    ----------
    names
        Names of the structures in the file's order.
    where
        The file, for messages.
    given
        Name of the structure by organ, used in place of the usual names; an organ that it leaves
        out has its usual names.
    codes
        Code of each structure in SNOMED CT, which counts for an organ without a name among them.

    Raises
    ------
    InputError
        If a given name is not there, an organ has two structures, or no organ has one.
    """
    given = dict(given or {})
    for organ in given:
        if organ not in ORGANS:
            raise InputError(
                f"{where}: found a name for the organ {organ}; expected one of {', '.join(ORGANS)}."
                " Give the names again."
            )
    listed = f"the structures {', '.join(map(repr, names)) or 'none'}"
    problems: list[Problem] = []
    of_organ: dict[str, int] = {}
    taken: set[int] = set()
    for organ in sorted(ORGANS, key=lambda organ: organ not in given):  # given names choose first
        found = _find_structures(names, given.get(organ), _SYNONYMS[organ])
        if not found and organ not in given:
            found = [index for index, code in enumerate(codes) if code in _CODES[organ]]
        found = [index for index in found if index not in taken]
        if organ in given and not found:
            expected = f"one with the name {given[organ]!r} for {organ}"
            problems.append(Problem(where=where, found=listed, expected=expected))
        elif len(found) > 1:
            doubled = ", ".join(f"{names[index]!r} (number {index + 1})" for index in found)
            what = f"{count(len(found), 'structure')} for {organ}: {doubled}"
            problems.append(Problem(where=where, found=what, expected="one structure for an organ"))
        elif found:
            of_organ[organ] = found[0]
            taken.add(found[0])
    if not problems and not of_organ:
        expected = "a structure for at least one of " + ", ".join(ORGANS)
        problems.append(Problem(where=where, found=listed, expected=expected))
    raise_problems(problems, remedy="Name the structure of each organ with --roi organ=NAME.")
    return NameMatch(
        of_organ={organ: of_organ[organ] for organ in ORGANS if organ in of_organ},
        unmatched=tuple(name for index, name in enumerate(names) if index not in taken),
    )


def _find_structures(names: Sequence[str], given: str | None, synonyms: Sequence[str]) -> list[int]:
    if given is not None:
        exact = [index for index, name in enumerate(names) if name.strip() == given.strip()]
        if exact:
            return exact
        synonyms = (_simplify(given),)
    return [index for index, name in enumerate(names) if _simplify(name) in synonyms]


def _simplify(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def find_organ(name: str) -> str | None:
    """Return the organ that a name ends with, in one of the usual spellings, if any."""
    simple = _simplify(name)
    fits = [
        (len(synonym), organ)
        for organ, synonyms in _SYNONYMS.items()
        for synonym in synonyms
        if simple.endswith(synonym)
    ]
    return max(fits)[1] if fits else None  # "smallbowel" also ends with "lbowel"


def parse_names(given: Mapping[str, str] | Sequence[str] | None, *, option: str) -> dict[str, str]:
    """Return names by organ of texts such as ``stomach=Magen``.

    Raises
    ------
    InputError
        If a text does not have this form, names another organ, or one twice.
    """
    if isinstance(given, Mapping):
        given = [f"{organ}={name}" for organ, name in given.items()]
    names: dict[str, str] = {}
    for text in given or ():
        organ, _, name = text.partition("=")
        organ = organ.strip().lower().replace(" ", "_")
        if organ not in ORGANS or not name.strip() or organ in names:
            raise InputError(
                f"{option} {text!r}: expected ORGAN=NAME, each organ once, with an organ of "
                f"{', '.join(ORGANS)}. Give it again."
            )
        names[organ] = name.strip()
    return names


def choose_names(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the name of each organ's structure: the given one, or the one of TG-263.

    Raises
    ------
    InputError
        If a name is given for another organ, is empty or too long for DICOM, holds a character that
        DICOM does not allow there, or is used twice.
    """
    names = dict(STANDARD_NAMES) | dict(given or {})
    problems = []
    for organ, name in names.items():
        if organ not in STANDARD_NAMES:
            problems.append(
                Problem(where=f"name {name!r}", found=organ, expected="one of " + ", ".join(ORGANS))
            )
        if (
            not name.strip()
            or len(name) > _MOST_NAME_CHARACTERS
            or re.search(r"[\\\x00-\x1f]", name)
        ):
            problems.append(
                Problem(
                    where=f"name of {organ}",
                    found=repr(name),
                    expected=f"1 to {_MOST_NAME_CHARACTERS} characters, no backslash or line break",
                )
            )
    if len(set(names.values())) < len(names):
        problems.append(
            Problem(
                where="names of the structures",
                found=", ".join(names.values()),
                expected="a name of its own for each organ",
            )
        )
    raise_problems(problems, remedy="Give other names with --roi-name organ=NAME.")
    return names
