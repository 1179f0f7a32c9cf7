"""Command lines of calls: the command line, parsed, asks for what the call was given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import gi2nnunet
from gi2nnunet import api
from gi2nnunet.cli import app
from gi2nnunet.core.command import name_place, spell_call

PLACES = {"source": Path("SOURCE"), "out": Path("OUT"), "pretrained_weights": Path("WEIGHTS")}


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """What the command line's options are for the program, by name."""
    _, name, *words = shlex.split(line)
    group: Any = typer.main.get_command(app)
    command = group.commands[name]
    context = command.make_context(name, [word.replace("WEIGHTS", __file__) for word in words])
    return name, context.params


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (api.train, {}),
        (api.train, {"fold": ["0", "all"], "config": ["2d"], "preset": "tiny", "epochs": 3}),
        (api.train, {"lr": 1e-05, "batch_size": 4, "checks": False, "restart": True}),
        (api.predict, {"nifti": True, "mirroring": False, "step_size": 0.75, "threads": 2}),
        (api.predict_and_score, {"metric": "mle-bench", "tuning": False, "dataset_id": 7}),
        (api.convert, {"labels": "exclusive", "folds": 3, "holdout": "mle-bench", "seed": 4}),
        (api.convert, {"keep_known_bad": True, "name": "Mine", "source_labels": "regions"}),
    ],
)
def test_a_command_line_is_parsed_to_what_was_given(function: Any, given: dict[str, Any]) -> None:
    here = {"source": "/data/Jane Doe", **given} if function is not api.train else given
    line = spell_call(function, here)
    name, parsed = parse(line)
    assert name.replace("-", "_") == function.__name__
    if "source" in here:
        assert parsed.pop("source") == Path("SOURCE")
    bare = parse(spell_call(function, {"source": here.get("source")}))[1]
    bare.pop("source", None)
    assert parsed == {**bare, **given}


def test_one_value_is_spelled_like_a_list_of_it() -> None:
    assert spell_call(api.train, {"fold": 0}) == spell_call(api.train, {"fold": ["0"]})
    assert spell_call(api.train, {"patch_size": (192, 160)}) == (
        "gi2nnunet train --patch-size 192x160"
    )
    assert spell_call(api.train, {"patch_size": [(192, 160), (48, 128, 128)]}) == (
        "gi2nnunet train --patch-size 192x160 --patch-size 48x128x128"
    )
    assert spell_call(api.train, {"patch_size": ["192x160"]}) == (
        "gi2nnunet train --patch-size 192x160"
    )


def test_no_path_is_in_a_command_line() -> None:
    line = spell_call(
        api.predict_and_score,
        {"source": Path("/data/Jane Doe"), "out": "/out/Jane Doe", "workspace": "/Jane Doe/w"},
    )
    assert line == "gi2nnunet predict-and-score SOURCE --out OUT"
    line = spell_call(api.train, {"pretrained_weights": "/data/Jane Doe.pth", "workspace": "w"})
    assert line == "gi2nnunet train --pretrained-weights WEIGHTS"


def test_defaults_workers_and_callbacks_are_left_out() -> None:
    given = {"preset": "auto", "jobs": 3, "progress": print, "on_notice": print, "fold": None}
    assert spell_call(api.train, given) == "gi2nnunet train"


def test_commands_in_messages_get_the_place_that_was_given() -> None:
    def name(text: str) -> str:
        return name_place(text, workspace="my place", dataset_id=7)

    place = "--workspace 'my place'"
    assert name("Make it again with: gi2nnunet plan --preset tiny") == (
        f"Make it again with: gi2nnunet plan {place} --id 7 --preset tiny"
    )
    assert name("Import it: gi2nnunet import-model a --replace") == (
        f"Import it: gi2nnunet import-model {place} a --replace"
    )
    for unchanged in (
        "Run the same gi2nnunet convert again.",
        "Next: gi2nnunet tune --id 7 --workspace there",
        "gi2nnunet encode labels/",
        "gi2nnunet-workspace: nothing",
    ):
        assert name(unchanged) == unchanged
    assert name_place("gi2nnunet plan", workspace=None, dataset_id=None) == "gi2nnunet plan"


def test_the_options_that_are_added_are_those_that_the_commands_take() -> None:
    group: Any = typer.main.get_command(app)
    for name in group.commands:
        line = name_place(f"gi2nnunet {name}", workspace="w", dataset_id=7)
        taken = {param.name for param in group.commands[name].params}
        assert ("--workspace w" in line) == ("workspace" in taken), name
        assert ("--id 7" in line) == ("dataset_id" in taken), name


def test_every_command_that_the_package_names_can_be_called_so() -> None:
    """Messages, help and docstrings: the commands exist, and take the options beside them."""
    group: Any = typer.main.get_command(app)
    named = 0
    for path in sorted(Path(gi2nnunet.__file__).parent.rglob("*.py")):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text())  # a sentence over several lines
        for name, options in re.findall(
            r"(?:: |`|[Rr]un |with |it |same )gi2nnunet ([a-z][a-z-]*[a-z])"
            r"((?: +-[-a-z]+(?: [\w.{}-]+)?)*)",
            text,
        ):
            assert name in group.commands, f"{path}: gi2nnunet {name}"
            taken = {opt for param in group.commands[name].params for opt in param.opts}
            asked = set(re.findall(r"(?<= )--?[a-z][a-z-]*", options))
            assert asked <= taken, f"{path}: gi2nnunet {name} {options}"
            named += 1
    assert named > 40
