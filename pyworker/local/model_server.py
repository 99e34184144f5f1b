"""A stand-in for the inference server of the hello_world worker, for development and tests.

    python -m pyworker.local.model_server --help

It speaks the same routes, logs the same kind of lines and queues like a real one, but its model is a small
n-gram model on the CPU. Threads: `pyworker-model-serve` accepts connections, each connection has a
`pyworker-model-conn-…`, and `pyworker-model-load` loads the model and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import itertools
import json
import queue
import random
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO, cast

import flask
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Response

from pyworker.errors import PyworkerError
from pyworker.local.language_model import CorruptedModelError, LanguageModel

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MAX_BODY = 256 * 1024 * 1024
MAX_RESPONSE_TOKENS = 1_000_000
IDLE_SECONDS = 75.0  # a kept connection without a request, or a client that does not read, ends after this
LOOK_SECONDS = 0.1  # how often a request that waits looks whether its client is still there
BACKLOG = 512
STOP_SECONDS = 5.0
DOWNLOAD_FILES = 3  # what loading pretends to fetch


class ModelServerError(PyworkerError):
    """The server cannot start, for a reason that its one-line message names."""


# --- the log ---------------------------------------------------------------------------------------------


class ModelLog:
    """Writes lines of JSON, as inference servers do, to a file and to `echo`. Thread-safe."""

    def __init__(self, path: Path | None = None, *, echo: TextIO | None = None) -> None:
        """A new file is begun at `path`; that of an earlier run moves to `<name>.old`, since whoever follows
        the log must not take the old start for this one.
        """
        self._path = path
        self._file = None if path is None else _begin_file(path)
        self._streams = [stream for stream in (echo, self._file) if stream is not None]
        # Guards the streams: a line must not be torn by another thread's. Held during a write, since
        # writing in order is all that this class is for.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<ModelLog {self._path} [{len(self._streams)} streams]>"

    def write(self, message: str, *, level: str = "INFO") -> None:
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        line = json.dumps({"timestamp": now, "level": level, "message": message}, separators=(",", ":"))
        with self._lock:
            for stream in self._streams:
                # A full disk or a closed terminal must not end the serving of requests.
                with contextlib.suppress(OSError, ValueError):
                    stream.write(line + "\n")
                    stream.flush()

    def close(self) -> None:
        with self._lock:
            self._streams.clear()
            if self._file is not None:
                self._file.close()


def _begin_file(path: Path) -> TextIO:
    try:
        if path.is_file():
            path.replace(path.with_name(path.name + ".old"))
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise ModelServerError(f"cannot write the log file {path}: {error.strerror}") from error


# --- how many generate at once ---------------------------------------------------------------------------


class GenerationSlots:
    """A number of slots, handed out first come, first served. Thread-safe."""

    def __init__(self, parallel: int) -> None:
        # Guards `_free`, `_active` and `_waiting`; notified when a request comes, starts or leaves.
        self._changed = threading.Condition(threading.Lock())
        self._free = parallel
        self._active = 0
        self._waiting: deque[threading.Event] = deque()

    def __repr__(self) -> str:
        with self._changed:
            return f"<GenerationSlots [{self._active} active, {len(self._waiting)} waiting]>"

    @property
    def counts(self) -> tuple[int, int]:
        """Active and waiting requests."""
        with self._changed:
            return self._active, len(self._waiting)

    def wait_for(self, condition: Callable[[int, int], bool], timeout: float) -> bool:
        """Until `condition(active, waiting)` holds; False where `timeout` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._active, len(self._waiting)), timeout)

    @contextlib.contextmanager
    def hold(self, check: Callable[[], None]) -> Generator[None]:
        """A slot, after waiting in line for it; `check` is called now and then and may raise to leave."""
        turn = self._enter()
        try:
            while not turn.wait(LOOK_SECONDS):
                check()
            yield
        finally:
            self._leave(turn)

    def _enter(self) -> threading.Event:
        turn = threading.Event()
        with self._changed:
            if self._free > 0:
                self._free -= 1
                self._active += 1
                turn.set()
            else:
                self._waiting.append(turn)
            self._changed.notify_all()
        return turn

    def _leave(self, turn: threading.Event) -> None:
        with self._changed:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif self._waiting:  # handed on directly, so that nobody can come in between
                self._waiting.popleft().set()
            else:
                self._free += 1
                self._active -= 1
            self._changed.notify_all()


# --- HTTP ------------------------------------------------------------------------------------------------


class _Connections:
    """The open connections and their threads, so that a stop can end and join them. Thread-safe."""

    def __init__(self) -> None:
        # Guards `_open`, `_closing` and the counter.
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._closing = False
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        with self._lock:
            return f"<_Connections [{len(self._open)} open]>"

    def add(self, connection: socket.socket) -> None:
        thread = threading.current_thread()
        with self._lock:
            thread.name = f"pyworker-model-conn-{next(self._numbers)}"
            self._open[thread] = connection
            closing = self._closing
        if closing:
            _shut(connection)

    def discard(self) -> None:
        with self._lock:
            self._open.pop(threading.current_thread(), None)

    def close(self) -> None:
        """End every connection and wait for its thread."""
        with self._lock:
            self._closing = True
            still_open = dict(self._open)
        for connection in still_open.values():
            _shut(connection)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in still_open:
            thread.join(max(0.0, deadline - time.monotonic()))


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    """Serves one connection on its own thread; not shared.

    werkzeug's own way ends each connection after one answer, because a body that the application left unread
    would be taken for the next request. Here the body is read before the application is called.
    """

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # a token must not wait for the acknowledgement of the one before it
    connections: _Connections  # set in a subclass made for each server

    def setup(self) -> None:
        super().setup()
        self.connections.add(self.connection)

    def finish(self) -> None:
        self.connections.discard()
        super().finish()

    def run_wsgi(self) -> None:
        self.environ = environ = self.make_environ()
        try:
            if self._take_body(environ):
                self._run_app(environ)
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # without the end of the body: the client can see that it is cut

    def _take_body(self, environ: WSGIEnvironment) -> bool:
        """Put the whole body in place of the stream; False when it was answered with an error instead."""
        if "wsgi.input_terminated" in environ:  # chunked
            try:
                body = _read_all(cast("io.RawIOBase", environ["wsgi.input"]))
            except ConnectionError:
                raise
            except OSError:
                return self._refuse(400, "the chunks of the request body are broken")
        else:
            length = self.headers.get("Content-Length") or "0"
            if not (length.isascii() and length.isdigit()):
                return self._refuse(400, "Content-Length is not a number")
            if int(length) > MAX_BODY:
                return self._refuse(413, "the request body is too large")
            body = self.rfile.read(int(length))
            if len(body) < int(length):
                raise ConnectionResetError("the client hung up within its request")
        if len(body) > MAX_BODY:
            return self._refuse(413, "the request body is too large")
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return True

    def _refuse(self, status: int, message: str) -> bool:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        return False

    def _run_app(self, environ: WSGIEnvironment) -> None:
        response = Response.from_app(self.server.app, environ, buffered=False)
        try:
            chunked = "Content-Length" not in response.headers and self.request_version != "HTTP/1.0"
            self._send_head(response, chunked=chunked)
            if self.command == "HEAD":
                return
            for data in cast("Iterable[bytes]", response.response):
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")
        finally:
            response.close()

    def _send_head(self, response: Response, *, chunked: bool) -> None:
        self.send_response(response.status_code)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in response.headers:
            self.close_connection = True
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Nothing: the model's own log has a line for each request."""


def _read_all(stream: io.RawIOBase) -> bytes:
    """What is in the stream, or a little more than `MAX_BODY` bytes of it."""
    body = bytearray()
    while len(body) <= MAX_BODY and (part := stream.read(1 << 16)):
        body += part
    return bytes(body)


def _client_is_gone(connection: socket.socket) -> bool:
    """Whether the client closed its side; looks without taking anything away."""
    try:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        # Asked first, because a socket with a timeout waits for data even where it is told not to.
        return bool(poll.poll(0)) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):  # reset by the client, or closed
        return True


# --- the routes ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GenerateRequest:
    """The body of both generating routes."""

    prompt: str
    max_response_tokens: int | None

    @classmethod
    def parse(cls, body: bytes) -> GenerateRequest:
        """From JSON; aborts the request with 400, or with 422 and the name of the field at fault."""
        try:
            data = cast("object", json.loads(body))
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise _refusal(400, "the body must be a JSON object")
        fields = cast("dict[str, object]", data)
        prompt, limit = fields.get("prompt"), fields.get("max_response_tokens")
        if not isinstance(prompt, str):
            raise _refusal(422, "prompt: must be a string")
        if limit is None:
            return cls(prompt, None)
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_RESPONSE_TOKENS:
            raise _refusal(422, f"max_response_tokens: must be from 1 to {MAX_RESPONSE_TOKENS}, or null")
        return cls(prompt, limit)


class _Refusal(HTTPException):
    """An error answer in JSON."""


def _refusal(status: int, message: str) -> _Refusal:
    refusal = _Refusal(message)
    refusal.code = status
    return refusal


def _error_answer(error: HTTPException) -> tuple[flask.Response, int, dict[str, str]]:
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    return flask.jsonify({"error": error.description or error.name}), error.code or 500, headers


def _cut_answer(error: ConnectionAbortedError) -> tuple[flask.Response, int]:
    return flask.jsonify({"error": str(error)}), 503


class ModelServer:
    """The server, for use within a process. Thread-safe; can be started once.

    `with ModelServer() as server:` serves on a free port, at once and without delay, when the block begins.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        log_file: Path | None = None,
        echo: TextIO | None = None,
        tokens_per_second: float = 0.0,
        parallel: int = 4,
        load_seconds: float = 0.0,
        seed: int | None = None,
        model_path: Path | None = None,
        on_failure: Callable[[], None] | None = None,
    ) -> None:
        """`port` 0 takes a free one; `tokens_per_second` 0 means no delay; with a `seed` the same prompt
        always gets the same answer. The log goes to `log_file` and `echo`. `on_failure` is called, in the
        loading thread, when the model cannot be loaded.
        """
        self.slots = GenerationSlots(parallel)
        self._address = (host, port)
        self._log_file = log_file
        self._echo = echo
        self._log = ModelLog()  # writes nothing until `start`
        self._pace = 1 / tokens_per_second if tokens_per_second else 0.0
        self._load_seconds = load_seconds
        self._seed = seed
        self._model_path = model_path
        self._on_failure = on_failure
        self._connections = _Connections()
        self._stopping = threading.Event()
        self._loaded = threading.Event()  # loading is over: `_model` and `_failure` do not change any more
        self._model: LanguageModel | None = None
        self._failure: CorruptedModelError | None = None
        self._server: BaseWSGIServer | None = None
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        state = "stopped" if self._stopping.is_set() else "ready" if self.ready else "loading"
        active, waiting = self.slots.counts
        return f"<ModelServer [{state}, {active} active, {waiting} waiting]>"

    def __enter__(self) -> ModelServer:
        self.start()
        try:
            self.wait_ready(self._load_seconds + 10)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that is listened at, known after `start`."""
        return self._address[1] if self._server is None else self._server.port

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and served."""
        return self._model is not None and not self._stopping.is_set()

    def start(self) -> None:
        """Listen, and begin to load; raises `ModelServerError` where the port cannot be had."""
        handler = type("_ServerHandler", (_Handler,), {"connections": self._connections})
        with _listen(*self._address) as listener:
            # Only with the port in hand: until then the file may be the log of the server that has it.
            self._log = ModelLog(self._log_file, echo=self._echo)
            # The socket is ours because werkzeug would end the process for a port that is taken.
            self._server = server = make_server(
                *self._address,
                app=self._app(),
                threaded=True,
                request_handler=handler,
                fd=listener.fileno(),
            )
        for name, run in (("serve", lambda: server.serve_forever(poll_interval=0.05)), ("load", self._load)):
            thread = threading.Thread(target=run, name=f"pyworker-model-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait_ready(self, timeout: float) -> None:
        """Until the model is loaded; raises what it failed with, or `TimeoutError`."""
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"the model is not loaded after {timeout:g} s")
        if self._failure is not None:
            raise self._failure
        if self._model is None:
            raise ModelServerError("stopped before the model was loaded")

    def stop(self) -> None:
        """End streams, connections and threads; what is generated now is cut off. May be called again."""
        self._stopping.set()
        if self._server is not None and self._threads:
            self._server.shutdown()
        self._connections.close()
        for thread in self._threads:
            thread.join(STOP_SECONDS)
        self._log.close()

    # --- loading, on its own thread ---

    def _load(self) -> None:
        try:
            if self._pretend_to_download():
                self._model = LanguageModel.from_file(self._model_path)
                self._log.write(f"infer server has started on {self.url}")
        except CorruptedModelError as error:
            self._failure = error
            path = self._model_path or "the handbook that ships"
            self._log.write(f"Exception: corrupted model file: {path}: {error}", level="ERROR")
        finally:
            self._loaded.set()
        if self._failure is not None and self._on_failure is not None:
            self._on_failure()

    def _pretend_to_download(self) -> bool:
        """Take the time of loading; False when the server stops meanwhile."""
        for number in range(1, DOWNLOAD_FILES + 1):
            self._log.write(f"Download file {number}/{DOWNLOAD_FILES} of the model")
            if self._stopping.wait(self._load_seconds / DOWNLOAD_FILES):
                return False
        return True

    # --- requests, on the threads of connections ---

    def _app(self) -> flask.Flask:
        app = flask.Flask(__name__)
        app.add_url_rule("/healthcheck", view_func=self._health, methods=["GET"])
        app.add_url_rule("/generate", view_func=self._generate, methods=["POST"])
        app.add_url_rule("/generate_stream", view_func=self._generate_stream, methods=["POST"])
        app.register_error_handler(HTTPException, _error_answer)
        app.register_error_handler(ConnectionAbortedError, _cut_answer)
        app.after_request(self._log_answer)
        return app

    def _health(self) -> flask.Response:
        self._loaded_model()
        return flask.jsonify({"status": "ok"})

    def _generate(self) -> flask.Response:
        run = self._begin()
        with contextlib.closing(run.tokens()) as tokens:
            return flask.jsonify({"response": "".join(tokens), "tokens": run.count})

    def _generate_stream(self) -> flask.Response:
        run = self._begin()
        answer = flask.Response(_events(run.tokens()), mimetype="text/event-stream")
        answer.headers["Cache-Control"] = "no-cache"
        return answer

    def _begin(self) -> _Generation:
        model = self._loaded_model()
        wanted = GenerateRequest.parse(flask.request.get_data())
        rng = random.Random() if self._seed is None else random.Random(f"{self._seed}:{wanted.prompt!r}")
        flask.g.generation = run = _Generation(
            name=flask.request.path,
            source=model.generate(wanted.prompt, wanted.max_response_tokens, rng),
            pace=self._pace,
            slots=self.slots,
            client=cast("socket.socket", flask.request.environ["werkzeug.socket"]),
            stopping=self._stopping,
            log=self._log,
        )
        return run

    def _loaded_model(self) -> LanguageModel:
        if self._model is None:
            reason = "is loading" if self._failure is None else "could not be loaded"
            raise _refusal(503, f"the model {reason}")
        return self._model

    def _log_answer(self, response: flask.Response) -> flask.Response:
        # A generation writes its own line when it ends. A path that has no route may hold anything, so it
        # is not copied.
        rule = flask.request.url_rule
        if "generation" not in flask.g:
            path = "unknown path" if rule is None else rule.rule
            self._log.write(f"{flask.request.method} {path} {response.status_code}")
        return response


class _Generation:
    """One answer in the making. Used by the thread of its connection only."""

    def __init__(
        self,
        *,
        name: str,
        source: Iterator[str],
        pace: float,
        slots: GenerationSlots,
        client: socket.socket,
        stopping: threading.Event,
        log: ModelLog,
    ) -> None:
        self.count = 0
        self._name = name
        self._source = source
        self._pace = pace
        self._slots = slots
        self._client = client
        self._stopping = stopping
        self._log = log

    def __repr__(self) -> str:
        return f"<_Generation {self._name} [{self.count} tokens]>"

    def tokens(self) -> Generator[str]:
        """The tokens at their pace, once there is a slot; `ConnectionAbortedError` when nobody wants them."""
        arrived = time.monotonic()
        outcome = "499"  # unless it comes to its end
        try:
            with self._slots.hold(self._check):
                started = time.monotonic()
                for token in self._source:
                    self._wait_until(started + (self.count + 1) * self._pace)
                    self.count += 1
                    yield token
            outcome = "200"
        finally:
            seconds = time.monotonic() - arrived
            self._log.write(f"POST {self._name} {outcome}, {self.count} tokens in {seconds:.3f} s")

    def _check(self) -> None:
        if self._stopping.is_set():
            raise ConnectionAbortedError("the server stops")
        if _client_is_gone(self._client):
            raise ConnectionAbortedError("the client hung up")

    def _wait_until(self, due: float) -> None:
        self._check()
        while (left := due - time.monotonic()) > 0:
            self._stopping.wait(min(left, LOOK_SECONDS))
            self._check()


def _events(tokens: Generator[str]) -> Iterator[str]:
    with contextlib.closing(tokens):  # a client that hangs up closes this generator: the slot is freed now
        for token in tokens:
            yield f"data: {json.dumps({'token': token})}\n\n"
    yield "data: [DONE]\n\n"


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; `ModelServerError` where that cannot be."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OverflowError:
        raise ModelServerError(f"port {port} is not between 0 and 65535") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ModelServerError(
                f"port {port} on {host} is already taken by another program; choose another with --port"
            ) from error
        raise ModelServerError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


# --- the command line ------------------------------------------------------------------------------------


def _number(kind: Callable[[str], float], minimum: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of at least {minimum:g}")
        return value

    return parse


class _Options(argparse.Namespace):
    """What the command line gives."""

    host: str
    port: int
    log_file: str
    tokens_per_second: float
    parallel: int
    load_seconds: float
    seed: int | None
    model: Path | None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pyworker.local.model_server",
        description="A stand-in for hello_world's inference server. It answers POST /generate, "
        "POST /generate_stream and GET /healthcheck with the words of a small language model.",
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    add("--port", type=_number(int, 0), default=5001, help="port, 0 for a free one (default: 5001)")
    add(
        "--log-file",
        default="./model.log",
        metavar="PATH",
        help="where to log, besides the terminal; an older file is kept as PATH.old; - for the terminal "
        "only (default: ./model.log)",
    )
    add(
        "--tokens-per-second",
        type=_number(float, 0),
        default=50.0,
        metavar="N",
        help="speed of one answer; 0 for no delay (default: 50)",
    )
    add(
        "--parallel",
        type=_number(int, 1),
        default=4,
        metavar="N",
        help="answers that are generated at once; further requests wait in line (default: 4)",
    )
    add(
        "--load-seconds",
        type=_number(float, 0),
        default=2.0,
        metavar="N",
        help="how long loading takes before the server is ready (default: 2)",
    )
    add("--seed", type=int, metavar="N", help="give the same answer to the same prompt (default: vary)")
    add(
        "--model",
        type=Path,
        metavar="PATH",
        help="UTF-8 text to learn the language from (default: the handbook that ships)",
    )
    return parser


def _serve(options: _Options) -> int:
    """Run until a signal comes or the model fails; the exit status."""
    # Unlike an Event, this queue may be filled by a signal handler while the same thread waits on it.
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    server = ModelServer(
        host=options.host,
        port=options.port,
        log_file=None if options.log_file == "-" else Path(options.log_file),
        echo=sys.stdout,
        tokens_per_second=options.tokens_per_second,
        parallel=options.parallel,
        load_seconds=options.load_seconds,
        seed=options.seed,
        model_path=options.model,
        on_failure=lambda: ends.put(1),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ends.put(0))
    try:
        server.start()
        return ends.get()
    finally:
        server.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments, _Options())
    try:
        return _serve(options)
    except ModelServerError as error:
        sys.stderr.write(f"model_server: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
