"""What each command prints with --json: its format, and what the documented schema says."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import nibabel
import numpy as np
import pytest

from gi2nnunet.cli import json_types
from gi2nnunet.formats.dicom_series import read_series
from gi2nnunet.sharing import wheels
from tests.cli.slurm.test_submit import Slurm
from tests.cli.test_grammar import GROUP
from tests.dicom_factory import SeriesPlan, write_series
from tests.json_output import SCHEMAS, check_output, close, read_schema
from tests.model_factory import DATASET
from tests.sharing.test_wheels import HERE, Fetch, freeze_here
from tests.source_factory import make_source, write_source
from tests.test_model_remedies import CPU, SCANS, SPACE, TINY, Engine

RAW = SPACE / "raw" / DATASET
Run = Callable[..., Any]


def test_every_command_has_a_documented_schema() -> None:
    assert set(json_types.OUTPUT) == set(GROUP.commands)
    assert {path.name for path in SCHEMAS.iterdir()} == {
        f"{command}.schema.json" for command in json_types.OUTPUT
    }


def test_the_page_lists_every_command_with_its_keys() -> None:
    page = (SCHEMAS.parents[1] / "json.md").read_text()
    rows = re.findall(r"^\| \[`(.+?)`\]\(_static/json/(.+)\.schema\.json\) \| (.+) \|$", page, re.M)
    assert [(row[0], row[1]) for row in rows] == [(name, name) for name in json_types.OUTPUT]
    for command, _, keys in rows:
        schema = read_schema(command)
        kinds = [kind["$ref"].rpartition("/")[2] for kind in schema.get("anyOf", ())]
        objects = [schema["$defs"][kind] for kind in kinds] or [schema]
        named = {key for one in objects for key in one["properties"]} - {"format"}
        assert set(re.findall(r"`(\w+)`", keys)) == named, command


@pytest.mark.parametrize("command", json_types.OUTPUT)
def test_the_documented_schema_is_that_of_the_types(command: str) -> None:
    """If this fails because a key was added: python -m gi2nnunet.cli.json_types FOLDER."""
    assert json_types.describe_json(command) == read_schema(command)


def test_another_key_a_missing_key_and_another_type_are_noticed() -> None:
    good = {"format": 1, "file": "a.csv", "rows": 3, "scans": 1, "labels": []}
    words = ("encode", "x", "--json")
    assert check_output(words, json.dumps(good)) == good
    for change in ({"more": 1}, {"rows": "3"}, {"rows": None}, {"format": 2}):
        with pytest.raises(jsonschema.ValidationError):
            check_output(words, json.dumps(good | change))
    for key in good:
        with pytest.raises((jsonschema.ValidationError, AssertionError)):
            check_output(words, json.dumps({k: v for k, v in good.items() if k != key}))
    # A reader may not refuse keys that are added later.
    jsonschema.validate(good | {"more": 1}, read_schema("encode"))
    assert close(read_schema("encode")) != read_schema("encode")


def test_a_changed_type_changes_the_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = copy.deepcopy(json_types.describe_json("encode"))

    class Encoded(json_types.Encoded):
        organs: int

    monkeypatch.setitem(json_types.OUTPUT, "encode", Encoded)
    assert json_types.describe_json("encode") != before


class Said:
    """Runs commands with --json; remembers which have printed an object."""

    def __init__(self, run: Run) -> None:
        self._run, self.commands = run, set[str]()

    def __call__(self, *words: object, codes: tuple[int, ...] = (0,)) -> Any:
        done, out, err = self._run(*words, "--json")
        assert done in codes, err
        self.commands.add(str(words[0]))
        return check_output([*words, "--json"], out)


@pytest.fixture
def said(run: Run, monkeypatch: pytest.MonkeyPatch) -> Said:
    Engine(monkeypatch)
    return Said(run)


def test_every_command_prints_what_its_schema_says(
    said: Said, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(here / "source", make_source(SCANS))
    size = ("--patients", "2", "--days", "1", "--size", "32x32x4", "--easy", "--jobs", "1")
    assert said("phantom", *size, "--test-patients", "1", "--solution", "t.csv")["solution"]
    assert "page" in said("check", "source", "--html", "page.html")
    said("convert", "source", "--holdout", "0")
    said("doctor", "--preset", "tiny", *CPU, codes=(0, 3))  # 3 on a small machine
    said("plan", *TINY)
    trained = said("train", "--fold", "cv", *TINY)["trainings"]
    assert {one["outcome"] for one in said("train", "--fold", "cv", *TINY)["trainings"]} == {"kept"}
    assert {one["outcome"] for one in trained} == {"trained"}
    said("predict", "source", "--out", "p", *CPU)
    scored = said("predict-and-score", *CPU)
    said("out-of-fold", *CPU)
    assert said("tune", *CPU)["gains"]["all"]["low"] is not None
    assert said("predict-and-score", *CPU, "--out", "tuned")["tuning"]["file"]
    said("compare-models", *CPU)
    for more in ((), ("--intervals",), ("--metric", "joined"), ("--scans", "common")):
        said("score", scored["submission"], "--truth", RAW, *more)
    said("compare", scored["submission"], "p/submission.csv", "--truth", RAW)
    said("encode", RAW / "labelsTr", "--out", "e.csv")
    said("report", "--out", "r.html")
    assert said("verify", "--quick")["findings"] == []
    said("status")
    model = said("export-model", "--out", "m.zip")["file"]
    assert said("import-model", model, "-w", "theirs")["written"]
    shutil.rmtree(SPACE / "results")
    assert said("import-model", model)["tuning"]
    said("remove", "2d/fold_0", "--yes")
    _export_dicom(said)
    _bundle(said, monkeypatch)
    _predict_hidden(said, model)
    _submit(said, here, monkeypatch)
    sorted((RAW / "imagesTr").iterdir())[0].unlink()
    assert said("verify", "--quick", codes=(3,))["findings"]
    assert said.commands == set(GROUP.commands) - {"estimate"}  # its test plans and trains


def _export_dicom(said: Said) -> None:
    write_series(Path("series"), SeriesPlan(shape=(4, 9, 11)))
    series = read_series(Path("series"))
    labels = np.zeros(series.shape[::-1], np.uint8)
    labels[2:4, 2:5, 1] = 4
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ series.affine
    order = affine.copy()
    order[:, :3] = affine[:, 2::-1]
    nibabel.Nifti1Image(labels, order).to_filename("labels.nii.gz")
    words = ("labels.nii.gz", "--source", "series", "--out", "dicom", "--labels", "regions")
    assert sum(said("export-dicom", *words)["voxels"].values()) == 6


def _bundle(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_fetch_with_pip", Fetch())
    Path("freeze.txt").write_text(freeze_here(without=["gi2nnunet", "nnunetv2"]))
    image = ("--image-python", HERE, "--image-freeze", "freeze.txt")
    said("kaggle-bundle", "--user", "jane", *image)


def _predict_hidden(said: Said, model: str) -> None:
    done = said("predict-hidden", "source", "--model", model, "--device", "cpu")
    assert (done["scans"], done["predicted"]) == (0, 0)


def _submit(said: Said, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("train", "--fold", "cv", *TINY, "--on", "slurm")
    assert said(*words, "--dry-run")["jobs"]
    assert said("jobs")["jobs"] == []
    (here / "slurm").mkdir()
    Slurm(here / "slurm", monkeypatch)
    said(*words)
    assert said("jobs")["left"]
