"""Locks of files and folders, so that two runs do not change the same place at once.

A lock is a hidden file beside what it protects, locked by ``flock``. The kernel releases it when
the process ends, however it ends. On Linux, NFS passes such locks on to other machines (as
byte-range locks; from NFSv4 on without further services). A file system without locks gives no
protection and refuses nobody.
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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from gi2nnunet.core.errors import InputError, OutputError
from gi2nnunet.core.files import Count, cannot_write, is_running, parse_record

_WAIT_SECONDS = 0.5
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_NOT_TO_BE_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a place: a line of its lock file."""

    pid: Count
    host: str
    since: str
    purpose: str

    def __str__(self) -> str:
        """Return a phrase for the screen."""
        return f"process {self.pid} on {self.host}, {self.purpose}, since {self.since}"


def lock_path(place: Path) -> Path:
    """Return the lock file of a file or folder: hidden, beside it."""
    return place.parent / f".{place.name}.lock"


@contextmanager
def hold(
    place: Path,
    *,
    purpose: str,
    shared: bool = False,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold a file or folder, which need not exist, as long as the block runs.

    Parameters
    ----------
    place
        The file or folder. The folder around it is made if it is missing.
    purpose
        What other runs are shown: ``"training 2d, fold 0"``.
    shared
        Other runs may hold it shared as well; by default only this run holds it.
    on_wait
        Wait until it is free, and call this once with who holds it; by default refuse.

    Raises
    ------
    OutputError
        If another run holds it, naming that run; if the lock file cannot be made. A read-only
        place is not locked, because nobody writes there.
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
        with suppress(OSError):  # a folder that is still empty
            for folder in made:
                folder.rmdir()


def hold_dataset(
    raw: Path, dataset_id: int, *, purpose: str, shared: bool = True
) -> AbstractContextManager[None]:
    """Hold a raw dataset: shared by all that read it, not shared by what converts it again.

    The lock goes by its number, because nnU-Net finds datasets by number; see :func:`hold`.
    """
    return hold(raw / f"Dataset{dataset_id:03d}", purpose=purpose, shared=shared)


def find_holders(place: Path) -> tuple[Holder, ...]:
    """Return who seems to hold a place; several hold it shared.

    This reads what the holders wrote and takes no lock, so that looking refuses nobody. Processes
    of other machines cannot be asked, so they count as running.
    """
    try:
        handle = os.open(lock_path(place), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ()
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
    waits = False
    while True:
        handle = _open(path, place)
        if handle is None:
            return None
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            holders = "; ".join(map(str, _read_holders(handle))) or "an unknown process"
            os.close(handle)
            if error.errno in _NO_LOCKS_HERE:
                return None
            if error.errno not in _BUSY:
                raise cannot_write(place, error) from error
            if on_wait is None:
                raise OutputError(
                    f"{place}: is in use by another run: {holders}. "
                    "Wait for it to end or stop it, then run the same again."
                ) from error
            if not waits:
                on_wait(f"Waiting for {place}, in use by another run: {holders}")
            waits = True
            time.sleep(_WAIT_SECONDS)
            continue
        if _is_at(handle, path):
            _sign(handle, purpose=purpose, shared=shared)
            return handle
        os.close(handle)  # its last holder removed it meanwhile: take the new one


def _open(path: Path, place: Path) -> int | None:
    """Open the lock file; ``None`` if the place is read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in _NOT_TO_BE_WRITTEN:
            return None
        raise cannot_write(place, error) from error


def _is_at(handle: int, path: Path) -> bool:
    """Return whether the open lock file is the one that others find."""
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def _sign(handle: int, *, purpose: str, shared: bool) -> None:
    """Write who we are, for runs that are refused; a full disk does not stop us."""
    holder = Holder(
        pid=os.getpid(),
        host=socket.gethostname(),
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        purpose=purpose,
    )
    with suppress(OSError):
        if not shared:
            os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_END)
        os.write(handle, (json.dumps(asdict(holder)) + "\n").encode())


def _read_holders(handle: int) -> tuple[Holder, ...]:
    with suppress(OSError, InputError):  # somebody else's line, or one that is half written
        os.lseek(handle, 0, os.SEEK_SET)
        lines = os.read(handle, 1 << 16).splitlines()
        holders = [parse_record(line, Holder, where="", remedy="") for line in lines]
        return tuple(
            holder
            for holder in holders
            if holder.host != socket.gethostname() or is_running(holder.pid)
        )
    return ()


def _release(handle: int, path: Path) -> None:
    """Give the lock back; the last holder deletes the file."""
    with suppress(OSError):
        # Still locked while it is removed: a run that opened it meanwhile sees that it is gone.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(handle, path):
            path.unlink()
    os.close(handle)
