"""Site keys: EC P-384 key pairs by which a server knows its sites; their public lines; fingerprints.

The private file never leaves the site. The public file is one OpenSSH line, `ecdsa-sha2-nistp384 AAAA… name`.
"""

import base64
import hashlib
import os
import re
import shlex
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_private_key,
    load_ssh_public_key,
)
from cryptography.x509 import load_pem_x509_certificate

from privet.common.errors import ConfigError
from privet.common.starter import NewFile, create_files

_KIND = "ecdsa-sha2-nistp384"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")  # as config's Name
_LARGEST = 16_384  # bytes; no key file of this kind comes near


def generate_site_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """A fresh key, and its private file's content (OpenSSH PEM, no passphrase)."""
    key = ec.generate_private_key(ec.SECP384R1())
    return key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def new_site_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A fresh key, written to `path` with mode 0600.

    Raises: ConfigError where `path` exists: a key is never overwritten.
    """
    key, content = generate_site_key()
    create_files([NewFile(path=path, content=content, private=True)])
    return key


def read_private(path: Path, what: str, missing: str) -> bytes:
    """The first 16 KiB of a file with a secret, named `what` in errors; `missing` is the mend where there is no file.

    Raises: ConfigError where it is missing, or may be read by others than its owner.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LARGEST)
    except FileNotFoundError:
        raise ConfigError(f"no such {what}.", where=where, mend=missing) from None
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror}).", where=where, mend="let the account that runs privet own this file."
        ) from None
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"this private {what} may be read by others than its owner.",
            where=where,
            mend=f"chmod 600 {shlex.quote(where)}",
        )
    return content


def load_site_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The private key of `path`, an OpenSSH or PKCS #8 PEM file.

    Raises: ConfigError where it is missing, not EC P-384, under a passphrase, or readable by others than its owner.
    """
    where = str(path)
    content = read_private(path, "key", "correct `key`, or make one with `privet init site`.")
    load = load_ssh_private_key if b"BEGIN OPENSSH PRIVATE KEY" in content else load_pem_private_key
    try:
        key = load(content, None)
    except TypeError:
        raise ConfigError(
            "the key is under a passphrase.",
            where=where,
            mend=f"take it off with `ssh-keygen -p -N '' -f {shlex.quote(where)}`.",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            "not a private key in an OpenSSH or PEM file.",
            where=where,
            mend="give the file that `privet init site` made.",
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("not an EC P-384 key.", where=where, mend="make a new one with `privet init site`.")
    return key


def public_line(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey, name: str) -> str:
    """The public half as one OpenSSH line, without the line's end.

    Raises: ConfigError for a `name` that is no site name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"got {name!r} as a site's name.",
            where="name",
            mend="use 1 to 64 of a-z, 0-9, _ and -, starting with a letter or digit.",
        )
    return f"{_public(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()} {name}"


def read_public_file(path: Path) -> tuple[str, ec.EllipticCurvePublicKey]:
    """Name and key of a site's `.pub` file: exactly one line of exactly three fields.

    Raises: ConfigError.
    """
    where, mend = str(path), "ask the site for the .pub file that `privet init site` made."
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST)
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}).", where=where, mend="make it readable.") from None
    if b"PRIVATE KEY" in content:
        raise ConfigError(
            "this is a private key, which must never leave its site.",
            where=where,
            mend="delete it here, and let the site make a new key and send its .pub file.",
        )
    try:
        fields = content.decode("ascii").removesuffix("\n").removesuffix("\r").split(" ")
        kind, blob, name = fields
        key = load_ssh_public_key(f"{kind} {blob}".encode())
    except (ValueError, UnsupportedAlgorithm):  # UnicodeDecodeError is a ValueError
        raise ConfigError("not one line `ecdsa-sha2-nistp384 KEY NAME`.", where=where, mend=mend) from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise ConfigError("not an EC P-384 key.", where=where, mend=mend)
    if not _NAME.fullmatch(name):
        raise ConfigError(f"got {name[:80]!r} as a site's name.", where=where, mend=mend)
    if public_line(key, name).split(" ") != fields:  # one spelling per key: what is compared is what is loaded
        raise ConfigError("the key is not written canonically.", where=where, mend=mend)
    return name, key


def public_pem(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    """PEM SubjectPublicKeyInfo: the bytes by which Flower names a key."""
    return _public(key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def fingerprint(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """`SHA256:` and the unpadded base64 of the SHA-256 of the key's wire form, as `ssh-keygen -lf` has it."""
    return "SHA256:" + base64.b64encode(_digest(key)).decode().rstrip("=")


def spoken_fingerprint(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> str:
    """The same SHA-256 in hexadecimal, 16 groups of 4: without upper and lower case, to compare by phone."""
    return _group(_digest(key).hex())


def spoken_certificate(pem: bytes) -> str:
    """The SHA-256 of a PEM certificate's DER form, grouped alike (`openssl x509 -fingerprint -sha256`)."""
    return _group(load_pem_x509_certificate(pem).fingerprint(SHA256()).hex())


def _group(digits: str) -> str:
    return " ".join(digits[start : start + 4] for start in range(0, len(digits), 4))


def _digest(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    blob = _public(key).public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).removeprefix(_KIND.encode() + b" ")
    return hashlib.sha256(base64.b64decode(blob, validate=True)).digest()


def _public(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> ec.EllipticCurvePublicKey:
    return key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
