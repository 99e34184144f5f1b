"""What one request holds until its last byte: ledger entry, slot, upstream call, watch on the client."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

import flask
import requests

from pyworker.errors import PyworkerError
from pyworker.proxy.cancellation import Cancellation
from pyworker.proxy.disconnect import DisconnectWatcher
from pyworker.proxy.open_exchanges import AbortReason, OpenExchanges
from pyworker.proxy.verdict import Verdict
from pyworker.reporting.tracker import RequestTracker
from pyworker.reporting.wire import Outcome
from pyworker.responses import Passed
from pyworker.runtime.log_limit import LogLimit
from pyworker.runtime.request_queue import Slot
from pyworker.upstream.call import Aborted, ModelCall
from pyworker.upstream.lazy_response import LazyResponse
from pyworker.wsgi_extensions import ClosingBody, PollableBody, Presence

logger = logging.getLogger(__name__)

#: Seconds for the model server to end a call that was given up, before the next request of a serial route
#: starts anyway. Some servers notice only between two steps of their work, or at their next write. A server
#: that never notices must not block the queue for good.
MAX_LINGER = 30.0
_abort_lines = LogLimit()


class Exchange:
    """One admitted request. `client_gone` and `abort` may be called from any thread, the rest from the
    request's.

    `close` always runs in the end: the server closes the response even if its body never started. A request
    without an outcome by then was cancelled by its client.
    """

    def __init__(
        self,
        tracker: RequestTracker,
        slot: Slot,
        watcher: DisconnectWatcher,
        registers: Sequence[OpenExchanges],
        call: ModelCall,
    ) -> None:
        self.tracker = tracker
        self.slot = slot
        self.call = call
        self._watcher = watcher
        self._presence: Presence | None = None
        self._model_response: requests.Response | None = None
        self._verdict: Verdict | None = None
        #: Whether the client has hung up.
        self.gone = False
        self.aborted: AbortReason | None = None
        # Guards _limit and _is_closed.
        self._lock = threading.Lock()
        # Aborts the call if the model server has not ended it within MAX_LINGER.
        self._limit: threading.Timer | None = None
        self._is_closed = False
        self._on_end: Callable[[], None] | None = None
        self._cancellation: Cancellation | None = None
        #: Of the client's response, once it was made.
        self.status = 0
        #: Why the request failed, or its client got no complete response; empty if neither.
        self.problem = ""
        self._registers = registers
        for register in registers:
            register.add(self)

    def watch(self, presence: Presence) -> None:
        """Call `client_gone` when this client hangs up."""
        self._presence = presence
        self._watcher.watch(presence, self.client_gone)

    def client_gone(self) -> None:
        """The client hung up: leave the queue and end the call to the model server."""
        self.gone = True
        self.problem = "the client hung up"
        if self._end_early(Outcome.CANCELLED):
            logger.info("499 request %d: the client hung up", self.tracker.request_idx)
        self._end_call()

    def abort(self, reason: AbortReason) -> None:
        """End the request now. A response that has begun is truncated visibly."""
        self.aborted = reason
        self._end_early(reason.outcome)
        if reason.is_final:
            self.call.abort()
            self.slot.release()
        else:
            self._end_call()

    def _end_call(self) -> None:
        """End the call to the model server. An exclusive slot is released once the server has ended it."""
        if not (self.slot.is_exclusive or self.call.outlasts_hang_up):
            was_called = self.call.abort()
        elif was_called := self.call.hang_up():
            self._limit_call()
        else:
            self.slot.release()  # queued, or the model server has ended the call
        if was_called and self._cancellation is not None:
            self._cancellation.start()

    def _limit_call(self) -> None:
        with self._lock:
            if self._is_closed or self._limit is not None:
                return
            limit = self._limit = threading.Timer(MAX_LINGER, self._stop_waiting)
            limit.name = "pyworker-hang-up-limit"
            limit.daemon = True
            limit.start()

    def _stop_waiting(self) -> None:
        self.call.abort()
        self.slot.release()

    def _end_early(self, outcome: Outcome) -> bool:
        """The response is not complete. The work done for it counts, as far as it is known."""
        verdict = self._verdict
        return self.tracker.end(outcome, work=None if verdict is None else verdict.work_so_far())

    def hold(self, model_response: requests.Response | None, verdict: Verdict) -> None:
        """Keep the model server's response, if there is one, until the exchange ends. `verdict` decides the
        outcome.
        """
        self._model_response = model_response
        self._verdict = verdict

    @property
    def events(self) -> int:
        """Server-sent events of the model server's response, if they were counted; else 0."""
        return 0 if self._verdict is None else self._verdict.events

    def call_at_end(self, on_end: Callable[[], None]) -> None:
        """Call this once, too, after everything was released and the outcome is set."""
        earlier = self._on_end

        def both() -> None:
            if earlier is not None:
                earlier()
            on_end()

        self._on_end = on_end if earlier is None else both

    def tell_if_cancelled(self, cancellation: Cancellation) -> None:
        """Have the model server told if the request is cancelled while it works on it."""
        self._cancellation = cancellation

    def pass_on(self, passed: Passed) -> Iterable[bytes]:
        """As `deliver`, for a response with a body that is not an object: what the server iterates."""
        body = passed.body
        self.status = passed.status
        if isinstance(body, bytes):
            whole = self._until_last_byte(body, iter(()), passed.length, passed.status)
            return ClosingBody(whole, self.close)
        pieces = iter(body)
        delivered = self._until_last_byte(next(pieces, None), pieces, passed.length, passed.status)
        if not isinstance(body, PollableBody):
            return ClosingBody(delivered, self.close)
        return PollableBody(delivered, body.source, self.close)

    def deliver(self, response: flask.Response, *, is_head: bool = False) -> flask.Response:
        """Tie the exchange to the client's response. The outcome is decided at its last byte.

        Waits for the first piece of a streamed body. An error before it is raised and becomes an error
        response. is_head: it is the response to HEAD, which has no body.
        """
        self.status = response.status_code
        length = response.calculate_content_length() if response.is_sequence else None
        if length is not None:
            response.content_length = length
        else:
            length = response.content_length
        body = response.response
        has_body = not is_head and response.status_code >= 200 and response.status_code not in (204, 304)
        pieces = iter(body)
        first = next(pieces, None) if has_body and not response.is_sequence else None
        delivered = self._until_last_byte(first, pieces, length, response.status_code)
        response.response = (
            PollableBody(delivered, body.source) if isinstance(body, PollableBody) else delivered
        )
        if not has_body:
            self._end(response.status_code)  # the server does not iterate the body
        response.call_on_close(self.close)
        return response

    def _until_last_byte(
        self, first: bytes | str | None, others: Iterator[bytes | str], length: int | None, status: int
    ) -> Generator[bytes, None, None]:
        try:
            part = next(others, None) if first is None else first
            while part is not None:
                if self.call.aborted:
                    raise Aborted
                piece = part.encode() if isinstance(part, str) else part
                if length is not None:
                    length -= len(piece)
                    if length <= 0:
                        # The client may hang up or end its session once it has the last byte. Only a failed
                        # write can change the outcome from here on.
                        self._unwatch()
                        self._unregister()
                yield piece
                part = next(others, None)
        except Exception as error:
            self._end_early(Outcome.ERROR)
            reason = str(error) if isinstance(error, PyworkerError) else type(error).__name__
            self.problem = self.problem or reason
            if not self.call.aborted and (more := _abort_lines.suffix(reason)) is not None:
                logger.warning("request %d: response aborted: %s%s", self.tracker.request_idx, reason, more)
            # Makes the server close the connection without a proper end of the body.
            raise ConnectionResetError(errno.ECONNRESET, reason) from error
        except (SystemExit, KeyboardInterrupt):
            self._end_early(Outcome.ERROR)
            raise
        self._end(status)

    def _end(self, status: int) -> None:
        """The response with this status is complete."""
        assert self._verdict is not None, "delivered without a response of the model server"
        outcome, work = self._verdict.of(status, self.tracker.request_idx)
        self.tracker.end(outcome, work=work)

    def fail(self) -> None:
        """The request ended with an error response of the worker."""
        self._end_early(Outcome.ERROR)
        self._give_back(waits=self.call.aborted)

    def close(self) -> None:
        """Release everything. Idempotent, never raises.

        May wait up to `MAX_LINGER` for the model server to end the call of a client that hung up.
        """
        self._give_back(waits=True)

    def _give_back(self, *, waits: bool) -> None:
        if self._is_closed:
            return
        self._unwatch()
        model_response, self._model_response = self._model_response, None
        if model_response is not None:
            if waits and isinstance(model_response, LazyResponse) and not model_response.reader.closed:
                self._cancel(model_response)
            with contextlib.suppress(Exception):  # either way the connection is dropped
                model_response.close()
        if self._cancellation is not None and waits:
            self._cancellation.wait(MAX_LINGER)
        with self._lock:
            self._is_closed = True
            limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()
        self.slot.release()
        if self.tracker.outcome is None:
            self._end_early(Outcome.CANCELLED)
        self._unregister()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end()

    def _cancel(self, model_response: LazyResponse) -> None:
        """The client has gone before the end: read the response in vain until the model server ends it or the
        call is aborted, if others wait for that.
        """
        if self._cancellation is not None and (self.aborted is None or not self.aborted.is_final):
            self._cancellation.start()
        if not self.slot.is_exclusive or not self.call.hang_up():
            return
        self._limit_call()
        reader = model_response.reader
        with contextlib.suppress(Exception):
            while reader.read1():
                pass

    def _unregister(self) -> None:
        for register in self._registers:
            register.discard(self)

    def _unwatch(self) -> None:
        presence, self._presence = self._presence, None
        if presence is not None:
            presence.on_gone = None  # it may just be running

    def __repr__(self) -> str:
        return f"<Exchange {self.tracker!r}{' gone' if self.gone else ''}>"
