"""Clients with an API key: the routes without the envelope, and errors in the shape that they know."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pyworker.config import Settings
from pyworker.data_types import Form, Upload
from pyworker.errors import ConfigError, JsonDataException, Overloaded
from pyworker.proxy.door import openai_error
from pyworker.upstream.encoding import encode_form
from tests.support.http import Answer, RawClient, ask, next_request_idx, request_bytes
from tests.support.scripted import whole
from tests.support.stack import API_KEY, MODEL_API_KEY, Stack

KEYED = {"Authorization": f"Bearer {API_KEY}"}
WRONG = {"Authorization": "Bearer sk-another"}
JSON = "Content-Type: application/json"
DIGEST = hashlib.sha256(API_KEY.encode()).hexdigest()


def call(plain: Stack, payload: object, headers: Mapping[str, str] = KEYED, path: str = "/chat") -> Answer:
    return ask(plain.url, "POST", path, json.dumps(payload).encode(), headers)


def error_of(answer: Answer) -> dict[str, Any]:
    error = answer.object()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    return error


def test_a_plain_body_reaches_the_model_as_it_was_sent(plain: Stack) -> None:
    payload = {"z": None, "max_tokens": 7, "messages": [{"role": "user"}], "a": {"b": [1.5, "é"]}}
    assert call(plain, payload).status == 200
    request = plain.model.request("/chat")
    assert request.json() == payload
    assert list(request.json()) == list(payload)
    assert request.header("Authorization") == f"Bearer {MODEL_API_KEY}", "not the client's key"


@pytest.mark.parametrize("headers", [{"X-Api-Key": API_KEY}, {"Authorization": f"bearer  {API_KEY} "}])
def test_the_key_may_come_in_other_ways(plain: Stack, headers: Mapping[str, str]) -> None:
    assert call(plain, {}, headers).status == 200


def test_an_unknown_key_is_refused_in_the_shape_of_openai(plain: Stack) -> None:
    answer = call(plain, {"max_tokens": 7}, WRONG)
    assert answer.status == 401
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    assert not plain.model.requests("/chat")


def test_without_a_key_the_envelope_is_expected(plain: Stack) -> None:
    answer = call(plain, {"max_tokens": 7}, {})
    assert answer.status == 422
    assert answer.object()["auth_data"] == "field missing"


def test_a_route_of_another_dialect_stays_closed(plain: Stack) -> None:
    assert call(plain, {"max_tokens": 7}, path="/pass").status == 422


def test_a_signed_envelope_is_served_whatever_key_comes_with_it(plain: Stack) -> None:
    """Clients of the fleet send the key of their account."""
    request_idx = next_request_idx()
    body = plain.envelope(request_idx=request_idx, max_tokens=3)
    assert ask(plain.url, "POST", "/chat", body, WRONG).status == 200
    assert plain.outcome(request_idx) == "Success"


def test_a_signed_envelope_with_a_key_of_the_door_is_an_envelope(plain: Stack) -> None:
    request_idx = next_request_idx()
    body = plain.envelope(request_idx=request_idx, max_tokens=3)
    assert ask(plain.url, "POST", "/chat", body, KEYED).status == 200
    assert plain.outcome(request_idx) == "Success"
    assert plain.model.request("/chat").json()["max_tokens"] == 3
    forged = json.dumps({"auth_data": plain.auth_data(signature="AAAA"), "payload": {}}).encode()
    answer = ask(plain.url, "POST", "/chat", forged, KEYED)
    assert (answer.status, answer.object()) == (401, {"error": "the signature does not verify"})


def test_a_prompt_about_envelopes_is_no_envelope(plain: Stack) -> None:
    payload: dict[str, object] = {
        "prompt": 'what is "auth_data"?',
        "max_tokens": 2,
        "metadata": {"auth_data": {}},
    }
    assert call(plain, payload).status == 200
    assert plain.model.request("/chat").json() == payload


def test_without_digests_no_key_opens(stack: Stack) -> None:
    answer = ask(stack.url, "POST", "/pass", b'{"prompt": "x"}', KEYED)
    assert answer.status == 422
    assert answer.object()["auth_data"] == "field missing"


def test_it_counts_as_load_but_is_not_reported_as_a_request(plain: Stack) -> None:
    before = plain.served()
    finished = len(plain.autoscaler.fleet.finished)
    gate = threading.Event()
    body = json.dumps({"usage": {"completion_tokens": 40}}).encode()
    plain.model.once("/chat", gate, whole(body, JSON))
    with RawClient(plain.url) as client:
        client.send(request_bytes("POST", "/chat", b'{"max_tokens": 400}', KEYED))
        plain.wait_for_next_report(lambda report: report["cur_load"] == 400, "its load")
        assert plain.reports[-1]["working_request_idxs"] == []
        gate.set()
        assert client.answer().status == 200
    assert plain.served() - before == 40
    # That of `served` alone.
    assert len(plain.autoscaler.fleet.finished) - finished <= 2
    assert all(record.request_idx > 0 for record in plain.autoscaler.fleet.finished)


def test_a_field_at_fault_is_the_parameter(plain: Stack) -> None:
    answer = call(plain, {"max_tokens": "many"})
    assert answer.status == 422
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", "max_tokens")
    assert "integer" in error["message"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"a": NaN}'])
def test_what_is_no_json_object_is_refused(plain: Stack, body: bytes) -> None:
    answer = ask(plain.url, "POST", "/chat", body, KEYED)
    assert answer.status == 422
    assert "invalid JSON" in error_of(answer)["message"]


def test_a_fault_of_the_model_server_has_the_shape_too(plain: Stack) -> None:
    plain.model.once("/chat", b"garbage\r\n\r\n")
    answer = call(plain, {})
    assert answer.status == 502
    assert error_of(answer)["type"] == "server_error"


PICTURE = Upload(b"\x00\r\n--" * 10_000, 'a"b.png', "image/png")
FORM = Form([("model", "m"), ("text", "é\r\n--x")], [("image", PICTURE)])
IS_FORM = "multipart/form-data; boundary=b"
MANY = b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n" * 300 + b"--b--"


def test_a_form_with_a_file_reaches_the_model(plain: Stack) -> None:
    body, content_type = encode_form(FORM)
    answer = ask(plain.url, "POST", "/picture", body, {**KEYED, "Content-Type": content_type})
    assert answer.status == 200
    request = plain.model.request("/picture")
    assert (request.header("Content-Type") or "").startswith("multipart/form-data; boundary=")
    assert FORM.uploads[0][1].data in request.body
    assert b'name="image"' in request.body
    assert "é\r\n--x".encode() in request.body


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"", IS_FORM), (b"--b", IS_FORM), (b"--b\r\n\r\n", "multipart/form-data"), (MANY, IS_FORM)],
)
def test_a_malformed_form_is_named(plain: Stack, body: bytes, content_type: str) -> None:
    answer = ask(plain.url, "POST", "/picture", body, {**KEYED, "Content-Type": content_type})
    assert answer.status == 422
    assert "multipart/form-data" in error_of(answer)["message"]


def test_a_large_body_needs_no_signature_at_its_beginning(plain: Stack) -> None:
    """The key in the header is known before the body is read."""
    payload = {"prompt": "x" * 300_000, "max_tokens": 1}
    assert call(plain, payload).status == 200


def test_a_list_of_models_needs_a_key_or_a_signature(plain: Stack) -> None:
    plain.model.script("/models", whole(b'{"data": []}', JSON))
    assert ask(plain.url, "GET", "/models", headers=KEYED).object() == {"data": []}
    signed = {"X-Auth-Data": json.dumps(plain.auth_data())}
    assert ask(plain.url, "GET", "/models", headers=signed).status == 200
    request = plain.model.request("/models")
    assert (request.method, request.body, request.header("Content-Type")) == ("GET", b"", None)
    assert ask(plain.url, "GET", "/models").status == 401
    assert error_of(ask(plain.url, "GET", "/models", headers=WRONG))["code"] == "invalid_api_key"
    forged = {"X-Auth-Data": json.dumps({**plain.auth_data(), "signature": "AAAA"})}
    assert ask(plain.url, "GET", "/models", headers=forged).status == 401
    assert ask(plain.url, "GET", "/models", headers={"X-Auth-Data": "{"}).status == 422
    assert ask(plain.url, "POST", "/models", b"{}", KEYED).status == 405


def test_keys_are_in_no_log(plain: Stack) -> None:
    call(plain, {})
    call(plain, {}, WRONG)
    assert API_KEY not in plain.worker.log
    assert "sk-another" not in plain.worker.log


# -- without a worker ------------------------------------------------------------------------------------


def test_digests_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the office\n{DIGEST.upper()}\n\n{'0' * 64}  # of nobody\n")
    settings = Settings.from_env({"OPENAI_API_KEY_DIGESTS": str(file)})
    assert settings.openai_api_key_digests == (DIGEST, "0" * 64)


@pytest.mark.parametrize("text", ["sk-a-key-itself", f"{DIGEST},sk", ",", "/nowhere/keys", DIGEST[1:]])
def test_what_is_no_digest_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match=r"OPENAI_API_KEY_DIGESTS=\(hidden\) is not valid") as caught:
        Settings.from_env({"OPENAI_API_KEY_DIGESTS": text})
    assert "sk-" not in str(caught.value)


def test_the_errors_of_openai() -> None:
    busy = Overloaded("too busy", requests_in_hand=3, estimated_wait=2.0)
    assert openai_error(429, busy.message, busy) == {
        "error": {
            "message": "too busy",
            "type": "rate_limit_error",
            "param": None,
            "code": None,
            "requests_in_hand": 3,
            "estimated_wait": 2.0,
        }
    }
    nested = JsonDataException({"messages": {"0": {"role": "missing parameter"}}})
    error: Any = openai_error(422, nested.message, nested)["error"]
    assert error["param"] == "messages"
    assert error["message"].endswith("(messages: 0: role: missing parameter)")
