"""Files, written whole or not at all, and values read from JSON that may be damaged."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from gi2nnunet.core.errors import InputError, OutputError, shorten

PART_SUFFIX = ".part"


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; put it in place once it is whole.

    The folder is made where it is missing. Whoever reads ``path`` meets the former content or the
    new one, never a part. What a killed run of this machine left beside it is taken away.

    Raises
    ------
    OutputError
        Where it cannot be written: no space, no right, a folder in its place.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    part = path.parent / f".{path.name}.{owner}{PART_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_parts(path)
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


def _remove_stale_parts(path: Path) -> None:
    """Delete the temporary files of processes that are gone."""
    start, host = f".{path.name}.", socket.gethostname()
    with suppress(OSError), os.scandir(path.parent) as entries:
        for entry in entries:
            if not (entry.name.startswith(start) and entry.name.endswith(PART_SUFFIX)):
                continue
            owner = entry.name[len(start) : -len(PART_SUFFIX)]
            of_host, _, pid = owner.rpartition("-")
            if of_host == host and pid.isdecimal() and not is_running(int(pid)):
                Path(entry.path).unlink()


def is_running(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_json_object(path: Path, *, remedy: str) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises
    ------
    InputError
        Where it is missing, cannot be read, is no JSON, or no object; ``remedy`` is one sentence.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected one. {remedy}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). {remedy}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: is damaged: found no JSON ({error}); expected a JSON object. {remedy}"
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path}: is damaged: found a JSON {type(content).__name__}; expected a JSON object. "
            f"{remedy}"
        )
    return content


def find_kind(path: Path) -> Literal["file", "folder", "pipe", "device"] | None:
    """Return what stands at a path, links followed; ``None`` for nothing.

    Raises
    ------
    InputError
        Where that cannot be told: no right, a loop of links, a name that is too long.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{shorten(str(path))}: cannot be read ({reason}). Check its name and its rights."
        ) from error
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "pipe"


def check_place(path: Path) -> None:
    """Refuse a file's place where it cannot be written, before any work is done for it.

    Raises
    ------
    OutputError
        Where the nearest folder above that exists is none, or takes no files.
    """
    try:
        there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
            return
        reason = "no right to write" if there.is_dir() else f"{there} is a file"
        if there == path and not there.is_dir() and os.access(path.parent, os.W_OK | os.X_OK):
            return  # a file to be replaced
    except OSError as error:
        reason = error.strerror or str(error)
    raise OutputError(
        f"{shorten(str(path))}: cannot be written ({reason}). "
        "Give another place, or check its rights."
    )


def check_room(folder: Path, *, needed: int) -> None:
    """Refuse a disk that has fewer than ``needed`` bytes free.

    Raises
    ------
    OutputError
        Naming both numbers.
    """
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{folder}: found {free} bytes free; expected {needed} or more, for so large are the "
            "source's images. Free some space, or choose another --workspace."
        )


def take_mapping(content: Any, key: str) -> Mapping[str, Any]:
    """Return the table under a key; an empty one for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def take_list(content: Any, key: str) -> list[Any]:
    """Return the list under a key; an empty one for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else []


def take_number(content: Any, key: str) -> float | None:
    """Return the finite number under a key; ``None`` for anything else."""
    found = content.get(key) if isinstance(content, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return found
