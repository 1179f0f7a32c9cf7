"""Stands in for the competition's image: a virtual environment that holds PyTorch and little else.

What it holds are links to what is installed here, so that nothing is fetched; and wheels are made
again out of installed files, so that no package index is asked.
"""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gi2nnunet.sharing.wheels import Image

HELD = ("torch", "torchvision", "ipykernel")
NO_INDEX = {
    "PIP_NO_INDEX": "1",
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "no_proxy": "localhost,127.0.0.1",
}


def close(names: Sequence[str]) -> set[str]:
    """Return packages with all that they need, of what is installed here."""
    found: set[str] = set()
    todo = [(name, frozenset[str]()) for name in names]
    while todo:
        name, extras = todo.pop()
        found.add(name)
        for need in map(Requirement, metadata.requires(name) or ()):
            wanted = any(
                need.marker is None or need.marker.evaluate({"extra": extra})
                for extra in ("", *extras)
            )
            other = canonicalize_name(need.name)
            if wanted and (other not in found or need.extras):
                todo.append((other, frozenset(need.extras)))
    return found


def make_image(folder: Path) -> Path:
    """Make the environment; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    for name in sorted(close(HELD)):
        own = metadata.distribution(name)
        tops = {path.parts[0] for path in own.files or () if path.parts[0] not in ("..", "bin")}
        for top in tops - {"__pycache__"}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(own.locate_file(top))))
    return folder / "bin" / "python"


def freeze(python: Path) -> str:
    """Return what pip freeze tells of an environment."""
    command = [python, "-m", "pip", "freeze", "--all", "--disable-pip-version-check"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def repack(requirements: Sequence[str], image: Image, folder: Path) -> None:
    """Put wheels of installed packages into a folder; stands in for pip download."""
    for text in requirements:
        own = metadata.distribution(Requirement(text).name)
        [info] = {path.parts[0] for path in own.files or () if path.parts[0].endswith("-info")}
        wheel = own.read_text("WHEEL") or ""
        tags = [line[5:] for line in wheel.splitlines() if line.startswith("Tag: ")]
        parts = [{*part} for part in zip(*(tag.split("-") for tag in tags), strict=True)]
        tag = "-".join(".".join(sorted(part)) for part in parts)
        rows, record = [], f"{info}/RECORD"
        stem = info.removesuffix(".dist-info")
        with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as members:
            for path in own.files or ():
                name = path.as_posix()
                skipped = (record, f"{info}/INSTALLER", f"{info}/REQUESTED")
                if path.parts[0] == ".." or name.endswith(".pyc") or name in skipped:
                    continue
                members.write(str(path.locate()), name)
                rows.append((name, f"sha256={path.hash.value}" if path.hash else "", ""))
            out = io.StringIO()
            csv.writer(out, lineterminator="\n").writerows([*rows, (record, "", "")])
            members.writestr(record, out.getvalue())


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment without a network to install from, and without ours in it."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(("PIP_", "nnUNet_", "JUPYTER", "KAGGLE"))
    }
    return {**kept, **NO_INDEX, **more}
