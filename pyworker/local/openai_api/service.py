"""What every route needs: the fields of the request, the served model's name, the generation."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar, cast

import flask

from pyworker.errors import JsonDataException, Unprocessable
from pyworker.local.generation import Ending, Generation
from pyworker.local.model_engine import Engine
from pyworker.local.model_stats import SeenRequest
from pyworker.local.openai_api.api_error import ApiError, unknown_model
from pyworker.local.openai_api.face import Face
from pyworker.local.openai_api.fields import Fields
from pyworker.validation import parse_fields

F = TypeVar("F", bound=Fields)
Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Service:
    """Thread-safe. model: the name it is served under; context: the most tokens of prompt and response."""

    engine: Engine
    face: Face
    model: str
    context: int

    def fields(self, cls: type[F]) -> F:
        """The JSON of the request at hand; raises `ApiError`."""
        try:
            decoded: object = json.loads(flask.request.get_data())
        except (ValueError, RecursionError):  # the latter for a body of a hundred thousand brackets
            raise ApiError("There was an error parsing the body") from None
        if not isinstance(decoded, dict):
            raise ApiError("the body must be a JSON object")
        try:
            fields = parse_fields(cls, cast("dict[str, object]", decoded))
        except JsonDataException as error:
            faults = "; ".join(f"{name}: {message}" for name, message in error.json_msg.items())
            name = next(iter(error.json_msg), None)
            raise ApiError(f"validation error: {faults}", param=name) from error
        except Unprocessable as error:
            raise ApiError(str(error)) from error
        self.check_model(fields.model)
        return fields

    def check_model(self, name: str | None) -> None:
        """Raises the 404 of a model that is not served; None is the one that is."""
        if name is not None and name != self.model:
            raise unknown_model(name)

    def take_in(self, prompt_tokens: int) -> None:
        """Count a prompt."""
        self.engine.stats.prompt(_seen(), prompt_tokens)

    def generate(self, source: Iterator[Item], *, are_tokens: bool = False) -> Generation[Item]:
        """are_tokens: whether the items count as generated tokens."""
        seen = _seen()
        request_id = new_id("cmpl")

        def end(ending: Ending, count: int, _seconds: float) -> None:
            self.engine.stats.end(seen, ending.value, count if are_tokens else 0)
            if ending is Ending.CUT:
                self.engine.log.write(self.face.aborted_line(request_id))

        return self.engine.generate(source, end)

    def work(self, source: Iterator[Item], *, are_tokens: bool = False) -> list[Item]:
        """All of `source`, in the queue and at the pace of the engine."""
        with contextlib.closing(self.generate(source, are_tokens=are_tokens).items()) as items:
            return list(items)


def _seen() -> SeenRequest:
    return cast("SeenRequest", flask.g.seen)


def new_id(prefix: str) -> str:
    """Such as `cmpl-0123456789abcdef0123456789abcdef`."""
    return f"{prefix}-{uuid.uuid4().hex}"
