"""What the ledger's tables hold, as values: plans with their judgement, events, and the sums that limits are set on.

Every function here runs inside a transaction of the caller's.
"""

import hashlib
import math
import sqlite3
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Literal

from privet.client.ledger_file import DAMAGED, LedgerError
from privet.client.policy import Admission, Committed, allow_budget
from privet.common.config import Plan, Site, parse_plan
from privet.common.errors import Code, RefusedError
from privet.common.privacy.events import TrainEvent

MAX_WAITING = 100  # plans that are not approved: a server cannot fill the disk with plans
MAX_WAITING_BYTES = 64 << 20  # of their texts together


@dataclass(frozen=True, kw_only=True)
class New:
    """A durable reservation: train, then `store` the reply under `event_id`."""

    event_id: int


@dataclass(frozen=True, kw_only=True)
class Stored:
    """This very request was answered before: send these bytes again."""

    reply: bytes


Reservation = New | Stored


@dataclass(frozen=True, kw_only=True)
class PlanRow:
    """A plan as the ledger holds it; of an approved one nothing changes any more."""

    digest: str
    federation: str
    text: str  # the plan's canonical JSON
    admission: Admission
    seen_at: str
    judged_at: str
    approved_at: str | None

    @property
    def plan(self) -> Plan:
        """Raises: ConfigError where a newer privet's plan is not understood."""
        return parse_plan(self.text, where=f"plan {self.digest[:16]}")


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One reserved round; it counts as spent in either state."""

    id: int
    plan: str
    round: int
    kind: str
    request_sha256: str
    state: Literal["reserved", "stored"]
    reply_sha256: str | None
    reserved_at: str
    stored_at: str | None


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def find_plan(db: sqlite3.Connection, digest: str) -> PlanRow | None:
    """The plan of this digest, if it was ever seen."""
    row = db.execute("SELECT * FROM plans WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else plan_row(row)


def plan_row(row: sqlite3.Row) -> PlanRow:
    """Raises: LedgerError where the plan's text is not the one its digest names."""
    if hashlib.sha256(row["plan"].encode()).hexdigest() != row["digest"]:
        raise LedgerError(f"the text of plan {row['digest'][:16]} was altered.", mend=DAMAGED)
    event = None
    if row["noise_multiplier"] is not None:
        try:
            event = TrainEvent(**{field.name: row[field.name] for field in fields(TrainEvent)})
        except ValueError as error:
            raise LedgerError(f"plan {row['digest'][:16]} was altered ({error}).", mend=DAMAGED) from None
    return PlanRow(
        digest=row["digest"],
        federation=row["federation"],
        text=row["plan"],
        admission=Admission(
            decision=row["state"],
            code=Code(row["code"]),
            reason=row["reason"],
            horizon=row["horizon"],
            event=event,
            epsilon=row["epsilon"],
            delta=row["delta"],
        ),
        seen_at=row["seen_at"],
        judged_at=row["judged_at"],
        approved_at=row["approved_at"],
    )


def write_plan(db: sqlite3.Connection, plan: Plan, admission: Admission, site: Site) -> PlanRow:
    """Insert a plan, or judge an unapproved one anew; an approval passes only if every sum stays within its limit.

    A new plan that is not approved takes the place of older ones where too many wait: a server that sends many plans
    pushes out its own, and cannot keep a later one from being read.

    Raises: RefusedError with REFUSED_BUDGET.
    """
    digest, time = plan.digest, now()
    if admission.decision == "approved":
        allow_budget(plan.name, site, sum_committed(db, plan.name, admission))
    elif find_plan(db, digest) is None:
        _make_room(db, len(plan.canonical().encode()), site.membership.plan)
    values = {
        "digest": digest,
        "federation": plan.name,
        "plan": plan.canonical(),
        "state": admission.decision,
        "code": admission.code.value,
        "reason": admission.reason,
        **{field.name: getattr(admission.event, field.name, None) for field in fields(TrainEvent)},
        "horizon": admission.horizon,
        "epsilon": admission.epsilon,
        "delta": admission.delta,
        "seen_at": time,
        "judged_at": time,
        "approved_at": time if admission.decision == "approved" else None,
    }
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name not in ("digest", "seen_at"))
    db.execute(
        f"INSERT INTO plans ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
        f"ON CONFLICT (digest) DO UPDATE SET {updates}",
        tuple(values.values()),
    )
    row = find_plan(db, digest)
    assert row is not None
    return row


def unstored(plan: Plan, admission: Admission) -> PlanRow:
    """A plan with its judgement, as a row that the ledger does not hold."""
    return PlanRow(
        digest=plan.digest,
        federation=plan.name,
        text=plan.canonical(),
        admission=admission,
        seen_at=now(),
        judged_at=now(),
        approved_at=None,
    )


def _make_room(db: sqlite3.Connection, size: int, invited: str | None) -> None:
    """Delete unapproved plans until one more of `size` bytes fits: refused ones first, then the oldest; the one that
    the invitation named goes last."""
    rows = db.execute(
        "SELECT digest, LENGTH(CAST(plan AS BLOB)) FROM plans WHERE state <> 'approved'"
        " ORDER BY digest IS ?, state <> 'refused', seen_at, rowid",
        (invited,),
    ).fetchall()
    num_plans, num_bytes = len(rows), sum(row[1] for row in rows)
    for row in rows:
        if num_plans < MAX_WAITING and num_bytes + size <= MAX_WAITING_BYTES:
            return
        db.execute("DELETE FROM plans WHERE digest = ?", (row[0],))
        num_plans, num_bytes = num_plans - 1, num_bytes - row[1]


def sum_committed(db: sqlite3.Connection, federation: str, extra: Admission | None = None) -> Committed:
    """Sums over approved plans, with `extra` counted as one more of `federation`."""
    rows = db.execute("SELECT federation, epsilon, delta FROM plans WHERE state = 'approved'").fetchall()
    shares = [(row["federation"], row["epsilon"], row["delta"]) for row in rows]
    if extra is not None:
        shares.append((federation, extra.epsilon, extra.delta))
    unit = db.execute(
        "SELECT plans.unit FROM events JOIN plans ON plans.digest = events.plan ORDER BY events.id LIMIT 1"
    ).fetchone()
    return Committed(
        epsilon=math.fsum(share[1] for share in shares),
        delta=math.fsum(share[2] for share in shares),
        federation_epsilon=math.fsum(share[1] for share in shares if share[0] == federation),
        federation_delta=math.fsum(share[2] for share in shares if share[0] == federation),
        unit=None if unit is None else unit[0],
    )


def find_event(db: sqlite3.Connection, digest: str, round: int, kind: str) -> sqlite3.Row | None:
    """The event of this plan, round and kind, with its reply."""
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM events WHERE plan = ? AND round = ? AND kind = ?", (digest, round, kind)
    ).fetchone()
    return row


def answer_again(known: sqlite3.Row, request_sha256: str, where: str) -> Stored:
    """The answer for a (plan, round, kind) that was reserved before.

    Raises: RefusedError with ALTERED_REQUEST or ROUND_LOST; LedgerError where the stored reply was altered.
    """
    if known["request_sha256"] != request_sha256:
        raise RefusedError(Code.ALTERED_REQUEST, "this round was asked for before with other content.", where=where)
    if known["state"] != "stored":
        raise RefusedError(
            Code.ROUND_LOST, "this round was reserved, and its reply was lost: spent, never run again.", where=where
        )
    reply = bytes(known["reply"])
    if hashlib.sha256(reply).hexdigest() != known["reply_sha256"]:
        raise LedgerError(f"the stored reply of event {known['id']} was altered.", where=where, mend=DAMAGED)
    return Stored(reply=reply)
