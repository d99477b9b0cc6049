"""The ledger of one data set: what was approved, what was reserved, and every reply that may be sent again.

A round goes: `reserve` (durable) -> train -> `store` the reply (durable) -> send. A crash in between over-counts,
never under-counts: an event that was reserved and has no reply is spent, and its round is never run again. Approval
reserves a plan's whole horizon, and nothing is ever given back.

Whatever goes wrong with the file (full disk, lock, damage) raises `LedgerError`, so that nobody trains without a
durable reservation; the site then answers `unavailable`.
"""

import contextlib
import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import platformdirs

from privet.client.ledger_file import LedgerError, open_file, transaction
from privet.client.ledger_rows import (
    EventRow,
    New,
    PlanRow,
    Reservation,
    Stored,
    answer_again,
    find_event,
    find_plan,
    now,
    plan_row,
    sum_committed,
    unstored,
    write_plan,
)
from privet.client.policy import Admission, Committed
from privet.common.config import Plan, Site
from privet.common.errors import Code, InputError, RefusedError

__all__ = ["EventRow", "Ledger", "LedgerError", "New", "PlanRow", "Reservation", "Stored", "Summary", "ledger_path"]

MIN_PREFIX = 8  # hex digits of a digest

Kind = Literal["train"]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Where a data set's budget stands. `spent_epsilon` never admits anything: only reservations do."""

    epsilon: float  # the budget
    delta: float
    spent_epsilon: float  # PLD of the executed events at the budget's delta, had they been fixed in advance
    num_events: int
    reserved_epsilon: float  # sums of approved plans' shares
    reserved_delta: float
    left_epsilon: float
    left_delta: float


def ledger_path(data_id: str) -> Path:
    """Where this host keeps the ledger of a data set."""
    return platformdirs.user_state_path("privet") / "ledgers" / f"{data_id}.sqlite"


class Ledger:
    """One data set's ledger, usable from several threads. Make one with `Ledger.open`; close it, or use `with`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self._path, self._connection, self._lock = path, connection, lock
        self._mutex = threading.RLock()

    @classmethod
    def open(cls, path: Path, *, agent: bool = False) -> Self:
        """Open, or make, the ledger at `path` (mode 0600; a new folder has 0700).

        The one process that trains opens it with `agent=True` and holds `PATH.lock` until it ends, however it ends;
        readers and `privet approve` need no lock.

        Raises: LedgerError.
        """
        connection, lock = open_file(path, agent=agent)
        return cls(path, connection, lock)

    def close(self) -> None:
        """Release the file and the agent's lock."""
        with self._mutex:
            self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Plans

    def plan(self, digest: str) -> PlanRow | None:
        """The plan of this digest, if it was ever seen."""
        with self._transaction("DEFERRED") as db:
            return find_plan(db, digest)

    def plans(self) -> list[PlanRow]:
        """Every plan seen, the oldest first."""
        with self._transaction("DEFERRED") as db:
            return [plan_row(row) for row in db.execute("SELECT * FROM plans ORDER BY seen_at, digest")]

    def find(self, prefix: str) -> PlanRow:
        """The one plan whose digest starts with `prefix`, at least 8 hex digits.

        Raises: InputError where none or several do.
        """
        prefix = prefix.strip().lower()
        if not MIN_PREFIX <= len(prefix) <= 64 or set(prefix) - set("0123456789abcdef"):
            raise InputError(
                f"Expected {MIN_PREFIX} to 64 hex digits, got {prefix[:80]!r}.",
                where="digest",
                mend="copy it from `privet ledger`.",
            )
        found = [row for row in self.plans() if row.digest.startswith(prefix)]
        if not found:
            mend = "let `privet client` fetch the plan, then look in `privet ledger`."
            raise InputError(f"no plan starts with {prefix}.", where="digest", mend=mend)
        if len(found) > 1:
            raise InputError(f"{len(found)} plans start with {prefix}.", where="digest", mend="give more digits.")
        return found[0]

    def committed(self, federation: str) -> Committed:
        """What approved plans reserve, of the budget and of the share of `federation`: for `policy.admit`."""
        with self._transaction("DEFERRED") as db:
            return sum_committed(db, federation)

    def record_plan(self, plan: Plan, admission: Admission, site: Site) -> PlanRow:
        """Write down a plan with its judgement; a pending or refused one may be judged anew, an approved one stays.

        A new plan of a federation that the site file does not name is refused and not stored.
        Raises: RefusedError where the judgement approves and the budget no longer holds it; LedgerError.
        """
        with self._transaction() as db:
            known = find_plan(db, plan.digest)
            if known is not None and known.admission.decision == "approved":
                return known
            if known is None and admission.decision == "refused" and plan.name not in site.federation:
                return unstored(plan, admission)
            return write_plan(db, plan, admission, site)

    def approve(self, digest: str, admission: Admission, site: Site) -> PlanRow:
        """Approve a plan with this judgement (not a refusal): its share is reserved, for good.

        The limits are checked again inside the transaction, for another plan may have been approved since the
        judgement. Approving twice changes nothing.

        Raises: RefusedError, LedgerError.
        """
        with self._transaction() as db:
            known = find_plan(db, digest)
            if known is None:
                raise RefusedError(
                    Code.UNKNOWN_PLAN, "the ledger does not hold this plan.", where=f"plan {digest[:16]}"
                )
            if known.admission.decision == "approved":
                return known
            if admission.decision == "refused":
                raise RefusedError(admission.code, admission.reason, where=f"plan {digest[:16]}")
            approved = replace(admission, decision="approved", code=Code.OK, reason="Approved by the operator.")
            return write_plan(db, known.plan, approved, site)

    # Rounds

    def reserve(self, digest: str, round: int, kind: Kind, request_sha256: str) -> Reservation:
        """Reserve one event before any training for it; when this returns `New`, the reservation is durable.

        `request_sha256`: of the request's whole canonical body, 64 hex digits. The same body again gives the stored
        reply. Agent only.

        Raises: RefusedError with UNKNOWN_PLAN, ALTERED_REQUEST, ROUND_LOST, OUTSIDE_HORIZON or, where the data set
        counts by another kind of unit, REFUSED_POLICY; LedgerError.
        """
        self._only_agent()
        where = f"plan {digest[:16]}, round {round}"
        with self._transaction() as db:
            row = find_plan(db, digest)
            if row is None or row.admission.decision != "approved" or row.admission.event is None:
                raise RefusedError(Code.UNKNOWN_PLAN, "the plan is not approved.", where=where)
            inside = kind == "train" and 1 <= round <= row.admission.horizon  # no other event can exist
            known = find_event(db, digest, round, kind) if inside else None
            if known is not None:
                return answer_again(known, request_sha256, where)
            (num_events,) = db.execute(
                "SELECT COUNT(*) FROM events WHERE plan = ? AND kind = ?", (digest, kind)
            ).fetchone()
            if not inside or num_events >= row.admission.horizon:
                raise RefusedError(
                    Code.OUTSIDE_HORIZON,
                    f"the approved horizon is {row.admission.horizon} training rounds.",
                    where=where,
                )
            fixed = sum_committed(db, "").unit
            if fixed is not None and fixed != row.admission.event.unit:
                raise RefusedError(Code.REFUSED_POLICY, f"this data set counts by {fixed}.", where=where)
            cursor = db.execute(
                "INSERT INTO events (plan, round, kind, request_sha256, state, reserved_at)"
                " VALUES (?, ?, ?, ?, 'reserved', ?)",
                (digest, round, kind, request_sha256, now()),
            )
            assert cursor.lastrowid is not None
            event_id = cursor.lastrowid
        return New(event_id=event_id)

    def store(self, event_id: int, reply: bytes) -> None:
        """Keep the reply of a reserved event; when this returns, it is durable and may be sent. Agent only.

        Raises: LedgerError, also where the event is unknown or has a reply: never send then.
        """
        self._only_agent()
        with self._transaction() as db:
            changed = db.execute(
                "UPDATE events SET state = 'stored', reply = ?, reply_sha256 = ?, stored_at = ?"
                " WHERE id = ? AND state = 'reserved'",
                (reply, hashlib.sha256(reply).hexdigest(), now(), event_id),
            ).rowcount
            if changed != 1:
                raise LedgerError(f"event {event_id} does not wait for a reply.", where=str(self._path))

    def events(self, digest: str | None = None) -> list[EventRow]:
        """Every reserved or stored event (of one plan, if named), in the order of reservation; without replies."""
        columns = ", ".join(EventRow.__dataclass_fields__)
        with self._transaction("DEFERRED") as db:
            rows = db.execute(f"SELECT {columns} FROM events WHERE ? IN (plan, '') ORDER BY id", (digest or "",))
            return [EventRow(**dict(row)) for row in rows]

    def summary(self, site: Site) -> Summary:
        """Spent, reserved and left of the site's budget. Composes all executed events: fractions of a second."""
        from privet.common.privacy.accountant import epsilon

        with self._transaction("DEFERRED") as db:
            committed = sum_committed(db, "")
            approved = db.execute("SELECT * FROM plans WHERE state = 'approved'")  # no other plan has events
            admissions = {row.digest: row.admission for row in map(plan_row, approved)}
            digests = [row["plan"] for row in db.execute("SELECT plan FROM events ORDER BY id")]
        executed = [event for digest in digests if (event := admissions[digest].event) is not None]
        budget = site.budget
        return Summary(
            epsilon=budget.epsilon,
            delta=budget.delta,
            spent_epsilon=epsilon(executed, budget.delta) if executed else 0.0,
            num_events=len(executed),
            reserved_epsilon=committed.epsilon,
            reserved_delta=committed.delta,
            left_epsilon=max(0.0, budget.epsilon - committed.epsilon),
            left_delta=max(0.0, budget.delta - committed.delta),
        )

    # Within

    @contextlib.contextmanager
    def _transaction(self, mode: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._mutex, transaction(self._connection, self._path, mode) as db:
            yield db

    def _only_agent(self) -> None:
        if self._lock is None:
            raise LedgerError(
                "only the data set's agent may train.", where=str(self._path), mend="open the ledger with agent=True."
            )
