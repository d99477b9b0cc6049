"""What the ledger's tables hold, as values: plans with their judgement, events, and the sums that limits are set on.

Every function here runs inside a transaction of the caller's.
"""

import hashlib
import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from privet.client.ledger import chain
from privet.client.ledger.chain import now
from privet.client.ledger.evidence import allow
from privet.client.ledger.schema import DAMAGED, LedgerError
from privet.client.policy import Admission, Committed, allow_budget
from privet.client.reading import Reading, allow_reading, read_back, written
from privet.client.rules import allow_person_column
from privet.common.config import Plan, Site, parse_plan
from privet.common.config.site import DataSpec
from privet.common.errors import Code, InputError, RefusedError
from privet.common.privacy.events import EvaluateEvent, TrainEvent

MIN_PREFIX = 8  # hex digits of a digest
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
    unit_column: str | None = None  # data.unit of the site file then; None where schema 1 did not keep it
    reading: Reading | None = None  # the keys by which records were told then; None before schema 5

    @property
    def plan(self) -> Plan:
        """Raises: ConfigError where a newer privet's plan is not understood."""
        return parse_plan(self.text, where=f"plan {self.digest[:16]}")


@dataclass(frozen=True, kw_only=True)
class EventRow:
    """One reserved round or evaluation; it counts as spent in every state.

    state: `lost` where it was never seen here, and may have been before the ledger fell behind.
    """

    id: int
    plan: str
    round: int
    kind: Literal["train", "evaluate"]
    request_sha256: str  # empty where lost
    state: Literal["reserved", "stored", "lost"]
    reply_sha256: str | None
    reserved_at: str
    stored_at: str | None


def find_plan(db: sqlite3.Connection, digest: str) -> PlanRow | None:
    """The plan of this digest, if it was ever seen."""
    row = db.execute("SELECT * FROM plans WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else plan_row(row)


def by_prefix(plans: Sequence[PlanRow], prefix: str) -> PlanRow:
    """The one plan whose digest starts with `prefix`.

    Raises: InputError where none or several do, or `prefix` is too short or no hex.
    """
    prefix = prefix.strip().lower()
    if not MIN_PREFIX <= len(prefix) <= 64 or set(prefix) - set("0123456789abcdef"):
        raise InputError(
            f"Expected {MIN_PREFIX} to 64 hex digits, got {prefix[:80]!r}.",
            where="digest",
            mend="copy it from `privet ledger`.",
        )
    found = [row for row in plans if row.digest.startswith(prefix)]
    if not found:
        mend = "let `privet client` fetch the plan, then look in `privet ledger`."
        raise InputError(f"no plan starts with {prefix}.", where="digest", mend=mend)
    if len(found) > 1:
        raise InputError(f"{len(found)} plans start with {prefix}.", where="digest", mend="give more digits.")
    return found[0]


def plan_row(row: sqlite3.Row) -> PlanRow:
    """Raises: LedgerError where the plan's text is not the one its digest names."""
    if hashlib.sha256(row["plan"].encode()).hexdigest() != row["digest"]:
        raise LedgerError(f"the text of plan {row['digest'][:16]} was altered.", mend=DAMAGED)
    event, evaluation, reading = None, None, None
    if row["noise_multiplier"] is not None:
        try:
            reading = read_back(row["reading"])
            if row["evaluation"] is not None:
                evaluation = EvaluateEvent.from_json(json.loads(row["evaluation"]))
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
            evaluation=evaluation,
            num_evaluations=row["num_evaluations"],
            epsilon=row["epsilon"],
            delta=row["delta"],
            person=row["person"],
            max_per_person=row["max_per_person"],
            evaluate_only=bool(row["evaluate_only"]),
        ),
        seen_at=row["seen_at"],
        judged_at=row["judged_at"],
        approved_at=row["approved_at"],
        unit_column=row["unit_column"],
        reading=reading,
    )


def write_plan(db: sqlite3.Connection, plan: Plan, admission: Admission, site: Site) -> PlanRow:
    """Insert a plan, or judge an unapproved one anew; an approval passes only if every sum stays within its limit.

    A new plan that is not approved takes the place of older ones where too many wait: a server that sends many plans
    pushes out its own, and cannot keep a later one from being read.

    The columns of units and of persons, the limit of a person's records and the keys by which records are told are kept
    as the site file has them.

    Raises: RefusedError with REFUSED_BUDGET, REFUSED_POLICY where another column counts as the unit or the person,
    LEDGER_BEHIND.
    """
    digest, time, approved = plan.digest, now(), admission.decision == "approved"
    if approved:
        allow(db, f"plan {digest[:16]}")
        committed = sum_committed(db, plan.name)
        allow_column(site.data.unit, committed.unit_column)
        allow_person_column(site.data.person, committed.person)
        allow_budget(plan.name, site, sum_committed(db, plan.name, admission))
    elif find_plan(db, digest) is None:
        _make_room(db, len(plan.canonical().encode()), site.federation[plan.name].plan)
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
        "approved_at": time if approved else None,
        "unit_column": site.data.unit,
        "person": site.data.person,
        "max_per_person": site.data.max_per_person,
        "reading": written(site.data),
        "evaluation": None if admission.evaluation is None else chain.canonical(admission.evaluation.to_json()),
        "num_evaluations": admission.num_evaluations,
        "evaluate_only": int(admission.evaluate_only),
        "entry": chain.length(db) + 1 if approved else None,
    }
    updates = ", ".join(f"{name} = excluded.{name}" for name in values if name not in ("digest", "seen_at"))
    db.execute(
        f"INSERT INTO plans ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) "
        f"ON CONFLICT (digest) DO UPDATE SET {updates}",
        tuple(values.values()),
    )
    row = db.execute("SELECT * FROM plans WHERE digest = ?", (digest,)).fetchone()
    if approved:
        chain.append(db, {**chain.approve_body(row), "known": list(chain.known_sums(db))})
    return plan_row(row)


def allow_column(column: str | None, fixed: str | None) -> None:
    """Let pass the column that the data set's first event fixed as its unit (None: not known).

    Raises: RefusedError with REFUSED_POLICY.
    """
    if column is not None and fixed is not None and column != fixed:
        raise RefusedError(
            Code.REFUSED_POLICY,
            f"this data set counts by {fixed!r}, not by {column!r}: guarantees of two kinds of unit do not add.",
            where="data.unit",
            mend=f"set data.unit to {fixed!r} again.",
        )


def allow_kept(data: DataSpec, row: PlanRow) -> None:
    """Let pass a site file that tells units as the one did with which this plan was approved.

    Raises: RefusedError with REFUSED_POLICY.
    """
    allow_column(data.unit, row.unit_column)
    allow_reading(data, row.reading)


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
    """Sums over approved plans and charges, with `extra` counted as one more of `federation`.

    A charge counts in full against the data set's budget and against every federation's share: which federation spent
    what was forgotten is not known, and none of them can have spent more of it than the whole.
    """
    rows = db.execute("SELECT federation, epsilon, delta FROM plans WHERE state = 'approved'").fetchall()
    shares = [(row["federation"], row["epsilon"], row["delta"]) for row in rows]
    shares += [(None, row[0], row[1]) for row in db.execute("SELECT epsilon, delta FROM charges")]
    if extra is not None:
        shares.append((federation, extra.epsilon, extra.delta))
    own = [share for share in shares if share[0] in (federation, None)]
    return Committed(
        epsilon=math.fsum(share[1] for share in shares),
        delta=math.fsum(share[2] for share in shares),
        federation_epsilon=math.fsum(share[1] for share in own),
        federation_delta=math.fsum(share[2] for share in own),
        unit=_fixed(db, "unit"),
        unit_column=_fixed(db, "unit_column"),
        person=_fixed(db, "person"),
    )


def _fixed(db: sqlite3.Connection, column: str) -> Any:
    """What the first event under a plan that has something in `column` has there; None before."""
    row = db.execute(
        f"SELECT plans.{column} FROM events JOIN plans ON plans.digest = events.plan"
        f" WHERE plans.{column} IS NOT NULL ORDER BY events.id LIMIT 1"
    ).fetchone()
    return None if row is None else row[0]
