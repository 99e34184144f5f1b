"""The console, as far as it signs certificates: a small authority of a test's own."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from typing_extensions import Self

from tests.support.ports import free_port
from tests.support.waiting import DEADLINE

HANG = "say nothing until the console ends"
GARBAGE = "send something that is no certificate"
OTHER_KEY = "send a certificate for another key"
FAULT = "answer 500"
REDIRECT = "answer 302 and lead to /elsewhere"


@dataclass(frozen=True)
class Signing:
    """One request as it came."""

    path: str
    query: str
    content_type: str
    body: bytes


class Console:
    """Signs what it is asked to, except for the `faults` that come first. Any thread may call any method."""

    def __init__(self, folder: Path, days: int = 30) -> None:
        """Not listening yet: connections are refused. `days`: how long what is signed lasts."""
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._days = days
        # Appended by the server's threads, read by the test.
        self.signings: list[Signing] = []
        # Emptied by the server's threads, the first one first.
        self.faults: deque[str] = deque()
        self._closing = threading.Event()
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None
        subject = ("-subj", "/CN=authority of a test", "-days", "2", "-nodes", "-newkey", "rsa:2048")
        self._openssl("req", "-x509", *subject, "-keyout", self._file("ca.key"), "-out", self._file("ca.crt"))

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def authority(self) -> Path:
        """The certificate that a client has to trust."""
        return self._folder / "ca.crt"

    def listen(self) -> None:
        """Begin to answer."""
        console = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                parts = urlsplit(self.path)
                kind = self.headers["Content-Type"]
                signing = Signing(parts.path, parts.query, kind, self.rfile.read(length))
                status, body = console.answer(signing)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="console")
        self._thread.start()

    def close(self) -> None:
        """End, with every thread."""
        self._closing.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join(DEADLINE)

    def answer(self, signing: Signing) -> tuple[int, bytes]:
        """Status and body for one request."""
        self.signings.append(signing)
        fault = self.faults.popleft() if self.faults else ""
        if fault == HANG:
            self._closing.wait(DEADLINE)
        if fault in (HANG, FAULT):
            return 500, b"out of order"
        if fault == REDIRECT:
            return 302, b""
        if fault == GARBAGE:
            return 200, b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
        if fault == OTHER_KEY:
            return 200, Path(self._file("ca.crt")).read_bytes()
        return 200, self.sign(signing.body)

    def sign(self, request: bytes) -> bytes:
        """The certificate for a signing request, with the names that it asks for."""
        authority = ("-CA", self._file("ca.crt"), "-CAkey", self._file("ca.key"), "-CAcreateserial")
        days = ("-days", str(self._days))
        return self._openssl("x509", "-req", "-copy_extensions", "copy", *days, *authority, stdin=request)

    def _file(self, name: str) -> str:
        return str(self._folder / name)

    def _openssl(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def __repr__(self) -> str:
        return f"<Console {self.url} [{len(self.signings)} asked]>"
