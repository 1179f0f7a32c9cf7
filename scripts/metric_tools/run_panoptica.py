"""panoptica's global metrics of label maps, a class group for each organ."""

import numpy as np
from cases import Case, run, to_labels
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
)
from panoptica.metrics import Metric
from panoptica.utils.segmentation_class import LabelGroup, SegmentationClassGroups

FIELDS = {"DSC": "global_bin_dsc", "HD": "global_bin_hd", "HD95": "global_bin_hd95"}
FIELDS["NSD"] = "global_bin_nsd"


def measure(case: Case, metric: Metric) -> float:
    n_organs = len(case.truth)
    evaluator = Panoptica_Evaluator(
        expected_input=InputType.SEMANTIC,
        instance_approximator=ConnectedComponentsInstanceApproximator(),
        instance_matcher=NaiveThresholdMatching(),
        segmentation_class_groups=SegmentationClassGroups(
            {f"organ {value}": LabelGroup(value) for value in range(1, n_organs + 1)}
        ),
        global_metrics=[metric],
    )
    found = evaluator.evaluate(
        to_labels(case.pred), to_labels(case.truth), voxelspacing=case.spacing_mm
    )
    return float(np.mean([getattr(one, FIELDS[metric.name]) for one in found.values()]))


run(
    {
        "dice": lambda case: measure(case, Metric.DSC),
        "hausdorff": lambda case: measure(case, Metric.HD),
        "hd95": lambda case: measure(case, Metric.HD95),
        "surface_dice": lambda case: measure(case, Metric.NSD),
    }
)
