"""Finds a worker package: a folder under `workers/`, or a dotted path on the Python path."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from pyworker.errors import ConfigError


def known_workers() -> list[str]:
    """Names of the folders under `workers/` that hold a server."""
    try:
        package = importlib.import_module("workers")
    except ModuleNotFoundError:
        return []
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg]
    return sorted(name for name in names if _exists(f"workers.{name}.server"))


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
