"""The routes that tell what the worker does.

`/livez`, `/readyz` and `/startupz` are public and say a word. So is the page that a browser gets at
`/status`, which holds no figure. The others tell figures and lines of logs, to clients on the same machine
and to those with the master token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

import flask

from pyworker.errors import Unauthorized
from pyworker.lifecycle.state import ModelState
from pyworker.resources.page import page
from pyworker.runtime import server_sent_events
from pyworker.status.engine import engine_metrics
from pyworker.status.live import Live
from pyworker.status.report import status_of, why_not_ready
from pyworker.status.sections import sections_of
from pyworker.telemetry import metrics
from pyworker.worker import Worker
from pyworker.wsgi_extensions import PRESENCE, PollableBody, Presence

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class StatusViews:
    """The views of one worker."""

    def __init__(self, worker: Worker) -> None:
        """Before the worker's start: it runs a thread for the streams."""
        self._worker = worker
        self._live = Live(lambda: sections_of(worker), is_over=lambda: _has_drained(worker))
        worker.runtime.add(self._live.loop)

    def blueprint(self) -> flask.Blueprint:
        """The routes."""
        blueprint = flask.Blueprint("status", __name__)
        for path, view in (
            ("/livez", self.live),
            ("/readyz", self.ready),
            ("/startupz", self.started),
            ("/status", self.status),
            ("/status/events", self.events),
            ("/status/requests", self.requests),
            ("/metrics", self.metrics),
            ("/metrics/model", self.engine_metrics),
        ):
            blueprint.add_url_rule(path, view_func=view, methods=["GET"])
        return blueprint

    def live(self) -> flask.Response:
        """200 while the process answers at all."""
        return flask.jsonify(live=True)

    def ready(self) -> flask.Response:
        """200 if a request would be served now, else 503 with the reason."""
        reason = why_not_ready(self._worker)
        return _answer(not reason, ready=not reason, reason=reason)

    def started(self) -> flask.Response:
        """200 once the worker was ready, else 503 with what it waits for. It does not change after that."""
        started = any(phase.state is ModelState.READY for phase in self._worker.model.phases.all())
        state = self._worker.lifecycle.state.value
        return _answer(started, started=started, reason="" if started else state)

    def status(self) -> flask.Response:
        """Everything, as JSON; for a browser the page that shows it."""
        accepted = flask.request.accept_mimetypes
        if accepted["text/html"] > accepted["application/json"]:
            body, fields = page("worker")
            return flask.Response(body, headers=fields)
        self._require_insider()
        response = flask.jsonify(status_of(self._worker))
        response.headers["Vary"] = "Accept"
        return response

    def events(self) -> flask.Response:
        """What the page shows, as server-sent events. They end with the drain."""
        self._require_insider()
        viewer = self._live.open()
        presence: Presence | None = flask.request.environ.get(PRESENCE)
        if presence is not None:
            self._worker.watcher.watch(presence, viewer.end)
        response = _Stream(viewer.body, content_type=server_sent_events.CONTENT_TYPE)
        response.headers.update(server_sent_events.HEADERS)
        response.call_on_close(viewer.close)
        return response

    def requests(self) -> flask.Response:
        """The last requests, newest first."""
        self._require_insider()
        recorder = self._worker.recorder
        return flask.jsonify(
            ended=[record.as_json() for record in reversed(list(recorder.recent()))],
            refused=[record.as_json() for record in reversed(list(recorder.recently_refused()))],
        )

    def metrics(self) -> flask.Response:
        """For Prometheus."""
        self._require_insider()
        self._worker.recorder.flush()
        return flask.Response(self._worker.metrics.text(), content_type=metrics.CONTENT_TYPE)

    def engine_metrics(self) -> flask.Response:
        """The model server's own, as it tells them."""
        self._require_insider()
        content_type, body = engine_metrics(self._worker.model.engine_metrics)
        return flask.Response(body, content_type=content_type)

    def _require_insider(self) -> None:
        if not is_local(flask.request.remote_addr):
            require_token(flask.request, self._worker.settings.master_token)


class _Stream(flask.Response):
    """The server polls its body."""

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        body: object = self.response  # pyright: ignore[reportUnknownMemberType]
        if environ["REQUEST_METHOD"] == "HEAD" or not isinstance(body, PollableBody):
            return super().get_app_iter(environ)
        body.call_on_close(self.close)
        return body


def _has_drained(worker: Worker) -> bool:
    return worker.lifecycle.state is ModelState.DRAINING and worker.ledger.in_hand()[1] == 0


def is_local(address: str | None) -> bool:
    """Whether a client is on this machine."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return ip.is_loopback or (mapped is not None and mapped.is_loopback)


def require_token(request: flask.Request, token: str) -> None:
    """Raise `Unauthorized` unless the request has this bearer token. An empty `token` matches nothing."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    # Compared even without a token, so that the time reveals nothing.
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    if not (token and same and scheme.lower() == "bearer"):
        raise Unauthorized("the master token is missing or wrong")


def _answer(is_good: bool, **body: object) -> flask.Response:
    response = flask.jsonify(body)
    response.status_code = 200 if is_good else 503
    return response
