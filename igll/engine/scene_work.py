"""The folder in which one scene is worked on: whose it is, and what a killed process left."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from igll.engine.infer_plan import synthetic_path
from igll.errors import InputError, OutputError

_LOCK = "lock"
_ATTEMPTS = 10


def work_path(out: Path) -> Path:
    """The folder for the work on a result; its name starts with a dot."""
    return out.with_name(f".{out.stem}.igll-work")


@contextmanager
def work_folder(out: Path, request: str) -> Iterator[Path]:
    """A folder for work in progress, for one process at a time; gone once the block ends well.

    What an interrupted run of the same request left there is kept, that of another request is thrown away.
    Temporary files that a killed process left beside the result go too. If the block fails or is
    interrupted the folder stays, but not after bad input, as there is nothing to go on with.

    Args:
        out: The result.
        request: Digest of everything that the result depends on.

    Raises:
        OutputError: It cannot be made, or another process works on the same result.
    """
    work = work_path(out)
    try:
        lock = _locked(work / _LOCK, out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror})") from error
    with lock:
        try:
            _drop_temporaries(out)
            _drop_temporaries(synthetic_path(out))
            _begin(work, request)
        except OSError as error:
            raise OutputError(f"{work}: cannot be used ({error.strerror})") from error
        try:
            yield work
        except InputError:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work, ignore_errors=True)


def _begin(work: Path, request: str) -> None:
    """Note the request, after what belongs to another one is gone."""
    note = work / "request"
    if note.is_file() and note.read_text(errors="replace") == request:
        return
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()
    note.write_text(request)


def _locked(path: Path, out: Path) -> IO[str]:
    """The lock, held until the file is closed or its process ends, however it ends.

    Raises:
        OutputError: Another process holds it.
        OSError: It cannot be made.
    """
    for _ in range(_ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # another process is done and removed the folder a moment ago
            continue
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
                return file
        except FileNotFoundError:
            pass
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "unknown"
            file.close()
            raise OutputError(
                f"{out}: another process ({holder}) is working on it; wait for it, or choose another --out"
            ) from None
        except OSError:
            file.close()
            raise
        file.close()
    raise OutputError(f"{out}: other processes are working on it; wait for them, or choose another --out")


def _lock(file: IO[str]) -> None:
    """Lock a file or fail at once; where the system or its disk has no locks, go on without."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise


def _drop_temporaries(out: Path) -> None:
    """Remove what a killed process left beside a result, by the names that igll.geo.temporaries gives."""
    pattern = re.compile(rf"\.{re.escape(out.stem)}\.\d+(\.(work|cog|mask))?\.tiff?(\..*)?", re.IGNORECASE)
    for path in out.parent.iterdir():
        if pattern.fullmatch(path.name):
            with suppress(OSError):
                path.unlink()
