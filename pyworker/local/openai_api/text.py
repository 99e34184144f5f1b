"""Prompts, and the texts that are generated from them, token by token."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pyworker.local.openai_api.api_error import ApiError
from pyworker.local.openai_api.fields import Message, SamplingFields, TextInput
from pyworker.local.openai_api.service import Service

MESSAGE_TOKENS = 4  # what the template of a chat adds to each message
EOS = ""  # the last token of a text that ends by itself


@dataclass(frozen=True)
class Prompt:
    """tokens: words, and one for the beginning."""

    text: str
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How texts are generated. max_tokens: None for as many as the context has room for."""

    n: int = 1
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: Sequence[str] = ()
    seed: int | None = None


@dataclass(eq=False)
class Choice:
    """One text while it is generated. tokens: how many so far, the end of the text included.

    finish_reason: `stop` or `length` once it has ended; stop_string: what it ended at.
    """

    index: int
    source: Iterator[str]
    limit: int
    stop: Sequence[str]
    tokens: int = 0
    finish_reason: str | None = None
    stop_string: str | None = None
    _held: str = ""
    _visible: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        # The beginning of a stop string must not be sent before it is known not to be one.
        self._hold = max(map(len, self.stop), default=1) - 1

    @property
    def text(self) -> str:
        """What is to be seen of it so far."""
        return "".join(self._visible)

    def step(self) -> str:
        """Generate a token; the text that it lets be seen."""
        token = next(self.source)
        self.tokens += 1
        self._held += token
        visible = self._until_stop()
        if visible is None:
            if token == EOS:
                self.finish_reason = "stop"
            elif self.tokens == self.limit:
                self.finish_reason = "length"
            keep = self._hold if self.finish_reason is None else 0
            end = max(len(self._held) - keep, 0)
            visible, self._held = self._held[:end], self._held[end:]
        self._visible.append(visible)
        return visible

    def _until_stop(self) -> str | None:
        """What comes before the first stop string, if there is one."""
        found = [(at, text) for text in self.stop if (at := self._held.find(text)) >= 0]
        if not found:
            return None
        at, self.stop_string = min(found)
        self.finish_reason = "stop"
        return self._held[:at]


@dataclass(frozen=True)
class Step:
    """A token of one of the texts. text: what it lets be seen, often nothing."""

    choice: Choice
    text: str
    is_first: bool


class TextJob:
    """The texts of one request. Used by its thread only.

    Raises `ApiError` if a prompt and what is to be generated are longer than the context.
    """

    def __init__(self, service: Service, prompts: Sequence[Prompt], sampling: Sampling) -> None:
        for prompt in prompts:
            service.face.check_length(prompt.tokens, sampling.max_tokens, service.context)
        self.prompt_tokens = sum(prompt.tokens for prompt in prompts)
        self.choices = [
            Choice(
                number * sampling.n + copy,
                _tokens(service, prompt, sampling, copy),
                sampling.max_tokens or service.context - prompt.tokens,
                sampling.stop,
            )
            for number, prompt in enumerate(prompts)
            for copy in range(sampling.n)
        ]
        service.take_in(self.prompt_tokens)
        self._generation = service.generate(self._rounds(), are_tokens=True)

    @property
    def completion_tokens(self) -> int:
        """Generated so far."""
        return self._generation.count

    def steps(self) -> Generator[Step]:
        """Generate; a consumer that stops early closes it."""
        with contextlib.closing(self._generation.items()) as steps:
            yield from steps

    def finish(self) -> None:
        """Generate everything."""
        with contextlib.closing(self.steps()) as steps:
            for _ in steps:
                pass

    def usage(self) -> Mapping[str, Any]:
        """The usage object of completions and chats."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "completion_tokens": self.completion_tokens,
            "prompt_tokens_details": None,
        }

    def _rounds(self) -> Iterator[Step]:
        """A token of each unfinished text in turn."""
        while unfinished := [choice for choice in self.choices if choice.finish_reason is None]:
            for choice in unfinished:
                is_first = choice.tokens == 0
                yield Step(choice, choice.step(), is_first)


def _tokens(service: Service, prompt: Prompt, sampling: Sampling, copy: int) -> Iterator[str]:
    """The tokens of one text, the end of the text among them if it comes by itself."""
    engine = service.engine
    model = engine.loaded_model()
    # Copies of one prompt differ, with a seed as well.
    rng = engine.rng(f"{prompt.text}#{copy}" if copy else prompt.text, sampling.seed)
    if sampling.ignore_eos:
        return model.generate(prompt.text, service.context, rng)
    text = model.generate(prompt.text, sampling.min_tokens or None, rng)
    return itertools.chain(text, [EOS])


# -- prompts -----------------------------------------------------------------------------------------------


def count_tokens(text: str) -> int:
    """Words, and one for the beginning."""
    return len(text.split()) + 1


def text_prompt(text: str) -> Prompt:
    """Of half a character, which JSON can carry, a question mark is left."""
    return Prompt(text.encode("utf-8", "replace").decode(), count_tokens(text))


def prompts_of(given: TextInput, name: str) -> list[Prompt]:
    """One for each text or list of ids. name: of the field, for the error."""
    if isinstance(given, str):
        return [text_prompt(given)]
    if not given:
        raise ApiError(f"{name} must not be empty", param=name)
    ids = [item for item in given if isinstance(item, int)]
    if ids:
        return [_ids_prompt(ids)]
    return [
        text_prompt(item) if isinstance(item, str) else _ids_prompt(item)
        for item in given
        if not isinstance(item, int)
    ]


def _ids_prompt(ids: Sequence[int]) -> Prompt:
    return Prompt(" ".join(map(str, ids)), len(ids))


def chat_prompt(messages: Sequence[Message]) -> Prompt:
    """Of a conversation."""
    if not messages:
        raise ApiError("messages must not be empty", param="messages")
    texts = [content_text(message.content) for message in messages]
    # What was said last says most about the subject.
    prompt = text_prompt("\n".join(texts))
    return Prompt(prompt.text, prompt.tokens + MESSAGE_TOKENS * len(messages))


def content_text(content: object) -> str:
    """The text of a content, which may be in parts; empty for anything else."""
    if isinstance(content, str):
        return content
    parts = cast("list[object]", content) if isinstance(content, list) else []
    texts = [cast("Mapping[str, object]", part).get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def sampling_of(fields: SamplingFields, max_tokens: int | None) -> Sampling:
    """Of the fields that completions and chats share."""
    return Sampling(
        n=fields.n or 1,
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens or 0,
        ignore_eos=bool(fields.ignore_eos),
        stop=[fields.stop] if isinstance(fields.stop, str) else fields.stop or [],
        seed=fields.seed,
    )
