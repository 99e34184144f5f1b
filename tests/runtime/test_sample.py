"""An amount of work that knows its tokens."""

from __future__ import annotations

from typing import Any

import pytest

from pyworker.runtime.sample import ResponseSample, Work, measured

SAMPLE = ResponseSample(200, "", b"", b"", 0)


def test_it_is_the_number_that_it_was_made_of() -> None:
    work = Work(7.5, prompt_tokens=3, generation_tokens=4)
    assert (work, work + 1, float(work)) == (7.5, 8.5, 7.5)
    assert (work.prompt_tokens, work.generation_tokens) == (3, 4)
    assert measured(lambda _: work, SAMPLE) is work


@pytest.mark.parametrize("tokens", [-1, 10**12, float("nan"), 1.5, "3", None])
def test_tokens_that_make_no_sense_are_none(tokens: Any) -> None:
    work = Work(7.5, prompt_tokens=tokens, generation_tokens=tokens)
    assert (work.prompt_tokens, work.generation_tokens) == (None, None)


@pytest.mark.parametrize("amount", [-1.0, float("nan"), float("inf")])
def test_an_amount_that_makes_no_sense_is_none(amount: float) -> None:
    assert measured(lambda _: Work(amount, generation_tokens=3), SAMPLE) is None
