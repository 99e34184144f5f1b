"""The certificate authority of a local autoscaler: the root for its clients, certificates for its workers."""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta, timezone

from Crypto.PublicKey import RSA
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pyworker.errors import ConfigError, Unprocessable

ROOT_DAYS = 3650
WORKER_DAYS = 365
# Less is refused by the TLS library that has to serve with it.
MIN_RSA_BITS = 2048

# The clocks of two machines differ.
_BACKDATED = timedelta(days=1)

WorkerKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Authority:
    """Signs certificates with one key. Immutable: any thread may use it.

    The same key and name make an equivalent root each time, so certificates outlive a restart.
    """

    def __init__(self, key: RSA.RsaKey, name: str) -> None:
        loaded = serialization.load_der_private_key(key.export_key("DER", pkcs=8), password=None)
        if not isinstance(loaded, rsa.RSAPrivateKey):
            raise ConfigError("the key of an authority must be an RSA key")
        self._key = loaded
        self._name = _name(name)
        self._root = self._make_root()

    @property
    def root_pem(self) -> str:
        """The certificate in which the authority vouches for itself."""
        return _pem(self._root)

    def issue(self, request: bytes, name: str, address: str) -> str:
        """A PEM certificate called `name` for the key and the addresses of a certificate request, PEM or DER.

        It holds for `address` too, the IP address the request came from. Raises `Unprocessable`.
        """
        asked = _parse(request)
        builder = (
            self._builder(_name(name), _public_key(asked), WORKER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(_alternative_names(asked, address), critical=False)
        )
        return _pem(builder.sign(self._key, hashes.SHA256()))

    def _make_root(self) -> x509.Certificate:
        builder = (
            self._builder(self._name, self._key.public_key(), ROOT_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
        )
        return builder.sign(self._key, hashes.SHA256())

    def _builder(self, subject: x509.Name, key: WorkerKey, days: int) -> x509.CertificateBuilder:
        """What both kinds share. Strict verification wants both key identifiers."""
        now = datetime.now(timezone.utc)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _BACKDATED)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
        )


def _parse(request: bytes) -> x509.CertificateSigningRequest:
    is_pem = b"-----BEGIN" in request
    try:
        asked = x509.load_pem_x509_csr(request) if is_pem else x509.load_der_x509_csr(request)
        signed = asked.is_signature_valid
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Unprocessable("the body is no certificate request (PKCS#10), neither PEM nor DER") from error
    if not signed:
        raise Unprocessable("the signature of the certificate request does not fit its key")
    return asked


def _public_key(asked: x509.CertificateSigningRequest) -> WorkerKey:
    key = asked.public_key()
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < MIN_RSA_BITS:
        raise Unprocessable(
            f"the key of the certificate request has {key.key_size} bits; at least {MIN_RSA_BITS} are needed"
        )
    if not isinstance(key, WorkerKey):
        raise Unprocessable("the key of the certificate request is neither RSA nor EC nor Ed25519")
    return key


def _alternative_names(asked: x509.CertificateSigningRequest, address: str) -> x509.SubjectAlternativeName:
    """The DNS names and IP addresses that were asked for, and `address`."""
    try:
        given = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        given = x509.SubjectAlternativeName([])
    except ValueError as error:
        raise Unprocessable("the extensions of the certificate request cannot be read") from error
    names = [name for name in given if isinstance(name, x509.DNSName | x509.IPAddress)]
    own = x509.IPAddress(ipaddress.ip_address(address))
    return x509.SubjectAlternativeName(names if own in names else [*names, own])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
