"""Settlement: what is reported of a request is the work that was done, not what was expected."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.support.http import next_request_idx
from tests.support.scripted import Act, Step, chunk, head, whole
from tests.support.stack import Stack

EVENTS = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
DONE = b"data: [DONE]\n\n"


def event(content: str | None = None, tokens: int | None = None) -> bytes:
    """One event of a stream: a token, or how many there were."""
    choices = [] if content is None else [{"delta": {"content": content}}]
    usage = None if tokens is None else {"completion_tokens": tokens}
    return b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\n\n"


TOKENS = [event("a"), event('say "usage": 3'), event("c")]
STREAM = [*TOKENS, event(tokens=37), DONE]


def served_by(plain: Stack, *steps: Step, **payload: Any) -> tuple[str, float, bytes]:
    """Outcome and served workload of one request, and the body that the client got."""
    before = plain.served()
    plain.model.once("/chat", *steps)
    request_idx = next_request_idx()
    answer = plain.post("/chat", request_idx=request_idx, max_tokens=400, **payload)
    return plain.outcome(request_idx), plain.served() - before, answer.body


def test_a_whole_response_tells_the_work(plain: Stack) -> None:
    body = json.dumps({"usage": {"completion_tokens": 40}}).encode()
    assert served_by(plain, whole(body, JSON)) == ("Success", 40.0, body)


def test_the_last_event_of_a_stream_tells_the_work(plain: Stack) -> None:
    steps = [head(EVENTS, CHUNKED), *map(chunk, STREAM), chunk(b"")]
    assert served_by(plain, *steps) == ("Success", 37.0, b"".join(STREAM))


def pieces_of(size: int) -> list[bytes]:
    """The stream in pieces of this size, each a chunk."""
    body = b"".join(STREAM)
    return [chunk(body[start : start + size]) for start in range(0, len(body), size)]


@pytest.mark.parametrize("size", [1, 2, 7, 61, 10_000])
def test_a_hidden_event_counts_but_is_not_passed_on(plain: Stack, size: int) -> None:
    steps = [head(EVENTS, CHUNKED), *pieces_of(size), chunk(b"")]
    outcome, work, body = served_by(plain, *steps, hide=True)
    assert (outcome, work) == ("Success", 37.0)
    assert body == b"".join([*TOKENS, DONE])


def test_a_hidden_event_that_comes_alone_delays_nothing(plain: Stack) -> None:
    """The relay waits with it; what follows still comes as it arrives."""
    gates = [threading.Event() for _ in range(3)]
    plain.model.once(
        "/chat",
        head(EVENTS, CHUNKED),
        chunk(TOKENS[0]),
        gates[0],
        chunk(event(tokens=5)),
        gates[1],
        chunk(TOKENS[1]),
        gates[2],
        chunk(event(tokens=6) + DONE),
        chunk(b""),
    )
    with plain.open("/chat", hide=True) as client:
        client.head()
        assert client.chunk() == TOKENS[0]
        gates[0].set()
        gates[1].set()
        assert client.chunk() == TOKENS[1]
        gates[2].set()
        assert client.chunk() == DONE
        assert client.chunk() == b""


def test_a_body_of_a_declared_length_is_passed_on_whole(plain: Stack) -> None:
    body = b"".join(STREAM)
    assert served_by(plain, whole(body, EVENTS), hide=True) == ("Success", 37.0, body)


def test_a_hidden_event_without_its_end_is_passed_on(plain: Stack) -> None:
    """It may be the beginning of something else."""
    last = event(tokens=37).rstrip()
    steps = [head(EVENTS, CHUNKED), chunk(TOKENS[0]), chunk(last), chunk(b"")]
    _, _, body = served_by(plain, *steps, hide=True)
    assert body == TOKENS[0] + last


@pytest.mark.parametrize("end", [Act.CLOSE, Act.RESET])
def test_a_cut_stream_counts_what_came(plain: Stack, end: Act) -> None:
    before = plain.served()
    plain.model.once("/chat", head(EVENTS, CHUNKED), *map(chunk, TOKENS), end)
    request_idx = next_request_idx()
    answer = plain.post("/chat", request_idx=request_idx, max_tokens=400)
    assert not answer.complete
    assert plain.outcome(request_idx) == "Error"
    assert plain.served() - before <= len(TOKENS)
    if end is Act.CLOSE:
        assert plain.served() - before == len(TOKENS)


def test_a_client_that_hangs_up_has_cost_what_came(plain: Stack) -> None:
    before = plain.served()
    plain.model.once("/chat", head(EVENTS, CHUNKED), *map(chunk, TOKENS), Act.HANG)
    request_idx = next_request_idx()
    with plain.open("/chat", request_idx=request_idx, max_tokens=400) as client:
        client.until(TOKENS[-1])
    assert plain.outcome(request_idx) == "Cancelled"
    assert plain.served() - before == len(TOKENS)
    plain.wait_for_report(lambda report: report["cur_load"] == 0, "no load")


def test_without_a_word_of_the_model_the_estimate_counts(plain: Stack) -> None:
    """count_work raises for both."""
    for body in (b"count_work fails", b"{}"):
        assert served_by(plain, whole(body, JSON)) == ("Success", 400.0, body)
    assert plain.worker.log.count("count_work failed") >= 2


def test_the_load_that_was_too_high_is_taken_back(plain: Stack) -> None:
    """new_load of all reports together is the work done, though the first report had the estimate."""
    plain.served()
    seen = len(plain.reports)
    gate = threading.Event()
    body = json.dumps({"usage": {"completion_tokens": 40}}).encode()
    plain.model.once("/chat", gate, whole(body, JSON))
    with plain.open("/chat", max_tokens=400) as client:
        plain.wait_for_next_report(lambda report: report["cur_load"] == 400, "the estimate")
        gate.set()
        assert client.answer().status == 200
    plain.served()

    def new_load() -> float:
        return sum(report["new_load"] for report in plain.reports[seen:])

    plain.wait_for_report(lambda _: new_load() == 1_000_000 + 40, "the work done")
