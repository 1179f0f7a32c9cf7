"""RTSTRUCT masks as DicomRTTool reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(z, y, x)`` with the matrix from ``(x, y, z, 1)`` to LPS mm.
"""

import shutil
import tempfile
from pathlib import Path

from DicomRTTool.ReaderWriter import DicomReaderWriter, ROIAssociationClass
from jobs import find_affine, run_jobs


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


run_jobs(read)
