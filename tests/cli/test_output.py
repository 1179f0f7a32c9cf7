"""What every command does the same way: help, --quiet, colour, progress, pipes, exit codes."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import gi2nnunet.cli
from gi2nnunet.cli import output

GROUP = typer.main.get_command(gi2nnunet.cli.app)
COMMANDS = dict(GROUP.commands)
PHANTOM = (
    "phantom", "--out", "made", "--patients", "2", "--days", "1", "--size", "48x40x8@6", "--easy",
)  # fmt: skip
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


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_commands_say(name):
    """It is made without importing them."""
    shown = GROUP.get_command(None, name)
    assert shown.help == COMMANDS[name].help.partition("\n\n")[0]
    assert shown.rich_help_panel == COMMANDS[name].rich_help_panel


def test_a_mistyped_command_is_told_with_the_one_that_was_meant(run):
    code, _, err = run("trian")
    assert code == 2
    assert "No such command 'trian'. Did you mean 'train'?" in err


def test_commands_stand_in_groups():
    assert {c.rich_help_panel for c in COMMANDS.values()} == {
        "Data", "Models", "Predictions", "Scores and choices", "Workspace",
    }  # fmt: skip


def test_the_first_help_names_the_commands_in_the_order_of_the_work(run):
    code, text, _ = run("--help")
    assert code == 0
    assert "<bool>" not in text
    named = re.findall(r"^│ ([a-z][a-z-]*) ", text, re.MULTILINE)
    assert sorted(named) == sorted(COMMANDS)
    way = ["check", "convert", "plan", "train", "predict", "score", "tune", "report"]
    assert [name for name in named if name in way] == way


# -- --quiet


@pytest.mark.parametrize("line", [("--quiet", *PHANTOM), (*PHANTOM, "-q")])
def test_quiet_leaves_the_result(run, line):
    code, out, err = run(*line)
    assert (code, err) == (0, "")
    assert out.startswith("made: 2 training scans of 2 patients")


def test_quiet_leaves_errors_and_ends_with_its_command(run):
    code, _, err = run("--quiet", "score", "none.csv", "--truth", "none.csv")
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
    output.print_json({"dice": float("nan"), "shape": (1, 2), 3: {"path": os.curdir}})
    assert json.loads(capsys.readouterr().out) == {
        "format": 1, "dice": None, "shape": [1, 2], "3": {"path": "."},
    }  # fmt: skip


def test_json_of_phantom_and_convert_is_one_object(run):
    code, out, _ = run(*PHANTOM, "--json")
    assert code == 0
    made = json.loads(out)
    assert (made["scans"], made["patients"]) == ({"train": 2, "test": 0}, {"train": 2, "test": 0})
    code, out, _ = run("convert", "made", "--json", "--quiet")
    assert code == 0
    converted = json.loads(out)
    assert (converted["id"], converted["folds"]) == (501, 2)
    assert converted["scans"] == {"train": 2, "holdout": 0, "test": 0}


def test_every_command_that_yields_numbers_takes_json():
    assert {n for n, c in COMMANDS.items() if "as_json" not in {p.name for p in c.params}} == set()


# -- completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("typed", "offered"),
    [("gi2nnunet predict-h", "predict-hidden"), ("gi2nnunet train --pres", "--preset"),
     ("gi2nnunet train --preset resenc-", "resenc-xl"), ("gi2nnunet score --qu", "--quiet")],
)  # fmt: skip
def test_commands_options_and_choices_are_completed(shell, typed, offered, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gi2nnunet"])
    # As when started by its own name; click would find "python -m pytest" where that started us.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    monkeypatch.setenv("_GI2NNUNET_COMPLETE", f"complete_{shell}")
    for name, value in {
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
        "_TYPER_COMPLETE_ARGS": typed,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        gi2nnunet.cli.main()
    assert offered in re.split(r"[\s\":]+", capsys.readouterr().out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_shown(shell, run, monkeypatch):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    code, out, _ = run("--show-completion")
    assert code == 0
    assert f"_GI2NNUNET_COMPLETE=complete_{shell}" in out


def test_completing_loads_nothing_heavy(tmp_path):
    line = (
        "COMP_WORDS='gi2nnunet train --pres' COMP_CWORD=2 _GI2NNUNET_COMPLETE=complete_bash "
        f"{sys.executable} -X importtime -c "
        "'import sys; sys.argv = [\"gi2nnunet\"]; import gi2nnunet.cli; gi2nnunet.cli.main()'"
    )
    done = in_shell(tmp_path, line)
    assert done.stdout.split() == ["--preset"]
    loaded = set(re.findall(r"\| +([a-zA-Z0-9_]+)", done.stderr))
    assert "typer" in loaded
    assert not loaded & {"numpy", "pandas", "scipy", "torch", "nibabel", "nnunetv2"}


def test_check_of_the_competitions_files_loads_no_library_for_other_formats(tmp_path):
    line = f"{' '.join(('$G', *PHANTOM))} && {sys.executable} -X importtime -m gi2nnunet check made"
    loaded = set(re.findall(r"\| +([a-zA-Z0-9_.]+)", in_shell(tmp_path, line).stderr))
    assert "gi2nnunet.source.competition" in loaded
    assert not loaded & {"nibabel", "pydicom", "torch"}


# -- what moves, and colour

# Two steps of a progress and a training of two epochs, without the engine; {} keeps its terminal.
SPEAKING = """
import sys, time
from pathlib import Path
from gi2nnunet.cli import live, output
from gi2nnunet.training.train import TrainingProgress
output.set_quiet("quiet" in sys.argv)
with live.TrainingView() as view:
    for done in range(4):
        view.report(done, 3, "painting [scans]")
        time.sleep(0.15)
    view.report(0, 1, "a single step")
    view.report(1, 1, "a single step")
    view.begin(None)
    view.start("2d", "all", Path("some.log"))
    time.sleep(0.6)
    for epoch in range(1, 6):
        view.update(TrainingProgress(
            configuration="2d", fold="all", epoch=epoch, epochs=5, train_loss=-0.5, val_loss=-0.25,
            pseudo_dice={"large_bowel": 0.5, "small_bowel": float("nan"), "stomach": 0.75},
            epoch_seconds=2.0, seconds_left=2.0 * (5 - epoch)))
        time.sleep(0.6 if epoch == 3 else 0)
output.print_warnings(["too [few] scans. Give more."])
output.print_error("wrong")
"""


def in_terminal(arguments, *, columns=80, **environment):
    """Run Python in a terminal of its own; gives all that it received."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    dropped = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "TERM")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    env |= {"TERM": "xterm-256color"} | environment
    child = subprocess.Popen(
        [sys.executable, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=env
    )
    os.close(theirs)
    received = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while True:
            received += os.read(ours, 65536)
    os.close(ours)
    assert child.wait(60) in (0, 2)
    return received.decode()


COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9\d|10\d)(?:;\d+)*m")
MOVES = re.compile(r"\x1b\[\d*[AKJ]|\x1b\[\?25")


def plain(text):
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text).replace("\r", "\n")


@pytest.mark.parametrize("columns", [80, 140])
def test_a_terminal_shows_bars_with_time_left_and_the_training_live(columns):
    received = in_terminal(["-c", SPEAKING], columns=columns)
    assert COLOUR.search(received)
    assert MOVES.search(received)
    text = plain(received)
    assert re.search(r"painting \[scans\] ━+.* 2 of 3 +\d+ s left", text)
    assert re.search(r"2d, fold all +\S*━+\S* +first epoch +\d s so far", text)
    assert re.search(r"2d, fold all +\S*━.*epoch 3 of 5 +[34] s left", text)
    assert "2d, fold all: log some.log" in text
    numbers = (
        "loss -0.500 (validation -0.250), pseudo Dice large bowel 0.50, small bowel -, stomach"
    )
    assert numbers in text.replace("\n", " ")
    assert "Warning: too [few] scans. Give more." in text
    assert max(map(len, text.split("\n"))) <= 2 * columns  # the last line of an epoch may wrap


def test_no_color_has_no_colour_and_a_dumb_terminal_plain_lines():
    assert not COLOUR.search(in_terminal(["-c", SPEAKING], NO_COLOR="1"))
    dumb = in_terminal(["-c", SPEAKING], TERM="dumb")
    assert "\x1b" not in dumb
    assert "painting [scans]: 0 of 3" in dumb
    usage = ["-m", "gi2nnunet", "train", "--wrong"]
    assert COLOUR.search(in_terminal(usage))
    assert not COLOUR.search(in_terminal(usage, NO_COLOR="1"))


def test_off_a_terminal_lines_stand_whatever_colour_is_forced(tmp_path):
    for environment in ({}, {"FORCE_COLOR": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", SPEAKING],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={k: v for k, v in os.environ.items() if k != "NO_COLOR"} | environment,
        )
        assert done.stdout == ""
        assert not MOVES.search(done.stderr)
        assert bool(COLOUR.search(done.stderr)) == bool(environment)
        lines = plain(done.stderr).splitlines()
        assert lines[:2] == ["painting [scans]: 0 of 3", "painting [scans]: 3 of 3"]
        assert lines[2:4] == ["a single step", "2d, fold all: log some.log"]
        assert [line.partition(",")[2][:21] for line in lines[4:6]] == [
            " fold all: epoch 1 of", " fold all: epoch 5 of",
        ]  # fmt: skip
        assert "2.0 s per epoch" in lines[4]
        assert lines[4].endswith("8 s left")
        assert lines[6:] == ["Warning: too [few] scans. Give more.", "Error: wrong"]


def test_quiet_draws_nothing_on_a_terminal():
    text = plain(in_terminal(["-c", SPEAKING, "quiet"])).split("\n")
    assert [line for line in text if line] == [
        "Warning: too [few] scans. Give more.", "Error: wrong",
    ]  # fmt: skip


def test_lines_off_a_terminal_come_now_and_then_with_the_time_left(monkeypatch, capsys):
    now = [0.0]
    output.set_quiet(False)
    monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
    with output.show_progress() as report:
        for done in range(11):
            now[0] = 4.0 * done
            report(done, 10, "reading scans")
    assert capsys.readouterr().err.splitlines() == [
        "reading scans: 0 of 10",
        "reading scans: 3 of 10, 28 s left",
        "reading scans: 6 of 10, 16 s left",
        "reading scans: 9 of 10, 4 s left",
        "reading scans: 10 of 10",
    ]


# -- paths


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("{here}/a b/c.csv: found 3", "a b/c.csv: found 3"),
        ("Next: gi2nnunet convert '{here}/a b'", "Next: gi2nnunet convert 'a b'"),
        ("--out={here}/x, ({here}/y), [{here}/z]", "--out=x, (y), [z]"),
        ("{here}", "{here}"),
        ("{here}/", "{here}/"),
        ("{here}x/y /else{here}/y", "{here}x/y /else{here}/y"),
        ("gi2nnunet import-model {here}/-m.zip", "gi2nnunet import-model {here}/-m.zip"),
        ("file://{here}/page.html", "file://{here}/page.html"),
    ],
)
def test_paths_are_printed_from_the_current_folder(text, printed, here, capsys):
    given, expected = (each.format(here=here) for each in (text, printed))
    output.print_result(given)
    output.print_error(given)
    output.print_notice(given)
    output.print_json({"path": given})
    output.print_drawn([output.make_line(given), output.make_table("", ("", ""), [("a", given)])])
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == expected
    assert err.splitlines() == [f"Error: {expected}", expected]
    assert json.loads(out[out.index("{\n") : out.index("}\n") + 2])["path"] == given
    assert expected in out[out.index("}\n") :].splitlines()[1]


def test_a_path_is_printed_whole_if_the_current_folder_is_gone(here, capsys, monkeypatch):
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    output.print_result(f"{gone}/a")
    assert capsys.readouterr().out == f"{gone}/a\n"
