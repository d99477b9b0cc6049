"""The ledger's hash chain: every change that matters, as an entry that commits to all entries before it.

An entry's hash is SHA-256(previous hash, 32 bytes || body in UTF-8); a body is canonical JSON with the UTC time. The
first entry, the genesis, follows 32 zero bytes and holds 32 random ones, so that no two ledgers share a hash; that of a
ledger brought over from schema 1, which had no chain, holds a digest of what it held instead. Entries:

    genesis   the ledger was made
    approve   a plan was approved, with its share and its events
    reserve   an event was reserved
    store     its reply was stored
    evidence  the ledger fell behind a head that it once had (`evidence`)
    charge    what it may have forgotten was counted as spent
    migrated  the entries so far were made from a ledger of an older schema

Those that change what the ledger knows to be committed are its *marks*: genesis, approve, evidence, charge. Their
bodies hold `known`, the sums of epsilon and delta after them.
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from privet.client.ledger.schema import DAMAGED, LedgerError

Body = dict[str, Any]
_START = bytes(32)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of the chain."""

    seq: int
    hash: str  # 64 hex digits
    body: Body


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def canonical(value: Any) -> str:
    """JSON of one form only: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def begin(db: sqlite3.Connection, *, time: str, random: str, **facts: Any) -> None:
    """The genesis of an empty chain; `random`: 64 hex digits that no other data set's ledger has."""
    append(db, {"entry": "genesis", "time": time, "random": random, "known": [0.0, 0.0], **facts})


def append(db: sqlite3.Connection, body: Body) -> int:
    """Add one entry, in the caller's transaction; its number."""
    last = db.execute("SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1").fetchone()
    seq, previous = (1, _START) if last is None else (last[0] + 1, bytes(last[1]))
    text = canonical(body)
    digest = hashlib.sha256(previous + text.encode()).digest()
    db.execute("INSERT INTO chain (seq, previous, hash, body) VALUES (?, ?, ?, ?)", (seq, previous, digest, text))
    return seq


def length(db: sqlite3.Connection) -> int:
    """The number of the newest entry; 0 for none."""
    (seq,) = db.execute("SELECT COALESCE(MAX(seq), 0) FROM chain").fetchone()
    return int(seq)


def entry(db: sqlite3.Connection, seq: int) -> Entry | None:
    """The entry of this number."""
    row = db.execute("SELECT seq, hash, body FROM chain WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else Entry(seq=row[0], hash=bytes(row[1]).hex(), body=json.loads(row[2]))


def marks(db: sqlite3.Connection) -> list[Entry]:
    """The marks, the newest first; the genesis is the last."""
    rows = db.execute(
        "SELECT seq, hash, body FROM chain WHERE seq = 1 OR seq IN (SELECT entry FROM plans WHERE state = 'approved'"
        " UNION SELECT entry FROM evidence UNION SELECT entry FROM charges) ORDER BY seq DESC"
    )
    return [Entry(seq=row[0], hash=bytes(row[1]).hex(), body=json.loads(row[2])) for row in rows]


def known_sums(db: sqlite3.Connection) -> tuple[float, float]:
    """What the ledger knows to be committed: shares of approved plans, and what evidence adds, charged or not yet.

    Sums are exactly rounded, so they do not depend on the order.
    """
    rows = db.execute(
        "SELECT epsilon, delta FROM plans WHERE state = 'approved'"
        " UNION ALL SELECT charge_epsilon, charge_delta FROM evidence"
    ).fetchall()
    return math.fsum(row[0] for row in rows), math.fsum(row[1] for row in rows)


def glance(db: sqlite3.Connection) -> None:
    """A cheap look: the newest entry is sound and no number is missing.

    Raises: LedgerError.
    """
    (count,) = db.execute("SELECT COUNT(*) FROM chain").fetchone()
    rows = db.execute("SELECT seq, previous, hash, body FROM chain ORDER BY seq DESC LIMIT 2").fetchall()
    if not rows or rows[0]["seq"] != count:
        raise altered("entries of its chain are missing")
    before = rows[1]["hash"] if len(rows) > 1 else _START
    _follow(rows[0], bytes(before), rows[0]["seq"])


def walk(db: sqlite3.Connection) -> list[Entry]:
    """Every entry, the oldest first, each verified against the one before.

    Raises: LedgerError.
    """
    previous, entries = _START, list[Entry]()
    for row in db.execute("SELECT seq, previous, hash, body FROM chain ORDER BY seq"):
        body = _follow(row, previous, len(entries) + 1)
        previous = bytes(row["hash"])
        entries.append(Entry(seq=row["seq"], hash=previous.hex(), body=body))
    if not entries or entries[0].body["entry"] != "genesis":
        raise altered("its chain has no genesis")
    return entries


def altered(what: str) -> LedgerError:
    """The error for a ledger that does not agree with its chain."""
    return LedgerError(f"the ledger was altered: {what}.", mend=DAMAGED)


def _follow(row: sqlite3.Row, previous: bytes, seq: int) -> Body:
    """The body of `row`, which must be entry `seq` and follow `previous`."""
    text = str(row["body"])
    digest = hashlib.sha256(previous + text.encode()).digest()
    if row["seq"] != seq or bytes(row["previous"]) != previous or bytes(row["hash"]) != digest:
        raise altered(f"entry {seq} of its chain does not follow the one before")
    try:
        body = json.loads(text)
        body["entry"], body["time"]
    except (ValueError, KeyError, TypeError):
        raise altered(f"entry {seq} of its chain cannot be read") from None
    return dict(body)


# Bodies, as functions of the tables' rows: written with a change, and compared with the tables later.


def approve_body(row: Mapping[str, Any]) -> Body:
    """Of an approved plan. The limit of a person's records stands there where there is one: schema 2 knew none."""
    evaluation = row["evaluation"]
    limit = {} if row["person"] is None else {"person": row["person"], "max_per_person": row["max_per_person"]}
    event = ("sample_rate", "noise_multiplier", "steps", "max_grad_norm", "expected_batch", "unit", "max_records")
    return {
        "entry": "approve",
        "time": row["approved_at"],
        "plan": row["digest"],
        "federation": row["federation"],
        "horizon": row["horizon"],
        "num_evaluations": row["num_evaluations"],
        "epsilon": row["epsilon"],
        "delta": row["delta"],
        "event": {name: row[name] for name in event},
        "evaluation": None if evaluation is None else json.loads(evaluation),
        "unit_column": row["unit_column"],
        **limit,
        **({"evaluate_only": True} if row["evaluate_only"] else {}),
        **({} if row["reading"] is None else {"reading": json.loads(row["reading"])}),
    }


def reserve_body(row: Mapping[str, Any]) -> Body:
    """Of a reserved event."""
    names = ("plan", "round", "kind", "request_sha256")
    return {
        "entry": "reserve",
        "time": row["reserved_at"],
        "event": row["id"],
        **{name: row[name] for name in names},
    }


def store_body(row: Mapping[str, Any]) -> Body:
    """Of an event whose reply is stored."""
    return {"entry": "store", "time": row["stored_at"], "event": row["id"], "reply_sha256": row["reply_sha256"]}


def evidence_body(row: Mapping[str, Any]) -> Body:
    """Of evidence that the ledger fell behind."""
    names = ("source", "seq", "hash", "epsilon", "delta", "charge_epsilon", "charge_delta")
    return {
        "entry": "evidence",
        "time": row["noted_at"],
        "id": row["id"],
        "marks": json.loads(row["marks"]),
        **{name: row[name] for name in names},
    }
