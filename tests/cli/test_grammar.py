"""Options and arguments of all commands: one word means one thing, and one thing has one word."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
import typer

from gi2nnunet.cli import app

GROUP: Any = typer.main.get_command(app)
NEAR = {
    "--folds": "how many folds a dataset gets; --fold says which of them",
    "--parts": "how many parts a prediction gets; --part says which of them",
    "--scans": "which of all scans are scored; --scan names some",
    "--sizes": "a file of sizes; --size gives one",
    "--allow-leaks": "--all only begins alike",
    "--allow-missing": "--all only begins alike",
}
"""Words that begin with another word, each with the reason."""
OTHER_TYPE = {
    "--preset": "models of others have plans of any name",
    "--metric": "tuning needs a score of each organ, which two readings do not have",
}
"""Words with another type in some commands, each with the reason."""


class Use(NamedTuple):
    """A word in one command."""

    command: str
    meaning: str  # the help up to the first full stop, colon or semicolon
    kind: str  # type, and the name of the keyword in Python
    short: str | None  # None of an argument


def list_uses(command: str, params: Iterable[Any]) -> Iterator[tuple[str, Use]]:
    """Yield each option and argument of a command by its word; SOURCE is the word --source."""
    for param in params:
        is_argument = param.param_type_name == "argument"
        word = f"--{param.metavar.lower()}" if is_argument else max(param.opts, key=len)
        found = re.fullmatch(r"(.+?)(?:[.:;](?: .*)?)?", param.help, re.DOTALL)
        assert found, f"{command} {word} is not explained"
        kind = f"{param.type_descriptor.annotation} {param.name}"
        others = sorted({*param.opts, *param.secondary_opts} - {word})
        yield word, Use(command, found[1], kind, None if is_argument else " ".join(others))


def find_faults(uses: Iterable[tuple[str, Use]]) -> list[str]:
    """Return what is against the grammar."""
    of_word: dict[str, list[Use]] = defaultdict(list)
    of_meaning: dict[str, set[str]] = defaultdict(set)
    for word, use in uses:
        of_word[word].append(use)
        of_meaning[use.meaning].add(word)
    options = {word for word, found in of_word.items() if any(u.short is not None for u in found)}
    faults = [
        f"{' and '.join(sorted(words))} both mean: {meaning}"
        for meaning, words in of_meaning.items()
        if len(words) > 1 and options & words  # A and B of compare are not typed
    ]
    for word, found in of_word.items():
        for what in ("meaning", "kind", "short"):
            said = {getattr(use, what): use.command for use in found}
            said.pop(None, None)
            if len(said) > 1 and not (what == "kind" and word in OTHER_TYPE):
                faults.append(f"{word} has more than one {what}: {said}")
        faults += [
            f"{word} begins with the word {other}"
            for other in options
            if re.match(rf"{other}[a-z]", word) and word not in NEAR
        ]
    return faults


def list_all() -> list[tuple[str, Use]]:
    return [use for name, one in GROUP.commands.items() for use in list_uses(name, one.params)]


def test_a_word_means_one_thing_and_a_thing_has_one_word() -> None:
    assert find_faults(list_all()) == []
    words = {word for word, _ in list_all()}
    assert set(NEAR) | set(OTHER_TYPE) <= words


def output(
    output: Annotated[Path, typer.Option(help="What to write: a table.")],
) -> None: ...


def written(
    output: Annotated[Path, typer.Option(help="The table.")],
) -> None: ...


def labels(
    labels: Annotated[Path, typer.Option(help="A CSV of masks.")],
) -> None: ...


def out(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="What to write: a table.")],
) -> None: ...


@pytest.mark.parametrize(
    ("command", "faults"),
    [
        (output, ["--out and --output both mean: What to write", "--output begins with the word"]),
        (written, ["--output begins with the word --out"]),
        (labels, ["--labels has more than one meaning", "--labels has more than one kind"]),
        (out, ["--file and --out both mean: What to write"]),
    ],
)
def test_a_new_command_with_words_of_its_own_is_noticed(command: Any, faults: list[str]) -> None:
    little = typer.Typer(add_completion=False)
    little.command()(command)
    made: Any = typer.main.get_command(little)
    found = find_faults([*list_all(), *list_uses("new", made.params)])
    assert len(found) == len(faults)
    for fault, begin in zip(sorted(found), sorted(faults), strict=True):
        assert fault.startswith(begin)


def test_what_a_command_writes_is_named_the_same_everywhere() -> None:
    writing = {use.command for word, use in list_all() if word == "--out"}
    assert writing >= {
        "phantom", "export-model", "kaggle-bundle", "encode", "export-dicom", "predict",
        "predict-and-score", "predict-hidden", "report",
    }  # fmt: skip
    assert not [use for word, use in list_all() if word == "--out" and use.short is None]


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("phantom p --truth t.csv", "--truth"),
        ("phantom --labels t.csv", "--labels"),
        ("check source --model", "--model"),
        ("check source --out page.html", "--out"),
        ("report --scans case1_day1", "--scans"),
        ("export-dicom a.nii.gz --source s --out o --number 3", "--number"),
        ("predict --shards 2", "--shards"),
    ],
)
def test_a_word_that_there_is_not_is_refused(words: str, option: str, run: Any, here: Path) -> None:
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert f"No such option: {option}" in err
    assert not list(here.iterdir())


def test_defaults_of_what_is_written(run: Any, here: Path) -> None:
    size = ("--patients", "2", "--days", "1", "--size", "32x32x4", "--easy", "--jobs", "1")
    code, out, _ = run("phantom", *size)
    assert (code, out.partition(";")[0]) == (0, "phantom: 2 training scans of 2 patients")
    code, _, err = run("phantom", *size)
    assert code == 3
    assert "phantom: is not empty" in err
