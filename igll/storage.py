"""Writing results so that they are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from igll.errors import InputError, OutputError


@contextmanager
def replacing(path: Path, durable: bool = False, previous: Path | None = None) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends well.

    Creates the folder. An older file stays as it was until then, and if anything fails.

    Args:
        path: The file to write.
        durable: Wait until the disk has the content and the name, so that a power cut cannot undo it.
        previous: What the older file, if there is one, is called from then on; None: it is gone.

    Raises:
        OutputError: The file cannot be written, as when the disk is full; names it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _flush(temporary)
        _rename(temporary, path, previous)
        if durable:
            _flush(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # the failure itself is what the user has to hear of
            temporary.unlink(missing_ok=True)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block is done; for short writes that do not bear being broken off.

    An archive of :mod:`zipfile` is one: closed in the midst of an entry it raises an error of its own.
    Outside the main thread, where signals never arrive, nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    late: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        late.append(number)

    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in found.items() if handler is not None}
    try:
        for number in handlers:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if late:
            signal.raise_signal(late[0])


def _rename(temporary: Path, path: Path, previous: Path | None) -> None:
    """Give a file its name, and the file that has it another one."""
    if previous is None or not path.exists():
        temporary.replace(path)
        return
    path.replace(previous)
    try:
        temporary.replace(path)
    except OSError:
        previous.replace(path)
        raise


def make_folder(path: Path) -> None:
    """Make a folder for results, or say at once that it cannot be.

    Raises:
        InputError: It cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); choose another --out") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write there; choose another --out")


def locked(path: Path, busy: str) -> IO[str]:
    """A file that one process at a time can have open this way; free again however that process ends.

    A lock of the process, not of the open file (as flock is): the workers of a loader are forks, inherit the
    file, and would hold the lock for as long as they outlive a process that was killed.

    Args:
        path: The file; made if missing, and never removed.
        busy: What to say if another process has it; ``{holder}`` in it becomes the number of that process.

    Returns:
        The open file. Where the system or its disk has no locks, it is open and nothing more.

    Raises:
        OutputError: Another process has it, or it cannot be made.
    """
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    try:
        _lock(file)
    except OSError as error:
        file.seek(0)
        holder = file.read(20) or "unknown"
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise OutputError(f"{path}: cannot be locked ({error.strerror or error})") from error
        raise OutputError(busy.replace("{holder}", holder)) from None
    with suppress(OSError):  # a full disk: the lock holds without a name in it
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file


def _lock(file: IO[str]) -> None:
    """Lock a file or fail at once; where there are no locks, go on without."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
