"""Messages in the words of Python: each names a call that exists, with keywords that it has."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gi2nnunet
from gi2nnunet import api
from gi2nnunet.cli.app import LazyCommands
from gi2nnunet.core.errors import InputError
from gi2nnunet.core.keywords import speak_python, spell_keywords
from gi2nnunet.training.machine import suggest_training
from tests.remedies import PACKAGE, _list_texts, list_remedies
from tests.source_factory import ORGANS, make_source, write_source

CALLS = {
    name: inspect.signature(getattr(api, name))
    for command in LazyCommands()
    if hasattr(api, name := command.replace("-", "_"))
}
KEYWORDS = {keyword for signature in CALLS.values() for keyword in signature.parameters}
CLUSTER = ("--on", "--part", "--c")  # nothing of this in Python
_MADE = re.compile(r"gi2nnunet\.([a-z_]+)")
_GIVEN = re.compile(r"(?<![\w.\"])([a-z_]+)=(?:\"[^\"]*\"|\{[^}]*\}|True|False|[A-Z]{2,}|\d+)")


def list_calls(text: str) -> Iterator[tuple[str, ast.Call | None]]:
    """The calls that a text names: with their arguments, or ``None`` if it only names them."""
    for found in _MADE.finditer(text):
        if not text.startswith("(", found.end()):
            yield found[1], None
            continue
        ends = (i + 1 for i in range(found.end(), len(text)) if text[i] == ")")
        for end in ends:
            try:
                call = ast.parse(text[found.start() : end], mode="eval").body
            except SyntaxError:
                continue
            assert isinstance(call, ast.Call)
            yield found[1], call
            break
        else:
            pytest.fail(f"not Python: {text[found.start() :]}")


def check_python(text: str) -> None:
    """Check that the calls of a text exist and take what they are given."""
    for name, call in list_calls(text):
        signature = CALLS[name]
        if call is not None:
            signature.bind(*call.args, **{str(one.arg): one.value for one in call.keywords})
    for found in _GIVEN.finditer(text):
        assert found[1] in (*KEYWORDS, *ORGANS, "others"), text


def fill_in(text: str) -> str:
    """A sentence of the source with values where it has some."""
    return text.replace("{}", "2d/fold_0")


@pytest.mark.parametrize("sentence", sorted(list_remedies()))
def test_a_remedy_is_a_call_that_can_be_made(sentence: str) -> None:
    spelled = spell_keywords(fill_in(sentence), CALLS)
    assert list(list_calls(spelled)), spelled
    check_python(spelled)
    assert not re.search(r"gi2nnunet [a-z]+(-[a-z]+)* (?:--|[A-Z]{2})", spelled)
    assert " --" not in spelled


def test_no_option_of_a_call_stays_in_a_message() -> None:
    """All sentences of the library with an option, whether they name a command or not."""
    seen = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        if "cli" in path.parts or "child" in path.parts or path.name == "wheels.py":
            continue
        for text in _list_texts(ast.parse(path.read_text())):
            if not re.search(r"(?<![\w-])--[a-z]", text) or " " not in text.strip():
                continue
            spelled = spell_keywords(fill_in(text), CALLS)
            left = re.findall(r"(?<![\w-])--[a-z][a-z-]*", spelled)
            known = [one for one in left if one[2:].replace("-", "_") in KEYWORDS]
            assert not known, text
            check_python(spelled)
            seen += 1
    assert seen > 80


@pytest.mark.parametrize(
    ("said", "spelled"),
    [
        ("use --jobs 2.", "use jobs=2."),
        ("with fewer --jobs if the memory ran out", "with fewer jobs if the memory ran out"),
        ("add --allow-missing.", "add allow_missing=True."),
        ("leave out --no-nifti", "leave out nifti=False"),
        ("Choose one with --id.", "Choose one with dataset_id."),
        ("give --orientation as-stored", 'give orientation="as-stored"'),
        ("with --roi stomach=Magen.", 'with roi={"stomach": "Magen"}.'),
        ("--patch-size 48x128x128: found", "patch_size=(48, 128, 128): found"),
        ("a smaller --lr: it was 0.01", "a smaller lr: it was 0.01"),
        (
            "gi2nnunet train --config 2d --config 3d_fullres --fold 0 --lr 1e-3 --no-checks",
            'gi2nnunet.train(config=["2d", "3d_fullres"], fold=0, lr=1e-3, checks=False)',
        ),
        (
            "run gi2nnunet convert '/my data/a.zip' --workspace 'w o' again",
            'run gi2nnunet.convert("/my data/a.zip", workspace="w o") again',
        ),
        ("nnUNet_compile=f gi2nnunet train ...",
         'os.environ["nnUNet_compile"] = "f"; gi2nnunet.train()'),
        ("of gi2nnunet predict or predict-and-score.",
         "of gi2nnunet.predict() or predict_and_score."),
        ("/a/predict-and-score/x: gone", "/a/predict-and-score/x: gone"),
        ("as python --version prints it", "as python --version prints it"),
        ("with --on slurm again", "with --on slurm again"),
        ("Run gi2nnunet tune again.", "Run gi2nnunet.tune() again."),
        ("Run the same gi2nnunet convert again.", "Run the same gi2nnunet.convert again."),
        ("gi2nnunet remove held-out", 'gi2nnunet.remove("held-out")'),
        ("gi2nnunet status --watch", "gi2nnunet.status()"),
    ],
)  # fmt: skip
def test_a_sentence_in_the_words_of_python(said: str, spelled: str) -> None:
    assert spell_keywords(said, CALLS) == spelled


def test_an_option_is_a_keyword_of_the_call_that_says_it() -> None:
    """``--labels`` is a way of coding to convert; a flag of one call can be a value of another."""
    said = "Give --out-of-fold"
    assert spell_keywords(said, CALLS, call="check") == "Give out_of_fold=True"


def test_the_library_names_keywords_where_the_command_names_options(run: Any, here: Path) -> None:
    said = r'with: gi2nnunet\.convert\(SOURCE, workspace="w"\)'
    with pytest.raises(gi2nnunet.InputError, match=said):
        gi2nnunet.train(workspace="w")
    code, _, printed = run("train", "--workspace", "w")
    assert code == 3
    assert "with: gi2nnunet convert --workspace w SOURCE" in printed
    write_source(here / "source", make_source())
    sorted((here / "source").rglob("slice_*.png"))[3].unlink()
    with pytest.raises(gi2nnunet.InputError, match="add allow_missing=True"):
        gi2nnunet.convert("source", workspace="w")
    with pytest.raises(InputError, match="add --allow-missing"):
        api.convert("source", workspace="w")  # as the command calls it
    dataset = gi2nnunet.convert("source", workspace="w", allow_missing=True)
    assert dataset.scans
    step = gi2nnunet.status(workspace="w").next_step
    command, _ = suggest_training()
    preset = ', preset="tiny"' if "tiny" in command else ""
    assert step.command == f'gi2nnunet.train(workspace="w", fold="all"{preset})'
    assert api.status(workspace="w").next_step.command == command
    check_python(step.command)


def test_notices_and_warnings_name_keywords() -> None:
    from gi2nnunet.dataset.encode import Encoded

    made = Encoded(
        path=Path("--jobs 3"), n_scans=1, n_rows=3, labels=(), warnings=("use --labels exclusive",)
    )

    def encode(*, on_notice: Any = None) -> Encoded:
        on_notice("add --restart")
        return made

    told: list[str] = []
    found = speak_python(encode, CALLS)(on_notice=told.append)
    assert told == ["add restart=True"]
    assert found.warnings == ('use labels="exclusive"',)
    assert found.path == made.path
