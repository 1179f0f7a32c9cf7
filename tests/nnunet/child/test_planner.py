"""The planner's axes: slices stay the first axis if they are few and pixels are wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gi2nnunet.nnunet.child.planner import _shape_planner, _Sizes


def make_planner(slices: list[int], spacing_mm: tuple[float, float, float]) -> Any:
    """nnU-Net's own rule for axes, on a fingerprint; the files that it reads are left out."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )

    class Stock(ExperimentPlanner):  # type: ignore[misc]
        def __init__(self) -> None:
            self.suppress_transpose = False
            self.overwrite_target_spacing = None
            self.anisotropy_threshold = 3
            self.dataset_fingerprint = {
                "shapes_after_crop": [(count, 32, 32) for count in slices],
                "spacings": [spacing_mm] * len(slices),
            }

    sizes = _Sizes(data_name="x", tiny=False, batch_size=None, patch_sizes={}, asked=[])
    shaped = _shape_planner(Stock, sizes)
    assert shaped.__name__ == "Stock"
    return shaped()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("slices", "spacing_mm", "expected"),
    [
        ([1, 1], (3, 6, 6), [0, 1, 2]),
        ([2, 2], (3, 6, 6), [0, 1, 2]),
        ([7, 7], (3, 6, 6), [0, 1, 2]),
        ([11, 11], (3, 6, 6), [0, 1, 2]),
        ([12, 12], (3, 6, 6), [1, 0, 2]),  # nnU-Net's own
        ([80, 144], (3, 6, 6), [1, 0, 2]),
        ([144, 144], (3, 1.5, 1.5), [0, 1, 2]),
        ([2, 2], (3, 1.5, 1.5), [0, 1, 2]),
    ],
)
def test_2d_patches_are_not_cut_across_a_few_slices(
    slices: list[int], spacing_mm: tuple[float, float, float], expected: list[int]
) -> None:
    forward, backward = make_planner(slices, spacing_mm).determine_transpose()
    assert list(forward) == expected
    assert np.take(forward, backward).tolist() == [0, 1, 2]
