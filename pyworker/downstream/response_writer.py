"""Sending a response: on a thread of the pool, or parked with the relay while the model server is silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pyworker.downstream.connection import ClientSocket
from pyworker.downstream.response import ClientResponse, chunk
from pyworker.runtime.nonblocking import Receiver
from pyworker.runtime.thread_pool import waiting
from pyworker.wsgi_extensions import Arrival, PollableBody, PollableSource

logger = logging.getLogger(__name__)

# A stream with larger pieces belongs on a thread of the pool, which releases the GIL for the copy. So does
# one whose client does not keep up, since that thread may block.
_MAX_RELAYED = 32 * 1024


class Delivery:
    """The body of one response, sent piece by piece. Belongs to one thread at a time.

    A thread of the pool calls `go_on`, which may block. If that returns False the rest is parked: the relay
    calls `pass_on` each time data arrives, until that returns False; then a thread of the pool calls `go_on`.
    """

    def __init__(self, client: ClientSocket, response: ClientResponse, body: Any, held: Any = None) -> None:
        """body: what the app returned; held: what its request holds (`wsgi_extensions.HELD`). `go_on` closes
        both in the end.
        """
        self.client = client
        self._held = held
        self._response = response
        self._body = body
        self._pieces: Iterator[bytes] = iter(body)
        # Only if it can be parked.
        self._source: PollableSource | None = (
            body.source if isinstance(body, PollableBody) and response.chunked else None
        )
        self._is_broken = False
        # Left by `pass_on` for `go_on`: what the client's buffer did not take, and an error.
        self._unsent = b""
        self._error: Exception | None = None
        #: Seconds for which the model server may be silent, and when they are over (monotonic).
        self.timeout = None if self._source is None else self._source.timeout
        self.deadline: float | None = None

    # -- on a thread of the pool -------------------------------------------------------------------------

    def go_on(self) -> bool:
        """Send the rest: True at the end, False if it is to be parked.

        Raises OSError if the client is gone, and the app's error if nothing was sent yet.
        """
        is_over = True
        try:
            is_over = self._send()
        except OSError:
            self._mark_cut()
            raise
        except BaseException:  # a handler may raise anything, SystemExit too, and the thread has to go on
            if not self._response.headers_sent:
                raise
            # An error response in the middle of this one would corrupt it.
            logger.exception("a request failed in the middle of its response")
            self._is_broken = True
            self._mark_cut()
        finally:
            if is_over:
                self._close()
        return is_over

    def _mark_cut(self) -> None:
        """A response to HTTP/1.0 without a length ends with the connection: reset it, so that the end
        shows.
        """
        response = self._response
        if response.headers_sent and not response.chunked and response.response_length is None:
            self.client.reset_at_close()

    def _close(self) -> None:
        """Give back what the request holds, whatever an author's callbacks do."""
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        except Exception:
            logger.exception("a response could not be closed")
        finally:
            if self._held is not None:
                self._held.close()

    def _send(self) -> bool:
        if self._error is not None:
            raise self._error
        if self._unsent:
            self.client.send_all(self._unsent)
            self._unsent = b""
        for piece in self._pieces:
            self._response.write(piece)
            if self._waits_for_model:
                return False
            if self._response.chunked or not self._response.is_whole:
                break
        else:
            self._response.close()
            return True
        # A response in pieces waits for the model or the client most of the time, and must not keep other
        # requests from being begun.
        with waiting:
            for piece in self._pieces:
                self._response.write(piece)
                if self._waits_for_model:
                    return False
        self._response.close()
        return True

    @property
    def _waits_for_model(self) -> bool:
        return self._source is not None and self._source.is_drained

    def rest(self) -> bytes | None:
        """After the end: the bytes behind the request, or None to end the connection."""
        return None if self._is_broken else self._response.rest()

    # -- while it is parked: nothing blocks --------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """Of the connection to the model server."""
        assert self._source is not None
        return self._source.descriptor

    def stay(self) -> None:
        """Do not park it again: it keeps a thread until the end."""
        self._source = None

    def give_up_waiting(self) -> None:
        """The model server was silent for too long; `go_on` will raise that."""
        assert self._source is not None
        self._source.give_up_waiting()

    def pass_on(self, receiver: Receiver) -> bool:
        """Relay what has arrived; False if `go_on` is to be called."""
        source = self._source
        assert source is not None
        try:
            found = source.take_in(receiver)
            if isinstance(found, bytes):
                data = found
            elif found is Arrival.PIECE:
                data = chunk(next(self._pieces))
            else:
                return found is Arrival.NOTHING
            sent = self.client.send_what_fits(data)
        except Exception as error:  # noqa: BLE001 - raised again by `go_on`
            self._error = error
            return False
        if sent == len(data) <= _MAX_RELAYED:
            return data is found or source.is_drained
        self._unsent = data[sent:]
        self.stay()
        return False
