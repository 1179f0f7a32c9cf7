"""Bug reports: a sentence for an unexpected exception, and a file with the details.

Neither holds a path that the command was given, nor what an exception says that comes from DICOM
files, because both can name a patient; ``--show-paths`` shows them.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gi2nnunet.cli.app import LazyCommands

_PACKAGES = ("gi2nnunet", "nnunetv2", "torch", "numpy", "pandas", "nibabel", "imagecodecs", "typer")
_MOST_CHARACTERS = 300
_TEXTS = ("series", "number")  # options with texts from DICOM files
_OF_DICOM = re.compile(r"(dicom\w*|rtstruct\w*|seg|structures)\.py|(pydicom|highdicom)[/\\]")


def describe_bug(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback and the command line to a temporary file; return what to print."""
    shown = "--show-paths" in arguments
    words, hidden = (list(arguments), {}) if shown else _hide_places(arguments)
    chain = list(_follow(error))
    quiet = not shown and any(_is_of_dicom(each) for each in chain)
    what = " ".join((type(error).__name__ if quiet else f"{type(error).__name__}: {error}").split())
    what = _hide(what, hidden)
    if len(what) > _MOST_CHARACTERS:
        what = f"{what[:_MOST_CHARACTERS]} ..."
    lines = [f"this is a bug in gi2nnunet ({what})."]
    if quiet:
        details = "\n".join(
            "".join(traceback.format_tb(each.__traceback__)) + type(each).__name__
            for each in reversed(chain)
        )
    else:
        details = "".join(traceback.format_exception(error))
    path = _write_report(
        f"command: {shlex.join(words)}\n"
        f"python: {platform.python_version()} on {platform.platform()}\n"
        f"packages: {', '.join(f'{name} {_version(name)}' for name in _PACKAGES)}\n\n"
        f"{_hide(details, hidden)}"
    )
    if path is None:
        lines.append("Its details could not be written, because the temporary folder is full.")
    else:
        lines.append(f"Its details are in {path}. Please report it with that file.")
    return "\n".join(lines)


def _hide_places(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return a command line without its paths, and what each is called in place of it."""
    command, *rest = arguments[1:] or [""]
    known = LazyCommands()[command].params if command in LazyCommands() else []
    options = {word: param for param in known for word in (*param.opts, *param.secondary_opts)}
    words = ["gi2nnunet", command]
    hidden: dict[str, str] = {}
    waiting = iter(rest)
    for word in waiting:
        name, equals, value = word.partition("=")
        option = options.get(name) if name.startswith("-") else None
        if option is not None and option.is_flag:
            words.append(word)
            continue
        if option is not None:
            words.append(name)
            text = value if equals else next(waiting, "")
        else:
            text = word
        if option is not None and not _holds_place(option):
            words.append(text)
            continue
        words.append("SOURCE" if option is None else option.name.upper())
        if text:
            places = (text, os.path.abspath(text), os.path.realpath(text))  # noqa: PTH100
            hidden |= dict.fromkeys(places, words[-1])
    return words, hidden


def _holds_place(option: Any) -> bool:
    """Return whether an option's value is a path, or a text from DICOM files."""
    return "Path" in str(option.type_descriptor.annotation) or option.name in _TEXTS


def _hide(text: str, hidden: Mapping[str, str]) -> str:
    """Replace paths, and what is below them, in a text; the longest first."""
    for place in sorted(hidden, key=len, reverse=True):
        pattern = rf"(?<![\w./-]){re.escape(place)}(?![\w.-])(/[^'\"\n:]*)?"
        text = re.sub(pattern, hidden[place], text)
    return text


def _follow(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_of_dicom(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return any(_OF_DICOM.search(frame.filename) for frame in frames)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _write_report(text: str) -> str | None:
    with suppress(OSError):
        handle, path = tempfile.mkstemp(prefix="gi2nnunet-bug-", suffix=".log")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return path
    return None
