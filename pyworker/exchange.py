"""What one request holds, and how it is given back: tracker, slot, call to the model, watch on the client."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

import flask
import requests

from pyworker.answer import Aborted
from pyworker.connection import ModelCall
from pyworker.disconnect import DisconnectWatcher, Presence
from pyworker.errors import NotReady, PyworkerError, RequestError
from pyworker.log_limit import LogLimit
from pyworker.model_response import ModelResponse
from pyworker.model_stream import ModelStream
from pyworker.reports import Outcome
from pyworker.request_queue import Slot
from pyworker.tracker import RequestTracker
from pyworker.verdict import Verdict

logger = logging.getLogger(__name__)

#: Seconds for the model server to end a call that nobody waits for any more, before the next one of a serial
#: route begins all the same. Long enough for one that notices between two steps of its work, or only when it
#: writes; one that never does must not hold up those in line for good.
SEE_OFF_SECONDS = 30.0
_cut_lines = LogLimit()


@dataclass(frozen=True)
class Cut:
    """Why requests in hand are ended from outside: their outcome, and the answer where none has begun.

    is_final: whether no other request comes after them, so that nobody waits for the model server's end.
    """

    outcome: Outcome
    error: Callable[[], RequestError]
    is_final: bool = False


SHUTDOWN = Cut(Outcome.ERROR, lambda: NotReady("the worker is shutting down"), is_final=True)


class OpenExchanges:
    """Exchanges in hand that may have to be ended together: the worker's, a session's. Thread-safe."""

    def __init__(self) -> None:
        # Guards _open and _cut.
        self._lock = threading.Lock()
        self._open: set[Exchange] = set()
        self._cut: Cut | None = None

    def add(self, exchange: Exchange) -> None:
        """It was admitted; where they were cut already, so is this one."""
        with self._lock:
            self._open.add(exchange)
            cut = self._cut
        if cut is not None:
            exchange.cut(cut)

    def discard(self, exchange: Exchange) -> None:
        """It gave everything back."""
        with self._lock:
            self._open.discard(exchange)

    def cut(self, cut: Cut) -> int:
        """End all of them, and whatever is added later; how many there were."""
        with self._lock:
            self._cut = cut
            exchanges = list(self._open)
        for exchange in exchanges:
            exchange.cut(cut)
        return len(exchanges)

    def __repr__(self) -> str:
        return f"<OpenExchanges [{len(self._open)} open]>"


class Exchange:
    """One admitted request. `client_gone` and `cut` may come from any thread; the rest is the request's own.

    Whatever happens, `close` runs in the end (gunicorn closes the response even where its body never
    started), and a request without an outcome by then was given up by its client.
    """

    def __init__(
        self,
        tracker: RequestTracker,
        slot: Slot,
        watcher: DisconnectWatcher,
        registers: Sequence[OpenExchanges],
    ) -> None:
        self.tracker = tracker
        self.slot = slot
        self.call = ModelCall()
        self._watcher = watcher
        self._presence: Presence | None = None
        self._model_response: requests.Response | None = None
        self._verdict: Verdict | None = None
        #: Whether the client hung up. Set once, by whichever thread noticed.
        self.gone = False
        self.was_cut: Cut | None = None
        # Guards _limit and _is_closed.
        self._lock = threading.Lock()
        # Ends the call once the model server has had its time to do so.
        self._limit: threading.Timer | None = None
        self._is_closed = False
        self._registers = registers
        for register in registers:
            register.add(self)

    def watch(self, presence: Presence) -> None:
        """Notice from now on when this client hangs up."""
        self._presence = presence
        self._watcher.watch(presence, self.client_gone)

    def client_gone(self) -> None:
        """The client hung up: leave the queue, end the call to the model."""
        self.gone = True
        if self.tracker.end(Outcome.CANCELLED):
            logger.info("499 request %d: the client hung up", self.tracker.request_idx)
        self._end_call()

    def cut(self, cut: Cut) -> None:
        """End the request now; an answer that has begun breaks off visibly."""
        self.was_cut = cut
        self.tracker.end(cut.outcome)
        if cut.is_final:
            self.call.abort()
            self.slot.release()
        else:
            self._end_call()

    def _end_call(self) -> None:
        """Have the model server stop. Its turn is given back once it has, which `close` waits for."""
        if not self.slot.is_exclusive:
            self.call.abort()
        elif not self.call.hang_up():
            self.slot.release()  # it waits in line, or the model server is done with it
        else:
            self._limit_call()

    def _limit_call(self) -> None:
        with self._lock:
            if self._is_closed or self._limit is not None:
                return
            limit = self._limit = threading.Timer(SEE_OFF_SECONDS, self.call.abort)
            limit.name = "pyworker-hang-up-limit"
            limit.daemon = True
            limit.start()

    def hold(self, model_response: requests.Response, verdict: Verdict) -> None:
        """Close this response of the model server with the exchange; `verdict` makes of it the outcome."""
        self._model_response = model_response
        self._verdict = verdict

    def deliver(self, response: flask.Response) -> flask.Response:
        """Tie the exchange to the client's response: its outcome is known at the last byte.

        Waits for the first piece of a body that comes piece by piece: what goes wrong before can still be an
        error answer, and is raised.
        """
        length = response.calculate_content_length() if response.is_sequence else None
        if length is not None:
            response.content_length = length
        else:
            length = response.content_length
        body = response.response
        has_body = response.status_code >= 200 and response.status_code not in (204, 304)
        pieces = iter(body)
        first = next(pieces, None) if has_body and not response.is_sequence else None
        delivered = self._until_last_byte(first, pieces, length, response.status_code)
        response.response = (
            ModelStream(delivered, body.answer) if isinstance(body, ModelStream) else delivered
        )
        if not has_body:
            self._end(response.status_code)  # no body will be asked for
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
                        # A client that has the last byte may hang up, or end its session: from here on only
                        # a failed write can spoil the outcome.
                        self._unwatch()
                        self._unregister()
                yield piece
                part = next(others, None)
        except Exception as error:
            self.tracker.end(Outcome.ERROR)
            reason = str(error) if isinstance(error, PyworkerError) else type(error).__name__
            if not self.call.aborted and (more := _cut_lines.suffix(reason)) is not None:
                logger.warning("request %d: answer cut: %s%s", self.tracker.request_idx, reason, more)
            # gunicorn's way to end a connection in mid-answer, without an end that looks like one.
            raise ConnectionResetError(errno.ECONNRESET, reason) from error
        except (SystemExit, KeyboardInterrupt):
            self.tracker.end(Outcome.ERROR)
            raise
        self._end(status)

    def _end(self, status: int) -> None:
        """The response with this status is complete."""
        assert self._verdict is not None, "a response is delivered without one of the model server"
        outcome, worked = self._verdict.of(status, self.tracker.request_idx)
        self.tracker.end(outcome, worked=worked)

    def fail(self) -> None:
        """The request ended with an error answer of ours."""
        self.tracker.end(Outcome.ERROR)
        self._give_back(waits=self.call.aborted)

    def close(self) -> None:
        """Give everything back; any number of times, never raises.

        May wait for the model server, if that is still at work for a client that is gone.
        """
        self._give_back(waits=True)

    def _give_back(self, *, waits: bool) -> None:
        self._unwatch()
        model_response, self._model_response = self._model_response, None
        if model_response is not None:
            if waits and self.slot.is_exclusive and isinstance(model_response, ModelResponse):
                self._see_off(model_response)
            with contextlib.suppress(Exception):  # the connection is dropped either way
                model_response.close()
        with self._lock:
            self._is_closed = True
            limit, self._limit = self._limit, None
        if limit is not None:
            limit.cancel()
        self.slot.release()
        self.tracker.close()
        self._unregister()

    def _see_off(self, model_response: ModelResponse) -> None:
        """Wait until the model server ends a response that is not read any more, or its time is up."""
        answer = model_response.answer
        if answer.closed or not self.call.hang_up():
            return
        self._limit_call()
        with contextlib.suppress(Exception):
            while answer.read1():
                pass

    def _unregister(self) -> None:
        for register in self._registers:
            register.discard(self)

    def _unwatch(self) -> None:
        presence, self._presence = self._presence, None
        if presence is not None:
            self._watcher.unwatch(presence)

    def __repr__(self) -> str:
        return f"<Exchange {self.tracker!r}{' gone' if self.gone else ''}>"
