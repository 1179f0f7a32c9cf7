#!/bin/sh
# panoptica 2.1.7: the global Hausdorff distance ignores voxelspacing: it is in voxels, not in mm.
# evaluate() takes voxelspacing. The metrics of instances use it; those of global_metrics, of the same masks in the
# same call, do not. A mask that is one slice of 3 mm off is at distance 3.0 by its instance and 1.0 globally; the
# tolerance of the global surface Dice is 0.5 voxels in place of the smallest distance of voxels.
# Seen: one slice off, voxelspacing (3, 1.5, 1.5): instance HD 3.0, global HD 1.0; without voxelspacing 1.0 and 1.0.
# The script ends with 0 while this is so, and with 1 when the global distance is another.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'panoptica==2.1.7' 'numpy==2.2.6' 'scipy==1.17.1'
env/bin/python - <<'EOF' 2>/dev/null
import sys

import numpy as np
from panoptica import (
    ConnectedComponentsInstanceApproximator,
    InputType,
    NaiveThresholdMatching,
    Panoptica_Evaluator,
)
from panoptica.metrics import Metric

truth = np.zeros((10, 20, 20), np.uint8)
truth[3:7, 5:12, 5:12] = 1
pred = np.roll(truth, 1, axis=0)
evaluator = Panoptica_Evaluator(
    expected_input=InputType.SEMANTIC,
    instance_approximator=ConnectedComponentsInstanceApproximator(),
    instance_matcher=NaiveThresholdMatching(),
    instance_metrics=[Metric.DSC, Metric.HD],
    global_metrics=[Metric.DSC, Metric.HD],
)
seen = []
for spacing in ((3.0, 1.5, 1.5), None):
    result = evaluator.evaluate(pred, truth, voxelspacing=spacing)["ungrouped"]
    seen.append((float(result.sq_hd), float(result.global_bin_hd)))
    print(f"voxelspacing {spacing}: instance HD {seen[-1][0]}, global HD {seen[-1][1]}")
sys.exit(0 if seen == [(3.0, 1.0), (1.0, 1.0)] else 1)
EOF
