"""Servers and workers for the tests, and the check that none of them is left behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.model_server import ModelServer
from pyworker.local.signing import Signer
from tests.support import process
from tests.support.leaks import LeakCheck, share_port, unshare_port
from tests.support.scripted import ScriptedServer
from tests.support.stack import (
    API_KEY,
    BOTH_WAYS,
    ECHO_WORKER,
    MAX_BODY,
    MODEL_API_KEY,
    PLAIN_WORKER,
    NewStack,
    Stack,
)
from tests.support.starting import Installed, Run, Start, installed_copy
from tests.support.tls import tls_variables
from tests.support.waiting import DEADLINE

SHOWN_LOG = 20_000


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long the soak is, and how long the hostile crowd stays."""
    parser.addoption(
        "--soak-size", type=float, default=0.03, help="1 is the full length (default: %(default)s)"
    )
    parser.addoption(
        "--crowd-seconds",
        type=float,
        default=10,
        help="how long the hostile crowd stays; 1800 is the full length (default: %(default)s)",
    )


@pytest.fixture
def crowd_seconds(request: pytest.FixtureRequest) -> float:
    """How long the crowd stays."""
    return cast("float", request.config.getoption("--crowd-seconds"))


@pytest.fixture
def soak_size(request: pytest.FixtureRequest) -> float:
    """Of the full length."""
    return cast("float", request.config.getoption("--soak-size"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the logs of the workers that run."""
    report = yield
    if report.failed:
        for worker in process.running:
            report.sections.append((f"log of {worker!r}", worker.log[-SHOWN_LOG:]))
    return report


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """A test that leaves a thread or a socket behind fails."""
    check = LeakCheck()
    yield
    check.finish()


@pytest.fixture(scope="session")
def signing_key() -> Signer:
    """One key for all: finding one takes a second."""
    return Signer.generate()


@pytest.fixture
def local_autoscaler(signing_key: Signer) -> Iterator[Autoscaler]:
    """A local autoscaler of the test's own."""
    with Autoscaler(signer=signing_key) as running:
        yield running


@pytest.fixture
def scripted_model() -> Iterator[ScriptedServer]:
    """A scripted model server of the test's own."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def local_model() -> Iterator[ModelServer]:
    """The local model server, loaded."""
    with ModelServer() as running:
        running.wait_ready(DEADLINE)
        yield running


@pytest.fixture
def new_stack(
    tmp_path: Path, local_autoscaler: Autoscaler, scripted_model: ScriptedServer
) -> Iterator[NewStack]:
    """Makes stacks of the test's own around one autoscaler and one model server; nothing is started."""
    with ExitStack() as ending:

        def make(variables: Mapping[str, str] | None = None, app: str = ECHO_WORKER) -> Stack:
            stack = Stack(tmp_path, local_autoscaler, scripted_model, variables, app)
            ending.callback(lambda: stack.worker.stop())
            return stack

        yield make


@pytest.fixture(scope="session")
def shared_stack(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[Stack]:
    """One ready worker for all tests that leave it as they found it."""
    variables = {"MAX_BODY_BYTES": str(MAX_BODY), "MODEL_API_KEY": MODEL_API_KEY}
    with _ready_stack(tmp_path_factory.mktemp("shared"), signing_key, variables) as stack:
        yield stack


@pytest.fixture(scope="session", params=["plain", "tls"])
def shared_front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[Stack]:
    """A ready worker with few threads, for all that is the same over plain TCP and over TLS."""
    folder = tmp_path_factory.mktemp(request.param)
    tls = tls_variables(folder) if request.param == "tls" else {}
    with _ready_stack(folder, signing_key, {"WORKER_THREADS": "64", **tls}) as stack:
        yield stack


@pytest.fixture(scope="session")
def shared_plain(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[Stack]:
    """A ready worker of tests/support/plain_worker, which knows API_KEY."""
    variables = {
        "OPENAI_API_KEY_DIGESTS": hashlib.sha256(API_KEY.encode()).hexdigest(),
        "MODEL_API_KEY": MODEL_API_KEY,
        "MODEL_TIMEOUT": "2",
        "MAX_BODY_BYTES": str(MAX_BODY),
    }
    with _ready_stack(tmp_path_factory.mktemp("keyed"), signing_key, variables, PLAIN_WORKER) as stack:
        yield stack


@pytest.fixture(scope="session")
def shared_both(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[Stack]:
    """A ready worker of tests/support/both_ways."""
    with _ready_stack(tmp_path_factory.mktemp("both"), signing_key, {}, BOTH_WAYS) as stack:
        yield stack


@contextmanager
def _ready_stack(
    folder: Path, signer: Signer, variables: Mapping[str, str], app: str = ECHO_WORKER
) -> Generator[Stack]:
    with Autoscaler(signer=signer) as autoscaler, ScriptedServer() as model:
        autoscaler_port = urlsplit(autoscaler.url).port or 0
        share_port(autoscaler_port, "pyworker-autoscaler")
        share_port(model.port, f"scripted-{model.port}")
        stack = Stack(folder, autoscaler, model, variables, app)
        try:
            stack.start_ready()
            yield stack
        finally:
            stack.worker.stop()
            unshare_port(autoscaler_port)
            unshare_port(model.port)


@pytest.fixture
def stack(shared_stack: Stack) -> Stack:
    """The shared worker, with a model server that has no orders yet."""
    shared_stack.model.forget()
    assert shared_stack.worker.is_alive, shared_stack.worker.log
    return shared_stack


@pytest.fixture
def plain(shared_plain: Stack) -> Stack:
    """The worker made the short way, with a model server that has no orders yet."""
    shared_plain.model.forget()
    assert shared_plain.worker.is_alive, shared_plain.worker.log
    return shared_plain


@pytest.fixture
def both(shared_both: Stack) -> Stack:
    """The worker with each route twice, with a model server that has no orders yet."""
    shared_both.model.forget()
    assert shared_both.worker.is_alive, shared_both.worker.log
    return shared_both


@pytest.fixture
def front(shared_front: Stack) -> Stack:
    """The shared worker with few threads, with a model server that has no orders yet."""
    shared_front.model.forget()
    assert shared_front.worker.is_alive, shared_front.worker.log
    return shared_front


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts runs of start_server.sh and ends whatever a failed test leaves of them."""
    with ExitStack() as stack:

        def start_run(*arguments: Any, **settings: Any) -> Run:
            run = Run(*arguments, **settings)
            stack.callback(run.close)
            return run

        yield start_run


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Made once, since packages take their time. The space in the folder's name is on purpose."""
    base = tmp_path_factory.getbasetemp()
    # Of each test process; their folders have one parent.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return installed_copy(shared, tmp_path_factory.mktemp("installed"))
