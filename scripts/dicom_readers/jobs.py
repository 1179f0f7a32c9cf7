"""Jobs of the programs beside it: a JSON list in, one file of arrays out for each job.

Each program runs in an environment of its own, so this needs NumPy only.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_jobs(read: Callable[[Mapping[str, Any]], Mapping[str, NDArray[Any]]]) -> None:
    """Read every job of the file that the command line names; an error is stored as its text."""
    for job in json.loads(Path(sys.argv[1]).read_text()):
        arrays: Mapping[str, Any]
        try:
            arrays = read(job)
        except Exception as error:
            arrays = {"error": np.array(f"{type(error).__name__}: {error}")}
        np.savez_compressed(job["out"], **arrays)


def find_affine(image: Any) -> NDArray[np.float64]:
    """Return the matrix from ``(x, y, z, 1)`` to LPS mm of a SimpleITK image."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine
