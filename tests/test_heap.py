"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

TEN_TIMES = """
import ctypes, resource, sys
import torch
from igll.heap import keep_freed_memory
libc = ctypes.CDLL(None)
libc.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: every fault is one page of the usual size
if sys.argv[1] != "environment":
    for setting in (-1, -3):
        libc.mallopt(setting, 131072)  # glibc's first value, which it would raise by what is freed
if sys.argv[1] != "leave":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    blocks = [torch.zeros(int(sys.argv[2])) for _ in range(5)]
for _ in range(3):
    work()  # the heap grows to its size
before = faults()
for _ in range(10):
    work()
print((faults() - before) * resource.getpagesize())
"""


def refetched(how: str, block: int, **environment: str) -> float:
    """How often the system hands out anew what ten rounds take and free: five blocks each, 0 to 10."""
    names = (name for name in os.environ if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES")
    ran = subprocess.run(
        [sys.executable, "-c", TEN_TIMES, how, str(block // 4)],
        env={name: os.environ[name] for name in names} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(ran.stdout) / (5 * block)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
@pytest.mark.parametrize("block", [8 * 2**20, 40 * 2**20])  # glibc would take the larger from no heap
def test_freed_memory_is_used_again(block: int) -> None:
    assert refetched("keep", block) < 1
    assert refetched("leave", block) > 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_what_the_environment_says_holds() -> None:
    assert refetched("environment", 8 * 2**20, MALLOC_TRIM_THRESHOLD_="131072") > 5
