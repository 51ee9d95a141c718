"""Timing, foreseeing what would take too long, and turning what goes wrong into a row's reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from igll.engine.bench_cases import Case
from igll.errors import InputError

Row = dict[str, Any]
MEASURED, SKIPPED, FAILED = "measured", "skipped", "n/a"
_FAILING = {
    "compiled": "torch.compile: ",
    "graph": "CUDA graph: ",
    "compiled graph": "CUDA graph of torch.compile: ",
}


def clock(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of some work, until the device is done with it."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


class Recorded:
    """Some work on a GPU as a CUDA graph: all its kernels start at once, and the host has no part in it.

    Args:
        work: What to record; it always reads and writes the same memory.
        device: The GPU.

    Raises:
        RuntimeError: The work waits for the device somewhere.
    """

    def __init__(self, work: Callable[[], object], device: torch.device) -> None:
        self._work = work  # keeps alive what the graph reads
        with torch.cuda.device(device):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            # What libraries set up at their first call cannot be recorded. Work that waits is found out here:
            # a recording that fails may leave the allocator unusable.
            before = torch.cuda.get_sync_debug_mode()
            torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.cuda.stream(aside):
                    work()
            finally:
                torch.cuda.set_sync_debug_mode(before)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                work()

    def __call__(self) -> None:
        """Do the work again."""
        self._graph.replay()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine has no memory left; the CPU says so by a bare RuntimeError."""
    return isinstance(error, MemoryError) or speaks_of_no_memory(str(error))


def speaks_of_no_memory(text: str) -> bool:
    """Whether an error's text is one of those for no memory left."""
    return any(words in text for words in ("out of memory", "allocate memory", "MemoryError"))


class Pace:
    """How fast each network went in its largest case so far, to foresee what a larger one takes."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], tuple[int, float]] = {}

    def note(self, case: Case, work: int, seconds: float) -> None:
        """Remember a pass of so many multiply-adds."""
        key = (case.model, case.mode, case.precision)
        if work >= self._seen.get(key, (0, 0.0))[0]:
            self._seen[key] = (work, seconds)

    def foresee(self, case: Case, work: int) -> float | None:
        """Seconds of a pass at the rate seen; None before anything was seen."""
        seen = self._seen.get((case.model, case.mode, case.precision))
        return None if seen is None else work * seen[1] / seen[0]


class TooLongError(Exception):
    """A case that would exceed the limit; the message is the reason."""


class Guarded:
    """Turns what goes wrong in a case, running out of memory among it, into the row's reason.

    One network that fails costs no other its measurement. Wrong input and what takes too long get through.
    """

    def __init__(self, row: Row) -> None:
        self._row = row

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception) or isinstance(error, TooLongError | InputError):
            return False
        if is_out_of_memory(error):
            skip(self._row, f"out of memory: {_first_line(error)}")
            return True
        where = _FAILING.get(self._row["mode"], "")
        self._row["status"], self._row["reason"] = FAILED, f"{where}{_first_line(error)}"
        return True


def skip(row: Row, reason: str) -> None:
    """Mark a row as skipped, with the reason."""
    row["status"], row["reason"] = SKIPPED, reason


def _first_line(error: BaseException) -> str:
    """What went wrong, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
