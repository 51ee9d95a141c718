"""What can go wrong without being a fault of this code; entry points print it as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_WORKER_TRACEBACK = "Original Traceback"
# What ends a line for a terminal, a log reader or str.splitlines; file names and YAML keys may hold it.
_LINE_ENDS = {ord(end): repr(end)[1:-1] for end in "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"}


class InputError(Exception):
    """Bad input: a file, a key or an argument that cannot be used.

    The message is one line that names the file or key, says what is wrong and what to do; line breaks in
    what it names are written as escapes.
    Entry points print it without a traceback and exit with code 2.
    """

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands its exception on as a printed traceback; the last line is the message.
        if _WORKER_TRACEBACK in message:
            message = message.strip().splitlines()[-1].split("InputError: ", 1)[-1]
        super().__init__(message.translate(_LINE_ENDS))


class OutputError(Exception):
    """A result cannot be written: the disk is full, gone or read-only. Exit code 1."""


class ElsewhereError(OutputError):
    """Another process of this run cannot write a result and tells why."""


class NumericsError(RuntimeError):
    """A loss or gradient stopped being finite; raised before that network's weights are touched."""


class ProcessEndedError(Exception):
    """Another process of this run ended in the middle of the work.

    Attributes:
        code: Exit code.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class ProcessFailedError(ProcessEndedError):
    """Another process of this run cannot go on and tells why; all processes stand at the same place."""


@contextmanager
def interruptions_first() -> Iterator[None]:
    """Ctrl-C and SIGTERM leave as what they are, even where a library trips over them on their way out.

    Libraries that clean up in the midst of a write may raise an error of their own; the interruption is then
    no more than that error's context.
    """
    try:
        yield
    except Exception as error:
        cause = error.__context__
        while cause is not None and not isinstance(cause, KeyboardInterrupt | SystemExit):
            cause = cause.__context__
        if cause is None:
            raise
        raise cause from None
