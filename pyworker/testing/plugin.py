"""Fixtures for pytest. In the conftest.py at the top of the tests:

    pytest_plugins = ["pyworker.testing.plugin"]

    @pytest.fixture(scope="session")
    def worker_name() -> str:
        return "my_llm"

Then a test asks for `kit`, or for `live_kit` under gunicorn. Each is started once in a session.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from pyworker.testing.kit import Kit, running


@pytest.fixture(scope="session")
def worker_name() -> str:
    """To be overridden: a name as for `create_app`."""
    raise pytest.UsageError("write a session fixture worker_name that returns the name of your worker")


@pytest.fixture(scope="session")
def worker_variables() -> Mapping[str, str]:
    """To be overridden if the worker needs environment variables."""
    return {}


@pytest.fixture(scope="session")
def started_worker(worker_name: str, worker_variables: Mapping[str, str]) -> Iterator[Kit]:
    """The worker of `kit`."""
    with running(worker_name, worker_variables) as kit:
        yield kit


@pytest.fixture(scope="session")
def started_live_worker(worker_name: str, worker_variables: Mapping[str, str]) -> Iterator[Kit]:
    """The worker of `live_kit`."""
    with running(worker_name, worker_variables, live=True) as kit:
        yield kit


@pytest.fixture
def kit(started_worker: Kit) -> Kit:
    """The worker in this process, ready; nothing of other tests is left."""
    started_worker.forget()
    return started_worker


@pytest.fixture
def live_kit(started_live_worker: Kit) -> Kit:
    """The worker under gunicorn, ready; nothing of other tests is left."""
    started_live_worker.forget()
    return started_live_worker
