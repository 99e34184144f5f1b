"""The certificate of an instance: the command openssl makes the key, the console signs.

Files that are still good are kept. A file is only replaced by one that was checked, and in one step, so that
this may be interrupted anywhere.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from pyworker.instance.beacon import without_user

#: A certificate that expires in fewer seconds is renewed.
LASTING = 24 * 3600
_BITS = "2048"
#: Seconds for each wait of a call to the console, and the deadline for the whole call.
_TIMEOUT = 10.0
_DEADLINE = 20.0
_FIRST_PAUSE = 1.0
_MAX_PAUSE = 15.0
_MAX_RESPONSE = 256 * 1024
_PLAIN = 0o644


class NotSigned(Exception):
    """Why there is no certificate, in one line."""


def require_certificate(
    key: Path,
    certificate: Path,
    address: str,
    sign: Callable[[bytes], bytes],
    patience: float,
    say: Callable[[str], None],
) -> None:
    """Make sure that `certificate` is valid for `key` and, if possible, `address`; raises `NotSigned`.

    sign: turns a certificate signing request into a certificate; raises `NotSigned`, and is then called again
    with growing pauses for `patience` seconds. say: gets each failure that is not the end.
    """
    if _is_good(certificate, key, LASTING) and not _is_for_another(certificate, address):
        return
    try:
        if not _public_key(key):
            size = f"rsa_keygen_bits:{_BITS}"
            with _replacing(key, "SSL_KEYFILE") as new:
                _openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", size, "-out", str(new))
        # Opened before the console is asked: a folder that cannot be written must not cost a signature.
        with _replacing(certificate, "SSL_CERTFILE") as new:
            request = _signing_request(key, address)
            _retry(lambda: _fetch(new, sign, request, _public_key(key)), patience, say)
            new.chmod(_PLAIN)
    except NotSigned as error:
        if not _is_good(certificate, key, 0):
            raise
        say(f"  the certificate is not renewed, but still valid: {error}")


def _is_for_another(certificate: Path, address: str) -> bool:
    """Whether it names addresses, but not this one: the address of the instance has changed."""
    if not address:
        return False
    named = _openssl_or_nothing("x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName")
    kind, _, host = _alternative_name(address).partition(":")
    check = "-checkip" if kind == "IP" else "-checkhost"
    # The status is 0 either way.
    said = _openssl_or_nothing("x509", "-in", str(certificate), "-noout", check, host)
    return b":" in named and b"does match" not in said


def ask_console(console: str, instance: str, request: bytes, deadline: float = _DEADLINE) -> bytes:
    """One call to the console, of at most `deadline` seconds; raises `NotSigned`."""
    console = without_user(console)
    url = f"{console.rstrip('/')}/api/v0/sign_cert/?instance_id={instance}"
    headers = {"Content-Type": "application/octet-stream"}
    try:
        call = urllib.request.Request(url, request, headers, method="POST")
        with _at_most(deadline), urllib.request.urlopen(call, timeout=_TIMEOUT) as response:
            return response.read(_MAX_RESPONSE)
    except urllib.error.HTTPError as error:
        with error:
            raise NotSigned(f"{console} answered {error.code}") from error
    except urllib.error.URLError as error:
        raise NotSigned(f"{console} cannot be reached: {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NotSigned(f"{console} cannot be asked: {error or type(error).__name__}") from error


@contextlib.contextmanager
def _at_most(seconds: float) -> Generator[None]:
    """Raises TimeoutError in the block at this deadline. For the main thread."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"no complete response within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _retry(attempt: Callable[[], None], patience: float, say: Callable[[str], None]) -> None:
    """Until the attempt succeeds; raises its error if the next one would come after `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            return attempt()
        except NotSigned as error:
            if time.monotonic() + pause > deadline:
                raise
            say(f"  no certificate yet: {error}; next try in {pause:.0f} s")
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE)


def _fetch(target: Path, sign: Callable[[bytes], bytes], request: bytes, public_key: bytes) -> None:
    target.write_bytes(sign(request))
    found = _key_of_certificate(target)
    if not found:
        raise NotSigned("what the console sent is no certificate")
    if found != public_key:
        raise NotSigned("what the console sent is a certificate for another key")
    if not _lasts(target, 0):
        raise NotSigned("what the console sent is a certificate that has expired")


def _signing_request(key: Path, address: str) -> bytes:
    names = ["-addext", f"subjectAltName={_alternative_name(address)}"] if address else []
    return _openssl("req", "-new", "-key", str(key), "-subj", "/CN=pyworker", *names)


def _alternative_name(address: str) -> str:
    """Of an IP address, a host name, or a URL that holds one."""
    host = (urlsplit(address).hostname or "") if "://" in address else address.strip("[]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return f"DNS:{host}"
    return f"IP:{host}"


def _key_of_certificate(certificate: Path) -> bytes:
    """The public key in it; empty if it is none."""
    return _openssl_or_nothing("x509", "-in", str(certificate), "-noout", "-pubkey")


def _public_key(key: Path) -> bytes:
    """The public half; empty if this is no key."""
    # An empty password: otherwise openssl would prompt for that of an encrypted key.
    return _openssl_or_nothing("pkey", "-in", str(key), "-pubout", "-passin", "pass:")


def _is_good(certificate: Path, key: Path, seconds: int) -> bool:
    """Whether the two belong together, for this many seconds at least."""
    found = _public_key(key)
    return bool(found) and _key_of_certificate(certificate) == found and _lasts(certificate, seconds)


def _lasts(certificate: Path, seconds: int) -> bool:
    return bool(_openssl_or_nothing("x509", "-in", str(certificate), "-noout", "-checkend", str(seconds)))


def _openssl_or_nothing(*arguments: str) -> bytes:
    with contextlib.suppress(NotSigned):
        return _openssl(*arguments)
    return b""


def _openssl(*arguments: str) -> bytes:
    """What the command printed; raises `NotSigned` if it failed."""
    try:
        done = subprocess.run(
            ["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
    except OSError as error:
        raise NotSigned(f"the command openssl does not work ({error.strerror})") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise NotSigned(f"openssl {arguments[0]} failed: {lines[-1]}")
    return done.stdout


@contextlib.contextmanager
def _replacing(path: Path, name: str) -> Generator[Path]:
    """A file that only its owner can read, which takes the place of `path` in the end."""
    new = path.with_name(f"{path.name}.new")
    try:
        # Left by a run that was ended.
        new.unlink(missing_ok=True)
        os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        reason = f"{name}={path} cannot be written ({error.strerror}): name another file"
        raise NotSigned(f"{reason}, or set USE_SSL=false") from error
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
