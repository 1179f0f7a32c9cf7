"""The bundle for the competition's notebook, held to Kaggle's own client."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from nbformat import read as read_notebook
from nbformat import validate as validate_notebook

from gi2nnunet.core.errors import EngineError, InputError, OutputError
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.nnunet.model_file import open_bundle
from gi2nnunet.prediction.choose import select_models
from gi2nnunet.sharing import wheels
from gi2nnunet.sharing.kaggle_bundle import (
    COMPETITION,
    SETTINGS,
    KaggleBundle,
    Notebook,
    make_bundle,
)
from gi2nnunet.sharing.wheels import describe_image
from tests.command_line import tree
from tests.engines import make_engine
from tests.model_factory import write_model
from tests.sharing.test_wheels import HERE, Fetch, freeze_here

pytestmark = pytest.mark.usefixtures("engine_here")

Bundle = Callable[..., KaggleBundle]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """Makes a bundle of small models, for an image that lacks nnU-Net alone."""
    monkeypatch.chdir(tmp_path)
    write_model(Path("w/results"), folds=(0, 1))
    (tmp_path / "freeze.txt").write_text(freeze_here(without=["gi2nnunet", "nnunetv2"]))
    image = describe_image(HERE, Path("freeze.txt"))
    Path("freeze.txt").unlink()
    space = open_workspace(Path("w"), environ={})
    dataset, ensemble = select_models(space)

    def make(out: str = "out", **options: Any) -> KaggleBundle:
        engine = make_engine(space, trust=options.pop("trust", False))
        names = {field.name for field in fields(Notebook)}
        of_notebook = {name: options.pop(name) for name in names if name in options}
        notebook = Notebook(**{"user": "jane", **of_notebook})
        given = {"notebook": notebook, "image": image, "fetch": Fetch(), **options}
        return make_bundle(ensemble, Path(out), dataset=dataset, engine=engine, **given)

    return make


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_one_flat_folder_holds_all_that_the_notebook_needs(bundle: Bundle) -> None:
    steps: list[tuple[int, int, str]] = []
    made = bundle(half=True, progress=lambda *step: steps.append(step))
    names = {path.name for path in Path("out").iterdir()}
    assert names - set(made.wheels) == {
        "model.gi2nnunet", "predict.ipynb", SETTINGS, "dataset-metadata.json",
        "kernel-metadata.json",
    }  # fmt: skip
    assert all(path.is_file() for path in Path("out").iterdir())
    assert any(name.startswith("gi2nnunet-") for name in made.wheels)
    assert any(name.startswith("nnunetv2-2.8.1-") for name in made.wheels)
    assert made.size == sum(path.stat().st_size for path in Path("out").iterdir())
    assert open_bundle(Path("out/model.gi2nnunet")).folds == {"2d": (0, 1)}
    settings = read(Path("out") / SETTINGS)
    assert (settings["model"], settings["python"]) == ("model.gi2nnunet", HERE)
    assert (settings["hours"], settings["options"]) == (8.5, [])
    assert [step[2] for step in steps] == ["packing the models", *["collecting wheels"] * 2]
    # Nothing is left beside it.
    assert {path.name for path in Path().iterdir()} == {"out", "w"}


def test_options_go_into_the_settings(bundle: Bundle) -> None:
    bundle(hours=2.0, mirroring=False, tuning=False, trust=True)
    settings = read(Path("out") / SETTINGS)
    assert settings["options"] == ["--no-mirroring", "--no-tuning", "--trust"]
    assert settings["hours"] == 2.0


def test_the_notebook_is_one_and_names_the_competition(bundle: Bundle) -> None:
    bundle()
    notebook = read_notebook(Path("out/predict.ipynb"), as_version=4)
    validate_notebook(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert any(f'COMPETITION = "{COMPETITION}"' in cell.source for cell in notebook.cells)
    metadata = read(Path("out/kernel-metadata.json"))
    assert metadata["code_file"] == "predict.ipynb"
    assert metadata["competition_sources"] == [COMPETITION]
    assert metadata["dataset_sources"] == [read(Path("out/dataset-metadata.json"))["id"]]
    assert metadata["enable_internet"] is False


# Kaggle's client itself, with a Kaggle that keeps what it is sent and answers as if all were well.
CLIENT = """
import json, os, sys
import requests
sent = []

def send(self, request, **_):
    name = request.url.rpartition("/")[2]
    body = request.body
    if isinstance(body, (bytes, str)):
        sent.append([request.method, name, json.loads(body) if body else None])
    else:
        sent.append([request.method, name, len(body.read())])
    answer = requests.Response()
    answer.url, answer.request, answer.status_code = request.url, request, 200
    content = {
        "StartBlobUpload": {"token": f"token{len(sent)}", "createUrl": "https://blobs/put"},
        "CreateDataset": {"ref": "x", "url": "u", "status": "ok", "error": ""},
        "SaveKernel": {"ref": "x", "url": "u", "versionNumber": 1, "error": ""},
        "CreateCodeSubmission": {"message": "taken", "ref": 1},
    }.get(name, {})
    if name == "GetDatasetStatus":
        answer.status_code = 404
    answer.headers["Content-Type"] = "application/json"
    answer._content = json.dumps(content).encode()
    return answer

requests.Session.send = send
import kaggle.cli
sys.argv = json.loads(os.environ["COMMAND"])
code = 0
try:
    kaggle.cli.main()
except SystemExit as done:
    code = done.code
with open(os.environ["SENT"], "w") as file:
    json.dump(sent, file)
sys.exit(code)
"""


@pytest.mark.skipif(find_spec("kaggle") is None, reason="Kaggle's client is not installed")
def test_kaggles_client_takes_the_commands_as_they_are_printed(
    bundle: Bundle, tmp_path: Path
) -> None:
    made = bundle("a folder", name="my-models")
    sent: dict[str, list[Any]] = {}
    said: list[str] = []
    for command in made.commands:
        words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, "-c", CLIENT],
            env={
                **os.environ, "HOME": str(tmp_path), "KAGGLE_USERNAME": "jane", "KAGGLE_KEY": "0",
                "KAGGLE_CONFIG_DIR": str(tmp_path), "TMPDIR": str(tmp_path),
                "COMMAND": json.dumps(words), "SENT": "sent.json",
            },
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(done.stdout)
        for _, name, body in json.loads(Path("sent.json").read_text()):
            sent.setdefault(name, []).append(body)
    [dataset] = sent["CreateDataset"]
    assert (dataset["ownerSlug"], dataset["slug"]) == ("jane", "my-models")
    assert dataset["isPrivate"] is True
    uploaded = {body["name"]: body["contentLength"] for body in sent["StartBlobUpload"]}
    assert uploaded == {
        path.name: path.stat().st_size
        for path in made.folder.iterdir()
        if not path.name.endswith("-metadata.json")
    }
    assert len(dataset["files"]) == len(uploaded)
    [kernel] = sent["SaveKernel"]
    assert kernel["slug"] == "jane/my-models-notebook"
    assert "does not resolve" not in said[1]
    assert kernel["datasetDataSources"] == ["jane/my-models"]
    assert kernel["competitionDataSources"] == [COMPETITION]
    assert (kernel["enableGpu"], kernel["enableInternet"]) == (True, False)
    assert kernel["machineShape"] == "NvidiaTeslaT4"
    assert (kernel["kernelType"], kernel["language"]) == ("notebook", "python")
    assert "predict-hidden" in kernel["text"]
    [submission] = sent["CreateCodeSubmission"]
    assert submission["competitionName"] == COMPETITION
    assert (submission["kernelOwner"], submission["kernelSlug"]) == ("jane", "my-models-notebook")
    assert (submission["kernelVersion"], submission["fileName"]) == (1, "submission.csv")


def test_names_that_kaggle_refuses_are_refused_first(bundle: Bundle) -> None:
    for name in ("short", "Upper-case", "two--dashes", "-dash", "a_b_c_d", "x" * 42, ""):
        with pytest.raises(InputError, match="--name: found"):
            bundle(name=name)
    for user in ("", "a/b", "a b", "-x"):
        with pytest.raises(InputError, match="--user: found"):
            bundle(user=user)
    assert {path.name for path in Path().iterdir()} == {"w"}


def test_what_is_there_is_replaced_only_when_told(bundle: Bundle) -> None:
    bundle()
    before = tree(Path("out"))
    with pytest.raises(OutputError, match=r"holds a bundle already\..*--replace"):
        bundle(hours=1.0)
    assert tree(Path("out")) == before
    (Path("out") / "old-1.0-py3-none-any.whl").touch()
    bundle(hours=1.0, replace=True)
    assert read(Path("out") / SETTINGS)["hours"] == 1.0
    assert tree(Path("out")).keys() == before.keys()
    Path("mine").mkdir()
    Path("mine/notes.txt").touch()
    with pytest.raises(OutputError, match="holds other files"):
        bundle("mine", replace=True)
    Path("empty").mkdir()
    assert bundle("empty").folder == Path("empty")


def test_a_failure_leaves_the_former_bundle_alone(bundle: Bundle) -> None:
    bundle()
    names, before = {path.name for path in Path().iterdir()}, tree(Path("out"))

    def fail(*_: Any) -> None:
        raise EngineError("pip failed")

    with pytest.raises(EngineError):
        bundle(replace=True, fetch=fail)
    assert tree(Path("out")) == before
    assert {path.name for path in Path().iterdir()} == names


def test_the_command_line_tells_the_commands(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheels, "_fetch_with_pip", Fetch())
    write_model(Path("w/results"))
    Path("freeze.txt").write_text(freeze_here(without=["gi2nnunet", "nnunetv2"]))
    image = ("--image-python", HERE, "--image-freeze", "freeze.txt")
    words = ("kaggle-bundle", "--out", "out", "--user", "jane", *image, "-w", "w")
    code, out, err = run(*words)
    assert code == 0, err
    assert out.splitlines()[0].startswith("out: ")
    shown = [line.strip() for line in out.splitlines()[1:]]
    code, out, err = run(*words, "--json", "--replace", "--hours", "3", "--no-mirroring")
    assert code == 0, err
    told = json.loads(out)
    assert told["commands"] == shown
    assert (told["folder"], told["tuning"]) == ("out", None)
    assert any(name.startswith("nnunetv2") for name in told["wheels"])
    assert read(Path("out") / SETTINGS)["options"] == ["--no-mirroring"]
    monkeypatch.setenv("KAGGLE_USERNAME", "joe")
    assert run("kaggle-bundle", "-o", "other", *image, "-w", "w")[0] == 0
    assert read(Path("other/dataset-metadata.json"))["id"] == "joe/gi2nnunet-bundle"
