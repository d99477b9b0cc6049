"""The ledger: reserve, store, replay, refuse; sums never over a limit; errors before training, never after."""

import hashlib
import sqlite3
import stat
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import privet.client.ledger.file as ledger_file
from privet.client.ledger import Ledger, LedgerError, New, Stored, ledger_path
from privet.client.policy import admit
from privet.common.config import Site
from privet.common.errors import Code, InputError, PrivetError, RefusedError
from tests.client.ledger_cases import DATA_ID, NOTHING, make_admission, make_plan, make_site

BODY = hashlib.sha256(b"request").hexdigest()
OTHER = hashlib.sha256(b"another request").hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledgers" / f"{DATA_ID}.sqlite"


def opened(path: Path, *, approved: bool = True) -> tuple[Ledger, str]:
    """An agent's ledger with one plan, and its digest."""
    ledger, plan = Ledger.open(path, agent=True), make_plan()
    if approved:
        ledger.record_plan(plan, make_admission(plan), make_site())
    return ledger, plan.digest


def code_of(ledger: Ledger, digest: str, round: int, body: str = BODY, kind: str = "train") -> Code:
    with pytest.raises(RefusedError) as caught:
        ledger.reserve(digest, round, kind, body)  # type: ignore[arg-type]
    return caught.value.code


def test_ledger_lies_in_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledger_path(DATA_ID) == tmp_path / "privet" / "ledgers" / f"{DATA_ID}.sqlite"


def test_only_its_owner_reads_it(path: Path) -> None:
    ledger, digest = opened(path)
    ledger.reserve(digest, 1, "train", BODY)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) == 6  # database, log, shared memory, head, and the locks of agent and head
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    ledger.close()


def test_commits_are_durable(path: Path) -> None:
    connection, _ = ledger_file.open_file(path, agent=False)
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    assert connection.execute("PRAGMA foreign_keys").fetchone()[0] == 1
    connection.close()


def test_a_round_is_reserved_stored_and_replayed(path: Path) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(reserved, New)
    assert [(event.round, event.state) for event in ledger.events()] == [(1, "reserved")]
    ledger.store(reserved.event_id, b"reply \x00 bytes")
    for _ in range(2):
        assert ledger.reserve(digest, 1, "train", BODY) == Stored(reply=b"reply \x00 bytes")
    ledger.close()
    with Ledger.open(path, agent=True) as again:
        assert again.reserve(digest, 1, "train", BODY) == Stored(reply=b"reply \x00 bytes")
        assert len(again.events()) == 1


def test_a_reservation_is_seen_from_elsewhere_before_it_returns(path: Path) -> None:
    ledger, digest = opened(path)
    ledger.reserve(digest, 2, "train", BODY)
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT plan, round, state FROM events").fetchall() == [(digest, 2, "reserved")]
    other.close()
    ledger.close()


def test_an_altered_request_is_refused(path: Path) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert code_of(ledger, digest, 1, OTHER) is Code.ALTERED_REQUEST  # while the first one is still being trained
    assert isinstance(reserved, New)
    ledger.store(reserved.event_id, b"reply")
    assert code_of(ledger, digest, 1, OTHER) is Code.ALTERED_REQUEST
    assert len(ledger.events()) == 1
    ledger.close()


def test_a_lost_round_is_spent_for_ever(path: Path) -> None:
    ledger, digest = opened(path)
    ledger.reserve(digest, 1, "train", BODY)
    ledger.close()
    with Ledger.open(path, agent=True) as again:
        assert code_of(again, digest, 1) is Code.ROUND_LOST
        assert code_of(again, digest, 1) is Code.ROUND_LOST
        assert [(event.round, event.state) for event in again.events()] == [(1, "reserved")]
        assert isinstance(again.reserve(digest, 2, "train", BODY), New)


def test_the_horizon_ends(path: Path) -> None:
    ledger, digest = opened(path)
    for outside in (0, -1, 5, 2**70):
        assert code_of(ledger, digest, outside) is Code.OUTSIDE_HORIZON
    assert code_of(ledger, digest, 1, kind="evaluate") is Code.OUTSIDE_HORIZON
    for round in (4, 2, 1, 3):  # rounds + spare_rounds = 4, in any order
        assert isinstance(ledger.reserve(digest, round, "train", BODY), New)
    assert code_of(ledger, digest, 5) is Code.OUTSIDE_HORIZON
    assert code_of(ledger, digest, 4, OTHER) is Code.ALTERED_REQUEST  # what exists is judged before the horizon
    assert len(ledger.events()) == 4
    ledger.close()


def test_only_approved_plans_train(path: Path) -> None:
    ledger, digest = opened(path, approved=False)
    plan, site = make_plan(), make_site()
    assert code_of(ledger, digest, 1) is Code.UNKNOWN_PLAN
    for decision, code in (("refused", Code.REFUSED_POLICY), ("pending", Code.PENDING)):
        ledger.record_plan(plan, make_admission(plan, decision=decision, code=code), site)
        assert code_of(ledger, digest, 1) is Code.UNKNOWN_PLAN
        assert ledger.committed("wards") == NOTHING
    row = ledger.approve(digest, make_admission(plan, decision="pending", code=Code.PENDING), site)
    assert row.admission.decision == "approved"
    assert row.approved_at is not None
    assert isinstance(ledger.reserve(digest, 1, "train", BODY), New)
    ledger.close()


def test_a_refusal_cannot_be_approved(path: Path) -> None:
    ledger, digest = opened(path, approved=False)
    plan, site = make_plan(), make_site()
    with pytest.raises(RefusedError, match="does not hold"):
        ledger.approve(digest, make_admission(plan), site)
    refusal = replace(make_admission(plan), decision="refused", code=Code.REFUSED_BUDGET, event=None)
    ledger.record_plan(plan, refusal, site)
    with pytest.raises(RefusedError) as caught:
        ledger.approve(digest, refusal, site)
    assert caught.value.code is Code.REFUSED_BUDGET
    ledger.close()


def test_an_approved_plan_reads_back_and_never_changes(path: Path) -> None:
    ledger, digest = opened(path)
    plan, site = make_plan(), make_site()
    before = ledger.plan(digest)
    assert before is not None
    assert before.plan == plan
    assert before.admission == make_admission(plan)
    ledger.record_plan(plan, make_admission(plan, decision="refused", noise_multiplier=0.5), site)
    ledger.approve(digest, make_admission(plan, noise_multiplier=0.5), site)
    assert ledger.plan(digest) == before
    assert ledger.plans() == [before]
    ledger.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events",
        "DELETE FROM plans",
        "UPDATE plans SET state = 'pending'",
        "UPDATE plans SET noise_multiplier = 0.1",
        "UPDATE events SET round = 2",
        "UPDATE events SET state = 'reserved', reply = NULL, reply_sha256 = NULL, stored_at = NULL",
    ],
)
def test_the_database_refuses_to_forget(path: Path, statement: str) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(reserved, New)
    ledger.store(reserved.event_id, b"reply")
    other = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        other.execute(statement)
    other.close()
    ledger.close()


def test_the_whole_share_counts_from_approval_on(path: Path) -> None:
    ledger, _ = opened(path)
    committed = ledger.committed("wards")
    assert (committed.epsilon, committed.delta, committed.unit) == (3.0, 5e-6, None)
    elsewhere = ledger.committed("branches")
    assert (elsewhere.epsilon, elsewhere.federation_epsilon, elsewhere.federation_delta) == (3.0, 0.0, 0.0)
    ledger.close()


def test_approval_checks_the_limits_again(path: Path) -> None:
    """Two plans judged before either is approved: the second must not pass with what the first took."""
    ledger, _ = opened(path, approved=False)
    first, second, site = make_plan(1), make_plan(2), make_site()
    for plan in (first, second):
        ledger.record_plan(plan, make_admission(plan, decision="pending", code=Code.PENDING), site)
    ledger.approve(first.digest, make_admission(first), site)
    with pytest.raises(RefusedError) as caught:
        ledger.approve(second.digest, make_admission(second), site)
    assert caught.value.code is Code.REFUSED_BUDGET
    assert "federation.wards.epsilon" in str(caught.value)
    with pytest.raises(RefusedError):
        ledger.record_plan(second, make_admission(second), site)
    row = ledger.plan(second.digest)
    assert row is not None
    assert row.admission.decision == "pending"
    assert ledger.committed("wards").epsilon == 3.0
    # What the share leaves is not enough: the data set's budget must hold it too.
    wide = make_site(member={"epsilon": 8.0, "delta": 1e-5})
    ledger.approve(second.digest, make_admission(second, epsilon=5.0, delta=5e-6), wide)
    third = make_plan(3, name="branches")
    with pytest.raises(RefusedError, match="budget"):
        ledger.record_plan(third, make_admission(third, epsilon=0.5, delta=1e-7), make_site(name="branches"))
    assert ledger.committed("wards").epsilon == 8.0
    ledger.close()


def test_the_first_event_fixes_the_kind_of_unit(path: Path) -> None:
    ledger, digest = opened(path)
    plan = make_plan(1)
    wide = make_site(member={"epsilon": 8.0, "delta": 1e-5})
    ledger.record_plan(plan, make_admission(plan, unit="record"), wide)
    assert ledger.committed("wards").unit is None
    ledger.reserve(digest, 1, "train", BODY)
    assert ledger.committed("wards").unit == "unit"
    assert code_of(ledger, plan.digest, 1) is Code.REFUSED_POLICY
    assert len(ledger.events()) == 1
    ledger.close()


def test_a_reply_is_stored_once(path: Path) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(reserved, New)
    with pytest.raises(LedgerError, match="does not wait"):
        ledger.store(reserved.event_id + 1, b"reply")
    ledger.store(reserved.event_id, b"reply")
    with pytest.raises(LedgerError, match="does not wait"):
        ledger.store(reserved.event_id, b"another reply")
    assert ledger.reserve(digest, 1, "train", BODY) == Stored(reply=b"reply")
    ledger.close()


def test_one_agent_at_a_time(path: Path) -> None:
    ledger, digest = opened(path)
    with pytest.raises(LedgerError, match=r"another privet client .* Mend: stop that one") as caught:
        Ledger.open(path, agent=True)
    assert isinstance(caught.value, PrivetError)
    assert caught.value.exit_code == 1
    with Ledger.open(path) as reader:  # an operator looks and approves meanwhile
        assert reader.plan(digest) is not None
        with pytest.raises(LedgerError, match="agent"):
            reader.reserve(digest, 1, "train", BODY)
        with pytest.raises(LedgerError, match="agent"):
            reader.store(1, b"reply")
    ledger.close()
    Ledger.open(path, agent=True).close()


def test_an_approval_elsewhere_is_seen_by_the_running_agent(path: Path) -> None:
    agent, digest = opened(path, approved=False)
    plan, site = make_plan(), make_site()
    agent.record_plan(plan, make_admission(plan, decision="pending", code=Code.PENDING), site)
    with Ledger.open(path) as operator:
        operator.approve(digest, make_admission(plan), site)
    assert isinstance(agent.reserve(digest, 1, "train", BODY), New)
    agent.close()


def test_threads_share_one_ledger(path: Path) -> None:
    ledger, digest = opened(path)
    outcomes: list[object] = []

    def ask() -> None:
        try:
            outcomes.append(ledger.reserve(digest, 1, "train", BODY))
        except RefusedError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, New) for outcome in outcomes) == 1
    assert outcomes.count(Code.ROUND_LOST) == 7
    ledger.close()


def test_many_may_open_a_new_ledger_at_once(path: Path) -> None:
    outcomes: list[object] = []
    start = threading.Barrier(8)

    def open_and_look() -> None:
        start.wait()
        try:
            with Ledger.open(path) as ledger:
                outcomes.append(ledger.plans())
        except LedgerError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=open_and_look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == [[]] * 8


def test_a_full_disk_stops_before_training(path: Path) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(reserved, New)
    pages = ledger._connection.execute("PRAGMA page_count").fetchone()[0]
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerError, match=r"full.* Mend: free space"):
        ledger.store(reserved.event_id, bytes(1_000_000))
    assert [event.state for event in ledger.events()] == ["reserved"]
    ledger.close()


def test_a_locked_file_stops_before_training(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "BUSY_SECONDS", 0.05)
    ledger, digest = opened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LedgerError, match="locked"):
        ledger.reserve(digest, 1, "train", BODY)
    other.execute("ROLLBACK")
    other.close()
    assert ledger.events() == []
    assert isinstance(ledger.reserve(digest, 1, "train", BODY), New)
    ledger.close()


def test_damage_is_found_at_start(path: Path) -> None:
    ledger, digest = opened(path)
    for round in (1, 2, 3):
        reserved = ledger.reserve(digest, round, "train", BODY)
        assert isinstance(reserved, New)
        ledger.store(reserved.event_id, bytes(20_000))
    ledger.close()
    raw = bytearray(path.read_bytes())
    raw[4096 * 2 : 4096 * 4] = b"\x5a" * 8192
    path.write_bytes(raw)
    with pytest.raises(LedgerError, match="do not delete it"):
        Ledger.open(path, agent=True)
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(LedgerError, match="do not delete it"):
        Ledger.open(path)


def test_an_altered_reply_or_plan_is_not_used(path: Path) -> None:
    ledger, digest = opened(path)
    reserved = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(reserved, New)
    ledger.store(reserved.event_id, b"reply")
    other = sqlite3.connect(path)
    other.execute("DROP TRIGGER stored_replies_stay")
    other.execute("UPDATE events SET reply = X'00'")
    other.commit()
    with pytest.raises(LedgerError, match="reply of event 1 was altered"):
        ledger.reserve(digest, 1, "train", BODY)
    other.execute("DROP TRIGGER approved_plans_stay")
    other.execute("UPDATE plans SET plan = replace(plan, 'calm', 'loud')")
    other.commit()
    other.close()
    with pytest.raises(LedgerError, match="was altered"):
        ledger.reserve(digest, 2, "train", BODY)
    ledger.close()


def test_other_files_and_newer_ledgers_are_left_alone(path: Path, tmp_path: Path) -> None:
    opened(path)[0].close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {ledger_file.SCHEMA + 1}")
    connection.close()
    with pytest.raises(LedgerError, match="newer privet"):
        Ledger.open(path)
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE plans (digest TEXT)")
    connection.close()
    with pytest.raises(LedgerError, match="not a privet ledger"):
        Ledger.open(foreign)


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger.open(tmp_path / "file" / "x.sqlite")


def test_a_closed_ledger_cannot_be_used(path: Path) -> None:
    ledger, _ = opened(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError):
        ledger.events()


def test_plans_are_found_by_a_prefix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, digest = opened(path)
    assert ledger.find(digest[:8]).digest == digest
    assert ledger.find(digest.upper()).digest == digest
    for bad in (digest[:7], "", "z" * 8, digest + "0", "%" * 8):
        with pytest.raises(InputError, match="8 to 64 hex digits"):
            ledger.find(bad)
    with pytest.raises(InputError, match="no plan starts with"):
        ledger.find("0" * 64)
    row = ledger.find(digest)
    monkeypatch.setattr(ledger, "plans", lambda: [row, replace(row, digest=digest[:60] + "0000")])
    with pytest.raises(InputError, match="2 plans start with"):
        ledger.find(digest[:8])
    assert ledger.find(digest) == row
    ledger.close()


def _record(ledger: Ledger, seed: int, decision: Any, site: Site | None = None) -> str:
    plan = make_plan(seed)
    admission = make_admission(plan, decision=decision, code=Code.PENDING)
    return ledger.record_plan(plan, admission, site or make_site()).digest


def test_a_new_plan_takes_the_place_of_the_oldest_refused_then_the_oldest_pending_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("privet.client.ledger.rows.MAX_WAITING", 3)
    ledger, approved = opened(path)
    ledger.reserve(approved, 1, "train", BODY)
    first = _record(ledger, 1, "pending")
    second, third = _record(ledger, 2, "refused"), _record(ledger, 3, "refused")
    _record(ledger, 2, "refused")  # known already: nothing has to go
    assert {row.digest for row in ledger.plans()} == {approved, first, second, third}
    fourth = _record(ledger, 4, "pending")
    assert {row.digest for row in ledger.plans()} == {approved, first, third, fourth}
    fifth, sixth = _record(ledger, 5, "pending"), _record(ledger, 6, "pending")
    assert {row.digest for row in ledger.plans()} == {approved, fourth, fifth, sixth}
    assert [event.plan for event in ledger.events()] == [approved]
    ledger.close()


def test_the_invited_plan_is_the_last_to_make_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privet.client.ledger.rows.MAX_WAITING", 2)
    ledger, _ = opened(path, approved=False)
    site = make_site(member={"plan": make_plan(1).digest})
    invited = _record(ledger, 1, "refused", site)
    _record(ledger, 2, "pending", site)
    newest = _record(ledger, 3, "pending", site)
    assert {row.digest for row in ledger.plans()} == {invited, newest}
    ledger.close()


def test_the_texts_of_waiting_plans_are_bounded_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(make_plan().canonical().encode())
    monkeypatch.setattr("privet.client.ledger.rows.MAX_WAITING_BYTES", 2 * size + size // 2)
    ledger, approved = opened(path)
    digests = [_record(ledger, seed, "pending") for seed in (1, 2, 3)]
    assert {row.digest for row in ledger.plans()} == {approved, *digests[1:]}
    ledger.close()


def test_a_hundred_junk_offers_do_not_lock_the_ledger(path: Path) -> None:
    ledger, _ = opened(path, approved=False)
    for seed in range(1, 102):
        _record(ledger, seed, "refused")
    assert len(ledger.plans()) == 100
    plan = make_plan()
    _record(ledger, 0, "pending")
    ledger.approve(plan.digest, make_admission(plan), make_site())
    assert isinstance(ledger.reserve(plan.digest, 1, "train", BODY), New)
    ledger.close()


def test_a_refused_plan_of_a_federation_that_the_site_does_not_name_is_not_stored(path: Path) -> None:
    ledger, _ = opened(path, approved=False)
    plan, site = make_plan(), make_site(name="branches")
    row = ledger.record_plan(plan, admit(plan, site, NOTHING), site)
    assert row.admission.code is Code.REFUSED_POLICY
    assert (row.digest, row.plan) == (plan.digest, plan)
    assert ledger.plans() == []
    ledger.close()


def test_only_what_was_approved_or_trained_is_kept_by_force(path: Path) -> None:
    ledger, approved = opened(path)
    pending, stray = _record(ledger, 1, "pending"), _record(ledger, 2, "pending")
    other = sqlite3.connect(path)
    other.execute("DELETE FROM plans WHERE digest = ?", (pending,))
    other.execute(
        "INSERT INTO events (plan, round, kind, request_sha256, state, reserved_at)"
        " VALUES (?, 1, 'train', ?, 'reserved', '')",
        (stray, BODY),
    )
    for kept in (approved, stray):
        with pytest.raises(sqlite3.IntegrityError, match="never"):
            other.execute("DELETE FROM plans WHERE digest = ?", (kept,))
    other.close()
    ledger.close()


def test_summary_counts_lost_rounds_and_whole_shares(path: Path) -> None:
    from privet.common.privacy.accountant import epsilon

    ledger, digest = opened(path)
    site, event = make_site(), make_admission(make_plan()).event
    assert event is not None
    empty = ledger.summary(site)
    assert (empty.spent_epsilon, empty.num_events) == (0.0, 0)
    assert (empty.reserved_epsilon, empty.reserved_delta) == (3.0, 5e-6)
    assert (empty.left_epsilon, empty.left_delta) == (5.0, 5e-6)
    first = ledger.reserve(digest, 1, "train", BODY)
    assert isinstance(first, New)
    ledger.store(first.event_id, b"reply")
    ledger.reserve(digest, 2, "train", BODY)  # lost
    after = ledger.summary(site)
    assert after.num_events == 2
    assert after.spent_epsilon == epsilon([event, event], site.budget.delta) > 0
    assert (after.reserved_epsilon, after.left_epsilon) == (3.0, 5.0)
    ledger.close()
