"""What glibc does with memory that a program has freed."""

from __future__ import annotations

import ctypes
import mmap
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
    thresholds; so none is taken from anywhere but the heaps. The first GiB is made of pages of 2 MiB where
    Linux gives them to whoever asks: fewer to hand out and to look up. Forked processes, such as a data
    loader's, inherit all this. Does nothing without glibc's ``mallopt``, or if the environment says how to
    allocate, by ``GLIBC_TUNABLES`` or variables such as ``MALLOC_TOP_PAD_``.
    """
    chosen = any(name in os.environ for name in _CHOICES)
    if (
        not sys.platform.startswith("linux")
        or chosen
        or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    ):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT)
        _ask_for_huge_pages(libc)


def _ask_for_huge_pages(libc: ctypes.CDLL) -> None:
    """Let the heap grow to what is kept, and the system back that room, once touched, by pages of 2 MiB."""
    size = _KEPT - 2**20  # a little less: freeing this must not be enough to be returned
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block is not None:  # a limit on addresses may forbid it
        start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(start, size - mmap.PAGESIZE, mmap.MADV_HUGEPAGE)  # refused by a kernel without them
        libc.free(block)
