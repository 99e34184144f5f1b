"""Sessions: requests of one client that belong together on this worker, until the session ends or expires.

No I/O here: the callback to the model server is somebody else's, and so is the clock.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pyworker.data_types import AuthData
from pyworker.errors import InvalidSession, Overloaded, RequestError, Unauthorized
from pyworker.exchange import Cut, OpenExchanges
from pyworker.metrics import Metrics
from pyworker.reports import Outcome
from pyworker.tracker import Kind, RequestTracker

#: So many ended sessions are remembered to tell them from those that never were.
_REMEMBERED = 1000

_ENDED = Cut(Outcome.CANCELLED, InvalidSession)


class UnknownSession(RequestError):
    """A session of this id is not open here."""

    status = 400

    def __init__(self) -> None:
        super().__init__("session_id: no such session")


class SessionClosed(RequestError):
    """The session has ended or expired before."""

    status = 410

    def __init__(self) -> None:
        super().__init__("session_id: the session is already closed")


class TooManySessions(Overloaded):
    """As many sessions are open as may be."""

    def __init__(self, open_sessions: int) -> None:
        super().__init__(
            f"too busy: {open_sessions} sessions are open already",
            requests_in_hand=open_sessions,
            estimated_wait=0.0,
        )

    def body(self) -> Mapping[str, object]:
        return {"error": self.message, "open_sessions": self.requests_in_hand}


@dataclass(frozen=True)
class Terms:
    """What a client asks of its session. lifetime in seconds.

    on_close_route: a path on the model server, or a URL on a loopback address.
    """

    lifetime: float
    on_close_route: str | None = None
    on_close_payload: Mapping[str, Any] | None = None


class Session:
    """One session. All but `expires_at` never changes; the lock of `Sessions` guards that.

    expires_at: monotonic seconds. raw_auth_data: what the client sent, unknown keys included.
    """

    def __init__(
        self,
        auth_data: AuthData,
        raw_auth_data: Mapping[str, Any],
        terms: Terms,
        tracker: RequestTracker,
        created_at: float,
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.auth_data = auth_data
        self.raw_auth_data = raw_auth_data
        self.terms = terms
        self.tracker = tracker
        self.created_at = created_at
        self.exchanges = OpenExchanges()
        self.expires_at = 0.0

    def is_opened_by(self, auth_data: AuthData) -> bool:
        """Whether this is the `auth_data` that the session was created with."""
        return _same(self.auth_data, auth_data)

    def __repr__(self) -> str:
        return f"<Session of request {self.tracker.request_idx} {self.exchanges!r}>"


class Sessions:
    """The open sessions of a worker. Thread-safe.

    limit: how many may be open at once; 0: any number. on_create is called when a session was created, which
    may be the next to expire; on_close with each session that was closed. Neither may block.
    """

    def __init__(
        self,
        metrics: Metrics,
        limit: int,
        *,
        on_create: Callable[[], None] = lambda: None,
        on_close: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._metrics = metrics
        self._limit = limit
        self._on_create = on_create
        self._on_close = on_close
        self._now = metrics.clock.monotonic
        # Guards _open (by id), their expires_at, their _signatures, and _closed (the last ones, by id).
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        self._signatures: Counter[str] = Counter()
        self._closed: OrderedDict[str, AuthData] = OrderedDict()

    def create(self, auth_data: AuthData, raw_auth_data: Mapping[str, Any], terms: Terms) -> Session:
        """A new session of a client whose signature is good; raises `TooManySessions`."""
        tracker = self._metrics.admit(auth_data, auth_data.cost, self._check_room, Kind.SESSION)
        tracker.start_work()
        session = Session(auth_data, raw_auth_data, terms, tracker, self._metrics.clock.wall())
        with self._lock:
            session.expires_at = self._now() + terms.lifetime
            self._open[session.id] = session
            self._signatures[auth_data.signature] += 1
        self._on_create()
        return session

    def _check_room(self, _load: float, open_sessions: int) -> None:
        if self._limit and open_sessions >= self._limit:
            raise TooManySessions(open_sessions)

    def extend(self, session_id: str, auth_data: AuthData) -> Session | None:
        """The session of a request, which now expires one lifetime from here; None where there is none."""
        with self._lock:
            session = self._live(session_id)
            if session is None or not session.is_opened_by(auth_data):
                return None
            session.expires_at = self._now() + session.terms.lifetime
            return session

    def knows(self, auth_data: AuthData) -> bool:
        """Whether a session that was created with this is open."""
        with self._lock:
            return self._signatures[auth_data.signature] > 0

    def get(self, session_id: str, auth_data: AuthData | None) -> Session:
        """Raises `UnknownSession`, or `Unauthorized` where `auth_data` is not the session's."""
        with self._lock:
            session = self._live(session_id)
        if session is None:
            raise UnknownSession
        if auth_data is None or not session.is_opened_by(auth_data):
            raise _wrong_auth()
        return session

    def end(self, session_id: str, auth_data: AuthData | None) -> None:
        """Close a session at its client's wish; raises as `get`, or `SessionClosed` where it was closed."""
        with self._lock:
            session = self._open.get(session_id)
            known = self._closed.get(session_id) if session is None else session.auth_data
        if known is None:
            raise UnknownSession
        if auth_data is None or not _same(known, auth_data):
            raise _wrong_auth()
        if session is None or self._expires_in(session) <= 0 or not self._close(session, Outcome.SUCCESS):
            raise SessionClosed

    def expiration(self, session: Session) -> float:
        """When the session expires if nothing extends it, as epoch seconds of this moment's wall clock."""
        return self._metrics.clock.wall() + self._expires_in(session)

    def expire_once(self) -> float | None:
        """Close what has expired; seconds until the next one will, None where none is open."""
        with self._lock:
            now = self._now()
            expired = [session for session in self._open.values() if session.expires_at <= now]
        for session in expired:
            self._close(session, Outcome.SUCCESS)
        with self._lock:
            remaining = [session.expires_at - self._now() for session in self._open.values()]
        return max(min(remaining), 0.0) if remaining else None

    def close_all(self) -> None:
        """The worker ends, and with it every session."""
        with self._lock:
            sessions = list(self._open.values())
        for session in sessions:
            self._close(session, Outcome.ERROR)

    def _live(self, session_id: str) -> Session | None:
        """Under the lock."""
        session = self._open.get(session_id)
        return None if session is None or session.expires_at <= self._now() else session

    def _expires_in(self, session: Session) -> float:
        with self._lock:
            return session.expires_at - self._now()

    def _close(self, session: Session, outcome: Outcome) -> bool:
        """End everything that belongs to it; False where somebody else does."""
        with self._lock:
            if self._open.pop(session.id, None) is None:
                return False
            self._signatures[session.auth_data.signature] -= 1
            if not self._signatures[session.auth_data.signature]:
                del self._signatures[session.auth_data.signature]
            self._closed[session.id] = session.auth_data
            if len(self._closed) > _REMEMBERED:
                self._closed.popitem(last=False)
        session.exchanges.cut(_ENDED)
        session.tracker.end(outcome)
        self._on_close(session)
        return True

    def __repr__(self) -> str:
        return f"<Sessions [{len(self._open)} of {self._limit or 'any number'} open]>"


def _same(one: AuthData, other: AuthData) -> bool:
    same_signature = hmac.compare_digest(one.signature.encode(), other.signature.encode())
    return same_signature and one == other


def _wrong_auth() -> Unauthorized:
    return Unauthorized("session_auth: not the auth_data that this session was created with")
