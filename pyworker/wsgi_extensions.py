"""What our server offers an app beyond WSGI: keys of the environ, and bodies that it may poll.

Under any other server the keys are absent, and the bodies are ordinary iterables.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.runtime.nonblocking import Receiver

#: The client's `Presence`.
PRESENCE = "pyworker.presence"

#: A callable without arguments, for a request whose body has not arrived completely: it gives back its place
#: among the requests whose large bodies threads may wait for. It may be called any number of times.
LEAVE_LINE = "pyworker.leave_line"

#: Set by the app: what its request holds, an object with `fail()` and `close()`. The server calls `close` at
#: the end of the response, whatever happened. The app calls `fail` if an error comes before the first byte.
HELD = "pyworker.held"


@dataclass(eq=False)
class Presence:
    """Whether one client is still connected. Written by the server; `on_gone` belongs to the request."""

    is_gone: bool = False
    on_gone: Callable[[], None] | None = None


class Arrival(Enum):
    """What `PollableSource.take_in` has found."""

    NOTHING = "no complete piece"
    PIECE = "a piece: the body's next item is available without waiting"
    MORE = "an end, an error, or something else that only the body's next item can tell"


class PollableSource(ABC):
    """The connection that the pieces of a `PollableBody` come from. Belongs to one thread at a time."""

    @property
    @abstractmethod
    def descriptor(self) -> int:
        """To be watched for data."""

    @property
    @abstractmethod
    def timeout(self) -> float | None:
        """Seconds of silence after which `give_up_waiting` is due; None for never."""

    @property
    @abstractmethod
    def is_drained(self) -> bool:
        """Whether the next piece must come from the connection: nothing is buffered."""

    @abstractmethod
    def take_in(self, receiver: Receiver) -> bytes | Arrival:
        """Receive without waiting, once the descriptor is readable.

        Bytes are a piece in the chunks it arrived in, each with its framing (RFC 9112 section 7.1): it is not
        the body's next item then, and nothing else is buffered.
        """

    @abstractmethod
    def give_up_waiting(self) -> None:
        """It was silent for too long: the body's next item raises TimeoutError."""


class ClosingBody:
    """A response body, and what is called once the server is done with it."""

    def __init__(
        self, pieces: Generator[bytes, None, None], on_close: Callable[[], None] | None = None
    ) -> None:
        self.pieces = pieces
        self._on_close = on_close

    def call_on_close(self, on_close: Callable[[], None]) -> None:
        """Have this called by `close`."""
        self._on_close = on_close

    def __iter__(self) -> Generator[bytes, None, None]:
        return self.pieces

    def close(self) -> None:
        """The server is done with it."""
        self.pieces.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()  # a response closes its body in turn


class PollableBody(ClosingBody):
    """A response body whose items come from one source, each a piece of it; nothing else is waited for.

    So our server may poll the source, and ask for the next item only when it has arrived.
    """

    def __init__(
        self,
        pieces: Generator[bytes, None, None],
        source: PollableSource,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(pieces, on_close)
        self.source = source
