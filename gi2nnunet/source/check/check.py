"""Check of a source: what it holds, and what in it is worth a look before training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gi2nnunet.core.errors import Problem, count, raise_problems
from gi2nnunet.core.frames import ShownAsTable, make_frame
from gi2nnunet.core.workers import Progress, ignore
from gi2nnunet.formats.ids import (
    CERTAINTIES,
    KNOWN_BAD_SCANS,
    ORGANS,
    Certainty,
)
from gi2nnunet.formats.labels import LabelMap, warn_of_absence
from gi2nnunet.source.check.in_models import ScanAgreement, describe_tested, find_disagreements
from gi2nnunet.source.check.in_scans import (
    LEAST_DAYS,
    LEAST_SCANS_WITH_DAYS,
    find_copied,
    find_in_fit,
    find_in_organs,
    find_unlike_days,
)
from gi2nnunet.source.check.in_slices import find_in_images, find_in_masks
from gi2nnunet.source.check.measures import MaskMeasures, ScanMeasures, measure_scan
from gi2nnunet.source.check.suspects import (
    LEAST_SCANS,
    Labelled,
    Suspect,
    SuspectKind,
    Tested,
    drop_explained,
    find_usual_fit,
    find_usual_organs,
)
from gi2nnunet.source.open import open_source
from gi2nnunet.source.scan import LoadedScan, Scan, Source, SourceOptions

if TYPE_CHECKING:
    from pandas import DataFrame

HEIGHT_BINS = 10
PAIRS = ("large_bowel+small_bowel", "large_bowel+stomach", "small_bowel+stomach")


@dataclass(frozen=True, kw_only=True)
class SourceReport(ShownAsTable):
    """What :func:`check_source` found.

    Attributes
    ----------
    path, kind
        The source: ``"folder"``, ``"zip"`` or ``"nifti"``.
    scans
        What was measured on each scan, in numeric order of patient and day.
    known_bad
        Scans of the source that are known to be bad, with the reason.
    suspects
        What measures unlike the rest, in the order of the scans.
    tested
        What was tested, and what the source has too few scans for.
    load
        Reads a scan again, to look at it.
    predict
        Gives the label map that models predict which did not see the patient, if the truth was
        held against it.
    """

    path: Path
    kind: str
    scans: tuple[ScanMeasures, ...] = field(repr=False)
    known_bad: Mapping[str, str]
    suspects: tuple[Suspect, ...] = field(repr=False)
    tested: tuple[Tested, ...] = field(repr=False)
    warnings: tuple[str, ...]
    load: Callable[[str], LoadedScan] = field(repr=False, compare=False)
    predict: Callable[[str], LabelMap] | None = field(default=None, repr=False, compare=False)
    labels: tuple[str, ...] = ()

    def to_frame(self) -> DataFrame:
        """Return a table of the suspects."""
        return make_frame(Suspect, self.suspects)

    @property
    def masks(self) -> tuple[MaskMeasures, ...]:
        """Return the measures of every scan that has masks."""
        return tuple(scan.masks for scan in self.scans if scan.masks is not None)

    def add_disagreements(
        self, agreements: Sequence[ScanAgreement], *, predict: Callable[[str], LabelMap]
    ) -> SourceReport:
        """Return this report with the suspects by models added.

        Parameters
        ----------
        predict
            Gives the predicted label map ``(z, y, x)`` of a scan.
        """
        tested = describe_tested(len(agreements), len(self.masks))
        return replace(
            self,
            suspects=sort_suspects([*self.suspects, *find_disagreements(agreements)], self.scans),
            tested=(*self.tested, tested),
            predict=predict,
        )

    def list_suspect_scans(self, certainty: Certainty) -> dict[str, str]:
        """Return the scans with a suspect at least so sure, and what those suspects are."""
        enough = CERTAINTIES[: CERTAINTIES.index(certainty) + 1]
        kinds: dict[str, dict[str, None]] = {}
        for suspect in self.suspects:
            if suspect.certainty in enough:
                reason = f"{suspect.kind}, {suspect.certainty}"
                kinds.setdefault(suspect.scan_id, {})[reason] = None
        return {scan_id: f"suspect: {'; '.join(found)}" for scan_id, found in kinds.items()}

    def count_parts(self) -> dict[str, dict[str, int]]:
        """Return patients, scans, slices, slices with truth and without any mask, by part."""
        counted = {}
        for part in ("train", "test"):
            scans = [scan for scan in self.scans if scan.part == part]
            if not scans:
                continue
            masks = [scan.masks for scan in scans if scan.masks is not None]
            counted[part] = {
                "patients": len({scan.patient_id for scan in scans}),
                "scans": len(scans),
                "slices": sum(scan.shape[0] for scan in scans),
                "labelled_slices": sum(of_scan.pixels.shape[1] for of_scan in masks),
                "empty_slices": sum(
                    int(np.count_nonzero(~of_scan.pixels.any(axis=0))) for of_scan in masks
                ),
            }
        return counted

    def count_geometries(
        self,
    ) -> list[tuple[tuple[int, int, int], tuple[float, float, float], int]]:
        """Return ``(shape, spacing in mm, scans)``, both ``(z, y, x)``, the most frequent first."""
        counted = Counter((scan.shape, scan.spacing_mm) for scan in self.scans)
        rows = [(shape, spacing, number) for (shape, spacing), number in counted.items()]
        return sorted(rows, key=lambda row: (-row[2], row[:2]))

    def count_days(self) -> dict[int, int]:
        """Return how many patients have so many scans."""
        of_patient = Counter(scan.patient_id for scan in self.scans)
        return dict(sorted(Counter(of_patient.values()).items()))

    def measure_prevalence(self) -> dict[str, list[float | None]]:
        """Return by organ the share of slices that show it, in tenths of the height from cranial.

        A tenth that no slice falls into is ``None``.
        """
        shown = [of_scan.pixels > 0 for of_scan in self.masks]
        return {
            organ: _share_by_height([of_scan[index] for of_scan in shown])
            for index, organ in enumerate(ORGANS)
        }

    def measure_emptiness(self) -> list[float | None]:
        """Return the share of slices without any mask, as :meth:`measure_prevalence`."""
        return _share_by_height([(of_scan.pixels == 0).all(axis=0) for of_scan in self.masks])

    def measure_volumes(self) -> dict[str, tuple[int, float, float, float] | None]:
        """Return by organ the scans that have it and least, median and greatest volume in ml."""
        found: dict[str, tuple[int, float, float, float] | None] = dict.fromkeys(ORGANS)
        for index, organ in enumerate(ORGANS):
            volumes = [m.volume_ml[index] for m in self.masks if m.volume_ml[index] > 0]
            if volumes:
                least, middle, most = np.percentile(volumes, (0, 50, 100)).tolist()
                found[organ] = (len(volumes), least, middle, most)
        return found

    def count_overlaps(self) -> dict[str, tuple[int, int]]:
        """Return by pair of organs the pixels and the slices in which they overlap."""
        return {
            pair: (
                sum(of_scan.overlap_pixels[index] for of_scan in self.masks),
                sum(of_scan.overlap_slices[index] for of_scan in self.masks),
            )
            for index, pair in enumerate(PAIRS)
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as what JSON can hold."""
        intensity = [scan.intensity for scan in self.scans]
        return {
            "source": str(self.path),
            "kind": self.kind,
            "parts": self.count_parts(),
            "geometries": [
                {"shape": list(shape), "spacing_mm": list(spacing), "scans": number}
                for shape, spacing, number in self.count_geometries()
            ],
            "patients_by_scans": {str(days): n for days, n in self.count_days().items()},
            "prevalence_by_tenth_of_height": self.measure_prevalence(),
            "empty_by_tenth_of_height": self.measure_emptiness(),
            "volume_ml": {
                organ: dict(zip(("scans", "least", "median", "greatest"), values, strict=True))
                if values
                else None
                for organ, values in self.measure_volumes().items()
            },
            "overlaps": {
                pair: {"pixels": pixels, "slices": slices}
                for pair, (pixels, slices) in self.count_overlaps().items()
            },
            "intensity": {
                scan.scan_id: dict(zip(("least", "median", "p99", "greatest"), values, strict=True))
                for scan, values in zip(self.scans, intensity, strict=True)
            },
            "known_bad": dict(self.known_bad),
            "suspects": [asdict(suspect) for suspect in self.suspects],
            "tested": [{**asdict(t), "kinds": list(t.kinds)} for t in self.tested],
            "labels": list(self.labels),
            "warnings": list(self.warnings),
        }


def _share_by_height(chosen: Sequence[NDArray[np.bool_]]) -> list[float | None]:
    """Return by tenth of the height the share of slices that were chosen, ``(z,)`` a scan."""
    some, every = np.zeros(HEIGHT_BINS), np.zeros(HEIGHT_BINS)
    for of_scan in chosen:
        bins = np.arange(len(of_scan)) * HEIGHT_BINS // len(of_scan)
        every += np.bincount(bins, minlength=HEIGHT_BINS)
        some += np.bincount(bins, weights=of_scan, minlength=HEIGHT_BINS)
    return [float(s / e) if e else None for s, e in zip(some, every, strict=True)]


def check_source(
    source: Path | str, options: SourceOptions | None = None, *, progress: Progress | None = None
) -> SourceReport:
    """Read every slice of a source once and measure it; writes nothing.

    Returns
    -------
    SourceReport
        Masks are measured whole, intensities and likeness of slices on every fourth pixel each
        way.

    Raises
    ------
    InputError
        If the source does not fit together or a file of it cannot be read; all problems are
        reported together.
    """
    options = options or SourceOptions()
    return check_opened(open_source(source, options), workers=options.workers, progress=progress)


def check_opened(opened: Source, *, workers: int, progress: Progress | None = None) -> SourceReport:
    """Check a source that is open already, as :func:`check_source` does.

    Raises
    ------
    InputError
        If a file of it cannot be read; all problems are reported together.
    """
    scans, eight_bit = _measure_scans(opened, workers, progress or ignore)
    warnings = [*opened.warnings, *opened.warn_of_unknown_patients()]
    labelled = [scan.masks.pixels for scan in scans if scan.masks is not None]
    if labelled:
        warnings += warn_of_absence(
            {organ for i, organ in enumerate(ORGANS) if any(pixels[i].any() for pixels in labelled)}
        )
    if eight_bit:
        warnings.append(
            f"{count(eight_bit, '8-bit slice')}, not the competition's 16-bit files: intensities "
            "are not comparable"
        )
    return SourceReport(
        path=opened.path, kind=opened.kind, scans=tuple(scans),
        known_bad={s.scan_id: why for s in scans if (why := KNOWN_BAD_SCANS.get(s.scan_id))},
        suspects=find_suspects(scans), tested=list_tested(scans), warnings=tuple(warnings),
        labels=opened.label_notes,
        load=lambda scan_id: opened.scans[scan_id].load(),
    )  # fmt: skip


def _measure_scans(
    opened: Source, workers: int, report: Progress
) -> tuple[list[ScanMeasures], int]:
    """Return what each scan measures, and how many slices are 8-bit."""

    def measure(scan: Scan) -> tuple[ScanMeasures | None, tuple[Problem, ...], int]:
        loaded = scan.load()
        if loaded.problems:
            return None, loaded.problems, 0
        measured = measure_scan(loaded, scan_id=scan.scan_id, part=scan.part)
        return measured, (), loaded.eight_bit

    scans: list[ScanMeasures] = []
    problems: list[Problem] = []
    eight_bit, every = 0, len(opened.scans)
    report(0, every, "measuring scans")
    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        try:
            running = pool.map(measure, opened.scans.values())
            for done, (measured, wrong, of_scan) in enumerate(running, 1):
                problems += wrong
                eight_bit += of_scan
                scans += [measured] if measured else []
                report(done, every, "measuring scans")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    raise_problems(problems, remedy=f"Correct these in {opened.path}, or download it again.")
    return scans, eight_bit


def find_suspects(scans: Sequence[ScanMeasures]) -> tuple[Suspect, ...]:
    """Return what is unusual in a source's scans, in their order.

    With fewer than :data:`~gi2nnunet.source.check.suspects.LEAST_SCANS` of them labelled, usual
    values are those of the competition.
    """
    labelled = _list_labelled(scans)
    fit, organs = find_usual_fit(labelled), find_usual_organs(labelled)
    found: list[Suspect] = []
    for scan in scans:
        found += find_in_images(scan)
    for scan, masks in labelled:
        found += find_in_masks(scan, masks)
        found += find_in_fit(scan, masks, fit)
    found += find_in_organs(labelled, organs)
    found += find_copied(scans)
    found += find_unlike_days(labelled)
    return sort_suspects(drop_explained(found), scans)


def sort_suspects(
    suspects: Iterable[Suspect], scans: Sequence[ScanMeasures]
) -> tuple[Suspect, ...]:
    """Return suspects in the order of the scans, then of the slices, then of their certainty."""
    order = {scan.scan_id: index for index, scan in enumerate(scans)}

    def key(s: Suspect) -> tuple[int, int, int, str, str]:
        return order[s.scan_id], s.slice_number or 0, s.rank, s.organ or "", s.kind

    return tuple(sorted(suspects, key=key))


def _list_labelled(scans: Sequence[ScanMeasures]) -> Labelled:
    """Return the scans that have masks."""
    return [(scan, scan.masks) for scan in scans if scan.masks is not None]


def list_tested(scans: Sequence[ScanMeasures]) -> tuple[Tested, ...]:
    """Return what :func:`find_suspects` tests in scans, and what it needs to test the rest."""
    labelled = _list_labelled(scans)
    fitting = sum(bool(np.isfinite(masks.fit.whole)) for _, masks in labelled)
    needs = few = "" if labelled else "needs labelled scans"
    if 0 < len(labelled) < LEAST_SCANS:
        few = (
            f"usual values are the competition's: the source would need {LEAST_SCANS} labelled "
            f"scans and has {len(labelled)}"
        )
    copies = (len(scans), "") if len(scans) > 1 else (0, "needs two scans")
    of_patient = Counter(scan.patient_id for scan, _ in labelled)
    days = (sum(number for number in of_patient.values() if number >= LEAST_DAYS), "")
    if days[0] < LEAST_SCANS_WITH_DAYS:
        most = f"{LEAST_SCANS_WITH_DAYS} scans of patients with {LEAST_DAYS} days or more"
        days = (0, f"needs {most}")
    groups: tuple[tuple[str, tuple[int, str], tuple[SuspectKind, ...]], ...] = (
        (
            "images: signal, order, joints and repeats of slices", (len(scans), ""),
            ("no signal", "slice order", "joint", "repeated slices"),
        ),
        ("copies among the scans", copies, ("copied images", "copied masks")),
        ("masks, slice by slice", (len(labelled), needs), ("mask jump", "gap")),
        (
            "masks against their images", (fitting, few),
            ("masks turned", "masks moved", "masks do not fit", "outline"),
        ),
        (
            "organs: which is which, volumes, places, ends", (len(labelled), few),
            ("organs exchanged", "scan turned", "cut off", "missing organ", "volume", "place"),
        ),
        ("days of a patient", days, ("day",)),
    )  # fmt: skip
    return tuple(
        Tested(what=what, kinds=kinds, scans=number, note=note)
        for what, (number, note), kinds in groups
    )
