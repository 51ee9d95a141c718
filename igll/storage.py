"""Writing results so that they are whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from igll.errors import InputError, OutputError


@contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """A temporary path in the same folder that becomes ``path`` when the block ends well.

    Creates the folder. An older file stays as it was until then, and if anything fails.

    Args:
        path: The file to write.
        durable: Wait until the disk has the content and the name, so that a power cut cannot undo it.

    Raises:
        OutputError: The file cannot be written, as when the disk is full; names it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # the failure itself is what the user has to hear of
            temporary.unlink(missing_ok=True)


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


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
