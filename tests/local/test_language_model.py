"""The n-gram model: shape, length, repeatability and odd prompts."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from pyworker.local.language_model import RESPONSE_TOKENS, CorruptedModelError, LanguageModel
from pyworker.resources import resource_path


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.from_file()


ODD_PROMPTS = ["", " \n", "soup", "日本語の質問", "🙂" * 50, "broken \ud800 half", "?!.", "x" * 1_000_000]


@pytest.mark.parametrize("prompt", ODD_PROMPTS, ids=lambda prompt: ascii(prompt[:12]))
def test_any_prompt_gets_sentences(model: LanguageModel, prompt: str) -> None:
    answer = "".join(model.generate(prompt, None, random.Random(5)))
    assert answer[0].isupper()
    assert 5 < len(answer.split()) < RESPONSE_TOKENS
    assert not re.search(r"\s[.,;:?!]|\s\s|^\s|\s$", answer)


@pytest.mark.parametrize("limit", [1, 2, 3, 57, 2000])
def test_exactly_the_tokens_asked_for(model: LanguageModel, limit: int) -> None:
    assert len(list(model.generate("a long answer, please", limit))) == limit


def test_an_answer_without_a_limit_ends_with_its_sentence(model: LanguageModel) -> None:
    for seed in range(50):
        tokens = list(model.generate("", None, random.Random(seed)))
        assert tokens[-1] in ".?!" or len(tokens) == RESPONSE_TOKENS


def test_the_same_seed_gives_the_same_answer_and_others_differ(model: LanguageModel) -> None:
    def answer(seed: int) -> str:
        return "".join(model.generate("tell me of the sea", 60, random.Random(seed)))

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(10)}) > 5


def test_an_answer_begins_with_the_subject_of_the_prompt(model: LanguageModel) -> None:
    about_beavers = {"".join(model.generate("what about beavers", 2, random.Random(s))) for s in range(5)}
    assert about_beavers == {"Beavers build"}


def test_answers_are_not_merely_quoted(model: LanguageModel) -> None:
    text = " ".join(resource_path("handbook.txt").read_text(encoding="utf-8").split())
    answers = ["".join(model.generate("", 300, random.Random(seed))) for seed in range(5)]
    sentences = [s.strip() for answer in answers for s in re.findall(r"[^.?!]+[.?!]", answer)]
    assert sum(sentence not in text for sentence in sentences) > len(sentences) / 4


def test_a_text_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("Red cats sleep. Red dogs bark.", encoding="utf-8")
    model = LanguageModel.from_file(path)
    assert set("".join(model.generate("", 40)).replace(".", "").split()) <= {
        "Red",
        "cats",
        "sleep",
        "dogs",
        "bark",
    }
    assert repr(model).startswith("<LanguageModel [8 tokens read, ")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x80 no text", b"no end of a sentence", b"...???"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(CorruptedModelError):
        LanguageModel.from_file(path)


def test_a_missing_file_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CorruptedModelError, match="No such file"):
        LanguageModel.from_file(tmp_path / "missing")
