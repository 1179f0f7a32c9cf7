from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from gi2nnunet.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    group = typer.main.get_command(app)
    return sorted(group.commands)  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", commands())
def test_every_command_stands_in_the_readme_and_has_an_example(command: str) -> None:
    assert re.search(rf"`(gi2nnunet )?{command}[ `]", (ROOT / "README.md").read_text())
    described = typer.main.get_command(app).commands[command].help  # type: ignore[attr-defined]
    assert f"gi2nnunet {command} " in described + " "


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    text = page.read_text()
    shown = re.findall(r"^ {4}gi2nnunet (.+)$", text, re.MULTILINE)
    shown += re.findall(r"`gi2nnunet ([a-z][^`.]*)`", text.replace("\n", " "))
    for script in re.findall(r"\bscripts/\w+\.\w+", text):
        assert (ROOT / script).is_file(), script
    for line in shown:
        name, *words = line.split("#")[0].split()
        command = group.commands[name]  # type: ignore[attr-defined]
        known = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def code_of(page: Path, *, tested: bool) -> str:
    fence = r"^```python\n(.*?)^```" if tested else r"^```python notest\n(.*?)^```"
    return "\n".join(re.findall(fence, page.read_text(), re.MULTILINE | re.DOTALL))


def test_the_librarys_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(code_of(ROOT / "docs" / "library.md", tested=True), {"__name__": "page"})  # noqa: S102


@pytest.mark.engine
def test_the_librarys_training_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "library.md"
    names: dict[str, object] = {"__name__": "page"}
    exec(code_of(page, tested=True) + code_of(page, tested=False), names)  # noqa: S102
    assert (tmp_path / "results" / "submission.csv").is_file()


def test_every_page_stands_in_a_table_of_contents() -> None:
    pages = sorted((ROOT / "docs").glob("*.md"))
    trees = "\n".join(
        tree
        for page in pages
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), re.M | re.S)
    )
    listed = {line.strip() for line in trees.splitlines()}
    missing = {page.stem for page in pages} - listed - {"index"}
    assert not missing, f"add {', '.join(sorted(missing))} to a toctree of docs/index.md"
