"""Errors that come with status 200: found in JSON and in event streams, and nowhere else."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.responses import error_in
from pyworker.runtime.sample import KEPT, ResponseSample, Sampler

JSON, EVENTS = "application/json", "text/event-stream"


def sample(body: bytes, content_type: str = JSON, piece: int = 1000) -> ResponseSample:
    sampler = Sampler(200, content_type)
    for start in range(0, len(body), piece):
        sampler.feed(body[start : start + piece])
    return sampler.sample()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": "out of memory"}', "out of memory"),
        (b' \r\n{"error": {"message": "out of memory", "type": "x"}}\n', "out of memory"),
        (b'{"error": {"code": 500}}', "the model server names no cause"),
        (b'{"error": true}', "the model server names no cause"),
        (b'{"error": [1]}', "the model server names no cause"),
        (b'{"error": null}', ""),
        (b'{"error": ""}', ""),
        (b'{"error": {}}', ""),
        (b'{"error": false, "text": "x"}', ""),
        (b'{"text": "error"}', ""),
        (b'{"deeper": {"error": "x"}}', ""),
        (b'[{"error": "x"}]', ""),
        (b'"error"', ""),
        (b"", ""),
        (b'{"error": "half', ""),
        (b'{"error": ' + b"[" * 10_000, ""),
        (b'{"error": ' + b"9" * 10_000 + b"}", ""),
        (b"\xff\xfe{", ""),
        (gzip.compress(b'{"error": "x"}', mtime=0), ""),
    ],
)
def test_json(body: bytes, message: str) -> None:
    assert error_in(sample(body)) == message
    # Not every model server says what it sends.
    assert error_in(sample(body, "")) == message


def test_json_that_is_too_large_for_a_sample_is_left_alone() -> None:
    assert error_in(sample(json.dumps({"error": "x" * KEPT}).encode())) == ""


ERROR = b'data: {"error": {"message": "out of memory"}}\n\n'
TOKEN = b'data: {"token": "one"}\n\n'


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (ERROR, "out of memory"),
        (ERROR.strip(), "out of memory"),
        (ERROR.replace(b"\n", b"\r\n"), "out of memory"),
        (ERROR.replace(b"\n", b"\r"), "out of memory"),
        (ERROR.replace(b"data: ", b"data:"), "out of memory"),
        (b"event: error\nid: 7\n" + ERROR, "out of memory"),
        (b'data: {"error":\ndata: "in two lines"}\n\n', "in two lines"),
        (ERROR + b"data: [DONE]\n\n", "out of memory"),
        (TOKEN * 5000 + ERROR + b": a comment\n\ndata: [DONE]\n\n", "out of memory"),
        (ERROR + TOKEN, ""),
        (TOKEN, ""),
        (b"data: [DONE]\n\n", ""),
        (b"", ""),
        (b"error\n\n", ""),
        (b": " + ERROR, ""),
        (gzip.compress(ERROR, mtime=0), ""),
        # The beginning of the last event is not here.
        (b'data: {"error": "' + b"x" * KEPT + b'"}\n\n', ""),
    ],
)
@pytest.mark.parametrize("content_type", [EVENTS, "Text/Event-Stream; charset=utf-8"])
def test_events(body: bytes, message: str, content_type: str) -> None:
    assert error_in(sample(body, content_type)) == message


@given(st.binary(max_size=2000), st.sampled_from([JSON, EVENTS, "", "text/html"]), st.integers(1, 500))
def test_any_body_is_looked_at(body: bytes, content_type: str, piece: int) -> None:
    assert isinstance(error_in(sample(body, content_type, piece)), str)
