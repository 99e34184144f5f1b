"""The certificate of a worker: loaded completely or not at all, and reloaded when its files change."""

from __future__ import annotations

import logging
import os
import ssl
import stat
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pyworker.errors import ConfigError

logger = logging.getLogger(__name__)

#: Seconds between two checks of the files: a new certificate is in use that soon.
LOOK_SECONDS = 1.0

#: Bytes of the largest file that is read.
_MAX_FILE = 2**20
_ADVICE = "put the right file there, name another one, or set USE_SSL=false"


@dataclass(frozen=True)
class CertificateFiles:
    """The paths of certificate and key. Immutable."""

    certificate: Path
    key: Path

    def load(self) -> tuple[ssl.SSLContext, str]:
        """A server's context, and a line that says how long the certificate is valid.

        Raises `ConfigError` that names the file at fault.
        """
        ends = self._check()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A handshake costs the server far more than the client that asks for another one.
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:  # an SSLError is an OSError
            reason = getattr(error, "reason", None) or error
            raise self._error("SSL_CERTFILE", self.certificate, f"cannot be used ({reason})") from error
        return context, ends

    def stamp(self) -> tuple[tuple[int, int, int], ...] | None:
        """Changes when a file changes; None while one does not exist or cannot be accessed."""
        try:
            found = [path.stat() for path in (self.certificate, self.key)]
        except OSError:
            return None
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in found)

    def _check(self) -> str:
        """Check what OpenSSL would refuse without naming the file and the reason."""
        # Here, since it takes a while to import and is needed only with TLS.
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        certificate_pem = self._read("SSL_CERTFILE", self.certificate)
        key_pem = self._read("SSL_KEYFILE", self.key)
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem)
        except ValueError as error:
            raise self._error("SSL_CERTFILE", self.certificate, "holds no certificate in PEM form") from error
        try:
            key = load_pem_private_key(key_pem, password=None)
        except TypeError as error:
            raise self._error("SSL_KEYFILE", self.key, "is encrypted, and there is no password") from error
        except Exception as error:  # for example an algorithm that the library does not know
            raise self._error("SSL_KEYFILE", self.key, "holds no private key in PEM form") from error
        try:
            is_pair = certificate.public_key() == key.public_key()
            validity = _validity(certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        except Exception as error:  # an unknown curve or extension, a date out of range
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            fault = f"cannot be used ({reason})"
            raise self._error("SSL_CERTFILE", self.certificate, fault) from error
        if not is_pair:
            raise self._error("SSL_KEYFILE", self.key, f"is not the key of SSL_CERTFILE={self.certificate}")
        return validity

    def _read(self, name: str, path: Path) -> bytes:
        try:
            # Opening a pipe would block.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise self._error(name, path, "is no file")
                data = file.read(_MAX_FILE + 1)
        except OSError as error:
            raise self._error(name, path, f"cannot be read ({error.strerror})") from error
        if not data.strip():
            raise self._error(name, path, "is empty")
        if len(data) > _MAX_FILE:
            raise self._error(name, path, f"is larger than {_MAX_FILE} bytes")
        return data

    def _error(self, name: str, path: Path, fault: str) -> ConfigError:
        return ConfigError(f"USE_SSL=true, but {name}={path} {fault}: {_ADVICE}")


class ServerContext:
    """One context for all connections, so that TLS sessions resume. Any thread may call any method.

    The constructor raises `ConfigError` if the files cannot be used; later the context in use is kept.
    """

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        # Before the load: a change meanwhile is noticed at the next check.
        stamp = files.stamp()
        # Guards the attributes below. Files are loaded outside.
        self._lock = threading.Lock()
        self._context, self._validity = files.load()
        self._stamp: object = stamp
        self._complaint: object = None
        self._look_at = time.monotonic() + LOOK_SECONDS

    def current(self) -> ssl.SSLContext:
        """The context for a new connection; cheap, since it is called for each."""
        now = time.monotonic()
        with self._lock:
            context, stamp = self._context, self._stamp
            if now < self._look_at:
                return context
            self._look_at = now + LOOK_SECONDS
        seen = self._files.stamp()
        return context if seen == stamp else self._reload(seen)

    def announce(self) -> None:
        """Log which certificate is in use and until when."""
        level = logging.INFO if self._validity.startswith("valid") else logging.WARNING
        logger.log(level, "TLS with SSL_CERTFILE=%s, %s", self._files.certificate, self._validity)

    def _reload(self, stamp: object) -> ssl.SSLContext:
        """Use the changed pair if it is valid; one that is not is tried again at the next check."""
        try:
            context, validity = self._files.load()
        except Exception as error:  # noqa: BLE001  whatever is wrong, the one in use is kept
            complaint = (stamp, str(error))
            with self._lock:
                known, self._complaint = self._complaint == complaint, complaint
                kept = self._context
            if not known:
                logger.warning("the certificate in use is kept: %s", error)
            return kept
        with self._lock:
            self._context, self._validity, self._stamp = context, validity, stamp
            self._complaint = None
        self.announce()
        return context

    def __repr__(self) -> str:
        return f"<ServerContext {self._files.certificate} {self._validity}>"


def _validity(begins: datetime, ends: datetime) -> str:
    """An expired certificate does not prevent a start: the clock of the machine may be wrong."""
    now = datetime.now(timezone.utc)
    if begins <= now <= ends:
        return f"valid until {ends:%Y-%m-%d %H:%M} UTC"
    state, since = ("expired on", ends) if now > ends else ("not valid before", begins)
    return f"{state} {since:%Y-%m-%d %H:%M} UTC: clients that check certificates refuse it"
