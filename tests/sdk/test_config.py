"""What a configuration may say, and what is refused when the worker is made."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any, cast

import pytest
import requests

from pyworker.app import worker_of
from pyworker.config import ReadinessSource, Settings
from pyworker.data_types import LogAction, Upload
from pyworker.errors import ConfigError, JsonDataException
from pyworker.sdk import BenchmarkConfig, HandlerConfig, LogActionConfig, Worker, WorkerConfig
from pyworker.sdk.backend import SdkBackend
from pyworker.sdk.payload import form_of
from pyworker.sdk.routes import unused
from tests.support.process import ROOT
from tests.support.waiting import DEADLINE

BENCHMARK = BenchmarkConfig(dataset=[{"prompt": "tide"}])


def one_handler(**options: Any) -> WorkerConfig:
    every: dict[str, Any] = {"benchmark_config": BENCHMARK, **options}
    handler = HandlerConfig("/generate", **every)
    return WorkerConfig("http://127.0.0.1", 1, handlers=[handler], model_healthcheck_url="/health")


async def coroutine(*_arguments: Any) -> Any:
    return None


class Payload:
    """After the public SDK's class."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @classmethod
    def for_test(cls) -> Payload:
        return cls(7)

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> Payload:
        if "steps" not in json_msg:
            raise ForeignJsonDataException({"steps": "missing parameter"})
        return cls(json_msg["steps"])

    def generate_payload_json(self) -> dict[str, Any]:
        return {"num_steps": self.steps}

    def generate_payload_multipart(self) -> dict[str, Any] | None:
        return None if self.steps < 100 else {"steps": self.steps}

    def count_workload(self) -> float:
        return float(self.steps)


class JsonPayload:
    """After the same class, without a form."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> JsonPayload:
        return cls(json_msg["steps"])

    def generate_payload_json(self) -> dict[str, Any]:
        return {"num_steps": self.steps}

    def count_workload(self) -> float:
        return float(self.steps)


class ForeignJsonDataException(Exception):
    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message


ForeignJsonDataException.__name__ = "JsonDataException"


class Handler:
    """The same of its handlers."""

    endpoint = "/internal"
    has_benchmark = True
    allow_parallel_requests = True
    max_queue_time = 5.0
    benchmark_runs = 2
    concurrency = 3

    @classmethod
    def payload_cls(cls) -> type[Any]:
        return JsonPayload

    def make_benchmark_payload(self) -> JsonPayload:
        return JsonPayload(9)

    async def generate_client_response(self, client_request: Any, model_response: Any) -> Any:
        return None


class FormHandler(Handler):
    @classmethod
    def payload_cls(cls) -> type[Any]:
        return Payload


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (WorkerConfig(), "WorkerConfig.handlers is empty: give a HandlerConfig for each route"),
        (one_handler(benchmark_config=None), r"0 routes have a benchmark \(none\): exactly one"),
        (
            one_handler(benchmark_config=BenchmarkConfig()),
            "BenchmarkConfig needs a dataset with at least one payload, or a generator",
        ),
        (WorkerConfig("http://h", handlers=[HandlerConfig("a")]), "route='a'.*a route is a path without var"),
        (WorkerConfig("http://h", handlers=[HandlerConfig("/{a}")]), "a route is a path without variables"),
        (
            WorkerConfig("http://h", handlers=[HandlerConfig("/a"), HandlerConfig("/a")]),
            "two handlers have the route '/a'",
        ),
        (
            WorkerConfig(handlers=one_handler().handlers),
            'model_server_url is missing: such as "http://127.0.0.1"',
        ),
        (one_handler(request_parser=coroutine), "request_parser is called, not awaited: write `def`"),
        (one_handler(workload_calculator=coroutine), "workload_calculator is called, not awaited"),
        (
            one_handler(benchmark_config=BenchmarkConfig(generator=cast("Any", coroutine))),
            "BenchmarkConfig.generator is called, not awaited",
        ),
        (
            one_handler(payload_class=Payload, response_generator=coroutine),
            "generate_payload_multipart is not supported beside a response_generator or in a handler_class",
        ),
        (
            one_handler(handler_class=FormHandler),
            "route='/generate'.*generate_payload_multipart is not supported beside a response_generator",
        ),
        (
            WorkerConfig("http://h", handlers=one_handler().handlers, lifecycle=cast("Any", object())),
            "lifecycle is no asynchronous context manager: it needs __aenter__ and __aexit__",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_with_its_name(config: WorkerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Worker(config)


def test_what_has_no_effect_is_told() -> None:
    handlers = [
        HandlerConfig("/a", healthcheck="/health", is_remote_dispatch=True),
        HandlerConfig("/b", handler_class=Handler, max_queue_time=3.0),
        HandlerConfig("/c", payload_class=Payload, workload_calculator=len),
        HandlerConfig("/d", remote_function=coroutine, response_generator=coroutine),
    ]
    lines = list(unused(WorkerConfig(handlers=handlers, benchmark_data=[{}], benchmark_route="/a")))
    assert [line.partition(": ")[2] or line for line in lines] == [
        "use BenchmarkConfig.dataset",
        "the route with a benchmark_config is measured",
        "healthcheck has no effect: use WorkerConfig.model_healthcheck_url",
        "is_remote_dispatch has no effect without a remote_function",
        "handler_class decides; max_queue_time has no effect",
        "payload_class decides; workload_calculator has no effect",
        "remote_function decides; response_generator has no effect",
    ]


def test_run_takes_no_other_options() -> None:
    worker = Worker(one_handler())
    with pytest.raises(ConfigError, match=r"does not take reuse_port, ssl_context: everything but host"):
        worker.run(ssl_context=None, reuse_port=True)


def test_an_event_loop_with_other_tasks_is_not_taken_over() -> None:
    async def program() -> None:
        other = asyncio.ensure_future(asyncio.sleep(DEADLINE))
        try:
            await Worker(one_handler()).run_async()
        finally:
            other.cancel()

    with pytest.raises(ConfigError, match="the other tasks of its event loop would never go on"):
        asyncio.run(program())


def backend_of(config: WorkerConfig, **settings: Any) -> SdkBackend:
    app = Worker(config).create_app(Settings(unsecured=True, **settings))
    backend = worker_of(app).backend
    assert isinstance(backend, SdkBackend)
    return backend


def test_the_options_become_those_of_a_backend() -> None:
    config = one_handler(allow_parallel_requests=True, max_queue_time=None)
    config.handlers[0].benchmark_config = BenchmarkConfig([{"n": 1}], runs=3, concurrency=None)
    config.log_action_config = LogActionConfig(["up"], ["down"], ["by the way"])
    config.max_sessions = None
    config.model_healthcheck_url = "/health"
    backend = backend_of(config)
    assert backend.client.base_url == "http://127.0.0.1:1"
    assert backend.health_url == "http://127.0.0.1:1/health"
    assert (backend.max_sessions, backend.benchmark_concurrency) == (0, 10)
    assert backend.log_actions == [
        (LogAction.ModelLoaded, "up"),
        (LogAction.ModelError, "down"),
        (LogAction.Info, "by the way"),
    ]
    handler = backend.benchmark_handler
    assert (handler.benchmark_runs, handler.max_queue_time) == (3, None)
    assert handler.make_benchmark_payload().generate_payload_json() == {"n": 1}
    assert handler.make_benchmark_payload().count_workload() == 100.0


def test_readiness_as_later_releases_of_the_public_sdk_have_it() -> None:
    config = one_handler()
    config.log_action_config = LogActionConfig(["up"])
    assert backend_of(config).readiness is ReadinessSource.HEALTH  # the log has no file
    config.readiness, config.readiness_timeout, config.healthcheck_probe_timeout = "logs", 12.5, 30
    backend = backend_of(config)
    assert (backend.readiness, backend.health_timeout) == (ReadinessSource.LOGS, 30)
    assert backend.settings.model_ready_timeout == 12.5
    environ = {"UNSECURED": "true", "MODEL_READY_TIMEOUT": "7", "MODEL_READINESS": "health"}
    app = Worker(config).create_app(Settings.from_env(environ))
    backend = worker_of(app).backend
    assert (backend.readiness, backend.settings.model_ready_timeout) == (ReadinessSource.HEALTH, 7)
    config.readiness, config.readiness_timeout = "prompt", 0
    with pytest.raises(ConfigError) as refused:
        Worker(config)
    assert refused.value.problems == (
        "WorkerConfig.readiness is 'prompt': write one of logs, health, either",
        "WorkerConfig.readiness_timeout is 0: write a number of seconds above 0",
    )


def test_a_payload_class_and_a_handler_class_of_the_public_sdk_are_used() -> None:
    handlers = [
        HandlerConfig("/a", handler_class=Handler),
        HandlerConfig("/b", payload_class=Payload),
    ]
    config = WorkerConfig("http://h", 1, handlers=handlers, model_healthcheck_url="/health")
    _, a, b = backend_of(config).handlers
    assert (a.benchmark_runs, a.concurrency, a.max_queue_time, a.allow_parallel_requests) == (2, 3, 5.0, True)
    assert a.make_benchmark_payload().count_workload() == 9.0
    payload = b.payload_cls().from_json_msg({"steps": 12})
    assert (payload.count_workload(), payload.generate_payload_json()) == (12.0, {"num_steps": 12})
    assert payload.generate_payload_multipart() is None
    form = b.payload_cls().from_json_msg({"steps": 100}).generate_payload_multipart()
    assert form is not None
    assert form.fields == [("steps", "100")]
    with pytest.raises(JsonDataException) as refused:
        b.payload_cls().from_json_msg({})
    assert refused.value.json_msg == {"steps": "missing parameter"}


def test_a_model_that_nothing_calls_loaded_is_refused() -> None:
    config = one_handler()
    config.model_healthcheck_url = None
    with pytest.raises(ConfigError, match=r"give WorkerConfig a log_action_config=LogActionConfig\(on_load="):
        backend_of(config)


def test_the_fields_of_a_form() -> None:
    form = form_of(
        {
            "file": ("a.wav", b"RIFF", "audio/wav"),
            "n": 3,
            "flag": True,
            "left_out": None,
            "options": {"a": 1},
            "words": ["sea", None, ["tide"]],
        }
    )
    assert form.uploads == [("file", Upload(b"RIFF", "a.wav", "audio/wav"))]
    fields = {"n": "3", "flag": "true", "options": '{"a": 1}'}
    assert form.fields == [*fields.items(), ("words", "sea"), ("words", '["tide"]')]
    with pytest.raises(TypeError, match=r"the field x of a form holds bytes: write \(filename, bytes, cont"):
        form_of({"x": b"bytes"})


def test_nobody_else_calls_the_bridge() -> None:
    config = WorkerConfig(
        handlers=[HandlerConfig("/f", remote_function=coroutine, benchmark_config=BENCHMARK)],
        log_action_config=LogActionConfig(on_load=["up"]),
    )
    app = Worker(config).create_app(Settings(unsecured=True))
    worker = worker_of(app)
    url = worker.backend.client.base_url
    [loop] = worker.backend.loops(worker.lifecycle)
    loop.start()
    try:
        assert requests.get(f"{url}/healthcheck", timeout=DEADLINE).json() == {"ok": True}
        for headers in ({}, {"Authorization": "Bearer guessed"}):
            answer = requests.post(
                f"{url}/f", json={"payload": {}, "model": {}}, headers=headers, timeout=DEADLINE
            )
            assert (answer.status_code, answer.json()) == (403, {"error": "this port is the worker's own"})
    finally:
        loop.stop()
        assert loop.join(DEADLINE)
        worker.close()


def test_a_program_without_coroutines_needs_no_aiohttp() -> None:
    program = (
        "import sys\n"
        "sys.modules['aiohttp'] = None\n"
        "from pyworker.config import Settings\n"
        "from pyworker.sdk import *\n"
        "handler = HandlerConfig('/a', benchmark_config=BenchmarkConfig([{'n': 1}]))\n"
        "config = WorkerConfig('http://127.0.0.1', 1, handlers=[handler], model_healthcheck_url='/h')\n"
        "Worker(config).create_app(Settings(unsecured=True))\n"
        "handler.response_generator = lambda request, response: None\n"
        "Worker(config)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 1
    assert "need aiohttp, which is not installed: pip install 'aiohttp>=3.10,<4'" in done.stderr
