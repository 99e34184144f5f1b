"""Calls of an author's code, each on a thread of its own, as it may block for ever."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from typing import TypeVar

T = TypeVar("T")

# Seconds that an aborted call may take to end; after that its thread is abandoned.
_GRACE = 2.0


def start(call: Callable[[], T], name: str) -> tuple[Future[T], threading.Thread]:
    """Call it on a thread of this name, which does not delay the end of the process.

    The future's `cancel` wakes the threads that wait for the result; it does not end the call.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            finish = functools.partial(future.set_result, call())
        except BaseException as error:  # noqa: BLE001 - the code of an author may raise SystemExit, too
            finish = functools.partial(future.set_exception, error)
        with contextlib.suppress(InvalidStateError):  # it was cancelled
            finish()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return future, thread


def run_all(
    calls: Sequence[Callable[[], T]], timeout: float, abort: Callable[[], None] = lambda: None
) -> Sequence[T | BaseException | None]:
    """What each call returned or raised; None if it did not end in time.

    After `timeout` seconds `abort` is called, which should end the calls. Threads whose call has ended are
    joined.
    """
    running = [start(call, f"pyworker-benchmark-{number}") for number, call in enumerate(calls)]
    futures = [future for future, _ in running]
    if wait(futures, timeout).not_done:
        abort()
        wait(futures, _GRACE)
    return [_outcome(future, thread) for future, thread in running]


def _outcome(future: Future[T], thread: threading.Thread) -> T | BaseException | None:
    if not future.done():
        return None
    thread.join()
    error = future.exception()
    return future.result() if error is None else error
