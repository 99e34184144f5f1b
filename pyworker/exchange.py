"""What one request holds, and how it is given back: tracker, slot, call to the model, watch on the client."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import flask
import requests

from pyworker.connection import ModelCall
from pyworker.disconnect import DisconnectWatcher, Presence
from pyworker.errors import NotReady, PyworkerError, RequestError
from pyworker.metrics import RequestTracker
from pyworker.model_stream import ModelStream
from pyworker.reports import Outcome
from pyworker.request_queue import Slot

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """Why requests in hand are ended from outside: their outcome, and the answer where none has begun."""

    outcome: Outcome
    error: Callable[[], RequestError]


SHUTDOWN = Cut(Outcome.ERROR, lambda: NotReady("the worker is shutting down"))


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
        #: Whether the client hung up. Set once, by whichever thread noticed.
        self.gone = False
        self.was_cut: Cut | None = None
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
        self.call.abort()
        self.slot.release()

    def cut(self, cut: Cut) -> None:
        """End the request now; an answer that has begun breaks off visibly."""
        self.was_cut = cut
        self.tracker.end(cut.outcome)
        self.call.abort()
        self.slot.release()

    def hold(self, model_response: requests.Response) -> None:
        """Close this response of the model server with the exchange."""
        self._model_response = model_response

    def deliver(self, response: flask.Response) -> flask.Response:
        """Tie the exchange to the client's response: its outcome is known at the last byte."""
        model_status = self._model_response.status_code if self._model_response is not None else 200
        outcome = Outcome.ERROR if max(model_status, response.status_code) >= 500 else Outcome.SUCCESS
        length = response.calculate_content_length() if response.is_sequence else None
        if length is not None:
            response.content_length = length
        else:
            length = response.content_length
        body = response.response
        pieces = self._until_last_byte(body, length, outcome)
        response.response = ModelStream(pieces, body.answer) if isinstance(body, ModelStream) else pieces
        if response.status_code < 200 or response.status_code in (204, 304):
            self.tracker.end(outcome)  # no body will be asked for
        response.call_on_close(self.close)
        return response

    def _until_last_byte(
        self, body: Iterable[bytes | str], length: int | None, outcome: Outcome
    ) -> Generator[bytes, None, None]:
        try:
            for part in body:
                piece = part.encode() if isinstance(part, str) else part
                if length is not None:
                    length -= len(piece)
                    if length <= 0:
                        # A client that has the last byte may hang up, or end its session: from here on only
                        # a failed write can spoil the outcome.
                        self._unwatch()
                        self._unregister()
                yield piece
        except Exception as error:
            self.tracker.end(Outcome.ERROR)
            if self.gone:
                return  # the call was aborted on purpose, and nobody listens any more
            reason = str(error) if isinstance(error, PyworkerError) else type(error).__name__
            logger.warning("request %d: answer cut: %s", self.tracker.request_idx, reason)
            # gunicorn's way to end a connection in mid-answer, without an end that looks like one.
            raise ConnectionResetError(errno.ECONNRESET, reason) from error
        except (SystemExit, KeyboardInterrupt):
            self.tracker.end(Outcome.ERROR)
            raise
        self.tracker.end(outcome)

    def fail(self) -> None:
        """The request ended with an error answer of ours."""
        self.tracker.end(Outcome.ERROR)
        self.close()

    def close(self) -> None:
        """Give everything back; any number of times, never raises."""
        self._unwatch()
        model_response, self._model_response = self._model_response, None
        if model_response is not None:
            with contextlib.suppress(Exception):  # the connection is dropped either way
                model_response.close()
        self.slot.release()
        self.tracker.close()
        self._unregister()

    def _unregister(self) -> None:
        for register in self._registers:
            register.discard(self)

    def _unwatch(self) -> None:
        presence, self._presence = self._presence, None
        if presence is not None:
            self._watcher.unwatch(presence)

    def __repr__(self) -> str:
        return f"<Exchange {self.tracker!r}{' gone' if self.gone else ''}>"
