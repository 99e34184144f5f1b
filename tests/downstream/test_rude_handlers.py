"""Whatever a handler does: its request ends once, and everything it held is given back."""

from __future__ import annotations

import pytest

from tests.support.echo_worker.server import RUDE
from tests.support.http import Answer, next_request_idx
from tests.support.stack import Stack
from tests.support.waiting import wait_until

#: These fail once the response has begun: all that is left is to cut it.
LATE = ("no-iterable", "no-bytes", "exit-at-once", "exit-later")
#: And this one after its last byte.
HARMLESS = ("callback",)


def ask_rudely(front: Stack, kind: str, request_idx: int) -> Answer | None:
    """None if the response was cut before its header block was complete."""
    try:
        return front.post(f"/rude/{kind}", request_idx=request_idx)
    except (EOFError, ConnectionResetError):
        return None


# What a handler does has nothing to do with TLS.
@pytest.mark.parametrize("shared_front", ["plain"], indirect=True)
@pytest.mark.parametrize("kind", RUDE)
def test_whatever_a_handler_does_everything_is_given_back(front: Stack, kind: str) -> None:
    indices = [next_request_idx() for _ in range(3)]  # the second and third show what the first left behind
    for request_idx in indices:
        answer = ask_rudely(front, kind, request_idx)
        if kind in HARMLESS:
            assert answer is not None
            assert (answer.status, answer.complete) == (200, True)
        elif kind in LATE:
            assert answer is None or answer.status == 500 or not answer.complete
        else:
            assert answer is not None
            assert answer.status == 500
            assert answer.object() == {"error": "internal error of the worker; its log says more"}
    assert front.post("/serial").status == 200, "the queue goes on"
    outcome = "Success" if kind in HARMLESS else "Error"
    assert [front.outcome(request_idx) for request_idx in indices] == [outcome] * 3
    front.wait_in_hand(0)


def test_the_threads_are_as_before(front: Stack) -> None:
    for _ in range(100):
        ask_rudely(front, "exit", next_request_idx())
    assert front.post("/serial").status == 200
    wait_until(lambda: "[0 of 64 busy, 0 waiting]" in pool_of(front), "no thread counts as busy")


def pool_of(front: Stack) -> str:
    """What the worker says of its threads, once asked."""
    seen = front.worker.log.count("<HardenedThreadWorker")
    front.worker.show_state()
    wait_until(lambda: front.worker.log.count("<HardenedThreadWorker") > seen, "the state in the log")
    return front.worker.log.rpartition("<ThreadPool ")[2].partition(">")[0]
