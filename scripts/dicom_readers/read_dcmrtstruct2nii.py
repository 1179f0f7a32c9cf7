"""RTSTRUCT masks as dcmrtstruct2nii reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(z, y, x)`` with the matrix from ``(x, y, z, 1)`` to LPS mm.
"""

import tempfile
from pathlib import Path

import SimpleITK
from dcmrtstruct2nii import dcmrtstruct2nii
from jobs import find_affine, run_jobs


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


run_jobs(read)
