"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data():
    """The folder of real rows and slices that GI2NNUNET_REAL_DATA names; skips without it."""
    folder = os.environ.get("GI2NNUNET_REAL_DATA")
    if not folder:
        pytest.skip("GI2NNUNET_REAL_DATA is not set: no real rows and slices at hand")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"GI2NNUNET_REAL_DATA: {path} is no folder")
    return path
