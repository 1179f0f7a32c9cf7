#!/bin/sh
# torchmetrics 1.9.0: HausdorffDistance is wrong on every image that is not square.
# Its distance transform puts the results at row * height + column in place of row * width + column. On a square image
# that is the same. On a wider one the distances are those of other pixels: a mask is far from itself. On a higher
# one the call raises an IndexError, or not, depending on where the organ is. Volumes, which the
# documentation allows as (N, C, ...), raise a ValueError.
# Seen: a mask and itself: 32 x 32: 0.0; 32 x 40: 13.3; SciPy and all others: 0. One pixel off: 1.0 and 14.3.
# The script ends with 0 while this is so, and with 1 when a mask on a wide image is at distance 0 from itself.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'torchmetrics==1.9.0' 'torch==2.15.0' 'numpy==2.4.6'
env/bin/python - <<'EOF'
import sys

import torch
from torchmetrics.segmentation import HausdorffDistance

seen = {}
for width in (32, 40):
    mask = torch.zeros(1, 1, 32, width, dtype=torch.int)
    mask[0, 0, 11:20, 12:26] = 1
    for name, pred in (("itself", mask), ("one pixel off", mask.roll(1, dims=3))):
        seen[width, name] = HausdorffDistance(num_classes=1)(pred, mask).item()
        print(f"32 x {width}, a mask and {name}: {seen[width, name]:.1f}")
square = (seen[32, "itself"], seen[32, "one pixel off"]) == (0, 1)
sys.exit(0 if square and seen[40, "itself"] > 10 and seen[40, "one pixel off"] > 10 else 1)
EOF
