"""Scores: means over rows, scans and organs, and the values that they are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, InstanceOf

from gi2nnunet.core.files import FloatOrNan
from gi2nnunet.formats.ids import ORGANS, patient_of
from gi2nnunet.scoring.conventions import Metric
from gi2nnunet.scoring.medical import OrganMeasures
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
    """

    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    n_rows: int
    n_units: int


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
        Mean of predicted minus true volume, and of its absolute value, in ml over all scans.
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
class ScanScore:
    """Score of one scan; see :class:`Score`.

    Attributes
    ----------
    terms
        The values that the means are made of; ``None`` for a score that was read from a file.
    measures
        Measures in mm and ml by organ, if requested.
    """

    scan_id: str
    patient_id: str
    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    per_organ: ByOrgan[OrganScore]
    terms: InstanceOf[Terms] | None = field(default=None, repr=False)
    measures: Annotated[ByOrgan[OrganMeasures] | None, Field(alias="medical")] = None


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
    """

    metric: Metric
    score: FloatOrNan
    dice: FloatOrNan
    hausdorff: FloatOrNan
    per_organ: ByOrgan[OrganScore]
    per_scan: tuple[ScanScore, ...] = field(repr=False)
    medical: ByOrgan[OrganMedical] | None = None
    tolerance_mm: float | None = None
    warnings: tuple[str, ...] = ()
    scope: str = ""
    misread: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the score as plain values for a JSON file; NaN becomes ``None``."""
        content = {"metric": self.metric, **_list_means(self)}
        content["per_scan"] = [
            {
                "scan_id": scan.scan_id,
                "patient_id": scan.patient_id,
                **_list_means(scan),
                **({} if scan.measures is None else {"medical": scan.measures}),
            }
            for scan in self.per_scan
        ]
        if self.medical is not None:
            content |= {"tolerance_mm": self.tolerance_mm, "medical": self.medical}
        content |= {name: text for name in ("scope", "misread") if (text := getattr(self, name))}
        return dict(to_plain(content))

    def list_scans(self) -> list[dict[str, Any]]:
        """Return a row for each scan: ids, three values, and Dice and distance of each organ."""
        rows = []
        for scan in self.per_scan:
            names = ("scan_id", "patient_id", "score", "dice", "hausdorff")
            row = {name: getattr(scan, name) for name in names}
            for organ, terms in scan.per_organ.items():
                row |= {f"{organ}_dice": terms.dice, f"{organ}_hausdorff": terms.hausdorff}
            rows.append(row)
        return rows

    def to_frame(self, by: Literal["scan", "organ"] = "scan") -> DataFrame:
        """Return the score as a table; NaN if nothing was counted.

        Parameters
        ----------
        by
            ``"scan"``: a row for each scan, indexed by its id, with the columns of ``score.csv``.
            ``"organ"``: a row for each organ with its counts, and one for ``"all"``.
        """
        import pandas as pd

        if by == "scan":
            return pd.DataFrame(self.list_scans()).set_index("scan_id")
        if by != "organ":
            raise ValueError(f"by {by!r} is neither 'scan' nor 'organ'")
        rows = {organ: vars(terms) for organ, terms in self.per_organ.items()}
        rows["all"] = {
            **{name: getattr(self, name) for name in ("score", "dice", "hausdorff")},
            **{n: sum(row[n] for row in rows.values()) for n in ("n_rows", "n_units")},
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("organ")

    def __str__(self) -> str:
        """Return the score and its two terms as one line."""
        return (
            f"{self.score:.5f} = 0.4 x Dice {self.dice:.5f} + "
            f"0.6 x (1 - Hausdorff {self.hausdorff:.5f}); convention {self.metric}"
            + (f"; {self.scope}" if self.scope else "")
        )

    def _repr_html_(self) -> str:
        table = self.to_frame("organ").to_html(float_format="{:.4f}".format, na_rep="-")
        return f"<p>Score {self}</p>{table}"


def _list_means(score: Score | ScanScore) -> dict[str, Any]:
    return {name: getattr(score, name) for name in ("score", "dice", "hausdorff", "per_organ")}


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
    measures: Mapping[str, Mapping[str, OrganMeasures]] | None = None,
    tolerance_mm: float | None = None,
) -> Score:
    """Combine the terms of scans, by scan id, into one score; the order is kept.

    ``measures`` are the medical measures by scan id, taken with ``tolerance_mm``.
    """
    return Score(
        metric=metric,
        **_average(list(terms.values())),
        per_scan=tuple(
            ScanScore(
                scan_id=scan_id,
                patient_id=patient_of(scan_id),
                **_average([part]),
                terms=part,
                measures=None if measures is None else measures[scan_id],
            )
            for scan_id, part in terms.items()
        ),
        medical=None if measures is None else _average_measures(list(measures.values())),
        tolerance_mm=None if measures is None else tolerance_mm,
    )


def _average_measures(scans: Sequence[Mapping[str, OrganMeasures]]) -> dict[str, OrganMedical]:
    averages = {}
    for organ in ORGANS:
        mine = [scan[organ] for scan in scans]
        surface_dice, n_scans = _mean(np.array([m.surface_dice for m in mine]))
        hd95_mm, n_paired = _mean(np.array([m.hd95_mm for m in mine]))
        error = np.array([m.volume_error_ml for m in mine])
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
        )
    means = {"dice": _mean(dice)[0], "hausdorff": _mean(distance)[0]}
    return {**means, "score": combine(**means), "per_organ": per_organ}


def _mean(values: NDArray[np.float64]) -> tuple[float, int]:
    """Return the mean of the values that are not NaN, NaN for none, and their number."""
    counted = values[~np.isnan(values)]
    return (float(counted.mean()), len(counted)) if len(counted) else (math.nan, 0)
