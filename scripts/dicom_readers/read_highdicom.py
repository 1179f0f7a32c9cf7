"""SEG masks as highdicom reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the series' folder, the file, names, where the
arrays go. Masks are written as ``(slices, rows, columns)`` with the SOP instance of each slice.
"""

from pathlib import Path

import highdicom
import numpy as np
import pydicom
from jobs import run_jobs


def read(job):
    paths = sorted(Path(job["series"]).iterdir())
    uids = [str(pydicom.dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
            for path in paths]  # fmt: skip
    segments = highdicom.seg.segread(job["file"])
    arrays = {"uids": np.array(uids)}
    for number in segments.segment_numbers:
        label = segments.get_segment_description(number).segment_label
        pixels = segments.get_pixels_by_source_instance(
            uids, segment_numbers=[number], ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )  # fmt: skip
        arrays[f"mask {label}"] = pixels[..., 0] > 0
    return arrays


run_jobs(read)
