"""In what OpenAI-compatible engines differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import flask

from pyworker.local.openai_api.api_error import ApiError

if TYPE_CHECKING:
    from pyworker.local.openai_api.service import Service


class Face(ABC):
    """One engine. Immutable."""

    #: As it calls itself in `/v1/models`.
    name: ClassVar[str]
    loading_steps: ClassVar[int]

    @abstractmethod
    def add_routes(self, app: flask.Flask, service: Service) -> None:
        """Those that only this engine has, or has in its own shape."""

    @abstractmethod
    def error_body(self, error: ApiError) -> Mapping[str, Any]:
        """The JSON of an error response."""

    @abstractmethod
    def check_length(self, prompt_tokens: int, max_tokens: int | None, context: int) -> None:
        """Raise `ApiError` if the context has no room for both."""

    @abstractmethod
    def loading_lines(self, step: int, model: str) -> Sequence[str]:
        """The log at the beginning of a step of loading."""

    @abstractmethod
    def loaded_lines(self, url: str) -> Sequence[str]:
        """The log once it serves."""

    @abstractmethod
    def failed_lines(self, path: str, reason: str) -> Sequence[str]:
        """The log of a start that fails."""

    @abstractmethod
    def access_line(self, client: str, request: str, status: str) -> str:
        """The log of a response that begins. request: such as `GET /health HTTP/1.1`."""

    @abstractmethod
    def aborted_line(self, request_id: str) -> str:
        """The log of a generation whose client is gone."""
