"""A site's audit log: a line for everything that leaves, written before it leaves, and for every decision.

The log lies beside the ledger, whose stored replies and approved plans it must name. What a server can cause without
end (refusals, offers, the same reply again) is bounded: beyond so many lines an hour they are counted in the next one.
"""

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from privet.client.ledger import EventRow, Ledger, PlanRow
from privet.common.audit_log import AuditLog, AuditLogError, Entry, Verified, read
from privet.common.audit_log.entries import (
    Approved,
    Charged,
    Found,
    Pending,
    PlanFinished,
    Refused,
    Rehearsed,
    Released,
    Replayed,
    RequestKind,
    Started,
    Stopped,
)
from privet.common.errors import Code
from privet.common.messages import FinishBody, OfferBody, Reply, RequestBody
from privet.common.operator import user
from privet.common.rehearsal import RehearsalReply

LINES_AN_HOUR = 60
"""Of a federation: at the start the whole log is read, and a server may send nonsense for years."""
_WHAT: dict[str, Literal["update", "metrics"]] = {"train": "update", "evaluate": "metrics"}


def audit_path(ledger: Path) -> Path:
    """Where the audit log of the ledger at `ledger` is kept."""
    return ledger.with_suffix(".audit.jsonl")


class SiteAudit:
    """The audit log of one data set, for one federation's agent or for the operator's commands."""

    def __init__(self, ledger: Path, site: str) -> None:
        self.log = AuditLog(audit_path(ledger), role="site", name=site)
        self._turn = threading.Lock()
        self._logged: set[int] | None = None  # events of which a line tells that they were released
        self._stated: set[str] = set()  # digests of statements that this process wrote down
        self._unlogged, self._tokens, self._filled = 0, float(LINES_AN_HOUR), time.monotonic()

    # What leaves

    def answered(self, federation: str, body: RequestBody, reply: Reply, ledger: Ledger) -> None:
        """Write down a reply that is about to be sent.

        Raises: AuditLogError, LedgerError: it must not be sent.
        """
        request, plan = body.kind, reply.body.plan_digest
        round = 0 if isinstance(body, OfferBody | FinishBody) else body.round
        if reply.code is Code.PENDING and isinstance(body, OfferBody):
            self._bounded(lambda unlogged: Pending(federation=federation, plan=plan, unlogged=unlogged))
        elif reply.code is not Code.OK:
            self.refused(request, reply.code, federation=federation, plan=plan, round=round)
        elif isinstance(body, FinishBody):
            self._bounded(lambda unlogged: PlanFinished(federation=federation, plan=plan, unlogged=unlogged))
        elif isinstance(body, OfferBody):
            self._agreed(federation, plan, reply)
        else:
            self._released(federation, reply, _event_of(ledger, plan, round, body.kind))

    def refused(
        self,
        request: RequestKind,
        code: Code,
        *,
        federation: str | None = None,
        plan: str | None = None,
        round: int = 0,
        by_operator: bool = False,
    ) -> None:
        """Raises: AuditLogError."""
        who = user() if by_operator else None
        fields = {"request": request, "code": code, "federation": federation, "plan": plan, "round": round}
        self._bounded(lambda unlogged: Refused.model_validate({**fields, "user": who, "unlogged": unlogged}))

    def rehearsed(self, federation: str, reply: RehearsalReply) -> None:
        """Write down an answer in a rehearsal that is about to be sent. Raises: AuditLogError: it must not be sent."""
        body, num_bytes = reply.body, reply.num_bytes
        self._bounded(
            lambda unlogged: Rehearsed(
                federation=federation, plan=body.plan_digest, round=body.round, code=body.code,
                num_bytes=num_bytes, unlogged=unlogged,
            )
        )  # fmt: skip

    def _agreed(self, federation: str, plan: str, reply: Reply) -> None:
        assert reply.body.statement is not None  # of every yes to an offer
        text = reply.body.statement.model_dump_json().encode()
        digest = hashlib.sha256(text).hexdigest()

        def entry(unlogged: int = 0) -> Released:
            return Released(
                federation=federation, plan=plan, what="statement", round=0, event=0,
                reply_sha256=digest, num_bytes=len(text), unlogged=unlogged,
            )  # fmt: skip

        if digest in self._stated:
            self._bounded(entry)
            return
        self.log.append(entry())
        self._stated.add(digest)

    def _released(self, federation: str, reply: Reply, event: EventRow) -> None:
        """The first time always by a line; again by one while there are not too many."""
        if self._logged is None:
            self._logged = _events_in(self._read())
        num_bytes = reply.num_bytes

        def entry(kind: type[Released], unlogged: int = 0) -> Released:
            return kind(
                federation=federation, plan=event.plan, what=_WHAT[event.kind], round=event.round, event=event.id,
                reply_sha256=str(event.reply_sha256), num_bytes=num_bytes, unlogged=unlogged,
            )  # fmt: skip

        if event.id in self._logged:
            self._bounded(lambda unlogged: entry(Replayed, unlogged))
            return
        self.log.append(entry(Released))
        self._logged.add(event.id)

    # Decisions

    def approved(self, row: PlanRow, *, by: Literal["operator", "first-use"]) -> None:
        """Raises: AuditLogError."""
        admission = row.admission
        self.log.append(
            Approved(
                federation=row.federation, plan=row.digest, by=by, user=user(), epsilon=admission.epsilon,
                delta=admission.delta, rounds=admission.training_rounds, evaluations=admission.num_evaluations,
            )
        )  # fmt: skip

    def charged(self, epsilon: float, delta: float, num_lost: int) -> None:
        """Raises: AuditLogError."""
        self.log.append(Charged(epsilon=epsilon, delta=delta, lost=num_lost, user=user()))

    # The process

    def hold_against(self, ledger: Ledger) -> None:
        """Note it as evidence that the ledger was put back to an older copy where this log tells of what it lacks.

        Lines from before the last charge are settled. Where other evidence waits already, that one is charged first.
        Raises: AuditLogError, LedgerError.
        """
        if ledger.behind():
            return
        found = lost(self._read(), ledger)
        if found is not None:
            ledger.note_log(*found)

    def started(self, ledger: Ledger) -> None:
        """The agent begins: the log so far is verified, and what it lacks of the ledger is written down as found.

        Raises: AuditLogError.
        """
        found = missing(self._read(), ledger)
        for entry in found:
            self.log.append(entry)
        self.log.append(Started(program="client", version=version("privet"), pid=os.getpid(), user=user()))

    def stopped(self, reason: Literal["finished", "signal", "refused", "error", "abandoned"]) -> None:
        """Raises: AuditLogError."""
        self.log.append(Stopped(program="client", pid=os.getpid(), reason=reason))

    # Within

    def _read(self) -> Verified:
        return read(self.log.path) if self.log.path.exists() else Verified([], [])

    def _bounded(self, entry: Callable[[int], Entry]) -> None:
        """Write a line that a server can cause at will, unless there were too many in the last hour."""
        with self._turn:
            now = time.monotonic()
            self._tokens = min(float(LINES_AN_HOUR), self._tokens + (now - self._filled) * LINES_AN_HOUR / 3600)
            self._filled = now
            if self._tokens < 1:
                self._unlogged += 1
                self.log.observe(entry(0))
                return
            self.log.append(entry(self._unlogged))
            self._tokens, self._unlogged = self._tokens - 1, 0


def lost(log: Verified, ledger: Ledger) -> tuple[str, float, float] | None:
    """What the log tells of since the last charge and the ledger does not hold, as after an older copy was put back.

    The hash of the newest such line, and the epsilon and delta of the approvals among them; None where there is none.
    """
    plans = {row.digest for row in ledger.plans() if row.admission.decision == "approved"}
    stored = {(row.plan, row.round, row.reply_sha256) for row in ledger.events() if row.state == "stored"}
    newest, shares = "", dict[str, tuple[float, float]]()
    for line in log.lines:
        entry = line.entry()
        if isinstance(entry, Charged):
            newest, shares = "", {}
        elif isinstance(entry, Approved) and entry.plan not in plans:
            newest, shares[entry.plan] = line.hash, (entry.epsilon, entry.delta)
        elif isinstance(entry, Found) and entry.what == "plan" and entry.plan not in plans:
            newest = line.hash  # of what epsilon is not told
        elif (
            isinstance(entry, Released | Found)
            and entry.event
            and (entry.plan, entry.round, entry.reply_sha256) not in stored
        ):
            newest = line.hash
    if not newest:
        return None
    return (
        newest,
        math.fsum(epsilon for epsilon, _ in shares.values()),
        math.fsum(delta for _, delta in shares.values()),
    )


def missing(log: Verified, ledger: Ledger) -> list[Found]:
    """What the ledger holds and the log has no line of."""
    entries = [line.entry() for line in log.lines]
    plans = {entry.plan for entry in entries if isinstance(entry, Approved)}
    plans |= {entry.plan for entry in entries if isinstance(entry, Found) and entry.what == "plan"}
    events = _events_in(log)
    lacking = [
        Found(plan=row.digest, what="plan")
        for row in ledger.plans()
        if row.admission.decision == "approved" and row.digest not in plans
    ]
    lacking += [
        Found(plan=row.plan, what=_WHAT[row.kind], round=row.round, event=row.id, reply_sha256=row.reply_sha256)
        for row in ledger.events()
        if row.state == "stored" and row.id not in events
    ]
    return lacking


def disagreements(log: Verified, ledger: Ledger) -> list[str]:
    """Where log and ledger do not tell the same, in words; empty where they do."""
    words = [
        f"the ledger's {entry.what} of plan {entry.plan[:16]}"
        + (f", round {entry.round}, event {entry.event}," if entry.event else "")
        + " has no line in the log"
        for entry in missing(log, ledger)
    ]
    stored = {row.id: row for row in ledger.events() if row.state == "stored"}
    for line in log.lines:
        entry = line.entry()
        if not isinstance(entry, Released | Found) or not entry.event:
            continue
        row = stored.get(entry.event)
        same = row is not None and (row.plan, row.round, row.reply_sha256) == (
            entry.plan, entry.round, entry.reply_sha256
        )  # fmt: skip
        if not same:
            words.append(f"line {line.seq}: the ledger holds no such reply as event {entry.event}")
    return words


def _events_in(log: Verified) -> set[int]:
    entries = (line.entry() for line in log.lines)
    return {entry.event for entry in entries if isinstance(entry, Released | Found) and entry.event}


def _event_of(ledger: Ledger, plan: str, round: int, kind: str) -> EventRow:
    """The stored event that a reply with content belongs to.

    Raises: AuditLogError where the ledger knows none.
    """
    for row in ledger.events(plan):
        if (row.round, row.kind, row.state) == (round, kind, "stored"):
            return row
    raise AuditLogError("a reply that the ledger does not hold.", where=f"plan {plan[:16]}, {kind} {round}")
