#!/bin/sh
# surface-distance 0.1: with NumPy 2 an empty mask is an AttributeError in place of the documented inf and NaN.
# The package asks for "numpy" of any version. With NumPy 1.26 the Hausdorff distance of a missed organ is inf and
# the Dice of two empty masks NaN, as its docstrings say; with NumPy 2, where np.Inf and np.NaN are gone, the same
# calls raise. Masks that hold something work with both, so the fault shows at the first empty organ of a data set.
# Seen: NumPy 1.26.4: Hausdorff inf, Dice nan; NumPy 2.4.6: AttributeError twice.
# The script ends with 0 while this is so, and with 1 when NumPy 2 gives an answer.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
cat > try.py <<'EOF'
import sys

import numpy as np
import surface_distance as sd

organ = np.zeros((10, 20, 20), bool)
organ[3:7, 5:12, 5:12] = True
nothing = np.zeros_like(organ)
answers = []
for measure in (
    lambda: sd.compute_robust_hausdorff(sd.compute_surface_distances(organ, nothing, (3, 1, 1)), 95),
    lambda: sd.compute_dice_coefficient(nothing, nothing),
):
    try:
        answers.append(str(float(measure())))
    except Exception as error:
        answers.append(type(error).__name__)
print(f"NumPy {np.__version__}: Hausdorff {answers[0]}, Dice {answers[1]}")
sys.exit(0 if answers == sys.argv[1:] else 1)
EOF
python3 -m venv old
old/bin/pip install -q 'surface-distance==0.1' 'absl-py==2.5.1' 'numpy==1.26.4' 'scipy==1.15.3'
python3 -m venv new
new/bin/pip install -q 'surface-distance==0.1' 'absl-py==2.5.1' 'numpy==2.4.6' 'scipy==1.17.1'
old/bin/python try.py inf nan
new/bin/python try.py AttributeError AttributeError
