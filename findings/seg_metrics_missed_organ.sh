#!/bin/sh
# seg-metrics 1.2.8: an organ that is missed entirely gets the Hausdorff distance 0.0, the best value there is.
# When the reference holds an organ and the prediction is empty, the distance is not defined; other packages give inf
# or raise. seg-metrics gives 0.0 (and a log message on precision and recall), so a mean over many scans becomes
# better with each organ missed. The same organ found, but 2 voxels of 1 mm off, gets the worse value 2.0.
# Seen: missed: dice 0.0, hd 0.0; shifted by 2 mm: dice 0.714, hd 2.0.
# The script ends with 0 while this is so, and with 1 when a missed organ gets another distance.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'seg-metrics==1.2.8' 'medutils==0.1.21' 'pingouin==0.7.0' 'SimpleITK==2.5.7' 'numpy==2.4.6' \
    'pandas==3.1.1' 'scipy==1.17.1' 'matplotlib==3.11.2'
env/bin/python - <<'EOF'
import sys

import numpy as np
from seg_metrics.seg_metrics import write_metrics

reference = np.zeros((10, 20, 20), np.uint8)
reference[3:7, 5:12, 5:12] = 1
hd = {}
for name, prediction in (("missed", np.zeros_like(reference)), ("shifted by 2 mm", np.roll(reference, 2, axis=1))):
    found = write_metrics(labels=[1], gdth_img=reference, pred_img=prediction, spacing=np.array([3.0, 1.0, 1.0]),
                          metrics=["dice", "hd"])[0]
    hd[name] = float(found["hd"][0])
    print(f"{name}: dice {float(found['dice'][0]):.3f}, hd {hd[name]}")
sys.exit(0 if hd["missed"] == 0 < hd["shifted by 2 mm"] else 1)
EOF
