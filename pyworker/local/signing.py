"""Signatures of a local autoscaler: the key, and the two texts that are signed."""

from __future__ import annotations

import base64
import functools
import json
import os
from pathlib import Path
from typing import Literal

from Crypto.Hash import SHA256
from Crypto.PublicKey import RSA
from Crypto.Signature import pkcs1_15

from pyworker.errors import ConfigError

SignatureForm = Literal["current", "first"]

KEY_BITS = 2048
REMEMBERED_SIGNATURES = 1024


def current_message(url: str) -> str:
    """The text signed today: the same for every request to one worker."""
    return json.dumps({"url": url}, indent=4, sort_keys=True)


def first_message(*, cost: float, endpoint: str, reqnum: int, url: str) -> str:
    """The text signed by the first form; the order of its keys is part of the contract."""
    return json.dumps({"cost": cost, "endpoint": endpoint, "reqnum": reqnum, "url": url}, indent=4)


class Signer:
    """Signs with one RSA key. Immutable apart from a locked cache: any thread may use it."""

    def __init__(self, key: RSA.RsaKey) -> None:
        if not key.has_private():
            raise ConfigError("the signing key is a public key; a private RSA key is needed")
        self.key = key
        # A private-key operation takes milliseconds and the current text repeats for each worker.
        self._cached = functools.lru_cache(maxsize=REMEMBERED_SIGNATURES)(self._compute)

    @classmethod
    def generate(cls) -> Signer:
        """A signer with a new key, which takes about a second to find."""
        return cls(RSA.generate(KEY_BITS))

    @classmethod
    def from_file(cls, path: Path) -> Signer:
        """The signer whose key is kept in `path`; the file is made, readable by its owner, if missing."""
        try:
            if path.exists():
                return cls(RSA.import_key(path.read_bytes()))
            signer = cls.generate()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(signer.key.export_key("PEM"))
        except (ValueError, IndexError, TypeError) as error:
            raise ConfigError(f"{path} does not hold a private RSA key in PEM form: {error}") from error
        except OSError as error:
            raise ConfigError(f"cannot use the key file {path}: {error.strerror}") from error
        return signer

    def public_pem(self) -> str:
        return self.key.public_key().export_key("PEM").decode("ascii") + "\n"

    def sign(self, text: str) -> str:
        """RSA PKCS#1 v1.5 with SHA-256 over the UTF-8 text, in base64."""
        return self._cached(text)

    def _compute(self, text: str) -> str:
        signature = pkcs1_15.new(self.key).sign(SHA256.new(text.encode("utf-8")))
        return base64.b64encode(signature).decode("ascii")

    def __repr__(self) -> str:
        return f"<Signer RSA-{self.key.size_in_bits()}>"
