from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
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


def shown_lines(text: str) -> list[str]:
    """Command lines on lines of their own, indented or fenced, without what follows #."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    text += "\n" + "".join(re.sub("^", "    ", block, flags=re.MULTILINE) for block in fenced)
    whole = re.sub(r" *\\\n *", " ", text)
    lines = re.findall(r"^ {4,}gi2nnunet ([a-z].*)$", whole, re.MULTILINE)
    return [line.split(" #")[0] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_of_a_page_parses(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in shown_lines(page.read_text()):
        name, *words = shlex.split(line)
        try:
            group.commands[name].make_context(name, words)  # type: ignore[attr-defined]
        except typer.Exit:
            continue  # --help


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_and_script_that_a_page_names_exists(page: Path) -> None:
    group = typer.main.get_command(app)
    text = page.read_text()
    for script in re.findall(r"\bscripts/\w+\.\w+", text):
        assert (ROOT / script).is_file(), script
    for line in re.findall(r"`gi2nnunet ([a-z][^`.]*)`", text.replace("\n", " ")):
        name, *words = line.split("#")[0].split()
        command = group.commands[name]  # type: ignore[attr-defined]
        known = {opt for param in command.params for opt in (*param.opts, *param.secondary_opts)}
        asked = {word for word in words if word.startswith("--")} - {"--help"}
        assert asked <= known, line


# Words of an unusual register, each with a plainer one (reports, whose: of which, if, only, again).
UNUSUAL = re.compile(
    r"\b(?:told|tells|whose|whoever|anew|at hand|reckon\w*|lacks|stands|is no (?!such\b)[a-z]+"
    r"|where there is)\b|\balone\b|(?:(?<=[.:;!?] )|(?<=\n)|(?<=\n    )|(?<=\"\"\"))Where\b"
)
MOST_UNUSUAL = 10  # in all modules and pages
# "standing" is not counted: it is the key of what a score means, which docs/evaluation.md explains.


def read_helps(run) -> str:
    texts = [run("--help")[1], *(run(name, "--help")[1] for name in commands())]
    return " ".join(re.sub(r"[\s│╭╮╰╯─]+", " ", text) for text in texts)


def test_readme_and_helps_are_in_plain_words(run) -> None:
    assert not UNUSUAL.findall((ROOT / "README.md").read_text())
    assert not UNUSUAL.findall(read_helps(run))


def test_modules_and_pages_hardly_use_unusual_words() -> None:
    files = [*PAGES, ROOT / "CHANGELOG.md", *(ROOT / "gi2nnunet").rglob("*.py")]
    found = [word for file in files for word in UNUSUAL.findall(file.read_text())]
    assert len(found) <= MOST_UNUSUAL


def test_helps_show_brackets(run) -> None:
    """Rich takes [slicer] in a text for a style and drops it."""
    assert "pip install 'gi2nnunet[slicer]'" in read_helps(run)


def test_a_wrong_line_is_found() -> None:
    page = "    gi2nnunet train --fold 0 \\\n      --folt 1 # no\n"
    lines = shown_lines(page + "```\ngi2nnunet plan\n```\ngi2nnunet is prose")
    assert lines == ["train --fold 0 --folt 1", "plan"]
    train = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="--folt"):
        train.make_context("train", shlex.split(lines[0])[1:])


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
@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.engine
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """The first tutorial's commands, as a reader would type them, in an empty folder."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    environ = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    for block in blocks:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", block],
            cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    space = tmp_path / "gi2nnunet-workspace"
    (path,) = space.glob("predictions/held-out/*/score-per-class.json")
    score = json.loads(path.read_text())
    assert score["standing"] == "held-out"
    assert score["dice"] > 0.6  # it has learned: 0.928 to 0.938 in five runs
    assert "</html>" in (space / "report.html").read_text()
