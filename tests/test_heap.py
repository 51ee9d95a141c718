"""Freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

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


def output_of(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh Python prints, whose environment says nothing else about memory."""
    names = (name for name in os.environ if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES")
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={name: os.environ[name] for name in names} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout


def refetched(how: str, block: int, **environment: str) -> float:
    """How often the system hands out anew what ten rounds take and free: five blocks each, 0 to 10."""
    return int(output_of(TEN_TIMES, how, str(block // 4), **environment)) / (5 * block)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
@pytest.mark.parametrize("block", [8 * 2**20, 40 * 2**20])  # glibc would take the larger from no heap
def test_freed_memory_is_used_again(block: int) -> None:
    assert refetched("keep", block) < 1
    assert refetched("leave", block) > 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings")
def test_what_the_environment_says_holds() -> None:
    assert refetched("environment", 8 * 2**20, MALLOC_TRIM_THRESHOLD_="131072") > 5


MEMORY_MAP = """
import resource, sys
from igll.heap import keep_freed_memory
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))  # the heap cannot grow by 1 GiB
keep_freed_memory()
print(open("/proc/self/smaps").read())
"""


def asked_for_huge_pages(how: str, **environment: str) -> int:
    """Bytes of a fresh process for which the system was asked for pages of 2 MiB."""
    areas = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", output_of(MEMORY_MAP, how, **environment))
    asked = [area for area in areas if re.search(r"^VmFlags:.* hg\b", area, re.MULTILINE)]
    return sum(
        1024 * int(kilobytes) for area in asked for kilobytes in re.findall(r"\nSize: +(\d+) kB", area)
    )


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir() or platform.libc_ver()[0] != "glibc",
    reason="this system has no huge pages, or another libc than glibc",
)
def test_kept_memory_is_made_of_huge_pages() -> None:
    assert 1000 * 2**20 < asked_for_huge_pages("keep") <= 2**30
    assert asked_for_huge_pages("keep", MALLOC_TRIM_THRESHOLD_="131072") == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/smaps")
def test_a_limit_on_addresses_is_no_obstacle() -> None:
    assert asked_for_huge_pages("limited") == 0
