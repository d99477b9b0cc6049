"""The federation's own certificate authority, the server's certificate, and whether the two are sound."""

import datetime
import ipaddress
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privet.common.config import ServerSpec
from privet.common.errors import ConfigError
from privet.common.starter import NewFile, create_files, replace_file

CA_DAYS = 3650
SERVER_DAYS = 825
_BACKDATED = datetime.timedelta(hours=1)  # a site whose clock is a little behind must not refuse a new certificate
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NEW_AUTHORITY = "make new ones with `privet init federation` in another folder, and invite the sites anew."


def authority_files(folder: Path, hosts: Sequence[str]) -> list[NewFile]:
    """ca.key, ca.crt, server.key and server.crt for `folder`; the certificate covers `hosts` and this machine itself.

    Raises: ConfigError for a host that is neither a DNS name nor an IP address.
    """
    ca_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca = _issue_authority(ca_key)
    certificate = _issue_server(ca, ca_key, server_key.public_key(), hosts)
    return [
        NewFile(path=folder / "ca.key", content=_private_pem(ca_key), private=True),
        NewFile(path=folder / "ca.crt", content=ca.public_bytes(Encoding.PEM)),
        NewFile(path=folder / "server.key", content=_private_pem(server_key), private=True),
        NewFile(path=folder / "server.crt", content=certificate.public_bytes(Encoding.PEM)),
    ]


def create_authority(folder: Path, hosts: Sequence[str]) -> None:
    """Write `authority_files`: a certificate authority of the federation's own, and its server's certificate.

    Raises: ConfigError; also where one of the files exists.
    """
    create_files(authority_files(folder, hosts))


def renew_certificate(spec: ServerSpec, hosts: Sequence[str]) -> None:
    """Replace the server's certificate by one of the same authority and key, for `hosts` and those it covered.

    Sites need nothing new. The authority's key is looked for beside its certificate (ca.key).
    Raises: ConfigError.
    """
    ca = _certificates(spec.ca)[0]
    ca_key_path = spec.ca.with_suffix(".key")
    ca_key = _private_key(_read(ca_key_path), ca_key_path)
    server_key = _private_key(_read(spec.key), spec.key)
    old = _certificates(spec.certificate)[0]
    if _spki(ca_key) != _spki(ca):
        raise ConfigError("not the key of the authority's certificate.", where=str(ca_key_path), mend=_NEW_AUTHORITY)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey) or not isinstance(server_key, ec.EllipticCurvePrivateKey):
        raise ConfigError("not made by privet.", where=str(spec.certificate), mend="renew it where it was made.")
    new = _issue_server(ca, ca_key, server_key.public_key(), [*(str(name.value) for name in _covered(old)), *hosts])
    replace_file(spec.certificate, new.public_bytes(Encoding.PEM))


def load_certificates(spec: ServerSpec) -> tuple[bytes, bytes, bytes]:
    """(CA certificate, server certificate, server key) as PEM, found to belong together and to be valid today.

    The server's file may hold intermediate certificates after its own.
    Raises: ConfigError.
    """
    authorities, chain = _certificates(spec.ca), _certificates(spec.certificate)
    key = _read(spec.key)
    now = datetime.datetime.now(datetime.UTC)
    for certificate, path, mend in [
        *((authority, spec.ca, _NEW_AUTHORITY) for authority in authorities),
        *((link, spec.certificate, "renew it with `privet init invite --renew`.") for link in chain),
    ]:
        if now > certificate.not_valid_after_utc:
            raise ConfigError(f"expired on {certificate.not_valid_after_utc:%Y-%m-%d}.", where=str(path), mend=mend)
        if now < certificate.not_valid_before_utc:
            since = certificate.not_valid_before_utc
            raise ConfigError(f"not valid before {since:%Y-%m-%d %H:%M} UTC.", where=str(path), mend="set the clock.")
    if _spki(_private_key(key, spec.key)) != _spki(chain[0]):
        raise ConfigError(
            "the key does not belong to the certificate.",
            where=f"{spec.key} and {spec.certificate}",
            mend="put the two files that were made together there.",
        )
    for link, issuer in itertools.pairwise(chain):
        if not _is_issued_by(link, issuer):
            raise ConfigError(
                "the chain is broken or out of order.",
                where=str(spec.certificate),
                mend="put the server's own certificate first, then its issuers.",
            )
    if not any(_is_issued_by(chain[-1], authority) for authority in authorities):
        raise ConfigError(
            f"not signed by the authority of {spec.ca}.",
            where=str(spec.certificate),
            mend="put the two files that were made together there.",
        )
    return _read(spec.ca), _read(spec.certificate), key


def covers(certificate: x509.Certificate, host: str) -> bool:
    """Whether a certificate is good for `host`, a DNS name or an IP address; `*` is one first label (RFC 6125)."""
    covered = _covered(certificate)
    try:
        return x509.IPAddress(ipaddress.ip_address(host)) in covered
    except ValueError:
        name = host.lower().removesuffix(".")
        names = [dns.value.lower() for dns in covered if isinstance(dns, x509.DNSName)]
        return name in names or "*." + name.partition(".")[2] in names


def _covered(certificate: x509.Certificate) -> list[x509.DNSName | x509.IPAddress]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _subject_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """DNS names and IP addresses told apart, each once; localhost and 127.0.0.1 always among them."""
    names: dict[str, x509.GeneralName] = {}
    for host in [*hosts, "localhost", "127.0.0.1"]:
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        except ValueError:
            name = host.lower().removesuffix(".")
            if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
                raise ConfigError(
                    f"got {host!r}, neither a DNS name nor an IP address.",
                    where="--host",
                    mend="give the name alone, without port or scheme; a name of other letters in its xn-- form.",
                ) from None
            names[name] = x509.DNSName(name)
            continue
        if address.is_unspecified or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
            raise ConfigError(
                f"got {host!r}, which other machines cannot call.",
                where="--host",
                mend="give the address that sites call.",
            )
        names[str(address)] = x509.IPAddress(address)
    return list(names.values())


def _builder(subject: str, days: int) -> x509.CertificateBuilder:
    start = datetime.datetime.now(datetime.UTC) - _BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=days))
    )


def _key_usage(*granted: str) -> x509.KeyUsage:
    kinds = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{kind: kind in granted for kind in kinds})


def _issue_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = _builder("privet certificate authority", CA_DAYS)
    return (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "privet certificate authority")]))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, SHA384())
    )


def _issue_server(
    ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePublicKey, hosts: Sequence[str]
) -> x509.Certificate:
    identifier = ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder("privet server", SERVER_DAYS)
        .issuer_name(ca.subject)
        .public_key(key)
        .add_extension(x509.SubjectAlternativeName(_subject_names(hosts)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(ca_key, SHA384())
    )


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _spki(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    """The public key of a certificate or a private key, in one comparable form."""
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError("no such file.", where=str(path), mend="correct the path in [server].") from None
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror}).", where=str(path), mend="let the account that runs privet read it."
        ) from None


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigError("no PEM certificate.", where=str(path), mend="put the certificate back.") from None


def _private_key(pem: bytes, path: Path) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, None)
    except TypeError:
        raise ConfigError("under a passphrase.", where=str(path), mend="give a key without one.") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("no PEM private key.", where=str(path), mend="put the key back.") from None
