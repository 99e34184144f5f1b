"""pyworker: the front door of a model server in Vast.ai Serverless.

Two data paths:

* request to response: `app` → `pipeline` (`envelope` → `auth` → `lifecycle` → `metrics` → `request_queue`
  → `model_client`) → the handler with `responses` → `exchange` gives everything back at the last byte.
* log line to report: `log_tail` → `lifecycle` → `readiness` (`benchmark`, `health`) → `metrics` →
  `reporter`.

The modules, lowest first; each imports only modules above it:

    errors         error families, each with its HTTP status
    redaction      URLs without their passwords
    allocator      settings of the C library
    limits         limits and sizes that several modules share
    wsgi_extensions what the server offers an app beyond WSGI
    limits         limits that several parts share
    budget         a bound for what many hold a part of
    signals        those that the worker refuses
    tls            the certificate served with, read again when its files change
    variables      environment variables, and what their text may say
    config         environment → frozen, validated Settings
    sample         the two ends of a response body
    validation     decoded JSON as dataclasses
    data_types     what a worker's author implements, and what travels
    auth           signatures, replay window
    lifecycle      loading, benchmarking, ready, errored, draining: the transition table
    reports        status reports and finished requests, as the wire spells them
    thread_pool    threads for requests, of which few run at once
    log_limit      log lines that may come in floods
    request_queue  first-in-first-out turns
    nowait         system calls that keep the interpreter
    journal_file   the file of the journal
    journal        finished requests on disk until they are accepted
    tracker        one request in the ledger
    metrics        the ledger of requests
    answer_head    the header block of the model server's response
    incoming       a buffer of received bytes
    answer_body    where a body ends: by its length, in chunks, with its connection
    call           a call to the model server, which can be aborted
    answer         reads one response of the model server
    origin         the model server's origin: connections to it, and redirects that name it
    faults         why a call failed, in words
    connection     one connection to the model server
    model_response the response as handlers get it
    transport      the adapter of the session: a pool of such connections
    encoding       a payload as the model server gets it
    model_client   the pooled session on it
    verdict        what a response means for the books
    error_objects  errors that come with status 200
    responses      pass-through, JSON and stream for handlers
    disconnect     the thread that tells a request that its client hung up
    framing        where a client's request ends
    client_socket  one client's connection
    acceptor       listening sockets
    ranking        which connection is closed to make room
    room           limits for connections, and for the memory of unfinished requests
    large_bodies   a limit for threads that read large bodies
    connection_table connections: registered with epoll, closed
    request_reader requests as they arrive
    poller         the event loop: accepting, deadlines
    loopback       the plain port for the model server's callbacks
    body           reading the client's body, however large and whoever sent it
    envelope       the client's body, taken apart
    exchange       what one request holds
    sessions       requests that belong together, until the session ends or expires
    suspicion      failures of requests in a row
    pipeline       the path of a request
    session_routes the HTTP of sessions
    log_lines      bytes → lines → what they mean
    log_tail       the model's log, followed
    engines        what well-known model servers write into their logs
    backend        what an author says of the model server; makes the views
    timed_http     HTTP of requests with a deadline for a whole exchange
    callbacks      tells the model server that a session is over
    autoscaler_client HTTP requests to the autoscaler
    public_key     fetches its public key
    reporter       status reports and finished requests
    parallel       calls of foreign code in parallel, with one deadline
    small_file     small files that keep something over a restart
    benchmark      rounds → throughput
    benchmark_file the file that keeps it
    probe          one look at the model server's health
    healthcheck    its answer for clients, shared
    health         checks of a model that should be serving
    memory         the model was loaded before this process started
    loading        why a model is still loading
    log_effects    what a line of the model's log does to the worker
    readiness      from loaded to ready
    runtime        background threads: start, stop, join
    worker         all of it wired together
    registry       finding a worker package by name
    app            create_app: routes, error handler
    client_request gunicorn's parser for one request
    client_response gunicorn's response
    heads          header blocks that were parsed before
    delivery       the answer on its way to the client
    relay          those that wait for the model server, on few threads
    worker_class   gunicorn's threaded worker, hardened
    server         gunicorn from Python

Beside them: `beacon`, which reports a worker that cannot start; `instance/`, what start_server.sh runs
before there is an environment; `doctor/`, which looks for what is wrong on an instance; `tokenizer` and
`words` for payloads, `client` and its parts for callers, `loadtest/`, and `local/`, a stand-in autoscaler and
model server.
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
