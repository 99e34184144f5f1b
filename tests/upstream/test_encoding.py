"""A payload as JSON: whatever its size, what comes out is what went in, or nothing does."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.errors import Unprocessable
from pyworker.upstream.encoding import encode

_LONG_TEXT = "word " * 20_000
_MANY_NUMBERS = [0.5] * 50_000
#: What a payload holds besides. All but the first make it a large one.
BESIDES = {
    "nothing": None,
    "text": _LONG_TEXT,
    "numbers": _MANY_NUMBERS,
    "lists": [[0.5] * 100] * 900,
    "text_and_numbers": [_LONG_TEXT, {"numbers": _MANY_NUMBERS}],
}

floats = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.booleans() | st.integers(-(2**53), 2**53) | floats
text = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(["NaN", "Infinity", "-Infinity"])
payloads = st.recursive(
    st.none() | numbers | text, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=20
)
beside = pytest.mark.parametrize("besides", BESIDES)


@settings(max_examples=30, deadline=None)
@given(payload=payloads)
@beside
def test_what_comes_out_is_what_went_in(payload: object, besides: str) -> None:
    whole = {"payload": payload, "besides": BESIDES[besides]}
    assert json.loads(encode(whole)) == whole


@settings(max_examples=30, deadline=None)
@given(number=st.sampled_from([math.nan, math.inf, -math.inf]), depth=st.integers(0, 20))
@beside
def test_a_number_that_json_does_not_know_is_refused(number: float, depth: int, besides: str) -> None:
    inner: Any = number
    for level in range(depth):
        inner = [inner] if level % 2 else {"inner": inner}
    with pytest.raises(Unprocessable, match="something that JSON cannot carry"):
        encode({"before": BESIDES[besides], "payload": inner, "behind": BESIDES[besides]})


@beside
def test_a_text_that_json_cannot_carry_is_refused(besides: str) -> None:
    with pytest.raises(Unprocessable, match="something that JSON cannot carry"):
        encode({"besides": BESIDES[besides], "payload": "half a character: \ud800"})
