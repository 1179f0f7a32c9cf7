"""Cases: pairs of masks on which tools for scores disagree.

The programs beside it run in environments of their own, so this needs NumPy only. Arrays are
``(organs, z, y, x)`` bool; most cases have one organ. Voxels are 3 mm by 1.5 mm by 1.5 mm.
"""

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masks = NDArray[np.bool_]

SHAPE = (10, 32, 40)
SPACING_MM = (3.0, 1.5, 1.5)
BOX = (slice(3, 7), slice(11, 20), slice(12, 26))
MEASURES = ("dice", "hausdorff", "hd95", "surface_dice")
TOLERANCE_MM = 3.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A pair of masks.

    Attributes
    ----------
    truth, pred
        ``(organs, z, y, x)``.
    spacing_mm
        What the tool gets as the distance of voxels along z, y, x.
    """

    name: str
    truth: Masks
    pred: Masks
    spacing_mm: tuple[float, float, float] = SPACING_MM


def make_cases() -> list[Case]:
    """Return the cases in the order of the page."""
    nothing = np.zeros((1, *SHAPE), np.bool_)
    organ = paint(BOX)
    far = organ.copy()
    far[0, 0, 0, 39] = True
    less = organ & (np.arange(SHAPE[2]) < 19)
    full = np.ones((1, 1, 32, 40), np.bool_)
    at_border = paint((slice(0, 4), slice(0, 10), slice(0, 14)))
    three = np.concatenate([np.roll(organ, step, axis=2) for step in (-10, 0, 10)])
    first_off = three.copy()
    first_off[0] = np.roll(three[0], 6, axis=2)
    third_absent = three.copy()
    third_absent[2] = False
    no_last_slice = organ.copy()
    no_last_slice[0, 6] = False
    one_more_slice = organ | paint((slice(7, 8), slice(14, 16), slice(18, 20)))
    one_voxel = paint((slice(5, 6), slice(15, 16), slice(20, 21)))
    up = np.roll(organ, 1, axis=1)
    return [
        Case(name="equal", truth=organ, pred=organ),
        Case(name="missed", truth=organ, pred=nothing),
        Case(name="made up", truth=nothing, pred=organ),
        Case(name="both empty", truth=nothing, pred=nothing),
        Case(name="one organ of three absent", truth=third_absent, pred=third_absent),
        Case(name="first organ wrong", truth=three, pred=first_off),
        Case(name="shifted by a pixel", truth=organ, pred=np.roll(organ, 1, axis=3)),
        Case(name="shifted by a slice", truth=organ, pred=up),
        Case(name="spacing reversed", truth=organ, pred=up, spacing_mm=SPACING_MM[::-1]),
        Case(name="half missed", truth=organ, pred=less),
        Case(name="far voxel", truth=organ, pred=far),
        Case(name="one-voxel organ", truth=one_voxel, pred=np.roll(one_voxel, 1, axis=3)),
        Case(name="last slice missed", truth=organ, pred=no_last_slice),
        Case(name="one slice too many", truth=organ, pred=one_more_slice),
        Case(name="at the border", truth=at_border, pred=np.roll(at_border, 2, axis=3)),
        Case(name="fills the image", truth=full, pred=full & (np.arange(40) < 24)),
    ]


def paint(box: tuple[slice, slice, slice]) -> Masks:
    """Return one organ: a box in an empty image."""
    masks = np.zeros((1, *SHAPE), np.bool_)
    masks[0][box] = True
    return masks


def to_labels(masks: Masks) -> NDArray[np.uint8]:
    """Return the ``(z, y, x)`` label map: 1 for the first organ, and so on."""
    labels = np.zeros(masks.shape[1:], np.uint8)
    for value, mask in enumerate(masks, start=1):
        labels[mask] = value
    return labels


def mean_over_organs(
    measure: Callable[[Masks, Masks, tuple[float, float, float]], float],
) -> Callable[[Case], float]:
    """Return the plain mean of a tool that measures one organ at a time."""

    def measure_case(case: Case) -> float:
        values = [
            float(measure(truth, pred, case.spacing_mm))
            for truth, pred in zip(case.truth, case.pred, strict=True)
        ]
        return float(np.mean(values))

    return measure_case


def run(measures: Mapping[str, Callable[[Case], Any]]) -> None:
    """Measure every case and write the answers, as text, to the file of the command line.

    An exception is an answer too: the name of its class.
    """
    warnings.simplefilter("ignore")
    answers: dict[str, dict[str, str]] = {}
    for case in make_cases():
        answers[case.name] = {}
        for name, measure in measures.items():
            try:
                answers[case.name][name] = f"{float(measure(case)):.6g}"
            except Exception as error:
                answers[case.name][name] = type(error).__name__
    Path(sys.argv[1]).write_text(json.dumps(answers, indent=1))
