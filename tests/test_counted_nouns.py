"""Counted nouns in the messages: "1 scan", not "1 scans"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gi2nnunet

ROOT = Path(gi2nnunet.__file__).parent
NOUNS = (
    "scans", "slices", "rows", "files", "folds", "patients", "volumes", "models", "masks", "epochs",
    "studies", "trainings", "suspects", "problems", "findings", "checks", "tensors", "fields",
    "structures",
)  # fmt: skip
# The noun follows a number, maybe after an adjective or two.
_COUNTED = re.compile(rf" (?:[\w-]+ ){{0,2}}?({'|'.join(NOUNS)})\b")
_CONSTANT = re.compile(r"_?[A-Z][A-Z_]*")


def find_uncounted(code: str) -> Iterator[tuple[int, str]]:
    """Yield the line and text of each noun in the plural after a length in an f-string.

    The length is ``len()`` or ``sum()`` of something that is not a constant, so that it can be 1.
    """
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            call = value.value
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id in ("len", "sum")
                and not _CONSTANT.fullmatch(ast.unparse(call.args[0]))
                and (match := _COUNTED.match(str(text.value)))
            ):
                yield node.lineno, f"{ast.unparse(call)}{match[0]}"


def test_nouns_after_a_length_are_counted() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted(ROOT.rglob("*.py"))
        for line, text in find_uncounted(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "use core.errors.count"


def test_nouns_after_a_length_are_counted_in_templates() -> None:
    # {{ scans | length }} scans
    pattern = re.compile(rf"\blength \}}\}} (?:{'|'.join(NOUNS)})\b")
    pages = sorted(ROOT.rglob("*.html"))
    assert pages
    found = [f"{page.name}: {m[0]}" for page in pages for m in pattern.finditer(page.read_text())]
    assert found == [], "use the filter counted"


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ('f"{len(a)} scans"', ["len(a) scans"]),
        ('f"of {len(a.b)} held-out test scans are"', ["len(a.b) held-out test scans"]),
        ('f"x" f"{sum(map(bool, a))} " "files"', ["sum(map(bool, a)) files"]),
        ("f\"{len(ORGANS)} rows, {count(len(a), 'scan')}, {len(a)} of {b} scans\"", []),
        ('f"{len(a)} bytes; {name} scans"', []),
    ],
)
def test_the_search_finds_them(code: str, found: list[str]) -> None:
    assert [text for _, text in find_uncounted(code)] == found
