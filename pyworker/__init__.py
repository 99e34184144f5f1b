"""pyworker: the front door of a model server in Vast.ai Serverless.

`README.md` in this folder is the design page. The wings, lowest first; none imports from a later line:

    runtime/     threads, the request queue, limits and bounds that several wings share
    telemetry/   what happened to requests, in figures
    config/      environment → frozen, validated `Settings`
    downstream/  clients: event loop, TLS, HTTP framing, responses
    upstream/    the model server: connections, responses, the pooled Session
    reporting/   ledger, journal, reports to the autoscaler
    data_types/  what the author of a worker implements
    contract/    what an author wrote, checked when the worker is made
    lifecycle/   the model's state machine, its log, probes, the benchmark
    proxy/       one request from envelope to response
    sessions/    requests that belong together, and their routes
    discovery/   BACKEND=auto: which worker fits the model server found here
    routes/      a worker in one call
    openapi/     what its routes take, as OpenAPI and as a page

Beside them, for authors: `backend`, `responses`, `jobs`, `engines`, `tokenizer`,
`words`, `server`.
`worker` wires everything together and `app` is the Flask app; `registry` finds a worker by name.

    status/      what the worker does, for people and for Prometheus
    black_box/   what was known when a worker failed
    client/      SDK for callers
    sdk/         runs a `worker.py` that was written for the public SDK
    new/         `python -m pyworker.new`: a worker to begin with
    testing/     for the tests of a worker: the model server behind it, signed requests, what it reports
    check/       `python -m pyworker.check`: what a worker gets wrong
    loadtest/    `python -m pyworker.loadtest`
    top/         `python -m pyworker.top`: a worker, or a fleet, in a terminal
    doctor/      `python -m pyworker.doctor`: what is wrong on an instance
    local/       stand-in autoscaler and model server, the demo
    instance/    the start on an instance, before there is an environment
    resources/   the page; tokenizer and word list for machines without a network
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import flask

    from pyworker.config import Settings

__all__ = ["__version__", "create_app"]
__version__ = "0.1.0"


def create_app(name: str, settings: Settings | None = None) -> flask.Flask:
    """`pyworker.app.create_app`: the WSGI app of the worker `name`."""
    # Not above: gunicorn's master needs some of the modules, and has no use for the memory of all.
    from pyworker.app import create_app as create

    return create(name, settings)
