"""The model server of a program, and the bridge beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import flask
import requests

from pyworker.backend import Backend
from pyworker.config import ReadinessSource, Settings
from pyworker.data_types import EndpointHandler, LogAction
from pyworker.errors import ConfigError
from pyworker.lifecycle import probe
from pyworker.lifecycle.log_lines import LogActions
from pyworker.lifecycle.state import ModelLifecycle
from pyworker.runtime.services import Loop
from pyworker.sdk.config import LogActionConfig, WorkerConfig
from pyworker.sdk.routes import Route
from pyworker.upstream.adapter import ModelAdapter

if TYPE_CHECKING:
    from pyworker.sdk.bridge import Bridge


class SdkBackend(Backend):
    """A backend by a configuration. handlers: of its routes, in their order."""

    def __init__(
        self,
        config: WorkerConfig,
        routes: Sequence[Route],
        handlers: Sequence[EndpointHandler[Any]],
        settings: Settings,
    ) -> None:
        self._bridge: Bridge | None = None
        self._has_lifecycle = config.lifecycle is not None
        url = settings.model_server_url or _model_url(config) or ""
        if self._has_lifecycle or any(route.is_bridged for route in routes):
            # Not above: a program without coroutines needs no aiohttp.
            from pyworker.sdk.bridge import Bridge

            self._bridge = Bridge(routes, url, settings, config.lifecycle)
            if all(route.remote is not None for route in routes):
                url = self._bridge.url  # there is no other model server, whatever the configuration says
        [benchmark] = [
            handler for route, handler in zip(routes, handlers, strict=True) if route.has_benchmark
        ]
        super().__init__(
            url,
            config.model_log_file,
            benchmark_handler=benchmark,
            log_actions=_log_actions(config.log_action_config),
            health_endpoint=config.model_healthcheck_url or None,
            health_timeout=config.healthcheck_probe_timeout or probe.TIMEOUT,
            max_sessions=config.max_sessions or 0,
            settings=settings,
        )
        if config.readiness is not None and settings.model_readiness is None:
            self.readiness = ReadinessSource(config.readiness)
        if self._has_lifecycle:
            # Nothing else says that the model is loaded.
            self.model_log_file = None
            self.readiness = ReadinessSource.LOGS
        if self._bridge is not None:
            self._mount(self._bridge)

    def _mount(self, bridge: Bridge) -> None:
        prefix = self.session.base_url + "/"
        model = cast("ModelAdapter", self.session.get_adapter(prefix))
        own = ModelAdapter(bridge.url, api_key=bridge.key, pool_size=self.settings.threads)
        urls = frozenset(self.session.absolute(path) for path in bridge.paths)
        self.session.mount(prefix, _Fork(model, own, urls))

    def require_loaded_sign(self) -> None:
        """Raise `ConfigError` if nothing in the configuration says that the model is loaded."""
        has_phrase = any(action is LogAction.ModelLoaded for action, _ in self.log_actions)
        if not has_phrase and self.health_url is None and not self._has_lifecycle:
            raise ConfigError(
                f"{self.place}: nothing says that the model is loaded: give WorkerConfig a "
                "log_action_config=LogActionConfig(on_load=[…]) with a phrase of its log, or a "
                "model_healthcheck_url"
            )

    def require_readiness_source(self) -> None:
        """Raise `ConfigError` if nothing can tell that the model is loaded."""
        if not self._has_lifecycle:
            super().require_readiness_source()

    def loops(self, lifecycle: ModelLifecycle) -> Sequence[Loop]:
        """The event loop of the program's coroutines, if it has any."""
        return () if self._bridge is None else (self._bridge.loop(lifecycle),)


class _Fork(ModelAdapter):
    """Sends requests for `urls` to the bridge, all others to the model server. Thread-safe."""

    def __init__(self, model: ModelAdapter, bridge: ModelAdapter, urls: frozenset[str]) -> None:
        super().__init__(model.origin)
        self._model = model
        self._bridge = bridge
        self._urls = urls

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """As `ModelAdapter.send`."""
        chosen = self._bridge if request.url in self._urls else self._model
        return chosen.send(request, *args, **kwargs)

    def close(self) -> None:
        """Close every idle connection."""
        self._model.close()
        self._bridge.close()


def blueprint_of(
    backend: Backend, routes: Sequence[Route], handlers: Sequence[EndpointHandler[Any]]
) -> flask.Blueprint:
    """A view for each route."""
    blueprint = flask.Blueprint("sdk", __name__)
    for route, handler in zip(routes, handlers, strict=True):
        blueprint.add_url_rule(route.path, view_func=backend.create_handler(handler), methods=["POST"])
    return blueprint


def _model_url(config: WorkerConfig) -> str | None:
    if not config.model_server_url:
        return None
    base = config.model_server_url.rstrip("/")
    return base if config.model_server_port is None else f"{base}:{config.model_server_port}"


def _log_actions(config: LogActionConfig) -> LogActions:
    return [
        *((LogAction.ModelLoaded, phrase) for phrase in config.on_load),
        *((LogAction.ModelError, phrase) for phrase in config.on_error),
        *((LogAction.Info, phrase) for phrase in config.on_info),
    ]
