"""The OpenAPI 3.1 document of an app: https://spec.openapis.org/oas/v3.1.1."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import flask

from pyworker.backend import Backend
from pyworker.data_types import WITHOUT_BODY, ApiPayload, EndpointHandler, OpenPayload
from pyworker.openapi.examples import example_of
from pyworker.openapi.schemas import Schema, schemas_of

#: Blueprints of every worker; the others are the author's.
OWN_BLUEPRINTS = frozenset({"pyworker", "status", "sessions", "docs"})
_IMPLIED = {"HEAD", "OPTIONS"}
_VARIABLE = re.compile(r"<(?:[^<>:]*:)?([^<>:]*)>")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9]+")

_UNSECURED = "A development worker: a request may be the bare payload, and needs no signature."
_SECURED = (
    'A worker of the demo: each payload travels in the envelope `{"auth_data": …, "payload": …}`, and '
    "`auth_data` of a request without a body in the header X-Auth-Data."
)
_ERROR = "Error"
_ERROR_SCHEMA: Schema = {
    "type": "object",
    "description": "`error` says what is wrong; beside it, or within it, may be a message for each field.",
    "properties": {"error": {"type": ["string", "object"]}},
    "required": ["error"],
}
_ERRORS: Mapping[str, str] = {
    "422": "The payload is wrong; a message for each field at fault.",
    "429": "The worker is busy; `Retry-After` says when to try again.",
    "502": "The model server cannot be reached, or broke off.",
    "503": "The model is not ready.",
    "504": "The model server took too long.",
}


@dataclass(frozen=True)
class Operation:
    """One method of one path. rule: as in Flask; handler: None for a view of the author's own."""

    method: str
    rule: str
    handler: EndpointHandler[Any] | None
    view: Callable[..., Any]

    @property
    def path(self) -> str:
        """As OpenAPI writes it: `/files/{file_id}`."""
        return _VARIABLE.sub(r"{\1}", self.rule)

    @property
    def payload_cls(self) -> type[ApiPayload] | None:
        """None if it takes no payload."""
        return None if self.handler is None or self.method in WITHOUT_BODY else self.handler.payload_cls()


def operations_of(app: flask.Flask, backend: Backend) -> Sequence[Operation]:
    """Those of the author's routes, as they were registered."""
    found: list[Operation] = []
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] in OWN_BLUEPRINTS:
            continue
        view = app.view_functions[rule.endpoint]
        route = backend.views.get(cast("Callable[..., flask.Response]", view))
        handler = None if route is None else route.handler
        methods = sorted((rule.methods or set()) - _IMPLIED)
        found += [Operation(method, rule.rule, handler, view) for method in methods]
    return found


def document_of(operations: Iterable[Operation], backend: Backend, version: str) -> Mapping[str, Any]:
    """The document. version: of the package."""
    unsecured = backend.settings.unsecured
    operations = list(operations)
    classes = [one.payload_cls for one in operations if one.payload_cls is not None]
    schemas, definitions = schemas_of(classes)
    paths: dict[str, dict[str, Any]] = {}
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = _operation(one, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": backend.package.removeprefix("workers.") or "worker",
            "version": version,
            "description": _UNSECURED if unsecured else _SECURED,
        },
        "x-signed": not unsecured,
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": {**definitions, _ERROR: _ERROR_SCHEMA}},
    }


def _operation(one: Operation, schemas: Mapping[type[ApiPayload], Schema]) -> Mapping[str, Any]:
    about = one.view if one.handler is None else one.payload_cls or type(one.handler)
    described: dict[str, Any] = {
        "operationId": f"{one.method.lower()}_{_NOT_IN_IDS.sub('_', one.path).strip('_') or 'root'}",
        "description": _own_docstring(about),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _VARIABLE.findall(one.rule)
        ],
        "responses": _responses(one),
    }
    if one.payload_cls is not None and one.handler is not None:
        described["requestBody"] = _body(one.handler, one.payload_cls, schemas[one.payload_cls])
    return described


def _own_docstring(about: object) -> str:
    """Not one that it inherits, nor one that `dataclass` writes."""
    text = getattr(about, "__doc__", None) or ""
    is_made = inspect.isclass(about) and text.startswith(f"{about.__name__}(")
    return "" if is_made else inspect.cleandoc(text)


def _body(handler: EndpointHandler[Any], payload_cls: type[ApiPayload], schema: Schema) -> Mapping[str, Any]:
    media: dict[str, Any] = {"schema": schema}
    try:
        media["example"] = example_of(handler)
    except Exception:  # noqa: BLE001  the author's code, which may need what is not loaded; the route is told
        media.pop("example", None)
    content = {"application/json": media}
    if issubclass(payload_cls, OpenPayload) and _takes_forms(payload_cls):
        content["multipart/form-data"] = {"schema": {"type": "object", "additionalProperties": True}}
    return {"required": True, "content": content}


def _takes_forms(payload_cls: type[OpenPayload]) -> bool:
    own: Any = payload_cls.from_form
    inherited: Any = OpenPayload.from_form
    return own.__func__ is not inherited.__func__


def _responses(one: Operation) -> Mapping[str, Any]:
    good = {"description": "What the model server says, whole or as a stream."}
    if one.handler is None:
        return {"default": {"description": "What this view says."}}
    error = {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR}"}}}
    return {
        "200": good,
        **{status: {"description": text, "content": error} for status, text in _ERRORS.items()},
    }
