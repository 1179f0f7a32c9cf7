"""Files written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gi2nnunet.errors import OutputError

PART_SUFFIX = ".part"


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; put it in place once it is whole.

    The folder is made where it is missing. Whoever reads ``path`` meets the former content or the
    new one, never a part; a run that was killed can leave a hidden ``.part`` file beside it.

    Raises
    ------
    OutputError
        Where it cannot be written: no space, no right, a folder in its place.
    """
    part = path.parent / f".{path.name}.{os.getpid()}{PART_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}). "
            "Check the free space and the rights of its folder, then run the same again."
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def replace_file(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path``, text as UTF-8; see :func:`part_file`."""
    with part_file(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON, indented; see :func:`part_file`."""
    replace_file(path, json.dumps(content, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object; an empty one where it is missing, damaged or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
