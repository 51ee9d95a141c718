"""What glibc does with memory that a program has freed."""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h
_KEPT = 2**30
# With any of these in the environment, somebody has chosen.
_CHOICES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_")


def keep_freed_memory() -> None:
    """Let glibc keep freed memory, up to 1 GiB at the end of each heap, for the next pass or step.

    Otherwise it returns the memory to the system and gets it again page by page; see docs/performance.md.
    Blocks of more than 32 MiB, such as 32 channels of 512 × 512 pixels, it would return at once, whatever its
    thresholds; so none is taken from anywhere but the heaps. Forked processes, such as a data loader's,
    inherit this. Does nothing without glibc's ``mallopt``, or if the environment says how to allocate, by
    ``GLIBC_TUNABLES`` or variables such as ``MALLOC_TOP_PAD_``.
    """
    chosen = any(name in os.environ for name in _CHOICES)
    if (
        not sys.platform.startswith("linux")
        or chosen
        or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _KEPT)
