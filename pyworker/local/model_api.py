"""What makes the local model server one of a kind of inference servers: its routes and its log."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import flask

from pyworker.local.model_engine import Engine


class ModelApi(ABC):
    """The face of one kind of server. Serves one `ModelServer`."""

    @abstractmethod
    def add_routes(self, app: flask.Flask, engine: Engine) -> None:
        """The routes, and how errors are sent."""

    #: Into how many equal steps the time of loading is divided.
    loading_steps: int

    @abstractmethod
    def loading_lines(self, step: int) -> Sequence[str]:
        """The log at the beginning of a step, counted from 0."""

    @abstractmethod
    def loaded_lines(self, url: str) -> Sequence[str]:
        """The log once it serves. url: where."""

    @abstractmethod
    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        """The log of a start that fails. path: of the model, reason: what is wrong with it."""
