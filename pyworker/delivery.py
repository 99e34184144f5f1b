"""An answer on its way to the client: on a thread of the pool, or parked while the model server is silent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from pyworker.client_response import ClientResponse, chunk
from pyworker.client_socket import ClientSocket
from pyworker.nowait import Receiver
from pyworker.thread_pool import waiting
from pyworker.wsgi_extensions import Arrival, PollableBody, PollableSource

logger = logging.getLogger(__name__)

# A stream with larger pieces is better off on a thread, which lets others run while it copies; and so is one
# whose client does not keep up, since a thread may wait.
_BULK = 32 * 1024


class Delivery:
    """The body of one response, sent piece by piece. Belongs to one thread at a time.

    A thread of the pool calls `go_on`, which may wait. Where that returns False the rest is parked: another
    thread calls `pass_on` each time the model server says more, until that returns False, and `go_on` again.
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
        # Only where it can be parked.
        self._source: PollableSource | None = (
            body.source if isinstance(body, PollableBody) and response.chunked else None
        )
        self._is_broken = False
        # Left by `pass_on` for `go_on`: what the client did not take at once, and what went wrong.
        self._unsent = b""
        self._error: Exception | None = None
        self.deadline: float | None = None

    # -- on a thread of the pool -------------------------------------------------------------------------

    def go_on(self) -> bool:
        """Send what comes: True at the end, False where the rest is to be parked.

        Raises OSError where the client is gone, and the app's error where nothing was sent yet.
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
            # Another answer in the middle of this one would spoil it.
            logger.exception("a request failed in the middle of its answer")
            self._is_broken = True
            self._mark_cut()
        finally:
            if is_over:
                self._close()
        return is_over

    def _mark_cut(self) -> None:
        """To a client of HTTP/1.0 the end of a response without a length is the end of the connection."""
        response = self._response
        if response.headers_sent and not response.chunked and response.response_length is None:
            self.client.reset_at_close()

    def _close(self) -> None:
        """Whatever an author's callbacks do, what the request holds is given back."""
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
        # One that comes in pieces waits for the model or the client most of the time, and must not keep
        # others from being begun.
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
        """After the end: what the client sent behind its request, or None to end the connection."""
        return None if self._is_broken else self._response.rest()

    # -- while it is parked: nothing waits ---------------------------------------------------------------

    @property
    def descriptor(self) -> int:
        """Of the connection to the model server."""
        assert self._source is not None
        return self._source.descriptor

    @property
    def timeout(self) -> float | None:
        """Seconds for which the model server may be silent."""
        assert self._source is not None
        return self._source.timeout

    def stay(self) -> None:
        """It is not to be parked again: it has a thread until the end."""
        self._source = None

    def give_up_waiting(self) -> None:
        """The model server was silent for too long; `go_on` will tell."""
        assert self._source is not None
        self._source.give_up_waiting()

    def pass_on(self, receiver: Receiver) -> bool:
        """What the model server has said; False where `go_on` is to be called."""
        assert self._source is not None
        try:
            arrival = self._source.take_in(receiver)
            if arrival is not Arrival.PIECE:
                return arrival is Arrival.NOTHING
            data = chunk(next(self._pieces))
            sent = self.client.send_what_fits(data)
        except Exception as error:  # noqa: BLE001 - raised again by `go_on`
            self._error = error
            return False
        self._unsent = data[sent:]
        if self._unsent or len(data) > _BULK:
            self.stay()
            return False
        return self._source.is_drained
