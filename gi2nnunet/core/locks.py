"""Keep two runs off one place: advisory locks that end with their process.

A lock is a hidden file beside what it guards, locked by ``flock``: by the kernel, so that a killed
run leaves no lock behind, whatever file it leaves. On Linux, NFS carries such locks between
machines (as byte-range locks, from NFSv4 on without further services); on a file system that has
none at all there is no protection, and no refusal either.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from gi2nnunet.core.errors import OutputError
from gi2nnunet.core.files import is_running

LOCK_SUFFIX = ".lock"

_WAIT_SECONDS = 0.5
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_NOT_TO_BE_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def lock_path(place: Path) -> Path:
    """Return the lock file of a file or folder: hidden, beside it."""
    return place.parent / f".{place.name}{LOCK_SUFFIX}"


@contextmanager
def hold(
    place: Path,
    *,
    purpose: str,
    shared: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold a place as long as the block runs.

    Parameters
    ----------
    place
        The file or folder; it need not exist. The folder that holds it is made where missing.
    purpose
        What for, as others are told: ``"training 2d, fold 0"``.
    shared
        Others may hold it shared as well; else this run alone.
    on_wait
        Wait until it is free, and call this once with who holds it; by default refuse.

    Raises
    ------
    OutputError
        Where another run holds it, saying which; where the lock file cannot be made. A place that
        is read-only is not locked: nobody writes there.
    """
    path = lock_path(place)
    made = [folder for folder in path.parents if not folder.exists()]
    handle = _acquire(path, place, purpose=purpose, shared=shared, on_wait=on_wait)
    if handle is None:
        yield
        return
    try:
        yield
    finally:
        _release(handle, path)
        with suppress(OSError):  # where nothing came of it, nothing stays
            for folder in made:
                folder.rmdir()


def hold_dataset(
    raw: Path, dataset_id: int, *, purpose: str, shared: bool = True
) -> AbstractContextManager[None]:
    """Hold a raw dataset: shared by all that read it, alone for what makes it anew.

    It goes by its number, as nnU-Net finds datasets by that; see :func:`hold`.
    """
    return hold(raw / f"Dataset{dataset_id:03d}", purpose=purpose, shared=shared)


def find_holder(place: Path) -> str | None:
    """Return who seems to hold a place, for the screen; ``None`` for nobody.

    It goes by what they signed, and takes no lock, so that nobody is refused because of a look.
    """
    try:
        handle = os.open(lock_path(place), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read_holders(handle)
    finally:
        os.close(handle)


def _acquire(
    path: Path,
    place: Path,
    *,
    purpose: str,
    shared: bool,
    on_wait: Callable[[str], None] | None,
) -> int | None:
    told = False
    while True:
        handle = _open(path, place)
        if handle is None:
            return None
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holders = _read_holders(handle) or "one that did not say which"
            os.close(handle)
            if error.errno in _NO_LOCKS_HERE:
                return None
            if error.errno not in _BUSY:
                raise _cannot_lock(place, error) from error
            if on_wait is None:
                raise OutputError(
                    f"{place}: is in use by another run: {holders}. "
                    "Wait for it to end or stop it, then run the same again."
                ) from error
            if not told:
                on_wait(f"Waiting for {place}, in use by another run: {holders}")
                told = True
            time.sleep(_WAIT_SECONDS)
            continue
        if _is_at(handle, path):
            _sign(handle, purpose=purpose, shared=shared)
            return handle
        os.close(handle)  # its last holder has removed it since: take the new one


def _open(path: Path, place: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in _NOT_TO_BE_WRITTEN:
            return None
        raise _cannot_lock(place, error) from error


def _cannot_lock(place: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{place}: cannot be written ({error.strerror or error}). "
        "Check the free space and the rights of its folder, then run the same again."
    )


def _is_at(handle: int, path: Path) -> bool:
    """Return whether the open lock file is the one that others find."""
    try:
        found, ours = path.stat(), os.fstat(handle)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)


def _sign(handle: int, *, purpose: str, shared: bool) -> None:
    """Write who we are for whoever is refused; a full disk does not stop us."""
    entry = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "purpose": purpose,
    }
    with suppress(OSError):
        if not shared:
            os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_END)
        os.write(handle, (json.dumps(entry) + "\n").encode())


def _read_holders(handle: int) -> str | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        os.lseek(handle, 0, os.SEEK_SET)
        lines = os.read(handle, 1 << 16).decode().splitlines()
        entries = [entry for line in lines if _may_live(entry := json.loads(line))]
        if entries:
            return "; ".join(
                f"process {entry['pid']} on {entry['host']}, {entry['purpose']}, "
                f"since {entry['since']}"
                for entry in entries
            )
    return None


def _may_live(entry: dict[str, object]) -> bool:
    """Return whether a process may still run; those of other machines cannot be asked."""
    if entry["host"] != socket.gethostname():
        return True
    return is_running(int(str(entry["pid"])))


def _release(handle: int, path: Path) -> None:
    """Give the lock back; the last holder takes the file away."""
    with suppress(OSError):
        # Still locked while it is removed: whoever opened it meanwhile sees that it is gone.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(handle, path):
            path.unlink()
    os.close(handle)
