#!/bin/sh
# SimpleITK 2.5.7 and nibabel 5.4.2 give one NIfTI file different voxel sizes, if qform and sform differ.
# In NIfTI-1 each of the two places the voxels by itself: the sform by its three rows, without pixdim; the qform with
# pixdim. Registration tools write an sform of their own beside the scanner's qform. nibabel takes the sform, with its
# scaling; ITK takes the voxel size from pixdim and only warns of "unexpected scales in sform". So volumes in ml and
# distances in mm depend on the library.
# Seen: sform of 3 x 3 x 4.5 mm, qform of 2 x 2 x 3 mm: nibabel (3, 3, 4.5) by the affine, SimpleITK (2, 2, 3).
# The script ends with 0 while this is so, and with 1 when both give the same, or one refuses the file.
set -eu
T=$(mktemp -d)
trap 'rm -rf "$T"' EXIT
cd "$T"
python3 -m venv env
env/bin/pip install -q 'SimpleITK==2.5.7' 'nibabel==5.4.2' 'numpy==2.4.6'
cat > try.py <<'EOF'
import sys

import nibabel
import numpy as np
import SimpleITK as sitk

image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.uint8), None)
image.set_qform(np.diag([-2.0, -2, 3, 1]), 1)
image.header.set_zooms((2, 2, 3))
image.set_sform(np.diag([-3.0, -3, 4.5, 1]), 2)
nibabel.save(image, "scan.nii.gz")
by_nibabel = np.linalg.norm(nibabel.load("scan.nii.gz").affine[:3, :3], axis=0).round(3).tolist()
by_itk = np.round(sitk.ReadImage("scan.nii.gz").GetSpacing(), 3).tolist()
print(f"nibabel {by_nibabel}, SimpleITK {by_itk}")
sys.exit(0 if by_nibabel == [3, 3, 4.5] and by_itk == [2, 2, 3] else 1)
EOF
env/bin/python try.py
