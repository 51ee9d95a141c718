"""What glibc does with memory that a program has freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names for them
_KEPT = 256 * 2**20
_FROM_THE_HEAP = 32 * 2**20  # the most that glibc takes for the second


def keep_freed_memory() -> None:
    """Keep up to 256 MiB of freed memory for the next pass or step, which frees and asks for the same again.

    glibc gives it back to the system and gets it page by page, which takes up to a tenth of a pass on a CPU.
    Does nothing on other C libraries, and where the environment says how to allocate.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if (
        not sys.platform.startswith("linux")
        or chosen
        or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _FROM_THE_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)
