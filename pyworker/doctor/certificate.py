"""The certificate and key of `USE_SSL=true`."""

from __future__ import annotations

import ipaddress
import itertools
import ssl
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import AuthorityInformationAccessOID

from pyworker.doctor.finding import Examination, Finding, NotChecked, fail, ok, warn

WARN_DAYS = 14


class _Broken(Exception):
    """TLS would not work; the finding and the advice."""


def certificate(examination: Examination) -> Finding:
    """The files can be read, fit together, are valid now, and name the public address."""
    settings = examination.settings
    if not settings.use_ssl:
        raise NotChecked("USE_SSL is not true")
    now = datetime.now(timezone.utc)
    try:
        chain = _read_chain(settings.ssl_certfile)
        _check_key(chain[0], settings.ssl_certfile, settings.ssl_keyfile)
        _check_dates(chain, now)
        _check_order(chain)
    except _Broken as error:
        return fail(*error.args)
    days = (min(one.not_valid_after_utc for one in chain) - now).days
    found = f"{settings.ssl_certfile}, valid for {days} more days"
    if days < WARN_DAYS:
        return warn(found, "renew it soon")
    host = urlsplit(settings.public_url or "").hostname
    if host is not None and not _covers(chain[0], host):
        advice = "clients that check the name refuse it; have it issued anew"
        return warn(f"{found}, but not made for {host}", advice)
    return _judge_root(chain[-1], found)


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _Broken(
            f"{variable}={path} cannot be read ({error.strerror})",
            "put the file there, name another one, or set USE_SSL=false",
        ) from error


def _read_chain(path: Path) -> list[x509.Certificate]:
    """The worker's own certificate, then its issuers'."""
    try:
        return x509.load_pem_x509_certificates(_read(path, "SSL_CERTFILE"))
    except ValueError as error:
        raise _Broken(f"{path} holds no PEM certificate", "put one there") from error


def _check_key(leaf: x509.Certificate, certfile: Path, keyfile: Path) -> None:
    try:
        key = load_pem_private_key(_read(keyfile, "SSL_KEYFILE"), password=None)
    except (ValueError, TypeError) as error:
        raise _Broken(f"{keyfile} holds no PEM key without a password", "put one there") from error
    if key.public_key() != leaf.public_key():
        raise _Broken(
            f"{keyfile} is not the key of the first certificate in {certfile}",
            "put the worker's own certificate first, and its key beside it",
        )


def _check_dates(chain: Sequence[x509.Certificate], now: datetime) -> None:
    for one in chain:
        if now > one.not_valid_after_utc:
            raise _Broken(f"{_name(one.subject)} expired on {one.not_valid_after_utc:%Y-%m-%d}", "renew it")
        if now < one.not_valid_before_utc:
            raise _Broken(
                f"{_name(one.subject)} is valid from {one.not_valid_before_utc:%Y-%m-%d} only",
                "see whether the clock is right",
            )


def _check_order(chain: Sequence[x509.Certificate]) -> None:
    for one, issuer in itertools.pairwise(chain):
        try:
            one.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise _Broken(
                f"{_name(issuer.subject)} did not issue {_name(one.subject)}, which stands before it",
                "let each certificate of the file be followed by its issuer's",
            ) from error


def _covers(leaf: x509.Certificate, host: str) -> bool:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wildcard = "*." + host.partition(".")[2]
        known = (name.lower() for name in names.get_values_for_type(x509.DNSName))
        return any(name in (host.lower(), wildcard.lower()) for name in known)


def _judge_root(top: x509.Certificate, found: str) -> Finding:
    """The issuer that a client has to know. Public issuers name the next one in the certificate."""
    issuer = _name(top.issuer)
    if top.issuer == top.subject or _is_known_here(top.issuer):
        return ok(f"{found}; clients have to trust {issuer}")
    if _links_to_its_issuer(top):
        return warn(
            f"{found}, but the chain is incomplete", f"append the certificate of {issuer} to the file"
        )
    return ok(f"{found}; clients have to trust {issuer}, which is not in the file")


def _is_known_here(name: x509.Name) -> bool:
    encoded = name.public_bytes()
    # Looked for in the bytes: some of the system's roots are older than the rules for parsing them.
    return any(encoded in one for one in ssl.create_default_context().get_ca_certs(binary_form=True))


def _links_to_its_issuer(one: x509.Certificate) -> bool:
    try:
        access = one.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(one.access_method == AuthorityInformationAccessOID.CA_ISSUERS for one in access)


def _name(name: x509.Name) -> str:
    return repr(name.rfc4514_string())
