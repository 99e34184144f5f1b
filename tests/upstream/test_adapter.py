"""The model server's adapter beside the one that comes with requests: the same responses, the same errors."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import pickle
import socket
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import requests
from requests.adapters import HTTPAdapter

from pyworker.errors import ModelUnreachable
from pyworker.upstream.adapter import ModelAdapter
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.connection import Connection
from pyworker.upstream.origin import Origin
from tests.support.dripping import Dripping
from tests.support.model_calls import client_of, post
from tests.support.scripted import Act, ScriptedServer, Step, Tell, chunk, head, whole
from tests.support.waiting import DEADLINE, wait_event, wait_until

CHUNKED = "Transfer-Encoding: chunked"
LARGE = bytes(range(256)) * 8192  # 2 MiB


@contextmanager
def session_with(url: str, adapter: HTTPAdapter) -> Generator[requests.Session, None, None]:
    """A plain session whose requests to `url` go through `adapter`."""
    with requests.Session() as session:
        session.trust_env = False
        session.mount(url + "/", adapter)
        yield session


@dataclass(frozen=True)
class Seen:
    """What a caller of requests sees of one exchange."""

    status: int
    reason: str
    headers: dict[str, str]
    content: bytes
    cookies: dict[str, str]


Outcome = Seen | str


def outcome(session: requests.Session, method: str, url: str, timeout: float = DEADLINE) -> Outcome:
    """The response, or the name of the family of exceptions."""
    try:
        response = session.request(method, url, timeout=timeout, allow_redirects=False)
    except requests.exceptions.ChunkedEncodingError:
        return "broken body"
    except requests.exceptions.Timeout:
        return "timeout"
    except requests.exceptions.ConnectionError:
        return "connection"
    return Seen(
        response.status_code,
        response.reason,
        {name.lower(): value for name, value in response.headers.items()},
        response.content,
        dict(response.cookies.items()),
    )


#: name -> what the model server sends. All of it must look the same through both adapters.
RESPONSES: dict[str, list[Step]] = {
    "length": [whole(b"body", "Content-Type: text/plain")],
    "length 0": [whole(b"")],
    "chunked": [head(CHUNKED), chunk(b"one"), chunk(b"two"), chunk(b"")],
    "chunked, empty": [head(CHUNKED), chunk(b"")],
    "chunked, extensions": [head(CHUNKED), b"3;name=value\r\none\r\n3 ; x\r\ntwo\r\n0;last\r\n\r\n"],
    "chunked, trailers": [head(CHUNKED, "Trailer: X-Sum"), chunk(b"one"), b"0\r\nX-Sum: 7\r\nX-B: c\r\n\r\n"],
    "chunked, upper case": [head(CHUNKED), b"A\r\n0123456789\r\n00\r\n\r\n"],
    "chunked, capital letters": [head("TRANSFER-ENCODING: Chunked"), chunk(b"one"), chunk(b"")],
    "closed by the end": [head(), b"until ", b"the end", Act.CLOSE],
    "closed, empty": [head(), Act.CLOSE],
    "Connection: close and a length": [whole(b"body", "Connection: close"), Act.CLOSE],
    "204": [head(status="204 No Content")],
    "304": [head("ETag: x", status="304 Not Modified")],
    "304 with a length": [head("Content-Length: 100", status="304 Not Modified")],
    "100 before": [head(status="100 Continue"), whole(b"body")],
    "several 100": [head(status="100 Continue") * 3, whole(b"body")],
    "HTTP/1.0, close": [head(version="HTTP/1.0"), b"old", Act.CLOSE],
    "HTTP/1.0, keep-alive": [
        head("Connection: keep-alive", "Content-Length: 3", version="HTTP/1.0"),
        b"old",
    ],
    "HTTP/1.0, length without keep-alive": [
        head("Content-Length: 3", version="HTTP/1.0"),
        b"old",
        Act.CLOSE,
    ],
    "gzip": [whole(gzip.compress(b"packed" * 100), "Content-Encoding: gzip")],
    "gzip, chunked": [
        head(CHUNKED, "Content-Encoding: gzip"),
        *(chunk(bytes([byte])) for byte in gzip.compress(b"packed" * 10)),
        chunk(b""),
    ],
    "many headers": [whole(b"body", *(f"X-Header-{number}: value {number}" for number in range(90)))],
    "long header": [whole(b"body", f"X-Long: {'x' * 60_000}")],
    "empty header": [whole(b"body", "X-Empty:")],
    "spaces in a header": [whole(b"body", "X-Spaces:   in   the middle   ")],
    "folded header": [whole(b"body", "X-Folded: one", "  two")],
    "latin-1 header": [whole(b"body", "X-Latin: caf\xe9")],
    "two cookies": [whole(b"body", "Set-Cookie: a=1; Path=/", "Set-Cookie: b=2; Path=/")],
    "two of the same name": [whole(b"body", "X-Twice: one", "X-Twice: two")],
    "no reason": [b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"],
    "strange reason": [whole(b"body", status="299 Not In Any Book!")],
    "bare line feeds": [b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"],
    "redirect": [head("Location: /elsewhere", "Content-Length: 0", status="302 Found")],
    "server error": [whole(b"broken", status="500 Internal Server Error")],
    "large, length": [head(f"Content-Length: {len(LARGE)}"), LARGE],
    "large, chunked": [
        head(CHUNKED),
        *(chunk(LARGE[i : i + 9999]) for i in range(0, 10**6, 9999)),
        chunk(b""),
    ],
    "large, closed": [head(), LARGE, Act.CLOSE],
    "pieces": [*(bytes([byte]) for byte in whole(b"in pieces", "X-Any: thing"))],
    "length with blanks": [b"HTTP/1.1 200 OK\r\nContent-Length:  4 \t\r\n\r\nbody"],
    "length twice in one": [head("Content-Length: 4, 4"), b"body", Act.CLOSE],
    "chunked, 16 digits": [head(CHUNKED), b"0000000000000003\r\none\r\n0000000000000000\r\n\r\n"],
    "chunked, more digits": [head(CHUNKED), b"%030x\r\none\r\n0\r\n\r\n" % 3],
    # and what breaks
    "chunked, cut between": [head(CHUNKED), chunk(b"one"), Act.CLOSE],
    "chunked, cut within": [head(CHUNKED), b"10\r\nshort", Act.CLOSE],
    "chunked, bad size": [head(CHUNKED), b"zz\r\nbody\r\n", Act.CLOSE],
    "chunked, reset": [head(CHUNKED), chunk(b"one"), Act.RESET],
    "short of its length": [head("Content-Length: 10"), b"short", Act.CLOSE],
    "reset before the head": [Act.RESET],
    "closed before the head": [Act.CLOSE],
    "reset in the head": [b"HTTP/1.1 200 OK\r\nContent-Le", Act.RESET],
    "reset in the body": [head("Content-Length: 10"), b"short", Act.RESET],
    "garbage": [b"SMTP ready\r\n\r\n", Act.CLOSE],
    "garbage status": [b"HTTP/1.1 abc OK\r\n\r\n", Act.CLOSE],
    "endless status line": [b"HTTP/1.1 200 " + b"x" * 70_000 + b"\r\n\r\n", Act.CLOSE],
    "endless header line": [whole(b"body", f"X-Long: {'x' * 70_000}"), Act.CLOSE],
    "too many headers": [whole(b"body", *(f"X-{number}: v" for number in range(200))), Act.CLOSE],
    "silence": [Act.HANG],
    "silence in the head": [b"HTTP/1.1 200 OK\r\n", Act.HANG],
}


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("case", RESPONSES)
def test_both_adapters_see_the_same(scripted_model: ScriptedServer, case: str, method: str) -> None:
    timeout = 0.2 if case.startswith("silence") else DEADLINE
    scripted_model.script("/answer", *RESPONSES[case])
    url = scripted_model.url
    with session_with(url, HTTPAdapter(max_retries=0)) as theirs:
        expected = outcome(theirs, method, url + "/answer", timeout)
    with session_with(url, ModelAdapter(url)) as ours:
        assert outcome(ours, method, url + "/answer", timeout) == expected
        # Whatever it was, the next response is the next response. A server that is about to close may receive
        # the request and not execute it; nobody could tell, so it would be an error. Hence the wait.
        if RESPONSES[case][-1] in (Act.CLOSE, Act.RESET):
            wait_until(lambda: scripted_model.open_connections == 0, "the server's end")
        scripted_model.script("/answer", whole(b"the next"))
        following = outcome(ours, method, url + "/answer")
        assert isinstance(following, Seen)
        assert (following.status, following.content) == (200, b"the next")


@pytest.mark.parametrize("case", ["length", "chunked", "204", "gzip"])
def test_a_head_request_has_no_body(scripted_model: ScriptedServer, case: str) -> None:
    first = RESPONSES[case][0]
    assert isinstance(first, bytes)
    scripted_model.script("/answer", first.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    url = scripted_model.url
    with session_with(url, HTTPAdapter(max_retries=0)) as theirs:
        expected = outcome(theirs, "HEAD", url + "/answer")
    with session_with(url, ModelAdapter(url)) as ours:
        assert outcome(ours, "HEAD", url + "/answer") == expected
        assert outcome(ours, "HEAD", url + "/answer") == expected
    assert scripted_model.accepted == 2


@pytest.mark.parametrize("interim", ["102 Processing", "103 Early Hints"])
def test_interim_responses_are_skipped(scripted_model: ScriptedServer, interim: str) -> None:
    """requests takes 102 and 103 for the response itself, so here nothing can be compared."""
    scripted_model.script("/answer", head("Link: </style.css>", status=interim) * 2, whole(b"body", "X-A: b"))
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        for _ in range(2):
            seen = outcome(session, "POST", url + "/answer")
            assert isinstance(seen, Seen)
            assert (seen.status, seen.content, seen.headers.get("x-a")) == (200, b"body", "b")
            assert "link" not in seen.headers
    assert scripted_model.accepted == 1


def test_any_number_of_interim_responses_is_skipped(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", *[head(status="102 Processing") * 100] * 100, whole(b"body"))
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        seen = outcome(session, "POST", url + "/answer")
        assert isinstance(seen, Seen)
        assert (seen.status, seen.content) == (200, b"body")


@pytest.mark.parametrize("sent", [head(status="102 Processing"), b"HTTP/1.1 200 OK\r\nX-Drip: 1"])
def test_signs_of_life_do_not_put_off_the_timeout(sent: bytes) -> None:
    """One deadline for all header blocks, not for each of them or each part of one."""
    drip = sent if sent.endswith(b"\r\n\r\n") else b"\r\nX-Drip: 1"
    with (
        Dripping(sent + drip * 100, piece=len(drip), pause=0.1) as model,
        session_with(model.url, ModelAdapter(model.url)) as session,
    ):
        started = time.monotonic()
        assert outcome(session, "POST", model.url + "/answer", timeout=0.5) == "timeout"
        assert 0.5 <= time.monotonic() - started < 5


@pytest.mark.parametrize(
    "cut", [b"HTTP/1.1 20", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Len"]
)
def test_a_header_block_that_breaks_off_is_no_response(scripted_model: ScriptedServer, cut: bytes) -> None:
    """requests takes some of these for whole responses with an empty body."""
    scripted_model.script("/answer", cut, Act.CLOSE)
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        assert outcome(session, "POST", url + "/answer") == "connection"
    assert len(scripted_model.requests()) == 1


# -- connections -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["length", "length 0", "chunked", "chunked, trailers", "204", "large, length"]
)
def test_a_connection_is_reused_after_a_whole_response(scripted_model: ScriptedServer, case: str) -> None:
    scripted_model.script("/answer", *RESPONSES[case])
    with client_of(scripted_model) as client:
        first = post(client)
        assert [post(client) for _ in range(4)] == [first] * 4
    assert {request.connection for request in scripted_model.requests()} == {1}


@pytest.mark.parametrize(
    "case", ["Connection: close and a length", "closed by the end", "HTTP/1.0, length without keep-alive"]
)
def test_a_connection_is_not_reused_after_the_server_closes_it(
    scripted_model: ScriptedServer, case: str
) -> None:
    scripted_model.script("/answer", *RESPONSES[case])
    with client_of(scripted_model) as client:
        post(client)
        post(client)
    assert [request.connection for request in scripted_model.requests()] == [1, 2]


def test_the_connection_used_last_is_reused_first(scripted_model: ScriptedServer) -> None:
    gates = {name: threading.Event() for name in ("/a", "/b", "/c")}
    for name, gate in gates.items():
        scripted_model.script(name, gate, whole(name.encode()))
    with client_of(scripted_model) as client, ThreadPoolExecutor(3) as pool:
        calls: dict[str, Future[bytes]] = {}
        for name in gates:
            calls[name] = pool.submit(post, client, name)
            scripted_model.request(name)
        for name in ("/b", "/c", "/a"):
            gates[name].set()
            assert calls[name].result(DEADLINE) == name.encode()
        numbers = {name: scripted_model.request(name).connection for name in gates}
        for _ in range(3):
            post(client, "/again")
    again = {request.connection for request in scripted_model.requests("/again")}
    assert again == {numbers["/a"]}


def test_idle_connections_are_bounded(scripted_model: ScriptedServer) -> None:
    gate = threading.Event()
    scripted_model.script("/answer", gate, whole(b"body"))
    with client_of(scripted_model, pool_size=2) as client, ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(post, client) for _ in range(6)]
        scripted_model.request("/answer", 6)
        gate.set()
        assert [call.result(DEADLINE) for call in calls] == [b"body"] * 6
        scripted_model.wait_for(lambda: scripted_model.open_connections == 2, "two connections kept")
    scripted_model.wait_for(lambda: scripted_model.open_connections == 0, "none after close")


@pytest.mark.parametrize(
    "extra",
    [whole(b"a response that nobody asked for"), b"x", b"\r\n"],
    ids=["response", "byte", "line"],
)
@pytest.mark.parametrize("framing", ["length", "chunked", "204"])
def test_bytes_left_over_drop_the_connection(
    scripted_model: ScriptedServer, framing: str, extra: bytes
) -> None:
    first = {
        "length": whole(b"body"),
        "chunked": head(CHUNKED) + chunk(b"body") + chunk(b""),
        "204": head(status="204 No Content"),
    }[framing]
    scripted_model.once("/answer", first + extra)
    scripted_model.script("/answer", whole(b"the right one"))
    with client_of(scripted_model) as client:
        assert post(client) == (b"" if framing == "204" else b"body")
        assert post(client) == b"the right one"
    assert [request.connection for request in scripted_model.requests()] == [1, 2]


def test_bytes_that_come_later_drop_the_connection(scripted_model: ScriptedServer) -> None:
    gate, sent = threading.Event(), threading.Event()
    scripted_model.once("/answer", whole(b"body"), gate, whole(b"nobody asked"), Tell(sent))
    scripted_model.script("/answer", whole(b"the right one"))
    with client_of(scripted_model) as client:
        assert post(client) == b"body"
        gate.set()
        wait_event(sent, "the unsolicited bytes")
        assert post(client) == b"the right one"
    assert [request.connection for request in scripted_model.requests()] == [1, 2]


def test_a_response_that_is_looked_at_late_is_one_of_requests(scripted_model: ScriptedServer) -> None:
    scripted_model.script(
        "/answer", whole(b'{"a": [1]}', "Set-Cookie: b=c", "Content-Type: application/json")
    )
    with client_of(scripted_model) as client:
        response = client.post("/answer", {"x": 1}, ModelCall())
        response.reason = "set by a handler"
        assert response.ok
        assert response.json() == {"a": [1]}
        assert response.headers["content-TYPE"] == "application/json"
        assert dict(response.cookies.items()) == {"b": "c"}
        assert response.url == response.request.url == scripted_model.url + "/answer"
        assert response.reason == "set by a handler"
        assert response.encoding == "utf-8"
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            getattr(response, "nonsense")  # noqa: B009
        copied = pickle.loads(pickle.dumps(response))
        assert (copied.status_code, copied.content) == (200, response.content)


def test_a_response_that_nobody_looks_at_is_closed(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", head("Content-Length: 10"), b"half", Act.HANG)
    with client_of(scripted_model) as client:
        client.post("/answer", None, ModelCall()).close()
        assert scripted_model.request("/answer").gone.wait(DEADLINE)


def test_a_response_that_is_not_read_drops_its_connection(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", head(f"Content-Length: {len(LARGE) + 1}"), LARGE, Act.HANG)
    scripted_model.script("/small", whole(b"small"))
    with client_of(scripted_model) as client:
        with client.post("/answer", None, ModelCall()) as response:
            assert response.raw.read(10) == LARGE[:10]
        assert scripted_model.request("/answer").gone.wait(DEADLINE)
        assert post(client, "/small") == b"small"
    assert [request.connection for request in scripted_model.requests()] == [1, 2]


# -- a kept connection that the server has closed --------------------------------------------------------


def test_a_connection_closed_while_idle_costs_nothing(scripted_model: ScriptedServer) -> None:
    scripted_model.once("/answer", whole(b"first"), Act.CLOSE)  # without a word of warning
    scripted_model.script("/answer", whole(b"second"))
    with client_of(scripted_model) as client:
        assert post(client) == b"first"
        scripted_model.wait_for(lambda: scripted_model.open_connections == 0, "the server's close")
        assert post(client) == b"second"
    assert len(scripted_model.requests()) == 2


@pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET], ids=["close", "reset"])
@pytest.mark.parametrize("size", [10, 200_000])
def test_what_the_model_has_read_is_not_sent_again(
    scripted_model: ScriptedServer, act: Act, size: int
) -> None:
    """It may have worked on it. Eight idle connections are no reason to try eight times."""
    gate = threading.Event()
    scripted_model.script("/first", gate, whole(b"first"))
    with client_of(scripted_model) as client, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(post, client, "/first") for _ in range(8)]
        scripted_model.request("/first", 8)
        gate.set()
        assert [call.result(DEADLINE) for call in calls] == [b"first"] * 8
        scripted_model.script("/answer", act)
        with pytest.raises(ModelUnreachable, match=r"(closed|reset) the connection before its response"):
            post(client, "/answer", "x" * size)
    assert len(scripted_model.requests("/answer")) == 1


class Late(ModelCall):
    """A call on a connection that the model server closes after the last look at it, before it is used."""

    def __init__(self, model: ScriptedServer, closing: threading.Event) -> None:
        super().__init__()
        self._model = model
        self._closing = closing

    def attach(self, connection: socket.socket | None) -> None:
        super().attach(connection)
        if not self._closing.is_set():
            self._closing.set()
            self._model.wait_for(lambda: self._model.open_connections == 0, "the model server's closes")


@pytest.mark.parametrize("size", [10, 200_000, 8_000_000])
def test_what_reaches_a_connection_that_is_closed_goes_to_a_new_one(
    scripted_model: ScriptedServer, size: int
) -> None:
    gate, closing = threading.Event(), threading.Event()
    scripted_model.script("/first", gate, whole(b"first"), closing, Act.CLOSE)
    with client_of(scripted_model) as client, ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(post, client, "/first") for _ in range(3)]
        scripted_model.request("/first", 3)
        gate.set()
        assert [call.result(DEADLINE) for call in calls] == [b"first"] * 3
        scripted_model.script("/answer", whole(b"executed"))
        with client.post("/answer", "x" * size, Late(scripted_model, closing)) as response:
            assert response.content == b"executed"
    [request] = scripted_model.requests("/answer")
    # Not to one of the other idle ones, which are closed as well.
    assert (request.connection, len(request.body)) == (4, size + 2)


def test_what_a_half_closed_connection_takes_is_not_sent_again() -> None:
    """A model server that has ended its own side may read on: its kernel has not refused the request."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        call = ModelCall()
        connection = Connection(Origin(f"http://127.0.0.1:{listener.getsockname()[1]}"), call)
        far, _ = listener.accept()
        with far, contextlib.closing(connection):
            far.sendall(whole(b"first"))
            assert connection.exchange("POST", b"POST / HTTP/1.1\r\n\r\n", b"", 5, call).read() == b"first"
            connection.reused = True
            far.shutdown(socket.SHUT_WR)
            with pytest.raises(http.client.RemoteDisconnected):
                connection.exchange("POST", b"POST / HTTP/1.1\r\n\r\n", b"", 5, call)


@pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET], ids=["close", "reset"])
def test_nothing_is_sent_twice_that_was_read(scripted_model: ScriptedServer, act: Act) -> None:
    scripted_model.script("/answer", act)
    with client_of(scripted_model) as client:
        with pytest.raises(Exception, match=r"(closed|reset) the connection before its response"):
            post(client)
        assert len(scripted_model.requests("/answer")) == 1
        post(client, "/first")
        with pytest.raises(Exception, match=r"(closed|reset) the connection before its response"):
            post(client)
    assert len(scripted_model.requests("/answer")) == 2


@pytest.mark.parametrize(
    "said", [b"H", b"HTTP/1.1 200 OK\r\n", head(status="100 Continue"), head("Content-Length: 9") + b"x"]
)
@pytest.mark.parametrize("act", [Act.CLOSE, Act.RESET], ids=["close", "reset"])
def test_nothing_is_retried_once_a_byte_came(scripted_model: ScriptedServer, said: bytes, act: Act) -> None:
    seen = threading.Event()
    with client_of(scripted_model) as client:
        post(client, "/first")
        scripted_model.script("/answer", said, seen, act)
        call = ModelCall()
        with ThreadPoolExecutor(1) as pool:
            doomed = pool.submit(post, client, "/answer", None, call)
            scripted_model.request("/answer")
            seen.set()
            with pytest.raises(Exception, match=r"brok|(closed|reset) the connection"):
                doomed.result(DEADLINE)
    assert [request.connection for request in scripted_model.requests()] == [1, 1]


def test_silence_on_a_reused_connection_is_a_timeout_and_not_retried(scripted_model: ScriptedServer) -> None:
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        session.post(url + "/first", timeout=DEADLINE)
        scripted_model.script("/answer", Act.HANG)
        with pytest.raises(requests.exceptions.ReadTimeout):
            session.post(url + "/answer", timeout=0.2)
    assert len(scripted_model.requests("/answer")) == 1


def test_silence_in_the_body_is_a_timeout(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", head("Content-Length: 10"), b"half", Act.HANG)
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        # As with requests' own adapter: a timeout within the body is a ConnectionError.
        with pytest.raises(requests.exceptions.ConnectionError, match="timed out"):
            session.get(url + "/answer", timeout=(DEADLINE, 0.2))
        assert scripted_model.request("/answer").gone.wait(DEADLINE)


def test_nobody_listens() -> None:
    with (
        ScriptedServer(listening=False) as model,
        session_with(model.url, ModelAdapter(model.url)) as session,
    ):
        assert outcome(session, "POST", model.url + "/answer") == "connection"


# -- aborting --------------------------------------------------------------------------------------------


def test_abort_before_the_call(scripted_model: ScriptedServer) -> None:
    with client_of(scripted_model) as client:
        call = ModelCall()
        call.abort()
        with pytest.raises(Aborted):
            client.post("/answer", None, call)
    assert scripted_model.requests() == []


@pytest.mark.parametrize("kept", [False, True], ids=["fresh", "reused"])
def test_abort_while_waiting_for_the_head(scripted_model: ScriptedServer, kept: bool) -> None:
    scripted_model.script("/answer", Act.HANG)
    with client_of(scripted_model, timeout=None) as client, ThreadPoolExecutor(1) as pool:
        if kept:
            post(client, "/first")
        call = ModelCall()
        waiting = pool.submit(client.post, "/answer", None, call)
        request = scripted_model.request("/answer")
        started = time.monotonic()
        call.abort()
        assert isinstance(waiting.exception(DEADLINE), Aborted)
        assert request.gone.wait(DEADLINE)
        assert time.monotonic() - started < 1
        assert post(client, "/next")
    assert len(scripted_model.requests("/answer")) == 1


def test_abort_in_the_middle_of_the_body(scripted_model: ScriptedServer) -> None:
    scripted_model.script("/answer", head(CHUNKED), chunk(b"one"), Act.HANG)
    with client_of(scripted_model, timeout=None) as client, ThreadPoolExecutor(1) as pool:
        call = ModelCall()
        response = client.post("/answer", None, call)
        with response:
            assert response.raw.read1(100) == b"one"
            waiting = pool.submit(response.raw.read1, 100)
            started = time.monotonic()
            call.abort()
            assert waiting.exception(DEADLINE) is not None
            assert scripted_model.request("/answer").gone.wait(DEADLINE)
            assert time.monotonic() - started < 1
        assert post(client, "/next")


def test_abort_after_the_end_harms_nobody(scripted_model: ScriptedServer) -> None:
    """The connection is somebody else's by then."""
    gate = threading.Event()
    scripted_model.script("/second", gate, whole(b"second"))
    with client_of(scripted_model) as client, ThreadPoolExecutor(1) as pool:
        call = ModelCall()
        with client.post("/first", None, call) as response:
            assert response.content
        second = pool.submit(post, client, "/second")
        assert scripted_model.request("/second").connection == 1
        call.abort()
        gate.set()
        assert second.result(DEADLINE) == b"second"


def test_aborts_at_any_moment_leave_no_connection_in_a_wrong_state(scripted_model: ScriptedServer) -> None:
    """Aborted calls race with their own ends; whoever comes next must get the right response."""
    scripted_model.script("/answer", head(CHUNKED), chunk(b"one"), chunk(b"two"), chunk(b""))
    with client_of(scripted_model) as client, ThreadPoolExecutor(1) as pool:
        for _ in range(200):
            call = ModelCall()
            racing = pool.submit(post, client, "/answer", None, call)
            call.abort()
            error = racing.exception(DEADLINE)
            assert error is not None or racing.result() == b"onetwo"
            assert post(client) == b"onetwo"


# -- what is sent ----------------------------------------------------------------------------------------


def test_the_api_key_is_sent_and_nothing_else_of_authority(scripted_model: ScriptedServer) -> None:
    with client_of(scripted_model, api_key="the-models-key") as client:
        post(client)
        client.session.get("/plain", timeout=DEADLINE)
    assert [request.header("Authorization") for request in scripted_model.requests()] == [
        "Bearer the-models-key",
        "Bearer the-models-key",
    ]
    assert [request.header("Cookie") for request in scripted_model.requests()] == [None, None]


def test_without_an_api_key_none_is_sent(scripted_model: ScriptedServer) -> None:
    with client_of(scripted_model) as client:
        post(client)
    assert scripted_model.request("/answer").header("Authorization") is None


def test_cookies_are_not_kept_and_redirects_not_followed(scripted_model: ScriptedServer) -> None:
    scripted_model.script(
        "/answer",
        head("Set-Cookie: a=1", "Location: /elsewhere", "Content-Length: 0", status="302 Found"),
    )
    with client_of(scripted_model) as client:
        for call in (client.session.get, client.session.options, client.session.post):
            assert call("/answer", timeout=DEADLINE).status_code == 302
        post(client)
        assert list(client.session.cookies) == []
    assert scripted_model.requests("/elsewhere") == []
    assert {request.header("Cookie") for request in scripted_model.requests()} == {None}


@pytest.mark.parametrize("size", [0, 1, 64 * 1024 - 2, 64 * 1024, 64 * 1024 + 1, 5_000_000])
def test_bodies_of_any_size_arrive(scripted_model: ScriptedServer, size: int) -> None:
    with client_of(scripted_model) as client:
        for _ in range(2):
            post(client, payload="x" * size)
    for request in scripted_model.requests():
        assert request.json() == "x" * size
        assert request.header("Content-Length") == str(size + 2)
    assert scripted_model.accepted == 1


def test_text_bytes_and_streamed_bodies(scripted_model: ScriptedServer) -> None:
    url = scripted_model.url
    with session_with(url, ModelAdapter(url)) as session:
        session.post(url + "/answer", data="text é".encode(), timeout=DEADLINE)
        session.post(url + "/answer", data={"a": "1 2"}, timeout=DEADLINE)
        session.get(url + "/answer", params={"q": "x y"}, timeout=DEADLINE)
    bodies = [request.body for request in scripted_model.requests("/answer")]
    assert bodies == ["text é".encode(), b"a=1+2"]
    assert [request.path for request in scripted_model.requests()][-1] == "/answer?q=x+y"


def test_sixteen_threads_share_one_adapter(scripted_model: ScriptedServer) -> None:
    """Each gets its own response, whatever the framing; connections are not opened without need."""
    framings: list[Callable[[bytes], list[Step]]] = [
        lambda body: [whole(body)],
        lambda body: [head(CHUNKED), chunk(body), chunk(b"")],
        lambda body: [head(), body, Act.CLOSE],
    ]
    for number in range(48):
        body = f"response {number}".encode() * 100
        scripted_model.script(f"/{number}", *framings[number % 3](body))

    with client_of(scripted_model, pool_size=16) as client, ThreadPoolExecutor(16) as pool:

        def ask(number: int) -> bool:
            number %= 48
            return post(client, f"/{number}", number) == f"response {number}".encode() * 100

        assert all(pool.map(ask, range(960)))
    assert len(scripted_model.requests()) == 960
    for request in scripted_model.requests():
        assert request.path == f"/{request.json()}"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 4", "Content-Length: 5"),
        ("Content-Length: -1",),
        ("Content-Length: +4",),
        ("Content-Length: four",),
        ("Content-Length: 4, 5",),
        ("Content-Length: 4,",),
        ("Content-Length: \x00 4",),
        ("Content-Length: " + "9" * 30,),
        ("Content-Length:",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding: chunked, chunked",),
    ],
    ids=str,
)
def test_a_response_of_unknown_length_is_refused(
    scripted_model: ScriptedServer, headers: tuple[str, ...]
) -> None:
    """Taken for one that ends with its connection, it would be wrong and look whole."""
    scripted_model.script("/answer", head(*headers), b"body", Act.CLOSE)
    with client_of(scripted_model) as client:
        for _ in range(3):
            with pytest.raises(ModelUnreachable):
                post(client, "/answer")
        assert len(scripted_model.requests("/answer")) == 3, "each was executed once"
        scripted_model.script("/answer", head("Content-Length: 4", "Content-Length: 4"), b"body")
        assert post(client, "/answer") == b"body"
