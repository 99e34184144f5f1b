"""UNSECURED=true takes a bare payload, so that curl is one line; an envelope is taken as ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from pyworker import create_app
from pyworker.app import worker_of
from pyworker.config import Settings
from pyworker.lifecycle.state import ModelState
from tests.support.http import next_request_idx
from tests.support.scripted import ScriptedServer, whole
from tests.support.stack import LOADED_LINE
from tests.support.waiting import wait_until

DONE = whole(b'{"usage": {"completion_tokens": 3}}', "Content-Type: application/json")


@pytest.fixture
def client(scripted_model: ScriptedServer, tmp_path: Path) -> Iterator[FlaskClient]:
    """The plain worker, ready, behind Flask's test client."""
    (tmp_path / "model.log").write_text(LOADED_LINE + "\n")
    (tmp_path / ".has_benchmark").write_text("1000.0")
    settings = Settings(
        model_log=tmp_path / "model.log",
        model_server_url=scripted_model.url,
        report_addrs=("http://127.0.0.1:1",),
        unsecured=True,
        state_dir=tmp_path,
        max_body_bytes=2**22,
    )
    app = create_app("tests.support.plain_worker", settings)
    worker = worker_of(app)
    worker.start()
    try:
        wait_until(lambda: worker.lifecycle.state is ModelState.READY, "a ready worker")
        yield app.test_client()
    finally:
        worker.close()


def auth_data() -> dict[str, Any]:
    return {
        "signature": "",
        "url": "",
        "endpoint": "",
        "cost": 1,
        "reqnum": 1,
        "request_idx": next_request_idx(),
    }


@pytest.mark.parametrize("path", ["/pass", "/chat", "/described", "/files/a/copy"])
def test_both_forms_are_taken(client: FlaskClient, scripted_model: ScriptedServer, path: str) -> None:
    for inner in (path, "/first", "/second"):
        scripted_model.script(inner, DONE)
    payload = {"prompt": "hi", "max_tokens": 3, "stop": None}
    bare = client.post(path, json=payload)
    enveloped = client.post(path, json={"auth_data": auth_data(), "payload": payload})
    assert (bare.status_code, bare.json) == (enveloped.status_code, enveloped.json)
    assert bare.status_code == 200
    sent = [one.json() for one in scripted_model.requests() if one.body and one.method == "POST"]
    assert sent == [payload, payload]


def test_what_has_both_parts_is_an_envelope(client: FlaskClient, scripted_model: ScriptedServer) -> None:
    scripted_model.script("/pass", DONE)
    both = {"auth_data": auth_data(), "payload": {"max_tokens": 1}, "prompt": "of neither"}
    assert client.post("/pass", json=both).status_code == 200
    assert scripted_model.request("/pass").json() == {"max_tokens": 1}
    answer = client.post("/pass", json={"auth_data": auth_data(), "payload": {"max_tokens": 0}})
    assert answer.get_json()["payload"] == {"max_tokens": "Input should be greater than or equal to 1"}


def test_half_an_envelope_is_told_what_is_missing(client: FlaskClient) -> None:
    assert client.post("/pass", json={"payload": {}}).get_json()["auth_data"] == "field missing"
    assert client.post("/pass", json={"auth_data": auth_data()}).get_json()["payload"] == "field missing"


def test_faults_of_a_bare_payload_are_named(client: FlaskClient) -> None:
    answer = client.post("/pass", json={"max_tokens": 0})
    assert (answer.status_code, list(answer.get_json())) == (422, ["error", "max_tokens"])
    assert client.post("/pass", data=b"{").status_code == 422
    assert client.post("/declared", json={}).get_json()["prompt"] == "missing parameter"


def test_errors_of_a_route_of_openai_have_its_shape(
    client: FlaskClient, scripted_model: ScriptedServer
) -> None:
    for answer in (client.post("/chat", json={"max_tokens": 0}), client.post("/chat", data=b"[1]")):
        assert answer.status_code == 422
        assert answer.get_json()["error"]["type"] == "invalid_request_error"
    assert client.post("/chat", json={"max_tokens": 0}).get_json()["error"]["param"] == "max_tokens"
    enveloped = client.post("/chat", json={"auth_data": auth_data(), "payload": {"max_tokens": 0}})
    assert isinstance(enveloped.get_json()["error"], str), "in an envelope, that of any other route"
    scripted_model.script("/chat", whole(b"", status="500 Oops"))
    assert client.post("/chat", json={}, headers={"Authorization": "Bearer any"}).status_code == 500


def test_a_large_bare_body_is_taken(client: FlaskClient, scripted_model: ScriptedServer) -> None:
    scripted_model.script("/pass", DONE)
    payload = {"prompt": "x" * 3_000_000}
    assert client.post("/pass", data=json.dumps(payload)).status_code == 200
    assert scripted_model.request("/pass").json() == payload
