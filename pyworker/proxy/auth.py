"""Verifies the autoscaler's signatures: is a request meant for this worker, and was it used before?

No I/O: the public key is set from outside, and the clock is an argument.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import OrderedDict
from collections.abc import Callable

from Crypto.Hash import SHA256
from Crypto.PublicKey import RSA
from Crypto.Signature import pkcs1_15

from pyworker.data_types import AuthData, WrittenNumber
from pyworker.errors import NotReady, Unauthorized
from pyworker.runtime.urls import origin

#: A `reqnum` more than this below the highest accepted one is refused.
REPLAY_WINDOW = 100
#: Seconds between two fetches of the public key that bad signatures trigger.
REFETCH_INTERVAL = 60.0
_CACHED_SIGNATURES = 1024
# Characters of base64 for RSA-16384; the autoscaler's signature has 344.
_MAX_SIGNATURE = 2732
# Characters; a worker's URL is far shorter.
_MAX_URL = 2048


def current_message(url: str) -> str:
    """The message of the current form, which is the same for every request to a worker."""
    return json.dumps({"url": url}, indent=4, sort_keys=True)


def first_message(auth_data: AuthData) -> str:
    """The message of the first form, which is accepted once."""
    fields = {
        "cost": auth_data.cost.text if isinstance(auth_data.cost, WrittenNumber) else auth_data.cost,
        "endpoint": auth_data.endpoint,
        "reqnum": auth_data.reqnum,
        "url": auth_data.url,
    }
    return json.dumps(fields, indent=4)


class ReplayWindow:
    """The first-form messages that were accepted, within the window. Thread-safe."""

    def __init__(self, width: int = REPLAY_WINDOW) -> None:
        self._width = width
        # Guards _highest and _seen (reqnum -> messages accepted with it).
        self._lock = threading.Lock()
        self._highest: int | None = None
        self._seen: dict[int, set[bytes]] = {}

    def accept(self, reqnum: int, message: str) -> bool:
        """Record a message. True if it lies inside the window and was not recorded before."""
        digest = SHA256.new(message.encode()).digest()
        with self._lock:
            highest = reqnum if self._highest is None else max(self._highest, reqnum)
            if reqnum < highest - self._width or digest in self._seen.get(reqnum, ()):
                return False
            self._seen.setdefault(reqnum, set()).add(digest)
            if highest != self._highest:
                self._highest = highest
                for old in [seen for seen in self._seen if seen < highest - self._width]:
                    del self._seen[old]
            return True

    def __repr__(self) -> str:
        return f"<ReplayWindow highest={self._highest} [{len(self._seen)} reqnums]>"


class SignatureVerifier:
    """Verifies `auth_data`. Thread-safe.

    own_url: this worker's public URL; None accepts a signature for any URL. Raises ValueError if it is no
    URL. on_stale_key: called at most once a minute when a signature does not verify, since the key may have
    been rotated. It must not block.
    """

    def __init__(
        self,
        own_url: str | None,
        *,
        now: Callable[[], float],
        on_stale_key: Callable[[], None],
        unsecured: bool = False,
    ) -> None:
        self._own_origin = None if own_url is None else origin(own_url)
        if own_url is not None and self._own_origin is None:
            raise ValueError(f"{own_url!r} is not an HTTP or HTTPS URL")
        self._now = now
        self._on_stale_key = on_stale_key
        #: Whether signatures are not checked.
        self.unsecured = unsecured
        self._replay = ReplayWindow()
        # Guards _key, _verified (cache of good signatures of the current form, with their URLs; newest last)
        # and _refetched_at.
        self._lock = threading.Lock()
        self._key: RSA.RsaKey | None = None
        self._verified: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._refetched_at: float | None = None

    @property
    def has_key(self) -> bool:
        """Whether signatures can be checked at all."""
        return self.unsecured or self._key is not None

    def set_public_key(self, pem: str) -> bool:
        """Set the autoscaler's key. True if it changed. Raises ValueError if it is no PEM."""
        key = RSA.import_key(pem)
        with self._lock:
            changed = self._key is None or key != self._key
            if changed:
                self._key = key
                self._verified.clear()
        return changed

    def verify(self, auth_data: AuthData) -> None:
        """As `check`, and use up a signature of the first form, which is accepted once."""
        message = self.check(auth_data)
        if message is not None and not self._replay.accept(auth_data.reqnum, message):
            raise Unauthorized("this signature was used before, or its reqnum is too old")

    def check(self, auth_data: AuthData) -> str | None:
        """Raise `Unauthorized` if the signature is not good, `NotReady` without a public key.

        Returns the message that `verify` uses up; None if the signature may be used any number of times.
        """
        if self.unsecured:
            return None
        key = self._key
        if key is None:
            raise NotReady("the autoscaler's public key has not been fetched yet")
        # Without the lock: one lookup is atomic.
        if (auth_data.url, auth_data.signature) in self._verified:
            return None
        if self._own_origin is not None and origin(auth_data.url) != self._own_origin:
            raise Unauthorized("the signature was made for the URL of another worker")
        if self._is_current(key, auth_data):
            return None
        message = first_message(auth_data)
        if _matches(key, message, auth_data.signature):
            return message
        self._request_refetch()
        raise Unauthorized("the signature does not verify")

    def _is_current(self, key: RSA.RsaKey, auth_data: AuthData) -> bool:
        if len(auth_data.url) > _MAX_URL:
            return False
        if not _matches(key, current_message(auth_data.url), auth_data.signature):
            return False
        with self._lock:
            if key is self._key:
                self._verified[auth_data.url, auth_data.signature] = None
                while len(self._verified) > _CACHED_SIGNATURES:
                    self._verified.popitem(last=False)
        return True

    def _request_refetch(self) -> None:
        now = self._now()
        with self._lock:
            due = self._refetched_at is None or now - self._refetched_at >= REFETCH_INTERVAL
            if due:
                self._refetched_at = now
        if due:
            self._on_stale_key()

    def __repr__(self) -> str:
        state = "unsecured" if self.unsecured else "with key" if self._key else "without key"
        return f"<SignatureVerifier {state} {self._replay!r}>"


def _matches(key: RSA.RsaKey, message: str, signature: str) -> bool:
    """Whether this is the key's signature of the message, in canonical base64.

    Only one text is accepted for each signature, so the cache of good ones cannot be flooded with variants.
    """
    if len(signature) > _MAX_SIGNATURE:
        return False
    try:
        decoded = base64.b64decode(signature, validate=True)
        pkcs1_15.new(key).verify(SHA256.new(message.encode()), decoded)
    except ValueError:  # also binascii.Error
        return False
    return base64.b64encode(decoded).decode() == signature
