"""What is said of an exception that nobody foresaw: one sentence, and a file with the rest."""

from __future__ import annotations

import os
import platform
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("gi2nnunet", "nnunetv2", "torch", "numpy", "pandas", "nibabel", "imagecodecs", "typer")
_MOST_CHARACTERS = 300


def describe_bug(error: Exception, arguments: Sequence[str]) -> str:
    """Write the traceback to a file in the system's temporary folder and say where it lies.

    Parameters
    ----------
    error
        What was raised.
    arguments
        The command line.
    """
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if len(what) > _MOST_CHARACTERS:
        what = f"{what[:_MOST_CHARACTERS]} ..."
    lines = [f"this is a bug in gi2nnunet ({what})."]
    path = _write_report(
        "\n".join(
            [
                f"command: {shlex.join(arguments)}",
                f"python: {platform.python_version()} on {platform.platform()}",
                f"packages: {', '.join(f'{name} {_version(name)}' for name in _PACKAGES)}",
                "",
                "".join(traceback.format_exception(error)),
            ]
        )
    )
    if path is None:
        lines.append("Its details could not be written to a file: the temporary folder is full.")
    else:
        lines.append(f"Its details are in {path}. Please report it with that file.")
    return "\n".join(lines)


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
