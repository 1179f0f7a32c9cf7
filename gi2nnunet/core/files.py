"""Files that are written whole or not at all, and JSON files that may be damaged."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import stat
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import from_json
from typing_extensions import is_typeddict

from gi2nnunet.core.errors import InputError, OutputError, Problem, raise_problems, shorten

PART_SUFFIX = ".part"
REMOVING_SUFFIX = ".removing"
# What systems and programs leave in folders beside hidden files, in lower-case letters.
_STRAYS = frozenset(
    {
        "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "#recycle",
        "$recycle.bin", "system volume information", "lost+found",
    }
)  # fmt: skip
_MOST_SHOWN = 120

Record = TypeVar("Record")
Count = Annotated[int, Field(ge=0, le=2**53)]
"""A whole number from 0 on, as large as JSON can hold it everywhere."""


def _read_nan(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    return math.nan if value is None else read(value)


FloatOrNan = Annotated[float, WrapValidator(_read_nan)]
"""A number that may be NaN, which is ``null`` in JSON."""


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; rename it to ``path`` when it is complete.

    The folder is made if it is missing. Readers of ``path`` see the old content or the new one,
    never a part. Temporary files that a killed run of this machine left beside it are deleted.

    Raises
    ------
    OutputError
        If it cannot be written: a full disk, missing rights, a folder of that name.
    """
    owner = f"{socket.gethostname()}-{os.getpid()}"
    part = path.parent / f".{path.name}.{owner}{PART_SUFFIX}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale_parts(path)
        yield part
        part.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def cannot_write(path: Path, error: OSError) -> OutputError:
    """Return the error to raise for a file or folder that cannot be written."""
    if isinstance(error, IsADirectoryError):
        return _refuse_kind(path, "folder")
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}). "
        "Check the free space and the rights of its folder, then run the same again."
    )


def _refuse_kind(path: Path, kind: str) -> OutputError:
    return OutputError(
        f"{shorten(str(path))}: cannot be written (it is a {kind}); expected the name of a file. "
        "Give another name."
    )


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
        pass
    return True


def replace_file(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path``, text as UTF-8; see :func:`part_file`."""
    with part_file(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


def write_json(path: Path, content: Mapping[str, Any], *, private: bool = False) -> None:
    """Write JSON, indented, that only its owner may read if ``private``; see :func:`part_file`."""
    text = json.dumps(content, indent=2) + "\n"
    if not private:
        replace_file(path, text)
        return
    with part_file(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY, 0o600))
        part.write_text(text, encoding="utf-8")


def remove_whole(*places: Path) -> None:
    """Delete files and folders, of a link only the link.

    All of them get hidden names before the first one is deleted, so that what a kill midway leaves
    does not look whole. The same call again deletes that too.

    Raises
    ------
    OutputError
        If one cannot be deleted.
    """
    inner_first = sorted(set(places), key=lambda path: (-len(path.parts), path))
    for place in inner_first:
        try:
            if os.path.lexists(place):
                _delete(hidden_name(place))
                place.rename(hidden_name(place))
        except OSError as error:
            raise _cannot_delete(place, error) from error
    for place in inner_first:
        try:
            _delete(hidden_name(place))
        except OSError as error:
            raise _cannot_delete(place, error) from error


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cannot_delete(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{place}: cannot be deleted ({error.strerror or error}). "
        "Check the rights of it and of its folder, then run the same again."
    )


def hidden_name(place: Path) -> Path:
    """Return the name that a file or folder has while it is deleted."""
    return place.parent / f".{place.name}{REMOVING_SUFFIX}"


def find_removals(*roots: Path) -> tuple[Path, ...]:
    """Return what interrupted removals left below some folders; see :func:`remove_whole`."""
    found = (path for root in roots for path in root.rglob(f".*{REMOVING_SUFFIX}"))
    return tuple(sorted(path for path in found if not is_being_removed(path.parent)))


def show_name(hidden: Path) -> Path:
    """Undo :func:`hidden_name`."""
    return hidden.with_name(hidden.name.removeprefix(".").removesuffix(REMOVING_SUFFIX))


def is_being_removed(path: Path) -> bool:
    """Return whether a path is, or is in, what :func:`remove_whole` is deleting, or left."""
    return any(part.startswith(".") and part.endswith(REMOVING_SUFFIX) for part in path.parts)


def read_record(path: Path, kind: type[Record], *, remedy: str) -> Record:
    """Read a JSON file as a dataclass, a TypedDict or a collection of these; see `parse_record`.

    Raises
    ------
    InputError
        If it is missing, cannot be read, or is damaged; it names every key that is wrong.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: no such file; expected one. {remedy}") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}). {remedy}") from error
    return parse_record(data, kind, where=str(path), remedy=remedy)


def find_record(path: Path, kind: type[Record], *, remedy: str | None = None) -> Record | None:
    """Read a JSON file as :func:`read_record` does; ``None`` if it is missing.

    Without a remedy, a damaged file counts as missing: for marks and notes that only save work.

    Raises
    ------
    InputError
        If there is a remedy and the file cannot be read or is damaged.
    """
    try:
        return read_record(path, kind, remedy=remedy or "")
    except InputError as error:
        if remedy is None or isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise


def parse_record(data: bytes | str, kind: type[Record], *, where: str, remedy: str) -> Record:
    """Return JSON as a dataclass, a TypedDict or a collection of these.

    ``true`` is not 1, ``"3"`` is not 3, and no number is NaN or infinite. Keys that the type does
    not name are left out of a dataclass and kept in a TypedDict.

    Parameters
    ----------
    data
        The JSON text.
    kind
        The type; a default says that a key may be missing.
    where
        The name of its file, for the message.
    remedy
        One sentence, what to do about damage.

    Raises
    ------
    InputError
        If it is damaged; it names every key that is wrong.
    """
    text = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if b"\\ud" in text:
        text = _replace_surrogates(text)
    try:
        found: Any = _adapter_of(cast(Hashable, kind)).validate_json(text, strict=True)
    except ValidationError as error:
        raise_problems(_list_problems(error, text, where), remedy=remedy)
        raise
    if found is None:
        problem = Problem(where=where, found="null", expected="an object")
        raise_problems([problem], remedy=remedy)
    read: Record = found
    return read


def _replace_surrogates(data: bytes) -> bytes:
    """Put ``?`` for the bytes of a file name that are not UTF-8, which pydantic refuses."""
    with suppress(ValueError, RecursionError):
        return json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8", "replace")
    return data


@cache
def _adapter_of(kind: Hashable) -> TypeAdapter[Any]:
    # "or None", because pydantic takes the settings of a dataclass only from the dataclass.
    plain: Any = kind
    extra: Literal["allow", "ignore"] = "allow" if is_typeddict(kind) else "ignore"
    return TypeAdapter(plain | None, config=ConfigDict(allow_inf_nan=False, extra=extra))


def _list_problems(error: ValidationError, data: bytes, where: str) -> Iterator[Problem]:
    """Give one problem for each key; a key that may be of several types has several errors."""
    expected: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for one in error.errors(include_url=False, include_context=False):
        message = one["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        value = shorten(json.dumps(one["input"], default=str), _MOST_SHOWN)
        if one["type"] == "json_invalid":
            message, value = "JSON", f"no JSON ({message.removeprefix('Invalid JSON: ')})"
        elif one["type"] == "missing":
            message, value = "this key", "nothing"
        key = "" if one["type"] == "json_invalid" else _spell_key(one["loc"], from_json(data))
        expected.setdefault(key, []).append(message)
        found[key] = value
    for key, messages in expected.items():
        place = f"{where}: {key}" if key else where
        yield Problem(where=place, found=found[key], expected=" or ".join(dict.fromkeys(messages)))


def _spell_key(parts: Sequence[Any], content: Any) -> str:
    """Return ``a["2d"].b[0]``, without the names of types that pydantic puts in between."""
    text = ""
    for number, part in enumerate(parts):
        keys = range(len(content)) if isinstance(content, list) else content
        there = isinstance(content, dict | list) and part in keys
        if part == "[key]" or (not there and number < len(parts) - 1):
            continue
        if isinstance(content, dict | list):
            name = str(part)
            text += f".{name}" if name.isidentifier() else f"[{json.dumps(part)}]"
        content = content[part] if there else None
    return text.removeprefix(".")


def is_stray(path: str) -> bool:
    """Return whether a path inside a folder or zip is of a file that nobody put there as data.

    Such are hidden files (``._*``, ``.DS_Store``, ``.ipynb_checkpoints/``) and what systems leave
    (``__MACOSX/``, ``Thumbs.db``, ``@eaDir/``). Every list of a user's files is without them.
    """
    return any(
        (part.startswith(".") and bool(part.strip("."))) or part.lower() in _STRAYS
        for part in path.split("/")
    )


def find_kind(path: Path) -> Literal["file", "folder", "pipe", "device"] | None:
    """Return what is at a path, links followed; ``None`` for nothing.

    Raises
    ------
    InputError
        If that cannot be found out: missing rights, a loop of links, a name that is too long.
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
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return "file" if stat.S_ISREG(mode) else "folder"
    return "device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else "pipe"


def check_place(path: Path, *, begins: str = "", reads: Iterable[Path] = ()) -> Path:
    """Check, before any work is done for a file, that it can be written.

    Parameters
    ----------
    begins
        Pattern of how such a file begins. One that begins otherwise is something else, such as data
        or a model, and is not replaced.
    reads
        Files of this kind that the same command reads; none of them is replaced.

    Returns
    -------
    Path
        The file to write: of a link the file that it leads to.

    Raises
    ------
    OutputError
        If it is a folder, a pipe, a device, another file or one of ``reads``, or nothing can be
        written to the nearest existing folder above it.
    """
    try:
        if path.is_symlink():
            path = Path(os.path.realpath(path))
        there = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
        is_folder = there.is_dir()
        if there == path:
            _check_replaced(path, begins=begins, reads=reads)
        if not is_folder and there != path:
            reason = f"{there} is a file"
        elif os.access(there if is_folder else path.parent, os.W_OK | os.X_OK):
            return path
        elif os.statvfs(there).f_flag & os.ST_RDONLY:
            reason = "the disk is mounted read-only"
        else:
            reason = "no right to write"
    except OSError as error:
        reason = error.strerror or str(error)
    raise OutputError(
        f"{shorten(str(path))}: cannot be written ({reason}). "
        "Give another place, or check its rights."
    )


def _check_replaced(path: Path, *, begins: str, reads: Iterable[Path]) -> None:
    """Raise an :class:`OutputError` if what is at a path is not to be replaced."""
    kind = find_kind(path)
    if kind not in ("file", None):
        raise _refuse_kind(path, kind)
    found = None
    if any(other.exists() and path.samefile(other) for other in reads):
        found = "a file that is also read"
    elif begins and kind:
        with path.open("rb") as file:
            head = file.read(_MOST_SHOWN).decode("latin-1")
        if head and not re.match(begins, head):
            found = "a file of another kind"
    if found:
        raise OutputError(
            f"{shorten(str(path))}: found {found}; expected another one, so that it stays as it "
            "is. Give another place."
        )


def check_room(folder: Path, *, needed: int) -> None:
    """Raise an :class:`OutputError` if the disk has fewer than ``needed`` bytes free."""
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OutputError(
            f"{folder}: found {free} bytes free; expected at least {needed}, the size of the "
            "source's images. Free some space, or choose another --workspace."
        )
