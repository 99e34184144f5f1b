"""What is slow is a finding."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator

#: Seconds of CPU time for one input of some kilobytes.
LIMIT = 2.0


@contextlib.contextmanager
def timely(data: bytes) -> Generator[None]:
    """AssertionError if it takes too long."""
    began = time.thread_time()
    yield
    took = time.thread_time() - began
    assert took < LIMIT, f"{len(data)} bytes took {took:.1f} s"
