"""Fixtures that several test files share."""

import json
import os
from pathlib import Path

import pandas as pd  # noqa: F401 - reading a CSV loads it: not while Hypothesis times an example
import pytest

from tests.browser import browser
from tests.command_line import run_in_process
from tests.faulty_source import plant_faults, write_clean

__all__ = ["browser"]


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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, without nnU-Net's variables."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(here, monkeypatch, capsys):
    """Runs the command line in this process; gives exit code, output and error text."""

    def run_command(*args):
        return run_in_process(args, monkeypatch=monkeypatch, capsys=capsys)

    return run_command


@pytest.fixture
def engine_here(monkeypatch):
    """Runs the engine's part of passing models on here: it needs only PyTorch, a child seconds."""
    from gi2nnunet.nnunet import engine
    from gi2nnunet.nnunet.child import weights

    def run_here(task, options, **_):
        return getattr(weights, f"run_{task}")(**json.loads(json.dumps(options)))

    monkeypatch.setattr(engine, "run_engine", run_here)


@pytest.fixture(scope="session")
def clean_phantom(tmp_path_factory):
    """A small phantom of eight patients and more than twenty scans, in which nothing is wrong."""
    return write_clean(tmp_path_factory.mktemp("clean") / "source")


@pytest.fixture(scope="session")
def clean_scans(clean_phantom):
    """What its scans measure."""
    from gi2nnunet.source.check.check import check_source

    return check_source(clean_phantom).scans


@pytest.fixture(scope="session")
def faults(clean_phantom, clean_scans, tmp_path_factory):
    """Where faults were planted into a copy of it; not to be written to."""
    return plant_faults(clean_phantom, clean_scans, tmp_path_factory.mktemp("faulty") / "source")
