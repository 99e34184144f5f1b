"""Lengths in tokens and shared prefixes, by what a server received."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.data_types import ApiPayload
from pyworker.loadtest import execute
from pyworker.loadtest.distribution import Distribution
from pyworker.loadtest.texts import Texts
from pyworker.resources import resource_path
from pyworker.tokenizer import TokenCounter
from tests.support.scripted import ScriptedServer, whole

TOKENIZER = str(resource_path("tokenizer.json"))
BODY = '{"prompt": "own words", "max_tokens": 1}'
FIELDS = ("--fields", "prompt,max_tokens")


@pytest.fixture(scope="module")
def count() -> Callable[[str], int]:
    counter = TokenCounter(TOKENIZER)
    counter.load()
    assert counter.source == "disk"
    return counter.count


@dataclass
class Text(ApiPayload):
    """Counts its workload by a tokenizer, as workers of language models do."""

    tokens: ClassVar[TokenCounter] = TokenCounter(TOKENIZER)

    prompt: str
    max_tokens: int = 1

    @classmethod
    def for_test(cls) -> Text:
        return cls("own words")

    def count_workload(self) -> float:
        return float(self.tokens.count(self.prompt))


@dataclass
class Model:
    """A server that answers everything, and the load test of it."""

    server: ScriptedServer
    folder: Path

    def run(self, *argv: str, payload: ApiPayload | type[ApiPayload] = Text, body: str = BODY) -> Any:
        """What --json holds; body: if no payload class is to be used."""
        self.server.forget_requests()
        file = self.folder / "made.json"
        way = ["--url", f"{self.server.url}/do", *(["--body", body] if body else [])]
        load = [] if "-n" in argv else ["-n", "20"]
        pace = [] if "-rps" in argv or "--trace" in argv else ["--concurrency", "4"]
        assert execute(payload, "/do", [*way, *load, *pace, *argv, "--json", str(file)]) == 0
        return json.loads(file.read_text())

    @property
    def sent(self) -> list[Any]:
        return [request.json() for request in self.server.requests("/do")]


@pytest.fixture
def model(scripted_model: ScriptedServer, tmp_path: Path) -> Model:
    scripted_model.script("/do", whole(b"{}"))
    return Model(scripted_model, tmp_path)


# -- distributions ----------------------------------------------------------------------------------------

COUNT = 250


def normal_cdf(x: float, mean: float, deviation: float) -> float:
    return 0.5 * (1 + math.erf((x - mean) / deviation / math.sqrt(2)))


def lognormal_cdf(x: float, mean: float, deviation: float) -> float:
    variance = math.log1p((deviation / mean) ** 2)
    return normal_cdf(math.log(x), math.log(mean) - variance / 2, math.sqrt(variance))


def deviation_of(values: Sequence[int], cdf: Callable[[float], float]) -> float:
    """Kolmogorov's statistic, of whole numbers: the distribution's own is that of the rounded values."""
    shares = Counter(values)
    below = 0
    worst = 0.0
    for value in sorted(shares):
        worst = max(worst, abs(below / len(values) - cdf(value - 0.5)))
        below += shares[value]
        worst = max(worst, abs(below / len(values) - cdf(value + 0.5)))
    return worst


CASES: list[tuple[str, Callable[[float], float], tuple[int, int]]] = [
    ("20:80", lambda x: min(1.0, max(0.0, (x - 19.5) / 61)), (20, 80)),
    ("normal:60,12", lambda x: normal_cdf(x, 60, 12), (1, 200)),
    ("lognormal:60,40", lambda x: lognormal_cdf(x, 60, 40), (1, 2000)),
    ("exponential:50", lambda x: 0.0 if x < 1 else 1 - math.exp(-x / 50), (1, 2000)),
]


@pytest.mark.parametrize(("asked", "cdf", "bounds"), CASES)
def test_lengths_are_distributed_as_asked(
    asked: str,
    cdf: Callable[[float], float],
    bounds: tuple[int, int],
    model: Model,
    count: Callable[[str], int],
) -> None:
    """By Kolmogorov and Smirnov's test at 1 %, which the fixed seed decides once and for all."""
    argv = ["-n", str(COUNT), "--seed", "7", "--input-tokens", asked, "--output-tokens", asked, *FIELDS]
    result = model.run(*argv, "--tokenizer", TOKENIZER)
    inputs = [count(one["prompt"]) for one in model.sent]
    outputs = [one["max_tokens"] for one in model.sent]
    assert len(inputs) == COUNT
    for lengths in (inputs, outputs):
        assert bounds[0] <= min(lengths) <= max(lengths) <= bounds[1]
        assert deviation_of(lengths, cdf) < 1.63 / math.sqrt(COUNT)
    assert inputs != outputs
    assert result["lengths"]["request_tokens"]["mean"] == pytest.approx(statistics.mean(inputs))
    assert result["tokens_by"] == f"the tokenizer {TOKENIZER}"
    assert result["shape"] == f"input {asked} tokens, output {asked} tokens"


def test_a_constant_length_is_just_that(
    model: Model, count: Callable[[str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of texts that do not begin alike, by the worker's own tokenizer, and weighed by the worker."""
    result = model.run("-n", "60", "--input-tokens", "120", *FIELDS, body="")
    texts = [one["prompt"] for one in model.sent]
    assert {count(text) for text in texts} == {120}
    assert len({" ".join(text.split()[:4]) for text in texts}) == 60
    assert {one["max_tokens"] for one in model.sent} == {1}
    assert result["workload_rate"] * result["seconds"] == pytest.approx(60 * 120)
    out = capsys.readouterr().out
    assert f"tokens by     the tokenizer {TOKENIZER}\n" in out
    assert "request tokens p50 120, p90 120, largest 120" in out


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        ([], "no tokenizer is named, see --tokenizer"),
        (
            ["--tokenizer", "/no/such/one"],
            "the tokenizer /no/such/one cannot be loaded: there is no such path",
        ),
    ],
)
def test_without_a_tokenizer_lengths_are_estimated(
    argv: list[str], reason: str, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    result = model.run("--input-tokens", "400", *FIELDS, *argv)
    assert {len(one["prompt"].split()) for one in model.sent} == {300}
    assert result["tokens_by"].startswith(f"an estimate, 0.75 words for each ({reason}")
    assert f"tokens by     an estimate, 0.75 words for each ({reason}" in capsys.readouterr().out


def test_a_trace_has_its_lengths_by_the_tokenizer(model: Model, count: Callable[[str], int]) -> None:
    file = model.folder / "trace.jsonl"
    file.write_text('{"at": 0, "input_length": 40, "output_length": 7}\n{"at": 0.01, "input_length": 4000}\n')
    model.run("--trace", str(file), *FIELDS, "--tokenizer", TOKENIZER)
    sent = sorted((count(one["prompt"]), one["max_tokens"]) for one in model.sent)
    assert sent == [(40, 7), (4000, 1)]


def test_the_seed_makes_the_requests(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    """Without one, both tests of --compare get the same nevertheless, and the report has it."""
    argv = [
        "--input-tokens",
        "5:30",
        "--output-tokens",
        "normal:9,3",
        "--prefix-tokens",
        "9",
        "--prefixes",
        "3",
    ]

    def sent(*more: str) -> list[str]:
        model.run(*argv, *FIELDS, *more)
        return sorted(json.dumps(one) for one in model.sent)

    first = sent("--seed", "5")
    assert first == sent("--seed", "5")
    assert first != sent("--seed", "6")
    capsys.readouterr()
    both = sent("--compare", model.server.url)
    assert both[::2] == both[1::2]
    [seed] = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("seed ")]
    assert sent("--seed", seed) == both[::2]


def test_the_model_server_gets_the_lengths_as_well(model: Model, count: Callable[[str], int]) -> None:
    """Though it gets what the worker makes of a payload."""

    @dataclass
    class Renamed(Text):
        def generate_payload_json(self) -> dict[str, Any]:
            return {"prompt": self.prompt, "limit": self.max_tokens}

    model.run("--input-tokens", "30", "--fields", "prompt", payload=Renamed("x"), body="")
    assert {(count(one["prompt"]), one["limit"]) for one in model.sent} == {(30, 1)}


# -- prefixes ---------------------------------------------------------------------------------------------


def test_requests_share_prefixes(model: Model, count: Callable[[str], int]) -> None:
    argv = ["-n", "120", "--prefix-tokens", "200", "--prefixes", "3", "--tokenizer", TOKENIZER, "--seed", "3"]
    result = model.run(*argv, "--input-tokens", "30", *FIELDS)
    texts = [one["prompt"] for one in model.sent]
    assert {count(text) for text in texts} == {230}
    heads = Counter(" ".join(text.split()[:100]) for text in texts)
    assert len(heads) == 3
    # Each has a third: a binomial, and four of its standard deviations.
    assert all(abs(times - 40) < 4 * math.sqrt(120 * 2 / 9) for times in heads.values())
    for head in heads:
        having = [text for text in texts if text.startswith(head)]
        shared = _shared(having)
        assert count(shared) == 200
        assert len(set(having)) == len(having)
    assert result["shape"] == "input 30 tokens, one of 3 prefixes of 200 tokens"


def _shared(texts: Sequence[str]) -> str:
    """The words with which all begin."""
    columns = zip(*(text.split() for text in texts), strict=False)
    words: list[str] = []
    for column in columns:
        if len(set(column)) > 1:
            break
        words.append(column[0])
    return " ".join(words)


def test_a_prefix_before_the_text_of_a_payload_or_in_a_message_of_its_own(
    model: Model, count: Callable[[str], int]
) -> None:
    argv = ["--prefix-tokens", "50", "--tokenizer", TOKENIZER]
    model.run(*argv, "--fields", "prompt")
    [text] = {one["prompt"] for one in model.sent}
    assert text.endswith(" own words")
    assert count(text.removesuffix(" own words")) == 50

    body = json.dumps({"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "?"}]})
    fields = ["--fields", "messages.1.content,max_tokens,messages.0.content"]
    model.run(*argv, *fields, "--input-tokens", "10", body=body)
    system = {one["messages"][0]["content"] for one in model.sent}
    assert [count(text) for text in system] == [50]
    assert {count(one["messages"][1]["content"]) for one in model.sent} == {10}


# -- what cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            "--input-tokens 0 --fields prompt",
            "argument --input-tokens: 0 is out of bounds: from 1 to 2000000",
        ),
        ("--input-tokens 9:3 --fields prompt", "argument --input-tokens: 9:3 is no range"),
        (
            "--input-tokens normal:9 --fields prompt",
            "argument --input-tokens: normal:9 is none of N, LOW:HIGH",
        ),
        (
            "--output-tokens normal:9,-1 --fields prompt,x",
            "--output-tokens: normal:9,-1 has a standard deviation below 0",
        ),
        ("--output-tokens nan --fields prompt,x", "argument --output-tokens: nan is out of bounds"),
        ("--output-tokens 5 --fields prompt", "--fields/--trace-fields has no second name"),
        ("--input-tokens 5", "say where the lengths stand in a payload: --fields INPUT,OUTPUT"),
        ("--input-tokens 5 --fields a,b,c,d", "--fields/--trace-fields: a,b,c,d are not INPUT,OUTPUT"),
        ("--input-tokens 5 --fields prompt.0", "--fields/--trace-fields: the payload has no field '0'"),
        (
            "--input-tokens 5 --fields prompt,b,c",
            "--fields/--trace-fields has a third name, for --prefix-tokens",
        ),
        ("--output-tokens 5 --fields x,prompt", 'the worker would refuse it: {"prompt": '),
        ("--prefixes 3", "--prefixes needs --prefix-tokens N"),
        ("--prefix-tokens 5 --fields max_tokens", "'max_tokens' holds no text that a prefix could begin"),
        ("--prefix-tokens 1000000 --prefixes 11 --fields prompt", "--prefixes times --prefix-tokens is more"),
        ("--tokenizer x", "--tokenizer is for --input-tokens and --prefix-tokens"),
        ("--fields prompt,x", "--fields/--trace-fields is for --trace, --input-tokens"),
        ("--trace {trace} --input-tokens 5 --fields a,b", "--trace has lengths of its own"),
    ],
)
def test_options_at_fault(
    argv: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"at": 0}')
    with pytest.raises(SystemExit, match="2"):
        execute(Text, "/do", ["-l", "-n", "1", *argv.format(trace=trace).split()])
    assert message in capsys.readouterr().err


# -- the parts --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30_000), st.integers(), st.sampled_from([1, 3, 7]))
def test_texts_by_any_tokenizer_whose_tokens_end_with_words(tokens: int, seed: int, size: int) -> None:
    """Here each token is up to `size` letters of a word with the space before it."""

    def counted(text: str) -> int:
        first, *others = text.split(" ")
        return -(-len(first) // size) + sum(-(-(len(word) + 1) // size) for word in others)

    text = _texts(size, counted).text(random.Random(seed), tokens)
    # The shortest word within a text is a letter and a space: of single letters one may be left over.
    assert tokens - (size == 1) <= counted(text) <= tokens


_made: dict[int, Texts] = {}


def _texts(size: int, counted: Callable[[str], int]) -> Texts:
    if size not in _made:
        _made[size] = Texts(counted, 1)
    return _made[size]


def test_texts_by_a_tokenizer_whose_tokens_go_beyond_words() -> None:
    """As some merge whole phrases: then the length is that of the average."""

    def counted(text: str) -> int:
        return -(-len(text.split(" ")) // 3)

    lengths = [counted(Texts(counted, 1).text(random.Random(seed), 500)) for seed in range(3)]
    assert lengths == pytest.approx([500] * 3, rel=0.02)


@given(
    st.sampled_from(["5", "2:9", "normal:5,50", "lognormal:5,50", "exponential:5", "lognormal:0,3"]),
    st.integers(),
)
def test_drawn_numbers_are_within_bounds(asked: str, seed: int) -> None:
    numbers = Distribution.parsed(asked, 0, 20)
    generator = random.Random(seed)
    assert all(0 <= numbers.draw(generator) <= numbers.highest <= 20 for _ in range(20))
    assert all(0 <= numbers.whole(generator) <= 20 for _ in range(20))
