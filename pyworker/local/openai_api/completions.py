"""`/v1/completions`, `/v1/chat/completions` and `/v1/chat/completions/batch`."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import flask

from pyworker.local.generation import EngineFailure
from pyworker.local.openai_api.api_error import ApiError, engine_failed
from pyworker.local.openai_api.events import DONE, data, route, stream, whole
from pyworker.local.openai_api.fields import (
    ChatBatchFields,
    ChatFields,
    CompletionFields,
    SamplingFields,
    StreamOptions,
)
from pyworker.local.openai_api.service import Service, new_id
from pyworker.local.openai_api.text import Choice, Step, TextJob, chat_prompt, prompts_of, sampling_of

DEFAULT_TOKENS = 16  # of a completion without `max_tokens`, as OpenAI's documentation says
NO_OPTIONS = StreamOptions()


def add_routes(app: flask.Flask, service: Service) -> None:
    """All three."""

    def completions() -> flask.Response:
        fields = service.fields(CompletionFields)
        _check_stream_options(fields)
        sampling = sampling_of(fields, fields.max_tokens or DEFAULT_TOKENS)
        job = TextJob(service, prompts_of(fields.prompt, "prompt"), sampling)
        return _respond(Completion(service.model, job), fields)

    def chat() -> flask.Response:
        fields = service.fields(ChatFields)
        _check_stream_options(fields)
        sampling = sampling_of(fields, fields.max_completion_tokens or fields.max_tokens)
        job = TextJob(service, [chat_prompt(fields.messages)], sampling)
        return _respond(Chat(service.model, job), fields)

    def batch() -> flask.Response:
        fields = service.fields(ChatBatchFields)
        if fields.stream:
            raise ApiError("Batch chat completions do not support streaming.", param="stream")
        if (fields.n or 1) > 1:
            raise ApiError("Batch chat completions do not support `n` > 1.", param="n")
        sampling = sampling_of(fields, fields.max_completion_tokens or fields.max_tokens)
        job = TextJob(service, [chat_prompt(messages) for messages in fields.messages], sampling)
        return _respond(Chat(service.model, job), fields)

    route(app, "/v1/completions", completions)
    route(app, "/v1/chat/completions", chat)
    route(app, "/v1/chat/completions/batch", batch)


@dataclass(eq=False)
class Texts(ABC):
    """The response to one request, in the shape of its route."""

    prefix: ClassVar[str]
    object_whole: ClassVar[str]
    object_chunk: ClassVar[str]

    model: str
    job: TextJob
    id: str = field(init=False)
    created: int = field(init=False)

    def __post_init__(self) -> None:
        self.id = new_id(self.prefix)
        self.created = int(time.time())

    @abstractmethod
    def choice(self, choice: Choice) -> Mapping[str, Any]:
        """A text that is complete."""

    @abstractmethod
    def opening(self, choice: Choice) -> Mapping[str, Any] | None:
        """What comes before the first token of a text in a stream, if anything does."""

    @abstractmethod
    def delta(self, step: Step) -> Mapping[str, Any]:
        """A token in a stream."""

    def whole(self) -> Mapping[str, Any]:
        """The response that is not streamed."""
        self.job.finish()
        choices = [self.choice(choice) for choice in self.job.choices]
        return {**self._head(self.object_whole), "choices": choices, "usage": self.job.usage()}

    def events(self, options: StreamOptions) -> Generator[str]:
        """The response as events: a chunk for each token, the usage if it is asked for."""
        try:
            with contextlib.closing(self.job.steps()) as steps:
                for step in steps:
                    if step.is_first and (opening := self.opening(step.choice)) is not None:
                        yield data(self._chunk(opening, options))
                    yield data(self._chunk(self.delta(step), options))
        except EngineFailure as error:
            yield data({"error": engine_failed(str(error)).as_json()})
        else:
            if options.include_usage:
                yield data({**self._head(self.object_chunk), "choices": [], "usage": self.job.usage()})
        yield DONE

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: Mapping[str, Any], options: StreamOptions) -> Mapping[str, Any]:
        chunk = {**self._head(self.object_chunk), "choices": [choice]}
        if options.include_usage and options.continuous_usage_stats:
            chunk["usage"] = self.job.usage()
        return chunk


class Completion(Texts):
    """`/v1/completions`."""

    prefix = "cmpl"
    object_whole = object_chunk = "text_completion"

    def choice(self, choice: Choice) -> Mapping[str, Any]:
        return {"index": choice.index, "text": choice.text, "logprobs": None, **_end(choice)}

    def opening(self, choice: Choice) -> None:  # noqa: ARG002
        return None

    def delta(self, step: Step) -> Mapping[str, Any]:
        return {"index": step.choice.index, "text": step.text, "logprobs": None, **_end(step.choice)}


class Chat(Texts):
    """`/v1/chat/completions`, and in batches."""

    prefix = "chatcmpl"
    object_whole = "chat.completion"
    object_chunk = "chat.completion.chunk"

    def choice(self, choice: Choice) -> Mapping[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text,
            "refusal": None,
            "tool_calls": [],
        }
        return {"index": choice.index, "message": message, "logprobs": None, **_end(choice)}

    def opening(self, choice: Choice) -> Mapping[str, Any]:
        delta = {"role": "assistant", "content": ""}
        return {"index": choice.index, "delta": delta, "logprobs": None, "finish_reason": None}

    def delta(self, step: Step) -> Mapping[str, Any]:
        index, delta = step.choice.index, {"content": step.text}
        if step.choice.finish_reason is None:
            return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        return {"index": index, "delta": delta, "logprobs": None, **_end(step.choice)}


def _end(choice: Choice) -> Mapping[str, Any]:
    return {"finish_reason": choice.finish_reason, "stop_reason": choice.stop_string}


def _check_stream_options(fields: SamplingFields) -> None:
    if fields.stream_options is not None and not fields.stream:
        raise ApiError("Stream options can only be defined when `stream=True`.", param="stream_options")


def _respond(texts: Texts, fields: SamplingFields) -> flask.Response:
    if fields.stream:
        return stream(texts.events(fields.stream_options or NO_OPTIONS))
    return whole(texts.whole())
