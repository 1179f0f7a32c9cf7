"""Read access to a folder or a zip by the paths inside it."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from gi2nnunet.errors import InputError


class Source:
    """Read access to the files of a folder or of a zip, by their path inside it.

    Only names and bytes: nothing is unpacked, nothing is written. Picklable, so that worker
    processes each open their own.
    """

    def __init__(self, path: Path) -> None:
        """Open ``path``; raises :class:`InputError` where it is neither a folder nor a zip."""
        self.path = path
        self._zip: zipfile.ZipFile | None = None
        if not path.exists():
            raise InputError(
                f"{path}: no such file or folder. Give the competition's folder or its zip."
            )
        self.is_zip = path.is_file()
        if self.is_zip:
            self._open_zip()

    def __getstate__(self) -> dict[str, object]:
        """Leave the open zip behind."""
        return {"path": self.path, "is_zip": self.is_zip, "_zip": None}

    def _open_zip(self) -> zipfile.ZipFile:
        if self._zip is None:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(
                    f"{self.path}: neither a folder nor a readable zip ({error}). "
                    "Download the competition's zip again, or give its unpacked folder."
                ) from error
        return self._zip

    def names(self) -> list[str]:
        """Return the path of every file, with ``/`` between its parts, sorted."""
        if self.is_zip:
            return sorted(name for name in self._open_zip().namelist() if not name.endswith("/"))
        found: list[str] = []
        for folder, _, files in os.walk(self.path, followlinks=True):
            prefix = Path(folder).relative_to(self.path).as_posix()
            found += files if prefix == "." else [f"{prefix}/{name}" for name in files]
        return sorted(found)

    def sizes(self, names: Iterable[str]) -> list[int]:
        """Return the size of each named file in bytes.

        Raises
        ------
        InputError
            Where a file is missing.
        """
        try:
            if self.is_zip:
                members = self._open_zip()
                return [members.getinfo(name).file_size for name in names]
            return [(self.path / name).stat().st_size for name in names]
        except (OSError, KeyError) as error:
            raise InputError(
                f"{self.path}: a file has gone since it was listed ({error})."
            ) from error

    def digest_checksums(self, names: Iterable[str]) -> str | None:
        """Return a digest of the checksums that a zip lists for these files; else ``None``."""
        if not self.is_zip:
            return None
        members = self._open_zip()
        listed = "\n".join(f"{members.getinfo(name).CRC:08x}" for name in names)
        return hashlib.sha256(listed.encode()).hexdigest()

    def read_bytes(self, name: str, *, limit: int | None = None) -> bytes:
        """Return the content of one file, or its first ``limit`` bytes.

        Raises
        ------
        InputError
            Where the file is missing, cannot be read, or fails the zip's checksum.
        """
        try:
            if self.is_zip:
                with self._open_zip().open(name) as member:
                    return member.read() if limit is None else member.read(limit)
            with (self.path / name).open("rb") as file:
                return file.read() if limit is None else file.read(limit)
        except KeyError as error:
            raise InputError(f"{self.path}: holds no file {name}.") from error
        # RuntimeError: encrypted, or compressed in a way that Python does not know.
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            ValueError,
            RuntimeError,
        ) as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}).") from error
