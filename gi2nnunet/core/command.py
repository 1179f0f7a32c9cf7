"""Command lines of calls of this package, for records and hints."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping
from typing import Any

# A path can hold a patient's name, so a record does not hold paths, nor the UID of a series.
_PLACEHOLDERS = {
    "source": "SOURCE", "out": "OUT", "pretrained_weights": "WEIGHTS", "series": "SERIES",
    "structures": "STRUCTURES",
}  # fmt: skip
_OPTIONS = {"dataset_id": "--id"}
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
