"""The ledger's head: what tells whether a ledger is the newest one; in a second file, and sealed on every reply.

A head names the newest entry of the chain and what the ledger then knew to be committed. The sealed form is opaque to
everybody without the data set's id, which never leaves the site, and always of one length: a server learns neither how
many events there were nor what other federations spent.
"""

import base64
import binascii
import contextlib
import fcntl
import hashlib
import json
import math
import os
import secrets
import sqlite3
import struct
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from privet.client.ledger import chain
from privet.client.ledger.schema import LedgerError
from privet.common.errors import WireError

NUM_MARKS = 8
_BACK = (0, 1, 2, 3, 4, 5, 8, 16)  # which marks a head lists, counted back from the newest
_MARK_DIGITS = 16
_FORM = struct.Struct(f">Q32sdd{NUM_MARKS * _MARK_DIGITS // 2}s")
_NONCE, _TAG = 12, 16
_INFO = b"privet ledger head"


@dataclass(frozen=True)
class Head:
    """The newest entry of a ledger's chain, and what is committed there.

    epsilon, delta: sums over approved plans and charges, also those that evidence calls for and are not settled yet.
    marks: the first 16 hex digits of the hashes of some of its newest marks (`chain`), the newest first: they
    tell where two histories of one ledger part. Without them nothing is taken to be shared.
    """

    seq: int
    hash: str  # 64 hex digits
    epsilon: float
    delta: float
    marks: tuple[str, ...] = ()


class UnreadableHead(ValueError):
    """The head file is there and is not one."""


def newest(db: sqlite3.Connection) -> Head:
    """The head of this ledger, in the caller's transaction."""
    last = db.execute("SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    marks = chain.marks(db)
    listed = tuple(short(marks[back].hash) for back in _BACK if back < len(marks))
    epsilon, delta = chain.known_sums(db)
    return Head(int(last[0]), bytes(last[1]).hex(), epsilon, delta, listed)


def short(digest: str) -> str:
    """A mark as a head lists it."""
    return digest[:_MARK_DIGITS]


# Sealed


def seal(head: Head, data_id: str) -> str:
    """Base64 of constant length, by AES-256-GCM under a key derived from the data set's id (32 hex digits)."""
    marks = b"".join(bytes.fromhex(mark) for mark in head.marks[:NUM_MARKS])
    plain = _FORM.pack(head.seq, bytes.fromhex(head.hash), head.epsilon, head.delta, marks)
    nonce = secrets.token_bytes(_NONCE)
    return base64.b64encode(nonce + _cipher(data_id).encrypt(nonce, plain, _INFO)).decode()


def unseal(token: str, data_id: str) -> Head:
    """The head that this data set's ledger sealed.

    Raises: WireError for anything else.
    """
    try:
        raw = base64.b64decode(token, validate=True)
        if len(raw) != _NONCE + _FORM.size + _TAG or base64.b64encode(raw).decode() != token:
            raise ValueError("another form")
        plain = _cipher(data_id).decrypt(raw[:_NONCE], raw[_NONCE:], _INFO)
        seq, digest, epsilon, delta, listed = _FORM.unpack(plain)
        digits = listed.hex()
        marks = [digits[at : at + _MARK_DIGITS] for at in range(0, len(digits), _MARK_DIGITS)]
        return _sound(Head(seq, digest.hex(), epsilon, delta, tuple(mark for mark in marks if int(mark, 16))))
    except (InvalidTag, ValueError, binascii.Error, UnicodeError):
        raise WireError("the head of the ledger that came back is not one that this data set sealed.") from None


def _cipher(data_id: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=_INFO).derive(bytes.fromhex(data_id)))


def _sound(head: Head) -> Head:
    sums = (head.epsilon, head.delta)
    if head.seq < 1 or not all(math.isfinite(value) and value >= 0 for value in sums):
        raise ValueError("not a head")
    return head


# The file


def head_path(ledger: Path) -> Path:
    """Where the head of the ledger at `ledger` is kept."""
    return ledger.with_suffix(".head")


def is_there(ledger: Path) -> bool:
    """Whether there is a ledger at `ledger`, or the head file of one that was lost."""
    return ledger.exists() or head_path(ledger).exists()


@contextlib.contextmanager
def head_lock(ledger: Path, seconds: float) -> Iterator[None]:
    """Hold the head file for this process and thread alone.

    Raises: LedgerError where another holds it for longer than `seconds`; OSError.
    """
    path = ledger.with_suffix(".head.lock")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    mend = "wait until the other privet process on this data set is done, then try again."
                    raise LedgerError("another process holds the head file.", where=str(path), mend=mend) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def read_head(ledger: Path) -> Head | None:
    """The head in the file; None where there is no file.

    Raises: UnreadableHead; OSError.
    """
    try:
        text = head_path(ledger).read_bytes()
    except FileNotFoundError:
        return None
    try:
        body, digest = text.decode().split("\n")[:2]
        if hashlib.sha256(body.encode()).hexdigest() != digest:
            raise ValueError("another digest")
        raw = json.loads(body)
        return _sound(Head(**{**raw, "marks": tuple(raw["marks"])}))
    except (ValueError, KeyError, TypeError) as error:
        raise UnreadableHead(str(error)) from None


def write_head(ledger: Path, head: Head) -> None:
    """Replace the file, durably when this returns; under `head_lock`.

    Raises: OSError.
    """
    path = head_path(ledger)
    body = chain.canonical(asdict(head))
    content = f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode()
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
