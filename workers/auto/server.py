"""The worker that stands in until the model server is known; then `create_app("auto")` takes what fits."""

from __future__ import annotations

from pyworker.discovery.waiting import AUTO, create_backend, create_blueprint
from pyworker.server import start_server

__all__ = ["create_backend", "create_blueprint"]

if __name__ == "__main__":
    start_server(AUTO)
