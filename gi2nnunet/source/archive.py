"""Archive: read access to a folder or a zip by the paths inside it."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from gi2nnunet.core.errors import (
    MOST_TABLE_BYTES,
    InputError,
    Problem,
    is_table_bomb,
    raise_problems,
    shorten,
)
from gi2nnunet.core.files import find_kind, is_stray

_USED = (".png", ".csv")
_ENCRYPTED = 0x1  # a zip member's flag
_LEADS_OUTSIDE = re.compile(r"[/\\]|[A-Za-z]:|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)
# What zipfile raises for a damaged archive, or one of a kind that it does not know.
_BAD_ZIP = (
    OSError, zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError,
)  # fmt: skip


class Archive:
    """Read access to the files of a folder or of a zip, by their path inside it.

    Only names and bytes: nothing is unpacked, nothing is written. Links inside a folder are
    followed, wherever they lead. Picklable, so that worker processes each open their own. ``path``
    is as it was given, for messages; ``place`` is absolute, for any working folder.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; raises :class:`InputError` if it is neither a folder nor a zip."""
        self.path = path
        self.place = path.absolute()
        self._zip: zipfile.ZipFile | None = None
        kind = find_kind(path)
        if kind is None:
            raise InputError(
                f"{path}: no such file or folder. Give the competition's folder or its zip."
            )
        if kind not in ("file", "folder"):
            raise InputError(
                f"{path}: found a {kind}; expected a folder or a zip. "
                "Give the competition's folder or its zip."
            )
        self.is_zip = kind == "file"
        if self.is_zip:
            self._open_zip()

    def __getstate__(self) -> dict[str, object]:
        """Leave the open zip behind."""
        return {**self.__dict__, "_zip": None}

    def _open_zip(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                self._zip = zipfile.ZipFile(self.place)
            except _BAD_ZIP as error:
                raise InputError(
                    f"{self.path}: neither a folder nor a readable zip ({error}). "
                    "Download the competition's zip again, or give its unpacked folder."
                ) from error
        return self._zip

    def names(self) -> list[str]:
        """Return the path of every file, with ``/`` between its parts, sorted.

        Stray files (:func:`~gi2nnunet.core.files.is_stray`) are left out.

        Raises
        ------
        InputError
            If a zip's members lead outside it; if an image or a table is a link in a zip,
            encrypted, there twice, or there in two spellings that differ in upper and lower case.
        """
        if not self.is_zip:
            names = sorted(_walk(self.path))
            _refuse(self.path, _find_doubles(self.path, names))
            return names
        members = [m for m in self._open_zip().infolist() if not m.filename.endswith("/")]
        names = sorted(m.filename for m in members if not is_stray(m.filename))
        problems = [
            Problem(where=f"{self.path}, {member.filename!r}", found=found, expected=expected)
            for member in members
            for found, expected in _find_member_problems(member)
        ]
        _refuse(self.path, [*problems, *_find_doubles(self.path, names)])
        return names

    def sizes(self, names: Iterable[str]) -> list[int]:
        """Return the size of each file in bytes; raises :class:`InputError` if one is gone."""
        name = ""
        found = []
        try:
            for name in names:
                found.append(
                    self._open_zip().getinfo(name).file_size
                    if self.is_zip
                    else (self.place / name).stat().st_size
                )
        except (OSError, KeyError) as error:
            raise InputError(
                f"{self.path}, {name}: found a link that leads nowhere, or a file that has gone "
                f"since it was listed ({getattr(error, 'strerror', None) or error}); expected a "
                "file. Restore it, or run the same again."
            ) from error
        return found

    def digest_checksums(self, names: Iterable[str]) -> str | None:
        """Return a digest of the checksums that a zip lists for these files; else ``None``."""
        if not self.is_zip:
            return None
        members = self._open_zip()
        listed = "\n".join(f"{members.getinfo(name).CRC:08x}" for name in names)
        return hashlib.sha256(listed.encode()).hexdigest()

    def read_bytes(self, name: str, *, limit: int = -1) -> bytes:
        """Return the content of one file, or its first ``limit`` bytes.

        Raises
        ------
        InputError
            If the file is missing, is not a regular file, cannot be read, or fails the zip's
            checksum.
        """
        try:
            if self.is_zip:
                with self._open_zip().open(name) as member:
                    return member.read(limit)
            if find_kind(self.place / name) not in ("file", None):  # to read a pipe waits for ever
                raise InputError(
                    f"{self.path}: {name} is not a regular file; expected one. Put the file there."
                )
            with (self.place / name).open("rb") as file:
                return file.read(limit)
        except KeyError as error:
            raise InputError(f"{self.path}: holds no file {name}.") from error
        # RuntimeError: encrypted, or compressed in a way that Python does not know.
        except _BAD_ZIP as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}).") from error

    def read_table(self, name: str) -> bytes:
        """Return the content of a CSV.

        Raises
        ------
        InputError
            As :meth:`read_bytes`, and if it is larger than any real one, or unpacks to many times
            what one does.
        """
        (size,) = self.sizes([name])
        packed = self._open_zip().getinfo(name).compress_size if self.is_zip else size
        if size > MOST_TABLE_BYTES or is_table_bomb(size, packed=packed):
            raise InputError(
                f"{self.path}, {name}: found {size} bytes, packed into {packed}; expected a table "
                f"of at most {MOST_TABLE_BYTES} bytes. Download it again."
            )
        return self.read_bytes(name)


def _walk(root: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, links followed.

    A link to a folder that it lies in, which would never end, is passed over: it holds nothing
    that is not listed already.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        prefix, above = waiting.pop()
        try:
            found = (root / prefix).stat()
            identity = (found.st_dev, found.st_ino)
            if identity in above:
                continue
            with os.scandir(root / prefix) as entries:
                for entry in entries:
                    if is_stray(entry.name):
                        continue
                    if _is_folder(entry):
                        waiting.append((f"{prefix}{entry.name}/", above | {identity}))
                    else:
                        yield f"{prefix}{entry.name}"
        except OSError as error:
            raise InputError(
                f"{shorten(str(root / prefix))}: cannot be read ({error.strerror or error}); "
                "expected a folder. Check its rights."
            ) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: reported when it is read
        return False


def _find_member_problems(member: zipfile.ZipInfo) -> Iterator[tuple[str, str]]:
    if _LEADS_OUTSIDE.match(member.filename):
        yield "a path that leads outside the zip", "one below the zip's own root"
    elif "\\" in member.filename:
        yield "a path with backslashes", "/ between folders"
    if is_stray(member.filename) or not member.filename.lower().endswith(_USED):
        return
    if stat.S_ISLNK(member.external_attr >> 16):
        yield "a symbolic link", "the file itself"
    if member.flag_bits & _ENCRYPTED:
        yield "an encrypted file", "a plain one"


def _find_doubles(path: Path, names: Iterable[str]) -> list[Problem]:
    """Return the images and tables that are there twice, capitals and small letters taken alike."""
    seen: dict[str, str] = {}
    problems = []
    for name in names:
        folded = name.casefold()
        if not folded.endswith(_USED):
            continue
        if folded in seen:
            found = "it a second time" if seen[folded] == name else f"also {seen[folded]!r}"
            problems.append(
                Problem(where=f"{path}, {name!r}", found=found, expected="one file of a name")
            )
        seen[folded] = name
    return problems


def _refuse(path: Path, problems: Iterable[Problem]) -> None:
    raise_problems(problems, remedy=f"Download {path} again, or pack it again.")
