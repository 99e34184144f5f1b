"""What a worker does: success, errors, cut and missing responses, clients that hang up."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pyworker.check.accounts import Accounts
from pyworker.check.finding import Finding
from pyworker.check.subject import RouteUnderTest
from pyworker.testing import Answer, Kit, ModelRequest, Reply, cut, error, silent, stream, whole

#: Seconds after which a silent model server has to be given up: MODEL_TIMEOUT of the worker.
MODEL_TIMEOUT = 1.5
#: Seconds for something that takes none.
PATIENCE = 5.0
_TICK = 0.02
_UNKNOWN = "x_pyworker_check"
#: Seconds for a handler that makes several calls to give up a silent model server.
JOB_PATIENCE = 20.0

_TEXT = "in and out"
#: A response that clients of most APIs understand.
GOOD: Mapping[str, object] = {
    "generated_text": _TEXT,
    "choices": [{"index": 0, "text": _TEXT, "message": {"role": "assistant", "content": _TEXT}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}


class Behaviour:
    """The checks of one worker. health: the path of its probe, which is always answered well."""

    def __init__(self, kit: Kit, health: str | None, job_patience: float) -> None:
        self._kit = kit
        self._model = kit.model
        self._health = health
        self._job_patience = job_patience
        #: What the autoscaler should be told.
        self.accounts = Accounts()
        self._unknown = itertools.count(1)

    def answer(self, answer: Answer) -> None:
        """The model server's answer from now on; it stays healthy."""
        self._model.forget()
        self._model.answer_all(answer)
        if self._health is not None:
            self._model.answer(self._health, whole({"ok": True}))

    def check(self, route: RouteUnderTest) -> Iterator[Finding]:
        """All that can be checked of a route."""
        if route.handler is None or (route.has_body and route.payload is None):
            return
        if not route.is_job:
            served = list(self._served(route))
            yield from served
            if served:
                return  # what does not even work cannot fail in the right way
            yield from self._unknown_field(route)
        if route.has_body:
            yield from self._bad_payloads(route)
        for check in (
            self._error,
            self._cut,
            self._cut_stream,
            self._silence,
            self._hang_up,
            self._hang_up_stream,
        ):
            yield from check(route)
            self._recover(route)

    # -- the good case -----------------------------------------------------------------------------------

    def _served(self, route: RouteUnderTest) -> Iterator[Finding]:
        self.answer(whole(GOOD))
        reply = self._call(route)
        advice = "see the worker's log; the handler has to pass on what the model server says"
        if reply.status >= 300 or not reply.is_complete:
            yield Finding("served", route.name, f"a good request gets {_shown(reply)}", advice)
        elif not self._calls():
            problem = "the model server was not asked, so that the response is not its own"
            yield Finding("served", route.name, problem, advice)
        elif route.has_body:
            self.accounts.expect(route.name, reply.request_idx, "Success", "a request that was answered")

    def _unknown_field(self, route: RouteUnderTest) -> Iterator[Finding]:
        if not route.has_body or route.payload is None:
            return
        self._model.forget_requests()
        # The log tells a name once.
        name = f"{_UNKNOWN}_{next(self._unknown)}"
        reply = self._call(route, {**route.payload, name: 1})
        reached = any(name.encode() in request.body for request in self._calls())
        if reached or 400 <= reply.status < 500 or _until(lambda: f"'{name}'" in self._kit.log):
            return
        yield Finding(
            "unknown field",
            route.name,
            "a field that is not declared neither reaches the model server nor is told in the log",
            "pass on `self.sent`, as OpenPayload.generate_payload_json does, or use ApiPayload",
        )

    def _bad_payloads(self, route: RouteUnderTest) -> Iterator[Finding]:
        assert route.payload is not None
        assert route.handler is not None
        self.answer(whole(GOOD))
        declared = [field.name for field in dataclasses.fields(route.handler.payload_cls())]
        tries: list[tuple[str, object]] = [("{}", {})]
        tries += [(f"an object in {name}", {**route.payload, name: {"unexpected": [1]}}) for name in declared]
        tries += [(f"null in {name}", {**route.payload, name: None}) for name in declared]
        for what, payload in tries:
            reply = self._call(route, payload)
            if reply.status == 500 and not route.is_job:
                yield Finding(
                    "bad payload",
                    route.name,
                    f"{what} gets {_shown(reply)}: the client is told that the worker is broken",
                    "have the types of the fields say what is allowed, or raise JsonDataException in "
                    "from_json_msg and nothing in count_workload",
                )
                return

    # -- the model server fails --------------------------------------------------------------------------

    def _error(self, route: RouteUnderTest) -> Iterator[Finding]:
        self.answer(error(500, "the model has failed"))
        yield from self._failed(route, "error", "the model server answers 500", self._call(route))

    def _cut(self, route: RouteUnderTest) -> Iterator[Finding]:
        self.answer(cut(GOOD))
        yield from self._failed(route, "cut", "the model server's response breaks off", self._call(route))

    def _cut_stream(self, route: RouteUnderTest) -> Iterator[Finding]:
        self.answer(stream(GOOD, is_cut=True))
        reply = self._call(route, route.streaming_payload)
        yield from self._failed(route, "cut stream", "the model server's stream breaks off", reply)

    def _silence(self, route: RouteUnderTest) -> Iterator[Finding]:
        assert route.handler is not None
        limit = route.handler.timeout
        if limit is not None and limit > PATIENCE:
            advice = "nothing, or try it with a shorter timeout"
            yield Finding(
                "silence", route.name, f"not checked: its timeout is {limit:g} s", advice, is_fault=False
            )
            return
        self.answer(silent())
        began = time.monotonic()
        reply = self._call_briefly(route)
        took = time.monotonic() - began
        if reply is None:
            yield Finding(
                "silence",
                route.name,
                f"a silent model server is not given up: no response within {took:.0f} s, at a "
                f"MODEL_TIMEOUT of {MODEL_TIMEOUT:g} s",
                "send requests by the job, or by backend.session: other clients have no timeout",
            )
            return
        yield from self._failed(route, "silence", "the model server says nothing", reply)

    def _call_briefly(self, route: RouteUnderTest) -> Reply | None:
        replies: list[Reply] = []

        def call() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                replies.append(self._call(route))

        thread = threading.Thread(target=call, name="pyworker-check-silence", daemon=True)
        thread.start()
        thread.join(self._job_patience if route.is_job else MODEL_TIMEOUT + PATIENCE)
        return replies[0] if replies else None

    def _failed(self, route: RouteUnderTest, check: str, what: str, reply: Reply) -> Iterator[Finding]:
        if reply.status < 400 and reply.is_complete:
            yield Finding(
                check,
                route.name,
                f"{what}, and the client gets a whole response with {reply.status}: it cannot know",
                "return responses.pass_through(model_response), or responses.stream; if you read it, do not "
                "catch its errors, and pass its status on",
            )
        elif reply.status == 500 and b"internal error of the worker" in reply.body:
            yield Finding(
                check,
                route.name,
                f"{what}, and the handler raises an exception of its own (see the log)",
                "look at model_response.status_code before its body, and let errors of it through",
            )
        if route.has_body:
            self.accounts.expect(route.name, reply.request_idx, "Error", what)

    # -- the client goes ---------------------------------------------------------------------------------

    def _hang_up(self, route: RouteUnderTest) -> Iterator[Finding]:
        self.answer(silent())
        with self._kit.hang_up(route.path, route.payload, method=route.method) as request_idx:
            came = _until(lambda: bool(self._calls()), PATIENCE)
        if came:
            yield from self._gone(route, "hang-up", request_idx)
        else:
            problem = f"not checked: the model server was not asked within {PATIENCE:g} s"
            yield Finding("hang-up", route.name, problem, "see the worker's log", is_fault=False)

    def _hang_up_stream(self, route: RouteUnderTest) -> Iterator[Finding]:
        if route.is_job:
            return
        rest = threading.Event()
        self.answer(stream(GOOD, rest, GOOD))
        # A handler that waits for the end of the response gets it.
        timer = threading.Timer(PATIENCE / 2, rest.set)
        timer.name = "pyworker-check-rest"
        timer.start()
        try:
            payload = route.streaming_payload
            with self._kit.open(route.method, route.path, payload) as reply:
                next(reply.pieces, b"")
                came_early = not rest.is_set()
                request_idx = reply.request_idx
        finally:
            timer.cancel()
        if came_early and self._calls():
            yield from self._gone(route, "hang-up in a stream", request_idx)
        else:
            yield Finding(
                "hang-up in a stream",
                route.name,
                "not checked: what the model server streams comes to the client only when it is over",
                "return responses.pass_through(model_response) or responses.stream(model_response)",
                is_fault=False,
            )
        rest.set()

    def _gone(self, route: RouteUnderTest, check: str, request_idx: int) -> Iterator[Finding]:
        request = self._calls()[0]
        if not _until(request.gone.is_set, PATIENCE):
            yield Finding(
                check,
                route.name,
                f"the client hangs up, and the model server still works on it after {PATIENCE:g} s",
                "send requests by the job, or by backend.session, which end with the client; see on_cancel",
            )
            self.answer(whole(GOOD))
        elif route.has_body:
            self.accounts.expect(route.name, request_idx, "Cancelled", "the client hangs up")

    # -- calls -------------------------------------------------------------------------------------------

    def _call(self, route: RouteUnderTest, payload: object = None) -> Reply:
        sent = route.payload if payload is None else payload
        return self._kit.request(route.method, route.path, sent)

    def _calls(self) -> list[ModelRequest]:
        """What the model server was asked, but for its health."""
        return [request for request in self._model.requests() if request.path != self._health]

    def _recover(self, route: RouteUnderTest) -> None:
        """A success, since a worker suspects its model after several failures in a row; and ready again."""
        self.answer(whole(GOOD))
        if not route.is_job:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._call(route)
        _until(lambda: self._kit.request("GET", "/readyz", signed=False).status == 200, PATIENCE)


def _shown(reply: Reply) -> str:
    cut_short = "" if reply.is_complete else ", cut"
    return f"{reply.status}{cut_short} {reply.text[:200]!r}"


def _until(condition: Callable[[], Any], timeout: float = 1.0) -> bool:
    """Whether it holds in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_TICK)
    return True
