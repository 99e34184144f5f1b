"""Calls of foreign code in parallel, with one deadline for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

# Seconds that an aborted call may take to end; after that its thread is abandoned.
_GRACE = 2.0


def run_all(
    calls: Sequence[Callable[[], T]], timeout: float, abort: Callable[[], None] = lambda: None
) -> Sequence[T | BaseException | None]:
    """What each call returned or raised; None if it did not end in time.

    Each call has its own thread. After `timeout` seconds `abort` is called, which should end the calls. The
    thread of a call that does not end is abandoned: it delays neither the caller nor the end of the process.
    """
    results: list[T | BaseException | None] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            results[number] = calls[number]()
        except BaseException as error:  # noqa: BLE001 - the code of an author may raise SystemExit, too
            results[number] = error

    threads = [
        threading.Thread(target=run, args=(number,), name=f"pyworker-benchmark-{number}", daemon=True)
        for number in range(len(calls))
    ]
    for thread in threads:
        thread.start()
    _join(threads, timeout)
    if any(thread.is_alive() for thread in threads):
        abort()
        _join(threads, _GRACE)
    return list(results)


def _join(threads: Sequence[threading.Thread], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
