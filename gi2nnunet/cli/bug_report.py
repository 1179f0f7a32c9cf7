"""Bug reports: a sentence for an unexpected exception, and a file with the details."""

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
    """Write the traceback and the command line to a temporary file; return what to print."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    if len(what) > _MOST_CHARACTERS:
        what = f"{what[:_MOST_CHARACTERS]} ..."
    lines = [f"this is a bug in gi2nnunet ({what})."]
    path = _write_report(
        f"command: {shlex.join(arguments)}\n"
        f"python: {platform.python_version()} on {platform.platform()}\n"
        f"packages: {', '.join(f'{name} {_version(name)}' for name in _PACKAGES)}\n\n"
        f"{''.join(traceback.format_exception(error))}"
    )
    if path is None:
        lines.append("Its details could not be written, because the temporary folder is full.")
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
