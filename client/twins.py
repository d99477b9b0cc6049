"""Other ledgers of this host that are about the same data: two ledgers of one data set would each spend a whole budget.

Beside each ledger lies a small file of keyed hashes: of the source (a path, or a database and its query), and a sketch
of the records' contents, the 256 smallest HMACs (bottom-k, Broder 1997). The key is random, belongs to the host and
never leaves it, so that the files tell nothing elsewhere. What this finds is a warning for the operator: a copy on
another host is not found.
"""

import contextlib
import heapq
import hmac
import json
import os
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privet.client.ledger.schema import LedgerError

SKETCH = 256  # hashes kept; all of them where a data set has fewer records
ALIKE = 0.5  # share of the smaller data set's contents from which on two count as one
_DIGITS = 32  # of a hash
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Twin:
    """Another ledger on this host, of the same data as far as can be told."""

    ledger: Path
    same_source: bool  # the same file, by its resolved path, or the same query of the same database
    share: float  # of the smaller data set's contents that both have, 0 to 1, estimated


def note(ledger: Path, source: Path | str, texts: Sequence[str]) -> None:
    """Keep what tells this data set from others beside its ledger, in a file of mode 0600.

    Raises: LedgerError where the folder of ledgers cannot be written, or its key is damaged.
    """
    try:
        ledger.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(lineage_path(ledger), json.dumps(_sketch(_host_key(ledger.parent), source, texts)).encode())
    except OSError as error:
        mend = "see that this user may write the ledgers' folder."
        raise LedgerError(f"cannot be written ({error}).", where=str(ledger.parent), mend=mend) from error


def twins(ledger: Path, source: Path | str, texts: Sequence[str]) -> list[Twin]:
    """The other ledgers in this ledger's folder that were made for `source` or share at least half of its contents.

    A file beside another ledger that cannot be read counts as none. The nearest first.
    Raises: LedgerError where the host's key cannot be read or made.
    """
    try:
        if not ledger.parent.is_dir():
            return []
        own = _sketch(_host_key(ledger.parent), source, texts)
        others = sorted(ledger.parent.glob("*.lineage"))
    except OSError as error:
        raise LedgerError(f"cannot be read ({error}).", where=str(ledger.parent)) from error
    found = []
    for path in others:
        other = None if path == lineage_path(ledger) else _read(path)
        if other is None:
            continue
        twin = Twin(
            ledger=path.with_suffix(".sqlite"),
            same_source=other["source"] == own["source"],
            share=_overlap(own["contents"], other["contents"]),
        )
        if twin.same_source or twin.share >= ALIKE:
            found.append(twin)
    return sorted(found, key=lambda twin: (-twin.share, not twin.same_source))


def warnings(ledger: Path, source: Path | str, texts: Sequence[str]) -> list[str]:
    """A line for the operator about each twin. Raises: LedgerError, as `twins`."""
    found = []
    for twin in twins(ledger, source, texts):
        what = (
            "was made for the same file or query" if twin.same_source else f"shares {twin.share:.0%} of its texts or so"
        )
        found.append(
            f"Warning: another ledger on this machine {what}: {twin.ledger}. Two ledgers of one data set each spend a "
            "whole budget on the same people. Use the data.id of that one, and one agent for all federations."
        )
    return found


def lineage_path(ledger: Path) -> Path:
    """Where the keyed hashes of a ledger's data set are kept."""
    return ledger.with_suffix(".lineage")


def _sketch(key: bytes, source: Path | str, texts: Sequence[str]) -> dict[str, Any]:
    """The keyed hashes: of the source, and the smallest ones of the distinct contents, in order."""
    place = str(source.resolve()) if isinstance(source, Path) else source
    contents = {_hash(key, b"content", unicodedata.normalize("NFC", text).strip()) for text in texts}
    return {"source": _hash(key, b"source", place), "contents": heapq.nsmallest(SKETCH, contents)}


def _hash(key: bytes, what: bytes, text: str) -> str:
    message = what + b"\0" + text.encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, "sha256").hex()[:_DIGITS]


def _overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Estimated share of the smaller set's contents that both sets have.

    Below the smaller of the two sketches' ends, each sketch holds all of its set's hashes: an even sample.
    """
    ends = [sketch[-1] for sketch in (first, second) if len(sketch) == SKETCH]
    end = min(ends, default="g")  # above every hex digit: both sketches are whole
    a, b = ({one for one in sketch if one <= end} for sketch in (first, second))
    return len(a & b) / min(len(a), len(b)) if a and b else 0.0


def _read(path: Path) -> dict[str, Any] | None:
    """Another data set's hashes; None where they cannot be read: they are another agent's business."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        raw = json.loads(path.read_text(encoding="ascii"))
        hashes = [raw["source"], *raw["contents"]]
        sound = all(isinstance(one, str) and len(one) == _DIGITS for one in hashes)
        return {"source": raw["source"], "contents": sorted(raw["contents"])[:SKETCH]} if sound else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _host_key(folder: Path) -> bytes:
    """The host's key, 32 bytes; made at the first use, whole or not at all."""
    path = folder / "host.key"
    if not path.exists():
        fresh = folder / f".host.key.{secrets.token_hex(8)}"
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was faster: its key is the host's
                os.link(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
    key = path.read_bytes()
    if len(key) != 32:
        mend = "remove it: a new one is made, and each agent notes its data set anew when it starts."
        raise LedgerError("the host's key is damaged.", where=str(path), mend=mend)
    return key


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
