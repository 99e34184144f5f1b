"""A worker that is ready, the model server behind it, and the autoscaler beside it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import flask
from flask.testing import FlaskClient

from pyworker.app import create_app, make_app, worker_of
from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.data_types import WITHOUT_BODY, LogAction
from pyworker.errors import ConfigError, PyworkerError
from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer, current_message
from pyworker.testing.calls import Call, Caller, OpenReply, OverSockets, Reply, Within
from pyworker.testing.model import ModelServer
from pyworker.testing.process import WorkerProcess
from pyworker.testing.reported import Reported

#: A name as for `create_app`, a module with the two functions of a worker, or what makes the app.
WorkerSource = str | ModuleType | Callable[[Settings], flask.Flask]

_URL = "http://127.0.0.1:3000"
_TOKEN = "token-of-the-test"
_THROUGHPUT = "1000.0\n"
_START_SECONDS = 60.0
_LOG_TAIL = 4000  # characters
_indices = itertools.count(1)


class WorkerNotReady(PyworkerError):
    """The worker did not become ready; the text says why."""


class Kit:
    """What a test needs of one worker.

    model: the model server behind it; reported: what it has told the autoscaler; app: its WSGI app, which
    runs only if the worker is not live; folder: its state, and the model's log.
    """

    def __init__(
        self,
        app: flask.Flask,
        model: ModelServer,
        autoscaler: Autoscaler,
        folder: Path,
        process: WorkerProcess | None,
    ) -> None:
        self.app = app
        self.model = model
        self.autoscaler = autoscaler
        self.folder = folder
        self.url = _URL if process is None else process.url
        self.reported = Reported(autoscaler, self.url)
        self._process = process
        self._caller: Caller = Within(app) if process is None else OverSockets(self.url)

    @property
    def is_live(self) -> bool:
        """Whether the worker runs in a process of its own, and is called over sockets."""
        return self._process is not None

    @property
    def client(self) -> FlaskClient:
        """Flask's test client. What it sends has to be signed: `kit.envelope(payload)`."""
        if self.is_live:
            raise RuntimeError("a live worker is called over sockets: kit.post, kit.request, or kit.url")
        return self.app.test_client()

    @property
    def log(self) -> str:
        """What a live worker has written. That of another goes to the logging of this process."""
        return "" if self._process is None else self._process.log

    def say(self, line: str) -> None:
        """A line of the model's log."""
        with (self.folder / "model.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    # -- requests ----------------------------------------------------------------------------------------

    def auth_data(self, **changes: object) -> dict[str, Any]:
        """What the autoscaler hands to a client of this worker."""
        return {
            "signature": self.autoscaler.signer.sign(current_message(self.url)),
            "url": self.url,
            "endpoint": "test",
            "cost": 1.0,
            "reqnum": 1,
            "request_idx": next(_indices),
            **changes,
        }

    def envelope(self, payload: object, **changes: object) -> dict[str, Any]:
        """A signed request's body. changes: of `auth_data`."""
        return {"auth_data": self.auth_data(**changes), "payload": payload}

    def post(self, path: str, payload: object) -> Reply:
        """A signed POST, and its whole reply."""
        return self.request("POST", path, payload)

    def get(self, path: str) -> Reply:
        """A GET, signed by its header, and its whole reply."""
        return self.request("GET", path)

    def request(
        self,
        method: str,
        path: str,
        payload: object = None,
        *,
        signed: bool = True,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """A request, and its whole reply. signed: False sends the bare payload; body: sent as it is in place
        of a payload.
        """
        with self.open(method, path, payload, signed=signed, headers=headers, body=body) as reply:
            return reply.rest()

    def open(
        self,
        method: str,
        path: str,
        payload: object = None,
        *,
        signed: bool = True,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AbstractContextManager[OpenReply]:
        """As `request`, but the reply is read piece by piece. Leaving the context hangs up."""
        return self._caller.open(self._call(method, path, payload, signed, headers, body))

    @contextmanager
    def hang_up(self, path: str, payload: object = None, *, method: str = "POST") -> Generator[int]:
        """A signed request that nobody waits for: its request_idx. Leaving the context hangs up."""
        call = self._call(method, path, payload, True, None, None)
        with self._caller.hang_up(call):
            yield call.request_idx

    def _call(
        self,
        method: str,
        path: str,
        payload: object,
        signed: bool,
        headers: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Call:
        fields = dict(headers or {})
        request_idx = 0
        if method in WITHOUT_BODY and signed:
            auth_data = self.auth_data()
            request_idx = auth_data["request_idx"]
            fields = {"X-Auth-Data": json.dumps(auth_data), **fields}
        elif body is None and method not in (*WITHOUT_BODY, "HEAD", "OPTIONS"):
            message = payload
            if signed:
                auth_data = self.auth_data()
                request_idx = auth_data["request_idx"]
                message = {"auth_data": auth_data, "payload": payload}
            body = json.dumps(message).encode()
            fields = {"Content-Type": "application/json", **fields}
        return Call(method, path, fields, body, request_idx)

    # -- between tests -----------------------------------------------------------------------------------

    def forget(self) -> None:
        """For the next test: the model server answers as at first, and workload counts from here."""
        self.reported.begin()
        self.model.forget()

    def __repr__(self) -> str:
        return f"<Kit {self.url} {self.model!r} {self.reported!r}>"


@contextmanager
def running(
    worker: WorkerSource,
    variables: Mapping[str, str] | None = None,
    *,
    live: bool = False,
    benchmark: bool = False,
    model: ModelServer | None = None,
    timeout: float = _START_SECONDS,
) -> Generator[Kit]:
    """Bring a worker to ready.

    worker: a name as for `create_app`, its `server` module, or a function that makes the app of settings.
    variables: of its environment, which has nothing of this process's own. live: under gunicorn in a process
    of its own, for which it has to have a name. benchmark: False takes 1000 workload/s as measured. model:
    one whose answers are needed for the start. timeout: seconds until it has to be ready.

    Raises `ConfigError` for a worker that cannot be made, and `WorkerNotReady`.
    """
    with ExitStack() as stack:
        model = stack.enter_context(ModelServer()) if model is None else model
        autoscaler = stack.enter_context(Autoscaler(signer=_signer()))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyworker-")))
        environ = {
            "REPORT_ADDR": autoscaler.url,
            "MODEL_SERVER_URL": model.url,
            "MODEL_LOG": str(folder / "model.log"),
            "PYWORKER_STATE_DIR": str(folder),
            "PYWORKER_UPDATE_FLAG": str(folder / "update"),
            "PYWORKER_PUBLIC_URL": _URL,
            "WORKER_HOST": "127.0.0.1",
            "CONTAINER_ID": "1",
            "MASTER_TOKEN": _TOKEN,
            "DRAIN_TIMEOUT": "2",
            **(variables or {}),
        }
        app = _made(worker, Settings.from_env(environ))
        running_worker = worker_of(app)
        stack.callback(running_worker.close)
        (folder / "model.log").touch()
        if not benchmark:
            (folder / ".has_benchmark").write_text(_THROUGHPUT, "utf-8")
        process = None
        if not live:
            running_worker.start()
        elif not isinstance(worker, str):
            raise ConfigError("a live worker is started by its name, such as running('my_llm', live=True)")
        else:
            process = WorkerProcess(worker, folder, environ)
            stack.callback(process.stop)
            if problem := process.start(timeout):
                raise _not_ready(problem, process)
        kit = Kit(app, model, autoscaler, folder, process)
        loaded = [
            phrase for action, phrase in running_worker.backend.log_actions if action is LogAction.ModelLoaded
        ]
        for phrase in loaded[:1]:
            kit.say(phrase)
        _await_ready(kit, process, timeout)
        yield kit


def _made(worker: WorkerSource, settings: Settings) -> flask.Flask:
    if isinstance(worker, str):
        return create_app(worker, settings)
    if not isinstance(worker, ModuleType):
        return worker(settings)
    backend: Backend = worker.create_backend(settings)
    backend.package = worker.__name__.rpartition(".")[0]
    backend.require_loaded_sign()
    return make_app(backend, worker.create_blueprint(backend), settings)


def _await_ready(kit: Kit, process: WorkerProcess | None, timeout: float) -> None:
    def came() -> bool:
        last = kit.reported.reports[-1:]
        return any(report["max_perf"] > 0 or report["error_msg"] for report in last)

    with contextlib.suppress(AssertionError):
        kit.reported.wait_for(came, "a report of a ready worker", timeout)
    last = kit.reported.reports[-1:]
    if not last:
        raise _not_ready(f"it reported nothing within {timeout:g} s", process)
    if last[0]["error_msg"]:
        raise _not_ready(str(last[0]["error_msg"]), process)
    if last[0]["max_perf"] <= 0:
        raise _not_ready(f"it did not become ready within {timeout:g} s", process)


def _not_ready(reason: str, process: WorkerProcess | None) -> WorkerNotReady:
    if process is None:
        return WorkerNotReady(f"the worker is not ready: {reason}")
    return WorkerNotReady(f"the worker is not ready: {reason}\nits log:\n{process.log[-_LOG_TAIL:]}")


@functools.cache
def _signer() -> Signer:
    """One for all workers of this process: a key takes a second to find."""
    return Signer.generate()
