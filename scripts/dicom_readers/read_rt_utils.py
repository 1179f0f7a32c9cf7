"""RTSTRUCT masks as rt-utils reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(slices, rows, columns)`` with the SOP instance of each slice.
"""

import numpy as np
from jobs import run_jobs
from rt_utils import RTStructBuilder


def read(job):
    arrays = {}
    structures = RTStructBuilder.create_from(
        dicom_series_path=job["series"], rt_struct_path=job["file"]
    )
    arrays["uids"] = np.array([str(image.SOPInstanceUID) for image in structures.series_data])
    for name in job["names"]:
        try:
            mask = structures.get_roi_mask_by_name(name)
        except AttributeError:  # no ContourSequence
            continue
        arrays[f"mask {name}"] = np.moveaxis(mask, -1, 0)
    return arrays


run_jobs(read)
