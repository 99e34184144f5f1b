"""A small n-gram language model: words that look like a response, at next to no cost.

It is a real model of order three: the next word is drawn from what followed the last two words in its text,
backing off to the last word if those two were never seen, or offer no choice.
"""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pyworker.errors import PyworkerError
from pyworker.resources import resource_path

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[.,;:?!]")
_ENDS = frozenset(".?!")
_START = "."  # the context of a sentence's first word: every end of a sentence counts as this one

PROMPT_TAIL = 4000  # characters of a prompt that are looked at; it may be megabytes long
# How often two known words are set aside for one, if they allow a single word only: without this, a text
# of this size would be quoted sentence by sentence.
BACK_OFF = 0.35
RESPONSE_SENTENCES = (3, 8)
RESPONSE_TOKENS = 200  # the limit of a response without a requested length

Context = tuple[str, ...]


class CorruptedModelError(PyworkerError):
    """The file of a language model cannot be read, or is no text to learn from."""


class _Choices:
    """The words that may follow, with their weights. Immutable."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.words = tuple(counts)
        self._cumulative = tuple(itertools.accumulate(counts.values()))

    def draw(self, rng: random.Random) -> str:
        if len(self.words) == 1:
            return self.words[0]
        return rng.choices(self.words, cum_weights=self._cumulative)[0]


class LanguageModel:
    """A trained model. Immutable after construction, so any number of threads may generate concurrently."""

    def __init__(self, text: str) -> None:
        """Learns from `text`; raises `CorruptedModelError` if there is no sentence in it."""
        sentences = list(_sentences(text))
        if not sentences:
            raise CorruptedModelError("there is no sentence in it")
        self._choices = _learn(sentences)
        self._openings = _openings(sentences)
        self._size = sum(map(len, sentences))

    def __repr__(self) -> str:
        return f"<LanguageModel [{self._size} tokens read, {len(self._choices)} contexts]>"

    @classmethod
    def from_file(cls, path: Path | None = None) -> LanguageModel:
        """The model of a UTF-8 text file; of the handbook that ships if `path` is None."""
        path = path or resource_path("handbook.txt")
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise CorruptedModelError(reason or type(error).__name__) from error

    def generate(
        self, prompt: str, max_tokens: int | None = None, rng: random.Random | None = None
    ) -> Iterator[str]:
        """The tokens of a response, with the blanks between them: joined, they are the text.

        Exactly `max_tokens` of them; if that is None, a few sentences.
        """
        rng = rng or random.Random()
        tokens = self._tokens(prompt, rng)
        if max_tokens is None:
            tokens = _some_sentences(tokens, rng.randint(*RESPONSE_SENTENCES), RESPONSE_TOKENS)
        return _spaced(itertools.islice(tokens, max_tokens))

    def _tokens(self, prompt: str, rng: random.Random) -> Iterator[str]:
        """Endless tokens, beginning with the first words of a sentence about the prompt's subject."""
        opening = self._opening(prompt, rng)
        yield from opening
        context = (_START, *map(_folded, opening))[-2:]
        while True:
            token = self._next(context, rng)
            yield token
            context = (context[-1], _folded(token))

    def _opening(self, prompt: str, rng: random.Random) -> Sequence[str]:
        known = [word for word in _words(prompt[-PROMPT_TAIL:]) if word in self._openings]
        if not known:
            return (self._choices[_START,].draw(rng),)
        # The rarer a word of the prompt is in the text, the more it says about the subject.
        subject = min(known, key=lambda word: len(self._openings[word]))
        return rng.choice(self._openings[subject])

    def _next(self, context: Context, rng: random.Random) -> str:
        choices = self._choices.get(context)
        if choices is None or (len(choices.words) == 1 and rng.random() < BACK_OFF):
            choices = self._choices[context[1:]]  # known: every word but a sentence's end has a next one
        return choices.draw(rng)


def _folded(token: str) -> str:
    """A token as it counts in a context."""
    return _START if token in _ENDS else token.lower()


def _words(text: str) -> list[str]:
    return [token.lower() for token in _TOKEN.findall(text) if token[0].isalnum()]


def _sentences(text: str) -> Iterator[list[str]]:
    """The sentences of a text as tokens, those of one word left out."""
    for sentence in re.findall(r"[^.?!]+[.?!]", text):
        tokens = _TOKEN.findall(sentence)
        if len(tokens) > 2:
            yield tokens


def _learn(sentences: Iterable[Sequence[str]]) -> dict[Context, _Choices]:
    counts: defaultdict[Context, Counter[str]] = defaultdict(Counter)
    context: Context = (_START, _START)
    for token in itertools.chain.from_iterable(sentences):
        counts[context][token] += 1
        counts[context[1:]][token] += 1
        context = (context[1], _folded(token))
    return {context: _Choices(following) for context, following in counts.items()}


def _openings(sentences: Iterable[Sequence[str]]) -> dict[str, list[Sequence[str]]]:
    """For each word, the first two tokens of the sentences that it stands in."""
    openings: defaultdict[str, list[Sequence[str]]] = defaultdict(list)
    for tokens in sentences:
        for word in {token.lower() for token in tokens if token[0].isalnum()}:
            openings[word].append(tuple(tokens[:2]))
    return dict(openings)


def _some_sentences(tokens: Iterator[str], sentences: int, limit: int) -> Iterator[str]:
    for token in itertools.islice(tokens, limit):
        yield token
        sentences -= token in _ENDS
        if sentences == 0:
            return


def _spaced(tokens: Iterable[str]) -> Iterator[str]:
    for index, token in enumerate(tokens):
        yield token if index == 0 or not token[0].isalnum() else " " + token
