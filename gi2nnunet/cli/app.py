"""What all commands share: --quiet before and after each, options and commands in groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

_DATA = "Workspace and data"
_COMPUTING = "What to compute with"
_OUTPUT = "Output"
# The group of each option that does not name its own: the same in every command.
_GROUPS = {
    "workspace": _DATA,
    "dataset_id": _DATA,
    "source_labels": _DATA,
    "allow_missing": _DATA,
    "images": _DATA,
    "device": _COMPUTING,
    "gpus": _COMPUTING,
    "jobs": _COMPUTING,
    "threads": _COMPUTING,
    "seed": _COMPUTING,
    "checks": _COMPUTING,
    "hours": _COMPUTING,
    "trust": _DATA,
    "out": _OUTPUT,
    "nifti": _OUTPUT,
    "save_probabilities": _OUTPUT,
    "show_all": _OUTPUT,
    "as_json": _OUTPUT,
    "quiet": _OUTPUT,
    "help": _OUTPUT,
}
_COMMANDS = {
    "Data": ("phantom", "check", "convert"),
    "Models": ("doctor", "estimate", "plan", "train", "jobs", "export-model", "import-model"),
    "Predictions": ("predict", "predict-and-score", "predict-hidden", "kaggle-bundle", "encode"),
    "Judging and choosing": (
        "score", "compare", "out-of-fold", "tune", "compare-models", "report", "verify",
    ),
}  # fmt: skip


def _be_quiet(value: bool) -> bool:
    if value:
        from gi2nnunet.cli.output import set_quiet

        set_quiet(True)
    return value


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Results, warnings and errors only: no notices, no progress.",
        callback=_be_quiet,
    ),
]


class Application(typer.Typer):
    """A Typer application whose commands are all :class:`Command`, each in its group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, cls=Commands, **kwargs)

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Add a command, as Typer does."""
        name = kwargs.get("name", args[0] if args else None)
        kwargs.setdefault("cls", Command)
        for group, names in _COMMANDS.items():
            if name in names:
                kwargs.setdefault("rich_help_panel", group)
        return super().command(*args, **kwargs)


class Commands(TyperGroup):
    """The application itself: its commands in the order of their groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names as the groups have them, where each has its place."""
        order = [name for names in _COMMANDS.values() for name in names]
        return sorted(super().list_commands(ctx), key=order.index)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, flags without a type."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "option" and param.is_flag:
                param.metavar = ""
        return params


class Command(TyperCommand):
    """A command that also takes ``--quiet``, and shows its options in the groups of all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
        self.params = [*self.params, _make_quiet_option()]
        for param in self.params:
            _arrange(param)

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help``, in its group."""
        option = super().get_help_option(ctx)
        if option is not None:
            _arrange(option)
        return option


def _arrange(param: Any) -> None:
    """Put an option into its group, and keep what it shows of its type short."""
    if param.param_type_name != "option":
        return
    param.rich_help_panel = param.rich_help_panel or _GROUPS.get(param.name)
    if param.is_flag:
        param.metavar = ""
    elif param.multiple:
        param.metavar = param.metavar or "TEXT"
    elif param.min is not None or param.max is not None:
        param.metavar = param.metavar or "N"


@cache
def _make_quiet_option() -> Any:
    """Return the option as Typer makes it, which only tells it of whole commands."""
    little = typer.Typer(add_completion=False)

    @little.command()
    def _(quiet: QuietOption = False) -> None: ...

    (option,) = typer.main.get_command(little).params
    option.expose_value = False  # commands need not name it
    return option
