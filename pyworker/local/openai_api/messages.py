"""`/v1/messages`, in the shape of Anthropic's API, whole and as a stream of named events."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import flask

from pyworker.local.generation import EngineFailure
from pyworker.local.openai_api.api_error import engine_failed
from pyworker.local.openai_api.events import DONE, named, route, stream, whole
from pyworker.local.openai_api.fields import Message, MessagesFields
from pyworker.local.openai_api.service import Service
from pyworker.local.openai_api.text import Sampling, TextJob, chat_prompt, content_text

PATH = "/v1/messages"


def add_routes(app: flask.Flask, service: Service) -> None:
    """The one route."""

    def messages() -> flask.Response:
        fields = service.fields(MessagesFields)
        system = [Message(role="system", content=content_text(fields.system))] if fields.system else []
        sampling = Sampling(max_tokens=fields.max_tokens, stop=fields.stop_sequences or [])
        job = TextJob(service, [chat_prompt([*system, *fields.messages])], sampling)
        reply = Reply(service.model, job, ends_with_done=service.face.name == "vllm")
        return stream(reply.events()) if fields.stream else whole(reply.whole())

    route(app, PATH, messages)


def error_body(error: Mapping[str, object]) -> Mapping[str, object]:
    """An error response of this route."""
    return {"type": "error", "error": {"type": error["type"], "message": error["message"]}}


@dataclass(eq=False)
class Reply:
    """The response to one request. ends_with_done: whether a stream has a last `[DONE]`, as vLLM's does."""

    model: str
    job: TextJob
    ends_with_done: bool
    id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")

    def whole(self) -> Mapping[str, Any]:
        """What is not streamed."""
        self.job.finish()
        content = [{"type": "text", "text": self.job.choices[0].text}]
        return {**self._message(), "content": content, **self._stop(), "usage": self._usage()}

    def events(self) -> Generator[str]:
        """From `message_start` to `message_stop`."""
        yield named({"type": "message_start", "message": self._message()})
        block = {"type": "text", "text": ""}
        yield named({"type": "content_block_start", "index": 0, "content_block": block})
        try:
            with contextlib.closing(self.job.steps()) as steps:
                for step in steps:
                    delta = {"type": "text_delta", "text": step.text}
                    yield named({"type": "content_block_delta", "index": 0, "delta": delta})
        except EngineFailure as error:
            yield named(error_body(engine_failed(str(error)).as_json()))
            return
        yield named({"type": "content_block_stop", "index": 0})
        yield named({"type": "message_delta", "delta": self._stop(), "usage": self._usage()})
        yield named({"type": "message_stop"})
        if self.ends_with_done:
            yield DONE

    def _message(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self.job.prompt_tokens, "output_tokens": 0},
        }

    def _stop(self) -> Mapping[str, Any]:
        [choice] = self.job.choices
        if choice.stop_string is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": choice.stop_string}
        reason = "max_tokens" if choice.finish_reason == "length" else "end_turn"
        return {"stop_reason": reason, "stop_sequence": None}

    def _usage(self) -> Mapping[str, Any]:
        return {"input_tokens": self.job.prompt_tokens, "output_tokens": self.job.completion_tokens}
