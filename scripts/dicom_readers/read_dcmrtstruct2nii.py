"""RTSTRUCT masks as dcmrtstruct2nii reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(z, y, x)`` with the matrix from ``(x, y, z, 1)`` to LPS mm.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK
from dcmrtstruct2nii import dcmrtstruct2nii


def find_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def read(job):
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        dcmrtstruct2nii(job["file"], job["series"], folder, convert_original_dicom=False)
        for name in job["names"]:
            path = Path(folder) / f"mask_{name}.nii.gz"
            if path.is_file():
                image = SimpleITK.ReadImage(str(path))
                arrays[f"mask {name}"] = SimpleITK.GetArrayFromImage(image) > 0
                arrays["affine"] = find_affine(image)
    return arrays


for job in json.loads(Path(sys.argv[1]).read_text()):
    try:
        arrays = read(job)
    except Exception as error:
        arrays = {"error": np.array(f"{type(error).__name__}: {error}")}
    np.savez_compressed(job["out"], **arrays)
