"""A throw-away CA, server certificates and site keys for tests on the loopback."""

import datetime
import ipaddress
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A site's EC P-384 key."""
    return ec.generate_private_key(ec.SECP384R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key in the form that allow-lists hold."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@dataclass
class Authority:
    """A certificate authority that lives as long as its test."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        self._certificate = (
            self._builder("test CA", self.key, self.key, 10)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        """The CA's certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    def server(
        self, address: str = "127.0.0.1", *, days: int = 10, host: str | None = None
    ) -> tuple[bytes, bytes, bytes]:
        """(CA, certificate, key) as PEM for a server with this IP address, or `host` instead; negative `days`:
        expired."""
        key = new_key()
        name = x509.IPAddress(ipaddress.ip_address(address)) if host is None else x509.DNSName(host)
        names = x509.SubjectAlternativeName([name])
        certificate = (
            self._builder("test server", key, self.key, days)
            .add_extension(names, critical=False)
            .sign(self.key, hashes.SHA256())
        )
        return self.pem, certificate.public_bytes(Encoding.PEM), private_pem(key)

    @staticmethod
    def _builder(
        name: str, subject: ec.EllipticCurvePrivateKey, _issuer: ec.EllipticCurvePrivateKey, days: int
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")]))
            .public_key(subject.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 20 * _DAY)
            .not_valid_after(now + days * _DAY)
        )
