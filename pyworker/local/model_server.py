"""A stand-in for an inference server: `python -m pyworker.local.model_server`.

It has the routes, log lines and queue of a real one, by `--api` those of hello_world's, of vLLM or SGLang, or
of TGI, but its model is a small n-gram model on the CPU.
"""

from __future__ import annotations

import argparse
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import flask
from typing_extensions import Self

from pyworker.errors import ConfigError
from pyworker.local.hello_world_api import HelloWorldApi
from pyworker.local.language_model import CorruptedModelError, LanguageModel
from pyworker.local.model_api import ModelApi
from pyworker.local.model_engine import Engine
from pyworker.local.model_log import ModelLog
from pyworker.local.model_options import parse_options
from pyworker.local.model_stats import ModelStats
from pyworker.local.serving import MAX_BODY, LocalServer
from pyworker.runtime.request_queue import RequestQueue


@dataclass(kw_only=True, repr=False, eq=False)
class ModelServer:
    """The server, for use within a process. Thread-safe; can be started once.

    `with ModelServer() as server:` serves on a free port, without delay, once the block begins.
    tokens_per_second: of one response, 0 for no delay; parallel: concurrent responses, others are queued;
    load_seconds: from the start until ready; with a seed the same prompt always gets the same response.
    fail: the model cannot be loaded, whatever is in its file.
    on_failure is called, on the loading thread, if the model cannot be loaded.
    """

    host: str = "127.0.0.1"
    port: int = 0
    api: ModelApi = field(default_factory=HelloWorldApi)
    log_file: Path | None = None
    echo: TextIO | None = None
    tokens_per_second: float = 0.0
    parallel: int = 4
    load_seconds: float = 0.0
    seed: int | None = None
    model_path: Path | None = None
    fail: bool = False
    on_failure: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.queue = RequestQueue(self.parallel)
        self._stopping = threading.Event()
        self._loaded = threading.Event()  # loading is over: model and `_failure` do not change any more
        self._engine = Engine(
            queue=self.queue,
            pace=1 / self.tokens_per_second if self.tokens_per_second else 0.0,
            seed=self.seed,
            stopping=self._stopping,
            log=ModelLog(),  # writes nothing until `start`
        )
        self._server = LocalServer(self._app(), name="pyworker-model", host=self.host, port=self.port)
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
        return self._engine.model is not None and not self._stopping.is_set()

    @property
    def stats(self) -> ModelStats:
        """What was asked and generated."""
        return self._engine.stats

    def break_next(self, after: int) -> None:
        """Let the next generation fail after so many tokens, as if the engine died."""
        self._engine.break_next(after)

    def start(self) -> None:
        """Listen, and begin to load. Raises `ConfigError` if the port or the log file cannot be used."""
        self._server.start()
        # Only once the port is bound: until then the file may be the log of another server.
        try:
            self._engine.log = ModelLog(self.log_file, echo=self.echo)
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
        self._engine.log.close()

    def __repr__(self) -> str:
        state = "stopped" if self._stopping.is_set() else "ready" if self.ready else "loading"
        return f"<ModelServer {state} {self.queue!r}>"

    # -- loading, on its own thread ----------------------------------------------------------------------

    def _load(self) -> None:
        try:
            if self._pretend_to_load():
                self._engine.model = self._read_model()
                self._engine.log.write(*self.api.loaded_lines(self.url))
        except CorruptedModelError as error:
            self._failure = error
            self._engine.has_failed = True
            path = str(self.model_path or "the handbook that ships")
            self._engine.log.write(*self.api.failed_lines(path, str(error)))
        finally:
            self._loaded.set()
        if self._failure is not None:
            self.on_failure()

    def _read_model(self) -> LanguageModel:
        if self.fail:
            raise CorruptedModelError("it was ordered to fail")
        return LanguageModel.from_file(self.model_path)

    def _pretend_to_load(self) -> bool:
        """Take the time of loading; False if the server stops meanwhile."""
        for step in range(self.api.loading_steps):
            self._engine.log.write(*self.api.loading_lines(step))
            if self._stopping.wait(self.load_seconds / self.api.loading_steps):
                return False
        return True

    def _app(self) -> flask.Flask:
        app = flask.Flask(__name__, static_folder=None)
        app.config["MAX_FORM_MEMORY_SIZE"] = MAX_BODY
        app.register_error_handler(ConnectionAbortedError, _aborted_response)
        app.add_url_rule("/stats", "stats", lambda: flask.jsonify(self.stats.as_json()), methods=["GET"])
        self.api.add_routes(app, self._engine)
        return app


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
