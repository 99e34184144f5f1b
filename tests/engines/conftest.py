"""The engines, each started once for the files of one test process that need it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import engines
from tests.support.engines import Engine

SHOWN_LOG = 10_000


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the logs of the engines that run."""
    report = yield
    if report.failed:
        for engine in engines.running:
            report.sections.append((f"log of {engine!r}", engine.log[-SHOWN_LOG:]))
    return report


@pytest.fixture(scope="session")
def folder_of_engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and logs."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="session")
def llama_cpp(folder_of_engines: Path) -> Iterator[Engine]:
    """llama.cpp's server, ready: four responses at once, 16,384 tokens each."""
    engine = engines.llama_cpp(folder_of_engines, "--context", "16384", "--parallel", "4")
    yield from _running(engine)


@pytest.fixture(scope="session")
def llama_cpp_embeddings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Another one, for embeddings."""
    yield from _running(engines.llama_cpp(tmp_path_factory.mktemp("embeddings"), "--embeddings"))


@pytest.fixture(scope="session")
def transformers_serve(folder_of_engines: Path) -> Iterator[Engine]:
    """`transformers serve`, ready."""
    yield from _running(engines.transformers_serve(folder_of_engines))


def _running(engine: Engine) -> Iterator[Engine]:
    try:
        yield engine.start()
    finally:
        engine.stop()
