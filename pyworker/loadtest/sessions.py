"""Sessions: the requests of one conversation go to the same worker."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager

from pyworker.client import ClientError, Session, Trace, WorkerAnswerError
from pyworker.loadtest.exchange import Direct, Line
from pyworker.loadtest.targets import Called

#: Seconds for all sessions that are still open when nobody waits for their conversations.
CLOSING_SECONDS = 5.0
#: Seconds for which a worker lets a session last.
LONGEST = 7 * 24 * 3600.0
_CLOSERS = 32
_UNKNOWN = (404, 405, 501)


class Sessions:
    """The open sessions of a test, if the target has any. Any thread may call any method."""

    def __init__(self, called: Called) -> None:
        self._called = called
        self._direct = Direct(called)
        # Guards the fields below.
        self._lock = threading.Lock()
        self._open: set[Session] = set()
        self._refused = ""

    @property
    def described(self) -> str:
        """How the turns of a conversation found their worker."""
        if self._called.session_seconds is None:
            return "without sessions, which this target does not have"
        with self._lock:
            return self._refused or "each in a session of its worker"

    @contextmanager
    def line(self, pause: float) -> Generator[Line]:
        """For one conversation; its session begins with the first request. pause: the longest in it."""
        lifetime = self._called.session_seconds
        with self._lock:
            refused = self._refused
        if lifetime is None or refused:
            yield self._direct
            return
        with ExitStack() as stack:
            yield _InSession(self, stack, min(LONGEST, lifetime + pause))

    def open(self, stack: ExitStack, lifetime: float, trace: Trace) -> Session | None:
        """None if the target has no such thing. Raises `ClientError`."""
        opening = Trace()
        try:
            session = stack.enter_context(self._called.client.session(lifetime=lifetime, trace=opening))
        except WorkerAnswerError as error:
            if error.status not in _UNKNOWN:
                trace.status = opening.status
                raise
            with self._lock:
                self._refused = f"without sessions: the target answered {error.status} to /session/create"
            return None
        finally:
            trace.routing, trace.waiting, trace.worker = opening.routing, opening.waiting, opening.worker
        with self._lock:
            self._open.add(session)
        stack.callback(self._forget, session)
        return session

    def close(self) -> None:
        """End those that are open; at most CLOSING_SECONDS."""
        with self._lock:
            left = [*self._open]
        threads = [
            threading.Thread(target=_end, args=(left,), name=f"pyworker-loadtest-closer-{n}", daemon=True)
            for n in range(min(_CLOSERS, len(left)))
        ]
        end = time.monotonic() + CLOSING_SECONDS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def direct(self) -> Line:
        return self._direct

    @property
    def route(self) -> str:
        return self._called.route

    def _forget(self, session: Session) -> None:
        with self._lock:
            self._open.discard(session)


class _InSession:
    """One conversation's; of the thread that holds it."""

    def __init__(self, sessions: Sessions, stack: ExitStack, lifetime: float) -> None:
        self._sessions = sessions
        self._stack = stack
        self._lifetime = lifetime
        self._session: Session | None = None
        self._asked = False

    def call(self, fields: Mapping[str, object], workload: float, trace: Trace) -> tuple[int, bytes]:
        session = self._current(trace)
        if session is None:
            return self._sessions.direct.call(fields, workload, trace)
        response = session.call(self._sessions.route, fields, trace=trace)
        return response.status_code, response.content

    def stream(self, fields: Mapping[str, object], workload: float, trace: Trace) -> Generator[str]:
        session = self._current(trace)
        if session is None:
            yield from self._sessions.direct.stream(fields, workload, trace)
        else:
            yield from session.stream(self._sessions.route, fields, trace=trace)

    def _current(self, trace: Trace) -> Session | None:
        if not self._asked:
            self._session = self._sessions.open(self._stack, self._lifetime, trace)
            self._asked = True
        return self._session


def _end(sessions: list[Session]) -> None:
    while True:
        try:
            session = sessions.pop()  # atomic
        except IndexError:
            return
        with contextlib.suppress(ClientError):
            session.end()
