"""The routes for the developer of a client: `/docs` and `/openapi.json`; and in the demo, whose worker checks
signatures, `/docs/auth_data`, by which the page gets one as any client does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast

import flask
import requests

from pyworker.errors import NotReady
from pyworker.openapi.document import document_of, operations_of
from pyworker.resources.page import docs_page
from pyworker.worker import Worker

_AUTOSCALER_SECONDS = 5.0


def add_docs(app: flask.Flask, worker: Worker, version: str) -> None:
    """Register them on a development worker, unless its author has a route of the same path.

    On another worker these paths do not exist: what a payload looks like is for those who may call it.
    """
    if not (worker.settings.unsecured or worker.settings.docs):
        return
    operations = operations_of(app, worker.backend)
    blueprint = flask.Blueprint("docs", __name__)

    def docs() -> flask.Response:
        body, fields = docs_page()
        return flask.Response(body, headers=fields)

    def openapi() -> flask.Response:
        # In the author's order, which `jsonify` would not keep.
        document = json.dumps(document_of(operations, worker.backend, version))
        return flask.Response(document, mimetype="application/json")

    def auth_data() -> flask.Response:
        return flask.jsonify(_signed(worker.settings.report_addrs[0]))

    views: dict[str, Callable[[], flask.Response]] = {"/docs": docs, "/openapi.json": openapi}
    taken = {rule.rule for rule in app.url_map.iter_rules()}
    for path, view in views.items():
        if path not in taken:
            blueprint.add_url_rule(path, view_func=view, methods=["GET"])
    if worker.settings.docs and not worker.settings.unsecured:
        blueprint.add_url_rule("/docs/auth_data", view_func=auth_data, methods=["POST"])
    app.register_blueprint(blueprint)


def _signed(autoscaler: str) -> Mapping[str, object]:
    """`auth_data` of a request, from an autoscaler that gives it to anybody. Raises `NotReady`."""
    asked = {"endpoint": "docs", "api_key": "", "cost": 1.0}
    try:
        given: object = requests.post(f"{autoscaler}/route/", json=asked, timeout=_AUTOSCALER_SECONDS).json()
    except (requests.RequestException, ValueError) as error:
        raise NotReady("the autoscaler gives no signature") from error
    found: Mapping[str, object] = cast("dict[str, object]", given) if isinstance(given, dict) else {}
    if "signature" not in found:
        raise NotReady(f"the autoscaler gives no signature: {found.get('status') or found.get('error')}")
    return found
