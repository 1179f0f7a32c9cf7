#!/bin/sh
# nnU-Net 2.8.1 plans a network for 8 to 11 slices that are much closer than the pixels, and cannot train it.
# Its rule halves only axes within a factor of 2 of the finest spacing, and a lone axis from 12 voxels on. If that axis
# has 8 to 11 voxels, nothing is halved: the plan has a single stage, and no message says so. With deep supervision,
# which training uses, such a network gives an empty list, so that the loss has nothing to compare. With 7 slices or
# fewer the other axes are halved, and all is well. The planner's 2D patches across such slices end the same way.
# Seen: 3 x 6 x 6 mm, 40 x 48 pixels: 7 slices, 4 stages, 3 outputs; 10 slices, 1 stage, 0 outputs; 12 slices, 5
# stages, 4 outputs.
# The script ends with 0 while this is so, and with 1 when 10 slices get a network with outputs, or are refused.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'nnunetv2==2.8.1' 'torch==2.15.0' 'torchvision==0.29.2' 'numpy==2.4.6'
cat > try.py <<'EOF'
import sys

import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

SMALLEST_EDGE, MOST_HALVINGS = 4, 999999  # as the planner gives them


def plan(slices):
    _, strides, kernels, patch, _ = get_pool_and_conv_props((3, 6, 6), (slices, 40, 48), SMALLEST_EDGE, MOST_HALVINGS)
    stages = len(strides)
    network = get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        {
            "n_stages": stages, "features_per_stage": [4] * stages, "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": kernels, "strides": strides, "n_conv_per_stage": [1] * stages,
            "n_conv_per_stage_decoder": [1] * (stages - 1), "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"affine": True},
            "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {},
        },
        ["conv_op", "norm_op", "dropout_op", "nonlin"], 1, 3, True, True,
    )
    outputs = network(torch.zeros(2, 1, *map(int, patch)))
    print(f"{slices} slices: {stages} stages, {len(outputs)} outputs")
    return stages, len(outputs)


found = {slices: plan(slices) for slices in (7, 10, 12)}
sys.exit(0 if found[10] == (1, 0) and found[7][1] and found[12][1] else 1)
EOF
env/bin/python try.py
