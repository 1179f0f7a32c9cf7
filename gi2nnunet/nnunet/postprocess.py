"""From probabilities to masks: thresholds, blend, gate, components and gaps, organ by organ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gi2nnunet.formats.ids import ORGANS
from gi2nnunet.formats.labels import LabelMap, find_box, join_organs

_NEIGHBOURS = np.ones((3, 3, 3), np.bool_)  # voxels that touch in a corner hold together


@dataclass(frozen=True, kw_only=True)
class OrganDecision:
    """How one organ's mask is made; the default is the plain way.

    Attributes
    ----------
    weights
        Weight of each configuration's probability, by name, in sum 1; none for the mean.
    threshold
        The mask is where the blended probability exceeds it.
    gate
        A slice whose highest probability does not exceed it has no mask; 0 lets all pass.
    smallest_ml
        Connected parts (26 neighbours) of less volume are dropped; 0 keeps all.
    fill_slices
        So many empty slices between two others are filled with what those two share.
    """

    weights: tuple[tuple[str, float], ...] = ()
    threshold: float = 0.5
    gate: float = 0.0
    smallest_ml: float = 0.0
    fill_slices: int = 0


PLAIN = OrganDecision()
"""The mean of the configurations, above one half."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How masks are made of probabilities, by organ; organs left out are made the plain way."""

    organs: Mapping[str, OrganDecision] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values, the inverse of :func:`read_decision`."""
        return {
            organ: {**asdict(choice), "weights": dict(choice.weights)}
            for organ, choice in self.organs.items()
        }


def read_decision(content: object) -> Decision:
    """Return the decision of plain values.

    Raises
    ------
    ValueError
        Where they are something else.
    """
    if not isinstance(content, dict) or not set(content) <= set(ORGANS):
        raise ValueError("found no table of the organs")
    organs = {}
    for organ, values in content.items():
        if not isinstance(values, dict) or not isinstance(values.get("weights"), dict):
            raise ValueError(f"{organ}: found no table")
        weights = tuple((str(k), _number(v, 0, 1)) for k, v in values["weights"].items())
        if weights and not math.isclose(sum(w for _, w in weights), 1, abs_tol=1e-6):
            raise ValueError(f"{organ}: found weights that do not add up to 1")
        organs[organ] = OrganDecision(
            weights=weights,
            threshold=_number(values.get("threshold"), 0, 1),
            gate=_number(values.get("gate"), 0, 1),
            smallest_ml=_number(values.get("smallest_ml"), 0, 1e6),
            fill_slices=int(_number(values.get("fill_slices"), 0, 1e3)),
        )
    return Decision(organs=organs)


def _number(value: object, low: float, high: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise ValueError(f"found {value!r}; expected a number from {low:g} to {high:g}")


def apply_decision(
    probabilities: Mapping[str, NDArray[np.floating]],
    decision: Decision,
    *,
    spacing_mm: Sequence[float],
) -> LabelMap:
    """Return the bit-coded label map ``(z, y, x)``.

    Parameters
    ----------
    probabilities
        By configuration, ``(organ, z, y, x)`` in [0, 1], slices in order.
    decision
        How to decide.
    spacing_mm
        Voxel spacing ``(z, y, x)``.
    """
    return join_organs(
        [
            decide_organ(
                {name: array[index] for name, array in probabilities.items()},
                decision.organs.get(organ, PLAIN),
                voxel_ml=math.prod(spacing_mm) / 1000,
            )
            for index, organ in enumerate(ORGANS)
        ]
    )


def decide_organ(
    probabilities: Mapping[str, NDArray[np.generic]],
    choice: OrganDecision,
    *,
    voxel_ml: float,
    scale: float = 1.0,
) -> NDArray[np.bool_]:
    """Return one organ's mask ``(z, y, x)``.

    Parameters
    ----------
    probabilities
        By configuration, ``(z, y, x)``.
    choice
        How to decide.
    voxel_ml
        Volume of a voxel.
    scale
        What stands for probability 1: 255 for eight bits.
    """
    blended = blend(probabilities, choice.weights)
    mask: NDArray[np.bool_] = blended > choice.threshold * scale
    if choice.gate > choice.threshold:
        mask[blended.max(axis=(1, 2), initial=0) <= choice.gate * scale] = False
    if choice.smallest_ml > 0 and mask.any():
        _drop_small(mask, least=choice.smallest_ml / voxel_ml)
    if choice.fill_slices:
        _fill_gaps(mask, most=choice.fill_slices)
    return mask


def blend(
    probabilities: Mapping[str, NDArray[np.generic]], weights: Sequence[tuple[str, float]]
) -> NDArray[np.float32]:
    """Return the weighted mean of the configurations; without weights the plain one."""
    used = dict(weights) or dict.fromkeys(probabilities, 1 / len(probabilities))
    total: NDArray[np.float32] | None = None
    for name, weight in used.items():
        if weight == 0:
            continue
        if name not in probabilities:
            raise ValueError(f"no probabilities of {name}")
        part = np.multiply(probabilities[name], np.float32(weight), dtype=np.float32)
        total = part if total is None else np.add(total, part, out=total)
    if total is None:
        raise ValueError("no configuration has a weight")
    return total


def _drop_small(mask: NDArray[np.bool_], *, least: float) -> None:
    box = find_box(mask)
    parts, count = ndimage.label(mask[box], _NEIGHBOURS)
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    keep = sizes >= least
    keep[0] = False
    mask[box] = keep[parts]


def _fill_gaps(mask: NDArray[np.bool_], *, most: int) -> None:
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    for before, after in zip(filled[:-1].tolist(), filled[1:].tolist(), strict=True):
        if 1 < after - before <= most + 1:
            mask[before + 1 : after] = mask[before] & mask[after]
