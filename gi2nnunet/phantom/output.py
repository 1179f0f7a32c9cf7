"""Where a phantom's files go: a folder or a zip, written whole or not at all."""

from __future__ import annotations

import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gi2nnunet.errors import InputError, OutputError


def refuse_occupied(out: Path, *, as_zip: bool) -> None:
    """Refuse an output path that holds something."""
    if not out.exists() and not out.is_symlink():
        return
    if as_zip or not out.is_dir():
        raise InputError(f"{out}: exists already. Remove it, or give another path.")
    if any(out.iterdir()):
        raise InputError(f"{out}: is not empty. Empty it, or give another folder.")


@contextmanager
def open_output(out: Path, *, as_zip: bool) -> Iterator[Callable[[str, bytes], None]]:
    """Give a function that writes one file into a temporary sibling, moved to ``out`` at the end.

    Nothing is left behind where the block fails.
    """
    part = out.parent / f".{out.name}.{uuid.uuid4().hex}.part"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if as_zip:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:

                def _write_member(name: str, data: bytes) -> None:
                    member = zipfile.ZipInfo(name, date_time=(2022, 1, 1, 0, 0, 0))
                    member.external_attr = 0o644 << 16
                    if name.endswith(".csv"):
                        member.compress_type = zipfile.ZIP_DEFLATED
                    archive.writestr(member, data)

                yield _write_member
        else:
            part.mkdir()

            def _write_file(name: str, data: bytes) -> None:
                path = part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

            yield _write_file
            if out.is_dir():
                out.rmdir()
        part.replace(out)
    except OSError as error:
        raise OutputError(
            f"{out}: cannot be written ({error}). Free the disk, or give another path."
        ) from error
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            with suppress(OSError):
                part.unlink()
