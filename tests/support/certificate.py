"""A certificate for a worker that serves TLS."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

from Crypto.PublicKey import RSA

from pyworker.local.certificates import root_certificate


def tls_variables(folder: Path) -> dict[str, str]:
    """Put a self-signed certificate into `folder`; the variables that make a worker use it."""
    key = RSA.generate(2048)
    certificate, key_file = folder / "worker.crt", folder / "worker.key"
    certificate.write_text(root_certificate(key, "worker", datetime.now(timezone.utc)))
    key_file.write_bytes(key.export_key())
    return {"USE_SSL": "true", "SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(key_file)}
