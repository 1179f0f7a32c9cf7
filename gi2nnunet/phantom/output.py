"""Where a phantom's files go: a folder or a zip, written whole or not at all."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gi2nnunet.errors import InputError, OutputError
from gi2nnunet.locks import hold


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

    Nothing is left behind where the block fails; what a killed run left is taken away.
    """
    with hold(out, purpose="painting a phantom"):
        refuse_occupied(out, as_zip=as_zip)  # another run may have ended since
        yield from _fill(out, as_zip=as_zip)


def _fill(out: Path, *, as_zip: bool) -> Iterator[Callable[[str, bytes], None]]:
    part = out.parent / f".{out.name}.part"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
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
        _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink()
