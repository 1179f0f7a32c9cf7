"""SEG masks as dcmqi reads them; run in an environment of its own.

The argument is a JSON file with a list of jobs: the file and where the arrays go. Each segment is
written as ``(z, y, x)`` with the matrix from ``(x, y, z, 1)`` to LPS mm, by its label.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import SimpleITK
from jobs import find_affine, run_jobs


def read(job):
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(sys.executable).parent / "segimage2itkimage"
        subprocess.run(
            [program, "--inputDICOM", job["file"], "--outputDirectory", folder],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        described = json.loads((Path(folder) / "meta.json").read_text())
        for segment in (segment for group in described["segmentAttributes"] for segment in group):
            path = Path(folder) / f"{segment['labelID']}.nrrd"
            if path.is_file():
                image = SimpleITK.ReadImage(str(path))
                label = segment["SegmentLabel"]
                arrays[f"mask {label}"] = SimpleITK.GetArrayFromImage(image) > 0
                arrays[f"affine {label}"] = find_affine(image)
    return arrays


run_jobs(read)
