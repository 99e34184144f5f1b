"""Calls of the model server, plain and over TLS: one path, with the same ends, timeouts and responses."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

from pyworker.errors import ConfigError, ModelTimeout, ModelUnreachable
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.client import ModelClient
from tests.support.model_calls import client_of, post
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.tls import TlsModel, tls_model
from tests.support.waiting import DEADLINE, wait_until

CHUNKED = "Transfer-Encoding: chunked"
#: More than both ends of a loopback connection hold.
LARGE = 20_000_000


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> TlsModel:
    return tls_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest, certified: TlsModel) -> TlsModel | None:
    return certified if request.param == "tls" else None


@pytest.fixture
def model(tls: TlsModel | None) -> Iterator[ScriptedServer]:
    with ScriptedServer(context=tls.context if tls else None) as running:
        yield running


# -- plain and TLS are alike -----------------------------------------------------------------------------


def test_connections_are_kept_and_bodies_have_a_length(model: ScriptedServer, tls: TlsModel | None) -> None:
    body = bytes(range(256)) * 4000
    model.script("/answer", whole(body))
    model.script("/chunks", head(CHUNKED), *[chunk(body[:70_000])] * 5, chunk(b""))
    with client_of(model, tls) as client:
        for payload in ("x", "x" * 1_000_000):
            assert post(client, "/answer", payload) == body
            assert post(client, "/chunks", payload) == body[:70_000] * 5
    for request in model.requests():
        assert request.header("Transfer-Encoding") is None
        assert request.header("Content-Length") == str(len(request.body))
        assert request.json() in ("x", "x" * 1_000_000)
    assert model.accepted == 1


def test_an_abort_ends_the_call_at_once(model: ScriptedServer, tls: TlsModel | None) -> None:
    model.script("/head", Act.HANG)
    model.script("/body", head(CHUNKED), chunk(b"one"), Act.HANG)
    model.script("/end", head(), b"one", Act.HANG)
    with client_of(model, tls, timeout=None) as client, ThreadPoolExecutor(1) as pool:
        for path in ("/head", "/body", "/end"):
            call = ModelCall()
            waiting = pool.submit(post, client, path, None, call)
            request = model.request(path)
            started = time.monotonic()
            call.abort()
            # Also if the end of the connection could be the end of the response.
            assert isinstance(waiting.exception(DEADLINE), Aborted), path
            assert request.gone.wait(DEADLINE)
            assert time.monotonic() - started < 2
        assert post(client, "/next")


def test_silence_is_a_timeout(model: ScriptedServer, tls: TlsModel | None) -> None:
    model.script("/answer", Act.HANG)
    with client_of(model, tls, timeout=0.3) as client, pytest.raises(ModelTimeout, match="in time"):
        post(client)


# -- a body on its way -----------------------------------------------------------------------------------


def test_a_refusal_that_arrives_while_the_body_is_sent_is_the_response(
    model: ScriptedServer, tls: TlsModel | None
) -> None:
    """The model server reads no more, so that nothing else than to look would find it."""
    refusal = whole(b"too large", status="413 Content Too Large")
    model.early("/holds", refusal, Act.HANG)
    model.early("/closes", refusal, Act.CLOSE)
    with client_of(model, tls) as client:
        for path in ("/holds", "/closes"):
            for kept in (False, True):
                if kept:
                    post(client, "/first")
                with client.post(path, "x" * LARGE, ModelCall()) as response:
                    assert (response.status_code, response.content) == (413, b"too large"), path
        assert post(client, "/next") == b'{"ok": true}'
    for path in ("/holds", "/closes"):
        assert len(model.requests(path)) == 2
    # Half a request is on it, so it is not used again.
    assert model.request("/next").connection not in [
        request.connection for path in ("/holds", "/closes") for request in model.requests(path)
    ]


def test_a_model_that_responds_early_and_reads_on_gets_the_rest(
    model: ScriptedServer, tls: TlsModel | None
) -> None:
    """An interim response, or one that is no refusal: the rest of the body is wanted."""
    gate = threading.Event()
    model.early("/interim", head(status="102 Processing") * 3, gate)
    gate.set()
    with client_of(model, tls) as client:
        with pytest.raises(ModelUnreachable):
            post(client, "/interim", "x" * LARGE)
        assert len(model.request("/interim").body) == LARGE + 2
    model.early("/echo", head("Content-Length: 4"))
    with client_of(model, tls) as client:
        with pytest.raises(Exception, match=r"broke|Broken|ended"):
            post(client, "/echo", "x" * LARGE)
        assert len(model.request("/echo").body) == LARGE + 2


def test_a_model_that_breaks_while_the_body_is_sent(model: ScriptedServer, tls: TlsModel | None) -> None:
    for act in (Act.CLOSE, Act.RESET):
        model.early("/answer", act)
        with client_of(model, tls) as client:
            post(client, "/first")
            with pytest.raises(ModelUnreachable, match=r"(closed|reset) the connection before its response"):
                post(client, "/answer", "x" * LARGE)
    assert len(model.requests("/answer")) == 2, "not repeated: a part of the body was taken"


class Slow:
    """A model server that reads a request in this many portions with pauses between them, then responds."""

    def __init__(self, portions: int, pause: float) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._portions, self._pause = portions, pause
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="slow")

    def __enter__(self) -> Slow:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ends.set()
        self._thread.join(DEADLINE)
        self._listener.close()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rb") as file, contextlib.suppress(OSError):
            length = 0
            while line := file.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split()[1])
            for _ in range(self._portions):
                self._ends.wait(self._pause)
                file.read(length // self._portions)
            file.read(length % self._portions)
            connection.sendall(whole(b"all of it"))


def test_a_body_may_take_longer_than_the_timeout_while_it_moves() -> None:
    with Slow(portions=10, pause=0.2) as slow, client_of(slow.url, timeout=1.0) as client:
        started = time.monotonic()
        assert post(client, payload="x" * LARGE) == b"all of it"
        assert time.monotonic() - started > 1.5


def test_a_body_that_does_not_move_is_a_timeout(model: ScriptedServer, tls: TlsModel | None) -> None:
    model.early("/answer", Act.HANG)
    with client_of(model, tls, timeout=0.5) as client, pytest.raises(ModelTimeout):
        post(client, payload="x" * LARGE)


# -- its address -----------------------------------------------------------------------------------------


def test_a_certificate_that_is_not_trusted_is_named(certified: TlsModel, tmp_path: Path) -> None:
    with ScriptedServer(context=certified.context) as model:
        with client_of(model) as client, pytest.raises(ModelUnreachable, match="MODEL_CA_FILE"):
            post(client)
        # Trusted, but for another name.
        stranger = model.url.replace("127.0.0.1", "localhost")
        with (
            client_of(stranger, certified) as client,
            pytest.raises(ModelUnreachable, match=r"not trusted.*localhost"),
        ):
            post(client)
        assert model.requests() == []


def test_a_plain_model_server_behind_an_https_url_is_named(scripted_model: ScriptedServer) -> None:
    url = scripted_model.url.replace("http:", "https:")
    with (
        client_of(url, timeout=5) as client,
        pytest.raises(
            (ModelUnreachable, ModelTimeout), match=r"TLS|reset|closed|did not accept the connection"
        ),
    ):
        post(client)


def test_the_session_speaks_tls_too(certified: TlsModel) -> None:
    with ScriptedServer(context=certified.context) as model, client_of(model, certified) as client:
        assert client.session.get("/models", timeout=DEADLINE).json() == {"ok": True}
        # What the adapter that comes with requests does for it.
        assert client.session.post("/file", data=io.BytesIO(b"file"), timeout=DEADLINE).ok
        assert model.request("/file").body == b"file"
        assert client.connection_problem() == ""


class Marking(HTTPAdapter):
    """An adapter as an author might mount it: each request gets a header."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers["X-Marked"] = "yes"
        return super().send(request, *args, **kwargs)


def test_forwarded_requests_take_the_adapter_that_is_mounted_on_the_session(
    scripted_model: ScriptedServer,
) -> None:
    scripted_model.script("/away", head(f"Location: {scripted_model.url}/in", status="302 Found"), Act.CLOSE)
    with client_of(scripted_model) as client:
        assert post(client, "/first", "é") == b'{"ok": true}'
        client.session.get_adapter(scripted_model.url + "/").close()
        client.session.mount(scripted_model.url + "/", Marking())
        for _ in range(2):
            assert post(client, "/marked", "é" * 100) == b'{"ok": true}'
        with pytest.raises(ModelUnreachable, match="only this instance"):
            post(client, "/away")
    assert scripted_model.request("/first").header("X-Marked") is None
    for request in scripted_model.requests("/marked"):
        assert request.header("X-Marked") == "yes"
        assert request.header("Content-Length") == str(len(request.body))
        assert request.json() == "é" * 100
    assert scripted_model.requests("/in") == []


def test_ipv6() -> None:
    with ScriptedServer(host="::1") as model, client_of(model) as client:
        assert post(client) == b'{"ok": true}'
        assert model.request("/answer").header("Host") == f"[::1]:{model.port}"
        assert client.connection_problem() == ""


@pytest.mark.parametrize(
    "url", ["unix:/run/model.sock", "http+unix://%2Frun%2Fmodel.sock", "model:5001", "http://"]
)
def test_what_cannot_be_called_is_refused_by_name(url: str) -> None:
    with pytest.raises(ConfigError, match="http:// or https://"):
        ModelClient(url, api_key="", timeout=None, pool_size=1)


def test_a_connection_that_nobody_takes_can_be_aborted() -> None:
    """Its queue is full, as that of a model server that hangs."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with contextlib.ExitStack() as closing, ThreadPoolExecutor(1) as pool:
            for _ in range(4):
                filling = closing.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(address)
            client = closing.enter_context(client_of(f"http://127.0.0.1:{address[1]}", timeout=None))
            call = ModelCall()
            waiting = pool.submit(client.post, "/answer", None, call)
            wait_until(lambda: "on a connection" in repr(call), "the attempt to connect")
            started = time.monotonic()
            call.abort()
            assert isinstance(waiting.exception(DEADLINE), Aborted)
            assert time.monotonic() - started < 2
