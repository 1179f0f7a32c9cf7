"""Summary of a score for a page: what it is worth, organs missed, volumes and distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.pages.template import DASH, format_number, name_of
from gi2nnunet.scoring.medical import OrganMeasures
from gi2nnunet.scoring.result import ScanScore, Score

STANDINGS: Mapping[str, tuple[bool, str]] = {
    "held-out": (True, "Held-out: no scan of these patients was used for training."),
    "out-of-fold": (
        True,
        "Out-of-fold: each scan was predicted by a model that had not seen its patient.",
    ),
    "seen-patient": (
        False,
        "Seen patients: other scans of some of these patients were used for training, so new "
        "patients may do worse.",
    ),
    "in-sample": (
        False,
        "In-sample: these scans were used for training, so the score is too optimistic. It says "
        "nothing about new patients.",
    ),
    "unknown": (
        False,
        "Unknown: no record says which patients the models were trained on, so the score may be "
        "too optimistic.",
    ),
    "unknown (judged by name)": (
        False,
        "Unknown, judged by name: no scan has the id or the image of a training scan, but the ids "
        "do not name the patients, or not all images could be compared.",
    ),
}
"""For each standing, whether the score is one of new patients, and what it means."""

Odd = Literal["", "missed", "extra"]


@dataclass(frozen=True, kw_only=True)
class OrganFacts:
    """Volumes and distances of one organ in one scan, as a table shows them.

    Attributes
    ----------
    odd
        Whether only the truth has the organ (missed), or only the prediction (extra).
    true_ml, pred_ml, error_ml, hd95_mm, surface_dice
        Texts, a dash if not known; HD95, which a missed or extra organ has not, says which it is.
    """

    odd: Odd
    true_ml: str
    pred_ml: str
    error_ml: str
    hd95_mm: str
    surface_dice: str

    def list_cells(self) -> list[str]:
        """Return the texts in the order of the table's columns."""
        return [self.true_ml, self.pred_ml, self.error_ml, self.hd95_mm, self.surface_dice]


@dataclass(frozen=True, kw_only=True)
class OddOrgan:
    """An organ that only one of truth and prediction has in a scan, and its volume, if known."""

    scan_id: str
    organ: str
    odd: Odd
    volume_ml: str


def describe_organ(odd: Odd, measures: OrganMeasures | None) -> OrganFacts:
    """Describe one organ of one scan; dashes if it was not measured."""
    if measures is None:
        return OrganFacts(
            odd=odd, true_ml=DASH, pred_ml=DASH, error_ml=DASH, hd95_mm=odd or DASH,
            surface_dice=DASH,
        )  # fmt: skip
    pred_ml = measures.volume_true_ml + measures.volume_error_ml
    return OrganFacts(
        odd=odd,
        true_ml=_format_ml(measures.volume_true_ml),
        pred_ml=_format_ml(abs(pred_ml)),  # a rounding error is no "-0.0"
        error_ml=_format_error(measures.volume_error_ml),
        hd95_mm=odd or format_number(measures.hd95_mm, ".1f"),
        surface_dice=format_number(measures.surface_dice, ".3f"),
    )


def _format_ml(volume_ml: float, form: str = ".1f") -> str:
    """Return a volume; a half is rounded away from zero, whatever the float's last digits are."""
    return format_number(volume_ml + math.copysign(1e-9, volume_ml), form)


def _format_error(error_ml: float) -> str:
    text = _format_ml(error_ml, "+.1f")
    return "0.0" if text in ("+0.0", "-0.0") else text


def describe_scan(scan: ScanScore | None) -> dict[str, OrganFacts]:
    """Describe each organ of a scan; dashes if it has no score or its score no measures."""
    facts = {}
    for organ in ORGANS:
        odd: Odd = ""
        if scan is not None:
            odd = "missed" if organ in scan.missed else "extra" if organ in scan.extra else ""
        measures = scan.measures[organ] if scan and scan.measures else None
        facts[organ] = describe_organ(odd, measures)
    return facts


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the page says first about a score.

    Attributes
    ----------
    fair
        Whether the score is one of new patients.
    standing
        What it is worth, as a sentence.
    worst
        The scan with the lowest score; ``None`` if no scan has one.
    measured
        Whether the score holds volumes and distances.
    missed, extra
        Organs that only the truth has, and organs that only the prediction has.
    """

    fair: bool
    standing: str
    n_scans: int
    n_patients: int
    worst: ScanScore | None
    measured: bool
    missed: tuple[OddOrgan, ...]
    extra: tuple[OddOrgan, ...]


def summarise(score: Score, by_score: Sequence[ScanScore], *, standing: str) -> Summary:
    """Summarise a score; ``by_score`` are its scans, worst first, those without a value last."""
    fair, words = STANDINGS.get(standing, STANDINGS["unknown"])
    odd = [
        OddOrgan(
            scan_id=scan.scan_id, organ=name_of(organ), odd=facts.odd,
            volume_ml=facts.true_ml if facts.odd == "missed" else facts.pred_ml,
        )
        for scan in by_score
        for organ, facts in describe_scan(scan).items()
        if facts.odd
    ]  # fmt: skip
    worst = by_score[0] if by_score and not math.isnan(by_score[0].score) else None
    return Summary(
        fair=fair,
        standing=words,
        n_scans=len(score.per_scan),
        n_patients=len({scan.patient_id for scan in score.per_scan}),
        worst=worst,
        measured=any(scan.measures is not None for scan in score.per_scan),
        missed=tuple(one for one in odd if one.odd == "missed"),
        extra=tuple(one for one in odd if one.odd == "extra"),
    )
