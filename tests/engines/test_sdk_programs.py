"""Programs of the public SDK, each on the SDK's engine and, with another import line, on ours: the same
requests get the same responses, the model server gets the same, and the same is reported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.signing import Signer
from tests.support.http import Answer, ask
from tests.support.leaks import share_port, unshare_port
from tests.support.process import ROOT
from tests.support.scripted import ScriptedServer, chunk, head, whole
from tests.support.sdk import installed_sdk
from tests.support.sdk_program import PROGRAMS, ProgramStack

# The first test may have to install the SDK.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(700)]

LOADED = {
    "llm": "INFO:     Application startup complete.",
    "speech": "speech server is up",
    "image": "worker-0: BACKENDS_READY",
    "batch": "",
}
ENGINES = ("theirs", "ours")
START_SECONDS = 120  # all at the same time
COMPLETION = whole(b'{"choices": [{"text": "in and out"}]}', "Content-Type: application/json")
EVENTS = [b'data: {"choices": [{"text": "in"}]}\n\n', b"data: [DONE]\n\n"]


@dataclass(frozen=True)
class Pair:
    """One program on both engines."""

    theirs: ProgramStack
    ours: ProgramStack

    def __iter__(self) -> Iterator[ProgramStack]:
        return iter((self.theirs, self.ours))

    def script(self, path: str, *steps: bytes) -> None:
        """What both model servers answer."""
        for stack in self:
            stack.model.script(path, *steps)

    def call(self, path: str, payload: object) -> tuple[Answer, Answer]:
        """The responses, after the same outcome was reported of both."""
        for stack in self:
            stack.model.forget_requests()
        (theirs, their_index), (ours, our_index) = (stack.call(path, payload) for stack in self)
        assert self.theirs.outcome(their_index) == self.ours.outcome(our_index)
        assert (theirs.status, theirs.complete) == (ours.status, ours.complete)
        # The probe of the health is each engine's own.
        said = [
            [request.json() for request in stack.model.requests() if request.method == "POST"]
            for stack in self
        ]
        assert said[0] == said[1]
        return theirs, ours

    def same(self, path: str, payload: object) -> Answer:
        """The response of ours, whose body and type are those of the other."""
        theirs, ours = self.call(path, payload)
        assert ours.body == theirs.body
        assert ours.header("Content-Type") == theirs.header("Content-Type")
        return ours


def _share(ending: ExitStack, url: str, thread: str) -> None:
    """This server is not a test's own."""
    port = urlsplit(url).port or 0
    share_port(port, thread)
    ending.callback(unshare_port, port)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[dict[str, Pair]]:
    """Every program on both engines, started together."""
    named = os.environ.get("PYWORKER_TEST_SDK_PYTHON")
    python = Path(named) if named else installed_sdk(ROOT / ".pyworker")
    folder = tmp_path_factory.mktemp("programs")
    with ExitStack() as ending:
        autoscaler = ending.enter_context(Autoscaler(signer=signing_key))
        _share(ending, autoscaler.url, "pyworker-autoscaler")
        stacks: dict[tuple[str, str], ProgramStack] = {}
        for number, (name, engine) in enumerate((name, engine) for name in LOADED for engine in ENGINES):
            home = folder / f"{name}-{engine}"
            home.mkdir()
            model = ending.enter_context(ScriptedServer())
            _share(ending, model.url, f"scripted-{model.port}")
            model.script("/generate/sync", whole(b'{"images": ["aGk="]}', "Content-Type: application/json"))
            stack = ProgramStack(
                home,
                autoscaler,
                model,
                PROGRAMS / f"{name}.py",
                python=python if engine == "theirs" else None,
                variables={"CONTAINER_ID": str(number + 1)},
            )
            stack.worker.say(LOADED[name])
            ending.callback(stack.worker.stop)
            stack.worker.launch()
            stacks[name, engine] = stack
        for stack in stacks.values():
            stack.wait_loaded(START_SECONDS)
        yield {name: Pair(*(stacks[name, engine] for engine in ENGINES)) for name in LOADED}
        for stack in stacks.values():
            stack.worker.terminate()  # all at the same time, too


def test_llm_responses_are_passed_on(pairs: dict[str, Pair]) -> None:
    llm = pairs["llm"]
    llm.script("/v1/completions", COMPLETION)
    answer = llm.same("/v1/completions", {"prompt": "What is a tide?", "max_tokens": 30})
    assert answer.object()["choices"]
    llm.same("/v1/completions", {"input": {"prompt": "What is a tide?", "max_tokens": 12}})
    llm.script(
        "/v1/chat/completions", whole(b'{"error": "no"}', "Content-Type: application/json", status="400 Bad")
    )
    refused = llm.same("/v1/chat/completions", {"messages": [], "max_tokens": 5})
    assert refused.status == 400


def test_llm_streams_are_passed_on(pairs: dict[str, Pair]) -> None:
    llm = pairs["llm"]
    begin = head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    llm.script("/v1/completions", begin, *(chunk(event) for event in EVENTS), chunk(b""))
    answer = llm.same("/v1/completions", {"prompt": "tide", "max_tokens": 20, "stream": True})
    assert answer.body == b"".join(EVENTS)


def test_speech_is_made_by_the_programs_generators(pairs: dict[str, Pair]) -> None:
    speech = pairs["speech"]
    sound = whole(b"RIFF" + bytes(100_000), "Content-Type: application/octet-stream")
    for path in ("/speak", "/stream"):
        speech.script(path, sound)
    theirs, ours = speech.call("/speak", {"text": "The tide is full."})
    assert (ours.body, ours.header("Content-Type")) == (theirs.body, "audio/wav")
    assert ours.header("X-Sound-Bytes") == theirs.header("X-Sound-Bytes") == "100004"
    assert speech.same("/stream", {"text": "The moon lies fair."}).body[:4] == b"RIFF"
    speech.script("/speak", whole(b"out of memory", status="500 Internal"))
    speech.script("/fail", sound)


def test_a_generator_that_raises_is_an_error(pairs: dict[str, Pair]) -> None:
    theirs, ours = pairs["speech"].call("/fail", {"text": "The sea is calm."})
    assert theirs.status == 500
    assert ours.object() == {"error": "/fail: response_generator raised ValueError"}


def test_images_are_parsed_counted_and_put_together(pairs: dict[str, Pair]) -> None:
    image = pairs["image"]
    answer = image.same("/generate/sync", {"prompt": "a lighthouse", "size": [2048, 512]})
    assert answer.object() == {
        "images": ["aGk="],
        "asked": {"prompt": "a lighthouse", "size": [2048, 512]},
        "seed": 7,
    }
    [sent] = [request for request in image.ours.model.requests() if request.method == "POST"]
    assert sent.json() == {"prompt": "a lighthouse", "steps": 20, "size": [1024, 512]}
    image.same("/upscale", {"image": "aGk="})


def test_functions_are_called(pairs: dict[str, Pair]) -> None:
    batch = pairs["batch"]
    answer = batch.same("/remote/score", {"texts": ["tide moon", "sea"], "scale": 3})
    assert answer.object() == {"result": [24, 0]}
    theirs, ours = batch.call("/remote/fail", {"reason": "of the test"})
    assert (theirs.status, ours.object()) == (
        500,
        {"error": "/remote/fail: remote_function raised ValueError"},
    )


def test_a_client_that_hangs_up_releases_the_worker(pairs: dict[str, Pair]) -> None:
    batch = pairs["batch"]
    for stack in batch:
        client, index = stack.begin("/reserve", {})
        with client:
            stack.wait_in_hand(1)
        assert stack.outcome(index) == "Cancelled"
    assert batch.same("/reserve", {"seconds": 0}).object() == {"result": {"released": {"seconds": 0}}}


@pytest.mark.parametrize(("name", "path"), [("llm", "/v1/completions"), ("batch", "/remote/score")])
def test_requests_at_fault_are_refused(pairs: dict[str, Pair], name: str, path: str) -> None:
    for stack in pairs[name]:
        body = stack.body({}, 1).replace(b'"payload"', b'"paylod"')
        with_signature = stack.body({"texts": []}, 1).replace(b'"signature": "', b'"signature": "x')
        assert ask(stack.url, "POST", path, body).object()["payload"] == "field missing"
        assert ask(stack.url, "POST", path, with_signature).status == 401


def test_the_same_work_is_reported(pairs: dict[str, Pair]) -> None:
    """After all others: what they have served, in sum; the LLM's 400 counts as work with one engine only."""
    works = {"speech": 36.0, "image": 140.0, "batch": 102.0}
    for name, work in works.items():
        for stack in pairs[name]:
            assert stack.work_served(work) == work, (name, stack.reports)
