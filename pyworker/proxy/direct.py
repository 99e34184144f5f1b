"""Routes that pass on what the model server sends, served as WSGI without the objects of Flask.

Flask stays the app: its rules say which path is which view, and it serves whatever is not served here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import flask
from werkzeug.routing import Rule

from pyworker.proxy.pipeline import Pipeline, Route

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Set in the environ: the error that the request ended with, for Flask's error handlers.
RAISED = "pyworker.raised"


class DirectRoutes:
    """Serves POST requests to the routes that pass the response on. Thread-safe."""

    def __init__(
        self, app: flask.Flask, pipeline: Pipeline, views: Mapping[Callable[..., Any], Route]
    ) -> None:
        """views: those of a `Backend`. Only one that is registered as it is, not wrapped, counts."""
        self._app = app
        self._pipeline = pipeline
        self._routes: dict[str, tuple[str, Route]] = {}
        for rule in app.url_map.iter_rules():
            route = views.get(app.view_functions[rule.endpoint])
            if route is None or route.passing is None or route.places is not None:
                continue
            if _is_plain(rule):
                self._routes[rule.rule] = rule.endpoint, route

    def find(self, environ: WSGIEnvironment) -> Route | None:
        """The route of a request that can be served here."""
        found = self._routes.get(environ["PATH_INFO"])
        if found is None or environ["REQUEST_METHOD"] != "POST" or environ.get("SCRIPT_NAME"):
            return None
        endpoint, route = found
        return None if self._has_hooks(endpoint.rpartition(".")[0]) else route

    def _has_hooks(self, blueprint: str) -> bool:
        """Whether an author has registered something that Flask calls for each request."""
        app = self._app
        for hooks in (
            app.before_request_funcs,
            app.after_request_funcs,
            app.teardown_request_funcs,
            app.url_value_preprocessors,
        ):
            if hooks and (hooks.get(None) or hooks.get(blueprint)):
                return True
        return bool(app.teardown_appcontext_funcs)

    def serve(self, route: Route, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The response. An error before it is left in the environ, for Flask to handle, and raised."""
        assert route.passing is not None
        try:
            response = self._pipeline.serve_passing(route, route.passing, environ)
        except Exception as error:
            environ[RAISED] = error
            raise
        if isinstance(response, flask.Response):
            return response(environ, start_response)
        passed, body = response
        headers = list(passed.headers)
        if passed.length is not None:
            headers.append(("Content-Length", str(passed.length)))
        start_response(status_line(passed.status), headers)
        return body


def _is_plain(rule: Rule) -> bool:
    """Whether its path alone decides, and it is for POST."""
    return not ("<" in rule.rule or rule.defaults or rule.redirect_to or rule.alias or rule.host) and (
        not rule.subdomain and not rule.websocket and "POST" in (rule.methods or ())
    )


@functools.cache
def status_line(status: int) -> str:
    """As werkzeug writes it."""
    response: Any = flask.Response(status=status)
    return response.status
