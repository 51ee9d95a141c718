"""Stopping on request: clean up or finish the step and save, then leave with the right exit code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopRequest:
    """Turns the first SIGINT or SIGTERM into a flag; a second one ends the process at once.

    Use as a context manager; outside it the signals do what they did before.

    Attributes:
        exit_code: 130 or 143 once a signal came, else None.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in EXIT_CODES:
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        for known in EXIT_CODES:
            signal.signal(known, signal.SIG_DFL)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM leave as Ctrl-C does, through the blocks that remove half-written files.

    Raises:
        SystemExit: SIGTERM came; 143.
    """

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(EXIT_CODES[signal.SIGTERM])

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def leave_signals_to_main(worker: int) -> None:
    """Let a loader's worker outlive signals to its process group: the main process decides when work ends."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
