"""Spans, as a receiver of OpenTelemetry gets them from a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pyworker.local.signing import Signer
from pyworker.telemetry.otel import TIMEOUT
from pyworker.telemetry.spans import span_export
from pyworker.telemetry.trace import TraceContext, is_traceparent, trace_context
from tests.support.http import ask
from tests.support.leaks import share_port, unshare_port
from tests.support.process import ROOT
from tests.support.scripted import Act, ScriptedServer, chunk, head, whole
from tests.support.stack import NewStack
from tests.support.waiting import wait_until
from tests.telemetry.test_window import record
from tests.workers.conftest import OpenAIStack, openai_stack

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PATH = "/v1/chat/completions"
PROMPT = "a prompt that no span may hold"
PAYLOAD = {"messages": [{"role": "user", "content": PROMPT}], "stream": True, "max_tokens": 9}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


@pytest.fixture(scope="module")
def receiver() -> Iterator[ScriptedServer]:
    with ScriptedServer() as running:
        share_port(running.port, f"scripted-{running.port}")
        running.default = (whole(b"", "Content-Type: application/x-protobuf"),)
        yield running
        unshare_port(running.port)


@pytest.fixture(scope="module")
def traced(
    receiver: ScriptedServer, tmp_path_factory: pytest.TempPathFactory, signing_key: Signer
) -> Iterator[OpenAIStack]:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=of-the-test",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "CONTAINER_ID": "42",
    }
    with openai_stack(tmp_path_factory.mktemp("traced"), signing_key, variables) as stack:
        yield stack


def exports(receiver: ScriptedServer) -> Sequence[ExportTraceServiceRequest]:
    return [ExportTraceServiceRequest.FromString(one.body) for one in receiver.requests("/v1/traces")]


def spans(receiver: ScriptedServer, request_id: str) -> Mapping[str, Span]:
    """By their names, those of the request with this id, once they have come."""

    def found() -> list[Span]:
        every = [
            span
            for export in exports(receiver)
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        traces = {
            span.trace_id for span in every if attributes(span).get("pyworker.request.id") == request_id
        }
        return [span for span in every if span.trace_id in traces]

    wait_until(found, f"the spans of {request_id}")
    return {span.name: span for span in found()}


def attributes(span: Span) -> Mapping[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value") or "") for one in span.attributes}


def stream_of(*events: object) -> tuple[bytes, ...]:
    lines = [f"data: {json.dumps(event)}\n\n".encode() for event in events]
    return head("Content-Type: text/event-stream", "Transfer-Encoding: chunked"), *map(
        chunk, [*lines, b"data: [DONE]\n\n", b""]
    )


def test_a_request_is_three_spans_below_those_of_its_caller(
    traced: OpenAIStack, receiver: ScriptedServer
) -> None:
    words = [{"choices": [{"delta": {"content": "w"}}]}] * 3
    traced.model.once(PATH, *stream_of(*words, {"choices": [], "usage": USAGE}))
    headers = {"X-Request-Id": "traced-1", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    before = time.time_ns()
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), headers).status == 200

    found = spans(receiver, "traced-1")
    assert set(found) == {f"POST {PATH}", "queue", "model call"}
    request, queue, call = found[f"POST {PATH}"], found["queue"], found["model call"]
    assert {span.trace_id.hex() for span in found.values()} == {TRACE_ID}
    assert request.parent_span_id.hex() == PARENT_ID
    assert queue.parent_span_id == call.parent_span_id == request.span_id
    assert len({request.span_id, queue.span_id, call.span_id}) == 3
    assert (request.kind, call.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    # What the model server exports has the call as its parent.
    told = traced.model.request(PATH).header("traceparent")
    assert told == f"00-{TRACE_ID}-{call.span_id.hex()}-01"

    assert before - 10**9 < request.start_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == call.start_time_unix_nano
    assert call.end_time_unix_nano == request.end_time_unix_nano <= time.time_ns()
    of_request = attributes(request)
    assert (of_request["http.route"], of_request["http.request.method"]) == (PATH, "POST")
    assert (of_request["http.response.status_code"], of_request["pyworker.outcome"]) == (200, "Success")
    of_call = attributes(call)
    assert (of_call["gen_ai.usage.input_tokens"], of_call["gen_ai.usage.output_tokens"]) == (7, 3)
    assert of_call["gen_ai.server.time_to_first_token"] <= of_call["gen_ai.server.request.duration"]
    assert of_call["gen_ai.server.time_per_output_token"] >= 0
    assert request.status.code == Status.STATUS_CODE_UNSET

    resource = exports(receiver)[0].resource_spans[0].resource
    known = {one.key: one.value.string_value for one in resource.attributes}
    assert (known["service.name"], known["service.instance.id"]) == ("pyworker", "42")
    assert known["deployment.environment.name"] == "test"
    assert receiver.requests("/v1/traces")[0].header("x-tenant") == "of-the-test"
    assert not any(PROMPT.encode() in one.body for one in receiver.requests("/v1/traces"))


def test_without_a_caller_s_trace_it_begins_one(traced: OpenAIStack, receiver: ScriptedServer) -> None:
    headers = {"X-Request-Id": "traced-2"}
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), headers).status == 200
    found = spans(receiver, "traced-2")
    assert found[f"POST {PATH}"].parent_span_id == b""
    told = traced.model.requests(PATH)[-1].header("traceparent") or ""
    assert is_traceparent(told)
    assert found["model call"].span_id.hex() in told


def test_a_failure_and_a_refusal_are_named(traced: OpenAIStack, receiver: ScriptedServer) -> None:
    traced.model.once(PATH, Act.RESET)
    broken, refused = {"X-Request-Id": "traced-3"}, {"X-Request-Id": "traced-4"}
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), broken).status == 502
    assert ask(traced.url, "POST", PATH, b"{}", refused).status in (401, 422)
    found = spans(receiver, "traced-3")
    for name in (f"POST {PATH}", "model call"):
        assert found[name].status.code == Status.STATUS_CODE_ERROR
        assert found[name].status.message
    assert attributes(found[f"POST {PATH}"])["error.type"] == "model_unreachable"
    found = spans(receiver, "traced-4")
    assert set(found) == {f"POST {PATH}"}
    assert found[f"POST {PATH}"].status.code == Status.STATUS_CODE_UNSET
    assert attributes(found[f"POST {PATH}"])["error.type"] in ("unauthorized", "invalid")


def test_a_caller_that_is_not_sampled_is_not_exported(traced: OpenAIStack, receiver: ScriptedServer) -> None:
    given = f"00-{'ab' * 16}-{PARENT_ID}-00"
    headers = {"X-Request-Id": "traced-5", "traceparent": given}
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), headers).status == 200
    assert traced.model.requests(PATH)[-1].header("traceparent") == given
    last = {"X-Request-Id": "traced-6"}
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), last).status == 200
    spans(receiver, "traced-6")
    assert not any(bytes.fromhex("ab" * 16) in one.body for one in receiver.requests("/v1/traces"))


def test_the_last_spans_come_with_the_shutdown(new_stack: NewStack, receiver: ScriptedServer) -> None:
    stack = new_stack({"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url})
    stack.start_ready()
    answer = ask(stack.url, "POST", "/pass", stack.envelope(), {"X-Request-Id": "traced-7"})
    stack.worker.terminate()
    assert answer.status == 200
    stack.worker.wait()
    assert "POST /pass" in spans(receiver, "traced-7")


def test_a_receiver_that_hangs_slows_no_request(traced: OpenAIStack, receiver: ScriptedServer) -> None:
    receiver.forget()
    receiver.script("/v1/traces", Act.HANG)
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD)).status == 200
    receiver.request("/v1/traces")
    began = time.monotonic()
    for _ in range(20):
        assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD)).status == 200
    assert time.monotonic() - began < TIMEOUT
    traced.worker.wait_for_log("OpenTelemetry has not accepted the spans of")
    receiver.script("/v1/traces", *receiver.default)
    last = {"X-Request-Id": "traced-8"}
    assert ask(traced.url, "POST", PATH, traced.enveloped(PAYLOAD), last).status == 200
    spans(receiver, "traced-8")


@pytest.mark.parametrize("steps", [(Act.HANG,), (Act.RESET,), (whole(b"", status="503 Busy"),)])
def test_the_end_waits_for_a_receiver_once(steps: Sequence[Any]) -> None:
    with ScriptedServer() as failing:
        failing.script("/v1/traces", *steps)
        export = span_export(failing.url, "0", "1", lambda: None)
        assert export is not None
        export.take([record(trace=trace_context("POST", None)) for _ in range(1000)])
        began = time.monotonic()
        assert export.step() == 0.0
        export.close()
        assert time.monotonic() - began < TIMEOUT + 2
        assert export.step() == 0.0, "what is left was given up"


def test_packages_that_are_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("raise ImportError('there is none')\n", "utf-8")
    program = (
        "from pyworker.config import Settings\n"
        "from pyworker.app import create_app, worker_of\n"
        "worker = worker_of(create_app('hello_world', Settings(unsecured=True, otlp_endpoint='http://x')))\n"
        "print(worker.recorder.traces)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "False\n", done.stderr
    [line] = done.stderr.splitlines()
    assert "no spans are exported (there is none)" in line
    assert "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http" in line


@pytest.mark.parametrize(
    "given",
    [None, "", "zz", f"00-{'0' * 32}-{PARENT_ID}-01", f"00-{TRACE_ID}-{'0' * 16}-01", f"00-{TRACE_ID}-01"],
)
def test_a_traceparent_that_is_none_begins_a_trace(given: str | None) -> None:
    context = trace_context("POST", given)
    assert context is not None
    assert context.parent == 0
    assert TRACE_ID not in context.traceparent
    assert is_traceparent(context.traceparent)


def test_its_ids_differ() -> None:
    found = [trace_context("POST", f"00-{TRACE_ID}-{PARENT_ID}-03") for _ in range(100)]
    contexts = [one for one in found if isinstance(one, TraceContext)]
    assert len({number for one in contexts for number in (one.span, one.queue, one.call)}) == 300
    assert {one.flags for one in contexts} == {3}
