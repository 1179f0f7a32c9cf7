"""Stray files as systems and programs leave them beside a user's files."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(50)
NAMES = (".DS_Store", "Thumbs.db", "desktop.ini", "Desktop.ini", ".hidden")
FOLDERS = (".ipynb_checkpoints", "@eaDir", "__MACOSX", "#recycle")


def add_strays(root: Path) -> int:
    """Add strays to a folder and every folder in it, copies of its files too; return how many."""
    before = [path for path in root.rglob("*") if path.is_file()]
    for folder in {root, *(path.parent for path in before)}:
        for name in NAMES:
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
    for path in before:
        (path.parent / f"._{path.name}").write_bytes(APPLE_DOUBLE)
        for name in FOLDERS:
            (path.parent / name).mkdir(exist_ok=True)
            shutil.copy(path, path.parent / name)
        (path.parent / "@eaDir" / f"{path.name}@SynoEAStream").write_bytes(b"stream")
    return sum(path.is_file() for path in root.rglob("*")) - len(before)


def add_strays_to_zip(file: Path) -> int:
    """Add strays to a zip, beside its members and as macOS does; return how many."""
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        names = archive.namelist()
        for name in names:
            folder, _, last = name.rpartition("/")
            prefix = f"{folder}/" if folder else ""
            archive.writestr(f"__MACOSX/{prefix}._{last}", APPLE_DOUBLE)
            archive.writestr(f"{prefix}._{last}", APPLE_DOUBLE)
            archive.writestr(f"{prefix}.ipynb_checkpoints/{last}", archive.read(name))
        for name in (*NAMES, "train/Thumbs.db", "test/.DS_Store"):
            archive.writestr(name, b"x")
        return len(archive.namelist()) - len(names)
