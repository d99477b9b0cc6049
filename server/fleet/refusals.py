"""Who was refused at the door, told to the operator: once a key and minute, bounded whatever a stranger does."""

import base64
import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from privet.server.fleet.flower import verify_signature

QUIET_SECONDS = 60.0
"""How long nothing more is told of a key that was told of."""
MAX_STRANGERS = 20
"""Most keys that are no site's, and never were, told of in QUIET_SECONDS; further ones are only counted."""
_LARGEST = 1024  # bytes of a public key that are looked at; a P-384 key in PEM has 215


@dataclass(frozen=True)
class RefusedKey:
    """One refusal, fit for a log.

    fingerprint: as `ssh-keygen -lf` has it, or None for what is no key.
    name: of the site whose key it is or was, or None.
    """

    fingerprint: str | None
    name: str | None
    reason: str


@dataclass(frozen=True)
class _Case:
    key: bytes
    reason: str
    signed: tuple[bytes, bytes] | None  # time stamp and signature, yet to be verified


class Refusals:
    """Takes note in the RPCs' threads, without waiting; tells in a thread of its own. Memory and lines are bounded."""

    def __init__(self, tell: Callable[[RefusedKey], None], name_of: Callable[[bytes], str | None]) -> None:
        """`name_of`: the name of the site whose key (PEM) it is or was."""
        self._tell, self._name_of = tell, name_of
        self._lock = threading.Lock()
        self._told: dict[bytes, float] = {}  # SHA-256 of a key -> time.monotonic() at which it may be told of again
        self._strangers, self._untold, self._window = 0, 0, 0.0
        self.total = 0  # refusals since the start, told or not
        self._cases: queue.SimpleQueue[_Case | int | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)

    def start(self) -> None:
        """Begin to tell."""
        self._thread.start()

    def close(self) -> None:
        """Tell what was noted, and end."""
        if self._thread.is_alive():
            self._cases.put(None)
            self._thread.join(5.0)

    def note(self, key: bytes | None, reason: str, signed: tuple[bytes, bytes] | None = None) -> None:
        """A key (PEM, as it came) was refused.

        signed: the time stamp and its signature where nobody verified them yet; where they are not the key's, whoever
        came does not hold it, and that is the reason told.
        """
        key = (key or b"")[:_LARGEST]
        name, digest, now = self._name_of(key), hashlib.sha256(key).digest(), time.monotonic()
        with self._lock:
            self.total += 1
            if now >= self._window:
                if self._untold:
                    self._cases.put(self._untold)
                self._told = {known: until for known, until in self._told.items() if until > now}
                self._strangers, self._untold, self._window = 0, 0, now + QUIET_SECONDS
            if digest in self._told and now < self._told[digest]:
                return
            if name is None:
                self._strangers += 1
                if self._strangers > MAX_STRANGERS:
                    self._untold += 1
                    return
            self._told[digest] = now + QUIET_SECONDS
        self._cases.put(_Case(key, reason, signed))

    def _run(self) -> None:
        while (case := self._cases.get()) is not None:
            with contextlib.suppress(OSError, ValueError):  # of a log that cannot be written now: serving goes on
                if isinstance(case, int):
                    self._tell(RefusedKey(None, None, f"{case} more unknown keys within a minute"))
                else:
                    self._tell(self._looked_at(case))

    def _looked_at(self, case: _Case) -> RefusedKey:
        if not case.key:
            return RefusedKey(None, None, "no key")
        try:
            key = load_pem_public_key(case.key)
            blob = key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).split(b" ")[1]
        except (ValueError, UnsupportedAlgorithm):
            return RefusedKey(None, None, "not a public key")
        shown = "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(blob)).digest()).decode().rstrip("=")
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
            return RefusedKey(shown, None, "not an EC P-384 key")
        forged = case.signed is not None and not verify_signature(key, *case.signed)
        return RefusedKey(shown, self._name_of(case.key), "invalid signature" if forged else case.reason)
