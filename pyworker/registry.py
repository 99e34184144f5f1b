"""Finding a worker package: by a folder's name under `workers/`, or by a dotted path on the Python path."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType
from typing import Protocol, cast

import flask

from pyworker.backend import Backend
from pyworker.config import Settings
from pyworker.errors import ConfigError


class WorkerModule(Protocol):
    """What `<worker>/server.py` has to offer."""

    def create_backend(self, settings: Settings) -> Backend:
        """The model server, its handlers' defaults and its log lines."""
        ...

    def create_blueprint(self, backend: Backend) -> flask.Blueprint:
        """The routes."""
        ...


def known_workers() -> list[str]:
    """Names of the folders under `workers/` that hold a server."""
    try:
        package = importlib.import_module("workers")
    except ModuleNotFoundError:
        return []
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    return sorted(name for name in names if _exists(f"workers.{name}.server"))


def load_worker(name: str) -> WorkerModule:
    """Import the server module of a worker; raises `ConfigError` that names the workers there are."""
    for package in (f"workers.{name}", name):
        if _exists(package) and _exists(f"{package}.server"):
            return _checked(importlib.import_module(f"{package}.server"))
    known = ", ".join(known_workers()) or "none"
    raise ConfigError(
        f"there is no worker {name!r}; workers here: {known}. A worker of your own is named by the dotted "
        "path of its package, which must be on the Python path and hold a server.py"
    )


def _exists(dotted: str) -> bool:
    """Whether such a module can be found; a fault inside a parent package is not hidden."""
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


def _checked(module: ModuleType) -> WorkerModule:
    for function in ("create_backend", "create_blueprint"):
        if not callable(getattr(module, function, None)):
            raise ConfigError(f"{module.__name__} has no function {function}")
    return cast("WorkerModule", module)
