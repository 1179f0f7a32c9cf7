"""Application of the command line: commands imported when they run, --quiet, option groups."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from gi2nnunet.cli.output import set_place, set_quiet

# The group of each option that does not name its own; it is the same in every command.
_GROUPS = {
    "Workspace and data": (
        "source", "workspace", "dataset_id", "source_labels", "label_map", "orientation",
        "allow_missing", "images", "trust",
    ),
    "What to compute with": ("device", "gpus", "jobs", "threads", "seed", "checks", "hours"),
    "Output": (
        "out", "html", "nifti", "rtstruct", "seg", "slicer", "save_probabilities", "show_all",
        "as_json", "quiet", "help",
    ),
}  # fmt: skip
_GROUP_OF_OPTION = {name: group for group, names in _GROUPS.items() for name in names}
# The commands of each module; its functions have their names.
_MODULES = {
    "data": ("phantom", "check", "convert"),
    "workspace": ("doctor", "report", "verify"),
    "upkeep": ("status", "remove"),
    "training": ("plan", "train", "estimate"),
    "slurm.commands": ("jobs",),
    "sharing": ("export-model", "import-model", "predict-hidden", "kaggle-bundle"),
    "prediction": ("predict", "predict-and-score"),
    "scores": ("encode", "export-dicom", "score"),
    "comparing": ("compare",),
    "tuning": ("out-of-fold", "tune", "compare-models"),
}
# The commands of each group, in the order of the work, with the first line of their docstrings.
_COMMANDS = {
    "Data": {
        "phantom": "Write a synthetic source in the competition's layout.",
        "check": "Show what a source holds, and which scans look unusual.",
        "convert": "Turn a source into an nnU-Net raw dataset.",
    },
    "Models": {
        "doctor": "Check whether this machine can do a training.",
        "estimate": "Estimate the hours, disk space and memory that trainings will need.",
        "plan": "Plan and preprocess the dataset; train does this too, if needed.",
        "train": "Train nnU-Net; plan and preprocess first if that was not done.",
        "jobs": "Show the Slurm jobs of this workspace, and how many are not finished.",
        "export-model": "Write trained models into one file that runs no code when it is read.",
        "import-model": "Add the models of an exported file to the workspace.",
    },
    "Predictions": {
        "predict": "Predict a source and write submission.csv, without scoring it.",
        "predict-and-score": "Predict, write submission.csv, and score it if the truth is known.",
        "predict-hidden": "Predict a hidden test set within a time budget.",
        "kaggle-bundle": "Pack models, wheels and a notebook for a submission on Kaggle.",
        "encode": "Turn label volumes into a submission CSV.",
        "export-dicom": "Write rtstruct.dcm and seg.dcm of label volumes, on their DICOM series.",
    },
    "Scores and choices": {
        "score": "Score a submission against the truth with the competition's metric.",
        "compare": "Compare two submissions or models, with intervals over patients.",
        "out-of-fold": "Predict each training scan with the models that did not see its patient.",
        "tune": "Choose thresholds and other post-processing for each organ.",
        "compare-models": "Score each configuration and ensemble, and recommend one.",
        "report": "Write one HTML page: data, folds, curves, scores and slices.",
    },
    "Workspace": {
        "status": "Show what the workspace holds, what runs in it, and what to do next.",
        "verify": "Check the workspace's files against what was recorded about them.",
        "remove": "Remove a training, a prediction, a dataset or a tuning from the workspace.",
    },
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
_GROUP_OF = {name: group for group, names in _COMMANDS.items() for name in names}


def _be_quiet(value: bool) -> bool:
    if value:
        set_quiet(True)
    return value


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print only results, warnings and errors.",
        callback=_be_quiet,
    ),
]


class LazyCommands(Mapping[str, Any]):
    """The commands by name; a command's module is imported when the command is asked for."""

    def __iter__(self) -> Iterator[str]:
        return iter(_GROUP_OF)

    def __len__(self) -> int:
        return len(_GROUP_OF)

    def __contains__(self, name: object) -> bool:
        return name in _GROUP_OF

    def __getitem__(self, name: str) -> Any:
        module = import_module(f"gi2nnunet.cli.{_MODULE_OF[name]}")
        function = getattr(module, name.replace("-", "_"))
        return _make_command(function, name=name, cls=Command, rich_help_panel=_GROUP_OF[name])


class Commands(TyperGroup):
    """The application itself: its help lists the commands without importing them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": LazyCommands()})

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of their groups."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command as the list of commands shows it."""
        if cmd_name not in self.commands:
            return None
        group = _GROUP_OF[cmd_name]
        return TyperCommand(cmd_name, help=_COMMANDS[group][cmd_name], rich_help_panel=group)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command to run."""
        if args[0] in self.commands:
            return args[0], self.commands[args[0]], args[1:]
        return super().resolve_command(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, flags without a type."""
        params: list[Any] = super().get_params(ctx)
        for param in params:
            if param.param_type_name == "option" and param.is_flag:
                param.metavar = ""
        return params


class Command(TyperCommand):
    """A command that also takes ``--quiet``, and shows its options in groups."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
        self.params = [*self.params, _make_quiet_option()]
        for param in self.params:
            _arrange(param)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; in ``--out=~/x``, where a shell keeps it, ``~`` is the home folder."""
        for word in args:  # as a script passes a variable that is not set
            if not word or (word.startswith("--") and word.endswith("=")):
                raise typer.BadParameter(f"found {word!r}; expected a value", ctx=ctx)
            if word == "-" or (word.startswith("--") and word.endswith("=-")):
                message = "found '-'; expected a file; standard input and output cannot be given"
                raise typer.BadParameter(message, ctx=ctx)
        try:
            rest: list[str] = super().parse_args(ctx, [_expand_home(word) for word in args])
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")  # pydantic's words
            raise
        given = ctx.get_parameter_source("dataset_id")
        dataset_id = ctx.params.get("dataset_id") if given and given.name != "DEFAULT" else None
        set_place(ctx.params.get("workspace"), dataset_id)
        return rest

    def get_help_option(self, ctx: Any) -> Any:
        """Return ``--help``, in its group."""
        option = super().get_help_option(ctx)
        if option is not None:
            _arrange(option)
        return option


def _expand_home(word: str) -> str:
    option, equals, value = word.partition("=")
    if option.startswith("--") and value.startswith("~/"):
        return option + equals + os.path.expanduser(value)  # noqa: PTH111  Path's can raise
    return word


def _arrange(param: Any) -> None:
    """Put an option into its group, and shorten the display of its type."""
    param.help = escape(param.help or "")  # Rich would take [slicer] for a style
    if param.param_type_name != "option":
        return
    param.rich_help_panel = param.rich_help_panel or _GROUP_OF_OPTION.get(param.name)
    if param.is_flag:
        param.metavar = ""
    elif param.multiple:
        param.metavar = param.metavar or "TEXT"
    elif param.min is not None or param.max is not None:
        param.metavar = param.metavar or "N"


def _make_command(function: Callable[..., None], **attributes: Any) -> Any:
    """Make a command of a function; Typer itself only makes whole applications."""
    little = typer.Typer(add_completion=False)
    little.command(**attributes)(function)
    return typer.main.get_command(little)


@cache
def _make_quiet_option() -> Any:
    """Return the option as Typer makes it."""

    def quiet(quiet: QuietOption = False) -> None: ...

    (option,) = _make_command(quiet).params
    option.expose_value = False  # commands need not name it
    return option
