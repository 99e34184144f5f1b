"""What comes from the autoscaler, a worker or the disk costs time in proportion to its length.

Twice the input may take at most 2.5 times the time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pyworker.client import Client
from pyworker.client.http import data_of
from pyworker.errors import AutoscalerError
from pyworker.reporting import journal_file
from pyworker.reporting.autoscaler_client import AutoscalerClient
from pyworker.reporting.journal import Journal
from pyworker.reporting.wire import FinishedRequest, Outcome
from pyworker.runtime.redaction import redacted
from pyworker.sessions.views import is_close_route
from tests.support.growth import LIMIT, assert_at_most, assert_linear, cpu_seconds

# -- texts -----------------------------------------------------------------------------------------------

TEXTS: dict[str, Callable[[int], str]] = {
    "blanks": lambda size: "data:" + " " * size,
    "blanks and a carriage return": lambda size: "data: x" + "\r" * size,
    "colons": lambda size: ":" * size,
    "marks": lambda size: "://" * size + "@",
    "ats": lambda size: "http://" + "@" * size,
    "dots": lambda size: "http://127." + "." * size,
    "digits": lambda size: "http://127.0.0.1:" + "0" * size,
    "slashes": lambda size: "http://127.0.0.1/" + "/" * size + " ",
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("parser", ["a line of a stream", "a URL to be shown", "a route of a callback"])
def test_texts(parser: str, kind: str) -> None:
    def parse(text: str) -> object:
        if parser == "a line of a stream":
            return data_of(text)
        if parser == "a URL to be shown":
            return redacted(text)
        return is_close_route(text)

    assert_linear(parse, TEXTS[kind], 20_000)


# -- answers over sockets --------------------------------------------------------------------------------


@contextmanager
def serving(body: bytes, piece: int, *, status: int = 200) -> Generator[str]:
    """The URL of a server whose every answer is this body, in pieces of this size."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for begin in range(0, len(body), piece):
                part = body[begin : begin + piece]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


STREAMS: dict[str, tuple[Callable[[int], bytes], int]] = {
    "many items": (lambda size: b"data: token\n\n" * (size // 13), 1300),
    "one long line in small pieces": (lambda size: b"x" * size, 100),
    "empty lines": (lambda size: b"\n" * size, 4096),
    "comments": (lambda size: b": ping\n" * (size // 7), 4096),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_of_a_worker(kind: str) -> None:
    content, piece = STREAMS[kind]

    def measured(size: int) -> float:
        with serving(content(size), piece) as url, Client.of_worker(url, timeout=60) as client:
            return cpu_seconds(lambda: sum(len(item) for item in client.stream("/x", {}, 1)))

    assert_at_most(LIMIT, lambda: measured(1_000_000), lambda: measured(500_000))


@pytest.mark.parametrize("what", ["report", "key"])
def test_what_an_autoscaler_answers(what: str) -> None:
    """It is read up to a limit, however much there is."""

    def measured(size: int) -> float:
        def ask() -> None:
            try:
                if what == "report":
                    client.send_status({})
                else:
                    client.fetch_public_key()
            except AutoscalerError:
                pass

        with serving(b"k" * size, 16) as url:
            client = AutoscalerClient([url])
            try:
                return cpu_seconds(ask)
            finally:
                client.close()

    assert_at_most(LIMIT, lambda: measured(60_000), lambda: measured(30_000))
    # No more than the limit is read.
    assert_at_most(4 * LIMIT, lambda: measured(3_000_000), lambda: measured(30_000))


# -- the journal -----------------------------------------------------------------------------------------


def record(number: int) -> FinishedRequest:
    return FinishedRequest.of(Outcome.SUCCESS, number, 1.5, 2.5, 3.5)


def test_appending_and_dropping() -> None:
    """However many wait."""

    journal = Journal()

    def work(count: int) -> None:
        for number in range(count):
            journal.append(record(number))
        while len(journal):
            journal.drop(len(journal.oldest(500)))

    assert_linear(work, lambda size: size, 4000)


def test_a_batch_costs_the_same_however_many_wait() -> None:

    def holding(count: int) -> Journal:
        journal = Journal()
        for number in range(count):
            journal.append(record(number))
        return journal

    def hundred_batches(journal: Journal) -> float:
        return cpu_seconds(lambda: journal.oldest(500), 100)

    few, many = holding(1000), holding(200_000)
    assert_at_most(LIMIT, lambda: hundred_batches(many), lambda: hundred_batches(few))


@pytest.mark.parametrize("damaged", [False, True])
def test_taking_over_what_an_earlier_process_left(tmp_path: Path, damaged: bool) -> None:
    def left(size: int) -> Path:
        path = tmp_path / f"{size}"
        journal = Journal()
        journal.open(path)
        for number in range(size):
            journal.append(record(number))
        journal.close()
        if damaged:  # every second one
            with path.open("r+b") as file:
                for number in range(0, size, 2):
                    file.seek(journal_file.offset_of(number))
                    file.write(b"\xff")
        return path

    def take_over(path: Path) -> None:
        journal = Journal()
        journal.open(path)
        while len(journal) > journal_file.CAPACITY // 4:
            journal.drop(500)
        for _ in range(20):
            journal.drop(len(journal.oldest(100)))
        journal.close()

    size = 60_000
    paths = {count: left(count) for count in (size, 2 * size)}
    contents = {count: path.read_bytes() for count, path in paths.items()}

    def measured(count: int) -> float:
        best = 10.0
        for _ in range(3):
            paths[count].write_bytes(contents[count])
            began = time.thread_time()
            take_over(paths[count])
            best = min(best, time.thread_time() - began)
        return best

    assert_at_most(LIMIT, lambda: measured(2 * size), lambda: measured(size))
