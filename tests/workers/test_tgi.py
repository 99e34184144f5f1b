"""The worker of TGI in front of the stand-in: byte for byte what that says, settled by what it generated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.model_server import ModelServer
from pyworker.local.signing import Signer, current_message
from pyworker.local.tgi_api import TgiApi
from pyworker.runtime.sample import ResponseSample, Sampler
from tests.support.http import Answer, RawClient, ask, next_request_idx
from tests.support.leaks import share_port, unshare_port
from tests.support.process import ROOT, WorkerProcess
from tests.support.waiting import DEADLINE, wait_until
from workers.tgi.client import text_of
from workers.tgi.data_types import GeneratePayload
from workers.tgi.settlement import tokens_of

SLOW = 20.0  # tokens per second of a text that must still run when the test looks
PARAMETERS = {"max_new_tokens": 8, "seed": 4}


class TgiStack:
    """The worker, the stand-in for TGI, and a local autoscaler."""

    def __init__(self, folder: Path, autoscaler: Autoscaler, model: ModelServer, log: Path) -> None:
        self.autoscaler = autoscaler
        self.model = model
        variables = {
            "REPORT_ADDR": autoscaler.url,
            "MODEL_SERVER_URL": model.url,
            "MODEL_LOG": str(log),
            "MODEL_READINESS": "logs",
        }
        self.worker = WorkerProcess("pyworker:create_app('tgi')", folder, variables)

    @property
    def reports(self) -> list[Mapping[str, Any]]:
        return [report for report in self.autoscaler.fleet.reports if report["url"] == self.worker.url]

    @property
    def served(self) -> float:
        """The work that the reports so far call served."""
        return sum(report["cur_perf"] for report in self.reports)

    def wait_served(self, work: float) -> None:
        """Until the reports call so much work served, exactly."""
        found = self.autoscaler.fleet.wait_for(lambda _: self.served == work, DEADLINE)
        assert found, f"{self.served} were reported as served, not {work}"

    def wait_idle(self) -> None:
        """Until a report says that nothing is in hand."""
        seen = len(self.reports)
        found = self.autoscaler.fleet.wait_for(
            lambda _: any(report["cur_load"] == 0 for report in self.reports[seen:]), DEADLINE
        )
        assert found, self.reports[-1:]

    def wait_ready(self) -> None:
        found = self.autoscaler.fleet.wait_for(
            lambda _: any(report["max_perf"] > 0 for report in self.reports), DEADLINE
        )
        assert found, f"{self.reports[-1:]}\n{self.worker.log}"
        wait_until(self._checks_signatures, "the public key at the worker")

    def envelope(self, payload: Mapping[str, Any], request_idx: int | None = None) -> bytes:
        url = self.worker.url
        auth_data = {
            "signature": self.autoscaler.signer.sign(current_message(url)),
            "url": url,
            "endpoint": "tgi",
            "cost": 1.0,
            "reqnum": 1,
            "request_idx": next_request_idx() if request_idx is None else request_idx,
        }
        return json.dumps({"auth_data": auth_data, "payload": payload}).encode()

    def post(self, path: str, request_idx: int | None = None, /, **payload: object) -> Answer:
        return ask(self.worker.url, "POST", path, self.envelope(payload, request_idx))

    def directly(self, path: str, **payload: object) -> Answer:
        """The same request, to TGI itself."""
        headers = {"Content-Type": "application/json"}
        return ask(self.model.url, "POST", path, json.dumps(payload).encode(), headers)

    def outcome(self, request_idx: int) -> str:
        finished = self.autoscaler.fleet.finished
        found = self.autoscaler.fleet.wait_for(
            lambda _: any(record.request_idx == request_idx for record in self.autoscaler.fleet.finished),
            DEADLINE,
        )
        assert found, f"request {request_idx} was never reported: {finished[-3:]}"
        [record] = [one for one in self.autoscaler.fleet.finished if one.request_idx == request_idx]
        return record.status

    def _checks_signatures(self) -> bool:
        body = json.loads(self.envelope({"inputs": "x"})) | {"session_id": "none"}
        return ask(self.worker.url, "POST", "/generate", json.dumps(body).encode()).status == 410


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, signing_key: Signer) -> Iterator[TgiStack]:
    """One worker for the tests of this file, which has measured TGI's speed."""
    folder = tmp_path_factory.mktemp("tgi")
    log = folder / "model.log"
    api = TgiApi()
    with (
        Autoscaler(signer=signing_key) as autoscaler,
        ModelServer(api=api, seed=1, log_file=log, tokens_per_second=400, parallel=10) as model,
    ):
        ports = [(autoscaler.url, "pyworker-autoscaler"), (model.url, "pyworker-model")]
        for url, threads in ports:
            share_port(urlsplit(url).port or 0, threads)
        stack = TgiStack(folder, autoscaler, model, log)
        try:
            stack.worker.start()
            stack.wait_ready()
            yield stack
        finally:
            stack.worker.stop()
            for url, _ in ports:
                unshare_port(urlsplit(url).port or 0)


@pytest.fixture
def stack(shared: TgiStack) -> TgiStack:
    """The worker, alive."""
    assert shared.worker.is_alive, shared.worker.log
    return shared


@pytest.fixture
def settled(stack: TgiStack) -> TgiStack:
    """Everything before has ended and is reported."""
    stack.wait_idle()
    return stack


# --- what passes through ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
@pytest.mark.parametrize("details", [False, True])
def test_the_client_gets_what_tgi_says_byte_for_byte(stack: TgiStack, path: str, details: bool) -> None:
    payload = {"inputs": "the sea is", "parameters": {**PARAMETERS, "details": details}}
    direct, through = stack.directly(path, **payload), stack.post(path, **payload)
    assert direct.status == through.status == 200
    assert direct.body == through.body
    assert direct.header("Content-Type") == through.header("Content-Type")
    assert direct.header("x-compute-characters") == through.header("x-compute-characters") == "10"


def test_unknown_fields_travel_on_as_they_are(stack: TgiStack) -> None:
    payload: dict[str, Any] = {
        "inputs": "x",
        "parameters": {"max_new_tokens": 1, "temperature": 0.70, "grammar": {"type": "json", "value": {}}},
        "stream": False,
        "something": [1, {"new": None}],
    }
    assert stack.post("/generate", **payload).status == 200
    assert stack.model.stats.requests("/generate")[-1].fields == payload


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        ({}, "inputs"),
        ({"inputs": 5}, "inputs"),
        ({"inputs": "x", "parameters": {"max_new_tokens": "5"}}, "max_new_tokens"),
        ({"inputs": "x", "parameters": {"max_new_tokens": 0}}, "max_new_tokens"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named(stack: TgiStack, payload: dict[str, object], named: str) -> None:
    answer = stack.post("/generate", **payload)
    assert answer.status == 422
    assert named in answer.body.decode()


def test_an_error_of_tgi_is_passed_on(stack: TgiStack) -> None:
    payload: dict[str, Any] = {"inputs": "x", "parameters": {"max_new_tokens": 99_999}}
    direct, through = stack.directly("/generate", **payload), stack.post("/generate", **payload)
    assert (through.status, through.body) == (direct.status, direct.body)
    assert through.object()["error_type"] == "validation"


# --- outcomes --------------------------------------------------------------------------------------------


def test_an_error_within_a_stream_is_an_error(stack: TgiStack) -> None:
    invalid, broken, good = next_request_idx(), next_request_idx(), next_request_idx()
    answer = stack.post("/generate_stream", invalid, inputs="x", parameters={"max_new_tokens": 99_999})
    assert (answer.status, answer.body.startswith(b'data:{"error":')) == (200, True)
    stack.model.break_next(after=2)
    stack.post("/generate_stream", broken, inputs="x")
    stack.post("/generate_stream", good, inputs="x")
    assert [stack.outcome(number) for number in (invalid, broken, good)] == ["Error", "Error", "Success"]


def test_what_was_generated_is_what_is_reported(settled: TgiStack) -> None:
    """TGI ends a text by itself long before the limit."""
    parameters = {"max_new_tokens": 3000, "seed": 4}
    for path, details in (("/generate", True), ("/generate_stream", True), ("/generate_stream", False)):
        before = settled.served
        made = settled.model.stats.completion_tokens
        answer = settled.post(path, inputs="rain", parameters={**parameters, "details": details})
        assert answer.status == 200
        made = settled.model.stats.completion_tokens - made
        assert made < 300
        settled.wait_served(before + made)


def test_a_whole_text_without_details_counts_as_it_was_estimated(settled: TgiStack) -> None:
    before = settled.served
    settled.post("/generate", inputs="rain", parameters={"max_new_tokens": 700, "seed": 4})
    settled.wait_served(before + 700)


def test_a_stream_that_its_client_leaves_counts_so_far(settled: TgiStack) -> None:
    before, request_idx = settled.served, next_request_idx()
    payload = {"inputs": "rain", "parameters": {"max_new_tokens": 3000, "seed": 4}}
    with RawClient(settled.worker.url) as client:
        client.post("/generate_stream", settled.envelope(payload, request_idx))
        assert client.head() == 200
        for _ in range(3):
            client.until(b'"details":null}\n\n')
    assert settled.outcome(request_idx) == "Cancelled"
    request = settled.model.stats.requests("/generate_stream")[-1]
    wait_until(lambda: request.ending, "the end of the generation")
    settled.wait_idle()
    assert before + 3 <= settled.served <= before + request.completion_tokens
    assert request.ending == "cut"


# --- the count of tokens, by itself ----------------------------------------------------------------------


def sample(
    body: bytes, content_type: str = "application/json", *, is_complete: bool = True
) -> ResponseSample:
    sampler = Sampler(200, content_type)
    sampler.feed(body)
    return sampler.sample(is_complete=is_complete)


DETAILS = b'"details":{"finish_reason":"length","generated_tokens":%d,"seed":null}}'


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b'{"generated_text":"x"}', None),
        (b'{"generated_text":"x",' + DETAILS % 7, 7),
        (b'{"generated_text":"' + b"x" * 40_000 + b'",' + DETAILS % 7, None),
        (b'{"generated_text":"\\"details\\":{\\"generated_tokens\\":9}",' + DETAILS % 7, 7),
        (b'{"generated_text":"\\"details\\":{\\"generated_tokens\\":9}"}', None),
        (b'{"generated_text":"x","details":{"generated_tokens":-1}}', None),
        (b'{"generated_text":"x","details":{"generated_tokens":' + b"9" * 5000, None),
        (b"", None),
    ],
    ids=["none", "told", "far", "quoted too", "quoted", "negative", "huge", "empty"],
)
def test_the_tokens_of_a_whole_text(body: bytes, tokens: float | None) -> None:
    assert tokens_of(sample(body)) == tokens
    assert tokens_of(sample(body, is_complete=False)) is None


EVENT = b'data:{"index":1,"token":{"id":1,"text":"x"},"generated_text":null,"details":null}\n\n'
LAST = (
    b'data: {"index":3,"token":{"id":1},"generated_text":"' + b"x" * 40_000 + b'",' + DETAILS % 30 + b"\n\n"
)
ERROR = b'data:{"error":"Request failed during generation","error_type":"generation"}\n\n'


@pytest.mark.parametrize(
    ("body", "tokens"),
    [(EVENT * 5, 5), (EVENT * 2 + LAST, 30), (EVENT * 5 + ERROR, 5), (b"", 0), (b":\n\n", 0)],
    ids=["events", "told", "error", "empty", "kept alive"],
)
def test_the_tokens_of_a_stream(body: bytes, tokens: float) -> None:
    assert tokens_of(sample(body, "text/event-stream")) == tokens


def test_the_events_of_a_cut_stream_count() -> None:
    assert tokens_of(sample(EVENT * 4 + b'data:{"ind', "text/event-stream", is_complete=False)) == 5


def test_a_payload_without_a_length_counts_what_tgi_takes() -> None:
    assert GeneratePayload.from_json_msg({"inputs": "x"}).count_workload() == 100
    assert GeneratePayload.from_json_msg({"inputs": "x", "parameters": {}}).count_workload() == 100
    assert GeneratePayload.from_json_msg({"inputs": "x", "parameters": PARAMETERS}).count_workload() == 8


# --- the client ------------------------------------------------------------------------------------------


def run_client(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "workers.tgi.client", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("options", [[], ["--stream"]], ids=str)
def test_the_example_client_shows_the_text(stack: TgiStack, options: list[str]) -> None:
    account = ["--autoscaler", stack.autoscaler.url, "-k", "any", "-e", "tgi"]
    done = run_client(*account, "--max-new-tokens", "12", *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) > 5
    assert "{" not in done.stdout


def test_the_example_client_says_what_was_wrong(stack: TgiStack) -> None:
    account = ["--autoscaler", stack.autoscaler.url, "-k", "any", "-e", "tgi"]
    done = run_client(*account, "--max-new-tokens", "99999", "--stream")
    assert done.returncode == 1
    assert "`max_new_tokens` must be <= 4096" in done.stderr


def test_the_text_of_an_unknown_format_is_itself() -> None:
    assert [text_of(text) for text in ("x", "5", '{"a": 1}')] == ["x", "5", '{"a": 1}']
