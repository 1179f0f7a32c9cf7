"""What every command does the same way: help, --quiet, colour, progress, pipes, exit codes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import gi2nnunet.cli
from gi2nnunet.cli import show

COMMANDS = typer.main.get_command(gi2nnunet.cli.app).commands
PHANTOM = ("phantom", "made", "--patients", "2", "--days", "1", "--size", "48x40x8@6", "--easy")
COMMAND_LINE = [sys.executable, "-m", "gi2nnunet"]


def in_shell(folder, line, **environment):
    """Run a line of the shell in which $G is the command line; gives the finished process."""
    env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=folder,
        env=env | {"G": " ".join(COMMAND_LINE)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


# -- help


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_an_example_and_its_options_in_groups(name, run):
    code, text, _ = run(name, "--help")
    assert code == 0
    example = re.search(rf"Example: (gi2nnunet {name}( .*)?)", text)
    assert example
    # An option that the example names is one.
    words = re.findall(r"(?<= )--?[a-z][a-z-]*", example[1])
    known = {o for p in COMMANDS[name].params for o in (*p.opts, *p.secondary_opts)}
    assert set(words) <= known
    assert re.search(r"─ Output ─.*--quiet.*--help", text, re.DOTALL)
    grouped = {p.name: p.rich_help_panel for p in COMMANDS[name].params}
    for option in ("workspace", "dataset_id"):
        assert grouped.get(option, "Workspace and data") == "Workspace and data"
    for option in ("device", "gpus", "jobs", "threads"):
        assert grouped.get(option, "What to compute with") == "What to compute with"
    assert "<bool>" not in text


def test_commands_stand_in_groups():
    assert {c.rich_help_panel for c in COMMANDS.values()} == {
        "Data", "Models", "Predictions", "Judging and choosing",
    }  # fmt: skip


# -- --quiet


@pytest.mark.parametrize("line", [("--quiet", *PHANTOM), (*PHANTOM, "-q")])
def test_quiet_leaves_the_result(run, line):
    code, out, err = run(*line)
    assert (code, err) == (0, "")
    assert out.startswith("made: 2 training scans of 2 patients")


def test_quiet_leaves_errors_and_ends_with_its_command(run):
    code, _, err = run("--quiet", "score", "none.csv", "none.csv")
    assert code == 3
    assert err.startswith("Error: ")
    assert "Next: gi2nnunet convert" in run(*PHANTOM)[2]


# -- pipes, disks


@pytest.mark.parametrize("arguments", ["score --help", "--version"])
def test_nobody_reading_is_no_bug(tmp_path, arguments):
    done = in_shell(tmp_path, f"$G {arguments} | true")
    assert done.returncode in (0, 141)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["score --help", "--version"])
def test_output_that_cannot_be_written_is_an_output_error(tmp_path, arguments):
    done = in_shell(tmp_path, f"$G {arguments} > /dev/full")
    assert done.returncode == 5
    assert done.stderr.count("could not be written") == 1


def test_no_output_at_all_is_fine(tmp_path):
    assert in_shell(tmp_path, "$G --version >&-").returncode == 0


# -- JSON


def test_json_holds_no_nan(capsys):
    show.print_json({"dice": float("nan"), "shape": (1, 2), 3: {"path": os.curdir}})
    assert json.loads(capsys.readouterr().out) == {
        "dice": None, "shape": [1, 2], "3": {"path": "."},
    }  # fmt: skip
