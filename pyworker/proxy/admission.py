"""Which requests are admitted: is the worker ready, and is the wait short enough?"""

from __future__ import annotations

import math

from pyworker.data_types import ApiPayload, AuthData
from pyworker.errors import JsonDataException, LimitReached, NotReady, Overloaded
from pyworker.lifecycle.state import ModelLifecycle, ModelState
from pyworker.proxy.auth import SignatureVerifier
from pyworker.reporting.figures import Limits
from pyworker.reporting.ledger import Ledger
from pyworker.reporting.tracker import Kind, RequestTracker

# The same limit as for the cost in `auth_data`.
_MAX_WORKLOAD = 1e15


class AdmissionControl:
    """Thread-safe. max_in_hand: how many requests may be queued or working at a time."""

    def __init__(
        self, verifier: SignatureVerifier, lifecycle: ModelLifecycle, ledger: Ledger, max_in_hand: int
    ) -> None:
        self._verifier = verifier
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._max_in_hand = max_in_hand

    def require_ready(self) -> None:
        """Raise `NotReady` if no request can be served now."""
        if not self._verifier.has_key:
            raise NotReady("the autoscaler's public key has not been fetched yet")
        state = self._lifecycle.state
        if state is not ModelState.READY:
            raise NotReady(f"the worker cannot serve now: {state.value}")

    def admit(
        self, auth_data: AuthData, payload: ApiPayload, kind: Kind, max_queue_time: float | None
    ) -> RequestTracker:
        """Open the request's entry in the ledger. max_queue_time: seconds, None for no limit.

        Raises `NotReady`, `Overloaded`, or `JsonDataException` for a workload that makes no sense.
        """
        self.require_ready()
        workload = _workload(payload)
        throughput = self._lifecycle.status.throughput
        limit = max_queue_time
        max_load = limit * throughput if limit is not None and throughput > 0 else None
        try:
            return self._ledger.admit(auth_data, workload, Limits(self._max_in_hand, max_load), kind)
        except LimitReached as reached:
            in_hand, wait = reached.entries, _seconds(reached.load, throughput)
            if limit is None or in_hand >= self._max_in_hand:
                raise _too_busy(f"{in_hand} requests are in hand already", in_hand, wait) from None
            reason = f"the estimated wait of {wait:.1f} s is above the limit of {limit:g} s"
            raise _too_busy(reason, in_hand, wait, wait - limit) from None

    def too_late(self, max_queue_time: float | None) -> Overloaded:
        """The error for a request that waited for longer in the queue."""
        load, in_hand = self._ledger.in_hand()
        reason = f"waited {max_queue_time or 0.0:g} s in the queue, which is the limit"
        return _too_busy(reason, in_hand, _seconds(load, self._lifecycle.status.throughput))

    @property
    def in_hand(self) -> int:
        """Requests that are queued or working."""
        return self._ledger.in_hand()[1]

    def estimated_wait(self) -> float:
        """Seconds until the requests in hand are done; 0 before the throughput is known."""
        return _seconds(self._ledger.in_hand()[0], self._lifecycle.status.throughput)


def _seconds(load: float, throughput: float) -> float:
    """How long the model takes for this workload; 0 before its throughput is known."""
    return load / throughput if throughput > 0 else 0.0


def _too_busy(reason: str, in_hand: int, wait: float, over: float = 0.0) -> Overloaded:
    return Overloaded(
        f"too busy: {reason}", requests_in_hand=in_hand, estimated_wait=wait, retry_after=max(over, 1.0)
    )


def _workload(payload: ApiPayload) -> float:
    """The payload's workload. Raises `JsonDataException` for one that would spoil every sum, such as NaN."""
    try:
        workload = float(payload.count_workload())
    except OverflowError:
        workload = math.inf
    if not 0 <= workload <= _MAX_WORKLOAD:
        raise JsonDataException({"payload": f"its workload must be between 0 and {_MAX_WORKLOAD:g}"})
    return workload
