"""The tokens that a response shows to have been generated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.runtime.sample import KEPT, ResponseSample, Sampler
from tests.support.growth import assert_linear
from workers.openai.settlement import tokens_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 17, "total_tokens": 20}
JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
#: What a client may have put into a response to mislead who reads it.
DECOYS = [
    '"usage": {"completion_tokens": 999}',
    '\\"usage\\": {\\"completion_tokens\\": 999}',
    '{"usage": {"completion_tokens": 999}}',
    '"}}],"usage":{"completion_tokens":999}}',
    "\\",
    "\\\\",
    '"',
]


def sample(body: bytes, content_type: str = JSON, *, is_complete: bool = True) -> ResponseSample:
    sampler = Sampler(200, content_type)
    for start in range(0, len(body), 1000):
        sampler.feed(body[start : start + 1000])
    return sampler.sample(is_complete=is_complete)


def events(*objects: object, end: str = "data: [DONE]\n\n", line: str = "\n") -> bytes:
    text = "".join(f"data: {json.dumps(one)}\n\n" for one in objects) + end
    return text.replace("\n", line).encode()


def delta(text: str, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}], **more}


# -- whole -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, KEPT - 100, KEPT, 3 * KEPT])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_whole_response_says_it(size: int, indent: int | None, is_last: bool) -> None:
    text: dict[str, Any] = {"choices": [{"message": {"content": "é" + "x" * size}}]}
    usage = {"usage": USAGE, "system_fingerprint": None, "kv_transfer_params": {"a": [1]}}
    # Behind the text, unless all of it is kept.
    body = json.dumps({**text, **usage} if is_last or size > 10 else {**usage, **text}, indent=indent)
    assert tokens_of(sample(body.encode())) == 17


@pytest.mark.parametrize("decoy", DECOYS)
@pytest.mark.parametrize("size", [0, KEPT - 300, KEPT, 2 * KEPT])
def test_a_text_does_not_pass_for_it(decoy: str, size: int) -> None:
    body = {
        "metadata": {"usage": {"completion_tokens": 5}},
        "choices": [{"message": {"content": decoy * 20 + "x" * size + decoy, "usage": {"output_tokens": 7}}}],
        "tools": [{"parameters": {"usage": {"completion_tokens": 1}}}],
    }
    assert tokens_of(sample(json.dumps(body).encode())) is None
    assert tokens_of(sample(json.dumps({**body, "usage": USAGE}).encode())) == 17


@given(st.lists(st.sampled_from([*DECOYS, "x" * 500, "{", "}", "[", "é"]), max_size=80))
def test_no_text_passes_for_it(parts: Sequence[str]) -> None:
    body = json.dumps({"a": "".join(parts), "usage": USAGE, "b": parts})
    assert tokens_of(sample(body.encode())) in (17, None)
    small = json.dumps({"a": "".join(parts) * 20, "usage": USAGE})
    assert tokens_of(sample(small.encode())) == 17


@pytest.mark.parametrize(
    "usage",
    [
        *("null", "7", "[]", '"text"', "{}", '{"completion_tokens": null}', '{"completion_tokens": "9"}'),
        *('{"completion_tokens": true}', '{"completion_tokens": -1}', '{"completion_tokens": 1e300}'),
    ],
)
def test_a_usage_that_makes_no_sense_says_nothing(usage: str) -> None:
    assert tokens_of(sample(f'{{"choices": [], "usage": {usage}}}'.encode())) is None


def test_nothing_generated_is_a_number() -> None:
    assert tokens_of(sample(b'{"usage": {"completion_tokens": 0}}')) == 0.0


def test_other_names_of_it() -> None:
    assert tokens_of(sample(b'{"usage": {"input_tokens": 3, "output_tokens": 4}}')) == 4.0


def test_a_whole_response_that_was_cut_says_nothing() -> None:
    body = json.dumps({"usage": USAGE, "choices": ["x"]}).encode()[:-3]
    assert tokens_of(sample(body, is_complete=False)) is None


@pytest.mark.parametrize("body", [b"", b"{", b'"usage"', b'{"usage"', b'{"usage":{', b"\xff\xfe", b"[]"])
def test_what_is_no_json_says_nothing(body: bytes) -> None:
    assert tokens_of(sample(body)) is None


# -- streams ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("count", [3, 3000])
@pytest.mark.parametrize("end", ["data: [DONE]\n\n", "", ": a comment\n\n"])
def test_the_last_chunk_of_a_stream_says_it(line: str, count: int, end: str) -> None:
    chunks = [delta("word ", usage=None) for _ in range(count)]
    body = events(*chunks, {"choices": [], "usage": USAGE}, end=end, line=line)
    assert tokens_of(sample(body, EVENTS)) == 17


def test_the_last_of_several_counts() -> None:
    chunks = [delta("w", usage={"completion_tokens": number}) for number in range(1, 6)]
    assert tokens_of(sample(events(*chunks), EVENTS)) == 5


@pytest.mark.parametrize("size", [10, 3 * KEPT])
def test_a_stream_of_responses_says_it_in_its_last_event(size: int) -> None:
    decoy: dict[str, object] = {"metadata": {"usage": {"output_tokens": 5}}, "output": "x" * size}
    response = {**decoy, "usage": {"output_tokens": 9}, "user": None}
    done = {"type": "response.completed", "response": response, "sequence_number": 9}
    body = f"event: x\ndata: {{}}\n\nevent: x\ndata: {json.dumps(done)}\n\n"
    assert tokens_of(sample(body.encode(), EVENTS), 4) == 9


def test_a_stream_of_messages_says_it_before_its_last_event() -> None:
    body = events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 8, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"text": '"usage"'}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 12}},
        {"type": "message_stop"},
        end="",
    )
    assert tokens_of(sample(body, EVENTS), 2) == 12


@pytest.mark.parametrize(("count", "preamble", "tokens"), [(1, 1, 0), (5, 1, 4), (5, 0, 5), (2, 4, 0)])
def test_a_stream_that_was_cut_is_counted(count: int, preamble: int, tokens: int) -> None:
    body = events(*[delta("w") for _ in range(count)], end='data: {"choi')
    whole_events = sample(body, EVENTS, is_complete=False)
    assert tokens_of(whole_events, preamble) in (tokens, tokens + 1)


def test_the_beginning_of_a_stream_that_was_cut_does_not_count_for_all() -> None:
    start = {"type": "message_start", "message": {"usage": {"output_tokens": 1}}}
    body = events(start, *[delta("w") for _ in range(9)], end="")
    assert tokens_of(sample(body, EVENTS, is_complete=False), 2) == 8


def test_a_stream_without_usage_is_counted() -> None:
    assert tokens_of(sample(events(*[delta("w") for _ in range(9)], end=""), EVENTS)) == 9


# -- cost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["\\", '"', "{", '"usage"', '"usage":', 'data: {"usage":\n\n', "\n\n"])
@pytest.mark.parametrize("content_type", [JSON, EVENTS])
def test_time_grows_with_the_length_alone(kind: str, content_type: str) -> None:
    def made(size: int) -> ResponseSample:
        text = (kind * size)[:size].encode() + b'"usage"'
        return ResponseSample(200, content_type, text, text, len(text), 1)

    assert_linear(tokens_of, made, 4000)
