"""That memory of large bodies goes back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

KEPT = """
import resource, sys
from pyworker import allocator

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


def kept(mode: str) -> int:
    """Bytes that stay with a process after large blocks were freed."""
    run = subprocess.run(
        [sys.executable, "-c", KEPT, mode],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return int(run.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other guesses")
def test_large_blocks_go_back_when_they_are_freed() -> None:
    assert kept("tuned") < 5_000_000
    assert kept("as it comes") > 9_000_000, "glibc no longer needs to be told"
