"""`/openapi.json`: valid, complete, and true of what the worker takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from pyworker import create_app
from pyworker.app import worker_of
from pyworker.config import Settings
from pyworker.registry import known_workers

WORKERS = [name for name in known_workers() if name != "auto"]
Document = Mapping[str, Any]


def document_of(name: str, folder: Path) -> tuple[Document, FlaskClient]:
    app = create_app(name, Settings(unsecured=True, state_dir=folder))
    client = app.test_client()
    response = client.get("/openapi.json")
    assert response.status_code == 200
    worker_of(app).close()
    return cast("Document", response.json), client


@pytest.mark.parametrize("name", WORKERS)
def test_a_shipped_worker_s_document(name: str, tmp_path: Path) -> None:
    document, client = document_of(name, tmp_path)

    OpenAPIV31SpecValidator(cast("Any", document)).validate()
    worker = worker_of(client.application)
    routes = {(handler.method, handler.endpoint) for handler in worker.backend.handlers}
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == routes
    for handler in worker.backend.handlers:
        operation = document["paths"][handler.endpoint][handler.method.lower()]
        if handler.method != "POST":
            assert "requestBody" not in operation
            continue
        media = operation["requestBody"]["content"]["application/json"]
        # Its own schema takes the example, and so does the worker.
        root = {**media["schema"], "components": document["components"]}
        validator: Any = Draft202012Validator(root)
        validator.validate(media["example"])
        handler.payload_cls().from_json_msg(media["example"])


def test_fields_have_their_types_defaults_and_bounds(tmp_path: Path) -> None:
    document, _ = document_of("hello_world", tmp_path)

    schema = schema_of(document, "/generate")
    assert schema["required"] == ["prompt"]
    assert schema["properties"]["prompt"]["type"] == "string"
    tokens = schema["properties"]["max_response_tokens"]
    assert tokens["anyOf"] == [{"type": "integer", "minimum": 1}, {"type": "null"}]
    assert tokens["default"] is None
    assert schema["x-undeclared-fields"] == "left out"
    assert schema_of(document_of("tgi", tmp_path)[0], "/generate")["x-undeclared-fields"] == "passed on"


def test_variables_of_a_path_and_an_upload(tmp_path: Path) -> None:
    document, _ = document_of("tests.openapi.various", tmp_path)

    OpenAPIV31SpecValidator(cast("Any", document)).validate()
    assert set(document["paths"]) == {"/generate", "/files/{file_id}", "/view/{name}"}
    files = document["paths"]["/files/{file_id}"]
    assert set(files) == {"get", "delete"}
    assert files["get"]["parameters"] == [
        {"name": "file_id", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    content = document["paths"]["/generate"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    assert document["paths"]["/view/{name}"]["get"]["description"] == "What the author says of it."


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
def test_only_a_development_worker_has_them(path: str, tmp_path: Path) -> None:
    app = create_app("hello_world", Settings(state_dir=tmp_path))

    response = app.test_client().get(path)

    assert (response.status_code, response.json) == (404, {"error": "not found"})
    worker_of(app).close()


def test_the_page_can_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    _, client = document_of("hello_world", tmp_path)

    response = client.get("/docs")

    assert response.content_type == "text/html; charset=utf-8"
    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in response.text.replace("http-equiv", "")
    assert "innerHTML" not in response.text


def schema_of(document: Document, path: str) -> Mapping[str, Any]:
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema
