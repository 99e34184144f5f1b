"""The client against a real local autoscaler and a scripted worker, over real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, cast

import pytest
from typing_extensions import Self

from pyworker.client import (
    AutoscalerUnreachable,
    Client,
    ClientClosed,
    ClientError,
    NoWorkerReady,
    RouteRefused,
    SessionClosed,
    StreamBroken,
    Trace,
    WorkerAnswerError,
    WorkerTimeout,
    WorkerUnavailable,
)
from pyworker.local.autoscaler import Autoscaler
from pyworker.local.messages import WorkerReport, parse
from pyworker.local.signing import Signer
from tests.support.dripping import DRIPS, Dripping
from tests.support.in_process import InProcessWorker
from tests.support.process import ROOT
from tests.support.scripted import ScriptedServer
from tests.support.status import status_report
from tests.support.waiting import wait_until

KEY = "a-key-that-must-not-show"
DEADLINE = 20  # seconds; generous, since the machine may be busy

Script = Callable[[BaseHTTPRequestHandler], None]


class ScriptedWorker:
    """A worker that responds to its requests in the order of a script, and records them."""

    def __init__(self, *script: Script) -> None:
        self.script = deque(script)
        self.requests: list[Mapping[str, object]] = []
        self.paths: list[str] = []
        worker = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize: ClassVar[int] = -1
            timeout = DEADLINE

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                worker.requests.append(json.loads(body))
                worker.paths.append(self.path)
                worker.script.popleft()(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def indices(self) -> list[object]:
        return [
            cast("Mapping[str, object]", request["auth_data"])["request_idx"] for request in self.requests
        ]


def respond(status: int, body: object = None, **headers: str) -> Script:
    def send(handler: BaseHTTPRequestHandler) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return send


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def chunks(*pieces: bytes, end: bool = True, gate: threading.Event | None = None) -> Script:
    """A chunked stream; with a gate, everything after the first piece waits for it."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for number, piece in enumerate(pieces):
            if number and gate is not None:
                assert gate.wait(DEADLINE)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            handler.wfile.flush()
        if end:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = not end

    return send


def plain(data: bytes, length: int | None = None) -> Script:
    """An unchunked stream: with a length, or up to the end of the connection."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length is not None:
            handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(data)
        handler.close_connection = True

    return send


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer.generate()


@pytest.fixture
def autoscaler(signer: Signer) -> Iterator[Autoscaler]:
    with Autoscaler(signer=signer) as running:
        yield running


def announce(autoscaler: Autoscaler, url: str, worker: int = 1, **changes: object) -> None:
    """Have the autoscaler know a worker as ready, without one that reports."""
    fields = status_report(url, id=worker)
    report = parse(WorkerReport, json.dumps(fields | changes).encode())
    autoscaler.fleet.accept_report(report, {}, time.monotonic())


def client_of(
    autoscaler: Autoscaler, timeout: float = DEADLINE, api_key: str = KEY, retries: int | None = None
) -> Client:
    return Client(autoscaler.url, api_key, "hello_world", timeout=timeout, retries=retries)


def test_a_call_carries_the_envelope(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(respond(200, {"text": "hi"})) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        response = client.call("/generate", {"prompt": "hello"}, 42.0)
    assert (response.status_code, response.json()) == (200, {"text": "hi"})
    request = worker.requests[0]
    assert worker.paths == ["/generate"]
    assert set(request) == {"auth_data", "payload", "session_id"}
    assert (request["payload"], request["session_id"]) == ({"prompt": "hello"}, None)
    auth_data = cast("Mapping[str, object]", request["auth_data"])
    assert (auth_data["cost"], auth_data["endpoint"]) == (42.0, "hello_world")
    assert KEY not in json.dumps(worker.requests)


def test_route_polls_until_a_worker_is_ready(autoscaler: Autoscaler) -> None:
    hold = autoscaler.faults.hang("/route/")
    found: list[Mapping[str, object]] = []
    with client_of(autoscaler) as client:
        asking = threading.Thread(target=lambda: found.append(client.route(1.0)))
        asking.start()
        assert hold.arrived.wait(DEADLINE)
        hold.release()  # the first response has no worker: none is known yet
        second = autoscaler.faults.hang("/route/")
        assert second.arrived.wait(DEADLINE)
        announce(autoscaler, "http://worker:1")
        second.release()
        asking.join(DEADLINE)
    assert (found[0]["url"], found[0]["request_idx"]) == ("http://worker:1", 1)
    assert autoscaler.fleet.requests_seen == 1


@pytest.mark.parametrize(
    "failures",
    [[respond(503, Retry_After="0.05"), respond(429), respond(408)], [respond(500), respond(502), hang_up]],
)
def test_a_failing_worker_is_retried_with_the_same_index(
    autoscaler: Autoscaler, failures: list[Script]
) -> None:
    with ScriptedWorker(*failures, respond(200, {})) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        assert client.call("/generate", {}, 1.0).status_code == 200
    assert worker.indices() == [1] * 4


def test_a_dead_worker_is_left_for_another(autoscaler: Autoscaler) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with ScriptedWorker(respond(200, {})) as worker, client_of(autoscaler) as client:
        announce(autoscaler, dead, 1)
        announce(autoscaler, worker.url, 2, cur_load=1000.0)
        assert client.call("/generate", {}, 1.0).status_code == 200
    assert worker.indices() == [1]


@pytest.mark.parametrize("status", [400, 401, 410, 413, 422, 302])
def test_other_answers_are_the_callers(autoscaler: Autoscaler, status: int) -> None:
    with ScriptedWorker(respond(status, {"error": "no"})) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        assert client.call("generate", {}, 1.0).status_code == status
    assert worker.paths == ["/generate"]


def test_retry_after_beyond_the_deadline_ends_the_call(autoscaler: Autoscaler) -> None:
    busy = respond(429, {"error": "the queue is full"}, Retry_After="3600")
    with ScriptedWorker(busy) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        with pytest.raises(WorkerUnavailable, match=r"429 Too Many Requests.*the queue is full"):
            client.call("/generate", {}, 1.0)


def test_a_silent_worker(autoscaler: Autoscaler) -> None:
    gate = threading.Event()

    def wait(_handler: BaseHTTPRequestHandler) -> None:
        gate.wait(DEADLINE)

    with ScriptedWorker(wait) as worker, client_of(autoscaler, timeout=0.3) as client:
        announce(autoscaler, worker.url)
        with pytest.raises(WorkerTimeout, match=r"did not respond within 0\.\d+ s"):
            client.call("/generate", {}, 1.0)
        gate.set()


def test_no_worker(autoscaler: Autoscaler) -> None:
    with (
        client_of(autoscaler, timeout=0.3) as client,
        pytest.raises(NoWorkerReady, match="no worker has report"),
    ):
        client.route(1.0)


def test_no_autoscaler() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    refused = pytest.raises(AutoscalerUnreachable, match="connection refused; is it running")
    with Client(url, KEY, "hello_world") as client, refused as caught:
        client.call("/generate", {}, 1.0)
    assert KEY not in str(caught.value)


def test_an_autoscaler_that_fails_for_a_while(autoscaler: Autoscaler) -> None:
    announce(autoscaler, "http://worker:1")
    autoscaler.faults.fail_with(503, "/route/", times=2)
    with client_of(autoscaler) as client:
        assert client.route(1.0)["url"] == "http://worker:1"


def test_a_wrong_key(signer: Signer) -> None:
    refused = pytest.raises(RouteRefused, match=r"401.*check the API key")
    another = Autoscaler(signer=signer, api_key="another")
    with another, client_of(another) as client, refused as caught:
        client.route(1.0)
    assert KEY not in str(caught.value)


def test_what_is_no_autoscaler() -> None:
    def anything(handler: BaseHTTPRequestHandler) -> None:
        respond(200, ["your key is " + KEY])(handler)

    refused = pytest.raises(RouteRefused, match="which is no route")
    with ScriptedWorker(anything) as other, Client(other.url, KEY, "x") as client, refused as caught:
        client.route(1.0)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:8081", "ftp://localhost", "http://"])
def test_a_url_that_cannot_be_called(url: str) -> None:
    with Client(url, KEY, "x", timeout=1) as client, pytest.raises(ClientError, match="URL"):
        client.route(1.0)


STREAMS: list[tuple[Script, list[str]]] = [
    (chunks(b'data: {"a": 1}\n\ndata:two\r\n\r\n', b"data: [DONE]\n\n"), ['{"a": 1}', "two"]),
    (chunks(b": keep-alive\nevent: x\nid: 1\nda", b"ta: spl", b"it\n\n"), ["split"]),
    (chunks(b'{"token": 1}\n{"token"', b": 2}\n{}"), ['{"token": 1}', '{"token": 2}', "{}"]),
    (chunks("data: é".encode()[:-1], "é\n\n".encode()[1:]), ["é"]),
    (plain(b"data: 1\n\ndata: 2", 16), ["1", "2"]),
    (plain(b"data: 1\n\n"), ["1"]),
    (chunks(), []),
]


@pytest.mark.parametrize(("script", "expected"), STREAMS)
def test_streams(autoscaler: Autoscaler, script: Script, expected: list[str]) -> None:
    with ScriptedWorker(script) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        assert list(client.stream("/generate_stream", {}, 1.0)) == expected


def test_stream_items_arrive_one_by_one(autoscaler: Autoscaler) -> None:
    gate = threading.Event()
    script = chunks(b"data: 1\n\n", b"data: 2\n\n", gate=gate)
    with ScriptedWorker(script) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        items = client.stream("/generate_stream", {}, 1.0)
        assert next(items) == "1"
        gate.set()
        assert list(items) == ["2"]


@pytest.mark.parametrize("script", [chunks(b"data: 1\n\n", end=False), plain(b"data: 1\n\n", 100)])
def test_a_stream_cut_short(autoscaler: Autoscaler, script: Script) -> None:
    with ScriptedWorker(script) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        items = client.stream("/generate_stream", {}, 1.0)
        assert next(items) == "1"
        with pytest.raises(StreamBroken, match="broke off"):
            next(items)


def test_a_stream_that_is_refused(autoscaler: Autoscaler) -> None:
    script = [respond(503), respond(422, {"error": "prompt is missing"})]
    with ScriptedWorker(*script) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        with pytest.raises(WorkerAnswerError, match=r"422.*prompt is missing") as caught:
            list(client.stream("/generate_stream", {}, 1.0))
    assert caught.value.status == 422
    assert worker.indices() == [1, 1]


EXAMPLE = (sys.executable, "-m", "workers.hello_world.client", "-k", KEY, "-e", "hello_world", "--autoscaler")


def test_the_example_client_ends_quietly_once_nobody_reads_its_stream(autoscaler: Autoscaler) -> None:
    gate = threading.Event()
    script = chunks(b'data: {"token": "first "}\n\n', b'data: {"token": "second"}\n\n', gate=gate)
    with ScriptedWorker(script) as worker:
        announce(autoscaler, worker.url)
        command = [*EXAMPLE, autoscaler.url, "--stream"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
            assert client.stdout is not None
            assert client.stdout.read(6) == b"first "
            client.stdout.close()
            gate.set()
            assert client.stderr is not None
            assert b"BrokenPipe" not in client.stderr.read()
            assert client.wait(DEADLINE) == 141


def test_the_example_client_ends_quietly_where_nobody_reads_its_answer(autoscaler: Autoscaler) -> None:
    reader, output = os.pipe()
    os.close(reader)
    with ScriptedWorker(respond(200, {"text": "a story"})) as worker, os.fdopen(output, "wb") as pipe:
        announce(autoscaler, worker.url)
        command = [*EXAMPLE, autoscaler.url]
        client = subprocess.run(
            command, cwd=ROOT, stdout=pipe, stderr=subprocess.PIPE, timeout=DEADLINE, check=False
        )
    assert b"BrokenPipe" not in client.stderr
    assert client.returncode == 141


def test_closing_ends_waiting_calls(autoscaler: Autoscaler) -> None:
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            client.route(1.0)
        except ClientError as error:
            failures.append(error)

    with client_of(autoscaler) as client:
        hold = autoscaler.faults.hang("/route/")
        asking = threading.Thread(target=ask)
        asking.start()
        assert hold.arrived.wait(DEADLINE)
        client.close()
        hold.release()
        asking.join(DEADLINE)
    assert [type(failure) for failure in failures] == [ClientClosed]
    assert repr(client).endswith("[closed]>")


def test_threads_share_a_client(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(*[respond(200, {})] * 80) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        threads = [
            threading.Thread(target=lambda: [client.call("/generate", {}, 1.0) for _ in range(10)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert sorted(cast("list[int]", worker.indices())) == list(range(1, 81))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_senseless_timeout(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Client("http://x", KEY, "x", timeout=timeout)


# -- retries and traces ----------------------------------------------------------------------------------


def test_without_retries_the_first_refusal_is_the_answer(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(respond(429)) as worker, client_of(autoscaler, retries=0) as client:
        announce(autoscaler, worker.url)
        assert client.call("/generate", {}, 1.0).status_code == 429
    assert len(worker.requests) == 1


def test_as_many_retries_as_told(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(hang_up, respond(503), hang_up) as worker:
        announce(autoscaler, worker.url)
        cut = pytest.raises(WorkerUnavailable)
        with client_of(autoscaler, retries=2) as client, cut:
            client.call("/generate", {}, 1.0)
    assert worker.indices() == [1, 1, 1]


def test_a_trace_tells_what_a_call_went_through(autoscaler: Autoscaler) -> None:
    trace = Trace()
    begin = time.monotonic()
    with ScriptedWorker(respond(503, Retry_After="0.3"), respond(200, "12")) as worker:
        announce(autoscaler, worker.url)
        with client_of(autoscaler) as client:
            client.call("/generate", {}, 1.0, trace=trace)
    assert (trace.worker, trace.status, trace.attempts, trace.received) == (worker.url, 200, 2, 4)
    assert trace.routing > 0
    assert trace.waiting >= 0.3
    assert trace.first_byte_at is not None
    assert begin < trace.sent_at < trace.first_byte_at < time.monotonic()


def test_the_body_of_a_whole_answer_that_is_cut(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(plain(b"12", 100)) as worker, client_of(autoscaler, retries=0) as client:
        announce(autoscaler, worker.url)
        with pytest.raises(StreamBroken, match="broke off"):
            client.call("/generate", {}, 1.0)


def test_a_stream_that_falls_silent(autoscaler: Autoscaler) -> None:
    gate = threading.Event()
    script = chunks(b"data: 1\n\n", b"data: 2\n\n", gate=gate)
    with ScriptedWorker(script) as worker, client_of(autoscaler, timeout=0.3) as client:
        announce(autoscaler, worker.url)
        items = client.stream("/generate_stream", {}, 1.0)
        assert next(items) == "1"
        with pytest.raises(WorkerTimeout, match="stalled"):
            next(items)
        gate.set()


# -- one worker ------------------------------------------------------------------------------------------


def test_one_worker_without_an_autoscaler() -> None:
    with ScriptedWorker(*[respond(200, {})] * 2) as worker, Client.of_worker(worker.url) as client:
        client.call("/generate", {}, 3.0)
        client.call("/generate", {}, 3.0)
    assert worker.indices() == [1, 2]


def test_one_worker_with_what_the_autoscaler_gave() -> None:
    given = {"url": "https://public:1", "signature": "s", "request_idx": 7, "reqnum": 1, "cost": 1.0}
    with ScriptedWorker(*[respond(200, {})] * 2) as worker, Client.of_worker(worker.url, given) as client:
        client.call("/generate", {}, 3.0)
        client.call("/generate", {}, 3.0)
    assert [request["auth_data"] for request in worker.requests] == [given, given]


# -- sessions --------------------------------------------------------------------------------------------


@pytest.fixture
def real_worker(tmp_path: Path, scripted_model: ScriptedServer) -> Iterator[InProcessWorker]:
    with InProcessWorker(tmp_path, scripted_model.url, "http://127.0.0.1:9") as running:
        yield running


def test_a_session_with_a_real_worker(real_worker: InProcessWorker, scripted_model: ScriptedServer) -> None:
    with Client.of_worker(real_worker.url) as client:
        with client.session(
            lifetime=30, cost=5.0, on_close_route="/over", on_close_payload={"why": "left"}
        ) as session:
            assert session.is_open()
            assert session.call("/pass", {"prompt": "one"}).status_code == 200
            assert list(session.stream("/stream", {"prompt": "two"}))
            wait_until(lambda: real_worker.in_hand == 1, "the session alone in hand")
        assert not session.is_open()
        assert scripted_model.request("/over").json()["session_id"] == session.id
        session.end()  # once more is harmless
        with pytest.raises(SessionClosed, match="invalid session"):
            session.call("/pass", {"prompt": "late"})
        with pytest.raises(SessionClosed):
            list(session.stream("/stream", {"prompt": "late"}))


def test_a_session_ends_when_its_block_is_left_by_an_error(real_worker: InProcessWorker) -> None:
    with Client.of_worker(real_worker.url) as client:
        with pytest.raises(ZeroDivisionError), client.session() as session:
            _ = 1 / 0
        assert not session.is_open()


def test_senseless_terms_of_a_session(real_worker: InProcessWorker) -> None:
    refused = pytest.raises(WorkerAnswerError, match=r"422.*lifetime")
    with Client.of_worker(real_worker.url) as client, refused, client.session(lifetime=-1):
        pytest.fail("there is no such session")


def test_a_session_stays_with_its_worker(autoscaler: Autoscaler) -> None:
    script = [
        respond(201, {"session_id": "s1"}),
        respond(503),
        respond(200, {}),
        respond(200, {"ended": True}),
    ]
    with ScriptedWorker(*script) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        with client.session(lifetime=9) as session:
            assert session.call("/generate", {}).status_code == 200
        routed = autoscaler.fleet.requests_seen
    assert worker.paths == ["/session/create", "/generate", "/generate", "/session/end"]
    assert [request.get("session_id") for request in worker.requests] == [None, "s1", "s1", "s1"]
    assert worker.requests[1]["auth_data"] == worker.requests[0]["auth_data"]
    assert routed == 1


def test_a_session_whose_worker_has_gone(autoscaler: Autoscaler) -> None:
    with ScriptedWorker(respond(201, {"session_id": "s1"})) as worker, client_of(autoscaler) as client:
        announce(autoscaler, worker.url)
        with client.session() as session:
            worker.script.extend([hang_up, hang_up])
            with pytest.raises(WorkerUnavailable):
                session.is_open()
        # Leaving it did not raise.


# -- the deadline of a whole call ------------------------------------------------------------------------

#: What a worker or an autoscaler may do with a client's time, byte by byte.
SLOW = {**DRIPS, "error body": b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200}


# A stream may take as long as it likes, but not be silent.
@pytest.mark.parametrize(
    ("kind", "streamed"),
    [*((kind, False) for kind in SLOW), *((kind, True) for kind in SLOW if kind != "body")],
)
def test_a_worker_that_drips_costs_no_more_than_the_timeout(kind: str, streamed: bool) -> None:
    with Dripping(SLOW[kind]) as worker, Client.of_worker(worker.url, timeout=2) as client:
        began = time.monotonic()
        with pytest.raises(ClientError):
            _ = list(client.stream("/x", {}, 1)) if streamed else client.call("/x", {}, 1)
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("kind", SLOW)
def test_an_autoscaler_that_drips_costs_no_more_than_the_timeout(kind: str) -> None:
    with Dripping(SLOW[kind]) as autoscaler, Client(autoscaler.url, KEY, "x", timeout=2) as client:
        began = time.monotonic()
        with pytest.raises(ClientError):
            client.call("/x", {}, 1)
        assert time.monotonic() - began < 4


def test_routing_retries_and_the_body_share_one_timeout(autoscaler: Autoscaler) -> None:
    """Each takes its part: a slow route, two refusals, a response that drips."""

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(100):
            if done.wait(0.2):
                return
            with contextlib.suppress(OSError):
                handler.wfile.write(b"x")
                handler.wfile.flush()

    done = threading.Event()
    with ScriptedWorker(respond(503), respond(429), slow) as worker:
        announce(autoscaler, worker.url)
        with client_of(autoscaler, timeout=3) as client:
            began = time.monotonic()
            with pytest.raises(ClientError):
                client.call("/x", {}, 1)
            took = time.monotonic() - began
        done.set()
    assert took < 4.5


def test_a_stream_may_take_longer_than_the_timeout_if_it_is_never_silent() -> None:
    def stream(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        for number in range(8):
            handler.wfile.write(b"data: %d\n\n" % number)
            handler.wfile.flush()
            threading.Event().wait(0.3)

    with ScriptedWorker(stream) as worker, Client.of_worker(worker.url, timeout=1) as client:
        assert list(client.stream("/x", {}, 1)) == [str(number) for number in range(8)]


def test_the_end_of_a_session_takes_no_longer_than_the_timeout() -> None:
    def silent(_handler: BaseHTTPRequestHandler) -> None:
        done.wait(DEADLINE)

    done = threading.Event()
    with (
        ScriptedWorker(respond(201, {"session_id": "s"}), silent) as worker,
        Client.of_worker(worker.url, timeout=1) as client,
    ):
        began = time.monotonic()
        with client.session():
            pass
        assert time.monotonic() - began < 3
        done.set()


def test_what_an_autoscaler_answers_is_not_read_without_bound() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                handler.wfile.write(b" " * 65536)

    with (
        ScriptedWorker(endless) as server,
        Client(server.url, KEY, "x", timeout=5, retries=0) as client,
        pytest.raises(AutoscalerUnreachable),
    ):
        client.call("/x", {}, 1)
