"""Arguments of a call, checked against its annotations before anything is done.

The command line checks its options itself. A program can give ``epochs="5"`` or ``labels="bits"``,
which would fail late, or count as something else.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from numbers import Integral, Real
from os import PathLike
from typing import Any, Literal, ParamSpec, TypeVar, get_args, get_origin

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

# What a value of each annotation is an instance of, and how it is called. Others are not checked.
_KINDS: Mapping[str, tuple[Any, str]] = {
    "None": (type(None), "None"),
    "bool": (bool, "True or False"),
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a text"),
    "FilePath": ((str, PathLike), "a path"),
    "Mapping": (Mapping, "a dict"),
    "Sequence": (Iterable, "a list"),
    "Shown": ((bool, type(None), Callable), "True or a function"),
    "Notice": (Callable, "a function"),
    "Callable": (Callable, "a function"),
}
_NUMPY_BOOL = "bool_", "bool"


def check_arguments(call: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Let a call refuse arguments of a wrong type, and words that it does not know.

    It raises :class:`TypeError` and :class:`ValueError` with the keyword, what was found and what
    was expected.
    """

    @wraps(call)
    def run(*args: _Given.args, **keywords: _Given.kwargs) -> _Result:
        signature = inspect.signature(call)
        try:
            given = signature.bind(*args, **keywords).arguments
        except TypeError as error:
            raise TypeError(_describe(call.__name__, error, signature.parameters)) from None
        for name, value in given.items():
            _check(name, value, str(signature.parameters[name].annotation))
        return call(*args, **keywords)

    return run


def _describe(name: str, error: TypeError, keywords: Iterable[str]) -> str:
    """Return what is wrong with a call, and which keyword was meant."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    near = get_close_matches(wrong[1], keywords, n=1) if wrong else []
    return f"{name}(): {error}" + "".join(f"; did you mean {one!r}?" for one in near)


def _check(name: str, value: Any, annotation: str) -> None:
    while "[" in annotation:
        annotation = re.sub(r"\[[^\[\]]*\]", "", annotation)
    kinds = annotation.split(" | ")
    choices = _list_choices(kinds)
    known = [kind for kind in kinds if kind in _KINDS]
    if not choices and len(known) < len(kinds):
        return
    if isinstance(value, str) and not value and "FilePath" in kinds:
        raise ValueError(f"{name}: found ''; expected a path")  # it would mean the current folder
    if name == "seed" and isinstance(value, Integral) and int(value) < 0:
        raise ValueError(f"seed: found {value!r}; expected 0 or more")
    if any(_fits(value, kind) for kind in known) or (isinstance(value, str) and value in choices):
        return
    expected = [*choices, *(_KINDS[kind][1] for kind in known if kind != "None")]
    wrong = ValueError if choices else TypeError
    raise wrong(f"{name}: found {value!r}; expected {' or '.join(dict.fromkeys(expected))}")


def _fits(value: Any, kind: str) -> bool:
    if kind == "bool" and type(value).__name__ in _NUMPY_BOOL:
        return True
    if kind in ("int", "float") and isinstance(value, bool):
        return False
    if kind == "Sequence" and isinstance(value, str | Mapping):
        return False
    return isinstance(value, _KINDS[kind][0])


def _list_choices(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return the words that annotations allow."""
    from gi2nnunet.formats import ids
    from gi2nnunet.scoring import conventions

    for home in (ids, conventions):
        for kind in kinds:
            if get_origin(words := getattr(home, kind, None)) is Literal:
                return get_args(words)
    return ()
