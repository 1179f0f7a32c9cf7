#!/bin/sh
# nnU-Net 2.8.1: nnUNetv2_evaluate_simple compares arrays and ignores where their voxels lie.
# The same mask, written once as LPS and once as RAS with a correct header, is the same for every viewer. The
# evaluation reads both arrays as they are stored, does not compare spacing, origin or direction, and says nothing.
# A prediction that another tool has re-oriented gets a wrong Dice; if the organ lies in the middle, hardly a lower
# one, so that it looks like a worse model. (It also gives NaN as the foreground mean if an organ is absent.)
# Seen: the same mask re-oriented: voxels in space equal, Dice 0.667; not re-oriented: Dice 1.0; no warning.
# The script ends with 0 while this is so, and with 1 when the Dice is another or the geometry is complained of.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'nnunetv2==2.8.1' 'torch==2.15.0' 'torchvision==0.29.2' 'SimpleITK==2.5.7' 'numpy==2.4.6'
cat > try.py <<'EOF'
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

mask = np.zeros((6, 10, 12), np.uint8)
mask[1:3, 3:6, 4:8] = 1
image = sitk.GetImageFromArray(mask)
image.SetSpacing((1.5, 1.5, 3.0))
turned = sitk.DICOMOrient(image, "RAS")
resampled = sitk.Resample(turned, image, sitk.Transform(), sitk.sitkNearestNeighbor)
same = bool((sitk.GetArrayFromImage(resampled) == mask).all())
dice, said = [], ""
for name, pred in (("as-stored", image), ("re-oriented", turned)):
    for kind, one in (("truth", image), ("pred", pred)):
        folder = Path(name) / kind
        folder.mkdir(parents=True)
        sitk.WriteImage(one, str(folder / "scan.nii.gz"))
    command = ["env/bin/nnUNetv2_evaluate_simple", f"{name}/truth", f"{name}/pred", "-l", "1", "-np", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said += done.stdout + done.stderr
    dice.append(json.loads((Path(name) / "pred" / "summary.json").read_text())["foreground_mean"]["Dice"])
print(f"voxels in space equal: {same}; Dice as stored {dice[0]:.3f}, re-oriented {dice[1]:.3f}; said: {said.strip()!r}")
quiet = not any(word in said.lower() for word in ("direction", "orient", "origin", "geometry"))
sys.exit(0 if same and dice[0] == 1 and abs(dice[1] - 2 / 3) < 1e-6 and quiet else 1)
EOF
env/bin/python try.py
