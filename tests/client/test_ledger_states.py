"""The ledger against a model under any order of judgements, approvals, requests, replies and crashes."""

import hashlib
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from privet.client.ledger import Ledger, New, Stored
from privet.client.policy import Admission, admit
from privet.common.config import Site
from privet.common.errors import Code, RefusedError
from privet.common.privacy import calibration
from tests.client.ledger_cases import DATA_ID, make_plan, make_site

PLANS = [make_plan(0), make_plan(1), make_plan(2), make_plan(3, name="branches"), make_plan(4, name="branches")]
BODIES = [hashlib.sha256(name).hexdigest() for name in (b"one", b"two")]
BUDGET = {"epsilon": 8.0, "delta": 1e-5}

which = st.sampled_from(range(len(PLANS)))


class LedgerStates(RuleBasedStateMachine):
    """Truth is kept beside the ledger: what was approved with which share, what was trained, what was answered."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(calibration, "noise_multiplier", lambda **_: 1.0)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / f"{DATA_ID}.sqlite"
        self.ledger = Ledger.open(self.path, agent=True)
        self.share = {"epsilon": 1.5, "delta": 3e-6}
        self.judged: dict[int, Admission] = {}
        self.approved: dict[int, Admission] = {}
        self.trained: dict[tuple[int, int], str] = {}
        self.replies: dict[tuple[int, int], bytes] = {}
        self.open_events: dict[tuple[int, int], int] = {}

    def teardown(self) -> None:
        self.ledger.close()
        self.folder.cleanup()
        self.patch.undo()

    def site(self, i: int, approve: str = "ask") -> Site:
        return make_site(name=PLANS[i].name, budget=BUDGET, member=self.share, policy={"approve": approve})

    @initialize(i=which)
    def first(self, i: int) -> None:
        self.arrives(i, "first-use")

    @rule(i=which, approve=st.sampled_from(["ask", "first-use"]))
    def arrives(self, i: int, approve: str) -> None:
        site = self.site(i, approve)
        admission = admit(PLANS[i], site, self.ledger.committed(PLANS[i].name))
        row = self.ledger.record_plan(PLANS[i], admission, site)
        if i in self.approved:
            assert row.admission == self.approved[i]
            return
        self.judged[i] = admission
        if admission.decision == "approved":
            self.approved[i] = row.admission

    @rule(i=which)
    def operator_approves_an_old_judgement(self, i: int) -> None:
        """The judgement may be stale: other plans took their shares since."""
        if i not in self.judged:
            return
        try:
            row = self.ledger.approve(PLANS[i].digest, self.judged[i], self.site(i))
        except RefusedError:
            return
        self.approved.setdefault(i, row.admission)
        assert row.admission == self.approved[i]

    @rule(factor=st.sampled_from([1.0, 1.1, 2.0, 3.0]))
    def operator_raises_the_share(self, factor: float) -> None:
        self.share = {key: min(BUDGET[key], value * factor) for key, value in self.share.items()}

    @rule(i=which, round=st.integers(0, 6), body=st.sampled_from(BODIES))
    def request(self, i: int, round: int, body: str) -> None:
        key, digest = (i, round), PLANS[i].digest
        answer: New | Stored | Code
        try:
            answer = self.ledger.reserve(digest, round, "train", body)
        except RefusedError as error:
            answer = error.code
        if i not in self.approved:
            assert answer is Code.UNKNOWN_PLAN
        elif key in self.trained and self.trained[key] != body:
            assert answer is Code.ALTERED_REQUEST
        elif key in self.replies:
            assert answer == Stored(reply=self.replies[key])
        elif key in self.trained:
            assert answer is Code.ROUND_LOST
        elif not 1 <= round <= 4:
            assert answer is Code.OUTSIDE_HORIZON
        else:
            assert isinstance(answer, New)
            self.trained[key] = body
            self.open_events[key] = answer.event_id

    @precondition(lambda self: self.open_events)
    @rule(data=st.data(), reply=st.binary(max_size=64))
    def reply(self, data: st.DataObject, reply: bytes) -> None:
        key = data.draw(st.sampled_from(sorted(self.open_events)))
        self.ledger.store(self.open_events.pop(key), reply)
        self.replies[key] = reply

    @rule()
    def restart(self) -> None:
        self.ledger.close()
        self.open_events.clear()
        self.ledger = Ledger.open(self.path, agent=True)

    @invariant()
    def nothing_over_a_limit(self) -> None:
        rows = {row.digest: row.admission for row in self.ledger.plans() if row.admission.decision == "approved"}
        assert rows == {PLANS[i].digest: admission for i, admission in self.approved.items()}
        assert math.fsum(admission.epsilon for admission in rows.values()) <= BUDGET["epsilon"]
        assert math.fsum(admission.delta for admission in rows.values()) <= BUDGET["delta"]
        for name in ("wards", "branches"):
            committed = self.ledger.committed(name)
            assert committed.federation_epsilon <= self.share["epsilon"]
            assert committed.federation_delta <= self.share["delta"]

    @invariant()
    def events_are_what_was_trained(self) -> None:
        digests = {PLANS[i].digest: i for i in range(len(PLANS))}
        events = self.ledger.events()
        assert {(digests[event.plan], event.round): event.request_sha256 for event in events} == self.trained
        assert len(events) == len(self.trained)
        assert {(digests[e.plan], e.round) for e in events if e.state == "stored"} == set(self.replies)
        for digest in digests:
            assert len(self.ledger.events(digest)) <= 4


TestLedgerStates = LedgerStates.TestCase
TestLedgerStates.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
