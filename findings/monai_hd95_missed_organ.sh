#!/bin/sh
# MONAI 1.6.1: with percentile=95, a missed organ drops out of the mean Hausdorff distance without a warning.
# Without a percentile, HausdorffDistanceMetric gives inf for an organ that is missed, so a mean shows it. With
# percentile=95 (HD95, the usual way to report), the quantile of infinite distances is NaN, and NaN is left out by
# aggregate(). A model that finds one of two organs and misses the other gets the HD95 of the one that it found; if
# nothing is found at all, aggregate() gives 0.0, the best value there is.
# Seen: one scan, organ missed: HD inf, HD95 0.0; two scans, one 2 mm off and one missed: HD inf, HD95 2.0.
# The script ends with 0 while this is so, and with 1 when a missed organ shows in the HD95.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'monai==1.6.1' 'torch==2.15.0' 'numpy==2.4.6' 'scipy==1.17.1'
env/bin/python - <<'EOF'
import sys
import warnings

import torch
from monai.metrics import HausdorffDistanceMetric

warnings.simplefilter("ignore")
truth = torch.zeros(2, 1, 10, 20, 20)
truth[:, :, 3:7, 5:12, 5:12] = 1
shifted, missed = truth.roll(2, dims=3), torch.zeros_like(truth)
found = {}
for name, pred in (("missed", missed[:1]), ("2 mm off", shifted[:1]), ("both", torch.cat([shifted[:1], missed[:1]]))):
    for kind, percentile in (("HD", None), ("HD95", 95)):
        metric = HausdorffDistanceMetric(percentile=percentile)
        metric(pred, truth[: len(pred)], spacing=(3.0, 1.0, 1.0))
        found[name, kind] = metric.aggregate().item()
    print(f"{name}: HD {found[name, 'HD']}, HD95 {found[name, 'HD95']}")
hidden = found["missed", "HD95"] == 0 and found["both", "HD95"] == found["2 mm off", "HD95"]
sys.exit(0 if hidden and found["missed", "HD"] == found["both", "HD"] == float("inf") else 1)
EOF
