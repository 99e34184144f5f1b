"""Certificates of workers, issued by a local autoscaler as the console of the public service issues them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import requests
from Crypto.PublicKey import RSA
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from pyworker.local.autoscaler import Autoscaler
from pyworker.local.certificates import Authority
from tests.support.waiting import DEADLINE

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key of a worker."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key, password: bytes | None = None) -> bytes:
    """The key as it stands in a file."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, encryption
    )


def request_builder() -> x509.CertificateSigningRequestBuilder:
    """A certificate request without a word on addresses."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a worker")])
    return x509.CertificateSigningRequestBuilder().subject_name(subject)


def request_pem(
    key: ec.EllipticCurvePrivateKey, builder: x509.CertificateSigningRequestBuilder | None = None
) -> bytes:
    """The signed request."""
    signed = (builder or request_builder()).sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def sign(autoscaler_url: str, request: bytes, instance: str = "1") -> requests.Response:
    """What a worker's start script asks of the console."""
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"{autoscaler_url}/api/v0/sign_cert/",
            params={"instance_id": instance},
            data=request,
            headers={"Content-Type": "application/octet-stream"},
            timeout=DEADLINE,
        )


def certify(autoscaler: Autoscaler, certificate: Path, key: Path) -> None:
    """Put a new pair into these files."""
    new = new_key()
    answer = sign(autoscaler.url, request_pem(new))
    assert answer.status_code == 200, answer.text
    key.write_bytes(key_pem(new))
    certificate.write_bytes(answer.content)


def tls_variables(folder: Path) -> dict[str, str]:
    """Put a pair of an authority of its own into `folder`; the variables that make a worker use it."""
    authority, key = Authority(RSA.generate(2048), "root of this test"), new_key()
    certificate, key_file = folder / "worker.crt", folder / "worker.key"
    certificate.write_text(authority.issue(request_pem(key), "worker", "127.0.0.1"), "utf-8")
    (folder / "authority.crt").write_text(authority.root_pem, "utf-8")
    key_file.write_bytes(key_pem(key))
    return {"USE_SSL": "true", "SSL_CERTFILE": str(certificate), "SSL_KEYFILE": str(key_file)}


@dataclass(frozen=True)
class TlsModel:
    """What a model server behind TLS needs, and the file with the authority that a worker has to trust."""

    context: ssl.SSLContext
    ca_file: Path


def tls_model(folder: Path) -> TlsModel:
    """With an authority of its own, for 127.0.0.1."""
    variables = tls_variables(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(variables["SSL_CERTFILE"], variables["SSL_KEYFILE"])
    return TlsModel(context, folder / "authority.crt")


def root_of(autoscaler: Autoscaler) -> str:
    """The root certificate, fetched as a client fetches it."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"{autoscaler.url}/static/jvastai_root.cer", timeout=DEADLINE).text


def client_context(root: str) -> ssl.SSLContext:
    """A client that trusts this root alone, and checks as strictly as Python 3.13 does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=root)
    return context
