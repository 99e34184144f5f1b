"""The demo: a model server, a local autoscaler and a worker on this machine, and requests to them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pyworker.instance import ports
from pyworker.instance.children import Children, exit_on_signals, shell_status
from pyworker.instance.environment import (
    IS_CHECKOUT,
    PYTHON,
    WORKER_NAME,
    gunicorn,
    output_of,
    prepare,
)
from pyworker.instance.output import Output, StartError
from pyworker.local import demo_engines

_HOST = "127.0.0.1"
_FOLDER = Path(".pyworker")
_WORKER_LOG = _FOLDER / "worker.log"
_USAGE = Path(__file__).resolve().parent.parent / "instance" / "usage.txt"
_PYTHON = PYTHON if IS_CHECKOUT else sys.executable
_READY_SECONDS = 90.0
_TICK = 0.2
_MEND = "Mend what its log names, then start again."
_PORTS = {"DEMO_MODEL_PORT": "5001", "DEMO_AUTOSCALER_PORT": "8081", "WORKER_PORT": "3000"}
#: Settings of a worker that a shell may have, and that are not meant for the demo.
_UNSET = {
    *("BACKEND", "UNSECURED", "CHECK_URL", "MASTER_TOKEN", "MODEL_API_KEY", "MODEL_HEALTH_ENDPOINT"),
    *("MODEL_TIMEOUT", "PYWORKER_PUBLIC_URL", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS"),
    *demo_engines.VARIABLES,
}
_CHAT = '{"messages": [{"role": "user", "content": "What is a tide?"}], "max_tokens": 64}'
_FIND_CLIENT = """
import contextlib, importlib.util, sys
for name in (f"workers.{sys.argv[1]}.client", f"{sys.argv[1]}.client"):
    with contextlib.suppress(ModuleNotFoundError):
        if importlib.util.find_spec(name):
            print(name)
            break
"""


class Demo:
    """One run of the demo, in the project's top folder. For the main thread of a process without others."""

    def __init__(self, worker: str, environ: Mapping[str, str]) -> None:
        self._worker = worker
        self._ports = {name: environ.get(name) or default for name, default in _PORTS.items()}
        self._model_port, self._autoscaler_port, self._worker_port = self._ports.values()
        self._output = Output()
        self._engine = demo_engines.engine_of(worker, has_llama=False)  # unless it is found
        self._children = Children(self._output, self._environ(environ), _FOLDER / "setup.log")
        #: The log of each server by its name in messages.
        self._logs: dict[str, Path] = {}

    def run(self, *, once: bool) -> int:
        """The exit status. once: end after the example requests."""
        exit_on_signals()
        try:
            self._prepare()
            self._start_all()
            client = self._client()
            self._show_responses(client)
            if not once:
                self._show_next_steps(client)
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
                self._require_children()
        except StartError as error:
            self._output.note(*error.lines)
            return 1
        finally:
            self._children.stop_all()
            self._output.end_line()
        return 0

    def _environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Only what the demo means, whatever the settings of the shell are for."""
        # Servers of this machine are not reached through a proxy.
        no_proxy = ",".join(filter(None, (_HOST, "localhost", environ.get("no_proxy"))))
        return {
            **{name: text for name, text in environ.items() if name not in _UNSET},
            "WORKER_PORT": self._worker_port,
            f"VAST_TCP_PORT_{self._worker_port}": self._worker_port,
            "WORKER_HOST": _HOST,
            "PUBLIC_IPADDR": _HOST,
            "CONTAINER_ID": "1",
            "PYWORKER_DOCS": "true",
            "USE_SSL": "false",
            "REPORT_ADDR": f"http://{_HOST}:{self._autoscaler_port}",
            "MODEL_SERVER_URL": f"http://{_HOST}:{self._model_port}",
            "MODEL_LOG": str(_FOLDER.absolute() / "model.log"),
            "PYWORKER_STATE_DIR": str(_FOLDER.absolute()),
            "DRAIN_TIMEOUT": environ.get("DRAIN_TIMEOUT") or "5",
            "no_proxy": no_proxy,
            "NO_PROXY": no_proxy,
        }

    def _prepare(self) -> None:
        ports.require_free(_HOST, self._ports)
        self._output.say(f"The demo of the worker {self._worker}, all on this machine:")
        try:
            # The log and the measured speed of an earlier demo must not count for this one.
            shutil.rmtree(_FOLDER, ignore_errors=True)
            _FOLDER.mkdir(exist_ok=True)
            if IS_CHECKOUT:
                prepare(self._children)
        except OSError as error:
            raise StartError(f"the demo cannot be prepared: {error}") from error
        if demo_engines.wants_llama(self._worker):
            has_llama = output_of(_PYTHON, "-c", demo_engines.LLAMA_CHECK) == "True"
            self._engine = demo_engines.engine_of(self._worker, has_llama=has_llama)
        self._children.environ = {**self._children.environ, **self._engine.variables}

    def _start_all(self) -> None:
        """Start the three servers, and wait until the worker is ready for requests."""
        engine = self._engine
        command = engine.command_at(self._model_port, f"{_FOLDER}/model.log")
        self._spawn(engine.name, "model-server.log", *command)
        autoscaler = ("pyworker.local.autoscaler", "--port", self._autoscaler_port)
        self._spawn("The local autoscaler", "autoscaler.log", *autoscaler)
        # The worker's first report and the public key need the autoscaler, hence this order.
        self._await(
            f"waiting for the local autoscaler on port {self._autoscaler_port}",
            lambda: self._workers() is not None,
        )
        self._spawn(f"The worker {self._worker}", _WORKER_LOG.name, *gunicorn(self._worker))
        self._await(f"waiting for the worker on port {self._worker_port}", self._worker_responds)
        health = f"waiting for {engine.name.replace('The ', 'the ')} on port {self._model_port}"
        self._await(health, lambda: _get(self._model_port, engine.health) is not None)
        self._await("waiting for the worker to measure the model's speed", self._worker_is_ready)

    def _spawn(self, name: str, log: str, *module: str) -> None:
        self._logs[name] = _FOLDER / log
        with self._logs[name].open("ab") as file:
            self._children.start(name, _PYTHON, "-m", *module, stdout=file, stderr=file)

    def _await(self, text: str, condition: Callable[[], object]) -> None:
        """Until it holds; raises `StartError` if a server ends or the time is up."""
        deadline = time.monotonic() + _READY_SECONDS
        with self._output.step(text):
            while not condition():
                self._require_children()
                if time.monotonic() > deadline:
                    raise self._failure(
                        f"Gave up after {_READY_SECONDS:.0f} s of {text} (see the logs in {_FOLDER}). "
                        f"{self._engine.name} stands behind the worker, which has to know "
                        f"{self._engine.known_by}."
                    )
                self._output.tick()
                time.sleep(_TICK)

    def _failure(self, reason: str, log: Path = _WORKER_LOG) -> StartError:
        """The error, after the last lines of this log have been shown."""
        self._output.show_tail(log)
        return StartError(reason)

    def _require_children(self) -> None:
        """Raise `StartError` if a server has ended."""
        for name, process in self._children.running.items():
            if process.poll() is not None and name in self._logs:
                status = shell_status(process.returncode)
                how = f"ended by itself (status {status}). {_MEND}"
                if status > 128:
                    how = f"was ended from outside (signal {status - 128}). Is there enough memory?"
                raise self._failure(f"{name} {how}", self._logs[name])

    def _workers(self) -> list[dict[str, str]] | None:
        """The workers that the autoscaler knows; None if it does not respond."""
        body = _get(self._autoscaler_port, "/workers/")
        return None if body is None else json.loads(body)["workers"]

    def _worker_responds(self) -> bool:
        """Raises `StartError` if the worker only runs on to report that it cannot start."""
        if re.search(r"pyworker: cannot start: .*; reported", _WORKER_LOG.read_text("utf-8", "replace")):
            raise self._failure(f"The worker cannot start. {_MEND}")
        return _get(self._worker_port, "/ping") is not None

    def _worker_is_ready(self) -> bool:
        """Raises `StartError` if the worker has reported an error."""
        for worker in self._workers() or []:
            if worker["state"] == "errored":
                raise self._failure(f"The worker reports an error: {' '.join(worker['error_msg'].split())}")
            return worker["state"] == "ready"
        return False

    def _client(self) -> Sequence[str]:
        """The example client's module and options; empty if the worker has none."""
        module = output_of(_PYTHON, "-c", _FIND_CLIENT, self._worker, environ=self._children.environ)
        if self._autoscaler_port == _PORTS["DEMO_AUTOSCALER_PORT"]:
            options = ("-l",)
        else:
            url = f"http://{_HOST}:{self._autoscaler_port}"
            options = ("--autoscaler", url, "-k", "local", "-e", self._worker)
        return (module, *options) if module else ()

    def _show_responses(self, client: Sequence[str]) -> None:
        if not client:
            said = f"{self._worker} has no client module, so no example requests are sent."
            return self._output.say(f"\nThe worker is ready. {said}")
        self._output.say("\nA whole response:")
        self._ask(client)
        self._output.say("\nA streamed response:")
        self._ask((*client, "--stream"))
        if self._engine.key:
            self._output.say("\nThe same without the autoscaler, as any client of OpenAI's API may ask:")
            door = ("--openai", f"http://{_HOST}:{self._worker_port}", "-k", self._engine.key)
            self._ask((client[0], *door))
        return None

    def _ask(self, client: Sequence[str]) -> None:
        """One request of the example client, shown as a command one could type."""
        command = (_PYTHON, "-m", *client)
        self._output.say(f"$ {' '.join(command)}")
        log = _FOLDER / "client.log"
        # Warnings of the client are for its log.
        with log.open("wb") as errors:
            self._children.start("The client", *command, "--timeout", "60", stderr=errors)
        if self._children.wait("The client"):
            self._require_children()
            raise self._failure(f"The request failed. {_WORKER_LOG} may say more.", log)

    def _show_next_steps(self, client: Sequence[str]) -> None:
        self._output.say(f"\nEverything goes on until Ctrl-C. To try in another terminal, in {Path.cwd()}:")
        if client:
            module, *options = client
            how = " ".join(options)
            self._output.say(f'  {_PYTHON} -m {module} {how} --stream --prompt "What is a tide?"')
            self._output.say(f"  {_PYTHON} -m pyworker.loadtest -w {self._worker} {how} -n 100 -rps 10")
        if self._engine.key:
            self._show_door()
        self._output.say(f"  {_PYTHON} -m pyworker.top http://{_HOST}:{self._worker_port}")
        self._output.say(f"  curl http://{_HOST}:{self._worker_port}/ping")
        self._output.say(f"  curl http://{_HOST}:{self._autoscaler_port}/workers/")
        self._output.say(f"In a browser: the fleet http://{_HOST}:{self._autoscaler_port}/")
        self._output.say(f"              the worker http://{_HOST}:{self._worker_port}/status")
        self._output.say(f"              its routes http://{_HOST}:{self._worker_port}/docs")
        self._output.say(f"The logs: {_WORKER_LOG}, {_FOLDER}/autoscaler.log, {_FOLDER}/model.log")
        if self._engine.hint:
            self._output.say(self._engine.hint)

    def _show_door(self) -> None:
        url = f"http://{_HOST}:{self._worker_port}/v1"
        key = f"-H 'Authorization: Bearer {self._engine.key}'"
        self._output.say(f"  curl {key} {url}/models")
        self._output.say(f"  curl {key} -d '{_CHAT}' {url}/chat/completions")


def _get(port: str, path: str) -> bytes | None:
    """The body of a response with status 200."""
    connection = http.client.HTTPConnection(_HOST, int(port), timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    return None


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """The program behind `start_server.sh demo`, or of an installed package; its exit status."""
    if arguments[:1] == ["demo"]:  # the word for start_server.sh
        arguments = arguments[1:]
    names = [argument for argument in arguments if not argument.startswith("-")] or ["hello_world"]
    options = {argument for argument in arguments if argument.startswith("-")}
    if options & {"-h", "--help"}:
        sys.stdout.write(_USAGE.read_text())
        return 0
    fault = ""
    if unknown := options - {"--once"}:
        fault = f"unknown option of demo: {min(unknown)}"
    elif len(names) > 1:
        fault = f"more than one worker: {names[0]} and {names[1]}"
    elif not WORKER_NAME.fullmatch(names[0]):
        fault = f"not a worker's name: {names[0]}"
    if fault:
        sys.stderr.write(f"start_server.sh: {fault}\n\n{_USAGE.read_text()}")
        return 2
    return Demo(names[0], environ).run(once="--once" in options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
