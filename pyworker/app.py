"""The app factory: one worker, its blueprint, the standard routes and the one error handler."""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

import flask
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import MapAdapter, RequestRedirect

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.errors import RequestError, Unauthorized, UpdateRefused
from pyworker.loopback import LoopbackServer
from pyworker.pipeline import PIPELINE
from pyworker.registry import load_worker
from pyworker.session_routes import SessionViews
from pyworker.worker import Worker
from pyworker.wsgi_extensions import HELD

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

EXTENSION = "pyworker"
_BINDING = (
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "PATH_INFO",
    "wsgi.url_scheme",
    "HTTP_HOST",
    "SERVER_NAME",
    "SERVER_PORT",
    "HTTP_CONNECTION",
    "HTTP_UPGRADE",
)
_MAX_ADAPTERS = 128


def create_app(name: str, settings: Settings | None = None) -> flask.Flask:
    """The WSGI app of the worker `name`: a folder under `workers/`, or the dotted path of a package.

    settings: default, the process's environment. No thread runs before `worker_of(app).start()`,
    which gunicorn.conf.py does after the fork. Raises `ConfigError`.
    """
    settings = Settings.from_env() if settings is None else settings
    module = load_worker(name)
    backend: Backend = module.create_backend(settings)
    # Before the worker is wired, which asks the backend for all its handlers.
    blueprint: flask.Blueprint = module.create_blueprint(backend)
    worker = Worker(backend, settings)
    app = _new_app(settings)
    app.extensions.update({EXTENSION: worker, PIPELINE: worker.pipeline})
    app.register_blueprint(blueprint)
    app.register_blueprint(_standard_routes(worker))
    sessions = SessionViews(worker.pipeline, worker.sessions)
    app.register_blueprint(sessions.blueprint())
    callbacks = _new_app(settings)
    callbacks.add_url_rule("/session/end", view_func=sessions.end, methods=["POST"])
    worker.runtime.add(LoopbackServer(callbacks, settings.worker_http_port))
    return app


class _WorkerApp(flask.Flask):
    """Flask, but it redirects nobody, and remembers how it bound its routes to what is often asked."""

    def __init__(self) -> None:
        # No folder of static files: everything that is not a route is 404.
        super().__init__(__name__, static_folder=None)
        # A path is that path: `//ping` is none of ours.
        self.url_map.merge_slashes = False
        self._adapters: dict[tuple[object, ...], MapAdapter] = {}

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As Flask's; if it fails between a view and the first byte, what the request holds is given back."""
        try:
            return super().wsgi_app(environ, start_response)
        except BaseException:
            _fail_held(environ)
            raise

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """As Flask's; a MapAdapter does not change, so threads may share it."""
        if request is None or request.environ.get("QUERY_STRING"):
            return super().create_url_adapter(request)
        # All that an adapter is made of.
        key = tuple(map(request.environ.get, _BINDING))
        adapter = self._adapters.get(key)
        if adapter is None:
            adapter = super().create_url_adapter(request)
            if len(self._adapters) >= _MAX_ADAPTERS:
                self._adapters.clear()
            if adapter is not None:
                self._adapters[key] = adapter
        return adapter

    def raise_routing_exception(self, request: flask.Request) -> NoReturn:
        """As Flask's, which would redirect from `/path` to `/path/` by a `Location` made of Host."""
        if isinstance(request.routing_exception, RequestRedirect):
            raise NotFound
        super().raise_routing_exception(request)

    def make_default_options_response(self) -> flask.Response:
        """What a route answers to OPTIONS: its methods, and no page."""
        answer = super().make_default_options_response()
        answer.status_code = 204
        del answer.headers["Content-Type"]
        return answer


def _new_app(settings: Settings) -> flask.Flask:
    app = _WorkerApp()
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.register_error_handler(Exception, _answer_error)
    return app


def worker_of(app: flask.Flask) -> Worker:
    """The worker behind an app made by `create_app`."""
    return cast("Worker", app.extensions[EXTENSION])


def _standard_routes(worker: Worker) -> flask.Blueprint:
    blueprint = flask.Blueprint("pyworker", __name__)
    settings = worker.settings

    @blueprint.get("/ping")
    def ping() -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        return flask.Response("pong", mimetype="text/plain")

    @blueprint.get("/healthcheck")
    def healthcheck() -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        answer = worker.shared_health.get()
        if answer.body is None:
            # The status is what is asked for; half a body would look like a whole one.
            note = {"note": "the body of the model server's answer is too long or did not come whole"}
            return _answer(answer.status, note)
        response = flask.Response(answer.body, status=answer.status, content_type="text/plain")
        response.headers.update(answer.headers)
        return response

    @blueprint.post("/pyworker/update")
    def update() -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        _require_token(flask.request, settings.master_token)
        _touch(settings.update_flag)
        logger.info("an update was asked for; it happens at the next start")
        return flask.jsonify(ok=True)

    return blueprint


def _touch(flag: Path) -> None:
    """Raise `UpdateRefused`, with the reason, if it cannot be done."""
    try:
        flag.touch()
    except (OSError, ValueError) as error:
        reason = f"{flag} cannot be written ({getattr(error, 'strerror', None) or error})"
        logger.error(
            "an update was asked for, but %s: set PYWORKER_UPDATE_FLAG to a file that can be", reason
        )
        raise UpdateRefused(f"no update: {reason}; set PYWORKER_UPDATE_FLAG to a file that can be") from error


def _require_token(request: flask.Request, token: str) -> None:
    """Raise `Unauthorized` unless the request bears `token`. An empty token opens nothing."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Compared in every case, so that the time tells nothing.
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if not (token and same and scheme.lower() == "bearer"):
        raise Unauthorized("the master token is missing or wrong")


def _fail_held(environ: WSGIEnvironment) -> None:
    held = environ.get(HELD)
    if held is not None:
        held.fail()


def _answer_error(error: Exception) -> flask.Response:
    """Every error of every route becomes JSON here."""
    # Also one that comes after the view, which has then lost its response.
    _fail_held(flask.request.environ)
    if isinstance(error, RequestError):
        return _answer(error.status, error.body(), error.retry_after)
    if isinstance(error, HTTPException):
        return _answer_http_exception(error)
    if type(error).__module__.startswith("gunicorn."):
        # Its parser of chunked bodies raises where the body is read.
        return _answer(400, {"error": "the body's framing is broken"})
    logger.error("a request failed inside the worker", exc_info=error)
    return _answer(500, {"error": "internal error of the worker; its log says more"})


def _answer_http_exception(error: HTTPException) -> flask.Response:
    status = error.code or 500
    answer = _answer(status, {"error": error.name.lower()})
    for name, value in error.get_headers():
        if name.lower() in ("allow", "retry-after"):
            answer.headers[name] = value
    return answer


def _answer(status: int, body: object, retry_after: float | None = None) -> flask.Response:
    answer = flask.jsonify(body)
    answer.status_code = status
    if retry_after is not None:
        answer.headers["Retry-After"] = str(math.ceil(retry_after))
    return answer
