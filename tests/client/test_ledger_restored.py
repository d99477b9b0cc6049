"""Whatever is restored and whoever is met: once it is charged, what is committed is at least what was ever approved."""

import contextlib
import hashlib
import math
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from privet.client.ledger import Ledger, New
from privet.client.ledger.head import Head, seal, unseal
from privet.common.errors import Code, RefusedError
from tests.client.ledger_cases import DATA_ID, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
LARGE = {"epsilon": 1000.0, "delta": 1e-4}
SITE = make_site(budget=LARGE, member=LARGE)
PLANS = [make_plan(seed) for seed in range(4)]
SHARES = [1.0, 0.3, 0.7, 2.1]

Lineage = frozenset[int]  # approvals, by number, that a history knows of
servers = st.integers(0, 1)


class Restored(RuleBasedStateMachine):
    """The truth beside the ledger: every approval that ever was, which of them the present ledger, each server's head
    and each copy know of, and every round that ran, with the approval it ran under."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "now" / f"{DATA_ID}.sqlite"
        self.ledger = Ledger.open(self.path, agent=True)
        self.shares: list[float] = []  # of every approval, by number
        self.lineage: Lineage = frozenset()
        self.approved: dict[int, int] = {}  # plan -> the approval that this ledger holds
        self.ran: set[tuple[int, int]] = set()  # (approval, round), in any history
        self.heads: dict[int, tuple[Head, Lineage]] = {}
        self.copies: list[tuple[Path, Lineage, dict[int, int]]] = []

    def teardown(self) -> None:
        try:
            for number in (0, 1):
                self.meets(number)
                self.charge()
            self.meets(0)
            assert self.ledger.behind() == []
            known = self.lineage.union(*(lineage for _, lineage in self.heads.values()))
            assert self.ledger.committed("wards").epsilon >= math.fsum(self.shares[number] for number in known)
            assert self.ledger.verify()
        finally:
            self.ledger.close()
            shutil.rmtree(self.folder)

    @initialize(held=st.integers(0, 1))
    def first(self, held: int) -> None:
        """A copy, with a plan in it or none."""
        if held:
            self.approve(0, 0)
        self.back_up()
        self.approve(1, 0)
        self.train(1, 1)

    @rule(i=st.integers(0, 3), number=servers)
    def approve(self, i: int, number: int) -> None:
        """On a server's offer: it gives its head back before, and sees the new one after."""
        if self.meets(number) and i not in self.approved:
            share = SHARES[i] * (1 + len(self.shares) / 7)
            self.ledger.record_plan(PLANS[i], make_admission(PLANS[i], epsilon=share, delta=share * 1e-8), SITE)
            self.approved[i] = len(self.shares)
            self.lineage |= {len(self.shares)}
            self.shares.append(share)
            self.meets(number)

    @rule(i=st.integers(0, 3), round=st.integers(1, 2))
    def train(self, i: int, round: int) -> None:
        """Plans 0 and 1 are the first server's, 2 and 3 the second's: no round runs twice under one approval."""
        if not self.meets(i // 2) or i not in self.approved:
            return
        states = {event.round: event.state for event in self.ledger.events(PLANS[i].digest)}
        if states.get(round) == "lost":
            with pytest.raises(RefusedError) as caught:
                self.ledger.reserve(PLANS[i].digest, round, "train", BODY)
            assert caught.value.code is Code.ROUND_LOST
            return
        reserved = self.ledger.reserve(PLANS[i].digest, round, "train", BODY)
        if isinstance(reserved, New):
            assert (self.approved[i], round) not in self.ran
            self.ran.add((self.approved[i], round))
            self.ledger.store(reserved.event_id, b"reply")
        self.meets(i // 2)

    @rule()
    def charge(self) -> None:
        self.ledger.charge_all()
        assert self.ledger.behind() == []

    @precondition(lambda self: len(self.copies) < 3)
    @rule()
    def back_up(self) -> None:
        self.ledger.close()
        folder = self.folder / f"copy{len(self.copies)}"
        shutil.copytree(self.path.parent, folder)
        self.copies.append((folder, self.lineage, dict(self.approved)))
        self.ledger = Ledger.open(self.path, agent=True)

    @rule(which=st.integers(0, 2), head=st.sampled_from(["copied", "copied", "kept", "removed"]))
    def restore(self, which: int, head: str) -> None:
        before = self.lineage
        self.ledger.close()
        folder, self.lineage, approved = self.copies[which % len(self.copies)]
        self.approved = dict(approved)
        for suffix in (".sqlite", ".head") if head == "copied" else (".sqlite",):
            shutil.copy(folder / self.path.with_suffix(suffix).name, self.path.with_suffix(suffix))
        if head == "removed":
            self.path.with_suffix(".head").unlink()
        self.ledger = Ledger.open(self.path, agent=True)
        if head == "kept":  # the head file, or what it and the servers say together, tells all that was known
            self.lineage |= before
        assert head != "removed" or self.ledger.behind()

    def meets(self, number: int) -> bool:
        """A server connects: it shows the head it has; the reply carries the ledger's own. Whether it may go on."""
        if number in self.heads:
            head, lineage = self.heads[number]
            with contextlib.suppress(RefusedError):
                self.ledger.meet(unseal(seal(head, DATA_ID), DATA_ID))
            self.lineage |= lineage  # known from now on, and charged
        self.heads[number] = (self.ledger.head(), self.lineage)
        return not self.ledger.behind()


TestRestored = Restored.TestCase
TestRestored.settings = settings(
    max_examples=25, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
