"""`Worker`: what a program makes of its configuration, and runs."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from pyworker.config import Settings, parsers, setting
from pyworker.errors import ConfigError
from pyworker.sdk.config import WorkerConfig
from pyworker.sdk.routes import checked, unused

if TYPE_CHECKING:
    import flask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ReadyTimeout:
    """Whether the environment has one."""

    given: float | None = setting("MODEL_READY_TIMEOUT", None, parsers.seconds)


class Worker:
    """A worker by a configuration. Raises `ConfigError` with a line for each fault of it."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self._routes = checked(config)

    def run(self, *, host: str | None = None, **options: object) -> NoReturn:
        """Serve until a signal ends it, by the same environment as `gunicorn -c gunicorn.conf.py`.

        The requests are served in a forked process, to which nothing of the program's is lost but threads.
        Raises SystemExit with gunicorn's status, and `ConfigError` for any other option.
        """
        if options:
            raise ConfigError(
                f"Worker.run() does not take {', '.join(sorted(options))}: everything but host is set by the "
                "environment, see the settings in README.md"
            )
        from pyworker.sdk.serving import serve

        serve(self.create_app, host)

    async def run_async(self, *, host: str | None = None, **options: object) -> NoReturn:
        """As `run`. Raises `ConfigError` if other tasks of this event loop would never go on."""
        if len(asyncio.all_tasks()) > 1:
            raise ConfigError(
                "Worker.run_async() keeps this thread to the end, so the other tasks of its event loop would "
                "never go on: start them in WorkerConfig.lifecycle"
            )
        self.run(host=host, **options)

    def create_app(self, settings: Settings | None = None) -> flask.Flask:
        """The WSGI app, for instance for Flask's test client. settings: default, those of the environment."""
        # Not above: gunicorn's master has no use for the memory of the app.
        from pyworker.app import make_app
        from pyworker.sdk.backend import SdkBackend, blueprint_of

        for line in unused(self.config):
            logger.warning("%s", line)
        settings = Settings.from_env() if settings is None else settings
        limit = self.config.readiness_timeout
        if limit is not None and settings.read(_ReadyTimeout).given is None:
            settings = dataclasses.replace(settings, model_ready_timeout=limit)
        handlers = [route.handler() for route in self._routes]
        backend = SdkBackend(self.config, self._routes, handlers, settings)
        backend.require_loaded_sign()
        return make_app(backend, blueprint_of(backend, self._routes, handlers), settings)

    def __repr__(self) -> str:
        return f"<Worker {', '.join(route.path for route in self._routes)}>"
