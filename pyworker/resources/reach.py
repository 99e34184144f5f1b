"""Whether something could be fetched now, quickly: some libraries take most of a minute to fail."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from requests import PreparedRequest

T = TypeVar("T")

CONNECT_SECONDS = 1.5
READ_SECONDS = 2.0
# A host may have many addresses, each with its own connect timeout, and a resolver may be silent as well:
# neither is bounded by the timeouts above.
DEADLINE_SECONDS = 3.0


@dataclass(frozen=True)
class Reach:
    """What a probe found: the HTTP status, or the reason why there is none."""

    status: int | None
    reason: str

    @property
    def refused(self) -> bool:
        """The server responded that this caller may not have the file, or that it does not exist."""
        return self.status is not None and 400 <= self.status < 500 and self.status != 429

    @property
    def usable(self) -> bool:
        """The server would serve the file; a redirect counts, since a hub keeps files elsewhere."""
        return self.status is not None and 200 <= self.status < 400


def probe(url: str) -> Reach:
    """HEAD `url` once, without following redirects; takes at most DEADLINE_SECONDS."""
    reach = bounded(lambda: _ask(url), DEADLINE_SECONDS, "pyworker-reach-probe")
    return reach or Reach(None, f"no response within {DEADLINE_SECONDS:g} s")


def bounded(action: Callable[[], T], seconds: float, thread_name: str) -> T | None:
    """The result of `action`, or None when it takes longer. `action` should not raise.

    It runs in a thread of its own, because a resolver or a library without timeouts cannot be interrupted:
    if time runs out, the daemon thread is left to end by itself.
    """
    results: queue.SimpleQueue[T] = queue.SimpleQueue()
    thread = threading.Thread(target=lambda: results.put(action()), name=thread_name, daemon=True)
    thread.start()
    try:
        result = results.get(timeout=seconds)
    except queue.Empty:
        return None
    thread.join()
    return result


def _ask(url: str) -> Reach:
    import requests

    try:
        # No credentials on the way: a probe only asks whether the server is up.
        with requests.Session() as session:
            response = session.head(
                url, timeout=(CONNECT_SECONDS, READ_SECONDS), allow_redirects=False, auth=_anonymous
            )
            response.close()
    except requests.Timeout:
        return Reach(None, f"no response within {READ_SECONDS:g} s")
    except (requests.RequestException, ValueError, OSError) as error:
        return Reach(None, _root_cause(error))
    return Reach(response.status_code, f"HTTP {response.status_code}")


def _anonymous(request: PreparedRequest) -> PreparedRequest:
    """Stands in for the look into ~/.netrc that requests would take otherwise."""
    return request


def _root_cause(error: BaseException) -> str:
    """The innermost error in words: the outer ones repeat the address, which may hold a password."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
