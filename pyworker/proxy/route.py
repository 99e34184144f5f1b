"""A handler and what is decided about its requests when the worker is made, so that no request decides it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import requests

from pyworker.data_types import WITHOUT_BODY, ApiPayload, Dialect, EndpointHandler
from pyworker.jobs import Job, JobHandler
from pyworker.proxy.target import Target
from pyworker.proxy.undeclared import Undeclared, undeclared_of
from pyworker.proxy.verdict import Judge
from pyworker.responses import Passed, PassThrough, Stream, passed_through, streamed
from pyworker.runtime.budget import Budget
from pyworker.runtime.request_queue import Admission
from pyworker.runtime.sample import Measure

_PASSING: Mapping[Any, Callable[[requests.Response], Passed]] = {
    PassThrough.generate_client_response: passed_through,
    Stream.generate_client_response: streamed,
}


class Way(Enum):
    """How requests of a route come in."""

    ENVELOPE = "in the signed envelope"
    WITHOUT_BODY = "without a body, the signature in a header"
    PLAIN = "in the envelope, or bare with an API key"
    OPEN = "in the envelope, or bare"


@dataclass(frozen=True)
class Route:
    """max_queue_time: seconds, None for no limit; places: of an open route, those that its requests share
    with those of all others.
    """

    handler: EndpointHandler[Any]
    admission: Admission
    max_queue_time: float | None
    places: Budget | None = None

    @functools.cached_property
    def way(self) -> Way:
        if self.handler.method in WITHOUT_BODY:
            return Way.WITHOUT_BODY
        if self.handler.dialect is Dialect.OPENAI:
            return Way.PLAIN
        return Way.OPEN if self.handler.is_open else Way.ENVELOPE

    @functools.cached_property
    def payload_cls(self) -> type[ApiPayload]:
        return self.handler.payload_cls()

    @functools.cached_property
    def undeclared(self) -> Undeclared | None:
        """Tells which fields of clients are left out; None if none is."""
        return undeclared_of(self.payload_cls)

    @functools.cached_property
    def target(self) -> Target | None:
        """Where a request goes, and with which header fields; None if each goes to the same path."""
        handler = self.handler
        target = Target(handler.endpoint, handler.pass_headers, pass_query=handler.pass_query)
        return None if target.is_fixed else target

    # A method that the handler does not override is None, so that nothing is kept or sampled for it.

    @functools.cached_property
    def judge(self) -> Judge | None:
        """The handler's `find_failure`."""
        is_own = type(self.handler).find_failure is not EndpointHandler[Any].find_failure
        return self.handler.find_failure if is_own else None

    @functools.cached_property
    def measure(self) -> Measure | None:
        """The handler's `count_work`."""
        is_own = type(self.handler).count_work is not EndpointHandler[Any].count_work
        return self.handler.count_work if is_own else None

    @functools.cached_property
    def on_cancel(self) -> Callable[[Any, Job], None] | None:
        """The handler's `on_cancel`."""
        is_own = type(self.handler).on_cancel is not EndpointHandler[Any].on_cancel
        return self.handler.on_cancel if is_own else None

    @functools.cached_property
    def takes_payload(self) -> bool:
        """Whether the handler's `generate_client_response` has a parameter for the payload."""
        return "payload" in inspect.signature(self.handler.generate_client_response).parameters

    @functools.cached_property
    def passing(self) -> Callable[[requests.Response], Passed] | None:
        """How the model server's response is passed on; None if the handler makes a response of its own."""
        if isinstance(self.handler, JobHandler):
            return None
        return _PASSING.get(type(self.handler).generate_client_response)
