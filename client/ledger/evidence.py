"""A ledger that fell behind: put back to an older copy, or lost. What shows it is noted, and charged by the operator.

Evidence is a head (`head`) that this ledger's chain does not hold: from a server, or from the head file; or the
head file's absence; or lines of the audit log about what this ledger does not hold. While any is unsettled nothing is
reserved or approved.

**Why a charge is never too small.** The histories of one data set form a tree, parted where an older copy was put
back. Let known(n) be the sums at entry n, and call what lies on the way to n, and to all evidence noted on that way,
what n *knows*. Claim: known(n) is at least the sum of the shares of all approvals that n knows, each counted once, and
for an ancestor m of n, known(n) − known(m) at least that of those that n knows and m does not. An approval adds its
share to both sides. Evidence e, noted at n, adds known(e) − known(m) for some m that both know, m an ancestor of e; by
the claim for (m, e) that is at least what e knows and m does not, hence at least what e knows and n does not. A later
head of the same lost history has the first one's newest mark among its ancestors, so that m is that mark, and only what
was approved since is added; where m is not found among the few marks that a head lists, an older one is taken, or none
at all (known = 0): too much is charged then, never too little. Approvals of which no head came back cannot be known.
Several pieces of evidence are noted one after the other, each against all that was noted before it.

A charge counts against the data set's budget and against the share of every federation (`rows`): a head
tells what was committed in all, and not by whom.

Rounds: a charge closes every round and evaluation of every approved plan, so it does not matter which of them the lost
histories held. A plan's server shows its newest head before it asks for a round, so no round of a plan is run here
between the fork and the evidence; a server that withholds its head while ledger, head file and audit log are all put
back is not found out. A head whose newest mark is known and that parted before a charge needs no other one.
"""

import json
import math
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from privet.client.ledger import chain
from privet.client.ledger.head import Head, short
from privet.common.errors import Code, RefusedError

Source = Literal["server", "file", "missing"]
_MARGIN = 1e-12  # of a sum: far above its rounding, far below any share
MEND = "run `privet ledger SITE.toml --charge-all`, which counts all that may have been forgotten as spent."


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Something that shows that the ledger fell behind. Settled once a charge covers it."""

    source: Source
    seq: int  # of the head; 0 for a missing head file, and for the audit log (source "file")
    epsilon: float  # what the head knew to be committed
    delta: float
    charge_epsilon: float  # what it adds to what this ledger knew
    charge_delta: float
    noted_at: str

    def __str__(self) -> str:
        if self.source == "missing":
            return "The head file is missing or damaged: whether this ledger is the newest cannot be told."
        if not self.seq:
            return (
                "The audit log tells of replies or approvals that this ledger does not hold: epsilon "
                f"{self.epsilon:.6g}, delta {self.delta:.3g} were committed beyond it."
            )
        whence = "A server holds" if self.source == "server" else "The head file holds"
        return (
            f"{whence} entry {self.seq} of this ledger's chain, which it does not have; there epsilon "
            f"{self.epsilon:.6g}, delta {self.delta:.3g} were committed."
        )


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What was counted as spent because the ledger had fallen behind."""

    epsilon: float
    delta: float
    num_lost: int  # rounds and evaluations closed
    evidence: tuple[Evidence, ...]
    charged_at: str


def unsettled(db: sqlite3.Connection) -> list[Evidence]:
    """The evidence that no charge covers, the oldest first."""
    rows = db.execute("SELECT * FROM evidence WHERE charge IS NULL ORDER BY id")
    return [Evidence(**{name: row[name] for name in Evidence.__dataclass_fields__}) for row in rows]


def allow(db: sqlite3.Connection, where: str) -> None:
    """Raises: RefusedError with LEDGER_BEHIND while evidence is unsettled."""
    evidence = unsettled(db)
    if evidence:
        what = f"the ledger is older than it was. {evidence[0]}"
        raise RefusedError(Code.LEDGER_BEHIND, what, where=where, mend=MEND)


def holds(db: sqlite3.Connection, head: Head) -> bool:
    """Whether nothing that `head` knows is missing here: its entry is in the chain, or a charge covers it."""
    entry = chain.entry(db, head.seq) if head.seq < 2**63 else None
    if entry is not None and entry.hash == head.hash:
        return True
    found = db.execute("SELECT MAX(charge) FROM evidence WHERE hash = ?", (head.hash,)).fetchone()[0]
    if found is not None:
        return True
    if not head.marks:
        return False
    # The newest mark is known, so every approval is; and what it trained since is closed if a charge followed the fork.
    own = [mark.seq for mark in chain.marks(db) if short(mark.hash) == head.marks[0]]
    if own:
        return bool(db.execute("SELECT 1 FROM charges WHERE entry > ?", (own[0],)).fetchone())
    settled = db.execute("SELECT marks FROM evidence WHERE charge IS NOT NULL AND source <> 'missing'")
    return any(json.loads(row[0])[:1] == [head.marks[0]] for row in settled)


def note(db: sqlite3.Connection, source: Source, head: Head | None) -> None:
    """Write evidence down, once; `head` is None for a missing head file."""
    head = head or Head(0, "", 0.0, 0.0)
    if db.execute("SELECT 1 FROM evidence WHERE hash = ? AND charge IS NULL", (head.hash,)).fetchone():
        return
    epsilon, delta = _shared(db, head)
    _insert(db, source, head, _less(head.epsilon, epsilon), _less(head.delta, delta))


def _insert(db: sqlite3.Connection, source: Source, head: Head, charge_epsilon: float, charge_delta: float) -> None:
    (latest,) = db.execute("SELECT COALESCE(MAX(id), 0) FROM evidence").fetchone()
    values: dict[str, Any] = {
        "id": latest + 1,
        "source": source,
        "seq": min(head.seq, 2**63 - 1),
        "hash": head.hash,
        "epsilon": head.epsilon,
        "delta": head.delta,
        "marks": chain.canonical(head.marks),
        "charge_epsilon": charge_epsilon,
        "charge_delta": charge_delta,
        "noted_at": chain.now(),
        "entry": chain.length(db) + 1,
    }
    db.execute(
        f"INSERT INTO evidence ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})", tuple(values.values())
    )
    row = db.execute("SELECT * FROM evidence WHERE id = ?", (values["id"],)).fetchone()
    chain.append(db, {**chain.evidence_body(row), "known": list(chain.known_sums(db))})


def note_log(db: sqlite3.Connection, digest: str, epsilon: float, delta: float) -> None:
    """Write down, once, that the audit log tells of what this ledger lacks.

    digest: of the newest such line. epsilon, delta: of the approvals among them. They are charged whole, whatever other
    evidence tells of the same: too much then, never too little. It lists no marks, so no head is reckoned from it.
    """
    if db.execute("SELECT 1 FROM evidence WHERE hash = ? AND charge IS NULL", (digest,)).fetchone():
        return
    _insert(db, "file", Head(0, digest, epsilon, delta), _less(epsilon, 0.0), _less(delta, 0.0))


def charge(db: sqlite3.Connection) -> Charge | None:
    """Settle all evidence; None where there is none."""
    evidence = unsettled(db)
    if not evidence:
        return None
    time = chain.now()
    lost = _close(db, time)
    epsilon = math.fsum(one.charge_epsilon for one in evidence)
    delta = math.fsum(one.charge_delta for one in evidence)
    (latest,) = db.execute("SELECT COALESCE(MAX(id), 0) FROM charges").fetchone()
    number, entry, num_lost = latest + 1, chain.length(db) + 1, sum(last - first + 1 for _, _, first, last in lost)
    db.execute(
        "INSERT INTO charges (id, epsilon, delta, num_lost, charged_at, entry) VALUES (?, ?, ?, ?, ?, ?)",
        (number, epsilon, delta, num_lost, time, entry),
    )
    settled = [row[0] for row in db.execute("SELECT id FROM evidence WHERE charge IS NULL ORDER BY id")]
    db.execute("UPDATE evidence SET charge = ? WHERE charge IS NULL", (number,))
    body = {"entry": "charge", "time": time, "id": number, "epsilon": epsilon, "delta": delta}
    chain.append(db, {**body, "evidence": settled, "lost": lost, "known": list(chain.known_sums(db))})
    return Charge(epsilon=epsilon, delta=delta, num_lost=num_lost, evidence=tuple(evidence), charged_at=time)


def _close(db: sqlite3.Connection, time: str) -> list[list[Any]]:
    """Mark every event that approved plans still have as lost; [plan, kind, first round, last round] of each run."""
    lost: list[list[Any]] = []
    plans = "SELECT digest, horizon * (1 - evaluate_only), num_evaluations FROM plans WHERE state = 'approved'"
    plans += " ORDER BY entry"
    for digest, horizon, num_evaluations in db.execute(plans).fetchall():
        for kind, last in (("train", horizon), ("evaluate", num_evaluations)):
            had = {row[0] for row in db.execute("SELECT round FROM events WHERE plan = ? AND kind = ?", (digest, kind))}
            rounds = [round for round in range(1, last + 1) if round not in had]
            db.executemany(
                "INSERT INTO events (plan, round, kind, request_sha256, state, reserved_at)"
                " VALUES (?, ?, ?, '', 'lost', ?)",
                [(digest, round, kind, time) for round in rounds],
            )
            for round in rounds:
                if lost and lost[-1][:2] == [digest, kind] and lost[-1][3] == round - 1:
                    lost[-1][3] = round
                else:
                    lost.append([digest, kind, round, round])
    return lost


def _shared(db: sqlite3.Connection, head: Head) -> tuple[float, float]:
    """The sums at the newest mark that both `head` and this ledger know, as far as can be told; 0 for none."""
    listed = set(head.marks)
    shared = [tuple(mark.body["known"]) for mark in chain.marks(db) if short(mark.hash) in listed]
    for row in db.execute("SELECT marks, epsilon, delta FROM evidence WHERE source <> 'missing'"):
        if listed.intersection(json.loads(row["marks"])[:1]):
            shared.append((row["epsilon"], row["delta"]))
    return max(shared, default=(0.0, 0.0))


def _less(sum: float, part: float) -> float:
    """`sum` − `part` where that is positive, with a margin for the rounding of all sums on the way; else 0."""
    return sum - part + _MARGIN * sum if sum > part else 0.0
