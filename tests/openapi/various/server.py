"""A worker with every kind of route."""

from __future__ import annotations

from dataclasses import dataclass

import flask
from typing_extensions import Self

from pyworker import routes
from pyworker.backend import Backend
from pyworker.data_types import Form, OpenPayload
from pyworker.routes import Delete, Get, Post


@dataclass
class Generation(OpenPayload):
    """What to generate: <img src=x onerror="window.harmed=1">"""

    prompt: str
    steps: int = 4
    stream: bool | None = None

    @classmethod
    def from_form(cls, form: Form) -> Self:
        return cls.from_json_msg({**dict(form.fields), "files": len(form.uploads)})

    def count_workload(self) -> float:
        return float(self.steps)


create_backend, _create_blueprint = routes.worker(
    "http://127.0.0.1:1",
    Post("/generate", Generation, benchmark={"prompt": "a lighthouse", "stream": True}),
    Get("/files/<file_id>"),
    Delete("/files/<file_id>"),
    health="/health",
    parallel=True,
)


def create_blueprint(backend: Backend) -> flask.Blueprint:
    blueprint = _create_blueprint(backend)

    @blueprint.get("/view/<path:name>")
    def look(name: str) -> flask.Response:  # pyright: ignore[reportUnusedFunction]
        """What the author says of it."""
        return flask.jsonify(name=name)

    return blueprint
