"""All checks of one worker, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from pyworker.app import create_app, worker_of
from pyworker.backend import Backend
from pyworker.check import contract, protocol
from pyworker.check.behaviour import GOOD, JOB_PATIENCE, MODEL_TIMEOUT, PATIENCE, Behaviour
from pyworker.check.finding import Finding, Report
from pyworker.check.subject import RouteUnderTest, routes_of
from pyworker.config import Settings
from pyworker.errors import ConfigError
from pyworker.jobs import JobHandler
from pyworker.testing import Kit, ModelServer, WorkerNotReady, running, whole

_BEHAVIOUR = (
    *("served", "unknown field", "bad payload", "error", "cut", "cut stream", "silence"),
    *("hang-up", "hang-up in a stream", "accounts"),
)
CHECKS = ("made", "views", "example", "workload", "phrases", "ready", "protocol", *_BEHAVIOUR)


def check_worker(
    name: str,
    *,
    log: Path | None = None,
    variables: Mapping[str, str] | None = None,
    job_patience: float = JOB_PATIENCE,
    say: Callable[[str], object] = lambda _: None,
) -> Report:
    """name: as for `create_app`. log: one of its model server that was loaded. variables: of its environment.
    job_patience: seconds for a handler with calls of its own to give up a silent model server. say: is told
    what goes on.
    """
    say("making the worker")
    try:
        app = create_app(name, Settings.from_env(dict(variables or {})))
    except ConfigError as error:
        return _unmade(name, "; ".join(str(error).splitlines()))
    except Exception as error:  # noqa: BLE001  the author's code
        return _unmade(name, f"{type(error).__name__}: {error}")
    backend = worker_of(app).backend
    try:
        routes = routes_of(app)
        findings = list(_contract(backend, routes, log))
        if any(route.handler is not None for route in routes):
            findings += _running(name, backend, routes, variables or {}, job_patience, say)
    finally:
        worker_of(app).close()
    return Report(name, [route.name for route in routes], CHECKS, findings)


def _unmade(name: str, problem: str) -> Report:
    finding = Finding("made", "", f"the worker cannot be made: {problem}", "mend that first")
    return Report(name, [], ["made"], [finding])


def _contract(backend: Backend, routes: Sequence[RouteUnderTest], log: Path | None) -> Iterator[Finding]:
    yield from contract.check_views(routes)
    for route in routes:
        is_measured = _is_measured(route, backend)
        yield from contract.check_example(route, is_measured)
        yield from contract.check_workload(route, is_measured)
    yield from contract.check_phrases(backend, log)


def _is_measured(route: RouteUnderTest, backend: Backend) -> bool:
    return route.handler is not None and route.handler.endpoint == backend.benchmark_handler.endpoint


def _running(
    name: str,
    backend: Backend,
    routes: Sequence[RouteUnderTest],
    variables: Mapping[str, str],
    job_patience: float,
    say: Callable[[str], object],
) -> Iterator[Finding]:
    # What it is loaded by does not matter here, and what does not matter must not end the check.
    environ = {"HEALTH_FAILURES": "1000", **variables, "MODEL_TIMEOUT": str(MODEL_TIMEOUT)}
    # The answers that such a benchmark needs are not known.
    has_own_calls = isinstance(backend.benchmark_handler, JobHandler)
    if has_own_calls:
        problem = "the benchmark was not run: its handler makes calls of its own"
        yield Finding("ready", "", problem, "nothing; a test of your own can tell", is_fault=False)
    health = None if backend.health_url is None else urlsplit(backend.health_url).path
    for benchmark in (False,) if has_own_calls else (True, False):
        say("starting it" + (", with its benchmark" if benchmark else ""))
        with ModelServer() as model:
            model.answer_all(whole(GOOD))
            try:
                with running(name, environ, live=True, benchmark=benchmark, model=model) as kit:
                    behaviour = Behaviour(kit, health, job_patience)
                    yield from _called(kit, behaviour, routes, say)
                return
            except WorkerNotReady as error:
                what = "with its benchmark" if benchmark else "without its benchmark, either"
                advice = "see what it says; the benchmark's payload must be one that its route takes"
                yield Finding("ready", "", f"in front of a good model server, {what}: {error}", advice)
            if all(request.path == health for request in model.requests()):
                return  # it has not come to the benchmark


def _called(
    kit: Kit, behaviour: Behaviour, routes: Sequence[RouteUnderTest], say: Callable[[str], object]
) -> Iterator[Finding]:
    behaviour.answer(whole(GOOD))
    yield from protocol.check_unknown_path(kit)
    yield from protocol.check_methods(kit, routes)
    for route in routes:
        say(route.name)
        yield from behaviour.check(route)
    yield from behaviour.accounts.compare(kit.reported, PATIENCE)
