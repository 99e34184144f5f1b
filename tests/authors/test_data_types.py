"""Payload classes as authors write them, and what is said about JSON that does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field
from typing_extensions import Self

from pyworker.data_types import (
    ApiPayload,
    AuthData,
    EndpointHandler,
    JsonDataException,
    LogAction,
    WrittenNumber,
)
from pyworker.errors import RequestError, Unprocessable
from pyworker.validation import parse_fields

AUTH = {"signature": "s", "url": "http://a:1", "endpoint": "e", "cost": 100, "reqnum": 1, "request_idx": 2}
STRING = "Input should be a valid string"
INTEGER = "Input should be a valid integer"
NUMBER = "Input should be a valid number"
FINITE = "Input should be a finite number"
MISSING = "missing parameter"


@dataclass
class Message:
    role: str
    content: str


@dataclass
class Chat(ApiPayload):
    prompt: str
    limit: int | None = None
    temperature: Annotated[float, Field(ge=0)] = 1.0
    messages: list[Message] = field(default_factory=list[Message])
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def for_test(cls) -> Self:
        return cls("hello")

    def count_workload(self) -> float:
        return len(self.prompt)


def faults(cls: type[ApiPayload] | type[AuthData], json_msg: Mapping[str, Any]) -> Mapping[str, object]:
    with pytest.raises(JsonDataException) as caught:
        cls.from_json_msg(json_msg)
    assert isinstance(caught.value, Unprocessable)
    assert caught.value.status == 422
    return caught.value.json_msg


def test_a_payload_is_parsed_by_its_fields() -> None:
    payload = Chat.from_json_msg(
        {
            "prompt": "hi",
            "limit": 3,
            "temperature": 2,
            "messages": [{"role": "user", "content": "c", "name": "ignored"}],
            "options": {"seed": [1, None, {"deep": True}]},
            "unknown": {"ignored": 1},
        }
    )

    assert payload == Chat("hi", 3, 2.0, [Message("user", "c")], {"seed": [1, None, {"deep": True}]})
    assert isinstance(payload.messages[0], Message)


def test_defaults_are_the_dataclasss_own() -> None:
    first, second = Chat.from_json_msg({"prompt": ""}), Chat.from_json_msg({"prompt": ""})

    assert first == Chat("")
    assert first.messages is not second.messages


def test_every_fault_has_its_message() -> None:
    found = faults(Chat, {"limit": "7", "temperature": -1, "messages": [{"role": 1}, 3]})

    assert found == {
        "prompt": MISSING,
        "limit": INTEGER,
        "temperature": "Input should be greater than or equal to 0",
        "messages.0.role": STRING,
        "messages.0.content": MISSING,
        "messages.1": "must be an object",
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("prompt", None, STRING),
        ("prompt", 1, STRING),
        ("prompt", ["a"], STRING),
        ("prompt", {"str": "a"}, STRING),
        ("limit", True, INTEGER),
        ("limit", "7", INTEGER),
        ("limit", 7.0, INTEGER),
        ("limit", {"int": 1}, INTEGER),
        ("temperature", "1", NUMBER),
        ("temperature", False, NUMBER),
        ("temperature", None, NUMBER),
        ("temperature", math.nan, FINITE),
        ("temperature", math.inf, FINITE),
        ("temperature", -math.inf, FINITE),
        ("messages", {"role": "user"}, "Input should be a valid array"),
        ("messages", "user", "Input should be a valid array"),
        ("options", [], "must be an object"),
    ],
)
def test_wrong_types_are_not_bent_into_right_ones(name: str, value: object, message: str) -> None:
    assert faults(Chat, {"prompt": "hi", name: value}) == {name: message}


@pytest.mark.parametrize("name", list(AUTH))
def test_auth_data_needs_each_field_but_the_index(name: str) -> None:
    without = {key: value for key, value in AUTH.items() if key != name}

    if name == "request_idx":
        assert AuthData.from_json_msg(without).request_idx is None
    else:
        assert faults(AuthData, without) == {name: MISSING}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("signature", 5, STRING),
        ("url", None, STRING),
        ("endpoint", ["e"], STRING),
        ("cost", True, NUMBER),
        ("cost", "seven", NUMBER),
        ("cost", "", NUMBER),
        ("cost", " 7", NUMBER),
        ("cost", "+7", NUMBER),
        ("cost", "0x7", NUMBER),
        ("cost", "1_0", NUMBER),
        ("cost", "nan", NUMBER),
        ("cost", "inf", NUMBER),
        ("cost", "\u0667", NUMBER),
        ("cost", "7" * 41, NUMBER),
        ("cost", "1e16", "Input should be less than or equal to 1000000000000000"),
        ("cost", "1e999", FINITE),
        ("endpoint", "e" * 1025, "String should have at most 1024 characters"),
        ("cost", None, NUMBER),
        ("cost", [], NUMBER),
        ("cost", {}, NUMBER),
        ("cost", {"cost": 1}, NUMBER),
        ("cost", -1, "Input should be greater than or equal to 0"),
        ("cost", -0.5, "Input should be greater than or equal to 0"),
        ("cost", 10**15 + 1, "Input should be less than or equal to 1000000000000000"),
        ("cost", 10**400, "Input should be less than or equal to 1000000000000000"),
        ("cost", 1e16, "Input should be less than or equal to 1000000000000000"),
        ("cost", math.nan, FINITE),
        ("cost", math.inf, FINITE),
        ("reqnum", "7", INTEGER),
        ("reqnum", True, INTEGER),
        ("reqnum", 1.0, INTEGER),
        ("reqnum", None, INTEGER),
        ("reqnum", [1], INTEGER),
        ("reqnum", 2**63, f"Input should be less than {2**63}"),
        ("reqnum", -(2**63) - 1, f"Input should be greater than or equal to {-(2**63)}"),
        ("request_idx", "7", INTEGER),
        ("request_idx", [1], INTEGER),
        ("request_idx", {"idx": 1}, INTEGER),
        ("request_idx", False, INTEGER),
        ("request_idx", 2**63, f"Input should be less than {2**63}"),
    ],
)
def test_wrong_fields_of_auth_data(name: str, value: object, message: str) -> None:
    assert faults(AuthData, {**AUTH, name: value}) == {name: message}


@pytest.mark.parametrize("cost", [0, 7, 10**15, 0.0, 7.0, 0.1, 1e15])
def test_the_cost_stays_the_number_it_was(cost: float) -> None:
    parsed = AuthData.from_json_msg({**AUTH, "cost": cost}).cost

    assert parsed == cost
    assert type(parsed) is type(cost)


@pytest.mark.parametrize("text", ["7", "256.0", "0", "007", "1.5e3", "2E-2"])
def test_a_cost_written_as_text_is_the_number_and_stays_the_text(text: str) -> None:
    parsed = AuthData.from_json_msg({**AUTH, "cost": text}).cost
    assert isinstance(parsed, WrittenNumber)
    assert (parsed, parsed.text) == (float(text), text)


@pytest.mark.parametrize("index", [-(2**63), -1, 0, 2**63 - 1, None])
def test_any_index_that_a_report_can_carry(index: int | None) -> None:
    assert AuthData.from_json_msg({**AUTH, "request_idx": index}).request_idx == index


def test_auth_data_is_frozen_and_ignores_what_it_does_not_know() -> None:
    auth_data: Any = AuthData.from_json_msg({**AUTH, "__reqnum": [{}], "self": 1})

    assert auth_data == AuthData("s", "http://a:1", "e", 100, 1, 2)
    with pytest.raises(FrozenInstanceError):
        auth_data.cost = 0


def test_the_error_body_names_the_faults_at_the_top() -> None:
    error = JsonDataException({"auth_data": {"url": MISSING, "cost": NUMBER}, "payload": "field missing"})

    assert error.message == "invalid request: auth_data.url, auth_data.cost, payload"
    assert error.body() == {
        "error": "invalid request: auth_data.url, auth_data.cost, payload",
        "auth_data": {"url": MISSING, "cost": NUMBER},
        "payload": "field missing",
    }
    assert isinstance(error, RequestError)


def test_an_authors_own_check_is_reported_the_same_way() -> None:
    @dataclass
    class Sized(Chat):
        @classmethod
        def from_json_msg(cls, json_msg: Mapping[str, Any]) -> Self:
            payload = parse_fields(cls, json_msg)
            if len(payload.prompt) > 3:
                raise JsonDataException({"prompt": "too long"})
            return payload

    assert Sized.from_json_msg({"prompt": "abc"}).prompt == "abc"
    assert faults(Sized, {"prompt": "abcd"}) == {"prompt": "too long"}
    assert faults(Sized, {"prompt": 1}) == {"prompt": STRING}


def test_half_a_character_is_refused() -> None:
    with pytest.raises(Unprocessable, match="lone surrogate"):
        Chat.from_json_msg({"prompt": "\ud800"})


def test_what_is_sent_to_the_model_is_every_field() -> None:
    payload = Chat("hi", messages=[Message("user", "c")])

    assert payload.generate_payload_json() == {
        "prompt": "hi",
        "limit": None,
        "temperature": 1.0,
        "messages": [Message("user", "c")],
        "options": {},
    }


def test_a_payload_class_must_say_its_workload() -> None:
    @dataclass
    class Unfinished(ApiPayload):
        prompt: str

    unfinished: Any = Unfinished
    with pytest.raises(TypeError, match="abstract"):
        unfinished("hi")


def test_a_handler_must_say_its_route() -> None:
    class Unfinished(EndpointHandler[Chat]):
        pass

    unfinished: Any = Unfinished
    with pytest.raises(TypeError, match="abstract"):
        unfinished()


def test_log_actions_are_the_three_of_the_contract() -> None:
    assert [action.name for action in LogAction] == ["ModelLoaded", "ModelError", "Info"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["int", "str", "role", "content"]), inner)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["prompt", "limit", "temperature", "messages", "options", "x"]), json_values
    )
)
def test_any_object_is_a_payload_or_a_named_fault(json_msg: dict[str, Any]) -> None:
    try:
        payload = Chat.from_json_msg(json_msg)
    except JsonDataException as error:
        names = set(error.json_msg)
        assert names
        assert {name.partition(".")[0] for name in names} <= {*json_msg, "prompt"}
        json.dumps(error.body(), allow_nan=False)
    else:
        assert payload.prompt == json_msg["prompt"]
        assert type(payload.limit) is type(json_msg.get("limit"))
        assert math.isfinite(payload.temperature)


class Plain(EndpointHandler[Any]):
    allow_parallel_requests = True
    benchmark_runs = 3

    @property
    def endpoint(self) -> str:
        return "/plain"

    @classmethod
    def payload_cls(cls) -> type[Chat]:
        return Chat

    def make_benchmark_payload(self) -> Chat:
        return Chat("a prompt")

    def generate_client_response(self, client_request: Any, model_response: Any) -> Any:
        raise NotImplementedError


@dataclass(kw_only=True)
class Named(Plain):
    name: str
    max_queue_time: float | None = 5.0


class Renamed(Named):
    max_queue_time = 6.0


def test_options_of_a_handler_may_be_set_in_the_body_of_its_class() -> None:
    def options(handler: Plain) -> tuple[object, ...]:
        return handler.allow_parallel_requests, handler.benchmark_runs, handler.max_queue_time

    assert options(Plain()) == (True, 3, None)
    assert options(Plain(benchmark_runs=8)) == (True, 8, None), "also where that is the default"
    assert options(Plain(allow_parallel_requests=None)) == (None, 3, None)
    assert options(Named(name="a")) == (True, 3, 5.0)
    assert options(Renamed(name="a")) == (True, 3, 6.0)
    assert options(Renamed(name="a", max_queue_time=None)) == (True, 3, None)
