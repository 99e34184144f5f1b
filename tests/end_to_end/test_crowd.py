"""Everybody that nobody wants at once, for a while, and one honest client among them.

`--crowd-seconds 1800` is the full length; a short form runs by default.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.http import ask
from tests.support.process import ROOT
from tests.support.scripted import whole
from tests.support.stack import NewStack, Stack
from tests.support.tls import tls_variables

logger = logging.getLogger(__name__)

MIB = 2**20


@contextlib.contextmanager
def crowded(url: str) -> Generator[None]:
    """With the crowd in a process of its own, so that it does not slow down the honest client."""
    command = [sys.executable, "-m", "tests.support.crowd", url]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield
        assert process.poll() is None, "the crowd is gone"
    finally:
        said, _ = process.communicate()
        logger.info("%s", said.strip())


def memory(stack: Stack) -> int:
    """Resident bytes of the worker now."""
    lines = Path(f"/proc/{stack.worker.worker_pid}/status").read_text("utf-8").splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(kilobytes) * 1024


@pytest.mark.timeout(0)  # as long as was asked for
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_an_honest_client_among_a_hostile_crowd(
    new_stack: NewStack, tmp_path: Path, tls: bool, crowd_seconds: float
) -> None:
    stack = new_stack(tls_variables(tmp_path) if tls else {})
    stack.start_ready()
    stack.model.script("/json", whole(b"{}"))
    process = stack.worker.worker_pid
    before = memory(stack)
    times: list[float] = []
    sizes: list[int] = []
    with crowded(stack.url):
        end = time.monotonic() + crowd_seconds
        while time.monotonic() < end:
            began = time.monotonic()
            assert stack.post("/json", "x" * (200_000 if len(times) % 10 == 9 else 100)).status == 200
            assert ask(stack.url, "GET", "/ping").body == b"pong"
            times.append(time.monotonic() - began)
            sizes.append(memory(stack))
            stack.model.forget_requests()
    times.sort()
    middle, last = max(sizes[len(sizes) // 3 : -len(sizes) // 3]), max(sizes[-len(sizes) // 3 :])
    # Shown with --log-cli-level=INFO.
    logger.info(
        "%d pairs of honest requests in %g s: p50 %.3f s, p99 %.3f s, slowest %.3f s; memory %d MiB at "
        "most in the middle third, %d in the last",
        len(times),
        crowd_seconds,
        times[len(times) // 2],
        times[len(times) * 99 // 100],
        times[-1],
        middle / MIB,
        last / MIB,
    )
    # In 10 s there are so few that the 99th percentile is the slowest, which other tests may have delayed.
    share = 99 if crowd_seconds >= 120 else 90
    assert times[len(times) * share // 100] < 2
    assert stack.worker.worker_pid == process, "it was restarted"
    if crowd_seconds >= 120:  # it takes a while until all that may be held is held
        assert last < middle + 24 * MIB
    assert last < before + 120 * MIB
