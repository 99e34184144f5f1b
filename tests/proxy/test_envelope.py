"""The client's body: the exact responses to what is wrong with it, and no other exception whatever it is."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import Self

from pyworker.data_types import ApiPayload, AuthData, JsonDataException
from pyworker.errors import Unprocessable
from pyworker.proxy.envelope import Envelope, parse_envelope
from pyworker.validation import MAX_FAULTS, parse_fields

AUTH: dict[str, Any] = {"signature": "s", "url": "http://a:1", "endpoint": "e", "cost": 100, "reqnum": 1}
AUTH_TEXT = json.dumps(AUTH)
MISSING = "missing parameter"
HALF = "half a character (a lone surrogate), or an escape that is cut"


@dataclass
class Message:
    role: str
    content: str


@dataclass
class Chat(ApiPayload):
    prompt: str
    limit: int | None = None
    temperature: float = 1.0
    messages: list[Message] = field(default_factory=list[Message])
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def for_test(cls) -> Self:
        return cls("hello")

    def count_workload(self) -> float:
        return len(self.prompt)


@dataclass
class Renamed(Chat):
    """Its clients call the prompt `input.text`."""

    @classmethod
    def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
        text = json_msg.get("input")
        if not isinstance(text, dict):
            raise JsonDataException({"input": MISSING})
        return parse_fields(cls, {**json_msg, "prompt": cast("dict[str, object]", text).get("text")})


@dataclass
class Tagged(Chat):
    tags: list[str] = field(default_factory=list[str])
    named: dict[str, float] = field(default_factory=dict[str, float])


def parse(body: object, payload_cls: type[Chat] = Chat) -> Envelope[Chat]:
    return parse_envelope(encoded(body), payload_cls)


def encoded(body: object) -> bytes:
    """As it is sent; bytes go as they are."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def error_body(body: object, payload_cls: type[ApiPayload] = Chat) -> Mapping[str, object]:
    """The body of the 422."""
    with pytest.raises(Unprocessable) as caught:
        parse_envelope(encoded(body), payload_cls)
    assert caught.value.status == 422
    return caught.value.body()


def faults(body: object, payload_cls: type[Chat] = Chat) -> Mapping[str, object]:
    """The 422's body without its summary."""
    return {name: fault for name, fault in error_body(body, payload_cls).items() if name != "error"}


def raw(payload: str) -> bytes:
    """A good envelope around the text of a payload, which may be no JSON at all."""
    return f'{{"auth_data": {AUTH_TEXT}, "payload": {payload}}}'.encode()


def test_a_good_envelope() -> None:
    envelope = parse({"auth_data": AUTH, "payload": {"prompt": "hi"}, "session_id": "abc"})

    assert envelope == Envelope(AuthData("s", "http://a:1", "e", 100, 1, None), Chat("hi"), "abc")


def test_a_payload_that_was_taken_is_not_kept() -> None:
    envelope = parse({"auth_data": AUTH, "payload": {"prompt": "hi"}})
    payload = weakref.ref(envelope.payload)

    assert envelope.take_payload() == Chat("hi")
    assert payload() is None


@pytest.mark.parametrize("extra", [{}, {"session_id": None}])
def test_a_session_is_not_needed(extra: Mapping[str, object]) -> None:
    assert parse({"auth_data": AUTH, "payload": {"prompt": "hi"}, **extra}).session_id is None


def test_unknown_keys_are_ignored_everywhere() -> None:
    envelope = parse(
        {
            "auth_data": {**AUTH, "__request_id": "x", "status": [1]},
            "payload": {"prompt": "hi", "messages": [{"role": "r", "content": "c", "name": 1}], "x": None},
            "stream": True,
        }
    )

    assert envelope.payload == Chat("hi", messages=[Message("r", "c")])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"nonsense",
        b"{",
        b"{}}",
        b"{} {}",
        b"[]",
        b"1",
        b"null",
        b"true",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"\x00",
        b"\x1f\x8b\x08\x00",
        b"{'auth_data': {}}",
        b'{"auth_data": {},}',
        "{}".encode("utf-16"),
        b'[{"auth_data": {}}]',
        pytest.param(b'{"auth_data":' * 100_000, id="deep objects"),
        pytest.param(b"[" * 100_000, id="deep lists"),
        pytest.param(raw('{"prompt": ' + "[" * 5000 + "]" * 5000 + "}"), id="deep payload"),
        pytest.param(
            raw('{"prompt": "x", "unknown": ' + "[" * 5000 + "]" * 5000 + "}"), id="deep and unknown"
        ),
        pytest.param(raw('{"limit": ' + "9" * 10_000 + "}"), id="10,000 digits"),
        pytest.param(raw('{"unknown": -' + "9" * 10_000 + "}"), id="10,000 digits and unknown"),
        pytest.param(raw('{"prompt": "\\ud800"}'), id="lone high surrogate"),
        pytest.param(raw('{"prompt": "\\udc00 x"}'), id="lone low surrogate"),
        pytest.param(raw('{"\\ud800": 1}'), id="lone surrogate in a key"),
        pytest.param(raw('{"prompt": "\xe9"}').decode().encode("latin-1"), id="latin-1"),
        pytest.param(raw('{"prompt": "a\nb"}'), id="raw line break in a string"),
    ],
)
@pytest.mark.parametrize("payload_cls", [Chat, Renamed])
def test_what_is_no_json_object(body: bytes, payload_cls: type[Chat]) -> None:
    found = error_body(body, payload_cls)
    assert set(found) == {"error"}
    assert str(found["error"]).startswith("invalid JSON: ")


@pytest.mark.parametrize(
    ("body", "explanation"),
    [
        (b" ", "the body is empty"),
        (b"[]", "expected an object, not an array"),
        (b"7.5", "expected an object, not a number"),
        ("{}".encode("utf-16"), "it is UTF-16; send UTF-8"),
        (b'{"caf\xe9": 1}', "not UTF-8 at line 1 column 6"),
        (b'{"a":\n"\\ud83d"}', f"{HALF} at line 2 column 8"),
        (b'{"a": "\\ud83d x"}', f"{HALF} at line 1 column 14"),
        (b'{"a": 1', "EOF while parsing an object at line 1 column 7"),
    ],
)
def test_the_fault_is_named_with_its_place(body: bytes, explanation: str) -> None:
    assert error_body(body) == {"error": f"invalid JSON: {explanation}"}


def test_of_many_faults_the_first_are_named_and_the_others_counted() -> None:
    found = error_body(raw('{"prompt": "x", "tags": [' + ",".join(["1"] * 500) + "]}"), Tagged)
    assert len(cast("Mapping[str, str]", found["payload"])) == MAX_FAULTS
    assert str(found["error"]).endswith(f" and {500 - MAX_FAULTS} more")
    assert len(json.dumps(found)) < 5000


def test_of_a_large_body_the_first_fault_of_each_array_and_mapping_is_named() -> None:
    tags, named = ",".join(["1"] * 5000), ",".join(f'"{number}": ""' for number in range(5000))
    found = error_body(raw(f'{{"tags": [{tags}], "named": {{{named}}}}}'), Tagged)
    payload = cast("Mapping[str, str]", found["payload"])
    assert list(payload) == ["prompt", "tags.0", "named.0"]
    assert found["error"] == "invalid request: payload.prompt, payload.tags.0, payload.named.0"


@dataclass
class Nested(ApiPayload):
    """Arrays and mappings wherever a type may hold them."""

    deep: dict[str, list[int]]
    listed: list[Chat]
    either: list[int] | dict[str, int] | None
    several: tuple[int, ...]
    pairs: Mapping[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])

    @classmethod
    def for_test(cls) -> Self:
        return cls({}, [], None, ())

    def count_workload(self) -> float:
        return 1.0


def test_of_a_large_body_each_array_and_mapping_stops_at_its_first_fault() -> None:
    texts = ["x"] * 500
    payload: dict[str, object] = {
        "deep": {"a": texts, "b": texts},
        "listed": [{"prompt": 1, "limit": "x", "messages": [{}] * 300}, *texts],
        "either": texts,
        "several": texts,
        "pairs": {str(number): ["x", 1] for number in range(500)},
    }
    found = cast("Mapping[str, str]", error_body({"auth_data": AUTH, "payload": payload}, Nested)["payload"])
    assert sorted(found) == [
        "deep.a.0",
        "either",
        "either.0",
        "listed.0.limit",
        "listed.0.messages.0.content",
        "listed.0.messages.0.role",
        "listed.0.prompt",
        "pairs.0.0",
        "several.0",
    ]


def test_a_name_of_the_clients_own_is_cut() -> None:
    found = error_body(raw('{"prompt": "x", "named": {"' + "k" * 50_000 + '": "no number"}}'), Tagged)
    assert len(json.dumps(found)) < 2000


def test_surrogates_in_pairs_are_a_character() -> None:
    assert parse(raw('{"prompt": "\\ud83d\\ude00"}')).payload.prompt == "😀"


def test_absent_parts() -> None:
    assert error_body({}) == {
        "error": "invalid request: auth_data, payload",
        "auth_data": "field missing",
        "payload": "field missing",
    }
    assert error_body({"auth_data": AUTH}) == {
        "error": "invalid request: payload",
        "payload": "field missing",
    }
    assert error_body({"payload": {"prompt": "hi"}}) == {
        "error": "invalid request: auth_data",
        "auth_data": "field missing",
    }


def test_absent_fields() -> None:
    auth_data = {name: value for name, value in AUTH.items() if name != "signature"}

    assert error_body({"auth_data": auth_data, "payload": {}}) == {
        "error": "invalid request: auth_data.signature, payload.prompt",
        "auth_data": {"signature": MISSING},
        "payload": {"prompt": MISSING},
    }
    assert faults({"auth_data": {}, "payload": {"prompt": "hi"}}) == {
        "auth_data": dict.fromkeys(AUTH, MISSING)
    }


@pytest.mark.parametrize("part", [None, [], 1, "text", True])
@pytest.mark.parametrize("payload_cls", [Chat, Renamed])
def test_parts_that_are_no_objects(part: object, payload_cls: type[Chat]) -> None:
    assert faults({"auth_data": part, "payload": part}, payload_cls) == {
        "auth_data": "must be an object",
        "payload": "must be an object",
    }


def test_faults_of_every_part_at_once() -> None:
    body: dict[str, object] = {
        "auth_data": {**AUTH, "reqnum": "7", "cost": True, "request_idx": [1]},
        "payload": {
            "prompt": None,
            "limit": True,
            "messages": [{"role": "r"}, 5, {"role": 1, "content": []}],
        },
        "session_id": 5,
    }

    assert faults(body) == {
        "auth_data": {
            "cost": "Input should be a valid number",
            "reqnum": "Input should be a valid integer",
            "request_idx": "Input should be a valid integer",
        },
        "payload": {
            "prompt": "Input should be a valid string",
            "limit": "Input should be a valid integer",
            "messages.0.content": MISSING,
            "messages.1": "must be an object",
            "messages.2.role": "Input should be a valid string",
            "messages.2.content": "Input should be a valid string",
        },
        "session_id": "Input should be a valid string",
    }


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none(number: str) -> None:
    assert faults(raw(f'{{"prompt": "hi", "temperature": {number}}}')) == {
        "payload": {"temperature": "Input should be a finite number"}
    }
    body = f'{{"auth_data": {AUTH_TEXT.replace("100", number)}, "payload": {{"prompt": "hi"}}}}'
    assert faults(body.encode()) == {"auth_data": {"cost": "Input should be a finite number"}}


def test_a_part_given_twice_counts_as_its_last() -> None:
    assert parse(raw('{"prompt": "first"}, "payload": {"prompt": "second"}')).payload.prompt == "second"
    assert faults(raw('{"prompt": "first"}, "payload": 3')) == {"payload": "must be an object"}


def test_a_payload_class_with_its_own_parser() -> None:
    good = {"auth_data": AUTH, "payload": {"input": {"text": "hi"}, "limit": 3}}
    assert parse(good, Renamed).payload == Renamed("hi", 3)

    assert faults({"auth_data": AUTH, "payload": {"prompt": "hi"}}, Renamed) == {
        "payload": {"input": MISSING}
    }
    assert faults({"auth_data": AUTH, "payload": {"input": {}, "limit": "3"}}, Renamed) == {
        "payload": {"prompt": "Input should be a valid string", "limit": "Input should be a valid integer"}
    }


def test_the_faults_of_an_own_parser_are_told_together_with_the_others() -> None:
    auth_data = {**AUTH, "reqnum": "7"}
    wrong = {"reqnum": "Input should be a valid integer"}

    body = {"auth_data": auth_data, "payload": {"input": {"text": "hi"}}}
    assert faults(body, Renamed) == {"auth_data": wrong}
    body = {"auth_data": auth_data, "payload": {"prompt": "hi"}}
    assert faults(body, Renamed) == {"auth_data": wrong, "payload": {"input": MISSING}}


# -- anything --------------------------------------------------------------------------------------------

names = st.sampled_from(
    ["auth_data", "payload", "session_id", "prompt", "messages", "role", "input", "text", "int", *AUTH]
)
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([2**63, 10**400, -(2**63) - 1, math.nan, math.inf, "\ud800", "7"])
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(names | st.text(), inner), max_leaves=12
)
good_auth = st.fixed_dictionaries({name: st.just(value) | values for name, value in AUTH.items()})
envelopes = st.fixed_dictionaries(
    {},
    optional={
        "auth_data": good_auth | st.just(AUTH) | values,
        "payload": st.fixed_dictionaries(
            {"prompt": st.text() | values},
            optional=dict.fromkeys(("limit", "temperature", "messages", "options", "input"), values),
        )
        | values,
        "session_id": st.none() | st.text() | values,
    },
)


def is_envelope_or_unprocessable(body: bytes) -> None:
    for payload_cls in (Chat, Renamed):
        try:
            envelope = parse_envelope(body, payload_cls)
        except Unprocessable as error:
            shown = error.body()
            assert isinstance(shown["error"], str)
            # It must travel as JSON, and say what is wrong without repeating the client's values.
            json.dumps(shown, allow_nan=False).encode()
        else:
            assert isinstance(envelope.payload, payload_cls)
            assert math.isfinite(envelope.auth_data.cost)
            assert type(envelope.auth_data.reqnum) is int
            assert math.isfinite(envelope.payload.temperature)
            envelope.payload.prompt.encode()


@settings(deadline=None, max_examples=400)
@given(envelopes | values)
def test_any_json_is_an_envelope_or_unprocessable(message: object) -> None:
    is_envelope_or_unprocessable(json.dumps(message).encode())


@settings(deadline=None, max_examples=200)
@given(st.binary())
def test_any_bytes_are_unprocessable(body: bytes) -> None:
    is_envelope_or_unprocessable(body)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_to_a_good_body_is_unprocessable_or_harmless(data: st.DataObject) -> None:
    body = bytearray(
        json.dumps({"auth_data": AUTH, "payload": {"prompt": "hé"}}, ensure_ascii=False).encode()
    )
    start = data.draw(st.integers(0, len(body)))
    body[start : start + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))

    is_envelope_or_unprocessable(bytes(body))
