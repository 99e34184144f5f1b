"""What happens once, before a worker serves: preparation of every payload class, nothing left behind."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyworker import create_app
from pyworker.app import worker_of
from pyworker.config import Settings
from tests.support.waiting import wait_until

SERVER = """
from dataclasses import dataclass

import flask

from pyworker import responses
from pyworker.backend import Backend
from pyworker.data_types import ApiPayload, EndpointHandler


class Base(ApiPayload):
    @classmethod
    def for_test(cls):
        return cls()

    def count_workload(self):
        return 1.0

    @classmethod
    def prepare(cls, settings):
        (settings.state_dir / cls.__name__).touch()


@dataclass
class First(Base):
    pass


@dataclass
class Second(Base):
    pass


class Handler(EndpointHandler):
    def __init__(self, payload, path):
        super().__init__()
        self.payload, self.path = payload, path

    @property
    def endpoint(self):
        return self.path

    def payload_cls(self):
        return self.payload

    def make_benchmark_payload(self):
        return self.payload.for_test()

    def generate_client_response(self, client_request, model_response):
        return responses.pass_through(model_response)


def create_backend(settings):
    return Backend(
        "http://127.0.0.1:1",
        None,
        benchmark_handler=Handler(First, "/first"),
        health_endpoint="/health",
        settings=settings,
    )


def create_blueprint(backend):
    blueprint = flask.Blueprint("prepared", __name__)
    view = backend.create_handler(Handler(Second, "/second"))
    blueprint.add_url_rule("/second", view_func=view, methods=["POST"])
    return blueprint
"""


@pytest.fixture
def package(tmp_path: Path) -> Iterator[str]:
    """A worker with a payload class for each of its two routes; `prepare` leaves a file."""
    name = f"prepared_worker_{os.getpid()}"
    folder = tmp_path / "packages" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "server.py").write_text(SERVER, encoding="utf-8")
    sys.path.insert(0, str(folder.parent))
    yield name
    sys.path.remove(str(folder.parent))
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


def test_every_payload_class_is_prepared_in_the_background(package: str, tmp_path: Path) -> None:
    settings = Settings(unsecured=True, state_dir=tmp_path, report_addrs=("http://127.0.0.1:1",))
    worker = worker_of(create_app(package, settings))
    assert not (tmp_path / "First").exists()
    worker.start()
    try:
        wait_until(lambda: (tmp_path / "First").exists() and (tmp_path / "Second").exists(), "both prepared")
    finally:
        worker.close()


def test_an_app_that_never_served_leaves_no_descriptor() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    create_app("hello_world", Settings(unsecured=True))
    before = descriptors()
    for _ in range(5):
        assert create_app("hello_world", Settings(unsecured=True)).test_client().get("/ping").text == "pong"
    assert descriptors() <= before
