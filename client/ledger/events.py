"""Events in the ledger's tables: reserve one, store its reply, find it again; in a transaction of the caller's."""

import hashlib
import sqlite3
from typing import Literal

from privet.client.ledger import chain
from privet.client.ledger.evidence import allow
from privet.client.ledger.rows import (
    EventRow,
    New,
    PlanRow,
    Reservation,
    Stored,
    allow_column,
    find_plan,
    sum_committed,
)
from privet.client.ledger.schema import DAMAGED, LedgerError
from privet.client.rules import allow_person_column
from privet.common.errors import Code, RefusedError

Kind = Literal["train", "evaluate"]


def reserve_event(db: sqlite3.Connection, digest: str, round: int, kind: Kind, request_sha256: str) -> Reservation:
    """Reserve one event, or answer for the one that was reserved before.

    Raises: RefusedError, LedgerError.
    """
    where = f"plan {digest[:16]}, {'round' if kind == 'train' else 'evaluation'} {round}"
    allow(db, where)
    row = find_plan(db, digest)
    if row is None or row.admission.decision != "approved" or row.admission.event is None:
        raise RefusedError(Code.UNKNOWN_PLAN, "the plan is not approved.", where=where)
    horizon = _horizon(row, kind)
    inside = 1 <= round <= horizon  # no other event can exist
    known = _find(db, digest, round, kind) if inside else None
    if known is not None:
        return _again(known, request_sha256, where)
    counted = db.execute("SELECT COUNT(*) FROM events WHERE plan = ? AND kind = ?", (digest, kind)).fetchone()
    if not inside or counted[0] >= horizon:
        what = "training rounds" if kind == "train" else "evaluations"
        raise RefusedError(Code.OUTSIDE_HORIZON, f"the approved horizon is {horizon} {what}.", where=where)
    committed = sum_committed(db, "")
    if committed.unit is not None and committed.unit != row.admission.event.unit:
        raise RefusedError(Code.REFUSED_POLICY, f"this data set counts by {committed.unit}.", where=where)
    allow_column(row.unit_column, committed.unit_column)
    allow_person_column(row.admission.person, committed.person)
    cursor = db.execute(
        "INSERT INTO events (plan, round, kind, request_sha256, state, reserved_at) VALUES (?, ?, ?, ?, 'reserved', ?)",
        (digest, round, kind, request_sha256, chain.now()),
    )
    assert cursor.lastrowid is not None
    reserved = db.execute("SELECT * FROM events WHERE id = ?", (cursor.lastrowid,)).fetchone()
    chain.append(db, chain.reserve_body(reserved))
    return New(event_id=cursor.lastrowid)


def store_reply(db: sqlite3.Connection, event_id: int, reply: bytes) -> None:
    """Keep the reply of a reserved event.

    Raises: LedgerError where the event is unknown or has a reply.
    """
    changed = db.execute(
        "UPDATE events SET state = 'stored', reply = ?, reply_sha256 = ?, stored_at = ?"
        " WHERE id = ? AND state = 'reserved'",
        (reply, hashlib.sha256(reply).hexdigest(), chain.now(), event_id),
    ).rowcount
    if changed != 1:
        raise LedgerError(f"event {event_id} does not wait for a reply.")
    row = db.execute("SELECT id, reply_sha256, stored_at FROM events WHERE id = ?", (event_id,)).fetchone()
    chain.append(db, chain.store_body(row))


def list_events(db: sqlite3.Connection, digest: str | None) -> list[EventRow]:
    """Every event (of one plan, if named), in the order of reservation; without replies."""
    columns = ", ".join(EventRow.__dataclass_fields__)
    rows = db.execute(f"SELECT {columns} FROM events WHERE ? IN (plan, '') ORDER BY id", (digest or "",))
    return [EventRow(**dict(row)) for row in rows]


def stored_reply(row: sqlite3.Row, where: str) -> bytes:
    """The reply of a stored event's row. Raises: LedgerError where it is not the one that was stored."""
    reply = bytes(row["reply"])
    if hashlib.sha256(reply).hexdigest() != row["reply_sha256"]:
        raise LedgerError(f"the stored reply of event {row['id']} was altered.", where=where, mend=DAMAGED)
    return reply


def _horizon(row: PlanRow, kind: Kind) -> int:
    """How many events of this kind the plan was approved with."""
    if kind == "train":
        return row.admission.training_rounds
    if kind == "evaluate" and row.admission.evaluation is not None:
        return row.admission.num_evaluations
    return 0


def _find(db: sqlite3.Connection, digest: str, round: int, kind: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM events WHERE plan = ? AND round = ? AND kind = ?", (digest, round, kind)
    ).fetchone()
    return row


def _again(known: sqlite3.Row, request_sha256: str, where: str) -> Stored:
    """The answer for a (plan, round, kind) that was reserved before.

    Raises: RefusedError with ALTERED_REQUEST or ROUND_LOST; LedgerError where the stored reply was altered.
    """
    if known["state"] == "lost":
        what = "this round was counted as spent when the ledger had fallen behind: never run again."
        raise RefusedError(Code.ROUND_LOST, what, where=where)
    if known["request_sha256"] != request_sha256:
        raise RefusedError(Code.ALTERED_REQUEST, "this round was asked for before with other content.", where=where)
    if known["state"] != "stored":
        raise RefusedError(
            Code.ROUND_LOST, "this round was reserved, and its reply was lost: spent, never run again.", where=where
        )
    return Stored(reply=stored_reply(known, where))
