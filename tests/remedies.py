"""Remedies that messages print: found in the source, and done as a reader would do them.

A test gives the sentence of the source and what a command has said to :func:`follow`. It fails if
the sentence was not said, or if the command in it fails. ``tests/test_remedies.py`` holds that each
sentence of the source is given to :func:`follow` by some test.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

import gi2nnunet
from gi2nnunet.cli import app

PACKAGE, TESTS = Path(gi2nnunet.__file__).parent, Path(__file__).parent
_NAMES: Any = typer.main.get_command(app)
_COMMAND = re.compile(
    rf"gi2nnunet (?:{'|'.join(sorted(_NAMES.commands, key=len, reverse=True))})(?![\w-])"
    r"(?: +(?:-[-a-z]+(?: (?!on )[\w.{}-]*[\w{}-])?|[A-Z]+\b|\{\}))*"
)


def list_remedies() -> dict[str, set[str]]:
    """Return the sentences of the source that name a command, with ``{}`` for values; by module."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for text in _list_texts(ast.parse(path.read_text())):
            for sentence in re.split(r"(?<=[.;]) |\n", text):
                if _COMMAND.search(sentence):
                    module = path.relative_to(PACKAGE).as_posix()
                    found.setdefault(sentence.strip(" ,"), set()).add(module)
    return found


def _list_texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts below a node, without docstrings and the help of options."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.keyword) and child.arg in ("help", "epilog"):
            continue
        if isinstance(child, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "{}" for v in child.values)
        elif isinstance(child, ast.Constant):
            if isinstance(child.value, str) and not isinstance(node, ast.Expr):
                yield child.value
        else:
            yield from _list_texts(child)


def list_followed() -> set[str]:
    """Return the sentences that tests give to :func:`follow`."""
    return {
        call.args[0].value
        for path in sorted(TESTS.rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and getattr(call.func, "id", "") == "follow"
        and isinstance(call.args[0], ast.Constant)
    }


def follow(
    sentence: str, said: str, run: Callable[..., Any], *more: str, **places: str | Path
) -> Any:
    """Run the command that a sentence of the source names, as it was said; return what run does.

    ``places`` are the values of ``SOURCE`` and the like. ``more`` are options that a reader of the
    test's machine would add, such as ``--device cpu``. Where ``run`` returns a code first, as the
    command line in this process, it has to be 0.
    """
    command = _COMMAND.search(sentence)
    assert command, sentence
    parts = (sentence[: command.start()], command[0], sentence[command.end() :].rstrip("."))
    before, named, after = (re.escape(part).replace(r"\{\}", ".+?") for part in parts)
    if named.endswith(".+?"):  # to the end of the line
        named = named.removesuffix(".+?") + r"[^\n]+"
    shown = re.search(f"{before}({named}){after}".replace(r"\ ", r"\s+"), said)
    assert shown, f"{sentence!r} is not in {said!r}"
    words = [str(places.get(word, word)) for word in shlex.split(shown[1])[1:]]
    done = run(*words, *more)
    if isinstance(done, tuple):
        assert done[0] == 0, done
    return done
