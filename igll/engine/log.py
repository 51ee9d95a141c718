"""The run's records: ``metrics.jsonl``, TensorBoard events and messages."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from tqdm import tqdm
from tqdm.utils import ObjectWrapper

from igll.distributed import is_writer
from igll.storage import replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch.utils.tensorboard import SummaryWriter

_TAIL_BYTES = 1 << 20  # far longer than a line


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line above the progress bar, to stdout if not told otherwise; one of several processes does."""
    if is_writer():
        tqdm.write(text, file=Tolerant(stream or sys.stdout))


def warn(text: str) -> None:
    """Print a warning above the progress bar."""
    say(f"warning: {text}", sys.stderr)


class Tolerant(ObjectWrapper):
    """A stream that goes on when what it writes to is gone, as a closed terminal or a pipe's dead reader."""

    def __eq__(self, other: object) -> bool:
        return bool(self._wrapped == getattr(other, "_wrapped", other))

    __hash__ = None  # type: ignore[assignment]

    def write(self, text: str) -> None:
        """Write, or not."""
        with suppress(OSError):
            self._wrapped.write(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(OSError):
            self._wrapped.flush()


class RunLog:
    """Writes scalars and pictures of a run; what cannot be written does not end it.

    Args:
        folder: The run's folder.
        first_step: Step from which this process goes on; later lines of an earlier process, written
            after the checkpoint that is being resumed, are dropped so that no step stands twice.
        replay: Is given every line that is kept.

    Raises:
        OutputError: The folder cannot be written to.
    """

    def __init__(
        self, folder: Path, first_step: int, replay: Callable[[dict[str, Any]], object] | None = None
    ) -> None:
        self._lines = _Lines(folder / "metrics.jsonl", first_step, replay)
        self._board = _Board(folder / "tensorboard", first_step)
        self._start = time.monotonic() - self._lines.last.get("time", 0.0)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record named values of a step.

        Args:
            step: Number of finished training steps.
            split: ``"train"``, ``"val"`` or ``"data"``.
            values: Name → value.
        """
        # JSON has no NaN or infinity: a value that is not a number is left empty.
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._add(step, split, plain)
        for name, value in values.items():
            self._board.write("add_scalar", f"{split}/{name}", value, step)

    def warning(self, step: int, text: str) -> None:
        """Record a warning about a step, and print it."""
        self._add(step, "warning", {"warning": text})
        warn(f"step {step}: {text}")

    def _add(self, step: int, split: str, values: Mapping[str, object]) -> None:
        seconds = round(time.monotonic() - self._start, 3)
        self._lines.add(json.dumps({"step": step, "time": seconds, **values, "split": split}))

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Record a picture of a step in TensorBoard."""
        self._board.write("add_image", name, np.asarray(picture), step, dataformats="HWC")

    def sync(self) -> None:
        """Wait until the disk has all lines; before a checkpoint, which must never be ahead of them."""
        self._lines.sync()


class SilentLog(RunLog):
    """The log of a process that writes nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass

    def scalars(self, step: int, split: str, values: dict[str, float]) -> None:
        """Record nothing."""

    def warning(self, step: int, text: str) -> None:
        """Record nothing."""

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Record nothing."""

    def sync(self) -> None:
        """Wait for nothing."""


def open_log(folder: Path, first_step: int, replay: Callable[[dict[str, Any]], object]) -> RunLog:
    """A run's log, arguments as of :class:`RunLog`; of several processes, one writes it."""
    return RunLog(folder, first_step, replay) if is_writer() else SilentLog()


class _Lines:
    """A file of JSON lines that only ever grows by whole ones; what cannot be written yet is kept in memory.

    Args:
        path: The file.
        first_step: Lines of later steps are dropped, and what is left of half a line.
        replay: Is given every line that is kept.

    Attributes:
        last: The last line that was there.
    """

    def __init__(
        self, path: Path, first_step: int, replay: Callable[[dict[str, Any]], object] | None
    ) -> None:
        self.path = path
        self.last: dict[str, Any] = {}
        self._pending: list[str] = []
        self._failing = self._unsynced = False
        kept = []
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
            with suppress(ValueError, TypeError, KeyError):
                line = json.loads(text)
                if line["step"] <= first_step:
                    kept.append(text)
                    self.last = line
                    if replay is not None:
                        replay(line)
        with replacing(path, durable=True) as temporary:
            temporary.write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")

    def add(self, line: str) -> None:
        """Write a line, after those that are still to be written."""
        self._pending.append(line)
        self._try()

    def sync(self) -> None:
        """Wait until the disk has everything."""
        if self._pending or self._unsynced:
            self._try(durable=True)

    def close(self) -> None:
        """Write what is left to be written, for the last time."""
        if self._pending:
            self._try()
        if self._pending:
            warn(f"{self.path}: lacks the last {len(self._pending)} line(s), which could not be written")

    def _try(self, durable: bool = False) -> None:
        """Write all that is to be written; say when that begins to fail, and when it is made up for."""
        try:
            # Opened anew each time: a drive that was lost and is back is another file.
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                self._write(descriptor)
                if durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._failing:
                warn(
                    f"{self.path}: cannot be written ({error.strerror or error}); training goes on, the "
                    "lines are kept and written as soon as they can be"
                )
            self._failing = True
            return
        if self._failing:
            warn(f"{self.path}: is written again; no line is missing")
        self._failing, self._unsynced = False, not durable

    def _write(self, descriptor: int) -> None:
        """Append what is to be written, all of it or nothing."""
        size = _cut_to_whole_lines(descriptor)
        data = "".join(f"{line}\n" for line in self._pending).encode()
        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, size)
            raise
        self._pending.clear()


def _cut_to_whole_lines(descriptor: int) -> int:
    """Cut off half a line at the end of a file; its size then."""
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return size
    start = max(size - _TAIL_BYTES, 0)
    size = start + os.pread(descriptor, size - start, start).rfind(b"\n") + 1
    os.ftruncate(descriptor, size)
    return size


class _Board:
    """TensorBoard's events; switched off with one warning once they cannot be written."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self._hook = threading.excepthook
        threading.excepthook = self._on_thread_error
        self._writer: SummaryWriter | None = None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=first_step + 1)
        except (OSError, UnicodeEncodeError) as error:  # the latter of a folder whose name is not UTF-8
            self._switch_off(error)

    def write(self, method: str, *arguments: object, **options: object) -> None:
        """Call a method of the writer; a failure of its thread comes up in a call after."""
        if self._writer is not None:
            try:
                getattr(self._writer, method)(*arguments, **options)
            except OSError as error:
                self._switch_off(error)

    def close(self) -> None:
        self.write("close")
        threading.excepthook = self._hook

    def _switch_off(self, error: OSError | UnicodeEncodeError) -> None:
        self._writer = None
        reason = getattr(error, "strerror", None) or error
        warn(f"{self.folder}: cannot be written ({reason}); training goes on without TensorBoard")

    def _on_thread_error(self, failure: threading.ExceptHookArgs) -> None:
        """Keep quiet about the writer's thread: what it fails of is raised again in :meth:`write`."""
        if not type(failure.thread).__module__.startswith("tensorboard."):
            self._hook(failure)
