"""The routes for the developer of a client: `/docs` and `/openapi.json`."""

from __future__ import annotations

import json
from collections.abc import Callable

import flask

from pyworker.openapi.document import document_of, operations_of
from pyworker.resources.page import docs_page
from pyworker.worker import Worker


def add_docs(app: flask.Flask, worker: Worker, version: str) -> None:
    """Register them on a development worker, unless its author has a route of the same path.

    On another worker these paths do not exist: what a payload looks like is for those who may call it.
    """
    if not worker.settings.unsecured:
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

    views: dict[str, Callable[[], flask.Response]] = {"/docs": docs, "/openapi.json": openapi}
    taken = {rule.rule for rule in app.url_map.iter_rules()}
    for path, view in views.items():
        if path not in taken:
            blueprint.add_url_rule(path, view_func=view, methods=["GET"])
    app.register_blueprint(blueprint)
