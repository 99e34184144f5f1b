"""The HTTP routes of the stand-in, each under `/api` too."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import json
import socket
import threading
import uuid
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from typing_extensions import Self
from werkzeug.formparser import parse_form_data

from tests.support.comfyui.checks import NO_PROMPT, validate
from tests.support.comfyui.engine import Engine
from tests.support.comfyui.runs import Prompt
from tests.support.comfyui.sockets import ClientSockets, Mode
from tests.support.waiting import DEADLINE

START = ("Total VRAM 24111 MB, total RAM 64205 MB", "ComfyUI version: 0.3.64", "Starting server", "")
#: Writes a response of a test's own to the connection, which is closed then.
Fault = Callable[[socket.socket], None]


class ComfyServer:
    """A running stand-in. Any thread may call any method.

    log_file: where its log goes, as well as into `lines`. faults: by path or its first part (`/history/`), in
    place of the route.
    """

    def __init__(self, log_file: Path | None = None) -> None:
        self._log_file = log_file
        self.lines: list[str] = []
        #: Method, path and header names of each request, oldest first.
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: dict[str, Fault] = {}
        self.sockets = ClientSockets()
        #: By the names that workflows use: with " [temp]" for the temporary ones.
        self.uploads: dict[str, bytes] = {}
        self.engine = Engine(self.sockets.send, self.log, self.uploads)
        self.number = 0
        #: Whether it takes the prompt_id of a request, as older releases do not.
        self.takes_ids = True
        self._closing = threading.Event()
        # Guards _connections.
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._http = _Http(self)
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            kwargs={"poll_interval": 0.02},
            name=f"comfyui-{self.port}",
            daemon=True,
        )
        self._thread.start()
        for line in (*START, f"To see the GUI go to: {self.url}"):
            self.log(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def log(self, line: str) -> None:
        self.lines.append(line)
        if self._log_file is not None:
            with self._log_file.open("a", encoding="utf-8") as log:
                log.write(line + "\n")

    def paths(self, method: str) -> list[str]:
        """Of the requests so far."""
        return [path for used, path, _ in list(self.requests) if used == method]

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def ended(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def wait_closing(self) -> None:
        """Until the end: what a route does that never answers."""
        self._closing.wait(DEADLINE)

    def close(self) -> None:
        """End every connection and every thread."""
        self._closing.set()
        self._http.shutdown()
        self._thread.join(DEADLINE)
        self._http.server_close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.engine.close()

    def __repr__(self) -> str:
        return f"<ComfyServer {self.url} {self.engine!r}>"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, comfy: ComfyServer) -> None:
        self.comfy = comfy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no error."""


class _Handler(BaseHTTPRequestHandler):
    """One connection; belongs to its thread."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.comfy.opened(self.connection)

    def finish(self) -> None:
        self.comfy.ended(self.connection)
        super().finish()

    @property
    def comfy(self) -> ComfyServer:
        return cast("_Http", self.server).comfy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """The real server logs no requests."""

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = parts.path.removeprefix("/api") if parts.path.startswith("/api/") else parts.path
        self.comfy.requests.append((method, path, dict(self.headers.items())))
        faults = self.comfy.faults
        fault = faults.get(path) or faults.get(f"/{path.split('/')[1]}/")
        if fault is not None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                fault(self.connection)
        elif self._is_foreign():
            self._respond(403, b"", "application/octet-stream")
        else:
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._route(method, path, query, body)

    def _is_foreign(self) -> bool:
        """Whether a page of another site asks a server on a loopback address."""
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if not host or not origin:
            return False
        name = urlsplit(f"//{host}").hostname or ""
        if name != "localhost" and not ipaddress.ip_address(name).is_loopback:
            return False
        is_foreign = urlsplit(origin.lower()).netloc != host.lower()
        if is_foreign:
            self.comfy.log(
                f"WARNING: request with non matching host and origin {host} != {origin}, returning 403"
            )
        return is_foreign

    def _route(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        name = path.strip("/")
        first, _, rest = name.partition("/")
        if method == "GET" and name == "ws":
            self._websocket(query)
            return
        try:
            if (method, name) == ("POST", "prompt"):
                self._post_prompt(json.loads(body))
            elif method == "GET" and first == "history":
                history = self.comfy.engine.history
                self._json({rest: history[rest]} if rest in history else {} if rest else dict(history))
            elif method == "GET":
                self._get(name, query)
            else:
                self._post(name, body)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.comfy.log("Error handling request from 127.0.0.1")
            self.comfy.log("Traceback (most recent call last):")
            self.comfy.log(f"{type(error).__name__}: {error}")
            text = b"500 Internal Server Error\n\nServer got itself in trouble"
            self._respond(500, text, "text/plain; charset=utf-8")

    def _get(self, name: str, query: dict[str, str]) -> None:
        engine = self.comfy.engine
        if name == "view":
            file = (query.get("type", "output"), query.get("subfolder", ""), query["filename"])
            if file in engine.files:
                self._respond(200, engine.files[file], "image/png")
            else:
                self._respond(404, b"", "application/octet-stream")
        elif name == "queue":
            self._json(engine.listed())
        elif name == "prompt":
            self._json({"exec_info": {"queue_remaining": engine.remaining}})
        elif name == "system_stats":
            self._json({"system": {"comfyui_version": "0.3.64", "argv": ["main.py", "--cpu"]}, "devices": []})
        else:
            self._respond(404, b"404: Not Found", "text/plain; charset=utf-8")

    def _post(self, name: str, body: bytes) -> None:
        engine = self.comfy.engine
        if name == "upload/image":
            self._upload(body)
            return
        orders: dict[str, Any] = json.loads(body) if body else {}
        if name == "interrupt":
            engine.interrupt(orders.get("prompt_id"))
        elif name in ("queue", "history"):
            act = engine.delete if name == "queue" else engine.forget
            if orders.get("clear"):
                act(None)
            if "delete" in orders:
                act(orders["delete"])
        elif name == "free":
            engine.free()
        else:
            self._respond(404, b"404: Not Found", "text/plain; charset=utf-8")
            return
        self._respond(200, b"", "application/octet-stream")

    def _post_prompt(self, message: Any) -> None:
        comfy = self.comfy
        comfy.log("got prompt")
        if "prompt" not in message:
            self._json({"error": NO_PROMPT, "node_errors": {}}, 400)
            return
        workflow = message["prompt"]
        verdict = validate(workflow, comfy.uploads, comfy.log)
        if verdict.error is not None:
            comfy.log(f"invalid prompt: {verdict.error}")
            self._json({"error": verdict.error, "node_errors": verdict.node_errors}, 400)
            return
        prompt_id = str(message.get("prompt_id", uuid.uuid4()) if comfy.takes_ids else uuid.uuid4())
        extra = dict(message.get("extra_data", {}))
        if "client_id" in message:
            extra["client_id"] = message["client_id"]
        number, comfy.number = comfy.number, comfy.number + 1
        comfy.engine.pause("queueing")
        comfy.engine.put(Prompt(number, prompt_id, workflow, extra, verdict.outputs))
        comfy.engine.pause("answering")
        self._json({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    def _upload(self, body: bytes) -> None:
        environ = {
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "REQUEST_METHOD": "POST",
        }
        _, form, files = parse_form_data(environ)
        image = files.get("image")
        if image is None or not image.filename:
            self._respond(400, b"", "application/octet-stream")
            return
        name, number, kind = image.filename, 0, form.get("type", "input")
        mark = "" if kind == "input" else f" [{kind}]"
        while name + mark in self.comfy.uploads and form.get("overwrite") not in ("true", "1"):
            number += 1
            name = f"{Path(image.filename).stem} ({number}){Path(image.filename).suffix}"
        with contextlib.closing(image):
            self.comfy.uploads[name + mark] = image.read()
        self._json({"name": name, "subfolder": form.get("subfolder", ""), "type": kind})

    def _websocket(self, query: dict[str, str]) -> None:
        sockets = self.comfy.sockets
        self.close_connection = True
        if sockets.mode is Mode.REFUSED:
            self._respond(503, b"", "text/plain")
        elif sockets.mode is Mode.UNANSWERED:
            self.comfy.wait_closing()
        elif self.headers.get("Upgrade", "").lower() != "websocket":
            self._respond(400, b"No WebSocket UPGRADE hdr", "text/plain")
        else:
            sid = query.get("clientId") or uuid.uuid4().hex
            headers: Iterable[tuple[str, str]] = self.headers.items()
            sockets.serve(self.connection, self.path, list(headers), sid, self.comfy.engine.remaining)

    def _json(self, value: object, status: int = 200) -> None:
        self._respond(status, json.dumps(value).encode(), "application/json; charset=utf-8")

    def _respond(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
