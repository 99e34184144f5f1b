"""A local autoscaler: `python -m pyworker.local.autoscaler`.

It behaves towards workers and clients like the public service, with real signatures, but keeps its fleet in
memory and starts no machines.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import cast

from flask import Flask, Response, request
from typing_extensions import Self

from pyworker.errors import ConfigError, RequestError, Unauthorized, Unprocessable
from pyworker.local.autoscaler_options import parse_options
from pyworker.local.certificates import Authority
from pyworker.local.faults import Faults
from pyworker.local.fleet import Fleet, Route
from pyworker.local.fleet_page import FleetPage, overview
from pyworker.local.messages import (
    FinishedBatch,
    RouteRequest,
    WorkerReport,
    WorkersQuery,
    parse,
)
from pyworker.local.serving import LocalServer, json_errors
from pyworker.local.signing import SignatureForm, Signer, current_message, first_message

DEFAULT_ENDPOINT = "hello_world"
"""The endpoint that the console lists if any name is accepted."""
MAX_ID_DIGITS = 19
_PEM = "application/x-pem-file"


class UnknownEndpoint(RequestError):
    """The client asks for an endpoint that this autoscaler does not serve or list."""

    status = 404


@dataclass(kw_only=True, repr=False, eq=False)
class Autoscaler:
    """A local autoscaler in this process. `start` and `stop` belong to one thread; the rest to any.

    `endpoints` empty accepts any endpoint name; `api_key` and `master_token` None accept any.
    `signature_form="first"` signs and responds in the first form of the contract.
    """

    host: str = "127.0.0.1"
    port: int = 0
    signer: Signer = field(default_factory=Signer.generate)
    endpoints: Sequence[str] = ()
    api_key: str | None = None
    master_token: str | None = None
    signature_form: SignatureForm = "current"
    fleet: Fleet = field(default_factory=Fleet)

    def __post_init__(self) -> None:
        self.faults = Faults()
        self._created_at = time.time()
        self._page = FleetPage(self.fleet)
        # The signing key serves here too, so that a kept key keeps the root as well.
        self._authority = Authority(self.signer.key, "pyworker local root")
        self._server = LocalServer(self._app(), name="pyworker-autoscaler", host=self.host, port=self.port)

    def start(self) -> Self:
        self._page.start()
        self._server.start()
        return self

    def stop(self) -> None:
        """Release what faults hold, end every connection, join every thread. May be called twice."""
        self.faults.clear()
        self._page.stop()
        self._server.stop()

    @property
    def url(self) -> str:
        return self._server.url

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Autoscaler {self.url} {self.fleet!r}>"

    def _app(self) -> Flask:
        app = Flask("pyworker.local.autoscaler", static_folder=None)
        app.before_request(self._apply_faults)
        json_errors(app)
        self._page.add_to(app)
        app.add_url_rule("/pubkey/", view_func=self._pubkey)
        app.add_url_rule("/route/", view_func=self._route, methods=["POST"])
        app.add_url_rule("/worker_status/", view_func=self._worker_status, methods=["POST"])
        app.add_url_rule("/delete_requests/", view_func=self._delete_requests, methods=["POST"])
        app.add_url_rule("/workers/", view_func=self._workers)
        app.add_url_rule("/get_endpoint_workers/", view_func=self._endpoint_workers, methods=["POST"])
        app.add_url_rule("/static/jvastai_root.cer", view_func=self._root_certificate)
        app.add_url_rule("/api/v0/sign_cert/", view_func=self._sign_certificate, methods=["POST"])
        app.add_url_rule("/api/v0/endptjobs/", view_func=self._console_list)
        app.add_url_rule("/api/v0/endptjobs/<int:number>/", view_func=self._console_entry)
        return app

    def _apply_faults(self) -> Response | None:
        status = self.faults.apply(request.path)
        return None if status is None else _json({"error": "a fault ordered by a test"}, status)

    def _pubkey(self) -> Response:
        return Response(self.signer.public_pem(), mimetype="text/plain")

    def _route(self) -> Response:
        asked = parse(RouteRequest, request.get_data())
        self._check_key(asked.api_key)
        if self.endpoints and asked.endpoint not in self.endpoints:
            served = ", ".join(self.endpoints)
            raise UnknownEndpoint(f"endpoint: {asked.endpoint!r} is not served here, only {served}")
        route = self.fleet.route(asked.cost, asked.request_idx, time.monotonic())
        return _json(self._route_response(asked, route))

    def _route_response(self, asked: RouteRequest, route: Route) -> dict[str, object]:
        if route.url is None:
            return {"request_idx": route.request_idx, "status": route.status}
        response: dict[str, object] = {
            "url": route.url,
            "cost": asked.cost,
            "endpoint": asked.endpoint,
            "reqnum": route.reqnum,
        }
        if self.signature_form == "first":
            text = first_message(cost=asked.cost, endpoint=asked.endpoint, reqnum=route.reqnum, url=route.url)
            return response | {"signature": self.signer.sign(text)}
        signature = self.signer.sign(current_message(route.url))
        return response | {"signature": signature, "request_idx": route.request_idx}

    def _worker_status(self) -> Response:
        body = request.get_data()
        report = parse(WorkerReport, body)
        self._check_token(report.mtoken)
        # The message has been checked: it is an object.
        raw = cast("dict[str, object]", json.loads(body))
        self.fleet.accept_report(report, raw, time.monotonic())
        return _json({"success": True})

    def _delete_requests(self) -> Response:
        batch = parse(FinishedBatch, request.get_data())
        self._check_token(batch.mtoken)
        self.fleet.accept_finished(batch)
        return _json({"success": True})

    def _workers(self) -> Response:
        return _json(overview(self.fleet), indent=2)

    def _endpoint_workers(self) -> Response:
        query = parse(WorkersQuery, request.get_data())
        self._check_key(query.api_key)
        now = time.monotonic()
        return _json([member.sdk_view(now) for member in self.fleet.workers()])

    def _root_certificate(self) -> Response:
        return Response(self._authority.root_pem, mimetype=_PEM)

    def _sign_certificate(self) -> Response:
        instance = request.args.get("instance_id", "")
        if not (instance.isascii() and instance.isdigit() and len(instance) <= MAX_ID_DIGITS):
            raise Unprocessable("instance_id: missing in the query, or not the integer id of an instance")
        address = request.remote_addr or ""
        return Response(
            self._authority.issue(request.get_data(), f"instance {instance}", address), mimetype=_PEM
        )

    def _console_list(self) -> Response:
        self._check_key("")
        return _json({"results": self._console_entries()})

    def _console_entry(self, number: int) -> Response:
        self._check_key("")
        entries = self._console_entries()
        if not 1 <= number <= len(entries):
            raise UnknownEndpoint(f"id: there is no endpoint {number}, only 1 to {len(entries)}")
        return _json({"result": entries[number - 1]})

    def _console_entries(self) -> list[dict[str, object]]:
        """The endpoints as the console lists them; the client goes on with the key that it finds there."""
        key = self.api_key or _key_beside_body()
        return [
            {
                "id": number,
                "endpoint_name": name,
                "endpoint_state": "active",
                "api_key": key,
                "user_id": 1,
                "created_at": self._created_at,
            }
            for number, name in enumerate(self.endpoints or (DEFAULT_ENDPOINT,), start=1)
        ]

    def _check_key(self, in_body: str) -> None:
        if self.api_key is None:
            return
        if not _same(in_body or _key_beside_body(), self.api_key):
            raise Unauthorized("api_key: missing or not the key of this autoscaler")

    def _check_token(self, mtoken: str) -> None:
        if self.master_token is not None and not _same(mtoken, self.master_token):
            raise Unauthorized("mtoken: not the master token of this autoscaler")


def _json(value: object, status: int = 200, *, indent: int | None = None) -> Response:
    return Response(json.dumps(value, indent=indent) + "\n", status, mimetype="application/json")


def _key_beside_body() -> str:
    """The API key as bearer token or in the query; empty without either."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.args.get("api_key", "")


def _same(given: str, expected: str) -> bool:
    return compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status."""
    options = vars(parse_options(argv))
    # Blocked before any thread starts, so that a signal always waits for the main thread to ask for it.
    ending = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        path = options.pop("key_file")
        signer = Signer.from_file(path) if path else Signer.generate()
        autoscaler = Autoscaler(**options, signer=signer).start()
    except ConfigError as error:
        sys.stderr.write(f"pyworker.local.autoscaler: {error}\n")
        return 1
    print(f"Local autoscaler at {autoscaler.url} (Ctrl-C ends it)", flush=True)  # noqa: T201
    signal.sigwait(ending)
    autoscaler.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
