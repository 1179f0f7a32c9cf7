"""RTSTRUCT masks as DicomRTTool reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(z, y, x)`` with the matrix from ``(x, y, z, 1)`` to LPS mm.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from DicomRTTool.ReaderWriter import DicomReaderWriter, ROIAssociationClass


def find_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def read(job):
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(job["series"], Path(folder) / "all")
        shutil.copy(job["file"], Path(folder) / "all")
        reader = DicomReaderWriter(arg_max=False, verbose=False)
        reader.walk_through_folders(folder)
        names = [name.lower() for name in job["names"]]
        reader.set_contour_names_and_associations(
            contour_names=names, associations=[ROIAssociationClass(name, [name]) for name in names]
        )
        reader.set_index(next(iter(reader.series_instances_dictionary)))
        reader.get_images_and_mask()
        for index, name in enumerate(job["names"], start=1):
            arrays[f"mask {name}"] = reader.mask[..., index] > 0
        arrays["affine"] = find_affine(reader.dicom_handle)
    return arrays


for job in json.loads(Path(sys.argv[1]).read_text()):
    try:
        arrays = read(job)
    except Exception as error:
        arrays = {"error": np.array(f"{type(error).__name__}: {error}")}
    np.savez_compressed(job["out"], **arrays)
