"""The app factory: a worker, its blueprint, the standard routes and the error handler."""

from __future__ import annotations

import itertools
import logging
import math
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

import flask
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import MapAdapter, RequestRedirect

import pyworker
from pyworker.backend import Backend
from pyworker.black_box.contents import keep_black_box
from pyworker.config import Settings
from pyworker.contract.paths import check_paths, registered
from pyworker.discovery.waiting import AUTO, choose
from pyworker.errors import NotReady, RequestError, UpdateRefused
from pyworker.lifecycle.probe import ProbeFailed
from pyworker.openapi.views import add_docs
from pyworker.proxy.direct import RAISED, DirectRoutes
from pyworker.proxy.door import DIRECT, openai_error
from pyworker.proxy.pipeline import PIPELINE
from pyworker.registry import load_worker
from pyworker.sessions.views import SessionViews
from pyworker.status.gauges import gauges_of
from pyworker.status.report import NOT_STARTED
from pyworker.status.views import StatusViews, require_token
from pyworker.telemetry.stopwatch import REQUEST_ID, STOPWATCH, Stopwatch
from pyworker.upstream.faults import error_of
from pyworker.worker import Worker
from pyworker.wsgi_extensions import HELD

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)

EXTENSION = "pyworker"
#: The extension that is the app of the loopback port, for callbacks of the model server.
CALLBACKS = "pyworker-callbacks"
# Set in the extensions once the log says that the worker was not started.
_TOLD = "pyworker-not-started"
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
# What a client may call its request; anything else is replaced.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# Names of requests that their clients have not named are unique among the processes of a fleet.
_PROCESS = secrets.token_hex(6)
_NUMBERS = itertools.count(1)


def create_app(name: str, settings: Settings | None = None) -> flask.Flask:
    """The WSGI app of the worker `name`: a folder under `workers/`, or the dotted path of a package; with
    `auto`, of the worker that fits the model server that is found, or that waits for one.

    settings: default, those of the environment. No thread runs before `worker_of(app).start()`,
    which gunicorn.conf.py does after the fork. Raises `ConfigError`.
    """
    settings = Settings.from_env() if settings is None else settings
    if name == AUTO:
        name, settings = choose(settings)
    module = load_worker(name)
    backend: Backend = module.create_backend(settings)
    backend.package = module.__name__.rpartition(".")[0]
    backend.require_loaded_sign()
    return make_app(backend, module.create_blueprint(backend), settings)


def make_app(backend: Backend, blueprint: flask.Blueprint, settings: Settings) -> flask.Flask:
    """The WSGI app of a backend, all of whose views are in the blueprint. Otherwise as `create_app`."""
    worker = Worker(backend, settings)
    app = _WorkerApp(settings)
    app.extensions.update({EXTENSION: worker, PIPELINE: worker.pipeline})
    app.register_blueprint(blueprint)
    app.register_blueprint(_standard_routes(worker))
    sessions = SessionViews(worker.pipeline, worker.sessions)
    app.register_blueprint(sessions.blueprint())
    worker.metrics.read_gauges(lambda: gauges_of(worker))
    app.register_blueprint(StatusViews(worker).blueprint())
    add_docs(app, worker, pyworker.__version__)
    keep_black_box(worker)
    handlers = {view: route.handler for view, route in backend.views.items()}
    check_paths(registered(app.url_map.iter_rules(), app.view_functions, handlers))
    app.direct = DirectRoutes(app, worker.pipeline, backend.views)
    callbacks = _WorkerApp(settings)
    callbacks.add_url_rule("/session/end", view_func=sessions.end, methods=["POST"])
    app.extensions[CALLBACKS] = callbacks
    return app


class _WorkerApp(flask.Flask):
    """Flask without redirects and static files, with JSON errors and a cache of URL adapters."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(__name__, static_folder=None)
        self.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
        self.register_error_handler(Exception, _error_response)
        # `//ping` is not `/ping`.
        self.url_map.merge_slashes = False
        self.direct: DirectRoutes | None = None
        self._adapters: dict[tuple[object, ...], MapAdapter] = {}

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """As Flask's, or without its objects where a route needs none.

        If it fails between the view and the first byte, it releases what the request holds.
        """
        try:
            start = _identified(environ, start_response)
            route = None if self.direct is None else self.direct.find(environ)
            if self.direct is None or route is None:
                return super().wsgi_app(environ, start)
            try:
                return self.direct.serve(route, environ, start)
            except Exception:
                if RAISED not in environ:
                    raise
                return super().wsgi_app(environ, start)
        except BaseException:
            _fail_held(environ)
            raise

    def create_url_adapter(self, request: flask.Request | None) -> MapAdapter | None:
        """As Flask's, but cached. A MapAdapter is immutable, so threads may share it."""
        if request is None or request.environ.get("QUERY_STRING"):
            return super().create_url_adapter(request)
        # Everything that an adapter depends on.
        key = tuple(map(request.environ.get, _BINDING))
        adapter = self._adapters.get(key)
        if adapter is None and (adapter := super().create_url_adapter(request)) is not None:
            if len(self._adapters) >= _MAX_ADAPTERS:
                self._adapters.clear()
            self._adapters[key] = adapter
        return adapter

    def raise_routing_exception(self, request: flask.Request) -> NoReturn:
        """As Flask's, but 404 in place of a redirect to `/path/`, whose `Location` quotes Host."""
        if isinstance(request.routing_exception, RequestRedirect):
            raise NotFound
        super().raise_routing_exception(request)

    def make_default_options_response(self) -> flask.Response:
        """The response to OPTIONS: the methods of the route, no body."""
        response = super().make_default_options_response()
        response.status_code = 204
        del response.headers["Content-Type"]
        return response


def _identified(environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
    """Give the request an id, unless its client did, and have the response tell it and its steps."""
    given: str | None = environ.get("HTTP_X_REQUEST_ID")
    is_good = given is not None and _REQUEST_ID.fullmatch(given) is not None
    request_id = given if is_good and given else f"{_PROCESS}-{next(_NUMBERS):x}"
    environ[REQUEST_ID] = request_id

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
        watch: Stopwatch | None = environ.get(STOPWATCH)
        headers.append(("X-Request-Id", request_id))
        if watch is not None:
            headers.append(("Server-Timing", watch.server_timing()))
        return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

    return start


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
        try:
            health = worker.model.shared_health.get()
        except ProbeFailed as error:
            raise NotReady(f"the health probe failed: {error}") from error
        if health.body is None:
            # The status is what matters; half a body would look like a whole one.
            note = {"note": "the body of the model server's response is too long or incomplete"}
            return _json_response(health.status, note)
        response = flask.Response(health.body, status=health.status, content_type="text/plain")
        response.headers.update(health.headers)
        return response

    @blueprint.post("/pyworker/update")
    def update() -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        require_token(flask.request, settings.master_token)
        _touch(settings.update_flag)
        logger.info("update requested; it happens at the next start")
        return flask.jsonify(ok=True)

    return blueprint


def _touch(flag: Path) -> None:
    """Create the flag. Raises `UpdateRefused` with the reason."""
    try:
        flag.touch()
    except (OSError, ValueError) as error:
        reason = f"{flag} cannot be written ({getattr(error, 'strerror', None) or error})"
        logger.error("update requested, but %s: set PYWORKER_UPDATE_FLAG to a file that can be", reason)
        raise UpdateRefused(f"no update: {reason}; set PYWORKER_UPDATE_FLAG to a file that can be") from error


def _fail_held(environ: WSGIEnvironment) -> None:
    held = environ.get(HELD)
    if held is not None:
        held.fail()


def _error_response(error: Exception) -> flask.Response:
    """The JSON response for an error of any route."""
    # The error may have come after the view; its response is lost then.
    _fail_held(flask.request.environ)
    if (fault := error_of(error)) is not None:
        logger.warning("%d %s: %s", fault.status, flask.request.url_rule, fault.message)
        error = fault
    if isinstance(error, NotReady):
        error = _unless_not_started(error)
    if isinstance(error, RequestError):
        body = error.body()
        if flask.request.environ.get(DIRECT):
            body = openai_error(error.status, error.message, error)
        return _json_response(error.status, body, error.retry_after)
    if isinstance(error, HTTPException):
        body = {"error": error.name.lower()}
        if flask.request.environ.get(DIRECT):
            body = openai_error(error.code or 500, error.name.lower())
        response = _json_response(error.code or 500, body)
        for name, value in error.get_headers():
            if name.lower() in ("allow", "retry-after"):
                response.headers[name] = value
        return response
    if type(error).__module__.startswith("gunicorn."):
        # gunicorn parses chunked bodies while they are read.
        return _json_response(400, {"error": "the body's framing is broken"})
    logger.error("unhandled exception in a request", exc_info=error)
    return _json_response(500, {"error": "internal error of the worker; its log says more"})


def _unless_not_started(error: NotReady) -> NotReady:
    """The same, or why nothing will ever be ready: under a server that does not start the worker."""
    app = flask.current_app
    worker: Worker | None = app.extensions.get(EXTENSION)  # None: that of the loopback port
    if worker is None or worker.is_started:
        return error
    if not app.extensions.get(_TOLD):
        app.extensions[_TOLD] = True
        logger.error("%s", NOT_STARTED)
    return NotReady(NOT_STARTED)


def _json_response(status: int, body: object, retry_after: float | None = None) -> flask.Response:
    response = flask.jsonify(body)
    response.status_code = status
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response
