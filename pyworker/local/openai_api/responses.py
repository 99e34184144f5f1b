"""`/v1/responses`, whole and as a stream of named events."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flask

from pyworker.local.generation import EngineFailure
from pyworker.local.openai_api.api_error import engine_failed
from pyworker.local.openai_api.events import named, route, stream, whole
from pyworker.local.openai_api.fields import Message, ResponsesFields
from pyworker.local.openai_api.service import Service
from pyworker.local.openai_api.text import Sampling, TextJob, chat_prompt, content_text


def add_routes(app: flask.Flask, service: Service) -> None:
    """The one route."""

    def responses() -> flask.Response:
        fields = service.fields(ResponsesFields)
        sampling = Sampling(max_tokens=fields.max_output_tokens)
        job = TextJob(service, [chat_prompt(_messages(fields))], sampling)
        response = Response(service.model, fields, job)
        return stream(response.events()) if fields.stream else whole(response.whole())

    route(app, "/v1/responses", responses)


def _messages(fields: ResponsesFields) -> Sequence[Message]:
    instructions = [Message(role="system", content=fields.instructions)] if fields.instructions else []
    if isinstance(fields.input, str):
        return [*instructions, Message(role="user", content=fields.input)]
    # Items without a content, such as the call of a function, have no words.
    turns = [
        Message(role=str(item.get("role")), content=content_text(item.get("content")))
        for item in fields.input
    ]
    return [*instructions, *turns]


@dataclass(eq=False)
class Response:
    """The response to one request."""

    model: str
    fields: ResponsesFields
    job: TextJob
    id: str = field(default_factory=lambda: f"resp_{uuid.uuid4().hex}")
    item_id: str = field(default_factory=lambda: f"msg_{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self) -> Mapping[str, Any]:
        """What is not streamed, and what the last event brings."""
        self.job.finish()
        return self._complete()

    def events(self) -> Generator[str]:
        """From `response.created` to `response.completed`; there is no `[DONE]`."""
        numbers = itertools.count()

        def event(kind: str, **more: object) -> str:
            return named({"type": kind, "sequence_number": next(numbers), **more})

        place = {"item_id": self.item_id, "output_index": 0, "content_index": 0}
        begun = self._object("in_progress", [], None)
        yield event("response.created", response=begun)
        yield event("response.in_progress", response=begun)
        yield event("response.output_item.added", output_index=0, item=self._item("in_progress", []))
        yield event("response.content_part.added", **place, part=_part(""))
        try:
            with contextlib.closing(self.job.steps()) as steps:
                for step in steps:
                    yield event("response.output_text.delta", **place, delta=step.text, logprobs=[])
        except EngineFailure as error:
            failed = {**self._object("failed", [], None), "error": engine_failed(str(error)).as_json()}
            yield event("response.failed", response=failed)
            return
        part = _part(self.job.choices[0].text)
        yield event("response.output_text.done", **place, text=part["text"], logprobs=[])
        yield event("response.content_part.done", **place, part=part)
        yield event("response.output_item.done", output_index=0, item=self._item("completed", [part]))
        yield event("response.completed", response=self._complete())

    def _complete(self) -> Mapping[str, Any]:
        [choice] = self.job.choices
        is_cut = choice.finish_reason == "length"
        prompt, completion = self.job.prompt_tokens, self.job.completion_tokens
        usage = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }
        items = [self._item("completed", [_part(choice.text)])]
        response = self._object("incomplete" if is_cut else "completed", items, usage)
        return {**response, "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None}

    def _object(self, status: str, output: Sequence[object], usage: object) -> dict[str, Any]:
        return {
            "id": self.id,
            "created_at": self.created,
            "error": None,
            "incomplete_details": None,
            "instructions": self.fields.instructions,
            "metadata": None,
            "model": self.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "max_output_tokens": self.fields.max_output_tokens,
            "status": status,
            "usage": usage,
        }

    def _item(self, status: str, content: Sequence[object]) -> Mapping[str, Any]:
        return {
            "id": self.item_id,
            "content": content,
            "role": "assistant",
            "status": status,
            "type": "message",
        }


def _part(text: str) -> Mapping[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": None}
