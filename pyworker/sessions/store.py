"""Sessions: requests of one client that belong together, until the session ends or expires.

No I/O: `callbacks` notifies the model server of the end, and the clock is an argument.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from pyworker.data_types import AuthData
from pyworker.errors import (
    InvalidSession,
    LimitReached,
    SessionClosed,
    TooManySessions,
    Unauthorized,
    UnknownSession,
)
from pyworker.proxy.open_exchanges import AbortReason, OpenExchanges
from pyworker.reporting.figures import Limits
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.tracker import Kind, RequestTracker
from pyworker.reporting.wire import Outcome
from pyworker.validation import STRICT

_MAX_LIFETIME = 7 * 24 * 3600.0
#: Closed sessions that are remembered, to tell them from unknown ones.
_REMEMBERED = 1000

_ENDED = AbortReason(Outcome.CANCELLED, InvalidSession)


@dataclass(frozen=True)
class Terms:
    """The options of a session: the payload of `/session/create`. lifetime: seconds.

    on_close_route: a path on the model server, or a URL on a loopback address.
    """

    __pydantic_config__ = STRICT

    lifetime: Annotated[float, Field(gt=0, le=_MAX_LIFETIME)] = 60.0
    on_close_route: str | None = None
    on_close_payload: dict[str, Any] | None = None


@dataclass(eq=False, repr=False)
class Session:
    """One session. Immutable but for `expires_at` (monotonic seconds), which the lock of `Sessions` guards.

    raw_auth_data: as the client sent it, unknown keys included.
    """

    auth_data: AuthData
    raw_auth_data: Mapping[str, Any]
    terms: Terms
    tracker: RequestTracker
    created_at: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    exchanges: OpenExchanges = field(default_factory=OpenExchanges)
    expires_at: float = 0.0

    def __repr__(self) -> str:
        return f"<Session of request {self.tracker.request_idx} {self.exchanges!r}>"


class Sessions:
    """The open sessions of a worker. Thread-safe.

    limit: how many may be open at a time; 0: no limit. on_create is called after each creation, which may
    change the next expiry; on_close with each closed session. Neither may block.
    """

    def __init__(
        self,
        ledger: Ledger,
        limit: int,
        *,
        on_create: Callable[[], None] = lambda: None,
        on_close: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._ledger = ledger
        self._limit = limit
        self._on_create = on_create
        self._on_close = on_close
        self._now = ledger.clock.monotonic
        # Guards _open (by id) and their expires_at, _signatures (how many open sessions have each), and
        # _closed (the latest, by id).
        self._lock = threading.Lock()
        self._open: dict[str, Session] = {}
        self._signatures: Counter[str] = Counter()
        self._closed: OrderedDict[str, AuthData] = OrderedDict()

    def create(self, auth_data: AuthData, raw_auth_data: Mapping[str, Any], terms: Terms) -> Session:
        """Open a session for an authenticated client. Raises `TooManySessions`."""
        try:
            tracker = self._ledger.admit(auth_data, auth_data.cost, Limits(self._limit or None), Kind.SESSION)
        except LimitReached as reached:
            raise TooManySessions(reached.entries) from None
        tracker.start_work()
        session = Session(auth_data, raw_auth_data, terms, tracker, self._ledger.clock.wall())
        with self._lock:
            session.expires_at = self._now() + terms.lifetime
            self._open[session.id] = session
            self._signatures[auth_data.signature] += 1
        self._on_create()
        return session

    def extend(self, session_id: str, auth_data: AuthData) -> OpenExchanges | None:
        """Let the session of a request expire one lifetime from now, and return its open exchanges.

        None if no such session is open, or if it is another client's.
        """
        with self._lock:
            session = self._live(session_id)
            if session is None or not _same(session.auth_data, auth_data):
                return None
            session.expires_at = self._now() + session.terms.lifetime
            return session.exchanges

    def knows(self, auth_data: AuthData) -> bool:
        """Whether a session with this signature is open."""
        with self._lock:
            return self._signatures[auth_data.signature] > 0

    def get(self, session_id: str, auth_data: AuthData | None) -> Session:
        """An open session. Raises `UnknownSession`, or `Unauthorized` if `auth_data` is not the session's."""
        with self._lock:
            session = self._live(session_id)
        if session is None:
            raise UnknownSession
        _require_same(session.auth_data, auth_data)
        return session

    def end(self, session_id: str, auth_data: AuthData | None) -> None:
        """Close a session for its client. Raises as `get`, or `SessionClosed` if it was closed before."""
        with self._lock:
            session = self._open.get(session_id)
            known = self._closed.get(session_id) if session is None else session.auth_data
        if known is None:
            raise UnknownSession
        _require_same(known, auth_data)
        if session is None or self._expires_in(session) <= 0 or not self._close(session, Outcome.SUCCESS):
            raise SessionClosed

    def expiration(self, session: Session) -> float:
        """When the session expires if no request extends it, in epoch seconds."""
        return self._ledger.clock.wall() + self._expires_in(session)

    def expire_once(self) -> float | None:
        """Close the expired sessions. Returns the seconds until the next expires, None if none is open."""
        with self._lock:
            now = self._now()
            expired = [session for session in self._open.values() if session.expires_at <= now]
        for session in expired:
            self._close(session, Outcome.SUCCESS)
        with self._lock:
            remaining = [session.expires_at - self._now() for session in self._open.values()]
        return max(min(remaining), 0.0) if remaining else None

    def close_all(self) -> None:
        """Close every session, at the end of the worker."""
        with self._lock:
            sessions = list(self._open.values())
        for session in sessions:
            self._close(session, Outcome.ERROR)

    def _live(self, session_id: str) -> Session | None:
        """The session if it is open and has not expired. Called under the lock."""
        session = self._open.get(session_id)
        return None if session is None or session.expires_at <= self._now() else session

    def _expires_in(self, session: Session) -> float:
        with self._lock:
            return session.expires_at - self._now()

    def _close(self, session: Session, outcome: Outcome) -> bool:
        """Close a session and abort its requests. False if another thread has closed it."""
        with self._lock:
            if self._open.pop(session.id, None) is None:
                return False
            self._signatures[session.auth_data.signature] -= 1
            if not self._signatures[session.auth_data.signature]:
                del self._signatures[session.auth_data.signature]
            self._closed[session.id] = session.auth_data
            if len(self._closed) > _REMEMBERED:
                self._closed.popitem(last=False)
        session.exchanges.abort(_ENDED)
        session.tracker.end(outcome)
        self._on_close(session)
        return True

    def __repr__(self) -> str:
        return f"<Sessions [{len(self._open)} of {self._limit or 'any number'} open]>"


def _same(one: AuthData, other: AuthData) -> bool:
    same_signature = hmac.compare_digest(one.signature.encode(), other.signature.encode())
    return same_signature and one == other


def _require_same(own: AuthData, given: AuthData | None) -> None:
    if given is None or not _same(own, given):
        raise Unauthorized("session_auth: not the auth_data that this session was created with")
