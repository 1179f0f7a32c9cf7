"""The application: commands that are imported when they run, --quiet, and groups of options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gi2nnunet.cli.output import set_quiet

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
# By module, whose functions have the names of the commands.
_MODULES = {
    "data": ("phantom", "check", "convert"),
    "workspace": ("doctor", "report", "verify"),
    "training": ("plan", "train", "estimate"),
    "slurm.commands": ("jobs",),
    "sharing": ("export-model", "import-model", "predict-hidden", "kaggle-bundle"),
    "prediction": ("predict", "predict-and-score"),
    "scores": ("encode", "score", "compare"),
    "tuning": ("out-of-fold", "tune", "compare-models"),
}
# By group, in the order of the work; the text is the first line of the command's docstring.
_COMMANDS = {
    "Data": {
        "phantom": "Write a synthetic source in the competition's own layout.",
        "check": "Look at a source before training: what it holds, and what in it is worth a look.",
        "convert": "Turn the competition's files into an nnU-Net raw dataset.",
    },
    "Models": {
        "doctor": (
            "Check the installation and, where there is a dataset, whether this machine can "
            "train on it."
        ),
        "estimate": (
            "Estimate what trainings take before they start: hours, GPU-hours, disk, memory."
        ),
        "plan": "Plan and preprocess the dataset: the first half of train.",
        "train": "Train nnU-Net; plan and preprocess first where that has not been done.",
        "jobs": (
            "Show the jobs on the cluster: what waits, runs, finished or failed, and what is left."
        ),
        "export-model": "Write trained models into one file without pickles, for others to import.",
        "import-model": (
            "Take models of export-model into the workspace; predict and nnU-Net find them there."
        ),
    },
    "Predictions": {
        "predict": "Predict a source and write submission.csv; no truth is looked for.",
        "predict-and-score": (
            "Predict, write submission.csv, and score it where the truth is known."
        ),
        "predict-hidden": (
            "Predict a hidden test set within a time budget; the CSV is valid at every moment."
        ),
        "kaggle-bundle": (
            "Write models, wheels and a notebook for the competition's offline machine."
        ),
        "encode": "Turn label volumes into a submission CSV.",
    },
    "Judging and choosing": {
        "score": "Score a submission against the truth by the competition's metric.",
        "compare": (
            "Compare two submissions: the difference, its interval over patients, what moved most."
        ),
        "out-of-fold": "Predict every training scan by the models that did not see its patient.",
        "tune": (
            "Choose thresholds, blend, gate, components and gaps for the metric, organ by organ."
        ),
        "compare-models": (
            "Score every configuration and ensemble out of fold, with cost, and recommend one."
        ),
        "report": (
            "Write one HTML page: data, folds, training curves, scores, and slices with contours."
        ),
        "verify": (
            "Check a workspace: what is missing, altered, stale, leaking, half-made or left behind."
        ),
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
        help="Results, warnings and errors only: no notices, no progress.",
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
        """Return what the list of commands shows of one."""
        if cmd_name not in self.commands:
            return None
        group = _GROUP_OF[cmd_name]
        return TyperCommand(cmd_name, help=_COMMANDS[group][cmd_name], rich_help_panel=group)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that is to run."""
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


def _make_command(function: Callable[..., None], **attributes: Any) -> Any:
    """Make a command of a function as Typer does, which only makes whole applications."""
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
