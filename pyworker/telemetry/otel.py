"""Requests as spans of OpenTelemetry: the request itself, its time in the queue, its call to the model.

The only module that imports OpenTelemetry, whose packages need not be there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from pyworker.runtime.timed_http import timed_session
from pyworker.telemetry.causes import failure_cause, shed_cause
from pyworker.telemetry.record import REFUSED, RequestRecord
from pyworker.telemetry.trace import TraceContext

#: Seconds for one export with all its attempts, which a shutdown may have to wait for.
TIMEOUT = 3.0
_NANOSECONDS = 1_000_000_000
_UNSET = Status(StatusCode.UNSET)

Attributes = Mapping[str, str | int | float]


class OtelExporter:
    """To an OTLP receiver over HTTP. Headers, certificates and compression come from the variables that
    OpenTelemetry defines. Used by one thread at a time.
    """

    def __init__(self, endpoint: str, version: str, instance: str) -> None:
        # What cannot be sent is told by `SpanExport`, less often.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint}/v1/traces", timeout=TIMEOUT, session=timed_session()
        )
        own = {
            "service.name": "pyworker",
            "service.version": version,
            "service.instance.id": instance,
        }
        # Those of OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win.
        self._resource = Resource(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("pyworker", version)

    def send(self, records: Sequence[RequestRecord]) -> bool:
        """Export the spans of these; False if they were not accepted."""
        spans = [span for record in records for span in self._spans(record)]
        return self._exporter.export(spans) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Nothing is sent any more."""
        self._exporter.shutdown()

    def _spans(self, record: RequestRecord) -> Iterator[ReadableSpan]:
        trace = record.trace
        assert trace is not None
        began = record.ended_at - record.total
        admitted = began + record.authentication
        started = admitted + record.queued
        failure = failure_cause(record)
        cause = failure or shed_cause(record)
        is_fault = bool(failure) or record.status >= 500
        status = Status(StatusCode.ERROR, record.reason or cause) if is_fault else _UNSET
        yield self._span(
            f"{trace.method} {record.route}",
            _context(trace, trace.span),
            _context(trace, trace.parent, is_remote=True) if trace.parent else None,
            (began, record.ended_at),
            _of_request(record, trace, cause),
            SpanKind.SERVER,
            status,
        )
        if record.outcome == REFUSED:
            return
        parent = _context(trace, trace.span)
        yield self._span("queue", _context(trace, trace.queue), parent, (admitted, started), {})
        if record.started:
            times = (started, record.ended_at)
            attributes = _of_call(record)
            yield self._span(
                "model call", _context(trace, trace.call), parent, times, attributes, SpanKind.CLIENT, status
            )

    # Not by a tracer: that would make ids of its own, and the model server was told ours before.
    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times: tuple[float, float],
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        status: Status = _UNSET,
    ) -> ReadableSpan:
        start, end = (int(moment * _NANOSECONDS) for moment in times)
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=dict(attributes),
            kind=kind,
            status=status,
            start_time=start,
            end_time=max(start, end),
            instrumentation_scope=self._scope,
        )

    def __repr__(self) -> str:
        return "<OtelExporter>"


def _context(trace: TraceContext, span: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace.trace, span, is_remote=is_remote, trace_flags=TraceFlags(trace.flags))


def _of_request(record: RequestRecord, trace: TraceContext, cause: str) -> Attributes:
    """https://opentelemetry.io/docs/specs/semconv/http/http-spans/"""
    attributes: dict[str, str | int | float] = {
        "http.request.method": trace.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "pyworker.request.id": record.request_id,
        "pyworker.outcome": record.outcome,
        "pyworker.workload": record.workload,
    }
    if cause:
        attributes["error.type"] = cause
    return attributes


def _of_call(record: RequestRecord) -> Attributes:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/; times in seconds."""
    attributes: dict[str, str | int | float] = {"gen_ai.server.request.duration": record.working}
    if record.first_byte is not None:
        attributes["gen_ai.server.time_to_first_token"] = record.first_byte
    if (each := record.seconds_per_token) is not None:
        attributes["gen_ai.server.time_per_output_token"] = each
    if record.prompt_tokens is not None:
        attributes["gen_ai.usage.input_tokens"] = record.prompt_tokens
    if record.generation_tokens is not None:
        attributes["gen_ai.usage.output_tokens"] = record.generation_tokens
    return attributes
