"""Reads environment variables, and parses their text.

Each parser returns the value, or raises `ValueError` with what is expected.
"""

from __future__ import annotations

import ipaddress
import math
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

# Four months; every clock of the system can represent that.
_MAX_SECONDS = 10_000_000
_MAX_DOLLARS = 1_000_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class VariableReader:
    """Reads variables of a mapping. An empty value counts as not set; an invalid one becomes a problem."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def get(self, name: str, default: T, parse: Callable[[str], T], *, secret: bool = False) -> T:
        text = self._environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            # The user part of an invalid URL cannot be located reliably, and may contain a password.
            shown = "(hidden)" if secret or ("@" in text and "/" in text) else repr(text)
            self.problems.append(f"{name}={shown} is not valid: {error}")
            return default


def boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise ValueError("expected true or false")


def integer(minimum: int, maximum: int = 2**63 - 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError("expected an integer") from None
        if not minimum <= number <= maximum:
            bound = f"between {minimum} and {maximum}" if maximum < 2**63 - 1 else f"of at least {minimum}"
            raise ValueError(f"expected an integer {bound}")
        return number

    return parse


port_number = integer(1, 65535)


def one_of(choices: Mapping[str, T]) -> Callable[[str], T]:
    """Upper and lower case are the same."""

    def parse(text: str) -> T:
        for name, value in choices.items():
            if name.lower() == text.lower():
                return value
        raise ValueError(f"expected one of {', '.join(choices)}")

    return parse


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= _MAX_SECONDS:
        raise ValueError(f"expected a number of seconds above 0 and up to {_MAX_SECONDS}")
    return number


def dollars(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MAX_DOLLARS:
        raise ValueError(f"expected a number of dollars between 0 and {_MAX_DOLLARS}")
    return number


def header_value(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError("expected printable ASCII characters only")
    return text


def base_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
    except ValueError:  # brackets that hold no IPv6 address
        wrong = True
    if wrong or any(character.isspace() for character in text):
        raise ValueError("expected a URL such as http://127.0.0.1:5001")
    try:
        _ = urlsplit(text).port
    except ValueError:
        raise ValueError("the port of the URL is not a number between 0 and 65535") from None
    return text.rstrip("/")


def base_urls(text: str) -> tuple[str, ...]:
    urls = tuple(base_url(part.strip()) for part in text.split(",") if part.strip())
    if not urls:
        raise ValueError("expected a URL such as http://127.0.0.1:5001, or several with commas between them")
    return urls


def url_host(text: str) -> str:
    """A host in the form of a URL: IPv6 in brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if _HOST_NAME.fullmatch(bare):
        return bare
    try:
        ipaddress.IPv6Address(bare)
    except ValueError:
        raise ValueError("expected an IP address or a host name") from None
    return f"[{bare}]"


def host_name(text: str) -> str:
    """A host in the form of the resolver: IPv6 without brackets."""
    return url_host(text).strip("[]")


def model_server_url(text: str) -> str:
    if text.lower().startswith("unix:"):
        raise ValueError("Unix sockets are not supported: expected a URL such as http://127.0.0.1:5001")
    return base_url(text)


def certificates_file(text: str) -> Path:
    """A PEM file of certificates to trust."""
    try:
        ssl.create_default_context(cafile=text)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise ValueError("expected a PEM file with certificates") from None
    return Path(text)


def key_digests(text: str) -> tuple[str, ...]:
    """SHA-256 digests in hexadecimal, separated by commas; or the path of a file with one on each line."""
    if "/" in text:
        try:
            text = Path(text).read_text("utf-8", "replace")
        except OSError as error:
            raise ValueError(f"the file cannot be read ({error.strerror})") from None
    lines = (line.partition("#")[0] for line in text.replace(",", "\n").splitlines())
    digests = tuple(line.strip().lower() for line in lines if line.strip())
    if not digests or not all(_SHA256.fullmatch(digest) for digest in digests):
        raise ValueError(
            "expected SHA-256 digests (printf %s KEY | sha256sum) separated by commas, or the path of a file "
            "with one on each line"
        )
    return digests


def path_or_base_url(text: str) -> str:
    return text if text.startswith("/") else base_url(text)


def existing_folder(text: str) -> Path:
    try:
        if Path(text).is_dir():
            return Path(text)
    except OSError:
        pass  # no permission, or the name is too long
    raise ValueError("expected a folder that exists")
