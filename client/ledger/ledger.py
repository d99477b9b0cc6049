"""The ledger of one data set: what was approved, what was reserved, and every reply that may be sent again.

A round goes: `reserve` (durable) -> train -> `store` the reply (durable) -> send. A crash in between over-counts,
never under-counts: an event that was reserved and has no reply is spent, and its round is never run again. Approval
reserves a plan's whole horizon, and nothing is ever given back.

Whatever goes wrong with the file (full disk, lock, damage) raises `LedgerError`, so that nobody trains without a
durable reservation; the site then answers `unavailable`.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import platformdirs

from privet.client.admission import Admission, Committed
from privet.client.ledger import chain, check
from privet.client.ledger.events import Kind, list_events, reserve_event, store_reply
from privet.client.ledger.evidence import MEND, Charge, Evidence, allow, charge, holds, note, note_log, unsettled
from privet.client.ledger.file import LedgerError, keep_head, open_file, transaction
from privet.client.ledger.head import Head, newest
from privet.client.ledger.rows import (
    EventRow,
    New,
    PlanRow,
    Reservation,
    Stored,
    by_prefix,
    find_plan,
    plan_row,
    sum_committed,
    unstored,
    write_plan,
)
from privet.client.ledger.summary import Summary, summarize
from privet.common.config import Plan, Site
from privet.common.errors import Code, RefusedError

__all__ = [
    "Charge",
    "EventRow",
    "Evidence",
    "Head",
    "Kind",
    "Ledger",
    "LedgerError",
    "New",
    "PlanRow",
    "Reservation",
    "Stored",
    "Summary",
    "ledger_path",
]


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
        readers and `privet approve` need no lock. For an agent the whole file is verified against its chain. A ledger
        that is older than its head file opens: see `behind`.

        Raises: LedgerError.
        """
        connection, lock = open_file(path, agent=agent)
        ledger = cls(path, connection, lock)
        try:
            if agent:
                with ledger._transaction("DEFERRED") as db:
                    check.agree(db)
            keep_head(connection, path)
        except BaseException:
            ledger.close()
            raise
        return ledger

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

    @property
    def path(self) -> Path:
        """Where it lies; the audit log lies beside it."""
        return self._path

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
        return by_prefix(self.plans(), prefix)

    def latest(self, plan: Plan) -> Plan | None:
        """Another plan of this federation, to tell what is new in `plan`: the newest approved, else the newest seen."""
        others = [row for row in self.plans() if row.federation == plan.name and row.digest != plan.digest]
        approved = [row for row in others if row.approved_at is not None]
        if approved:
            return max(approved, key=lambda row: row.approved_at or "").plan
        return others[-1].plan if others else None

    def committed(self, federation: str) -> Committed:
        """What approved plans and charges take of the budget and of `federation`'s share: for `policy.admit`."""
        with self._transaction("DEFERRED") as db:
            return sum_committed(db, federation)

    def record_plan(self, plan: Plan, admission: Admission, site: Site) -> PlanRow:
        """Write down a plan with its judgement; a pending or refused one may be judged anew, an approved one stays.

        A new plan of a federation that the site file does not name is refused and not stored.
        Raises: RefusedError where the judgement approves, and the budget no longer holds it, the data set counts by
        another column of units or persons or the ledger is behind; LedgerError.
        """
        with self._change() as db:
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
        with self._change() as db:
            allow(db, f"plan {digest[:16]}")
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

    # Rounds and evaluations

    def reserve(self, digest: str, round: int, kind: Kind, request_sha256: str) -> Reservation:
        """Reserve one event before anything is computed for it; when this returns `New`, the reservation is durable.

        round: 1 to the horizon, or the number of the evaluation, 1 to `num_evaluations`.
        `request_sha256`: of the request's whole canonical body, 64 hex digits. The same body again gives the stored
        reply. Agent only.

        Raises: RefusedError with LEDGER_BEHIND, UNKNOWN_PLAN, ALTERED_REQUEST, ROUND_LOST, OUTSIDE_HORIZON or, where
        the data set counts by another kind or column of unit or of persons, REFUSED_POLICY; LedgerError.
        """
        self._only_agent()
        with self._change() as db:
            return reserve_event(db, digest, round, kind, request_sha256)

    def store(self, event_id: int, reply: bytes) -> None:
        """Keep the reply of a reserved event; when this returns, it is durable and may be sent. Agent only.

        Raises: LedgerError, also where the event is unknown or has a reply: never send then.
        """
        self._only_agent()
        with self._change() as db:
            store_reply(db, event_id, reply)

    def events(self, digest: str | None = None) -> list[EventRow]:
        """Every event (of one plan, if named), in the order of reservation; without replies."""
        with self._transaction("DEFERRED") as db:
            return list_events(db, digest)

    def summary(self, site: Site) -> Summary:
        """Spent, reserved and left of the site's budget. Composes all executed events: fractions of a second."""
        with self._transaction("DEFERRED") as db:
            return summarize(db, site)

    # Whether it is the newest

    def head(self) -> Head:
        """The newest entry of the chain, with what is committed there."""
        with self._transaction("DEFERRED") as db:
            return newest(db)

    def meet(self, head: Head) -> None:
        """Hold the ledger against a head that it once had; what it lacks is durably noted.

        Raises: RefusedError with LEDGER_BEHIND where it lacks it; LedgerError.
        """
        with self._transaction("DEFERRED") as db:
            if holds(db, head):
                return
        with self._change() as db:
            if not holds(db, head):
                note(db, "server", head)
        with self._transaction("DEFERRED") as db:
            allow(db, "the ledger")

    def note_log(self, digest: str, epsilon: float, delta: float) -> None:
        """The audit log tells of what this ledger lacks; see `evidence.note_log`. Raises: LedgerError."""
        with contextlib.suppress(RefusedError), self._change() as db:  # whoever goes on asks `behind`
            note_log(db, digest, epsilon, delta)

    def behind(self) -> list[Evidence]:
        """What shows that the ledger fell behind and is not charged yet; empty for a ledger that may be used."""
        with self._transaction("DEFERRED") as db:
            return unsettled(db)

    def charge_all(self) -> Charge | None:
        """Count as spent all that the ledger may have forgotten, for good; None where nothing shows that it did.

        Every round and evaluation of every approved plan is closed; what the evidence had committed beyond this
        ledger's knowledge counts against the data set and every federation.

        Raises: LedgerError.
        """
        with self._change() as db:
            return charge(db)

    def verify(self) -> list[str]:
        """What was verified, in words: file, chain, tables, head file and stored replies.

        Raises: LedgerError where something is not as it was written, or the ledger is behind.
        """
        keep_head(self._connection, self._path)
        with self._transaction("DEFERRED") as db:
            words = check.verify(db)
            for evidence in unsettled(db):
                raise LedgerError(str(evidence), where=str(self._path), mend=MEND)
        return [*words, "head file: names an entry of the chain"]

    def export(self, folder: Path) -> int:
        """Write every stored reply, a manifest and the chain to an empty or new folder; how many replies.

        Raises: InputError, LedgerError.
        """
        with self._transaction("DEFERRED") as db:
            return len(check.export(db, folder))

    # Within

    @contextlib.contextmanager
    def _transaction(self, mode: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._mutex, transaction(self._connection, self._path, mode) as db:
            yield db

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """A transaction; where it added to the chain, the head file follows before this is left.

        Raises: LedgerError where the head cannot be written, RefusedError with LEDGER_BEHIND where the head file is
        found to hold what the chain does not: the change stands, and nobody goes on from it.
        """
        with self._mutex:
            with self._transaction() as db:
                before = chain.length(db)
                fell = len(unsettled(db))
                yield db
                grown = chain.length(db) > before
            if grown:
                keep_head(self._connection, self._path)
                with self._transaction("DEFERRED") as db:
                    if not fell and unsettled(db):
                        allow(db, str(self._path))

    def _only_agent(self) -> None:
        if self._lock is None:
            raise LedgerError(
                "only the data set's agent may train.", where=str(self._path), mend="open the ledger with agent=True."
            )
