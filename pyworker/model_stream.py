"""The body of a response that hands a model server's answer on as it comes."""

from __future__ import annotations

from collections.abc import Callable, Generator

from typing_extensions import Self

from pyworker.answer import Answer


class ModelStream:
    """Each piece is one `read1` of `answer`, and nothing else is waited for.

    So a server that knows this class may look whether something is there, and ask for the next piece only
    then. To every other it is an iterator.
    """

    def __init__(self, pieces: Generator[bytes, None, None], answer: Answer) -> None:
        self.pieces = pieces
        self.answer = answer
        self._on_close: Callable[[], None] | None = None

    def call_on_close(self, on_close: Callable[[], None]) -> None:
        """Have this called by `close`."""
        self._on_close = on_close

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self.pieces)

    def close(self) -> None:
        """The server is done with it."""
        self.pieces.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()  # a response closes its body in turn
