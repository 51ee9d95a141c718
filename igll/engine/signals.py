"""Stopping on request: clean up or finish the step and save, then leave with the right exit code."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from igll.distributed import size

# What schedulers send some time before they end a job, and a terminal when it is closed; not on every system.
_WARNINGS = [
    signal.Signals[name] for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)
]
_ENDINGS = [signal.SIGINT, signal.SIGTERM]
EXIT_CODES = {number: 128 + number for number in [*_ENDINGS, *_WARNINGS]}
_WATCH_SECONDS = 1.0


class StopRequest:
    """Turns the first SIGINT, SIGTERM or warning of a scheduler into a flag.

    A second SIGINT or SIGTERM ends the process at once; SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU never do. What
    was ignored of them stays so, as SIGHUP under nohup.

    Use as a context manager; outside it the signals do what they did before. After an error in one of several
    processes SIGINT and SIGTERM do nothing: torchrun sends them as soon as one process has ended, and the
    others have still to say why.

    Attributes:
        exit_code: 128 and the first signal's number once one came, else None.
    """

    def __init__(self) -> None:
        self.exit_code: int | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        for number in EXIT_CODES:
            before = signal.getsignal(number)
            if number in _WARNINGS and before == signal.SIG_IGN:
                continue
            self._previous[number] = signal.SIG_DFL if before is None else before
            signal.signal(number, self._on_signal)
        return self

    def __exit__(self, kind: type[BaseException] | None, *others: object) -> None:
        failing_among_others = kind is not None and size() > 1
        for number, handler in self._previous.items():
            deaf = failing_among_others and number in _ENDINGS
            signal.signal(number, signal.SIG_IGN if deaf else handler)  # type: ignore[arg-type]

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.exit_code is None:
            self.exit_code = EXIT_CODES[signal.Signals(number)]
        if number in _ENDINGS:
            for known in _ENDINGS:
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
    """Let a loader's worker end when the main process wants it or is gone, and by no other signal.

    Signals often reach the whole process group or job, while the main process still needs its workers to
    finish its step. So a worker takes SIGTERM from nobody but the main process, which sends it to a worker
    that does not end by itself.
    """
    for number in EXIT_CODES:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    # Where a signal's sender cannot be asked for, SIGTERM stays as the loader has it: it ends the worker.
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_main, args=(os.getppid(),), daemon=True).start()


def _end_with_main(parent: int) -> NoReturn:
    """Wait for the main process to end or to send SIGTERM, then end this one, whatever it is doing.

    Args:
        parent: Which process started this one: the main process, or a server that forks in its name.
    """
    main = multiprocessing.parent_process()
    # The parent's number alone would miss a main process that was gone before this one asked for it.
    while main is not None and main.is_alive() and os.getppid() == parent:
        came = signal.sigtimedwait({signal.SIGTERM}, _WATCH_SECONDS)
        if came is not None and came.si_pid == main.pid:
            break
    os._exit(0)
