"""A stand-in for the inference server of the hello_world worker: `python -m pyworker.local.model_server`.

It has the same routes, log lines and queue as a real one, but its model is a small n-gram model on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import queue
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TextIO, cast

import flask
from pydantic import ConfigDict, Field
from typing_extensions import Self

from pyworker.errors import ConfigError, NotReady, Unprocessable
from pyworker.local.generation import Generation
from pyworker.local.language_model import CorruptedModelError, LanguageModel
from pyworker.local.model_log import ModelLog
from pyworker.local.model_options import parse_options
from pyworker.local.serving import LocalServer, json_errors
from pyworker.runtime.request_queue import RequestQueue
from pyworker.validation import STRICT, parse_fields

DOWNLOAD_FILES = 3  # what loading pretends to fetch


@dataclass(frozen=True)
class GenerateRequest:
    """The body of both generating routes."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prompt: str
    max_response_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@dataclass(kw_only=True, repr=False, eq=False)
class ModelServer:
    """The server, for use within a process. Thread-safe; can be started once.

    `with ModelServer() as server:` serves on a free port, without delay, once the block begins.
    tokens_per_second: of one response, 0 for no delay; parallel: concurrent responses, others are queued;
    load_seconds: from the start until ready; with a seed the same prompt always gets the same response.
    on_failure is called, on the loading thread, if the model cannot be loaded.
    """

    host: str = "127.0.0.1"
    port: int = 0
    log_file: Path | None = None
    echo: TextIO | None = None
    tokens_per_second: float = 0.0
    parallel: int = 4
    load_seconds: float = 0.0
    seed: int | None = None
    model_path: Path | None = None
    on_failure: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.parallel)
        self._server = LocalServer(self._app(), name="pyworker-model", host=self.host, port=self.port)
        self._log = ModelLog()  # writes nothing until `start`
        self._stopping = threading.Event()
        self._loaded = threading.Event()  # loading is over: `_model` and `_failure` do not change any more
        self._model: LanguageModel | None = None
        self._failure: CorruptedModelError | None = None
        self._loader = threading.Thread(target=self._load, name="pyworker-model-load", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready(self.load_seconds + 10)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end; it names the real port after `start`."""
        return self._server.url

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and served."""
        return self._model is not None and not self._stopping.is_set()

    def start(self) -> None:
        """Listen, and begin to load. Raises `ConfigError` if the port or the log file cannot be used."""
        self._server.start()
        # Only once the port is bound: until then the file may be the log of another server.
        try:
            self._log = ModelLog(self.log_file, echo=self.echo)
        except ConfigError:
            self._server.stop()
            raise
        self._loader.start()

    def wait_ready(self, timeout: float) -> None:
        """Until the model is loaded; raises what it failed with, or `TimeoutError`."""
        if not self._loaded.wait(timeout):
            raise TimeoutError(f"the model is not loaded after {timeout:g} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """End streams, connections and threads; unfinished responses are aborted. May be called again."""
        self._stopping.set()
        self._server.stop()
        if self._loader.ident is not None:
            self._loader.join()
        self._log.close()

    def __repr__(self) -> str:
        state = "stopped" if self._stopping.is_set() else "ready" if self.ready else "loading"
        return f"<ModelServer {state} {self.queue!r}>"

    # -- loading, on its own thread ----------------------------------------------------------------------

    def _load(self) -> None:
        try:
            if self._pretend_to_download():
                self._model = LanguageModel.from_file(self.model_path)
                self._log.write(f"infer server has started on {self.url}")
        except CorruptedModelError as error:
            self._failure = error
            path = self.model_path or "the handbook that ships"
            self._log.write(f"Exception: corrupted model file: {path}: {error}", level="ERROR")
        finally:
            self._loaded.set()
        if self._failure is not None:
            self.on_failure()

    def _pretend_to_download(self) -> bool:
        """Take the time of loading; False if the server stops meanwhile."""
        for number in range(1, DOWNLOAD_FILES + 1):
            self._log.write(f"Download file {number}/{DOWNLOAD_FILES} of the model")
            if self._stopping.wait(self.load_seconds / DOWNLOAD_FILES):
                return False
        return True

    # -- requests, on the threads of connections ---------------------------------------------------------

    def _app(self) -> flask.Flask:
        app = flask.Flask(__name__, static_folder=None)
        app.add_url_rule("/healthcheck", view_func=self._health, methods=["GET"])
        app.add_url_rule("/generate", view_func=self._generate, methods=["POST"])
        app.add_url_rule("/generate_stream", view_func=self._generate_stream, methods=["POST"])
        json_errors(app)
        app.register_error_handler(ConnectionAbortedError, _aborted_response)
        app.after_request(self._log_response)
        return app

    def _health(self) -> flask.Response:
        self._loaded_model()
        return flask.jsonify(status="ok")

    def _generate(self) -> flask.Response:
        generation = self._begin()
        with contextlib.closing(generation.tokens()) as tokens:
            return flask.jsonify(response="".join(tokens), tokens=generation.count)

    def _generate_stream(self) -> flask.Response:
        response = flask.Response(self._begin().events(), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _begin(self) -> Generation:
        model = self._loaded_model()
        wanted = parse_fields(GenerateRequest, _json_object(flask.request.get_data()))
        rng = random.Random() if self.seed is None else random.Random(f"{self.seed}:{wanted.prompt!r}")
        flask.g.generates = True
        return Generation(
            name=flask.request.path,
            source=model.generate(wanted.prompt, wanted.max_response_tokens, rng),
            pace=1 / self.tokens_per_second if self.tokens_per_second else 0.0,
            queue=self.queue,
            client=cast("socket.socket", flask.request.environ["werkzeug.socket"]),
            stopping=self._stopping,
            log=self._log,
        )

    def _loaded_model(self) -> LanguageModel:
        if self._model is None:
            raise NotReady(f"the model {'is loading' if self._failure is None else 'could not be loaded'}")
        return self._model

    def _log_response(self, response: flask.Response) -> flask.Response:
        # A generation writes its own line when it ends. A path without a route may hold anything: not copied.
        if "generates" not in flask.g:
            rule = flask.request.url_rule
            path = "unknown path" if rule is None else rule.rule
            self._log.write(f"{flask.request.method} {path} {response.status_code}")
        return response


def _json_object(body: bytes) -> dict[str, object]:
    try:
        decoded: object = json.loads(body)
    except (ValueError, RecursionError):  # the latter for a body of a hundred thousand brackets
        decoded = None
    if not isinstance(decoded, dict):
        raise Unprocessable("the body must be a JSON object")
    fields = cast("dict[str, object]", decoded)
    if isinstance(prompt := fields.get("prompt"), str):
        fields["prompt"] = prompt.encode("utf-8", "replace").decode()  # JSON can carry half a character
    return fields


def _aborted_response(error: ConnectionAbortedError) -> tuple[flask.Response, int]:
    return flask.jsonify(error=str(error)), 503


def _serve(options: argparse.Namespace) -> int:
    """Run until a signal comes or the model fails; the exit status."""
    # Unlike an Event, this queue may be filled by a signal handler while its thread waits on it.
    ends: queue.SimpleQueue[int] = queue.SimpleQueue()
    server = ModelServer(**vars(options), echo=sys.stdout, on_failure=lambda: ends.put(1))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: ends.put(0))
    server.start()
    try:
        return ends.get()
    finally:
        server.stop()


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = parse_options(arguments)
    try:
        return _serve(options)
    except ConfigError as error:
        sys.stderr.write(f"pyworker.local.model_server: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
