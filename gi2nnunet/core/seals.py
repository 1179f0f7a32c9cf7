"""Seals of files: size, SHA-256 and time stamp of a whole file, to find what changed later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from typing_extensions import TypedDict

from gi2nnunet.core.files import Count
from gi2nnunet.core.workers import count_cores


class Seal(TypedDict):
    """A file as it was when it was whole; ``modified_ns`` is 0 if its time stamp is not known."""

    bytes: Count
    sha256: str
    modified_ns: int


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits; :class:`OSError` if it is not read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal_files(folder: Path, names: Iterable[str]) -> dict[str, Seal]:
    """Return the seals of files of a folder; :class:`OSError` if one cannot be read."""

    def seal(name: str) -> Seal:
        found = (folder / name).stat()
        digest = hash_file(folder / name)
        return {"bytes": found.st_size, "sha256": digest, "modified_ns": found.st_mtime_ns}

    listed = list(names)
    with ThreadPoolExecutor(count_cores()) as pool:
        return dict(zip(listed, pool.map(seal, listed), strict=True))


def find_changed(folder: Path, seals: Mapping[str, Seal], *, read: bool = False) -> list[str]:
    """Return the files that are missing or have another size or content than when sealed.

    The content is read only if the time stamp is another one, or with ``read``.
    """

    def is_changed(name: str) -> bool:
        seal = seals[name]
        try:
            found = (folder / name).stat()
            if found.st_size != seal["bytes"]:
                return True
            if found.st_mtime_ns == seal["modified_ns"] and not read:
                return False
            return hash_file(folder / name) != seal["sha256"]
        except OSError:
            return True

    with ThreadPoolExecutor(count_cores()) as pool:
        changed = list(pool.map(is_changed, seals))
    return [name for name, is_other in zip(seals, changed, strict=True) if is_other]


def renew_seals(folder: Path, seals: Mapping[str, Seal]) -> dict[str, Seal]:
    """Return the seals of unchanged files with the time stamps that these have now."""
    return {
        name: {**seal, "modified_ns": (folder / name).stat().st_mtime_ns}
        for name, seal in seals.items()
    }
