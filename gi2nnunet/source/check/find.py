"""Search for suspects in a source's measures, and what of it could be tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from gi2nnunet.source.check.between_scans import (
    LEAST_DAYS,
    LEAST_SCANS_WITH_DAYS,
    find_copied,
    find_unlike_days,
)
from gi2nnunet.source.check.in_scans import find_in_fit, find_in_organs
from gi2nnunet.source.check.in_slices import find_in_images, find_in_masks
from gi2nnunet.source.check.measures import ScanMeasures
from gi2nnunet.source.check.suspects import Suspect, Tested, drop_explained
from gi2nnunet.source.check.usual import LEAST_SCANS, Labelled, find_usual_fit, find_usual_organs


def find_suspects(scans: Sequence[ScanMeasures]) -> tuple[Suspect, ...]:
    """Return what is unusual in a source's scans, in their order.

    Parameters
    ----------
    scans
        A source's scans. With fewer than :data:`~gi2nnunet.source.check.usual.LEAST_SCANS` of them
        labelled, usual values are those of the competition.
    """
    labelled = _list_labelled(scans)
    fit, organs = find_usual_fit(labelled), find_usual_organs(labelled)
    found: list[Suspect] = []
    for scan in scans:
        found += find_in_images(scan)
    for scan, masks in labelled:
        found += find_in_masks(scan, masks)
        found += find_in_fit(scan, masks, fit)
    turned = {s.scan_id for s in found if s.kind in ("masks turned", "masks moved")}
    found += [
        suspect
        for suspect in find_in_organs(labelled, organs)
        if not (suspect.scan_id in turned and suspect.kind in ("scan turned", "organs exchanged"))
    ]
    found += find_copied(scans)
    found += find_unlike_days(labelled)
    return sort_suspects(drop_explained(found), scans)


def sort_suspects(
    suspects: Iterable[Suspect], scans: Sequence[ScanMeasures]
) -> tuple[Suspect, ...]:
    """Return suspects in the order of the scans, then of the slices, then of their certainty."""
    order = {scan.scan_id: index for index, scan in enumerate(scans)}
    return tuple(
        sorted(
            suspects,
            key=lambda s: (
                order[s.scan_id], s.slice_number or 0, s.rank,
                s.organ or "", s.kind,
            ),
        )
    )  # fmt: skip


def _list_labelled(scans: Sequence[ScanMeasures]) -> Labelled:
    """Return the scans that have masks; those of a scan without signal are held against nothing."""
    return [(scan, scan.masks) for scan in scans if scan.masks is not None]


def list_tested(scans: Sequence[ScanMeasures]) -> tuple[Tested, ...]:
    """Return what :func:`find_suspects` tests in these scans, and what it would need for the rest.

    Parameters
    ----------
    scans
        A source's scans.
    """
    labelled = _list_labelled(scans)
    few = ""
    if labelled and len(labelled) < LEAST_SCANS:
        few = (
            f"usual values are the competition's: the source would need {LEAST_SCANS} labelled "
            f"scans and has {len(labelled)}"
        )
    days = Counter(scan.patient_id for scan, _ in labelled)
    with_days = sum(number for number in days.values() if number >= LEAST_DAYS)
    return (
        Tested(
            what="images: signal, order, joints and repeats of slices",
            kinds=("no signal", "slice order", "joint", "repeated slices"), scans=len(scans),
        ),
        Tested(
            what="copies among the scans", kinds=("copied images", "copied masks"),
            scans=len(scans) if len(scans) > 1 else 0,
            note="" if len(scans) > 1 else "needs two scans",
        ),
        Tested(
            what="masks, slice by slice", kinds=("mask jump", "gap"), scans=len(labelled),
            note="" if labelled else "needs labelled scans",
        ),
        Tested(
            what="masks against their images",
            kinds=("masks turned", "masks moved", "masks do not fit", "outline"),
            scans=sum(bool(np.isfinite(masks.fit.whole)) for _, masks in labelled),
            note=few if labelled else "needs labelled scans",
        ),
        Tested(
            what="organs: which is which, volumes, places, ends",
            kinds=("organs exchanged", "scan turned", "cut off", "missing organ", "volume",
                   "place"),
            scans=len(labelled), note=few if labelled else "needs labelled scans",
        ),
        Tested(
            what="days of a patient", kinds=("day",),
            scans=with_days if with_days >= LEAST_SCANS_WITH_DAYS else 0,
            note=""
            if with_days >= LEAST_SCANS_WITH_DAYS
            else f"needs {LEAST_SCANS_WITH_DAYS} scans of patients with {LEAST_DAYS} days or more",
        ),
    )  # fmt: skip
