"""The directive ``command-reference``: every command and option, read off the command line itself.

Typer carries its own copy of Click, so that extensions for Click do not know its commands; this
asks each parameter for the record that ``--help`` prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

# What --help prints, in words that need no knowledge of Python.
_KINDS = {
    "<int range>": "<number>",
    "<float range>": "<number>",
    "<int>": "<number>",
    "<float>": "<number>",
    "<list[str]>": "<text>",
    "<list[path]>": "<path>",
    "<list[file]>": "<file>",
    "<str>": "<text>",
    "<bool>": "",
}


class CommandReference(SphinxDirective):
    """Write a section for each command."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return self.parse_text_to_nodes("\n".join(describe()), allow_section_headings=True)


def describe() -> Iterator[str]:
    """Yield the lines of the reference, as MyST Markdown."""
    import typer

    from gi2nnunet.cli import app

    group: Any = typer.main.get_command(app)
    yield from _list_commands(group.commands)
    for name in sorted(group.commands):
        yield from _describe_command(name, group.commands[name])


def _list_commands(commands: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of all commands, in the groups and the order of ``--help``."""
    panels: dict[str, list[str]] = {}
    for name, command in commands.items():
        panels.setdefault(command.rich_help_panel, []).append(name)
    # What stands before the first heading would be put behind all the sections.
    yield from ("## All commands", "")
    for panel, names in panels.items():
        yield from ("```{rubric} " + panel, "```", "", "| command | what it does |", "|---|---|")
        for name in names:
            first = (commands[name].help or "").split("\n\n")[0].replace("\n", " ")
            yield f"| [{name}](#command-{name}) | {first} |"
        yield ""


def _describe_command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    yield from (f"(command-{name})=", f"## {name}", "")
    for paragraph in (command.help or "").split("\n\n"):
        example, shown, call = paragraph.partition("Example:")
        if shown:
            yield from (example.strip(), "```text", call.strip(), "```", "")
        else:
            yield from (_mark_options(paragraph.replace("\b", "").strip()), "")
    pieces = " ".join(command.collect_usage_pieces(context)).replace("{", "").replace("}", "")
    yield from ("```text", f"usage: gi2nnunet {name} {pieces}", "```", "")
    yield from ("```{program} gi2nnunet " + name, "```", "")
    panels: dict[str, list[Any]] = {}
    for parameter in command.get_params(context):
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panel = getattr(parameter, "rich_help_panel", None) or kind
        panels.setdefault(panel, []).append(parameter)
    # The named groups first, as they hold what makes the command.
    for panel in sorted(panels, key=lambda panel: (panel != "Arguments", panel == "Options")):
        yield from ("```{rubric} " + panel, "```", "")
        for parameter in panels[panel]:
            yield from _describe_parameter(*parameter.get_help_record(context))


def _mark_options(text: str) -> str:
    """Set options as code, so that no line is broken between their dashes."""
    return re.sub(r"(?<![\w`-])--[a-z][a-z-]*", r"`\g<0>`", text)


def _describe_parameter(spelling: str, meaning: str) -> Iterator[str]:
    for kind, plain in _KINDS.items():
        spelling = spelling.replace(kind, plain)
    spelling = spelling.strip().replace(" / ", ", ")
    meaning, bracket, extra = meaning.replace("\\[", "[").partition("  [")  # escaped for Rich
    extra = re.sub(r"(\S+)<=x<=(\S+)", r"\1 to \2", extra.rstrip("]"))
    extra = re.sub(r"\bx>=(\S+)", r"at least \1", extra)
    yield from (
        "````{option} " + spelling,
        _mark_options(meaning) + (f" ({extra})" if bracket else ""),
        "````",
        "",
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known to Sphinx."""
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
