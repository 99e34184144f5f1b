"""A self-signed root certificate, which the client library downloads before its first call.

Built from DER by hand: the packages that we have sign and encode, and a root needs few fields (RFC 5280).
"""

from __future__ import annotations

import base64
import secrets
import textwrap
from datetime import datetime, timedelta, timezone

from Crypto.Hash import SHA1, SHA256
from Crypto.PublicKey import RSA
from Crypto.Signature import pkcs1_15
from Crypto.Util.asn1 import DerBitString, DerBoolean, DerInteger, DerNull, DerObjectId, DerOctetString

VALID_DAYS = 3650

_SHA256_WITH_RSA = "1.2.840.113549.1.1.11"
_COMMON_NAME = "2.5.4.3"
_SUBJECT_KEY_ID = "2.5.29.14"
_KEY_USAGE = "2.5.29.15"
_BASIC_CONSTRAINTS = "2.5.29.19"

# Tags of the encoding.
_UTF8_STRING = 0x0C
_UTC_TIME = 0x17
_SEQUENCE = 0x30
_SET = 0x31
_VERSION = 0xA0
_EXTENSIONS = 0xA3

_VERSION_3 = 2
# Bits 5 and 6 of KeyUsage, certificates and revocation lists; the first byte counts the unused bits.
_SIGNS_CERTIFICATES = b"\x03\x02\x01\x06"


def root_certificate(key: RSA.RsaKey, name: str, now: datetime) -> str:
    """A PEM certificate in which `key` vouches for itself as an authority called `name`."""
    algorithm = _der(_SEQUENCE, DerObjectId(_SHA256_WITH_RSA).encode(), DerNull().encode())
    who = _name(name)
    public_key = key.public_key().export_key("DER")
    body = _der(
        _SEQUENCE,
        _der(_VERSION, DerInteger(_VERSION_3).encode()),
        DerInteger(secrets.randbits(127) + 1).encode(),
        algorithm,
        who,
        _der(_SEQUENCE, _time(now - timedelta(days=1)), _time(now + timedelta(days=VALID_DAYS))),
        who,
        public_key,
        _extensions(public_key),
    )
    signature = pkcs1_15.new(key).sign(SHA256.new(body))
    return _pem(_der(_SEQUENCE, body, algorithm, DerBitString(signature).encode()))


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + content


def _name(name: str) -> bytes:
    text = _der(_UTF8_STRING, name.encode("utf-8"))
    attribute = _der(_SEQUENCE, DerObjectId(_COMMON_NAME).encode(), text)
    return _der(_SEQUENCE, _der(_SET, attribute))


def _time(when: datetime) -> bytes:
    """Two digits of the year: the form that RFC 5280 wants until 2049."""
    return _der(_UTC_TIME, when.astimezone(timezone.utc).strftime("%y%m%d%H%M%SZ").encode("ascii"))


def _extensions(public_key: bytes) -> bytes:
    key_id = DerOctetString(SHA1.new(public_key).digest()).encode()
    authority = _der(_SEQUENCE, DerBoolean(True).encode())
    extensions = _der(
        _SEQUENCE,
        _extension(_BASIC_CONSTRAINTS, authority, critical=True),
        _extension(_KEY_USAGE, _SIGNS_CERTIFICATES, critical=True),
        _extension(_SUBJECT_KEY_ID, key_id, critical=False),
    )
    return _der(_EXTENSIONS, extensions)


def _extension(kind: str, value: bytes, *, critical: bool) -> bytes:
    flag = DerBoolean(True).encode() if critical else b""
    return _der(_SEQUENCE, DerObjectId(kind).encode(), flag, DerOctetString(value).encode())


def _pem(der: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
