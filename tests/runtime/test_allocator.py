"""That memory of large bodies goes back to the system, and that of their pieces does not."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.support.process import ROOT

KEPT = """
import resource, sys
from pyworker.runtime import allocator

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

if sys.argv[1] == "tuned":
    allocator.tune()
before = resident()
# Freeing the first is what makes glibc change its mind about the second.
large = b"x" * 20_000_000
del large
large = b"x" * 10_000_000
small = [b"x" * 1000 for _ in range(1000)]  # lies behind it in the heap
del large
print(resident() - before)
"""

FAULTS = """
import resource, sys
from pyworker.runtime import allocator

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

allocator.tune()
before = faults()
for _ in range(100):
    bytearray(1_000_000)
print(faults() - before)
"""


def said(script: str, *arguments: str) -> int:
    """The number that a process of its own prints."""
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(run.stdout)


pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library has other guesses"
)


def test_large_blocks_go_back_when_they_are_freed() -> None:
    assert said(KEPT, "tuned") < 5_000_000
    assert said(KEPT, "as it comes") > 9_000_000, "glibc no longer needs to be told"


def test_pieces_of_a_body_take_the_pages_of_those_before_them() -> None:
    a_page_each_time = 100 * 1_000_000 // 4096
    assert said(FAULTS) < a_page_each_time / 10
