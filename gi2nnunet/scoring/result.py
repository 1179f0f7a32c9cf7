"""Scores: means over rows, scans and organs, and the values that they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, InstanceOf

from gi2nnunet.core.files import FloatOrNan
from gi2nnunet.formats.ids import ORGANS, patient_of
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.medical import OrganMeasures, Spacing
from gi2nnunet.scoring.metric import Terms, combine

if TYPE_CHECKING:
    from pandas import DataFrame


def _check_organs(found: Mapping[str, Any]) -> Mapping[str, Any]:
    if missing := set(ORGANS) - set(found):
        raise ValueError(f"every organ, also {', '.join(sorted(missing))}")
    return found


_Item = TypeVar("_Item")
ByOrgan = Annotated[Mapping[str, _Item], AfterValidator(_check_organs)]
"""A value for each organ."""


@dataclass(frozen=True, kw_only=True)
class OrganScore:
    """Score of one organ.

    Attributes
    ----------
    score, dice, hausdorff
        As in :class:`Score`. The conventions that join the organs have no ``score`` and
        ``hausdorff`` of single organs: NaN.
    n_rows, n_units
        Dice values and distances that were counted.
    n_missed, n_extra
        Scans in which the organ is only in the truth, and only in the prediction.
    """

    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    n_rows: int
    n_units: int
    n_missed: int
    n_extra: int


@dataclass(frozen=True, kw_only=True)
class OrganMedical:
    """Mean measures of one organ over scans; NaN if nothing was counted.

    Attributes
    ----------
    surface_dice
        Mean over the scans with the organ in either mask.
    hd95_mm
        Mean in mm over the scans with the organ in both masks.
    volume_error_ml, volume_error_abs_ml
        Mean of predicted minus true volume, and of its absolute value, in ml over the scans with
        the organ in either mask.
    n_scans
        Scans with the organ in either mask.
    n_one_sided
        Scans with the organ in one mask only, which have no HD95.
    """

    surface_dice: FloatOrNan
    hd95_mm: FloatOrNan
    volume_error_ml: FloatOrNan
    volume_error_abs_ml: FloatOrNan
    n_scans: int
    n_one_sided: int


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value and its bootstrap interval; the bounds are NaN if there is only one patient."""

    value: float
    low: float
    high: float


def intervals_to_json(intervals: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    """Return each interval as ``[value, low, high]`` for a JSON file; NaN becomes ``None``."""
    return {name: to_plain(list(vars(found).values())) for name, found in intervals.items()}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the slices of a scan are: their numbers, and the voxel spacing in mm if it is known."""

    numbers: tuple[int, ...]
    spacing_mm: Spacing | None = None


@dataclass(frozen=True, kw_only=True)
class ScanScore:
    """Score of one scan; see :class:`Score`.

    Attributes
    ----------
    terms, numbers
        The values that the means are made of, and the numbers of their slices; ``None`` for a score
        that was read from a file.
    measures
        Measures in mm and ml by organ, if requested.
    spacing_mm
        Voxel spacing ``(z, y, x)``, if known.
    """

    scan_id: str
    patient_id: str
    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    per_organ: ByOrgan[OrganScore]
    terms: InstanceOf[Terms] | None = field(default=None, repr=False)
    numbers: tuple[int, ...] | None = field(default=None, repr=False)
    measures: Annotated[ByOrgan[OrganMeasures] | None, Field(alias="medical")] = None
    spacing_mm: Spacing | None = None

    @property
    def missed(self) -> tuple[str, ...]:
        """Return the organs that are only in the truth."""
        return tuple(organ for organ, of in self.per_organ.items() if of.n_missed)

    @property
    def extra(self) -> tuple[str, ...]:
        """Return the organs that are only in the prediction."""
        return tuple(organ for organ, of in self.per_organ.items() if of.n_extra)


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score of a submission under one convention.

    Attributes
    ----------
    score
        ``0.4 * dice + 0.6 * (1 - hausdorff)``; NaN if nothing was counted.
    dice
        Mean Dice of the counted rows, in [0, 1].
    hausdorff
        Mean normalised Hausdorff distance of the counted units, in [0, 1]; 0 is best.
    per_scan
        The same for each scan, in numeric order of patient and day.
    medical, tolerance_mm
        Mean measures in mm and ml by organ, if requested, and the tolerance of the surface Dice.
    warnings
        Reasons to doubt that the submission was read as it was meant, and scans with gaps between
        the scored slices; not in its JSON.
    scope
        Which scans were scored, if not all of both tables.
    misread
        ``"column-major"`` or ``"zero-based"`` if a table seems to be meant so.
    standing
        What the score means, such as ``"held-out"``, if that was recorded with the prediction.
    intervals
        95 % intervals over patients by quantity, such as ``score`` and ``stomach.dice``, if
        requested; ``None`` for a score that was read from a file.
    """

    metric: Metric
    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    per_organ: ByOrgan[OrganScore] = field(repr=False)
    per_scan: tuple[ScanScore, ...] = field(repr=False)
    medical: ByOrgan[OrganMedical] | None = field(default=None, repr=False)
    tolerance_mm: float | None = None
    warnings: tuple[str, ...] = ()
    scope: str = ""
    misread: str = ""
    standing: str = ""
    intervals: Annotated[Mapping[str, Interval] | None, BeforeValidator(lambda _: None)] = field(
        default=None, repr=False
    )

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain values for a JSON file; NaN becomes ``None``."""
        content = {"metric": self.metric, **_list_means(self)}
        content["per_scan"] = [
            {
                "scan_id": scan.scan_id,
                "patient_id": scan.patient_id,
                **_list_means(scan),
                "missed": scan.missed,
                "extra": scan.extra,
                **({} if scan.spacing_mm is None else {"spacing_mm": scan.spacing_mm}),
                **({} if scan.measures is None else {"medical": scan.measures}),
            }
            for scan in self.per_scan
        ]
        if self.medical is not None:
            content |= {"tolerance_mm": self.tolerance_mm, "medical": self.medical}
        texts = ("scope", "misread", "standing")
        content |= {name: text for name in texts if (text := getattr(self, name))}
        if self.intervals is not None:
            content["intervals"] = intervals_to_json(self.intervals)
        return dict(to_plain(content))

    def list_scans(self) -> list[dict[str, Any]]:
        """Return a row for each scan: ids, three values, organs missed and extra, organs' values.

        Those of an organ are Dice and distance, and its measures in mm and ml if there are any.
        """
        rows = []
        for scan in self.per_scan:
            row: dict[str, Any] = {"scan_id": scan.scan_id, "patient_id": scan.patient_id}
            row |= {name: getattr(scan, name) for name in _TERMS}
            row |= {"missed": " ".join(scan.missed), "extra": " ".join(scan.extra)}
            for organ, of in scan.per_organ.items():
                row |= {f"{organ}_dice": of.dice, f"{organ}_hausdorff": of.hausdorff}
            for organ, measures in (scan.measures or {}).items():
                row |= {f"{organ}_{name}": value for name, value in vars(measures).items()}
            rows.append(row)
        return rows

    def list_patients(self) -> list[dict[str, Any]]:
        """Return a row for each patient: number of scans, and the three values over all of them."""
        of_patient: dict[str, list[ScanScore]] = {}
        for scan in self.per_scan:
            of_patient.setdefault(scan.patient_id, []).append(scan)
        return [
            {"patient_id": patient_id, "n_scans": len(scans), **_pool_scans(scans)}
            for patient_id, scans in of_patient.items()
        ]

    def list_slices(self) -> Iterator[dict[str, Any]]:
        """Give a row for each slice and organ, in order.

        It has the Dice; for ``slice-2d`` the distance; the areas in pixels and, if the spacing is
        known, in mm2; and whether the organ is only in the truth (missed) or only in the
        prediction (extra).

        Raises
        ------
        ValueError
            For a score that was read from a file, which has no values of slices.
        """
        for scan in self.per_scan:
            terms, numbers = scan.terms, scan.numbers
            if terms is None or terms.counts is None or numbers is None:
                raise ValueError(f"{scan.scan_id}: no values of slices are known; score again")
            yield from _list_slices(scan.scan_id, numbers, terms, terms.counts, scan.spacing_mm)

    def to_frame(
        self, by: Literal["scan", "organ", "slice", "patient", "quantity"] = "scan"
    ) -> DataFrame:
        """Return the score as a table; NaN if nothing was counted.

        Parameters
        ----------
        by
            ``"scan"``: a row for each scan, indexed by its id, with the columns of the CSV beside
            ``score-CONVENTION.json``. ``"organ"``: a row for each organ with its counts, and one
            for ``"all"``. ``"patient"``: a row for each patient, over all scans. ``"slice"``: a row
            for each slice and organ, not for a score that was read from a file. ``"quantity"``: a
            row for each interval with ``value``, ``low`` and ``high``, if they were requested.
        """
        import pandas as pd

        if by == "scan":
            return pd.DataFrame(self.list_scans()).set_index("scan_id")
        if by == "patient":
            return pd.DataFrame(self.list_patients()).set_index("patient_id")
        if by == "slice":
            return pd.DataFrame(self.list_slices()).set_index(["scan_id", "slice", "organ"])
        if by == "quantity":
            if self.intervals is None:
                raise ValueError("no intervals are known; score with intervals=True")
            bounds = {name: vars(of) for name, of in self.intervals.items()}
            return pd.DataFrame.from_dict(bounds, orient="index").rename_axis("quantity")
        if by != "organ":
            raise ValueError(
                f"by {by!r} is none of 'scan', 'organ', 'slice', 'patient', 'quantity'"
            )
        rows = {organ: dict(vars(of)) for organ, of in self.per_organ.items()}
        rows["all"] = {
            **{name: getattr(self, name) for name in _TERMS},
            **{name: sum(row[name] for row in rows.values()) for name in _COUNTS},
        }
        for organ, of in (self.medical or {}).items():
            rows[organ] |= {n: v for n, v in vars(of).items() if not n.startswith("n_")}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("organ")

    def __str__(self) -> str:
        """Return the score and its two terms as one line."""
        return (
            f"{self.score:.5f} = 0.4 x Dice {self.dice:.5f} + "
            f"0.6 x (1 - normalised Hausdorff {self.hausdorff:.5f}); convention {self.metric}"
            + (f"; {self.scope}" if self.scope else "")
        )

    def _repr_html_(self) -> str:
        table = self.to_frame("organ").to_html(float_format="{:.4f}".format, na_rep="-")
        return f"<p>Score {self}</p>{table}"


_TERMS = ("score", "dice", "hausdorff")
_COUNTS = ("n_rows", "n_units", "n_missed", "n_extra")


def _list_means(score: Score | ScanScore) -> dict[str, Any]:
    return {name: getattr(score, name) for name in (*_TERMS, "per_organ")}


def _pool_scans(scans: Sequence[ScanScore]) -> dict[str, float]:
    """Return the three values over the rows and units of some scans."""
    organs = [of for scan in scans for of in scan.per_organ.values()]
    dice = _weigh([(of.dice, of.n_rows) for of in organs])
    units = [(of.hausdorff, of.n_units) for of in organs]
    if not any(n for _, n in units):  # the organs are joined: one unit a scan
        units = [(scan.hausdorff, 1) for scan in scans]
    hausdorff = _weigh(units)
    return {"score": combine(dice, hausdorff), "dice": dice, "hausdorff": hausdorff}


def _weigh(values: Sequence[tuple[float, int]]) -> float:
    """Return the mean of values with weights, without those that are NaN; NaN for none."""
    known = [(value, weight) for value, weight in values if not math.isnan(value)]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else math.nan


def _list_slices(
    scan_id: str,
    numbers: Sequence[int],
    terms: Terms,
    counts: NDArray[np.int64],
    spacing_mm: Spacing | None,
) -> Iterator[dict[str, Any]]:
    distances = terms.hausdorff if terms.hausdorff.shape == terms.dice.shape else None
    pixel_mm2 = math.nan if spacing_mm is None else spacing_mm[1] * spacing_mm[2]
    _, predicted, true = counts
    for at, number in enumerate(numbers):
        for index, organ in enumerate(ORGANS):
            n_pred, n_true = int(predicted[index, at]), int(true[index, at])
            yield {
                "scan_id": scan_id,
                "slice": number,
                "organ": organ,
                "dice": float(terms.dice[index, at]),
                "hausdorff": math.nan if distances is None else float(distances[index, at]),
                "pixels_true": n_true,
                "pixels_predicted": n_pred,
                "area_true_mm2": n_true * pixel_mm2,
                "area_predicted_mm2": n_pred * pixel_mm2,
                "missed": n_true > 0 and n_pred == 0,
                "extra": n_pred > 0 and n_true == 0,
            }


def to_plain(value: Any) -> Any:
    """Return a value, and all that it holds, as plain values for JSON; NaN becomes ``None``."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def combine_terms(
    terms: Mapping[str, Terms],
    *,
    metric: Metric,
    places: Mapping[str, Place] | None = None,
    measures: Mapping[str, Mapping[str, OrganMeasures]] | None = None,
    tolerance_mm: float | None = None,
) -> Score:
    """Combine the terms of scans, by scan id, into one score; the order is kept.

    ``measures`` are the medical measures by scan id, taken with ``tolerance_mm``.
    """
    known = places or {}
    return Score(
        metric=metric,
        **_average(list(terms.values())),
        per_scan=tuple(
            ScanScore(
                scan_id=scan_id,
                patient_id=patient_of(scan_id),
                **_average([part]),
                terms=part,
                numbers=known[scan_id].numbers if scan_id in known else None,
                spacing_mm=known[scan_id].spacing_mm if scan_id in known else None,
                measures=None if measures is None else measures[scan_id],
            )
            for scan_id, part in terms.items()
        ),
        medical=None if measures is None else _average_measures(list(measures.values())),
        tolerance_mm=None if measures is None else tolerance_mm,
    )


def add_measures(
    score: Score, measures: Mapping[str, Mapping[str, OrganMeasures]], *, tolerance_mm: float
) -> Score:
    """Return a score with the medical measures of its scans, by scan id, and their means."""
    return replace(
        score,
        per_scan=tuple(replace(scan, measures=measures[scan.scan_id]) for scan in score.per_scan),
        medical=_average_measures([measures[scan.scan_id] for scan in score.per_scan]),
        tolerance_mm=tolerance_mm,
    )


def _average_measures(scans: Sequence[Mapping[str, OrganMeasures]]) -> dict[str, OrganMedical]:
    averages = {}
    for organ in ORGANS:
        mine = [scan[organ] for scan in scans]
        surface_dice, n_scans = _mean(np.array([m.surface_dice for m in mine]))
        hd95_mm, n_paired = _mean(np.array([m.hd95_mm for m in mine]))
        error = np.array([m.counted_error_ml for m in mine])
        averages[organ] = OrganMedical(
            surface_dice=surface_dice,
            hd95_mm=hd95_mm,
            volume_error_ml=_mean(error)[0],
            volume_error_abs_ml=_mean(np.abs(error))[0],
            n_scans=n_scans,
            n_one_sided=n_scans - n_paired,
        )
    return averages


def _average(parts: Sequence[Terms]) -> dict[str, Any]:
    """Return score, mean Dice and mean distance by name, and the same for each organ."""
    if not parts:
        parts = [Terms(dice=np.zeros((len(ORGANS), 0)), hausdorff=np.zeros((len(ORGANS), 0)))]
    dice = np.concatenate([part.dice for part in parts], axis=1)
    distance = np.concatenate([part.hausdorff for part in parts], axis=1)
    there = [part.counts.any(axis=2) for part in parts if part.counts is not None]
    _, predicted, true = np.array(there, np.bool_).reshape(-1, 3, len(ORGANS)).swapaxes(0, 1)
    per_organ = {}
    for index, organ in enumerate(ORGANS):
        mine = distance[index] if len(distance) == len(ORGANS) else np.empty(0)
        mean_dice, n_rows = _mean(dice[index])
        mean_distance, n_units = _mean(mine)
        per_organ[organ] = OrganScore(
            score=combine(mean_dice, mean_distance),
            dice=mean_dice,
            hausdorff=mean_distance,
            n_rows=n_rows,
            n_units=n_units,
            n_missed=int((true & ~predicted)[:, index].sum()),
            n_extra=int((predicted & ~true)[:, index].sum()),
        )
    means = {"dice": _mean(dice)[0], "hausdorff": _mean(distance)[0]}
    return {**means, "score": combine(**means), "per_organ": per_organ}


def _mean(values: NDArray[np.float64]) -> tuple[float, int]:
    """Return the mean of the values that are not NaN, NaN for none, and their number."""
    counted = values[~np.isnan(values)]
    return (float(counted.mean()), len(counted)) if len(counted) else (math.nan, 0)
