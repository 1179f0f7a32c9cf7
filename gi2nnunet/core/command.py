"""Command lines of calls of this package, for records and hints."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

_Given = ParamSpec("_Given")
_Group = TypeVar("_Group")
_Result = TypeVar("_Result")

# A path can hold a patient's name, so a record does not hold paths, nor the UID of a series.
_PLACEHOLDERS = {
    "source": "SOURCE", "out": "OUT", "pretrained_weights": "WEIGHTS", "series": "SERIES",
    "structures": "STRUCTURES", "splits": "SPLITS",
}  # fmt: skip
_OPTIONS = {"dataset_id": "--id", "show_all": "--all"}
KEYWORDS = {option: name for name, option in _OPTIONS.items()}
"""Keywords of the calls that are not named like their options."""
_WITH_ID = (
    "check", "convert", "doctor", "estimate", "plan", "train", "export-model", "predict-and-score",
    "predict", "kaggle-bundle", "out-of-fold", "tune", "compare-models", "compare", "score",
    "report", "verify",
)  # fmt: skip
_WITH_WORKSPACE = (*_WITH_ID, "jobs", "import-model", "predict-hidden", "status", "remove")
# A command in a sentence. "The same gi2nnunet convert" is the one that the reader ran.
_COMMAND = re.compile(
    rf"(?<!same )(?<!that )(?<!by )\bgi2nnunet ({'|'.join(_WITH_WORKSPACE)})(?![\w-])"
)
_NOT_RECORDED = ("workspace", "jobs", "as_json", "progress", "stop")


def spell_call(function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """Return the command line that does what a call does.

    Parameters
    ----------
    function
        A call of :mod:`gi2nnunet.api`, or the command of that name; each keyword is an option.
    given
        Its arguments by name. Those that equal their defaults are left out, and so are callbacks,
        the workspace and the number of workers, which do not change the result. Paths become
        ``SOURCE``, ``OUT`` and ``WEIGHTS``.
    """
    words = ["gi2nnunet", function.__name__.replace("_", "-")]
    for name, parameter in inspect.signature(function).parameters.items():
        value = given.get(name)
        empty = value is None or (isinstance(value, list | tuple) and not value)
        if empty or value == parameter.default:
            continue
        if name not in _NOT_RECORDED and not name.startswith("on_"):
            words += _spell_option(name, value)
    return shlex.join(words)


def take_fields(
    group: Callable[_Given, _Group],
) -> Callable[[Callable[[_Group], _Result]], Callable[_Given, _Result]]:
    """Let a call take the fields of a dataclass as its parameters."""

    def change(call: Callable[[_Group], _Result]) -> Callable[_Given, _Result]:
        @wraps(call)
        def run(*args: _Given.args, **keywords: _Given.kwargs) -> _Result:
            return call(group(*args, **keywords))

        returned = inspect.signature(call).return_annotation
        signature = inspect.signature(group).replace(return_annotation=returned)
        run.__signature__ = signature  # type: ignore[attr-defined]
        return run

    return change


def name_place(text: str, *, workspace: str | None, dataset_id: int | None) -> str:
    """Add ``--workspace`` and ``--id`` to the commands that a message names, if it has none."""

    def add(command: re.Match[str]) -> str:
        words, rest = [command[0]], text[command.end() :].partition("\n")[0]
        if workspace is not None and "--workspace " not in rest:
            words += ["--workspace", shlex.quote(workspace)]
        if dataset_id is not None and command[1] in _WITH_ID and "--id " not in rest:
            words += ["--id", str(dataset_id)]
        return " ".join(words)

    return _COMMAND.sub(add, text)


def _spell_option(name: str, value: Any) -> list[str]:
    if isinstance(value, Mapping):
        value = [f"{key}={text}" for key, text in value.items()]
    option = _OPTIONS.get(name, "--" + name.replace("_", "-"))
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if name in _PLACEHOLDERS:
        return [_PLACEHOLDERS[name]] if name == "source" else [option, _PLACEHOLDERS[name]]
    if name == "patch_size" and isinstance(value[0], int):
        value = [value]
    several = value if isinstance(value, list | tuple) else [value]
    return [word for one in several for word in (option, _spell_value(one))]


def _spell_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
