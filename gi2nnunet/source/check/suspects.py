"""Suspects of a source: scans and slices that measure unlike the others, and what was tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gi2nnunet.formats.ids import CERTAINTIES, Certainty
from gi2nnunet.source.check.fit import Placement

SuspectKind = Literal[
    "masks turned",
    "masks moved",
    "masks do not fit",
    "outline",
    "organs exchanged",
    "scan turned",
    "copied images",
    "copied masks",
    "no signal",
    "joint",
    "repeated slices",
    "cut off",
    "gap",
    "missing organ",
    "volume",
    "place",
    "day",
    "mask jump",
    "slice order",
    "model",
]

MEANINGS: dict[SuspectKind, str] = {
    "masks turned": "The masks would fit the image if they were turned as it says.",
    "masks moved": "The masks would fit the image if they were moved as it says.",
    "masks do not fit": "The image does not change at the organs' outlines as it does in the "
    "other scans: the masks may be those of another scan.",
    "outline": "The organs' outlines lie outside or inside of where the image changes.",
    "organs exchanged": "The masks measure as if the organs' names had been exchanged.",
    "scan turned": "The organs lie as if image and masks had been turned together.",
    "copied images": "Slices of this scan are slices of another scan too.",
    "copied masks": "Masks of this scan are masks of another scan too.",
    "no signal": "The image of these slices holds one value only.",
    "joint": "The image changes from this slice to the next as it does between two scans: slices "
    "may be missing, or the rest may be another scan's.",
    "repeated slices": "The same image follows itself.",
    "cut off": "The masks end too early or too abruptly: slices may have been left undrawn.",
    "gap": "An organ is drawn before and after these slices, but not in them.",
    "missing organ": "An organ that nearly every scan has was not drawn anywhere.",
    "volume": "An organ is far larger or smaller than usual.",
    "place": "An organ lies far from its usual place.",
    "day": "The organs lie elsewhere than on the patient's other days: perhaps another patient.",
    "mask jump": "An organ's mask in this slice does not fit the slices before and after, which "
    "fit each other.",
    "slice order": "The image of this slice does not fit its neighbours: it may be in the wrong "
    "place or come from elsewhere.",
    "model": "Models that did not see the patient disagree with the masks far more than usual.",
}
"""What each kind means."""

WHOLE_SCAN: frozenset[SuspectKind] = frozenset(
    {
        "masks turned", "masks moved", "masks do not fit", "organs exchanged", "scan turned",
        "copied images", "copied masks",
    }
)  # fmt: skip
"""Kinds that explain why a scan's organs measure unlike the others."""

_SURE = (("certain", 2.0), ("likely", 1.4))


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """One thing to look at.

    Attributes
    ----------
    kind
        What was noticed.
    scan_id
        In which scan.
    slice_number
        In which slice, or from which on; ``None`` for a whole scan.
    organ
        In which organ, if it is one.
    measured, usual
        What was measured and what is usual.
    remedy
        What to do.
    exchanged_with
        The slice with which this one may have changed places.
    last_slice_number
        The last slice, if it is about several.
    other_scan_id
        The other scan, if it is about two.
    certainty
        How sure it is. ``"certain"``: identical, or at least twice as far from usual as a suspect
        must be; ``"likely"``: at least 1.4 times as far; else ``"possible"``.
    placement
        Where the masks would fit better.
    """

    kind: SuspectKind
    scan_id: str
    slice_number: int | None
    organ: str | None
    measured: str
    usual: str
    remedy: str
    exchanged_with: int | None = None
    last_slice_number: int | None = None
    other_scan_id: str | None = None
    certainty: Certainty = "possible"
    placement: Placement | None = None

    @property
    def rank(self) -> int:
        """A sort key that puts the surest first."""
        return CERTAINTIES.index(self.certainty)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """One group of tests, and how far it went.

    Attributes
    ----------
    what
        What was tested, in words.
    kinds
        The kinds of suspect that it can find.
    scans
        How many scans were tested.
    note
        Against what, or what it would need; empty if nothing is missing.
    """

    what: str
    kinds: tuple[SuspectKind, ...]
    scans: int
    note: str = ""


def rate_certainty(strength: float) -> Certainty:
    """Return how sure a suspect is that is so many times as far from usual as it must be."""
    for certainty, least in _SURE:
        if strength >= least:
            return certainty  # type: ignore[return-value]
    return "possible"


def drop_explained(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Drop what a scan's other suspects explain.

    If a scan's masks are turned, moved, another scan's or exchanged, it goes without saying that
    its organs have unusual places and volumes, and that stretches of its slices do not fit.
    """
    explained = {
        s.scan_id
        for s in suspects
        if s.kind in WHOLE_SCAN and s.organ is None and s.slice_number is None
    }
    symptoms = {"place", "volume", "day", "cut off", "mask jump"}
    return [
        s
        for s in suspects
        if s.scan_id not in explained
        or not (s.kind in symptoms or (s.kind == "masks do not fit" and s.slice_number is not None))
    ]
