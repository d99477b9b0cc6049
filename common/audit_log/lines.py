"""One line of an audit log: its number, time, kind, fields, the hash of the line before and its own.

A line is canonical JSON; its hash is SHA-256 over the canonical JSON of everything else in it. The first line follows
64 zeros.
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import ValidationError

from privet.common.audit_log.entries import ENTRIES, Entry
from privet.common.errors import PrivetError

GENESIS = "0" * 64
_KEYS = {"seq", "time", "kind", "fields", "previous", "hash"}


class AuditLogError(PrivetError):
    """The audit log cannot be written, or is not as it was written. At a site's agent: nothing is sent."""


class BadLine(ValueError):
    """Not a line as it was written."""


@dataclass(frozen=True)
class Line:
    """One entry where it stands."""

    seq: int
    time: str  # UTC, ISO 8601, whole seconds
    kind: str
    fields: dict[str, Any]
    previous: str  # 64 hex digits
    hash: str

    @classmethod
    def after(cls, last: "Line | None", entry: Entry) -> Self:
        """The line of `entry` after `last` (None: the first line)."""
        seq, previous = (1, GENESIS) if last is None else (last.seq + 1, last.hash)
        time, fields = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), entry.model_dump(mode="json")
        digest = _digest({"seq": seq, "time": time, "kind": entry.kind, "fields": fields, "previous": previous})
        return cls(seq, time, entry.kind, fields, previous, digest)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def to_bytes(self) -> bytes:
        """As it stands in the file, with its line break."""
        return canonical(self.to_json()).encode() + b"\n"

    def entry(self) -> Entry:
        """Its fields by the schema.

        Raises: BadLine where they are not of it.
        """
        try:
            return ENTRIES[self.kind].model_validate_json(canonical(self.fields))
        except (KeyError, ValidationError):
            raise BadLine("is not of a schema that this version knows") from None


def canonical(value: Any) -> str:
    """JSON of one form only: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def parse_line(raw: bytes) -> Line:
    """A line without its line break, byte for byte as it was written. Its place in the chain is not looked at.

    Raises: BadLine.
    """
    try:
        value = json.loads(raw)
        if set(value) != _KEYS or type(value["seq"]) is not int or type(value["fields"]) is not dict:
            raise BadLine("was altered")
        digest = value["hash"]
        if canonical(value).encode() != raw or _digest({k: v for k, v in value.items() if k != "hash"}) != digest:
            raise BadLine("was altered")
        return Line(**value)
    except (ValueError, TypeError, RecursionError):
        raise BadLine("was altered") from None


def looks_whole(raw: bytes) -> bool:
    """Whether this ends as every line ends (with its time): never so of one that was cut short."""
    return raw.endswith(b'Z"}')


def torn_digest(torn: bytes) -> tuple[int, str]:
    """How a repair names what it closes off: bytes and SHA-256, without the line breaks at its end."""
    torn = torn.rstrip(b"\n")
    return len(torn), hashlib.sha256(torn).hexdigest()


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()
