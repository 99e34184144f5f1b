"""Finds a worker package: a folder under `workers/`, or a dotted path on the Python path; and says what a
request to one looks like.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pyworker.config import Settings
from pyworker.data_types import ApiPayload, EndpointHandler, OpenPayload
from pyworker.errors import ConfigError


def known_workers() -> list[str]:
    """Names of the folders under `workers/` that hold a server."""
    try:
        package = importlib.import_module("workers")
    except ModuleNotFoundError:
        return []
    servers = [server for folder in package.__path__ for server in Path(folder).glob("*/server.py")]
    return sorted({server.parent.name for server in servers})


def load_worker(name: str) -> ModuleType:
    """Import `<worker>/server.py`, which has `create_backend(settings)` and `create_blueprint(backend)`.

    Raises `ConfigError` that names the workers there are.
    """
    for package in (f"workers.{name}", name):
        if _exists(package) and _exists(f"{package}.server"):
            module = importlib.import_module(f"{package}.server")
            for function in ("create_backend", "create_blueprint"):
                if not callable(getattr(module, function, None)):
                    raise ConfigError(f"{module.__name__} has no function {function}")
            return module
    known = ", ".join(known_workers()) or "none"
    raise ConfigError(
        f"there is no worker {name!r}; workers here: {known}. A worker of your own is named by the dotted "
        "path of its package, which must be on the Python path and hold a server.py"
    )


def module_of(name: str, module: str) -> str | None:
    """The dotted name of another module of a worker's package, such as `test_load`; None if it has none."""
    dotted = (f"workers.{name}.{module}", f"{name}.{module}")
    return next((one for one in dotted if _exists(one.rpartition(".")[0]) and _exists(one)), None)


@dataclass(frozen=True)
class Example:
    """Requests to a route of a worker, as its benchmark sends them. make: may raise NotImplementedError."""

    route: str
    payload_cls: type[ApiPayload]
    make: Callable[[], ApiPayload]


def example_of(name: str, route: str | None = None) -> Example:
    """Of the route that the worker's benchmark measures, or of another. Raises `ConfigError`."""
    module = load_worker(name)
    backend: Any = module.create_backend(Settings())
    handlers: Sequence[EndpointHandler[Any]] = [backend.benchmark_handler]
    if route is not None:
        module.create_blueprint(backend)
        handlers = [handler for handler in backend.handlers if handler.endpoint == route]
    backend.client.close()
    if not handlers or handlers[0].method not in ("POST", "PUT", "PATCH"):
        raise ConfigError(f"the worker {name!r} has no route {route} that takes a payload")
    handler = handlers[0]
    return Example(handler.endpoint, handler.payload_cls(), handler.make_benchmark_payload)


def sent_fields(payload: ApiPayload) -> Mapping[str, object]:
    """A payload as a client sends it. An open payload is more than its declared fields."""
    if isinstance(payload, OpenPayload):
        return payload.sent or payload.generate_payload_json()
    return dataclasses.asdict(payload)


def _exists(dotted: str) -> bool:
    """Whether such a module can be found. An error inside a parent package is raised."""
    if dotted.startswith("."):
        return False  # relative to nothing
    try:
        return importlib.util.find_spec(dotted) is not None
    except ModuleNotFoundError as error:
        if error.name is not None and (dotted + ".").startswith(error.name + "."):
            return False
        raise
    except ValueError:
        return False  # not a dotted path at all
