"""Every entry of the catalogue of bad inputs, through the command line."""

import shutil

import pytest

import gi2nnunet.cli
from gi2nnunet.dataset.workspace import open_workspace
from gi2nnunet.training import plan
from tests.bad_inputs import CATALOGUE
from tests.bad_inputs.making import SCANS, finish_model
from tests.command_line import tree
from tests.converting import convert
from tests.source_factory import make_source, write_files

# What a refused conversion may have made: the workspace itself, with nothing in it; and what the
# engine's process leaves for the user to read.
MAY_BE_MADE = {"gi2nnunet-workspace", "gi2nnunet-workspace/raw", "gi2nnunet-workspace/logs"}


@pytest.fixture(scope="session")
def converted(tmp_path_factory):
    """A folder with a source and a workspace, converted once for all entries."""
    folder = tmp_path_factory.mktemp("converted")
    write_files(folder / "source", make_source(SCANS).files())
    space = folder / "gi2nnunet-workspace"
    convert(
        folder / "source", workspace=open_workspace(space, environ={}), holdout=0.4, jobs=1,
    )  # fmt: skip
    return folder


def entries():
    for entry in CATALOGUE:
        marks = [pytest.mark.engine] if entry.engine else []
        yield pytest.param(entry, id=entry.name[:70].replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("entry", list(entries()))
def test_it_is_told_and_changes_nothing(run, here, converted, monkeypatch, entry):
    if entry.start != "empty":
        shutil.copytree(converted, here, dirs_exist_ok=True)
    if entry.start == "model":
        finish_model(here)
    entry.make(here)
    if entry.patch:
        entry.patch(monkeypatch)
    before = tree(here)
    code, out, err = run(*entry.command.split())
    for part in entry.message:
        assert part in err
    assert code == entry.exit_code
    assert "Traceback" not in out + err
    assert "bug in gi2nnunet" not in err
    after = tree(here)
    if entry.exit_code == 0:
        # What is taken is not touched either, and no part of a file stays behind.
        given = {name for name in before if not name.startswith("gi2nnunet-workspace")}
        assert {name: after.get(name) for name in given} == {name: before[name] for name in given}
        assert not [name for name in after if ".part" in name]
        return
    assert out == ""
    made = {name for name in set(after) - set(before) if not name.endswith(".log")}
    assert made <= MAY_BE_MADE
    assert {name: after.get(name) for name in before} == before


def test_the_catalogue_is_what_it_says():
    names = [entry.name for entry in CATALOGUE]
    assert len(names) >= 80
    assert len(set(names)) == len(names)
    engine = [entry.name for entry in CATALOGUE if entry.engine]
    assert len(engine) <= 6  # seconds each
    silent = [e.name for e in CATALOGUE if e.exit_code and not e.message]
    assert silent == []


# -- the last resort


def fail_with(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(plan, "plan_dataset", fail)


def test_what_nobody_foresaw_is_called_a_bug_and_its_traceback_kept(
    run, here, converted, monkeypatch, tmp_path_factory
):
    shutil.copytree(converted, here, dirs_exist_ok=True)
    kept = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    fail_with(monkeypatch, KeyError("no such\nthing"))
    before = tree(here)
    code, out, err = run("plan", "--device", "cpu", "--preset", "tiny")
    assert (code, out) == (1, "")
    (log,) = kept.iterdir()
    assert "this is a bug in gi2nnunet (KeyError: 'no such\\nthing')." in err
    assert f"Its details are in {log}." in err
    assert "Traceback" not in err
    text = log.read_text()
    assert "Traceback (most recent call last):" in text
    assert "KeyError: 'no such\\nthing'" in text
    assert "command: gi2nnunet plan --device cpu --preset tiny" in text
    assert tree(here) == before


def test_a_bug_is_told_even_where_its_traceback_cannot_be_kept(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    monkeypatch.setattr(gi2nnunet.cli, "app", lambda: 1 / 0)
    code, out, err = run("plan")
    assert (code, out) == (1, "")
    assert "this is a bug in gi2nnunet (ZeroDivisionError: division by zero)." in err
    assert "could not be written" in err
    assert "Traceback" not in err


def test_too_little_memory_is_no_bug(run, here, converted, monkeypatch):
    shutil.copytree(converted, here, dirs_exist_ok=True)
    fail_with(monkeypatch, MemoryError())
    code, out, err = run("plan", "--device", "cpu", "--preset", "tiny")
    assert (code, out) == (4, "")
    assert "Error: there is not enough memory. Use fewer --jobs" in err
