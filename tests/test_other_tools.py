"""docs/other-tools.md: its tables are those of the script, and our answers are what we compute.

The run of the ten tools themselves is part of ``make test-all``.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "other_tools", ROOT / "scripts" / "other_tools.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


def test_the_pages_tables_are_those_of_the_stored_answers(script: ModuleType) -> None:
    text = script.PAGE.read_text()
    assert script.fill_page(text, script.read_table()) == text


def test_our_answers_are_what_the_functions_give(script: ModuleType) -> None:
    pytest.importorskip("monai")
    cases = script.make_cases()
    stored = script.read_table()
    ours = {case.name: script.measure_ours(case) for case in cases}
    assert script.find_differences({script.OURS: ours}, stored) == []
    assert list(stored) == [script.OURS, *script.TOOLS]
    assert all(list(found) == [case.name for case in cases] for found in stored.values())


def test_every_case_is_explained_in_words(script: ModuleType) -> None:
    sections = script.PAGE.read_text().split("\n## ")[2:]
    assert len(sections) == len(script.make_cases())
    for section in sections:
        words = section.split("<!-- end -->")[1]
        assert len(words.split()) >= 2, section


def test_a_changed_answer_is_found(script: ModuleType) -> None:
    stored = script.read_table()
    found = {tool: {case: dict(row) for case, row in rows.items()} for tool, rows in stored.items()}
    assert script.find_differences(found, stored) == []
    found["MONAI"]["missed"]["hd95"] = "inf"
    found["MedPy"]["missed"]["hausdorff"] = "0"
    assert script.find_differences(found, stored) == [
        "MONAI, missed, hd95: 0 -> inf",
        "MedPy, missed, hausdorff: RuntimeError -> 0",
    ]


def test_a_page_without_a_case_is_refused(script: ModuleType) -> None:
    text = script.PAGE.read_text().replace("<!-- table: missed -->", "")
    with pytest.raises(ValueError, match="needs these blocks"):
        script.fill_page(text, script.read_table())


def test_answers_that_are_the_same_are_shown_together(script: ModuleType) -> None:
    answers = script.read_table()
    for tool in script.TOOLS:
        answers[tool]["equal"] = {"dice": "0.5"}
    answers["MedPy"]["equal"] = {"dice": "ValueError"}
    answers["MONAI"]["equal"] = {"dice": "nan"}
    row = script.render_case(answers, "equal").splitlines()[2]
    assert row == (
        "| Dice | 1 | **nan** MONAI; **0.5** torchmetrics, seg-metrics, surface-distance, "
        "SimpleITK, scikit-image, panoptica, miseval, nnunetv2; **raises** MedPy |"
    )


def test_the_citation_names_the_version_and_the_licence() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    for key in ("version", "license"):
        pattern = rf'^{key}(?: = "|: )([\w.-]+)'
        ours, theirs = (re.search(pattern, text, re.MULTILINE) for text in (project, citation))
        assert ours is not None
        assert theirs is not None
        assert ours[1] == theirs[1]
